//! What a batch is expected to cost on a device, dense and pruned: from its floating-point operations, the weights that they read
//! and the device's [`Rates`] (docs/method.md, section 6). A function of sizes and constants alone, never of a clock.

use super::{
    BatchShape, Block, counts,
    flops::{self, LayerCounts},
    settings::{Compensation, Method, Settings},
};
use crate::{
    backend::Rates,
    config::{Family, ModelConfig},
};

/// Of all layers, in the unit of [`Rates`]. Embedding and head cost the same, dense or pruned, and are left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Of the dense batch.
    pub dense: f64,
    /// Of the pruned batch, with probes, choices, compensation and history.
    pub pruned: f64,
    /// The share of `dense` that pruning must save at least.
    doubt: f64,
}

impl Cost {
    /// Whether pruning is expected to make the batch faster.
    pub fn pays(&self) -> bool {
        self.pruned < self.dense * (1.0 - self.doubt)
    }
}

/// The expected cost of a batch of this shape, for a session without a cache that updates history. `layers` has what the pruned
/// batch keeps.
pub fn expected(
    config: &ModelConfig,
    settings: &Settings,
    layers: &[LayerCounts],
    shape: BatchShape,
    rates: &Rates,
) -> Cost {
    let work = Work { config, settings, rates, shape };
    let dense = LayerCounts::dense(config);
    let of_layer = |&layer: &LayerCounts| {
        let batch = work.layer(layer);
        let of_block = |block, probes| if probes { work.choosing(layer, block) } else { 0.0 };
        batch + of_block(Block::Attention, layer.probes_attention) + of_block(Block::Mlp, layer.probes_mlp)
    };
    Cost {
        dense: layers.len() as f64 * work.layer(dense),
        pruned: layers.iter().map(of_layer).sum(),
        doubt: if layers.iter().any(|layer| layer.probes_attention || layer.probes_mlp) {
            rates.doubt
        } else {
            0.0
        },
    }
}

/// A batch on a device.
struct Work<'a> {
    config: &'a ModelConfig,
    settings: &'a Settings,
    rates: &'a Rates,
    shape: BatchShape,
}

impl Work<'_> {
    /// Both blocks of a layer without what pruning adds.
    fn layer(&self, kept: LayerCounts) -> f64 {
        let (h, rows) = (self.config.hidden_size, self.shape.rows());
        let n = kept.heads * self.config.head_dim;
        let first = Block::ALL.map(|block| self.first(block, kept, self.shape)).iter().sum::<f64>();
        let single = kept.channels < self.config.intermediate_size && self.settings.channel_group == 1;
        let weight = if single { self.rates.kept_channel } else { self.rates.weight };
        let last = self.product(rows, h, n) + self.product_of(weight, rows, h, kept.channels);
        // Each block reads and writes the residual, and its norm.
        first + last + 2.0 * (self.passes(4, rows, h) + 2.0 * self.rates.operation)
    }

    /// A block from its norm's output to its intermediate states.
    fn first(&self, block: Block, kept: LayerCounts, shape: BatchShape) -> f64 {
        let ModelConfig { hidden_size: h, head_dim, .. } = *self.config;
        let rows = shape.rows();
        match block {
            Block::Attention => {
                let (n, k) = (kept.heads * head_dim, kept.kv_heads * head_dim);
                let products = self.product(rows, n, h) + 2.0 * self.product(rows, k, h);
                products + self.attention(n, shape) + self.rates.operation
            }
            // gate and up are one operation.
            Block::Mlp if self.config.family == Family::Llama => self.product(rows, 2 * kept.channels, h),
            Block::Mlp => self.product(rows, kept.channels, h),
        }
    }

    /// What a probed block adds to the batch: the probe, the choice, compensation, history.
    fn choosing(&self, layer: LayerCounts, block: Block) -> f64 {
        let full_batch = self.settings.method == Method::FullBatch;
        let probe = if full_batch { self.shape } else { counts::probe_shape(self.settings, self.shape) };
        let (h, channels) = (self.config.hidden_size, block.channels(self.config));
        let kept = match block {
            Block::Attention => layer.heads * self.config.head_dim,
            Block::Mlp => layer.channels,
        };
        let Rates { operation, choice, .. } = *self.rates;
        // Operations: the probe's choice and gathering, its energies, scores, the kept set.
        let gathered = self.passes(2, probe.rows(), h);
        let fused = self.passes(1, probe.rows(), channels) + self.passes(1, probe.tokens, channels);
        let chosen = self.first(block, LayerCounts::dense(self.config), probe) + gathered + fused;
        let chosen = chosen + choice + 5.0 * operation;
        if layer.compensate != Compensation::None {
            return chosen + self.compensation(layer, block, channels - kept, probe);
        }
        if full_batch {
            return chosen;
        }
        // Operations: attention's energies (the MLP's come with its product) and the update of history.
        let energies = self.passes(1, self.shape.rows(), kept);
        let update = (self.shape.tokens * kept) as f64 * self.rates.update;
        chosen + energies + update + 2.0 * operation
    }

    /// Compensation for `pruned` channels: its products, and the pruned columns that they read.
    fn compensation(&self, layer: LayerCounts, block: Block, pruned: usize, probe: BatchShape) -> f64 {
        let (rows, probe_rows) = (self.shape.rows() as f64, probe.rows() as f64);
        let (batch, of_probe) = flops::compensation(self.config, layer, block, rows, probe_rows);
        let read = self.rates.weight * (pruned * self.config.hidden_size) as f64;
        // Operations: gathering, the product's matrix, z for the batch; centred energies and z for the probe.
        batch + of_probe + read + 5.0 * self.rates.operation
    }

    /// x·Wᵀ for `rows` of x and W (outputs, inputs).
    fn product(&self, rows: usize, outputs: usize, inputs: usize) -> f64 {
        self.product_of(self.rates.weight, rows, outputs, inputs)
    }

    /// The same where reading a weight costs `weight`.
    fn product_of(&self, weight: f64, rows: usize, outputs: usize, inputs: usize) -> f64 {
        let Rates { few_rows: (few, share), overlaps, least_outputs, operation, .. } = *self.rates;
        let weight = if rows <= few { share * weight } else { weight };
        let read = weight * outputs as f64 * inputs as f64;
        let multiply = 2.0 * inputs as f64 * (rows as f64 * outputs as f64).max(least_outputs);
        operation + if overlaps { read.max(multiply) } else { read + multiply }
    }

    /// Causal attention of heads that have `width` channels in all.
    fn attention(&self, width: usize, shape: BatchShape) -> f64 {
        let tokens = shape.tokens as f64;
        // The first tokens see fewer.
        let pairs = |seen: f64| shape.samples as f64 * seen * (tokens - (seen - 1.0) / 2.0);
        let layers = self.config.num_hidden_layers as f64;
        let windowed = layers - self.config.full_attention_layers.len() as f64;
        let pairs = match self.config.sliding_window {
            None => pairs(tokens),
            // The mean over the layers.
            Some(window) => {
                let windowed = windowed / layers;
                windowed * pairs(tokens.min(window as f64)) + (1.0 - windowed) * pairs(tokens)
            }
        };
        4.0 * pairs * width as f64 * self.rates.attention + self.rates.operation
    }

    /// `count` passes over (rows, columns).
    fn passes(&self, count: usize, rows: usize, columns: usize) -> f64 {
        count as f64 * rows as f64 * columns as f64 * self.rates.entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{prune::settings::ProbeTokens, source::ModelSource};

    /// Like a CPU's.
    const RATES: Rates = Rates {
        weight: 30.0,
        kept_channel: 90.0,
        few_rows: (0, 1.0),
        overlaps: false,
        least_outputs: 0.0,
        attention: 1.5,
        entry: 75.0,
        update: 750.0,
        operation: 5e5,
        choice: 2e6,
        doubt: 0.0,
    };

    /// 135M parameters: 30 layers of 576, 9 heads of 64 on 3, 1536 channels.
    fn config() -> ModelConfig {
        ModelConfig {
            hidden_size: 576,
            intermediate_size: 1536,
            num_attention_heads: 9,
            num_key_value_heads: 3,
            head_dim: 64,
            num_hidden_layers: 30,
            ..ModelConfig::load(&ModelSource::locate("bundled:tiny-llama").unwrap()).unwrap()
        }
    }

    fn pruning(method: Method) -> Settings {
        Settings { method, prune_ratio: 0.4, ..Settings::default() }
    }

    fn of(settings: &Settings, [samples, tokens]: [usize; 2], rates: &Rates) -> Cost {
        let config = config();
        let layers = LayerCounts::by_settings(&config, settings, None).unwrap();
        expected(&config, settings, &layers, BatchShape { samples, tokens }, rates)
    }

    fn share(settings: &Settings, shape: [usize; 2]) -> f64 {
        let Cost { dense, pruned, .. } = of(settings, shape, &RATES);
        pruned / dense
    }

    #[test]
    fn one_prompt_is_dense_and_a_large_batch_pruned() {
        let paper = pruning(Method::ProbePruning);
        for tokens in [1, 16, 64, 256, 1024] {
            assert!(!of(&paper, [1, tokens], &RATES).pays(), "{tokens}");
        }
        for shape in [[4, 256], [4, 1024], [20, 64], [20, 1024]] {
            assert!(of(&paper, shape, &RATES).pays(), "{shape:?}");
        }
        // With a small probe one prompt of a few hundred tokens pays, one of a few does not.
        let auto = Settings { probe_tokens: ProbeTokens::Auto, ..paper.clone() };
        assert!(of(&auto, [1, 256], &RATES).pays() && !of(&auto, [1, 8], &RATES).pays());
        let full_batch = pruning(Method::FullBatch);
        assert!(!of(&full_batch, [20, 1024], &RATES).pays());
    }

    #[test]
    fn longer_batches_gain_more_and_larger_ratios_too() {
        for probe_tokens in [ProbeTokens::PAPER, ProbeTokens::Auto] {
            let settings = Settings { probe_tokens, ..pruning(Method::ProbePruning) };
            for samples in [1, 4, 20] {
                let shares =
                    [16, 32, 64, 128, 256, 512, 1024].map(|tokens| share(&settings, [samples, tokens]));
                // Sizes of probes are rounded up, by less the longer they are.
                let falls = shares.windows(2).all(|pair| pair[1] < pair[0] + 0.01);
                assert!(falls, "{probe_tokens}, {samples} samples: {shares:?}");
            }
            let at = |prune_ratio| share(&Settings { prune_ratio, ..settings.clone() }, [4, 256]);
            assert!(at(0.6) < at(0.4) && at(0.4) < at(0.2));
        }
    }

    #[test]
    fn what_prunes_nothing_costs_the_same_and_fixed_sets_only_save() {
        let none = Settings { prune_ratio: 0.0, ..pruning(Method::ProbePruning) };
        assert_eq!(share(&none, [1, 64]), 1.0);
        assert!(!of(&none, [1, 64], &RATES).pays());
        for tokens in [1, 16, 256] {
            let fixed = share(&pruning(Method::Magnitude), [1, tokens]);
            assert!(fixed < 1.0 && fixed < share(&pruning(Method::ProbePruning), [1, tokens]), "{tokens}");
        }
    }

    #[test]
    fn compensation_and_doubt_ask_for_more() {
        let plain = pruning(Method::ProbePruning);
        let mean = Settings { compensate: Compensation::ProbeMean, ..plain.clone() };
        // It updates no history, but has products of its own.
        let still = Rates { entry: 0.0, update: 0.0, ..RATES };
        assert!(of(&mean, [20, 64], &still).pruned > of(&plain, [20, 64], &still).pruned);
        let cost = of(&plain, [4, 256], &RATES);
        let doubt = 1.0 - cost.pruned / cost.dense;
        assert!(Cost { doubt: doubt - 0.01, ..cost }.pays() && !Cost { doubt: doubt + 0.01, ..cost }.pays());
    }

    #[test]
    fn a_product_that_reads_beside_multiplying_takes_the_longer_of_the_two() {
        let product = |overlaps, rows, least_outputs| {
            let rates = Rates { few_rows: (8, 0.5), overlaps, least_outputs, operation: 0.0, ..RATES };
            let (config, settings) = (config(), Settings::default());
            let shape = BatchShape { samples: 1, tokens: rows };
            Work { config: &config, settings: &settings, rates: &rates, shape }.product(rows, 10, 7)
        };
        // A weight costs as much as 15 rows, and half of it where there are few.
        assert_eq!((product(true, 5, 0.0), product(true, 9, 0.0)), (1050.0, 2100.0));
        assert_eq!(product(true, 20, 0.0), 2800.0);
        assert_eq!((product(false, 5, 0.0), product(false, 20, 0.0)), (1750.0, 4900.0));
        assert_eq!(product(true, 20, 300.0), 4200.0);
    }
}
