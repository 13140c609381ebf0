//! Projection FLOPs, dense and pruned (docs/method.md, section 8). Attention scores and norms are left out, as in the paper.

use crate::{
    config::{Family, LayerShape, ModelConfig},
    error::Result,
    prune::{
        BatchShape, Block,
        allocation::Losses,
        counts,
        settings::{AdaptMetric, Compensation, Method, Settings},
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
        Self::of(&LayerShape::of(config))
    }

    /// A layer that runs all of these heads and channels.
    pub fn of(shape: &LayerShape) -> Self {
        Self {
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            channels: shape.channels,
            probes_attention: false,
            probes_mlp: false,
            compensate: Compensation::None,
        }
    }

    /// Kept counts of every layer before a batch runs; FLAP's depend on data, so an equal share in
    /// every block is assumed. `losses` are for a measured allocation.
    ///
    /// # Errors
    /// As [`counts::kept`].
    pub fn by_settings(
        config: &ModelConfig,
        settings: &Settings,
        losses: Option<&Losses>,
    ) -> Result<Vec<Self>> {
        let mut layers = vec![LayerCounts::dense(config); config.num_hidden_layers];
        let dynamic = settings.method.is_dynamic() || settings.adapt.is_on();
        let parallel = settings.method == Method::ProbePruning && settings.parallel_probe;
        let kept = counts::kept(settings, config, losses)?;
        for (index, (layer, [heads, channels])) in layers.iter_mut().zip(kept).enumerate() {
            if let Some(heads) = heads.filter(|_| !(parallel && index == 0)) {
                layer.heads = heads;
                layer.kv_heads = heads.min(config.num_key_value_heads);
                layer.probes_attention = dynamic;
            }
            if let Some(channels) = channels {
                layer.channels = channels;
                layer.probes_mlp = dynamic;
            }
            if heads.or(channels).is_some() {
                layer.compensate = settings.compensate;
            }
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
            if probes && settings.method == Method::Fold {
                // An MLP's probe has the kept channels from the batch.
                let of_probe = match block {
                    Block::Attention => 1.0,
                    Block::Mlp => 1.0 - layer.channels as f64 / config.intermediate_size as f64,
                };
                probe +=
                    probe_rows * first * of_probe + correction(config, settings, layer, block, probe_rows);
            } else if probes {
                let (batch, of_probe) = compensation(config, layer, block, rows, probe_rows);
                full += batch;
                probe += probe_rows * first + of_probe;
            }
        }
    }
    Shares { total: (full + probe) / dense, probe: probe / dense }
}

/// Shares for a prompt of this shape: where the dense model runs it, its rows are the probe, and the correction alone is added.
pub fn prompt_shares(
    config: &ModelConfig,
    settings: &Settings,
    layers: &[LayerCounts],
    shape: BatchShape,
) -> Shares {
    if !settings.prefills_dense() {
        return shares(config, settings, layers, shape);
    }
    let dense_row: f64 = per_row(config, LayerCounts::dense(config)).iter().sum();
    let probe_rows = counts::probe_shape(settings, shape).rows() as f64;
    let of_block = |&layer: &LayerCounts, block, probes| {
        if probes { correction(config, settings, layer, block, probe_rows) } else { 0.0 }
    };
    let of_layer = |layer: &LayerCounts| {
        of_block(layer, Block::Attention, layer.probes_attention)
            + of_block(layer, Block::Mlp, layer.probes_mlp)
    };
    let probe =
        layers.iter().map(of_layer).sum::<f64>() / (layers.len() as f64 * shape.rows() as f64 * dense_row);
    Shares { total: 1.0 + probe, probe }
}

/// FLOPs of a probed block's compensation: for the whole batch (z, its product, and the matrix of that product), and for
/// the probe (z and B·z).
pub(super) fn compensation(
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

/// FLOPs of a fold's correction by a probe (docs/method.md, section 13): the last projection of all channels and of the
/// kept ones, the images of the features, S and its factor, the solved images and errors, and the updates of W' and P.
fn correction(
    config: &ModelConfig,
    settings: &Settings,
    layer: LayerCounts,
    block: Block,
    probe_rows: f64,
) -> f64 {
    let (t, h, channels) = (probe_rows, config.hidden_size as f64, block.channels(config) as f64);
    let n = match block {
        Block::Attention => (layer.heads * config.head_dim) as f64,
        Block::Mlp => layer.channels as f64,
    };
    // Two for the images, one for the symmetric update.
    let metric = if settings.adapt.metric == AdaptMetric::Full { 3.0 * t * n * n } else { 0.0 };
    2.0 * t * h * (channels + n) + metric + t * t * (2.0 * n + t / 3.0 + n + h) + 2.0 * t * n * h
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        prune::settings::{Adapt, Prefill},
        source::ModelSource,
    };

    const SHAPE: BatchShape = BatchShape { samples: 2, tokens: 10 };
    /// Per row and layer: 2·H = 16 times q, k, v; o; gate, up and down.
    const DENSE: f64 = 16.0 * (32 + 16 + 36) as f64;

    /// H 8, 4 heads and 2 key/value heads of 4, I 12, 3 layers.
    fn config(model: &str) -> ModelConfig {
        ModelConfig {
            hidden_size: 8,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 4,
            intermediate_size: 12,
            num_hidden_layers: 3,
            ..ModelConfig::load(&ModelSource::locate(model).unwrap()).unwrap()
        }
    }

    /// A probe of 5 tokens of one sample; 0.6 is pruned in two layers: 2 heads and 5 channels are kept.
    fn settings(method: Method, compensate: Compensation) -> Settings {
        Settings {
            method,
            compensate,
            prune_ratio: 0.4,
            skip_layers: vec![0],
            round_channels: 1,
            probe_samples: 0.5,
            ..Settings::default()
        }
    }

    /// Total and probe, in FLOPs.
    fn flops(config: &ModelConfig, settings: &Settings, dense_layer: f64) -> [f64; 2] {
        let layers = LayerCounts::by_settings(config, settings, None).unwrap();
        let dense = 3.0 * 20.0 * dense_layer;
        let Shares { total, probe } = shares(config, settings, &layers, SHAPE);
        [total, probe].map(|share| (share * dense).round())
    }

    fn llama(method: Method, compensate: Compensation) -> [f64; 2] {
        flops(&config("bundled:tiny-llama"), &settings(method, compensate), DENSE)
    }

    #[test]
    fn kept_counts_of_every_layer() {
        let config = config("bundled:tiny-llama");
        let dense = LayerCounts::dense(&config);
        let counts = |settings: Settings| LayerCounts::by_settings(&config, &settings, None).unwrap();
        let pp = settings(Method::ProbePruning, Compensation::ProbeMean);
        let pruned = LayerCounts {
            heads: 2,
            kv_heads: 2,
            channels: 5,
            probes_attention: true,
            probes_mlp: true,
            compensate: Compensation::ProbeMean,
        };
        assert_eq!(counts(pp.clone()), [dense, pruned, pruned]);
        // Layer 0 has no block before it beside which its probe could run.
        let parallel = Settings { parallel_probe: true, skip_layers: vec![], ..pp.clone() };
        let third = LayerCounts { heads: 3, channels: 8, ..pruned };
        let first = LayerCounts { heads: 4, probes_attention: false, ..third };
        assert_eq!(counts(parallel.clone()), [first, third, third]);
        assert_eq!(counts(Settings { skip_layers: vec![0], ..parallel.clone() }), [dense, pruned, pruned]);
        assert_eq!(counts(Settings { parallel_probe: false, ..parallel }), [third; 3]);
        assert_eq!(counts(Settings { prune_ratio: 0.0, ..pp }), [dense; 3]);
        let fixed = settings(Method::WandaSp, Compensation::None);
        let fixed_counts = LayerCounts {
            probes_attention: false,
            probes_mlp: false,
            compensate: Compensation::None,
            ..pruned
        };
        assert_eq!(counts(fixed.clone()), [dense, fixed_counts, fixed_counts]);
        let one_head = Settings { prune_ratio: 0.5, ..fixed };
        assert_eq!(counts(one_head)[1], LayerCounts { heads: 1, kv_heads: 1, channels: 3, ..fixed_counts });
    }

    #[test]
    fn shares_count_every_projection() {
        // A kept layer's row: q of 2 heads, k and v of 2, o, 3 projections of 5 channels.
        let kept = 20.0 * 16.0 * (24 + 8 + 15) as f64;
        let batch = 20.0 * DENSE + 2.0 * kept;
        // q, k, v and gate, up of the whole layer for the probe's rows.
        let probe = |rows: f64| 2.0 * rows * 16.0 * (32 + 24) as f64;
        assert_eq!(llama(Method::WandaSp, Compensation::None), [batch, 0.0]);
        assert_eq!(llama(Method::ProbePruning, Compensation::None), [batch + probe(5.0), probe(5.0)]);
        assert_eq!(llama(Method::FullBatch, Compensation::None), [batch + probe(20.0), probe(20.0)]);
        // OPT's MLP has two projections.
        let opt = flops(
            &config("bundled:tiny-opt"),
            &settings(Method::WandaSp, Compensation::None),
            16.0 * (32 + 16 + 24) as f64,
        );
        assert_eq!(opt, [20.0 * 16.0 * 72.0 + 2.0 * 20.0 * 16.0 * (24 + 8 + 10) as f64, 0.0]);
    }

    #[test]
    fn a_prompt_of_the_dense_model_adds_its_correction() {
        let config = config("bundled:tiny-llama");
        let mut fold = settings(Method::Fold, Compensation::None);
        let of_prompt = |settings: &Settings| {
            let layers = LayerCounts::by_settings(&config, settings, None).unwrap();
            let Shares { total, probe } = prompt_shares(&config, settings, &layers, SHAPE);
            [total, probe].map(|share| share * 60.0 * DENSE)
        };
        let folded = of_prompt(&fold);
        fold.prefill = Prefill::Dense;
        assert_eq!(of_prompt(&fold), [60.0 * DENSE, 0.0]);
        fold.adapt.mode = Adapt::Probe { tokens: None };
        let dense = of_prompt(&fold);
        fold.prefill = Prefill::Pruned;
        let pruned = of_prompt(&fold);
        // The probe's q, k, v, and gate and up of 7 pruned channels, come with the prompt.
        let first = 2.0 * 5.0 * 16.0 * (32 + 2 * 7) as f64;
        assert!((pruned[1] - dense[1] - first).abs() < 1e-6 && dense[1] > 0.0, "{pruned:?} {dense:?}");
        assert!((dense[0] - 60.0 * DENSE - dense[1]).abs() < 1e-6);
        assert!((pruned[0] - folded[0] - pruned[1]).abs() < 1e-6);
    }

    #[test]
    fn compensation_counts_as_work() {
        // The mean's product with the pruned columns: 8 of the heads', 7 of the MLP's.
        let [mean, mean_probe] = llama(Method::ProbePruning, Compensation::ProbeMean);
        let [plain, plain_probe] = llama(Method::ProbePruning, Compensation::None);
        assert_eq!([mean - plain, mean_probe - plain_probe], [2.0 * 16.0 * (8 + 7) as f64, 0.0]);
        // Rank 1 costs 2 of 5 channels. z and its product for 20 rows of both blocks, a matrix of 2 rows for 8 + 9 pruned
        // columns; z and B·z of 16 and 12 channels for the probe's 5 rows.
        let [linear, linear_probe] = llama(Method::ProbePruning, Compensation::Linear { rank: 1 });
        let added_probe = 2.0 * 5.0 * 2.0 * ((8 + 16) + (8 + 12)) as f64;
        let added_batch = 2.0 * (2.0 * 20.0 * 4.0 * 8.0 + 2.0 * 2.0 * (8 + 9) as f64 * 8.0);
        let fewer = 2.0 * 20.0 * 16.0 * (3 * 2) as f64;
        assert_eq!(
            [linear - plain, linear_probe - plain_probe],
            [added_probe + added_batch - fewer, added_probe]
        );
    }
}
