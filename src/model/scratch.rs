//! The buffers of a session: allocated once, for the largest batch it will see.

use crate::{
    backend::{AdaptScratch, Backend, Probe},
    config::ModelConfig,
    error::Result,
    model::{adapt, timeline::Timeline},
    prune::{
        BatchShape, Block, counts,
        settings::{Compensation, Method, Settings},
    },
};

/// A batch on the device.
#[derive(Debug)]
pub struct Batch<B: Backend> {
    /// Its shape now; the buffers hold the session's largest.
    pub shape: BatchShape,
    /// Token ids (B, S).
    pub tokens: B::Indices,
    /// Rows of the rotary table (LLaMA) or of the position table (OPT) (B, S).
    pub positions: B::Indices,
    /// 1 for tokens, 0 for pads (B, S).
    pub mask: B::Indices,
    /// Whether there are pads; if not, `mask` is not read.
    pub padded: bool,
}

impl<B: Backend> Batch<B> {
    /// Room for a batch of this shape.
    ///
    /// # Errors
    /// If the device has none.
    pub fn new(backend: &B, shape: BatchShape) -> Result<Self> {
        let indices = || backend.indices(shape.rows());
        Ok(Self { shape, tokens: indices()?, positions: indices()?, mask: indices()?, padded: false })
    }

    /// The mask, if there are pads.
    pub fn mask(&self) -> Option<&B::Indices> {
        self.padded.then_some(&self.mask)
    }
}

/// A residual stream (T, H) with its Σr² per row.
#[derive(Debug)]
pub struct Residual<B: Backend> {
    /// (T, H).
    pub rows: B::Activations,
    /// Σr² (T), written by the norm of the block that starts here.
    pub sum_squares: B::Statistics,
}

/// The buffers of a forward.
#[derive(Debug)]
pub struct Scratch<B: Backend> {
    /// The residual at the entry of the running block.
    pub current: Residual<B>,
    /// The residual at the entry of the block before.
    pub previous: Residual<B>,
    /// The residual that the running block writes.
    pub next: Residual<B>,
    /// norm(r) (T, H).
    pub x: B::Activations,
    /// The probe's norm(r) (T_p, H).
    pub probe_x: B::Activations,
    /// Intermediate states (T_p, C) of a probe that corrects a fold; empty without corrections.
    pub probe_a: B::Activations,
    /// Of an MLP's probe, those of pruned channels; empty without corrections.
    pub pruned_a: B::Activations,
    /// Of attention blocks.
    pub attention: AttentionScratch<B>,
    /// Intermediate states (T, C), compact where pruned.
    pub a: B::Activations,
    /// Energies p (S, C), compact where pruned.
    pub p: B::Statistics,
    /// Scores that every layer's blocks were chosen by last: of heads (N), of channels (I).
    pub scores: Vec<[B::Statistics; 2]>,
    /// The probe of the running block.
    pub probe: Probe<B>,
    /// First fault of a forward, 0 for none.
    pub fault: B::Indices,
    /// Embeddings before OPT-350m's `project_in`, head inputs after `project_out` (T, E).
    pub embedded: B::Activations,
    /// Off, unless the session is to record its steps.
    pub timeline: Timeline<B>,
    /// For compensation; empty without.
    pub compensation: CompensationScratch<B>,
    /// For corrections of a fold; empty without.
    pub adapt: AdaptScratch<B>,
}

/// The buffers of attention blocks, and a table that they read.
#[derive(Debug)]
pub struct AttentionScratch<B: Backend> {
    /// (T, N·D).
    pub q: B::Activations,
    /// (T, K·D).
    pub k: B::Activations,
    /// (T, K·D).
    pub v: B::Activations,
    /// Rotary table (positions, D); empty for OPT.
    pub rope_table: B::Statistics,
}

impl<B: Backend> AttentionScratch<B> {
    fn new(backend: &B, config: &ModelConfig, rows: usize, rotary_positions: usize) -> Result<Self> {
        let (heads, kv_heads, d) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
        Ok(Self {
            q: backend.activations(rows * heads * d)?,
            k: backend.activations(rows * kv_heads * d)?,
            v: backend.activations(rows * kv_heads * d)?,
            rope_table: backend.statistics(rotary_positions * d)?,
        })
    }
}

/// The buffers of blocks with compensation.
#[derive(Debug)]
pub struct CompensationScratch<B: Backend> {
    /// Sums (S_p, C) that go with the probe's energies p.
    pub sums: B::Statistics,
    /// Columns of pruned channels (r + 1, pruned channels).
    pub gathered: B::Activations,
    /// z (T, r).
    pub z: B::Activations,
    /// The part of the probe's intermediate states that the linear map does not explain (T_p, C).
    pub remainder: B::Activations,
}

impl<B: Backend> CompensationScratch<B> {
    fn new(backend: &B, config: &ModelConfig, settings: &Settings, shape: BatchShape) -> Result<Self> {
        let (sums, [gathered, z, remainder]) = compensation_lens(config, settings, shape);
        Ok(Self {
            sums: backend.statistics(sums)?,
            gathered: backend.activations(gathered)?,
            z: backend.activations(z)?,
            remainder: backend.activations(remainder)?,
        })
    }
}

/// Entries of a [`CompensationScratch`]: of `sums`, then of `gathered`, `z` and `remainder`.
pub fn compensation_lens(
    config: &ModelConfig,
    settings: &Settings,
    shape: BatchShape,
) -> (usize, [usize; 3]) {
    let widest = widest(config);
    let probe = counts::probe_room(settings, shape);
    match settings.compensate {
        // `wanda-sp` computes its compensation before the first batch.
        _ if settings.method != Method::ProbePruning => (0, [0; 3]),
        Compensation::None => (0, [0; 3]),
        Compensation::ProbeMean => (probe.tokens.saturating_mul(widest), [widest, 0, 0]),
        Compensation::Linear { rank } => {
            let sums = probe.tokens.saturating_mul(widest);
            let gathered = rank.saturating_add(1).saturating_mul(widest);
            (sums, [gathered, shape.rows().saturating_mul(rank), probe.rows.saturating_mul(widest)])
        }
    }
}

/// Channels of the wider kind of block.
pub fn widest(config: &ModelConfig) -> usize {
    Block::ALL.map(|block| block.channels(config)).into_iter().max().unwrap_or(0)
}

impl<B: Backend> Scratch<B> {
    /// Buffers for batches up to `shape`; `rotary_positions` rows in the rotary table.
    ///
    /// # Errors
    /// If the device has no room for them.
    pub fn new(
        backend: &B,
        config: &ModelConfig,
        settings: &Settings,
        shape: BatchShape,
        rotary_positions: usize,
    ) -> Result<Self> {
        let (t, h) = (shape.rows(), config.hidden_size);
        let widest = widest(config);
        let residual = || {
            Result::Ok(Residual { rows: backend.activations(t * h)?, sum_squares: backend.statistics(t)? })
        };
        let corrected = if settings.adapt.is_on() { counts::probe_room(settings, shape).rows } else { 0 };
        Ok(Self {
            current: residual()?,
            previous: residual()?,
            next: residual()?,
            x: backend.activations(t * h)?,
            probe_x: backend.activations(t * h)?,
            probe_a: backend.activations(corrected * widest)?,
            pruned_a: backend.activations(corrected * config.intermediate_size)?,
            attention: AttentionScratch::new(backend, config, t, rotary_positions)?,
            a: backend.activations(t * widest)?,
            p: backend.statistics(shape.tokens * widest)?,
            scores: (0..config.num_hidden_layers)
                .map(|_| {
                    Ok([
                        backend.statistics(config.num_attention_heads)?,
                        backend.statistics(config.intermediate_size)?,
                    ])
                })
                .collect::<Result<_>>()?,
            probe: Probe {
                shape,
                samples: backend.indices(shape.samples)?,
                slots: backend.indices(shape.tokens)?,
                positions: backend.indices(t)?,
                mask: backend.indices(t)?,
            },
            fault: backend.indices(1)?,
            embedded: backend.activations(t * config.word_embed_proj_dim)?,
            timeline: Timeline::off(),
            compensation: CompensationScratch::new(backend, config, settings, shape)?,
            adapt: adapt::scratch(backend, corrected, widest, h)?,
        })
    }

    /// After a block: its output becomes the current residual.
    pub fn advance(&mut self) {
        std::mem::swap(&mut self.previous, &mut self.current);
        std::mem::swap(&mut self.current, &mut self.next);
    }
}
