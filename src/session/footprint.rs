//! The memory that a session takes on its device, known before anything is loaded. Sizes that cannot be counted become the
//! largest number there is.

use std::num::Saturating;

use super::Limits;
use crate::{
    config::ModelConfig,
    model::scratch::{compensation_lens, widest},
    prune::{
        Block, counts,
        flops::LayerCounts,
        history::HistoryLayout,
        settings::{AdaptMetric, Compensation, Method, Settings},
    },
};

/// Memory of a part of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Entries of activations: 4 bytes each on the CPU, 2 on a GPU.
    pub elements: usize,
    /// 32-bit entries of statistics and indices.
    pub words: usize,
}

impl Part {
    fn new(elements: Saturating<usize>, words: Saturating<usize>) -> Self {
        Self { elements: elements.0, words: words.0 }
    }

    fn add(&mut self, other: Self) {
        self.elements = self.elements.saturating_add(other.elements);
        self.words = self.words.saturating_add(other.words);
    }

    /// Bytes, for activations of `element` bytes.
    pub fn bytes(self, element: usize) -> u64 {
        (self.elements as u64)
            .saturating_mul(element as u64)
            .saturating_add((self.words as u64).saturating_mul(4))
    }
}

/// Memory of a session without its model and without [`crate::backend::Backend::cross_entropy_scratch`]; a choice that is
/// made once takes a few kilobytes per layer more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Hidden states and the other buffers of a forward.
    pub scratch: Part,
    /// History of the probed blocks.
    pub history: Part,
    /// Other state of the probed blocks: the batch's pending energies, the kept set, the column statistic, and the energies
    /// for re-probing.
    pub probed: Part,
    /// Compensation: linear maps, means, the products that last projections add, and scratch.
    pub compensation: Part,
    /// Corrections of a fold: last projections of the session's own, what they know of their features, and scratch.
    pub corrections: Part,
    /// Keys and values.
    pub cache: Part,
}

impl Footprint {
    /// The memory of a session with these settings and kept counts. History has a row for each of the session's
    /// slots; a longer calibration makes it longer.
    pub fn new(config: &ModelConfig, settings: &Settings, layers: &[LayerCounts], limits: Limits) -> Self {
        let n = Saturating::<usize>;
        let (samples, slots, layer_count) =
            (n(limits.samples), n(limits.tokens), n(config.num_hidden_layers));
        let (rows, capacity) = (samples * slots, n(limits.capacity));
        let (h, d) = (n(config.hidden_size), n(config.head_dim));
        let (heads, kv_heads) = (n(config.num_attention_heads), n(config.num_key_value_heads));
        let widest = n(widest(config));
        let rotary = if config.rope.is_some() { n(limits.longest()) } else { n(0) };
        let next_logits = if limits.capacity > 0 { samples * n(config.vocab_size) } else { n(0) };
        let scratch = Part::new(
            // Three residuals, two normed inputs, q, k, v, intermediate states, embeddings.
            rows * (n(5) * h + (heads + n(2) * kv_heads) * d + widest + n(config.word_embed_proj_dim)),
            // Sums of squares, the probe's and the batch's rows, losses and targets; energies; scores; the probe, the last
            // tokens; fault.
            rows * n(3 + 2 + 3 + 2)
                + slots * (widest + n(1))
                + layer_count * (heads + n(config.intermediate_size))
                + rotary * d
                + samples * n(5)
                + n(1)
                + next_logits
                + n(1),
        );
        let (mut history, mut others) = (Part::default(), Part::default());
        let (sums, room) = compensation_lens(config, settings, limits.shape());
        let mut corrections = correction_scratch(config, settings, limits);
        let mut compensation = Part::new(room.map(n).into_iter().fold(n(0), |sum, part| sum + part), n(sums));
        for layer in layers {
            for (block, probed) in
                [(Block::Attention, layer.probes_attention), (Block::Mlp, layer.probes_mlp)]
            {
                if probed && settings.method == Method::Fold {
                    corrections.add(correction_of(config, settings, *layer, block));
                } else if probed {
                    let [of_history, other] = probed_words(config, settings, limits, *layer, block);
                    history.add(of_history);
                    others.add(other);
                    compensation.add(compensation_of(config, settings, *layer, block));
                }
            }
        }
        let cached = n(layers.iter().map(|layer| layer.kv_heads).sum()) * d;
        let cache = samples * capacity;
        // If the dense model runs prompts: all of their rows and the kept heads, of every layer.
        let taken = if settings.prefills_dense() && cache > n(0) {
            layers.iter().fold(n(0), |taken, layer| taken + rows + n(layer.kv_heads))
        } else {
            n(0)
        };
        let cache = Part::new(n(2) * cache * cached, cache + taken);
        Self { scratch, history, probed: others, compensation, corrections, cache }
    }

    /// All of it.
    pub fn total(&self) -> Part {
        let mut total = Part::default();
        let Self { scratch, history, probed, compensation, corrections, cache } = *self;
        for part in [scratch, history, probed, compensation, corrections, cache] {
            total.add(part);
        }
        total
    }
}

/// Of one block: history, and its other state.
fn probed_words(
    config: &ModelConfig,
    settings: &Settings,
    limits: Limits,
    layer: LayerCounts,
    block: Block,
) -> [Part; 2] {
    let n = Saturating::<usize>;
    let width = block.channels(config);
    let group = block.unit(config, settings.channel_group).block_width();
    let (units, kept) = match block {
        Block::Attention => {
            (2 * config.num_attention_heads + config.num_key_value_heads, layer.heads * config.head_dim)
        }
        Block::Mlp => (width / group, layer.channels),
    };
    let mut words = [n(0), n(units) + n(width)];
    if settings.method == Method::ProbePruning {
        let layout = match settings.compensate {
            // One variance per channel, whatever the slot.
            Compensation::Linear { .. } => HistoryLayout { bucket: limits.tokens, ..settings.history_layout },
            _ => settings.history_layout,
        };
        words[0] += layout.words(limits.tokens, width);
        // Energies around a mean are not updated.
        if settings.compensate == Compensation::None {
            words[1] += n(limits.tokens) * n(kept);
        }
        if block == Block::Mlp && limits.capacity > 0 {
            words[1] += n(HistoryLayout::default().words(limits.capacity, width)) + n(limits.capacity);
        }
    }
    words.map(|words| Part::new(n(0), words))
}

/// Buffers of corrections.
fn correction_scratch(config: &ModelConfig, settings: &Settings, limits: Limits) -> Part {
    if !settings.adapt.is_on() {
        return Part::default();
    }
    let n = Saturating::<usize>;
    let (t, h, widest) =
        (n(counts::probe_room(settings, limits.shape()).rows), n(config.hidden_size), n(widest(config)));
    let at_mean_and_fault = h + n(1);
    Part::new(
        t * (widest + n(config.intermediate_size)),
        t * (n(2) * widest + h + t + n(1)) + at_mean_and_fault,
    )
}

/// The state of one block's corrections.
fn correction_of(config: &ModelConfig, settings: &Settings, layer: LayerCounts, block: Block) -> Part {
    let (units, n) = match block {
        Block::Attention => (layer.heads, layer.heads * config.head_dim),
        Block::Mlp => (layer.channels, layer.channels),
    };
    let (h, precision) = match settings.adapt.metric {
        AdaptMetric::Full => (config.hidden_size, n * n),
        AdaptMetric::Diagonal => (config.hidden_size, n),
    };
    // Of the MLP the pruned channels, and the kept ones once more.
    let split = if block == Block::Mlp { config.intermediate_size } else { 0 };
    // Kept units, means, P, W', b', the last error; and the working copy of W'.
    Part { elements: n * h, words: units + split + n + precision + n * h + h + 1 }
}

/// Compensation of one block.
fn compensation_of(config: &ModelConfig, settings: &Settings, layer: LayerCounts, block: Block) -> Part {
    let (width, h, rank) = (block.channels(config), config.hidden_size, settings.compensate.rank());
    let (units, kept) = match block {
        Block::Attention => (config.num_attention_heads, layer.heads * config.head_dim),
        Block::Mlp => (width / settings.channel_group, layer.channels),
    };
    if settings.compensate == Compensation::None || kept == width {
        return Part::default();
    }
    // Pruned units, mean and prior; P, p0 and −B, Bᵀ; the product that the last projection adds.
    let map = if rank > 0 { rank + rank * width } else { 0 };
    Part { elements: rank * (h + width) + (rank + 1) * h, words: units + 2 * width + map }
}
