//! Made from cuda/args.h by `tools/kernels/cuda.sh args`: the kernels' arguments.
#![allow(missing_docs, unreachable_pub, reason = "documented in cuda/args.h; bindgen makes them pub")]
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
    pub(crate) hidden_size: ::std::os::raw::c_int,
    pub(crate) kind: ::std::os::raw::c_int,
    pub(crate) eps: f32,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct EmbedArgs {
    pub(crate) table: Elements,
    pub(crate) tokens: Indices,
    pub(crate) position_table: Elements,
    pub(crate) positions: Indices,
    pub(crate) out: ElementsOut,
    pub(crate) rows: ::std::os::raw::c_int,
    pub(crate) embedding_dim: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct ProbeSelectArgs {
    pub(crate) sum_squares: Floats,
    pub(crate) positions: Indices,
    pub(crate) mask: Indices,
    pub(crate) probe_samples: IndicesOut,
    pub(crate) probe_slots: IndicesOut,
    pub(crate) probe_positions: IndicesOut,
    pub(crate) probe_mask: IndicesOut,
    pub(crate) samples: ::std::os::raw::c_int,
    pub(crate) tokens: ::std::os::raw::c_int,
    pub(crate) kept_samples: ::std::os::raw::c_int,
    pub(crate) kept_tokens: ::std::os::raw::c_int,
    pub(crate) tokens_first: ::std::os::raw::c_int,
    pub(crate) keep_leading_slot: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct ProbeGatherArgs {
    pub(crate) x: Elements,
    pub(crate) probe_samples: Indices,
    pub(crate) probe_slots: Indices,
    pub(crate) out: ElementsOut,
    pub(crate) rows: ::std::os::raw::c_int,
    pub(crate) hidden_size: ::std::os::raw::c_int,
    pub(crate) tokens: ::std::os::raw::c_int,
    pub(crate) probe_tokens: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct LinearArgs {
    pub(crate) x: Elements,
    pub(crate) weight: Elements,
    pub(crate) bias: Floats,
    pub(crate) kept: Indices,
    pub(crate) mask: Indices,
    pub(crate) out: ElementsOut,
    pub(crate) energy: FloatsOut,
    pub(crate) rows: ::std::os::raw::c_int,
    pub(crate) out_features: ::std::os::raw::c_int,
    pub(crate) in_features: ::std::os::raw::c_int,
    pub(crate) block_width: ::std::os::raw::c_int,
    pub(crate) raster_group: ::std::os::raw::c_int,
    pub(crate) samples: ::std::os::raw::c_int,
    pub(crate) tokens: ::std::os::raw::c_int,
    pub(crate) activation: ::std::os::raw::c_int,
    pub(crate) scale: f32,
    pub(crate) reserved: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct GatedLinearArgs {
    pub(crate) x: Elements,
    pub(crate) gate: Elements,
    pub(crate) up: Elements,
    pub(crate) gate_bias: Floats,
    pub(crate) up_bias: Floats,
    pub(crate) kept: Indices,
    pub(crate) mask: Indices,
    pub(crate) out: ElementsOut,
    pub(crate) energy: FloatsOut,
    pub(crate) rows: ::std::os::raw::c_int,
    pub(crate) out_features: ::std::os::raw::c_int,
    pub(crate) in_features: ::std::os::raw::c_int,
    pub(crate) block_width: ::std::os::raw::c_int,
    pub(crate) raster_group: ::std::os::raw::c_int,
    pub(crate) samples: ::std::os::raw::c_int,
    pub(crate) tokens: ::std::os::raw::c_int,
    pub(crate) activation: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct LogitsArgs {
    pub(crate) x: Elements,
    pub(crate) head: Elements,
    pub(crate) out: FloatsOut,
    pub(crate) rows: ::std::os::raw::c_int,
    pub(crate) out_features: ::std::os::raw::c_int,
    pub(crate) in_features: ::std::os::raw::c_int,
    pub(crate) raster_group: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct ProjectArgs {
    pub(crate) a: Elements,
    pub(crate) weight: Elements,
    pub(crate) kept: Indices,
    pub(crate) bias: Floats,
    pub(crate) residual: Elements,
    pub(crate) z: Elements,
    pub(crate) low_rank: Elements,
    pub(crate) out: ElementsOut,
    pub(crate) rows: ::std::os::raw::c_int,
    pub(crate) out_features: ::std::os::raw::c_int,
    pub(crate) in_features: ::std::os::raw::c_int,
    pub(crate) block_width: ::std::os::raw::c_int,
    pub(crate) raster_group: ::std::os::raw::c_int,
    pub(crate) rank: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct LinearGemvArgs {
    pub(crate) x: Elements,
    pub(crate) weight: Elements,
    pub(crate) up: Elements,
    pub(crate) bias: Floats,
    pub(crate) up_bias: Floats,
    pub(crate) kept: Indices,
    pub(crate) out: ElementsOut,
    pub(crate) logits: FloatsOut,
    pub(crate) rows: ::std::os::raw::c_int,
    pub(crate) in_features: ::std::os::raw::c_int,
    pub(crate) out_features: ::std::os::raw::c_int,
    pub(crate) block_width: ::std::os::raw::c_int,
    pub(crate) activation: ::std::os::raw::c_int,
    pub(crate) scale: f32,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct ProjectGemvArgs {
    pub(crate) a: Elements,
    pub(crate) weight: Elements,
    pub(crate) kept: Indices,
    pub(crate) bias: Floats,
    pub(crate) residual: Elements,
    pub(crate) z: Elements,
    pub(crate) low_rank: Elements,
    pub(crate) out: ElementsOut,
    pub(crate) rows: ::std::os::raw::c_int,
    pub(crate) in_features: ::std::os::raw::c_int,
    pub(crate) out_features: ::std::os::raw::c_int,
    pub(crate) block_width: ::std::os::raw::c_int,
    pub(crate) rank: ::std::os::raw::c_int,
    pub(crate) reserved: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct RopeCacheArgs {
    pub(crate) q: ElementsOut,
    pub(crate) k: ElementsOut,
    pub(crate) v: Elements,
    pub(crate) table: Floats,
    pub(crate) positions: Indices,
    pub(crate) cache_keys: ElementsOut,
    pub(crate) cache_values: ElementsOut,
    pub(crate) tokens: ::std::os::raw::c_int,
    pub(crate) heads: ::std::os::raw::c_int,
    pub(crate) kv_heads: ::std::os::raw::c_int,
    pub(crate) head_dim: ::std::os::raw::c_int,
    pub(crate) capacity: ::std::os::raw::c_int,
    pub(crate) at: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct AttentionArgs {
    pub(crate) q: Elements,
    pub(crate) k: Elements,
    pub(crate) v: Elements,
    pub(crate) out: ElementsOut,
    pub(crate) kv_head_of: Indices,
    pub(crate) mask: Indices,
    pub(crate) slots: Indices,
    pub(crate) tokens: ::std::os::raw::c_int,
    pub(crate) keys: ::std::os::raw::c_int,
    pub(crate) capacity: ::std::os::raw::c_int,
    pub(crate) heads: ::std::os::raw::c_int,
    pub(crate) kv_heads: ::std::os::raw::c_int,
    pub(crate) head_dim: ::std::os::raw::c_int,
    pub(crate) window: ::std::os::raw::c_int,
    pub(crate) scale: f32,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct EnergyArgs {
    pub(crate) a: Elements,
    pub(crate) mask: Indices,
    pub(crate) out: FloatsOut,
    pub(crate) sums: FloatsOut,
    pub(crate) samples: ::std::os::raw::c_int,
    pub(crate) tokens: ::std::os::raw::c_int,
    pub(crate) channels: ::std::os::raw::c_int,
    pub(crate) reserved: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct CentreEnergyArgs {
    pub(crate) energy: FloatsOut,
    pub(crate) sums: Floats,
    pub(crate) mask: Indices,
    pub(crate) prior: Floats,
    pub(crate) mean: FloatsOut,
    pub(crate) samples: ::std::os::raw::c_int,
    pub(crate) tokens: ::std::os::raw::c_int,
    pub(crate) channels: ::std::os::raw::c_int,
    pub(crate) weight: f32,
    pub(crate) share: f32,
    pub(crate) reserved: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct GatherPrunedArgs {
    pub(crate) kept: Indices,
    pub(crate) coefficients: Floats,
    pub(crate) mean: Floats,
    pub(crate) pruned: IndicesOut,
    pub(crate) out: ElementsOut,
    pub(crate) count: ::std::os::raw::c_int,
    pub(crate) block_width: ::std::os::raw::c_int,
    pub(crate) channels: ::std::os::raw::c_int,
    pub(crate) rank: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct AccumulateProductArgs {
    pub(crate) a: Elements,
    pub(crate) b: Elements,
    pub(crate) out: FloatsOut,
    pub(crate) rows: ::std::os::raw::c_int,
    pub(crate) m: ::std::os::raw::c_int,
    pub(crate) n: ::std::os::raw::c_int,
    pub(crate) reserved: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct AdaptRowsArgs {
    pub(crate) x: Elements,
    pub(crate) kept: Indices,
    pub(crate) mask: Indices,
    pub(crate) centre: Floats,
    pub(crate) scale: Floats,
    pub(crate) out: FloatsOut,
    pub(crate) images: FloatsOut,
    pub(crate) ones: FloatsOut,
    pub(crate) columns: ::std::os::raw::c_int,
    pub(crate) block_width: ::std::os::raw::c_int,
    pub(crate) width: ::std::os::raw::c_int,
    pub(crate) reserved: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct AdaptVectorArgs {
    pub(crate) base: Floats,
    pub(crate) x: Floats,
    pub(crate) matrix: Floats,
    pub(crate) fault: Indices,
    pub(crate) out: FloatsOut,
    pub(crate) rows: ::std::os::raw::c_int,
    pub(crate) columns: ::std::os::raw::c_int,
    pub(crate) scale: f32,
    pub(crate) reserved: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct AdaptSquaresArgs {
    pub(crate) x: Floats,
    pub(crate) sums: FloatsOut,
    pub(crate) columns: ::std::os::raw::c_int,
    pub(crate) reserved: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct AdaptErrorArgs {
    pub(crate) sums: Floats,
    pub(crate) ones: Floats,
    pub(crate) error: FloatsOut,
    pub(crate) fault: IndicesOut,
    pub(crate) rows: ::std::os::raw::c_int,
    pub(crate) reserved: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct AdaptProductArgs {
    pub(crate) a: Floats,
    pub(crate) b: Floats,
    pub(crate) ones: Floats,
    pub(crate) fault: Indices,
    pub(crate) out: FloatsOut,
    pub(crate) rows: ::std::os::raw::c_int,
    pub(crate) columns: ::std::os::raw::c_int,
    pub(crate) depth: ::std::os::raw::c_int,
    pub(crate) a_transposed: ::std::os::raw::c_int,
    pub(crate) b_transposed: ::std::os::raw::c_int,
    pub(crate) add: ::std::os::raw::c_int,
    pub(crate) symmetric: ::std::os::raw::c_int,
    pub(crate) sign: f32,
    pub(crate) gain: f32,
    pub(crate) divisor: f32,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct AdaptFactorArgs {
    pub(crate) matrix: FloatsOut,
    pub(crate) size: ::std::os::raw::c_int,
    pub(crate) first: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct AdaptSubstituteArgs {
    pub(crate) factor: Floats,
    pub(crate) x: FloatsOut,
    pub(crate) size: ::std::os::raw::c_int,
    pub(crate) columns: ::std::os::raw::c_int,
    pub(crate) first: ::std::os::raw::c_int,
    pub(crate) end: ::std::os::raw::c_int,
    pub(crate) transposed: ::std::os::raw::c_int,
    pub(crate) reserved: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct AdaptStoreArgs {
    pub(crate) weight: Floats,
    pub(crate) fault: Indices,
    pub(crate) out: ElementsOut,
    pub(crate) count: ::std::os::raw::c_longlong,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct ColumnStatisticArgs {
    pub(crate) weight: Elements,
    pub(crate) out: FloatsOut,
    pub(crate) channels: ::std::os::raw::c_int,
    pub(crate) out_features: ::std::os::raw::c_int,
    pub(crate) power: ::std::os::raw::c_int,
    pub(crate) root: ::std::os::raw::c_int,
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
    pub(crate) channels: ::std::os::raw::c_int,
    pub(crate) span: ::std::os::raw::c_int,
    pub(crate) warps: ::std::os::raw::c_int,
    pub(crate) heads: ::std::os::raw::c_int,
    pub(crate) metric: ::std::os::raw::c_int,
    pub(crate) history_kind: ::std::os::raw::c_int,
    pub(crate) history_slots: ::std::os::raw::c_int,
    pub(crate) bucket: ::std::os::raw::c_int,
    pub(crate) fixed: ::std::os::raw::c_int,
    pub(crate) fixed_weight: f32,
    pub(crate) channel_group: ::std::os::raw::c_int,
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
    pub(crate) kv_heads: IndicesOut,
    pub(crate) kv_head_of: IndicesOut,
    pub(crate) count: ::std::os::raw::c_int,
    pub(crate) gqa_group: ::std::os::raw::c_int,
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
pub struct ArgmaxArgs {
    pub(crate) x: Floats,
    pub(crate) out: IndicesOut,
    pub(crate) rows: ::std::os::raw::c_int,
    pub(crate) vocab_size: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct HistoryUpdateArgs {
    pub(crate) p: Floats,
    pub(crate) kept: Indices,
    pub(crate) history: ElementsOut,
    pub(crate) kept_channels: ::std::os::raw::c_int,
    pub(crate) block_width: ::std::os::raw::c_int,
    pub(crate) channels: ::std::os::raw::c_int,
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
    pub(crate) mean: FloatsOut,
    pub(crate) baseline: FloatsOut,
    pub(crate) fluctuation: FloatsOut,
    pub(crate) samples: ::std::os::raw::c_int,
    pub(crate) tokens: ::std::os::raw::c_int,
    pub(crate) channels: ::std::os::raw::c_int,
    pub(crate) seen: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct CrossEntropyArgs {
    pub(crate) x: Elements,
    pub(crate) head: Elements,
    pub(crate) targets: Indices,
    pub(crate) partial: FloatsOut,
    pub(crate) target_logits: FloatsOut,
    pub(crate) rows: ::std::os::raw::c_int,
    pub(crate) vocab_size: ::std::os::raw::c_int,
    pub(crate) in_features: ::std::os::raw::c_int,
    pub(crate) raster_group: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct CrossEntropyCombineArgs {
    pub(crate) partial: Floats,
    pub(crate) target_logits: Floats,
    pub(crate) targets: Indices,
    pub(crate) out: FloatsOut,
    pub(crate) rows: ::std::os::raw::c_int,
    pub(crate) tiles: ::std::os::raw::c_int,
}
