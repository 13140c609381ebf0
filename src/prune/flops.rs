//! Projection FLOPs, dense and pruned (docs/method.md, section 8). Attention scores and norms are left out, as in the paper.

use crate::{
    config::{Family, ModelConfig},
    error::Result,
    prune::{
        BatchShape, Block, counts,
        settings::{Compensation, Method, Settings},
    },
};

/// Kept counts of one layer; the full counts where it is dense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerCounts {
    /// Kept query heads.
    pub heads: usize,
    /// Key/value heads computed, at most (under GQA the data may need fewer).
    pub kv_heads: usize,
    /// Kept MLP channels.
    pub channels: usize,
    /// Whether a probe runs before the attention block.
    pub probes_attention: bool,
    /// Whether a probe runs before the MLP block.
    pub probes_mlp: bool,
    /// Compensation of the channels that a probed block prunes.
    pub compensate: Compensation,
}

impl LayerCounts {
    /// A layer in which nothing is pruned.
    pub fn dense(config: &ModelConfig) -> Self {
        Self {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            channels: config.intermediate_size,
            probes_attention: false,
            probes_mlp: false,
            compensate: Compensation::None,
        }
    }

    /// Kept counts of every layer by settings alone; FLAP's depend on data, so an equal share in
    /// every block is assumed.
    ///
    /// # Errors
    /// A ratio that leaves nothing, channels that are not whole groups, or a skipped layer that is not there.
    pub fn by_settings(config: &ModelConfig, settings: &Settings) -> Result<Vec<Self>> {
        let mut layers = vec![LayerCounts::dense(config); config.num_hidden_layers];
        let Some(ratio) = counts::layer_ratio(settings, layers.len())?.filter(|&ratio| ratio > 0.0) else {
            return Ok(layers);
        };
        for (index, layer) in layers.iter_mut().enumerate() {
            if settings.skip_layers.contains(&index) {
                continue;
            }
            let dynamic = settings.method.is_dynamic();
            let parallel = settings.method == Method::ProbePruning && settings.parallel_probe;
            if !(parallel && index == 0) {
                layer.heads = counts::kept_heads(settings, config, ratio)?;
                layer.kv_heads = layer.heads.min(config.num_key_value_heads);
                layer.probes_attention = dynamic;
            }
            layer.channels = counts::kept_channels(settings, config, ratio)?;
            layer.compensate = settings.compensate;
            layer.probes_mlp = dynamic;
        }
        Ok(layers)
    }
}

/// Shares of the dense model's projection FLOPs, all layers counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shares {
    /// The whole batch on the kept channels, plus the probe.
    pub total: f64,
    /// The probe alone.
    pub probe: f64,
}

/// FLOPs per row of (q, k, v), o, (gate, up or fc1), (down or fc2).
fn per_row(config: &ModelConfig, counts: LayerCounts) -> [f64; 4] {
    let product = |a: usize, b: usize| 2.0 * a as f64 * b as f64;
    let h = config.hidden_size;
    let first = if config.family == Family::Llama { 2 } else { 1 };
    [
        product(h, (counts.heads + 2 * counts.kv_heads) * config.head_dim),
        product(h, counts.heads * config.head_dim),
        product(h, counts.channels * first),
        product(h, counts.channels),
    ]
}

/// Shares for a batch of this shape.
pub fn shares(
    config: &ModelConfig,
    settings: &Settings,
    layers: &[LayerCounts],
    shape: BatchShape,
) -> Shares {
    let dense_layer = per_row(config, LayerCounts::dense(config));
    let rows = shape.rows() as f64;
    let probe = match settings.method {
        Method::FullBatch => shape,
        _ => counts::probe_shape(settings, shape),
    };
    let probe_rows = probe.rows() as f64;
    let dense = layers.len() as f64 * rows * dense_layer.iter().sum::<f64>();
    let (mut full, mut probe) = (0.0, 0.0);
    for &layer in layers {
        full += rows * per_row(config, layer).iter().sum::<f64>();
        for (block, probes, first) in [
            (Block::Attention, layer.probes_attention, dense_layer[0]),
            (Block::Mlp, layer.probes_mlp, dense_layer[2]),
        ] {
            if probes {
                let (batch, of_probe) = compensation(config, layer, block, rows, probe_rows);
                full += batch;
                probe += probe_rows * first + of_probe;
            }
        }
    }
    Shares { total: (full + probe) / dense, probe: probe / dense }
}

/// FLOPs of a probed block's compensation: for the whole batch (z, its product, and the matrix of that product), and for
/// the probe (z and B·z).
fn compensation(
    config: &ModelConfig,
    layer: LayerCounts,
    block: Block,
    rows: f64,
    probe_rows: f64,
) -> (f64, f64) {
    if layer.compensate == Compensation::None {
        return (0.0, 0.0);
    }
    let (h, r) = (config.hidden_size as f64, layer.compensate.rank() as f64);
    let channels = block.channels(config) as f64;
    let kept = match block {
        Block::Attention => layer.heads * config.head_dim,
        Block::Mlp => layer.channels,
    };
    let of_batch = rows * 4.0 * r * h + 2.0 * (r + 1.0) * (channels - kept as f64) * h;
    (of_batch, probe_rows * 2.0 * r * (h + channels))
}
