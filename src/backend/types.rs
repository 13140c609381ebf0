//! What operations work on: shapes, kept sets, projections, norms, probes, histories.

use super::Backend;
use crate::prune::settings::HistoryLayout;

/// Rows of a batch as a grid: `samples` × `tokens`, sample-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// B: samples.
    pub samples: usize,
    /// S: tokens of every sample, pads included.
    pub tokens: usize,
}

impl Grid {
    /// T = B·S.
    pub fn rows(self) -> usize {
        self.samples * self.tokens
    }
}

/// An ascending index list that lives on the device; only its length is known to the host.
#[derive(Clone, Debug)]
pub struct KeptSet<I> {
    /// Kept indices, ascending; at least `len` entries are allocated.
    pub indices: I,
    /// How many are kept.
    pub len: usize,
    /// How many candidates there were (N heads or I channels).
    pub of: usize,
}

/// A kept set seen as blocks of channels: a head is a block of D channels, an MLP channel is a block of one.
#[derive(Debug)]
pub struct KeptBlocks<'a, I> {
    /// Which blocks.
    pub set: &'a KeptSet<I>,
    /// Channels per block: D for heads, 1 for MLP channels.
    pub width: usize,
}

impl<I> Clone for KeptBlocks<'_, I> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<I> Copy for KeptBlocks<'_, I> {}

impl<I> KeptBlocks<'_, I> {
    /// Kept channels in all.
    pub fn channels(&self) -> usize {
        self.set.len * self.width
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
    pub grid: Grid,
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
    /// Queries: samples × new tokens.
    pub queries: Grid,
    /// Keys per sample that are valid; query i of a sample sits at slot `keys − queries.tokens + i`.
    pub keys: usize,
    /// Rows per sample in the key and value buffers (≥ `keys`).
    pub key_capacity: usize,
    /// Query heads in `q` and `out`.
    pub heads: usize,
    /// Head slots in the key and value buffers.
    pub kv_heads: usize,
    /// D.
    pub head_dim: usize,
    /// Factor on q·k (1 where q was scaled before).
    pub scale: f32,
    /// A query sees only keys less than this many slots back.
    pub window: Option<usize>,
}

/// Running energies h per slot and channel (spec section 6) in the memory that its layout asks for.
#[derive(Debug)]
pub struct History<B: Backend> {
    /// (ceil(slots / bucket), C) as [`HistoryLayout`] stores them.
    pub values: B::Statistics,
    /// Slots that it holds; later ones count as h = 0.
    pub slots: usize,
    /// C.
    pub width: usize,
    /// Number format and slots per row.
    pub layout: HistoryLayout,
}

/// How the probe's energies meet history's (spec section 3).
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

/// Where a product leaves the energies of what it computed: out (S, C) = mean over samples of its output squared, as
/// [`Backend::energy`] has it.
#[derive(Debug)]
pub struct EnergyOf<'a, B: Backend> {
    /// B × S of the product's rows.
    pub grid: Grid,
    /// (B, S): 0 for pads.
    pub mask: Option<&'a B::Indices>,
    /// (S, C).
    pub out: &'a mut B::Statistics,
    /// Nobody looks at the product itself: it may stay unwritten.
    pub alone: bool,
}

/// What a last projection adds for the channels that are pruned (spec compensation).
#[derive(Debug)]
pub struct Addition<'a, B: Backend> {
    /// z (T, r): the low-rank image of the block's input; not looked at where r is 0.
    pub z: &'a B::Activations,
    /// r.
    pub rank: usize,
    /// (r + 1, H): what each column of z stands for, and in the last row what is added to every token.
    pub weight: &'a B::Activations,
}

impl<B: Backend> Clone for Addition<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Backend> Copy for Addition<'_, B> {}

/// What one score is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A channel.
    Channel,
    /// A group of so many neighbouring channels: the L2 norm of their scores.
    Group(usize),
    /// A head of D channels: the L2 norm of their scores for `ppsp`, their sum otherwise.
    Head(usize),
}

impl Unit {
    /// Channels of a unit.
    pub fn width(self) -> usize {
        match self {
            Self::Channel => 1,
            Self::Group(width) | Self::Head(width) => width,
        }
    }
}

/// What happens to q, k and v between their projections and attention.
#[derive(Debug)]
pub struct Placement<'a, B: Backend> {
    /// Samples × new tokens.
    pub grid: Grid,
    /// Query heads.
    pub heads: usize,
    /// Head slots of keys and values.
    pub kv_heads: usize,
    /// D.
    pub head_dim: usize,
    /// Rotary table (positions, D), D/2 cosines and then D/2 sines, and the position of each row (T); `None` for OPT.
    pub rotary: Option<(&'a B::Statistics, &'a B::Indices)>,
    /// Where keys and values go besides their own buffers.
    pub cache: Option<CacheSlots<'a, B>>,
}

/// A place in a key/value cache.
#[derive(Debug)]
pub struct CacheSlots<'a, B: Backend> {
    /// (B, capacity, head slots, D).
    pub keys: &'a mut B::Activations,
    /// (B, capacity, head slots, D).
    pub values: &'a mut B::Activations,
    /// Slots per sample.
    pub capacity: usize,
    /// The first new token's slot.
    pub at: usize,
}

/// How a weight will be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightUse {
    /// Whole rows: embedding tables, first projections, the head.
    Rows,
    /// By columns: last projections, whose columns are pruned ([`Backend::project`]). A device may store it transposed.
    Columns,
}

/// Running moments of one block's intermediate states, gathered by calibration (spec sections 6 and 7).
#[derive(Debug)]
pub struct Moments<B: Backend> {
    /// h (S, C): mean of a² over samples.
    pub energy: B::Statistics,
    /// μ (S, C): mean of a over samples; empty where nobody needs it.
    pub mean: B::Statistics,
    /// β (S, C), as the published FLAP code accumulates it; empty, as φ then is, where FLAP is not asked for.
    pub baseline: B::Statistics,
    /// φ (S, C): FLAP's fluctuation.
    pub fluctuation: B::Statistics,
}
