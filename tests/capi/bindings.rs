//! Made from include/probeprune.h by tools/capi/bindings.sh.
#![allow(
    dead_code,
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    unreachable_pub,
    reason = "as in C"
)]

pub const PROBEPRUNE_ABI_VERSION: u32 = 1;
pub const PROBEPRUNE_DENSE_BELOW_AUTO: u32 = 4294967295;
pub const DLDeviceType_kDLCPU: DLDeviceType = 1;
pub const DLDeviceType_kDLCUDA: DLDeviceType = 2;
pub const DLDeviceType_kDLCUDAHost: DLDeviceType = 3;
pub const DLDeviceType_kDLCUDAManaged: DLDeviceType = 13;
pub type DLDeviceType = ::std::os::raw::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct DLDevice {
    pub device_type: DLDeviceType,
    pub device_id: i32,
}
pub const DLDataTypeCode_kDLInt: DLDataTypeCode = 0;
pub const DLDataTypeCode_kDLUInt: DLDataTypeCode = 1;
pub const DLDataTypeCode_kDLFloat: DLDataTypeCode = 2;
pub const DLDataTypeCode_kDLBfloat: DLDataTypeCode = 4;
pub type DLDataTypeCode = ::std::os::raw::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct DLDataType {
    pub code: u8,
    pub bits: u8,
    pub lanes: u16,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct DLTensor {
    pub data: *mut ::std::os::raw::c_void,
    pub device: DLDevice,
    pub ndim: i32,
    pub dtype: DLDataType,
    pub shape: *mut i64,
    pub strides: *mut i64,
    pub byte_offset: u64,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct DLPackVersion {
    pub major: u32,
    pub minor: u32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct DLManagedTensorVersioned {
    pub version: DLPackVersion,
    pub manager_ctx: *mut ::std::os::raw::c_void,
    pub deleter: ::std::option::Option<unsafe extern "C" fn(self_: *mut DLManagedTensorVersioned)>,
    pub flags: u64,
    pub dl_tensor: DLTensor,
}
pub type probeprune_status = i32;
pub const PROBEPRUNE_OK: _bindgen_ty_1 = 0;
pub const PROBEPRUNE_INVALID_ARGUMENT: _bindgen_ty_1 = 1;
pub const PROBEPRUNE_INVALID_STRUCT: _bindgen_ty_1 = 2;
pub const PROBEPRUNE_INVALID_TENSOR: _bindgen_ty_1 = 3;
pub const PROBEPRUNE_FILE: _bindgen_ty_1 = 4;
pub const PROBEPRUNE_DEVICE: _bindgen_ty_1 = 5;
pub const PROBEPRUNE_OUT_OF_MEMORY: _bindgen_ty_1 = 6;
pub const PROBEPRUNE_NOT_FINITE: _bindgen_ty_1 = 7;
pub const PROBEPRUNE_CANCELLED: _bindgen_ty_1 = 8;
pub const PROBEPRUNE_BUSY: _bindgen_ty_1 = 9;
pub const PROBEPRUNE_POISONED: _bindgen_ty_1 = 10;
pub const PROBEPRUNE_PANIC: _bindgen_ty_1 = 11;
pub const PROBEPRUNE_TOO_SMALL: _bindgen_ty_1 = 12;
pub type _bindgen_ty_1 = ::std::os::raw::c_uint;
unsafe extern "C" {
    pub fn probeprune_last_error() -> *const ::std::os::raw::c_char;
}
unsafe extern "C" {
    pub fn probeprune_status_name(status: probeprune_status) -> *const ::std::os::raw::c_char;
}
unsafe extern "C" {
    pub fn probeprune_abi_version() -> u32;
}
unsafe extern "C" {
    pub fn probeprune_build_info() -> *const ::std::os::raw::c_char;
}
unsafe extern "C" {
    pub fn probeprune_has_cuda() -> i32;
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_model {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_calibration {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_session {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_tokenizer {
    _unused: [u8; 0],
}
pub type probeprune_progress = ::std::option::Option<
    unsafe extern "C-unwind" fn(user: *mut ::std::os::raw::c_void, done: u64, of: u64) -> i32,
>;
pub type probeprune_token = ::std::option::Option<
    unsafe extern "C-unwind" fn(user: *mut ::std::os::raw::c_void, sample: u64, token: u32) -> i32,
>;
pub const PROBEPRUNE_DTYPE_AUTO: _bindgen_ty_2 = 0;
pub const PROBEPRUNE_DTYPE_BF16: _bindgen_ty_2 = 1;
pub const PROBEPRUNE_DTYPE_F16: _bindgen_ty_2 = 2;
pub const PROBEPRUNE_DTYPE_F32: _bindgen_ty_2 = 3;
pub type _bindgen_ty_2 = ::std::os::raw::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_model_options {
    pub struct_size: u32,
    pub device_type: i32,
    pub device_id: i32,
    pub threads: u32,
    pub dtype: i32,
    pub read_weights: i32,
    pub use_stream: i32,
    pub reserved: u32,
    pub stream: *mut ::std::os::raw::c_void,
    pub progress: probeprune_progress,
    pub user: *mut ::std::os::raw::c_void,
    pub channel_order: *const probeprune_calibration,
}
unsafe extern "C" {
    pub fn probeprune_model_options_init(
        options: *mut probeprune_model_options,
        struct_size: u32,
    ) -> probeprune_status;
}
pub const PROBEPRUNE_FAMILY_LLAMA: _bindgen_ty_3 = 0;
pub const PROBEPRUNE_FAMILY_OPT: _bindgen_ty_3 = 1;
pub type _bindgen_ty_3 = ::std::os::raw::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_model_info {
    pub struct_size: u32,
    pub family: i32,
    pub vocab_size: u64,
    pub hidden_size: u64,
    pub intermediate_size: u64,
    pub num_hidden_layers: u64,
    pub num_attention_heads: u64,
    pub num_key_value_heads: u64,
    pub head_dim: u64,
    pub max_position_embeddings: u64,
    pub file_bytes: u64,
}
unsafe extern "C" {
    pub fn probeprune_model_info_init(
        info: *mut probeprune_model_info,
        struct_size: u32,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_model_inspect(
        model: *const ::std::os::raw::c_char,
        info: *mut probeprune_model_info,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_model_load(
        model: *const ::std::os::raw::c_char,
        options: *const probeprune_model_options,
        out: *mut *mut probeprune_model,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_model_free(model: *mut probeprune_model);
}
unsafe extern "C" {
    pub fn probeprune_model_get_info(
        model: *const probeprune_model,
        info: *mut probeprune_model_info,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_model_fingerprint(
        model: *const probeprune_model,
        out: *mut *const ::std::os::raw::c_char,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_model_eos_tokens(
        model: *const probeprune_model,
        out: *mut u32,
        capacity: usize,
        count: *mut usize,
    ) -> probeprune_status;
}
pub const PROBEPRUNE_METHOD_NONE: _bindgen_ty_4 = 0;
pub const PROBEPRUNE_METHOD_PP: _bindgen_ty_4 = 1;
pub const PROBEPRUNE_METHOD_FULL_BATCH: _bindgen_ty_4 = 2;
pub const PROBEPRUNE_METHOD_WANDA_SP: _bindgen_ty_4 = 3;
pub const PROBEPRUNE_METHOD_FLAP: _bindgen_ty_4 = 4;
pub const PROBEPRUNE_METHOD_MAGNITUDE: _bindgen_ty_4 = 5;
pub const PROBEPRUNE_METHOD_RANDOM: _bindgen_ty_4 = 6;
pub const PROBEPRUNE_METHOD_FOLD: _bindgen_ty_4 = 7;
pub type _bindgen_ty_4 = ::std::os::raw::c_uint;
pub const PROBEPRUNE_METRIC_PPSP: _bindgen_ty_5 = 0;
pub const PROBEPRUNE_METRIC_WANDA_SP: _bindgen_ty_5 = 1;
pub const PROBEPRUNE_METRIC_FLAP: _bindgen_ty_5 = 2;
pub type _bindgen_ty_5 = ::std::os::raw::c_uint;
pub const PROBEPRUNE_ORDER_TOKENS_SAMPLES: _bindgen_ty_6 = 0;
pub const PROBEPRUNE_ORDER_SAMPLES_TOKENS: _bindgen_ty_6 = 1;
pub const PROBEPRUNE_ORDER_TOKENS: _bindgen_ty_6 = 2;
pub const PROBEPRUNE_ORDER_SAMPLES: _bindgen_ty_6 = 3;
pub type _bindgen_ty_6 = ::std::os::raw::c_uint;
pub const PROBEPRUNE_PROBE_TOKENS_AUTO: _bindgen_ty_7 = -1;
pub type _bindgen_ty_7 = ::std::os::raw::c_int;
pub const PROBEPRUNE_HISTORY_F32: _bindgen_ty_8 = 0;
pub const PROBEPRUNE_HISTORY_F16: _bindgen_ty_8 = 1;
pub type _bindgen_ty_8 = ::std::os::raw::c_uint;
pub const PROBEPRUNE_FOLD_PIVOT: _bindgen_ty_9 = 0;
pub const PROBEPRUNE_FOLD_SCORE: _bindgen_ty_9 = 1;
pub type _bindgen_ty_9 = ::std::os::raw::c_uint;
pub const PROBEPRUNE_ALLOCATION_UNIFORM: _bindgen_ty_10 = 0;
pub const PROBEPRUNE_ALLOCATION_MEASURED: _bindgen_ty_10 = 1;
pub type _bindgen_ty_10 = ::std::os::raw::c_uint;
pub const PROBEPRUNE_ADAPT_NONE: _bindgen_ty_11 = 0;
pub const PROBEPRUNE_ADAPT_PROBE: _bindgen_ty_11 = 1;
pub type _bindgen_ty_11 = ::std::os::raw::c_uint;
pub const PROBEPRUNE_ADAPT_METRIC_DIAGONAL: _bindgen_ty_12 = 0;
pub const PROBEPRUNE_ADAPT_METRIC_FULL: _bindgen_ty_12 = 1;
pub type _bindgen_ty_12 = ::std::os::raw::c_uint;
pub const PROBEPRUNE_PREFILL_PRUNED: _bindgen_ty_13 = 0;
pub const PROBEPRUNE_PREFILL_DENSE: _bindgen_ty_13 = 1;
pub type _bindgen_ty_13 = ::std::os::raw::c_uint;
pub const PROBEPRUNE_COMPENSATE_NONE: _bindgen_ty_14 = 0;
pub const PROBEPRUNE_COMPENSATE_PROBE_MEAN: _bindgen_ty_14 = 1;
pub const PROBEPRUNE_COMPENSATE_LINEAR: _bindgen_ty_14 = 2;
pub type _bindgen_ty_14 = ::std::os::raw::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_settings {
    pub struct_size: u32,
    pub method: i32,
    pub metric: i32,
    pub probe_order: i32,
    pub prune_ratio: f64,
    pub probe_tokens: f64,
    pub probe_samples: f64,
    pub fixed_probe_weight: f64,
    pub momentum: f64,
    pub parallel_probe: i32,
    pub history_dtype: i32,
    pub history_bucket: u32,
    pub round_channels: u32,
    pub flap_attention_factor: u32,
    pub compensate: i32,
    pub compensate_rank: u32,
    pub channel_group: u32,
    pub dense_below: u32,
    pub fold_choice: i32,
    pub adapt: i32,
    pub adapt_metric: i32,
    pub seed: u64,
    pub skip_layers: *const u32,
    pub skip_layer_count: u64,
    pub prior_tokens: u64,
    pub adapt_tokens: u64,
    pub adapt_prior_tokens: u64,
    pub adapt_every: u64,
    pub adapt_forgetting: f64,
    pub adapt_threshold: f64,
    pub allocation: i32,
    pub prefill: i32,
    pub probe_from: u64,
}
unsafe extern "C" {
    pub fn probeprune_settings_init(
        settings: *mut probeprune_settings,
        struct_size: u32,
    ) -> probeprune_status;
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_limits {
    pub struct_size: u32,
    pub reserved: u32,
    pub samples: u64,
    pub tokens: u64,
    pub capacity: u64,
}
unsafe extern "C" {
    pub fn probeprune_limits_init(limits: *mut probeprune_limits, struct_size: u32) -> probeprune_status;
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_memory {
    pub struct_size: u32,
    pub reserved: u32,
    pub weights: u64,
    pub scratch: u64,
    pub history: u64,
    pub probed: u64,
    pub cache: u64,
    pub total: u64,
    pub compensation: u64,
}
unsafe extern "C" {
    pub fn probeprune_memory_init(memory: *mut probeprune_memory, struct_size: u32) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_memory_estimate(
        model: *const ::std::os::raw::c_char,
        options: *const probeprune_model_options,
        settings: *const probeprune_settings,
        limits: *const probeprune_limits,
        out: *mut probeprune_memory,
    ) -> probeprune_status;
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_calibrate_options {
    pub struct_size: u32,
    pub flap: i32,
    pub batch_size: u64,
    pub progress: probeprune_progress,
    pub user: *mut ::std::os::raw::c_void,
    pub linear_rank: u32,
    pub fold: i32,
}
unsafe extern "C" {
    pub fn probeprune_calibrate_options_init(
        options: *mut probeprune_calibrate_options,
        struct_size: u32,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_calibrate(
        model: *const probeprune_model,
        tokens: *const u32,
        samples: usize,
        length: usize,
        options: *const probeprune_calibrate_options,
        out: *mut *mut probeprune_calibration,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_calibration_save(
        calibration: *const probeprune_calibration,
        path: *const ::std::os::raw::c_char,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_calibration_load(
        model: *const probeprune_model,
        path: *const ::std::os::raw::c_char,
        out: *mut *mut probeprune_calibration,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_calibration_open(
        model: *const ::std::os::raw::c_char,
        path: *const ::std::os::raw::c_char,
        out: *mut *mut probeprune_calibration,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_calibration_free(calibration: *mut probeprune_calibration);
}
unsafe extern "C" {
    pub fn probeprune_model_fold(
        model: *const probeprune_model,
        settings: *const probeprune_settings,
        calibration: *const probeprune_calibration,
        progress: probeprune_progress,
        user: *mut ::std::os::raw::c_void,
        out: *mut *mut probeprune_model,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_model_export(
        model: *const probeprune_model,
        folder: *const ::std::os::raw::c_char,
        needs_code: *mut i32,
    ) -> probeprune_status;
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_layer_shape {
    pub struct_size: u32,
    pub reserved: u32,
    pub heads: u64,
    pub kv_heads: u64,
    pub channels: u64,
}
unsafe extern "C" {
    pub fn probeprune_layer_shape_init(
        shape: *mut probeprune_layer_shape,
        struct_size: u32,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_model_layer_shape(
        model: *const probeprune_model,
        layer: u64,
        out: *mut probeprune_layer_shape,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_model_kv_head_of(
        model: *const probeprune_model,
        layer: u64,
        out: *mut u32,
        capacity: usize,
        count: *mut usize,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_model_tensor_count(
        model: *const probeprune_model,
        count: *mut usize,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_model_tensor_name(
        model: *const probeprune_model,
        index: usize,
        out: *mut *const ::std::os::raw::c_char,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_model_tensor(
        model: *const probeprune_model,
        name: *const ::std::os::raw::c_char,
        out: *mut *mut DLManagedTensorVersioned,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_session_create(
        model: *const probeprune_model,
        settings: *const probeprune_settings,
        limits: *const probeprune_limits,
        calibration: *const probeprune_calibration,
        out: *mut *mut probeprune_session,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_session_free(session: *mut probeprune_session);
}
unsafe extern "C" {
    pub fn probeprune_session_cancel(session: *const probeprune_session) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_session_synchronize(session: *mut probeprune_session) -> probeprune_status;
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_layer_counts {
    pub struct_size: u32,
    pub probes_attention: i32,
    pub probes_mlp: i32,
    pub reserved: u32,
    pub heads: u64,
    pub kv_heads: u64,
    pub channels: u64,
    pub head_ratio: f64,
    pub channel_ratio: f64,
}
unsafe extern "C" {
    pub fn probeprune_layer_counts_init(
        counts: *mut probeprune_layer_counts,
        struct_size: u32,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_session_layer_counts(
        session: *mut probeprune_session,
        layer: u64,
        out: *mut probeprune_layer_counts,
    ) -> probeprune_status;
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_corrections {
    pub struct_size: u32,
    pub adapting: i32,
    pub probed_share: f64,
    pub excess_error: f64,
}
unsafe extern "C" {
    pub fn probeprune_corrections_init(
        corrections: *mut probeprune_corrections,
        struct_size: u32,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_session_corrections(
        session: *mut probeprune_session,
        out: *mut probeprune_corrections,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_session_set_adapting(
        session: *mut probeprune_session,
        active: i32,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_session_reset_corrections(session: *mut probeprune_session) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_calibration_with_corrections(
        calibration: *const probeprune_calibration,
        session: *mut probeprune_session,
        out: *mut *mut probeprune_calibration,
    ) -> probeprune_status;
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_work {
    pub struct_size: u32,
    pub reserved: u32,
    pub probe_samples: u64,
    pub probe_tokens: u64,
    pub flops_share: f64,
    pub probe_flops_share: f64,
}
unsafe extern "C" {
    pub fn probeprune_work_init(work: *mut probeprune_work, struct_size: u32) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_session_work(
        session: *mut probeprune_session,
        samples: usize,
        length: usize,
        out: *mut probeprune_work,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_session_evaluate(
        session: *mut probeprune_session,
        tokens: *const u32,
        mask: *const u32,
        samples: usize,
        length: usize,
        update_history: i32,
        loss: *mut f64,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_session_losses(
        session: *mut probeprune_session,
        tokens: *const u32,
        mask: *const u32,
        samples: usize,
        length: usize,
        update_history: i32,
        out: *mut f32,
        capacity: usize,
        count: *mut usize,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_session_forward(
        session: *mut probeprune_session,
        tokens: *const u32,
        mask: *const u32,
        samples: usize,
        length: usize,
        update_history: i32,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_session_logits(
        session: *mut probeprune_session,
        samples: usize,
        out: *mut f32,
        capacity: usize,
        count: *mut usize,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_session_logits_at(
        session: *mut probeprune_session,
        samples: usize,
        slots: *const u32,
        slot_count: usize,
        out: *mut f32,
        capacity: usize,
        count: *mut usize,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_session_export_logits(
        session: *mut probeprune_session,
        samples: usize,
        out: *mut *mut DLManagedTensorVersioned,
    ) -> probeprune_status;
}
pub const PROBEPRUNE_BLOCK_ATTENTION: _bindgen_ty_15 = 0;
pub const PROBEPRUNE_BLOCK_MLP: _bindgen_ty_15 = 1;
pub type _bindgen_ty_15 = ::std::os::raw::c_uint;
unsafe extern "C" {
    pub fn probeprune_session_kept(
        session: *mut probeprune_session,
        layer: u64,
        block: i32,
        out: *mut u32,
        capacity: usize,
        count: *mut usize,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_session_export_kept(
        session: *mut probeprune_session,
        layer: u64,
        block: i32,
        out: *mut *mut DLManagedTensorVersioned,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_session_scores(
        session: *mut probeprune_session,
        layer: u64,
        block: i32,
        out: *mut f32,
        capacity: usize,
        count: *mut usize,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_session_pin(
        session: *mut probeprune_session,
        kept: *const *const DLTensor,
        count: usize,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_session_prefill(
        session: *mut probeprune_session,
        tokens: *const u32,
        mask: *const u32,
        samples: usize,
        length: usize,
        reprobe_every: u64,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_session_decode(
        session: *mut probeprune_session,
        tokens: *const u32,
        active: *const u32,
        samples: usize,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_session_next_logits(
        session: *mut probeprune_session,
        out: *mut f32,
        capacity: usize,
        count: *mut usize,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_session_next_tokens(
        session: *mut probeprune_session,
        out: *mut u32,
        capacity: usize,
        count: *mut usize,
    ) -> probeprune_status;
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_generate_options {
    pub struct_size: u32,
    pub temperature: f32,
    pub top_p: f32,
    pub top_k: u32,
    pub seed: u64,
    pub max_new_tokens: u64,
    pub reprobe_every: u64,
    pub eos_tokens: *const u32,
    pub eos_token_count: u64,
    pub on_token: probeprune_token,
    pub user: *mut ::std::os::raw::c_void,
}
unsafe extern "C" {
    pub fn probeprune_generate_options_init(
        options: *mut probeprune_generate_options,
        struct_size: u32,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_session_generate(
        session: *mut probeprune_session,
        prompts: *const *const u32,
        lengths: *const usize,
        samples: usize,
        options: *const probeprune_generate_options,
        out: *mut u32,
        counts: *mut usize,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_tokenizer_load(
        model: *const ::std::os::raw::c_char,
        out: *mut *mut probeprune_tokenizer,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_tokenizer_free(tokenizer: *mut probeprune_tokenizer);
}
unsafe extern "C" {
    pub fn probeprune_tokenizer_encode(
        tokenizer: *const probeprune_tokenizer,
        text: *const ::std::os::raw::c_char,
        bytes: usize,
        add_special_tokens: i32,
        out: *mut u32,
        capacity: usize,
        count: *mut usize,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_tokenizer_decode(
        tokenizer: *const probeprune_tokenizer,
        tokens: *const u32,
        token_count: usize,
        skip_special_tokens: i32,
        out: *mut ::std::os::raw::c_char,
        capacity: usize,
        count: *mut usize,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_tensor_import(
        managed: *const DLManagedTensorVersioned,
        writable: i32,
        out: *mut *const DLTensor,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_tensor_free(managed: *mut DLManagedTensorVersioned);
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_device {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_device_options {
    pub struct_size: u32,
    pub device_type: i32,
    pub device_id: i32,
    pub threads: u32,
}
unsafe extern "C" {
    pub fn probeprune_device_options_init(
        options: *mut probeprune_device_options,
        struct_size: u32,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_device_open(
        options: *const probeprune_device_options,
        out: *mut *mut probeprune_device,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_device_free(device: *mut probeprune_device);
}
unsafe extern "C" {
    pub fn probeprune_synchronize(
        device: *const probeprune_device,
        stream: *mut ::std::os::raw::c_void,
    ) -> probeprune_status;
}
pub const PROBEPRUNE_NORM_RMS: _bindgen_ty_16 = 0;
pub const PROBEPRUNE_NORM_LAYER: _bindgen_ty_16 = 1;
pub const PROBEPRUNE_NORM_COPY: _bindgen_ty_16 = 2;
pub type _bindgen_ty_16 = ::std::os::raw::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_norm_args {
    pub struct_size: u32,
    pub kind: i32,
    pub eps: f32,
    pub reserved: u32,
    pub x: *const DLTensor,
    pub weight: *const DLTensor,
    pub bias: *const DLTensor,
    pub out: *const DLTensor,
    pub sum_squares: *const DLTensor,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_probe_select_args {
    pub struct_size: u32,
    pub order: i32,
    pub leading_slot_limit: u32,
    pub reserved: u32,
    pub sum_squares: *const DLTensor,
    pub positions: *const DLTensor,
    pub mask: *const DLTensor,
    pub samples: *const DLTensor,
    pub slots: *const DLTensor,
    pub probe_positions: *const DLTensor,
    pub probe_mask: *const DLTensor,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_probe_gather_args {
    pub struct_size: u32,
    pub reserved: u32,
    pub x: *const DLTensor,
    pub samples: *const DLTensor,
    pub slots: *const DLTensor,
    pub out: *const DLTensor,
}
pub const PROBEPRUNE_ACTIVATION_NONE: _bindgen_ty_17 = 0;
pub const PROBEPRUNE_ACTIVATION_SILU: _bindgen_ty_17 = 1;
pub const PROBEPRUNE_ACTIVATION_RELU: _bindgen_ty_17 = 2;
pub const PROBEPRUNE_ACTIVATION_GELU: _bindgen_ty_17 = 3;
pub const PROBEPRUNE_ACTIVATION_GELU_TANH: _bindgen_ty_17 = 4;
pub type _bindgen_ty_17 = ::std::os::raw::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_gemm_sparse_rows_args {
    pub struct_size: u32,
    pub block_width: u32,
    pub activation: i32,
    pub scale: f32,
    pub x: *const DLTensor,
    pub weight: *const DLTensor,
    pub bias: *const DLTensor,
    pub kept: *const DLTensor,
    pub energy: *const DLTensor,
    pub energy_mask: *const DLTensor,
    pub out: *const DLTensor,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_gemm_sparse_swiglu_args {
    pub struct_size: u32,
    pub block_width: u32,
    pub activation: i32,
    pub reserved: u32,
    pub x: *const DLTensor,
    pub gate: *const DLTensor,
    pub up: *const DLTensor,
    pub gate_bias: *const DLTensor,
    pub up_bias: *const DLTensor,
    pub kept: *const DLTensor,
    pub energy: *const DLTensor,
    pub energy_mask: *const DLTensor,
    pub out: *const DLTensor,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_gemm_sparse_columns_args {
    pub struct_size: u32,
    pub block_width: u32,
    pub a: *const DLTensor,
    pub weight: *const DLTensor,
    pub kept: *const DLTensor,
    pub bias: *const DLTensor,
    pub residual: *const DLTensor,
    pub out: *const DLTensor,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_energy_args {
    pub struct_size: u32,
    pub reserved: u32,
    pub a: *const DLTensor,
    pub mask: *const DLTensor,
    pub out: *const DLTensor,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_column_statistic_args {
    pub struct_size: u32,
    pub metric: i32,
    pub weight: *const DLTensor,
    pub out: *const DLTensor,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_channel_score_args {
    pub struct_size: u32,
    pub metric: i32,
    pub head_dim: u32,
    pub bucket: u32,
    pub history_slots: u64,
    pub fixed_probe_weight: f64,
    pub p: *const DLTensor,
    pub statistic: *const DLTensor,
    pub history: *const DLTensor,
    pub slots: *const DLTensor,
    pub out: *const DLTensor,
    pub channel_group: u32,
    pub reserved: u32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_topk_keep_args {
    pub struct_size: u32,
    pub fault_tag: u32,
    pub scores: *const DLTensor,
    pub kept: *const DLTensor,
    pub fault: *const DLTensor,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_keep_kv_heads_args {
    pub struct_size: u32,
    pub gqa_group: u32,
    pub heads: *const DLTensor,
    pub kv_heads: *const DLTensor,
    pub kv_head_of: *const DLTensor,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_attention_args {
    pub struct_size: u32,
    pub keys: u32,
    pub window: u32,
    pub scale: f32,
    pub q: *const DLTensor,
    pub k: *const DLTensor,
    pub v: *const DLTensor,
    pub kv_head_of: *const DLTensor,
    pub mask: *const DLTensor,
    pub slots: *const DLTensor,
    pub out: *const DLTensor,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct probeprune_history_update_args {
    pub struct_size: u32,
    pub block_width: u32,
    pub bucket: u32,
    pub reserved: u32,
    pub history_slots: u64,
    pub at: u64,
    pub momentum: f64,
    pub p: *const DLTensor,
    pub kept: *const DLTensor,
    pub history: *const DLTensor,
}
unsafe extern "C" {
    pub fn probeprune_norm_args_init(args: *mut probeprune_norm_args, struct_size: u32) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_norm_workspace_size(
        device: *const probeprune_device,
        args: *const probeprune_norm_args,
        bytes: *mut usize,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_norm(
        device: *const probeprune_device,
        args: *const probeprune_norm_args,
        workspace: *mut ::std::os::raw::c_void,
        workspace_bytes: usize,
        stream: *mut ::std::os::raw::c_void,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_probe_select_args_init(
        args: *mut probeprune_probe_select_args,
        struct_size: u32,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_probe_select_workspace_size(
        device: *const probeprune_device,
        args: *const probeprune_probe_select_args,
        bytes: *mut usize,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_probe_select(
        device: *const probeprune_device,
        args: *const probeprune_probe_select_args,
        workspace: *mut ::std::os::raw::c_void,
        workspace_bytes: usize,
        stream: *mut ::std::os::raw::c_void,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_probe_gather_args_init(
        args: *mut probeprune_probe_gather_args,
        struct_size: u32,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_probe_gather_workspace_size(
        device: *const probeprune_device,
        args: *const probeprune_probe_gather_args,
        bytes: *mut usize,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_probe_gather(
        device: *const probeprune_device,
        args: *const probeprune_probe_gather_args,
        workspace: *mut ::std::os::raw::c_void,
        workspace_bytes: usize,
        stream: *mut ::std::os::raw::c_void,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_gemm_sparse_rows_args_init(
        args: *mut probeprune_gemm_sparse_rows_args,
        struct_size: u32,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_gemm_sparse_rows_workspace_size(
        device: *const probeprune_device,
        args: *const probeprune_gemm_sparse_rows_args,
        bytes: *mut usize,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_gemm_sparse_rows(
        device: *const probeprune_device,
        args: *const probeprune_gemm_sparse_rows_args,
        workspace: *mut ::std::os::raw::c_void,
        workspace_bytes: usize,
        stream: *mut ::std::os::raw::c_void,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_gemm_sparse_swiglu_args_init(
        args: *mut probeprune_gemm_sparse_swiglu_args,
        struct_size: u32,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_gemm_sparse_swiglu_workspace_size(
        device: *const probeprune_device,
        args: *const probeprune_gemm_sparse_swiglu_args,
        bytes: *mut usize,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_gemm_sparse_swiglu(
        device: *const probeprune_device,
        args: *const probeprune_gemm_sparse_swiglu_args,
        workspace: *mut ::std::os::raw::c_void,
        workspace_bytes: usize,
        stream: *mut ::std::os::raw::c_void,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_gemm_sparse_columns_args_init(
        args: *mut probeprune_gemm_sparse_columns_args,
        struct_size: u32,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_gemm_sparse_columns_workspace_size(
        device: *const probeprune_device,
        args: *const probeprune_gemm_sparse_columns_args,
        bytes: *mut usize,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_gemm_sparse_columns(
        device: *const probeprune_device,
        args: *const probeprune_gemm_sparse_columns_args,
        workspace: *mut ::std::os::raw::c_void,
        workspace_bytes: usize,
        stream: *mut ::std::os::raw::c_void,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_energy_args_init(
        args: *mut probeprune_energy_args,
        struct_size: u32,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_energy_workspace_size(
        device: *const probeprune_device,
        args: *const probeprune_energy_args,
        bytes: *mut usize,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_energy(
        device: *const probeprune_device,
        args: *const probeprune_energy_args,
        workspace: *mut ::std::os::raw::c_void,
        workspace_bytes: usize,
        stream: *mut ::std::os::raw::c_void,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_column_statistic_args_init(
        args: *mut probeprune_column_statistic_args,
        struct_size: u32,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_column_statistic_workspace_size(
        device: *const probeprune_device,
        args: *const probeprune_column_statistic_args,
        bytes: *mut usize,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_column_statistic(
        device: *const probeprune_device,
        args: *const probeprune_column_statistic_args,
        workspace: *mut ::std::os::raw::c_void,
        workspace_bytes: usize,
        stream: *mut ::std::os::raw::c_void,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_channel_score_args_init(
        args: *mut probeprune_channel_score_args,
        struct_size: u32,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_channel_score_workspace_size(
        device: *const probeprune_device,
        args: *const probeprune_channel_score_args,
        bytes: *mut usize,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_channel_score(
        device: *const probeprune_device,
        args: *const probeprune_channel_score_args,
        workspace: *mut ::std::os::raw::c_void,
        workspace_bytes: usize,
        stream: *mut ::std::os::raw::c_void,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_topk_keep_args_init(
        args: *mut probeprune_topk_keep_args,
        struct_size: u32,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_topk_keep_workspace_size(
        device: *const probeprune_device,
        args: *const probeprune_topk_keep_args,
        bytes: *mut usize,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_topk_keep(
        device: *const probeprune_device,
        args: *const probeprune_topk_keep_args,
        workspace: *mut ::std::os::raw::c_void,
        workspace_bytes: usize,
        stream: *mut ::std::os::raw::c_void,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_keep_kv_heads_args_init(
        args: *mut probeprune_keep_kv_heads_args,
        struct_size: u32,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_keep_kv_heads_workspace_size(
        device: *const probeprune_device,
        args: *const probeprune_keep_kv_heads_args,
        bytes: *mut usize,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_keep_kv_heads(
        device: *const probeprune_device,
        args: *const probeprune_keep_kv_heads_args,
        workspace: *mut ::std::os::raw::c_void,
        workspace_bytes: usize,
        stream: *mut ::std::os::raw::c_void,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_attention_args_init(
        args: *mut probeprune_attention_args,
        struct_size: u32,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_attention_workspace_size(
        device: *const probeprune_device,
        args: *const probeprune_attention_args,
        bytes: *mut usize,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_attention(
        device: *const probeprune_device,
        args: *const probeprune_attention_args,
        workspace: *mut ::std::os::raw::c_void,
        workspace_bytes: usize,
        stream: *mut ::std::os::raw::c_void,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_history_update_args_init(
        args: *mut probeprune_history_update_args,
        struct_size: u32,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_history_update_workspace_size(
        device: *const probeprune_device,
        args: *const probeprune_history_update_args,
        bytes: *mut usize,
    ) -> probeprune_status;
}
unsafe extern "C" {
    pub fn probeprune_history_update(
        device: *const probeprune_device,
        args: *const probeprune_history_update_args,
        workspace: *mut ::std::os::raw::c_void,
        workspace_bytes: usize,
        stream: *mut ::std::os::raw::c_void,
    ) -> probeprune_status;
}
