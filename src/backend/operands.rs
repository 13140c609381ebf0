//! The operands of each operation, under the names of cuda/args.h. Model code fills them in; they reach a backend's
//! kernel unopened. Letters in shapes are explained in the [module](super).

use super::{
    AdaptScratch, AttentionShape, Backend, CacheSlots, EnergyOutput, Fusion, History, KeptSet, Linear,
    LowRank, Moments, Norm, Precision, Probe,
};
use crate::{
    config::Activation,
    prune::{
        BatchShape, Unit,
        settings::{Metric, ProbeOrder},
    },
};

/// Of [`Backend::column_statistic`].
#[derive(Debug)]
pub struct ColumnStatisticOperands<'a, B: Backend> {
    /// A last projection (H, C).
    pub projection: &'a Linear<B>,
    /// Which statistic.
    pub metric: Metric,
    /// (C).
    pub out: &'a mut B::Statistics,
}

/// Of [`Backend::embed`].
#[derive(Debug)]
pub struct EmbedOperands<'a, B: Backend> {
    /// (V, E).
    pub table: &'a B::Weight,
    /// (T).
    pub tokens: &'a B::Indices,
    /// A table (positions, E) and the position of each row (T).
    pub position_table: Option<(&'a B::Weight, &'a B::Indices)>,
    /// T.
    pub rows: usize,
    /// (T, E).
    pub out: &'a mut B::Activations,
}

/// Of [`Backend::norm`].
#[derive(Debug)]
pub struct NormOperands<'a, B: Backend> {
    /// (T, H).
    pub x: &'a B::Activations,
    /// `None` (post-norm OPT) copies x.
    pub norm: Option<&'a Norm<B>>,
    /// T.
    pub rows: usize,
    /// H.
    pub hidden_size: usize,
    /// (T, H).
    pub out: &'a mut B::Activations,
    /// (T).
    pub sum_squares: &'a mut B::Statistics,
}

/// Of [`Backend::probe_select`].
#[derive(Debug)]
pub struct ProbeSelectOperands<'a, B: Backend> {
    /// Σ r² (B, S).
    pub sum_squares: &'a B::Statistics,
    /// B × S.
    pub shape: BatchShape,
    /// Tokens or samples first, or only one of them.
    pub order: ProbeOrder,
    /// (B, S).
    pub positions: &'a B::Indices,
    /// (B, S): 0 for pads.
    pub mask: Option<&'a B::Indices>,
    /// Probes of at most this many tokens hold the first slot that has a token in some sample.
    pub leading_slot_limit: usize,
    /// Written; its shape holds the counts.
    pub probe: &'a mut Probe<B>,
}

/// Of [`Backend::probe_gather`].
#[derive(Debug)]
pub struct ProbeGatherOperands<'a, B: Backend> {
    /// (B, S, H).
    pub x: &'a B::Activations,
    /// B × S.
    pub shape: BatchShape,
    /// H.
    pub hidden_size: usize,
    /// Which rows.
    pub probe: &'a Probe<B>,
    /// (B_p, S_p, H).
    pub out: &'a mut B::Activations,
}

/// Of [`Backend::linear`]. [`LinearOperands::new`] leaves the optional ones out.
#[derive(Debug)]
pub struct LinearOperands<'a, B: Backend> {
    /// (T, in_features).
    pub x: &'a B::Activations,
    /// T.
    pub rows: usize,
    /// Weight (out_features, in_features).
    pub projection: &'a Linear<B>,
    /// Kept rows of the weight; a block of `u32::MAX` is skipped. `None`: all.
    pub kept: Option<&'a KeptSet<B::Indices>>,
    /// Applied after the bias.
    pub activation: Option<Activation>,
    /// Factor on the result.
    pub scale: f32,
    /// Where the energies of the output go.
    pub energy: Option<EnergyOutput<'a, B>>,
    /// (T, kept rows).
    pub out: &'a mut B::Activations,
}

impl<'a, B: Backend> LinearOperands<'a, B> {
    /// All rows of the weight, without activation, scale or energies.
    pub fn new(
        x: &'a B::Activations,
        rows: usize,
        projection: &'a Linear<B>,
        out: &'a mut B::Activations,
    ) -> Self {
        Self { x, rows, projection, kept: None, activation: None, scale: 1.0, energy: None, out }
    }
}

/// Of [`Backend::gated_linear`].
#[derive(Debug)]
pub struct GatedLinearOperands<'a, B: Backend> {
    /// (T, H).
    pub x: &'a B::Activations,
    /// T.
    pub rows: usize,
    /// Weight (I, H).
    pub gate: &'a Linear<B>,
    /// Weight (I, H).
    pub up: &'a Linear<B>,
    /// Kept rows of both weights. `None`: all.
    pub kept: Option<&'a KeptSet<B::Indices>>,
    /// Of the gate.
    pub activation: Activation,
    /// Where the energies of the output go.
    pub energy: Option<EnergyOutput<'a, B>>,
    /// (T, kept channels).
    pub out: &'a mut B::Activations,
}

/// Of [`Backend::logits`].
#[derive(Debug)]
pub struct LogitsOperands<'a, B: Backend> {
    /// (T, E).
    pub x: &'a B::Activations,
    /// T.
    pub rows: usize,
    /// Weight (V, E), no bias.
    pub head: &'a Linear<B>,
    /// (T, V).
    pub out: &'a mut B::Statistics,
}

/// Of [`Backend::project`]. [`ProjectOperands::new`] leaves the optional ones out.
#[derive(Debug)]
pub struct ProjectOperands<'a, B: Backend> {
    /// (T, kept columns), compact.
    pub a: &'a B::Activations,
    /// T.
    pub rows: usize,
    /// Weight (out_features, in_features) for [`super::WeightUse::Columns`]. Its own bias is not read.
    pub projection: &'a Linear<B>,
    /// Kept columns of the weight. `None`: all.
    pub kept: Option<&'a KeptSet<B::Indices>>,
    /// (out_features).
    pub bias: Option<&'a B::Statistics>,
    /// Compensation of pruned channels.
    pub low_rank: Option<LowRank<'a, B>>,
    /// (T, out_features).
    pub residual: Option<&'a B::Activations>,
    /// (T, out_features).
    pub out: &'a mut B::Activations,
}

impl<'a, B: Backend> ProjectOperands<'a, B> {
    /// All columns of the weight; nothing is added.
    pub fn new(
        a: &'a B::Activations,
        rows: usize,
        projection: &'a Linear<B>,
        out: &'a mut B::Activations,
    ) -> Self {
        Self { a, rows, projection, kept: None, bias: None, low_rank: None, residual: None, out }
    }
}

/// Of [`Backend::rope_cache`].
#[derive(Debug)]
pub struct RopeCacheOperands<'a, B: Backend> {
    /// (T, heads, D), rotated in place.
    pub q: &'a mut B::Activations,
    /// (T, kv_heads, D), rotated in place.
    pub k: &'a mut B::Activations,
    /// (T, kv_heads, D).
    pub v: &'a B::Activations,
    /// Samples × new tokens.
    pub shape: BatchShape,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// D.
    pub head_dim: usize,
    /// Rotary table (positions, D), D/2 cosines and then D/2 sines, and the position of each row (T); `None` for OPT.
    pub rotary: Option<(&'a B::Statistics, &'a B::Indices)>,
    /// Where keys and values are copied to.
    pub cache: Option<CacheSlots<'a, B>>,
}

/// Of [`Backend::attention`].
#[derive(Debug)]
pub struct AttentionOperands<'a, B: Backend> {
    /// (B, tokens, heads, D).
    pub q: &'a B::Activations,
    /// (B, key_capacity, kv_heads, D).
    pub k: &'a B::Activations,
    /// (B, key_capacity, kv_heads, D).
    pub v: &'a B::Activations,
    /// Sizes, scale and window.
    pub shape: AttentionShape,
    /// (heads): the place of each query head's key/value head.
    pub kv_head_of: &'a B::Indices,
    /// (B, key_capacity): 0 hides a key.
    pub mask: Option<&'a B::Indices>,
    /// (keys): the slots of a probe's tokens, for `window`.
    pub slots: Option<&'a B::Indices>,
    /// (B, tokens, heads, D).
    pub out: &'a mut B::Activations,
}

/// Of [`Backend::energy`].
#[derive(Debug)]
pub struct EnergyOperands<'a, B: Backend> {
    /// (B, S, C).
    pub a: &'a B::Activations,
    /// B × S.
    pub shape: BatchShape,
    /// C.
    pub channels: usize,
    /// (B, S): 0 for pads.
    pub mask: Option<&'a B::Indices>,
    /// (S, C).
    pub out: &'a mut B::Statistics,
    /// Σ over samples of a (S, C), pads left out.
    pub sums: Option<&'a mut B::Statistics>,
}

/// Of [`Backend::centre_energy`].
#[derive(Debug)]
pub struct CentreEnergyOperands<'a, B: Backend> {
    /// p (S, C), in place.
    pub energy: &'a mut B::Statistics,
    /// (S, C), of [`Backend::energy`].
    pub sums: &'a B::Statistics,
    /// B × S.
    pub shape: BatchShape,
    /// C.
    pub channels: usize,
    /// (B, S): 0 for pads.
    pub mask: Option<&'a B::Indices>,
    /// A prior mean (C) and the weight w in \[0, 1\] of the tokens' mean against it.
    pub prior: Option<(&'a B::Statistics, f32)>,
    /// Share of the mean that energies are taken around.
    pub share: f32,
    /// (C).
    pub mean: &'a mut B::Statistics,
}

/// Of [`Backend::gather_pruned`].
#[derive(Debug)]
pub struct GatherPrunedOperands<'a, B: Backend> {
    /// Which blocks are kept.
    pub kept: &'a KeptSet<B::Indices>,
    /// (r, C), and r.
    pub coefficients: Option<(&'a B::Statistics, usize)>,
    /// (C).
    pub mean: &'a B::Statistics,
    /// Written: the blocks that are not kept, ascending.
    pub pruned: &'a mut KeptSet<B::Indices>,
    /// (r + 1, pruned channels).
    pub out: &'a mut B::Activations,
}

/// Of [`Backend::channel_score`].
#[derive(Debug)]
pub struct ChannelScoreOperands<'a, B: Backend> {
    /// Energies (tokens, C).
    pub p: &'a B::Statistics,
    /// S_p.
    pub tokens: usize,
    /// C.
    pub channels: usize,
    /// How p is fused with history.
    pub fusion: Fusion<'a, B>,
    /// Which score.
    pub metric: Metric,
    /// Of [`Backend::column_statistic`] (C).
    pub statistic: &'a B::Statistics,
    /// The unit of a score.
    pub unit: Unit,
    /// (C / block_width of the unit).
    pub out: &'a mut B::Statistics,
}

/// Of [`Backend::top_k_keep`].
#[derive(Debug)]
pub struct TopKKeepOperands<'a, B: Backend> {
    /// (kept.of).
    pub scores: &'a B::Statistics,
    /// Written: the `kept.len` best.
    pub kept: &'a mut KeptSet<B::Indices>,
    /// Written to `fault` for a score that is not finite; not 0.
    pub tag: u32,
    /// (1), 0 without a fault.
    pub fault: &'a mut B::Indices,
}

/// Of [`Backend::check_finite`].
#[derive(Debug)]
pub struct CheckFiniteOperands<'a, B: Backend> {
    /// (len).
    pub values: &'a B::Statistics,
    /// Values.
    pub len: usize,
    /// Written to `fault` for a value that is not finite; not 0.
    pub tag: u32,
    /// (1), 0 without a fault.
    pub fault: &'a mut B::Indices,
}

/// Of [`Backend::keep_kv_heads`].
#[derive(Debug)]
pub struct KeepKvHeadsOperands<'a, B: Backend> {
    /// Kept query heads.
    pub heads: &'a KeptSet<B::Indices>,
    /// Query heads per key/value head.
    pub gqa_group: usize,
    /// Written: key/value heads, ascending; entries after the last used one are `u32::MAX`.
    pub kv_heads: &'a mut KeptSet<B::Indices>,
    /// Written (kept heads): the place of each query head's key/value head in that list.
    pub kv_head_of: &'a mut B::Indices,
}

/// Of [`Backend::history_update`].
#[derive(Debug)]
pub struct HistoryUpdateOperands<'a, B: Backend> {
    /// Energies (tokens, kept channels).
    pub p: &'a B::Statistics,
    /// Slots to update.
    pub tokens: usize,
    /// The first of them.
    pub at: usize,
    /// The channels of p.
    pub kept: &'a KeptSet<B::Indices>,
    /// Share of h that stays, in \[0, 1\].
    pub momentum: f64,
    /// h, in place.
    pub history: &'a mut History<B>,
}

/// Of [`Backend::accumulate_moments`].
#[derive(Debug)]
pub struct AccumulateMomentsOperands<'a, B: Backend> {
    /// (B, S, C).
    pub a: &'a B::Activations,
    /// B × S.
    pub shape: BatchShape,
    /// C.
    pub channels: usize,
    /// Samples that the moments have seen.
    pub seen: usize,
    /// In place.
    pub moments: &'a mut Moments<B>,
}

/// Of [`Backend::accumulate_product`].
#[derive(Debug)]
pub struct AccumulateProductOperands<'a, B: Backend> {
    /// (T, M).
    pub a: &'a B::Activations,
    /// (T, N).
    pub b: &'a B::Activations,
    /// T.
    pub rows: usize,
    /// M and N.
    pub columns: [usize; 2],
    /// (M, N), in place.
    pub out: &'a mut B::Statistics,
}

/// Of [`Backend::argmax`].
#[derive(Debug)]
pub struct ArgmaxOperands<'a, B: Backend> {
    /// Logits (T, V).
    pub x: &'a B::Statistics,
    /// T.
    pub rows: usize,
    /// V.
    pub vocab_size: usize,
    /// (T).
    pub out: &'a mut B::Indices,
}

/// Of [`Backend::cross_entropy`].
#[derive(Debug)]
pub struct CrossEntropyOperands<'a, B: Backend> {
    /// (T, E).
    pub x: &'a B::Activations,
    /// T.
    pub rows: usize,
    /// Weight (V, E), no bias.
    pub head: &'a Linear<B>,
    /// (T); `u32::MAX` for none.
    pub targets: &'a B::Indices,
    /// [`Backend::cross_entropy_scratch`] entries.
    pub scratch: &'a mut B::Statistics,
    /// (T).
    pub out: &'a mut B::Statistics,
}

/// Of [`Backend::adapt`].
#[derive(Debug)]
pub struct AdaptOperands<'a, B: Backend> {
    /// The probe's intermediate states (T_p, C).
    pub a: &'a B::Activations,
    /// W·a + b of the dense projection (T_p, H).
    pub target: &'a B::Activations,
    /// T_p.
    pub rows: usize,
    /// (T_p): 0 for pads, which have no say.
    pub mask: Option<&'a B::Indices>,
    /// K: the kept heads or channels, n channels of C.
    pub kept: &'a KeptSet<B::Indices>,
    /// μ_K (n).
    pub means: &'a B::Statistics,
    /// P, updated if it is full.
    pub precision: &'a mut Precision<B::Statistics>,
    /// c: gain of the constant feature.
    pub bias_gain: f32,
    /// Factor by which earlier tokens lose weight.
    pub forgetting: f32,
    /// W' (H, n), updated; (n, H) if [`Backend::TRANSPOSES_COLUMNS`].
    pub weight: &'a mut B::Statistics,
    /// b' (H), updated.
    pub bias: &'a mut B::Statistics,
    /// W' (H, n) rounded to the model's dtype, updated; no other clone of its weight exists. Its own bias is not used.
    pub last: &'a mut Linear<B>,
    /// Mean over tokens of the squared error before the update (1).
    pub error: &'a mut B::Statistics,
    /// Buffers.
    pub scratch: &'a mut AdaptScratch<B>,
}
