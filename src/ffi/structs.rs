//! The structs of model calls. Layout and meaning are those of include/probeprune.h, which tests/capi compares.

use std::{
    ffi::c_void,
    ptr::{null, null_mut},
};

use super::{
    dlpack,
    model::History,
    status::{Failure, Outcome},
};
use crate::session::{Limits, Sampling};

/// `probeprune_progress`: (user, done, of); a result other than 0 cancels.
pub type Progress = Option<unsafe extern "C-unwind" fn(*mut c_void, u64, u64) -> i32>;
/// `probeprune_token`: (user, sample, token); a result other than 0 cancels.
pub type Token = Option<unsafe extern "C-unwind" fn(*mut c_void, u64, u32) -> i32>;

/// Whether reserved fields are 0.
pub(super) fn is_zero<T: Default + PartialEq>(value: T) -> bool {
    value == T::default()
}

/// `Versioned`, and the `_init` function, of a struct. Its size in version 1 is `first_size`, or else its size today.
macro_rules! versioned {
    ($name:ident, $c_name:literal, $init:ident, reserved: $reserved:tt, $defaults:expr) => {
        $crate::ffi::structs::versioned!(
            $name, $c_name, $init, first_size: size_of::<$name>(), reserved: $reserved, $defaults
        );
    };
    (
        $name:ident, $c_name:literal, $init:ident, first_size: $first_size:expr, reserved: [$($reserved:ident),*],
        $defaults:expr
    ) => {
        // SAFETY: repr(C) of integers, floats, pointers and optional functions, beginning with `struct_size`; the layout
        // test shows that there is no padding.
        unsafe impl $crate::ffi::check::Versioned for $name {
            const NAME: &'static str = $c_name;
            const FIRST_SIZE: usize = $first_size;

            fn defaults() -> Self {
                $defaults
            }

            fn reserved_is_zero(&self) -> bool {
                true $(&& $crate::ffi::structs::is_zero(self.$reserved))*
            }
        }

        /// See include/probeprune.h.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $init(value: *mut $name, struct_size: u32) -> i32 {
            // SAFETY: the header requires `value` to be null or writable for `struct_size` bytes.
            $crate::ffi::status::call(|| unsafe { $crate::ffi::check::init(value, struct_size) })
        }
    };
}
pub(super) use versioned;

/// `probeprune_model_options`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ModelOptions {
    pub(super) struct_size: u32,
    pub(super) device_type: i32,
    pub(super) device_id: i32,
    pub(super) threads: u32,
    pub(super) dtype: i32,
    pub(super) read_weights: i32,
    pub(super) use_stream: i32,
    pub(super) reserved: u32,
    pub(super) stream: *mut c_void,
    pub(super) progress: Progress,
    pub(super) user: *mut c_void,
    pub(super) channel_order: *const History,
}

versioned!(ModelOptions, "probeprune_model_options", probeprune_model_options_init, reserved: [reserved], Self {
    struct_size: 0,
    device_type: dlpack::CPU,
    device_id: 0,
    threads: 0,
    dtype: 0,
    read_weights: 0,
    use_stream: 0,
    reserved: 0,
    stream: null_mut(),
    progress: None,
    user: null_mut(),
    channel_order: null(),
});

/// `probeprune_model_info`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct ModelInfo {
    pub(super) struct_size: u32,
    pub(super) family: i32,
    pub(super) vocab_size: u64,
    pub(super) hidden_size: u64,
    pub(super) intermediate_size: u64,
    pub(super) num_hidden_layers: u64,
    pub(super) num_attention_heads: u64,
    pub(super) num_key_value_heads: u64,
    pub(super) head_dim: u64,
    pub(super) max_position_embeddings: u64,
    pub(super) file_bytes: u64,
}

versioned!(ModelInfo, "probeprune_model_info", probeprune_model_info_init, reserved: [], Self::default());

/// `probeprune_memory`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Memory {
    pub(super) struct_size: u32,
    pub(super) reserved: u32,
    pub(super) weights: u64,
    pub(super) scratch: u64,
    pub(super) history: u64,
    pub(super) probed: u64,
    pub(super) cache: u64,
    pub(super) total: u64,
    pub(super) compensation: u64,
}

versioned!(Memory, "probeprune_memory", probeprune_memory_init, reserved: [reserved], Self::default());

/// `probeprune_limits`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SessionLimits {
    pub(super) struct_size: u32,
    pub(super) reserved: u32,
    pub(super) samples: u64,
    pub(super) tokens: u64,
    pub(super) capacity: u64,
}

versioned!(SessionLimits, "probeprune_limits", probeprune_limits_init, reserved: [reserved], Self {
    struct_size: 0,
    reserved: 0,
    samples: 1,
    tokens: 1,
    capacity: 0,
});

impl SessionLimits {
    pub(super) fn limits(&self) -> Limits {
        let size = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        Limits { samples: size(self.samples), tokens: size(self.tokens), capacity: size(self.capacity) }
    }
}

/// The value with this number, in the order of the enum.
pub(super) fn choice<T: Copy>(number: i32, all: &[T], what: &str) -> Outcome<T> {
    usize::try_from(number).ok().and_then(|number| all.get(number)).copied().ok_or_else(|| {
        let expected = format!("a constant of probeprune.h, 0 to {}", all.len() - 1);
        Failure::argument(what, expected, number, "Fill the struct with its _init function first.")
    })
}

pub(super) fn flag(value: i32, what: &str) -> Outcome<bool> {
    choice(value, &[false, true], what)
}

/// `probeprune_calibrate_options`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CalibrateOptions {
    pub(super) struct_size: u32,
    pub(super) flap: i32,
    pub(super) batch_size: u64,
    pub(super) progress: Progress,
    pub(super) user: *mut c_void,
    pub(super) linear_rank: u32,
    pub(super) fold: i32,
}

versioned!(CalibrateOptions, "probeprune_calibrate_options", probeprune_calibrate_options_init, reserved: [], Self {
    struct_size: 0,
    flap: 0,
    batch_size: 8,
    progress: None,
    user: null_mut(),
    linear_rank: 0,
    fold: 0,
});

/// `probeprune_layer_shape`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Shape {
    pub(super) struct_size: u32,
    pub(super) reserved: u32,
    pub(super) heads: u64,
    pub(super) kv_heads: u64,
    pub(super) channels: u64,
}

versioned!(Shape, "probeprune_layer_shape", probeprune_layer_shape_init, reserved: [reserved], Self::default());

/// `probeprune_corrections`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Corrected {
    pub(super) struct_size: u32,
    pub(super) adapting: i32,
    pub(super) probed_share: f64,
    pub(super) excess_error: f64,
}

versioned!(Corrected, "probeprune_corrections", probeprune_corrections_init, reserved: [], Self {
    struct_size: 0,
    adapting: 0,
    probed_share: f64::NAN,
    excess_error: f64::NAN,
});

/// `probeprune_layer_counts`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Counts {
    pub(super) struct_size: u32,
    pub(super) probes_attention: i32,
    pub(super) probes_mlp: i32,
    pub(super) reserved: u32,
    pub(super) heads: u64,
    pub(super) kv_heads: u64,
    pub(super) channels: u64,
    pub(super) head_ratio: f64,
    pub(super) channel_ratio: f64,
}

versioned!(Counts, "probeprune_layer_counts", probeprune_layer_counts_init, reserved: [reserved], Self::default());

/// `probeprune_work`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Work {
    pub(super) struct_size: u32,
    pub(super) reserved: u32,
    pub(super) probe_samples: u64,
    pub(super) probe_tokens: u64,
    pub(super) flops_share: f64,
    pub(super) probe_flops_share: f64,
}

versioned!(Work, "probeprune_work", probeprune_work_init, reserved: [reserved], Self::default());

/// `probeprune_generate_options`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct GenerateOptions {
    pub(super) struct_size: u32,
    pub(super) temperature: f32,
    pub(super) top_p: f32,
    pub(super) top_k: u32,
    pub(super) seed: u64,
    pub(super) max_new_tokens: u64,
    pub(super) reprobe_every: u64,
    pub(super) eos_tokens: *const u32,
    pub(super) eos_token_count: u64,
    pub(super) on_token: Token,
    pub(super) user: *mut c_void,
}

versioned!(GenerateOptions, "probeprune_generate_options", probeprune_generate_options_init, reserved: [], {
    let Sampling { temperature, top_k, top_p, seed } = Sampling::default();
    Self {
        struct_size: 0,
        temperature,
        top_p,
        top_k: top_k as u32,
        seed,
        max_new_tokens: 64,
        reprobe_every: 0,
        eos_tokens: null(),
        eos_token_count: 0,
        on_token: None,
        user: null_mut(),
    }
});

/// `probeprune_device_options`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DeviceOptions {
    pub(super) struct_size: u32,
    pub(super) device_type: i32,
    pub(super) device_id: i32,
    pub(super) threads: u32,
}

versioned!(DeviceOptions, "probeprune_device_options", probeprune_device_options_init, reserved: [], Self {
    struct_size: 0,
    device_type: dlpack::CPU,
    device_id: 0,
    threads: 0,
});
