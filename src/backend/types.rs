//! The parts of operands: kept sets, projections, norms, probes, histories.

use super::Backend;
use crate::prune::{BatchShape, history::HistoryLayout};

/// Ascending indices of kept blocks of channels, on the device; only their number is known to the host. A head is a block
/// of D channels, an MLP channel a block of one.
#[derive(Clone, Debug)]
pub struct KeptSet<I> {
    /// Kept blocks, ascending; at least `len` entries are allocated.
    pub indices: I,
    /// Kept blocks.
    pub len: usize,
    /// Blocks in all: N heads, or I channels or groups of them.
    pub of: usize,
    /// Channels per block.
    pub block_width: usize,
}

impl<I> KeptSet<I> {
    /// Kept channels.
    pub fn channels(&self) -> usize {
        self.len * self.block_width
    }
}

/// A projection as the checkpoint has it: weight (out, in), optional bias (out).
#[derive(Debug)]
pub struct Linear<B: Backend> {
    /// Weight (out, in) in the file's dtype.
    pub weight: B::Weight,
    /// Bias (out).
    pub bias: Option<B::Statistics>,
    /// Rows of the weight.
    pub out_features: usize,
    /// Columns of the weight.
    pub in_features: usize,
}

/// RMSNorm (no bias, no mean) or LayerNorm, over H.
#[derive(Debug)]
pub struct Norm<B: Backend> {
    /// Which of the two.
    pub kind: NormKind,
    /// Weight (H); `None` for a LayerNorm without affine parameters.
    pub weight: Option<B::Statistics>,
    /// Bias (H), LayerNorm only.
    pub bias: Option<B::Statistics>,
    /// Added to the mean square (variance) before the square root.
    pub eps: f32,
}

/// Which normalisation a model uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// x · rsqrt(mean x² + eps) · weight (LLaMA).
    Rms,
    /// (x − mean) · rsqrt(var + eps) · weight + bias (OPT).
    Layer,
}

/// The rows chosen as a probe (paper section 3.1), on the device.
#[derive(Debug)]
pub struct Probe<B: Backend> {
    /// B_p × S_p.
    pub shape: BatchShape,
    /// Kept samples (B_p), ascending.
    pub samples: B::Indices,
    /// Kept token slots (S_p), ascending.
    pub slots: B::Indices,
    /// Position ids of the probe's rows (B_p·S_p).
    pub positions: B::Indices,
    /// 1 for tokens, 0 for pads, of the probe's rows (B_p·S_p); meaningful if the batch has a mask.
    pub mask: B::Indices,
}

/// Shapes and rules of one attention call.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Samples × new tokens.
    pub queries: BatchShape,
    /// Valid keys per sample; query i of a sample sits at slot `keys − queries.tokens + i`.
    pub keys: usize,
    /// Rows per sample in the key and value buffers (≥ `keys`).
    pub key_capacity: usize,
    /// Query heads in `q` and `out`.
    pub heads: usize,
    /// Heads in the key and value buffers.
    pub kv_heads: usize,
    /// D.
    pub head_dim: usize,
    /// Factor on q·k (1 where q was scaled before).
    pub scale: f32,
    /// A query sees only keys less than this many slots back.
    pub window: Option<usize>,
}

/// Running energies h per slot and channel (docs/method.md, section 6) in the memory that its layout asks for.
#[derive(Debug)]
pub struct History<B: Backend> {
    /// (ceil(slots / bucket), C) as [`HistoryLayout`] stores them.
    pub values: B::Statistics,
    /// Slots that it holds; later ones count as h = 0.
    pub slots: usize,
    /// C.
    pub channels: usize,
    /// Number format and slots per row.
    pub layout: HistoryLayout,
}

/// How the probe's energies are fused with history (docs/method.md, section 3).
#[derive(Debug)]
pub enum Fusion<'a, B: Backend> {
    /// E\[c\] = Σ_s p\[s,c\].
    ProbeOnly,
    /// e = w·p + (1−w)·h with w = p / (p + h + 1e-6), or a fixed w.
    History {
        /// h.
        history: &'a History<B>,
        /// The slot of each of the probe's tokens (S_p).
        slots: &'a B::Indices,
        /// A fixed probe weight in place of the importance-scaled one.
        fixed_weight: Option<f32>,
    },
}

/// Where a product leaves the energies of its output: out (S, C) = mean over samples of the output squared, as in
/// [`Backend::energy`].
#[derive(Debug)]
pub struct EnergyOutput<'a, B: Backend> {
    /// B × S of the product's rows.
    pub shape: BatchShape,
    /// (B, S): 0 for pads.
    pub mask: Option<&'a B::Indices>,
    /// (S, C).
    pub out: &'a mut B::Statistics,
    /// The product itself is not read: it may stay unwritten.
    pub energy_only: bool,
}

/// A low-rank product that a last projection adds for the pruned channels (docs/method.md, section 10).
#[derive(Debug)]
pub struct LowRank<'a, B: Backend> {
    /// z (T, r): the low-rank image of the block's input; not read where r is 0.
    pub z: &'a B::Activations,
    /// r.
    pub rank: usize,
    /// (r + 1, H): a row for each column of z, and a last row that is added to every token.
    pub weight: &'a B::Activations,
}

impl<B: Backend> Clone for LowRank<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Backend> Copy for LowRank<'_, B> {}

/// A place in a key/value cache.
#[derive(Debug)]
pub struct CacheSlots<'a, B: Backend> {
    /// (B, capacity, key/value heads, D).
    pub keys: &'a mut B::Activations,
    /// (B, capacity, key/value heads, D).
    pub values: &'a mut B::Activations,
    /// Slots per sample.
    pub capacity: usize,
    /// The first new token's slot.
    pub at: usize,
}

/// P of a correction: the inverse of its features' second moments, weighed by tokens (docs/method.md, section 13).
#[derive(Debug)]
pub enum Precision<S> {
    /// All of it (n, n), updated.
    Full(S),
    /// Its diagonal (n), which stays.
    Diagonal(S),
}

/// Buffers of [`Backend::adapt`], for probes of T_p rows and n kept channels.
#[derive(Debug)]
pub struct AdaptScratch<B: Backend> {
    /// a_K − μ_K (T_p, n); the CPU has it transposed.
    pub features: B::Statistics,
    /// Their product with P (T_p, n).
    pub images: B::Statistics,
    /// (T_p, H); the CPU has them transposed.
    pub errors: B::Statistics,
    /// (T_p, T_p), and one more row (T_p).
    pub gram: B::Statistics,
    /// The output at the mean (H).
    pub at_mean: B::Statistics,
    /// A word (1) that a device keeps: not 0 where nothing may be changed.
    pub fault: B::Indices,
}

/// How a weight will be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightUse {
    /// Whole rows: embedding tables, first projections, the head.
    Rows,
    /// By columns: last projections, whose columns are pruned ([`Backend::project`]). See [`Backend::TRANSPOSES_COLUMNS`].
    Columns,
}

/// Running moments of one block's intermediate states, gathered by calibration (docs/method.md, sections 6 and 7).
#[derive(Debug)]
pub struct Moments<B: Backend> {
    /// h (S, C): mean of a² over samples.
    pub energy: B::Statistics,
    /// μ (S, C): mean of a over samples; empty where it is not needed.
    pub mean: B::Statistics,
    /// β (S, C), as the published FLAP code accumulates it; empty, like φ, without FLAP.
    pub baseline: B::Statistics,
    /// φ (S, C): FLAP's fluctuation.
    pub fluctuation: B::Statistics,
}
