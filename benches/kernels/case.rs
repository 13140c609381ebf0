//! The case table: every operation of a pruned block at the shape of a model, for any backend. Benchmarks time it, and
//! tests/kernel_cases.rs checks it at small shapes.

pub mod prepare;

use probeprune::{
    backend::Grid,
    prune::{counts, settings::Settings},
};

/// Sizes of a decoder layer and of a batch, and what is kept of it.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// In benchmarks' names.
    pub name: &'static str,
    /// B × S.
    pub grid: Grid,
    /// H.
    pub hidden: usize,
    /// I.
    pub intermediate: usize,
    /// N, as many as key/value heads.
    pub heads: usize,
    /// D.
    pub head_dim: usize,
    /// Kept of N.
    pub kept_heads: usize,
    /// Kept of I.
    pub kept_channels: usize,
}

/// Sizes: H, I, N, D, kept heads, kept channels.
const fn shape(name: &'static str, [samples, tokens]: [usize; 2], sizes: [usize; 6]) -> Shape {
    let [hidden, intermediate, heads, head_dim, kept_heads, kept_channels] = sizes;
    let grid = Grid { samples, tokens };
    Shape { name, grid, hidden, intermediate, heads, head_dim, kept_heads, kept_channels }
}

const LLAMA_2_7B: [usize; 6] = [4096, 11_008, 32, 128, 18, 6208];
const MEDIUM_SIZES: [usize; 6] = [1024, 2816, 16, 64, 10, 1728];

/// For a GPU: LLaMA-2-7B at 40 %, whose middle layers prune 44 %.
pub const LARGE: [Shape; 4] = [
    shape("llama2_7b_20x1024", [20, 1024], LLAMA_2_7B),
    shape("llama2_7b_4x1024", [4, 1024], LLAMA_2_7B),
    shape("llama2_7b_1x1024", [1, 1024], LLAMA_2_7B),
    shape("llama2_7b_1x1", [1, 1], LLAMA_2_7B),
];

/// For a CPU, at 40 %.
pub const MEDIUM: [Shape; 2] =
    [shape("medium_4x256", [4, 256], MEDIUM_SIZES), shape("medium_1x1", [1, 1], MEDIUM_SIZES)];

/// r of the linear map of compensation.
const RANK: usize = 32;

/// To see that everything runs.
pub const SMALL: Shape = shape("small_3x24", [3, 24], [48, 80, 3, 16, 2, 48]);

/// The operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// RMSNorm with the residual importance.
    Norm,
    /// The probe's tokens and samples.
    ProbeSelect,
    /// The probe's rows.
    ProbeGather,
    /// q_proj, whole or by kept heads.
    Query,
    /// gate, up and SiLU, whole or by kept channels.
    Gated,
    /// o_proj, whole or by kept heads.
    Output,
    /// down_proj, whole or by kept channels.
    Down,
    /// Rotary positions of q and k.
    Rope,
    /// Causal attention, of all or of kept heads.
    Attention,
    /// Energies of attention's intermediate states.
    Energy,
    /// Fusion with history and scores of the MLP's channels.
    Score,
    /// The kept set of the MLP.
    TopK,
    /// History of the MLP's kept channels.
    History,
    /// Energies of the MLP's probe around what stands in for its channels.
    CentreEnergy,
    /// The pruned channels' coefficients of a linear map, and what stands in for them.
    GatherPruned,
    /// Their product with down_proj's pruned columns.
    PrunedProduct,
    /// down_proj by kept channels with what it adds for pruned ones.
    DownAdded,
    /// Calibration's moments of the MLP's intermediate states.
    Moments,
    /// Calibration's second moments of a block's input.
    InputProduct,
}

impl Op {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::Norm,
        Self::ProbeSelect,
        Self::ProbeGather,
        Self::Query,
        Self::Gated,
        Self::Output,
        Self::Down,
        Self::Rope,
        Self::Attention,
        Self::Energy,
        Self::Score,
        Self::TopK,
        Self::History,
        Self::CentreEnergy,
        Self::GatherPruned,
        Self::PrunedProduct,
        Self::DownAdded,
        Self::Moments,
        Self::InputProduct,
    ];

    /// In benchmarks' names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Norm => "norm",
            Self::ProbeSelect => "probe_select",
            Self::ProbeGather => "probe_gather",
            Self::Query => "linear_q",
            Self::Gated => "gated_linear",
            Self::Output => "project_o",
            Self::Down => "project_down",
            Self::Rope => "place_qkv",
            Self::Attention => "attention",
            Self::Energy => "energy",
            Self::Score => "channel_score",
            Self::TopK => "top_k_keep",
            Self::History => "history_update",
            Self::CentreEnergy => "centre_energy",
            Self::GatherPruned => "gather_pruned",
            Self::PrunedProduct => "project_pruned",
            Self::DownAdded => "project_down_added",
            Self::Moments => "accumulate_moments",
            Self::InputProduct => "accumulate_product",
        }
    }

    /// Whether it is there both whole and by what is kept.
    pub fn is_prunable(self) -> bool {
        matches!(self, Self::Query | Self::Gated | Self::Output | Self::Down | Self::Attention)
    }

    /// Whether a batch of one row has it: a decoding step chooses nothing.
    fn decodes(self) -> bool {
        self.is_prunable() || matches!(self, Self::Norm | Self::Rope)
    }
}

/// An operation at a shape, whole or pruned.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub op: Op,
    pub shape: Shape,
    pub pruned: bool,
}

/// Every case of a shape, whole ones before their pruned ones.
pub fn cases(shape: Shape) -> Vec<Case> {
    let ops = Op::ALL.into_iter().filter(|op| shape.grid.rows() > 1 || op.decodes());
    ops.flat_map(|op| {
        let both = [false, true].into_iter().take(1 + usize::from(op.is_prunable()));
        both.map(move |pruned| Case { op, shape, pruned })
    })
    .collect()
}

impl Case {
    /// As "gated_linear/llama2_7b_4x1024/kept".
    pub fn id(&self) -> String {
        let what = if self.pruned { "kept" } else { "whole" };
        format!(
            "{}/{}{}",
            self.op.name(),
            self.shape.name,
            if self.op.is_prunable() { format!("/{what}") } else { String::new() }
        )
    }

    /// N·D or what is kept of it.
    fn head_channels(&self) -> usize {
        self.shape.head_dim * if self.pruned { self.shape.kept_heads } else { self.shape.heads }
    }

    fn channels(&self) -> usize {
        if self.pruned { self.shape.kept_channels } else { self.shape.intermediate }
    }

    /// What is not kept of I.
    fn pruned_channels(&self) -> usize {
        self.shape.intermediate - self.shape.kept_channels
    }

    /// B_p × S_p.
    fn probe(&self) -> Grid {
        let Grid { samples, tokens } = self.shape.grid;
        let (samples, tokens) = counts::probe_counts(&Settings::default(), samples, tokens);
        Grid { samples, tokens }
    }

    /// (rows, outputs, inputs) of the matrix product on what is kept, of which gate and up are two.
    pub fn product(&self) -> Option<[usize; 3]> {
        let (t, h) = (self.shape.grid.rows(), self.shape.hidden);
        match self.op {
            Op::Query => Some([t, self.head_channels(), h]),
            Op::Output => Some([t, h, self.head_channels()]),
            Op::Gated => Some([t, self.channels(), h]),
            Op::Down => Some([t, h, self.channels()]),
            Op::PrunedProduct => Some([RANK + 1, h, self.pruned_channels()]),
            Op::DownAdded => Some([t, h, self.shape.kept_channels + RANK]),
            Op::InputProduct => Some([h, h, t]),
            _ => None,
        }
    }

    /// Floating-point operations, where they are what limits: products and attention.
    pub fn flops(&self) -> Option<f64> {
        let Grid { samples, tokens } = self.shape.grid;
        match (self.op, self.product()) {
            (op, Some(sizes)) => {
                let products = if op == Op::Gated { 2.0 } else { 1.0 };
                Some(sizes.iter().fold(2.0 * products, |flops, &size| flops * size as f64))
            }
            // Two products over the causal half.
            (Op::Attention, None) => {
                let pairs = samples as f64 * (tokens * (tokens + 1)) as f64 / 2.0;
                Some(4.0 * pairs * self.head_channels() as f64)
            }
            _ => None,
        }
    }

    /// Bytes that have to be moved at least: every input and output once, where an activation has `element` bytes and a
    /// weight `weight`.
    pub fn bytes(&self, element: usize, weight: usize) -> f64 {
        let (t, h, i) = (self.shape.grid.rows(), self.shape.hidden, self.shape.intermediate);
        let Grid { tokens, .. } = self.shape.grid;
        let (n, probe) = (self.head_channels(), self.probe());
        let (kept, pruned) = (self.shape.kept_channels, self.pruned_channels());
        let bytes = match self.op {
            Op::Norm => element * 2 * t * h + 4 * (t + h),
            Op::ProbeSelect => 4 * (2 * t + probe.rows()),
            Op::ProbeGather => element * 2 * probe.rows() * h,
            Op::Query => element * t * (h + n) + weight * n * h,
            Op::Output => element * t * (n + 2 * h) + weight * n * h,
            Op::Gated => element * t * (h + self.channels()) + 2 * weight * self.channels() * h,
            Op::Down => element * t * (self.channels() + 2 * h) + weight * self.channels() * h,
            Op::Rope => element * 4 * t * n + 4 * tokens * self.shape.head_dim,
            Op::Attention => element * 4 * t * n,
            Op::Energy => element * t * n + 4 * tokens * n,
            Op::Score => 4 * (2 * probe.tokens * i + 2 * i),
            Op::TopK => 4 * (i + kept),
            Op::History => 4 * 3 * tokens * kept,
            Op::CentreEnergy => 4 * (3 * probe.tokens * i + i),
            Op::GatherPruned => 4 * (i + (RANK + 1) * pruned) + element * (RANK + 1) * pruned,
            Op::PrunedProduct => element * (RANK + 1) * (pruned + h) + weight * pruned * h,
            Op::DownAdded => element * (t * (kept + RANK + 2 * h) + (RANK + 1) * h) + weight * kept * h,
            Op::Moments => element * t * i + 4 * 4 * tokens * i,
            Op::InputProduct => element * t * h + 4 * 2 * h * h,
        };
        bytes as f64
    }
}
