//! Every operation of a pruned block (tests/operations) at the shape of a model. Benchmarks time it, and
//! tests/kernel_cases.rs compares backends at small shapes.

use probeprune::{
    backend::NormKind,
    prune::{
        BatchShape, Unit, counts,
        history::HistoryLayout,
        settings::{Metric, ProbeOrder, Settings},
    },
};

use crate::operations::{
    AttentionCase, CentreCase, EnergyCase, GatherPrunedCase, LinearCase, LinearKind, MomentsCase, NormCase,
    Operation, Padding, Past, ProbeGatherCase, ProductCase, ProjectCase, RopeCase, ScoreCase, Scores,
    SelectCase, Squares, TopKCase, UpdateCase, product::Keep,
};

/// Sizes of a decoder layer and of a batch, and the numbers of kept heads and channels.
#[derive(Clone, Copy, Debug)]
pub struct LayerShape {
    /// In benchmarks' names.
    pub name: &'static str,
    /// B × S.
    pub batch: BatchShape,
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
const fn shape(name: &'static str, [samples, tokens]: [usize; 2], sizes: [usize; 6]) -> LayerShape {
    let [hidden, intermediate, heads, head_dim, kept_heads, kept_channels] = sizes;
    let batch = BatchShape { samples, tokens };
    LayerShape { name, batch, hidden, intermediate, heads, head_dim, kept_heads, kept_channels }
}

const LLAMA_2_7B: [usize; 6] = [4096, 11_008, 32, 128, 18, 6208];
const MEDIUM_SIZES: [usize; 6] = [1024, 2816, 16, 64, 10, 1728];

/// For a GPU: LLaMA-2-7B at 40 %, whose middle layers prune 44 %.
pub const LARGE: [LayerShape; 4] = [
    shape("llama2_7b_20x1024", [20, 1024], LLAMA_2_7B),
    shape("llama2_7b_4x1024", [4, 1024], LLAMA_2_7B),
    shape("llama2_7b_1x1024", [1, 1024], LLAMA_2_7B),
    shape("llama2_7b_1x1", [1, 1], LLAMA_2_7B),
];

/// For a CPU, at 40 %.
pub const MEDIUM: [LayerShape; 2] =
    [shape("medium_4x256", [4, 256], MEDIUM_SIZES), shape("medium_1x1", [1, 1], MEDIUM_SIZES)];

/// r of the linear map of compensation.
const RANK: usize = 32;

/// To see that everything runs.
pub const SMALL: LayerShape = shape("small_3x24", [3, 24], [48, 80, 3, 16, 2, 48]);

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
    /// Energies of the MLP's probe around the mean, for compensation.
    CentreEnergy,
    /// The pruned channels' coefficients of a linear map, and their means.
    GatherPruned,
    /// Their product with down_proj's pruned columns.
    PrunedProduct,
    /// down_proj by kept channels with the compensation of pruned ones.
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
            Self::Rope => "rope_cache",
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

    /// Whether it exists both dense and by kept heads or channels.
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
pub struct LayerCase {
    pub op: Op,
    pub shape: LayerShape,
    pub pruned: bool,
}

/// Every case of a shape, whole ones before their pruned ones.
pub fn cases(shape: LayerShape) -> Vec<LayerCase> {
    let ops = Op::ALL.into_iter().filter(|op| shape.batch.rows() > 1 || op.decodes());
    ops.flat_map(|op| {
        let both = [false, true].into_iter().take(1 + usize::from(op.is_prunable()));
        both.map(move |pruned| LayerCase { op, shape, pruned })
    })
    .collect()
}

impl LayerCase {
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

    /// The operation with its sizes.
    pub fn operation(&self) -> Operation {
        let LayerShape { batch, hidden, intermediate, heads, head_dim, kept_heads, kept_channels, .. } =
            self.shape;
        let rows = batch.rows();
        let blocks =
            |len, block_width| if self.pruned { Keep::Blocks { len, block_width } } else { Keep::Dense };
        let (by_heads, by_channels) = (blocks(kept_heads, head_dim), blocks(kept_channels, 1));
        let kept_of_heads = if self.pruned { kept_heads } else { heads };
        let probe = counts::probe_shape(&Settings::default(), batch);
        let layout = HistoryLayout::default();
        let pruned = intermediate - kept_channels;
        let project = |rows, channels| ProjectCase::new(rows, [hidden, channels]);
        match self.op {
            Op::Norm => {
                let kind = Some(NormKind::Rms);
                NormCase::new(kind, rows, hidden).into()
            }
            Op::ProbeSelect => {
                let (order, padding) = (ProbeOrder::TokensSamples, Padding::None);
                SelectCase { shape: batch, probe, order, padding, squares: Squares::Rough }.into()
            }
            Op::ProbeGather => ProbeGatherCase { shape: batch, probe, hidden_size: hidden }.into(),
            Op::Query => {
                LinearCase::new(LinearKind::Linear, rows, [heads * head_dim, hidden]).keep(by_heads).into()
            }
            Op::Gated => {
                LinearCase::new(LinearKind::Gated, rows, [intermediate, hidden]).keep(by_channels).into()
            }
            Op::Output => project(rows, heads * head_dim).keep(by_heads).with_residual().into(),
            Op::Down => project(rows, intermediate).keep(by_channels).with_residual().into(),
            Op::Rope => {
                RopeCase { shape: batch, heads, kv_heads: heads, head_dim, rotary: true, cache: None }.into()
            }
            Op::Attention => {
                let kv_head_of: Vec<u32> = (0..kept_of_heads as u32).collect();
                let scale = (head_dim as f32).powf(-0.5);
                let case =
                    AttentionCase { head_dim, scale, ..AttentionCase::new(batch.tokens, batch.tokens) };
                case.samples(batch.samples).heads(&kv_head_of, kept_of_heads).into()
            }
            Op::Energy => {
                EnergyCase { shape: batch, channels: heads * head_dim, masked: false, sums: false }.into()
            }
            Op::Score => {
                let past = Some(Past { layout, slots: batch.tokens, fixed_weight: None });
                let (unit, metric) = (Unit::Channel, Metric::Ppsp);
                ScoreCase { tokens: probe.tokens, channels: intermediate, unit, metric, past }.into()
            }
            Op::TopK => TopKCase::new(Scores::Uniform, intermediate, kept_channels).into(),
            Op::History => UpdateCase {
                layout,
                slots: batch.tokens,
                channels: intermediate,
                kept: kept_channels,
                block_width: 1,
                tokens: batch.tokens,
                at: 0,
                momentum: 0.99,
                overflow: false,
            }
            .into(),
            Op::CentreEnergy => CentreCase::new(probe, intermediate, false, true).into(),
            Op::GatherPruned => {
                GatherPrunedCase { of: intermediate, kept: kept_channels, block_width: 1, rank: RANK }.into()
            }
            Op::PrunedProduct => project(RANK + 1, intermediate).keep(Keep::channels(pruned)).into(),
            Op::DownAdded => {
                let case = project(rows, intermediate).keep(Keep::channels(kept_channels)).with_residual();
                ProjectCase { low_rank: Some(RANK), ..case }.into()
            }
            Op::Moments => {
                let (batches, tokens) = (vec![batch.samples], batch.tokens);
                MomentsCase { batches, tokens, channels: intermediate, flap: false, mean: true }.into()
            }
            Op::InputProduct => ProductCase { rows, m: hidden, n: None }.into(),
        }
    }
}
