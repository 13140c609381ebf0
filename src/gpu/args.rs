//! Made from cuda/args.h by `tools/cuda.sh args`: the kernels' arguments.
#![allow(missing_docs, reason = "documented in cuda/args.h")]
type Elements = u64;
type ElementsOut = u64;
type Floats = u64;
type FloatsOut = u64;
type Indices = u64;
type IndicesOut = u64;

#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct NormArgs {
    pub(crate) x: Elements,
    pub(crate) weight: Floats,
    pub(crate) bias: Floats,
    pub(crate) out: ElementsOut,
    pub(crate) sum_squares: FloatsOut,
    pub(crate) rows: ::std::os::raw::c_int,
    pub(crate) width: ::std::os::raw::c_int,
    pub(crate) kind: ::std::os::raw::c_int,
    pub(crate) eps: f32,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct ProbeSelectArgs {
    pub(crate) sum_squares: Floats,
    pub(crate) positions: Indices,
    pub(crate) mask: Indices,
    pub(crate) samples: IndicesOut,
    pub(crate) slots: IndicesOut,
    pub(crate) probe_positions: IndicesOut,
    pub(crate) probe_mask: IndicesOut,
    pub(crate) batch: ::std::os::raw::c_int,
    pub(crate) tokens: ::std::os::raw::c_int,
    pub(crate) kept_samples: ::std::os::raw::c_int,
    pub(crate) kept_tokens: ::std::os::raw::c_int,
    pub(crate) tokens_first: ::std::os::raw::c_int,
    pub(crate) leading: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct EnergyArgs {
    pub(crate) a: Elements,
    pub(crate) mask: Indices,
    pub(crate) out: FloatsOut,
    pub(crate) batch: ::std::os::raw::c_int,
    pub(crate) tokens: ::std::os::raw::c_int,
    pub(crate) width: ::std::os::raw::c_int,
    pub(crate) reserved: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct ChannelScoreArgs {
    pub(crate) p: Floats,
    pub(crate) history: Elements,
    pub(crate) slots: Indices,
    pub(crate) statistic: Floats,
    pub(crate) out: FloatsOut,
    pub(crate) tokens: ::std::os::raw::c_int,
    pub(crate) width: ::std::os::raw::c_int,
    pub(crate) span: ::std::os::raw::c_int,
    pub(crate) groups: ::std::os::raw::c_int,
    pub(crate) heads: ::std::os::raw::c_int,
    pub(crate) metric: ::std::os::raw::c_int,
    pub(crate) history_kind: ::std::os::raw::c_int,
    pub(crate) history_slots: ::std::os::raw::c_int,
    pub(crate) bucket: ::std::os::raw::c_int,
    pub(crate) fixed: ::std::os::raw::c_int,
    pub(crate) fixed_weight: f32,
    pub(crate) reserved: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct TopKKeepArgs {
    pub(crate) scores: Floats,
    pub(crate) kept: IndicesOut,
    pub(crate) fault: IndicesOut,
    pub(crate) of: ::std::os::raw::c_int,
    pub(crate) k: ::std::os::raw::c_int,
    pub(crate) tag: ::std::os::raw::c_uint,
    pub(crate) reserved: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct KeepKvHeadsArgs {
    pub(crate) heads: Indices,
    pub(crate) kv_kept: IndicesOut,
    pub(crate) kv_slots: IndicesOut,
    pub(crate) count: ::std::os::raw::c_int,
    pub(crate) group: ::std::os::raw::c_int,
    pub(crate) kv_capacity: ::std::os::raw::c_int,
    pub(crate) reserved: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct CheckFiniteArgs {
    pub(crate) values: Floats,
    pub(crate) fault: IndicesOut,
    pub(crate) count: ::std::os::raw::c_longlong,
    pub(crate) tag: ::std::os::raw::c_uint,
    pub(crate) reserved: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct HistoryUpdateArgs {
    pub(crate) p: Floats,
    pub(crate) kept: Indices,
    pub(crate) history: ElementsOut,
    pub(crate) channels: ::std::os::raw::c_int,
    pub(crate) block_width: ::std::os::raw::c_int,
    pub(crate) width: ::std::os::raw::c_int,
    pub(crate) at: ::std::os::raw::c_int,
    pub(crate) end: ::std::os::raw::c_int,
    pub(crate) bucket: ::std::os::raw::c_int,
    pub(crate) half: ::std::os::raw::c_int,
    pub(crate) old_share: f32,
    pub(crate) new_share: f32,
    pub(crate) reserved: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct MomentsArgs {
    pub(crate) a: Elements,
    pub(crate) energy: FloatsOut,
    pub(crate) baseline: FloatsOut,
    pub(crate) fluctuation: FloatsOut,
    pub(crate) batch: ::std::os::raw::c_int,
    pub(crate) tokens: ::std::os::raw::c_int,
    pub(crate) width: ::std::os::raw::c_int,
    pub(crate) seen: ::std::os::raw::c_int,
}
