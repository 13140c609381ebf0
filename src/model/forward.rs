//! Embedding, every block of every layer, the head's input.

use std::{
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
};

use super::{
    Model, block,
    collect::Collected,
    context::Context,
    scratch::{Batch, Residual, Scratch},
    selection::Selection,
    timeline::Step,
};
use crate::{
    backend::{Backend, EmbedOperands, LinearOperands, NormOperands, ProjectOperands},
    config::ModelConfig,
    kv_cache::KvCache,
    prune::{BatchShape, Block},
};

/// Kept sets of every layer: attention, then MLP.
pub type Selections<B> = Vec<[Selection<B>; 2]>;

/// Calibration's collectors for every layer's blocks, and the number of samples seen.
pub type Collecting<'a, B> = Option<(&'a mut Vec<[Collected<B>; 2]>, usize)>;

/// Runs the decoder; the residual stream ends up in `scratch.current`. Once `cancelled`, it returns between two layers.
pub fn run<B: Backend>(
    context: &Context<'_, B>,
    selections: &mut Selections<B>,
    scratch: &mut Scratch<B>,
    mut cache: Option<&mut KvCache<B>>,
    mut collecting: Collecting<'_, B>,
    cancelled: &AtomicBool,
) {
    let backend = &*context.model.backend;
    scratch.timeline.start(backend);
    embed(context, scratch);
    scratch.timeline.mark(backend, Step::Embedding);
    for index in 0..selections.len() {
        if cancelled.load(Ordering::Relaxed) {
            return;
        }
        let collecting = collecting.as_mut().map(|(collected, seen)| (&mut **collected, *seen));
        run_blocks(context, 2 * index..2 * index + 2, selections, scratch, cache.as_deref_mut(), collecting);
    }
}

/// Runs some of the decoder's 2·L blocks, counted from attention of layer 0, from the residual stream in `scratch.current`.
pub fn run_blocks<B: Backend>(
    context: &Context<'_, B>,
    blocks: Range<usize>,
    selections: &mut Selections<B>,
    scratch: &mut Scratch<B>,
    mut cache: Option<&mut KvCache<B>>,
    mut collecting: Collecting<'_, B>,
) {
    for at in blocks {
        let (index, block) = (at / 2, Block::ALL[at % 2]);
        let collecting = collecting.as_mut().map(|(collected, seen)| (&mut collected[index][at % 2], *seen));
        let selection = &mut selections[index][at % 2];
        block::run(context.block(index, block), selection, scratch, cache.as_deref_mut(), collecting);
        scratch.advance();
    }
}

/// Puts the embedded batch into `scratch.current`.
pub fn embed<B: Backend>(context: &Context<'_, B>, scratch: &mut Scratch<B>) {
    let (backend, weights, batch) = (&*context.model.backend, &context.model.weights, context.batch);
    let rows = batch.shape.rows();
    let position_table = weights.embed_positions.as_ref().map(|table| (table, &batch.positions));
    let (table, tokens) = (&weights.embed_tokens, &batch.tokens);
    let Scratch { current, next, embedded, .. } = scratch;
    let Some(project_in) = &weights.project_in else {
        return backend.embed(EmbedOperands { table, tokens, position_table, rows, out: &mut current.rows });
    };
    // OPT-350m: tokens are embedded narrower than the hidden size, positions are not.
    backend.embed(EmbedOperands { table, tokens, position_table: None, rows, out: embedded });
    let (table, tokens) = position_table.expect("only OPT has project_in");
    backend.embed(EmbedOperands { table, tokens, position_table: None, rows, out: &mut next.rows });
    backend.project(ProjectOperands {
        bias: project_in.bias.as_ref(),
        residual: Some(&next.rows),
        ..ProjectOperands::new(embedded, rows, project_in, &mut current.rows)
    });
}

/// The head's input (T, E) of the first `rows` rows of a residual stream.
pub fn head_input<'a, B: Backend>(
    model: &Model<B>,
    residual: &mut Residual<B>,
    rows: usize,
    x: &'a mut B::Activations,
    embedded: &'a mut B::Activations,
) -> &'a B::Activations {
    let (backend, weights) = (&*model.backend, &model.weights);
    backend.norm(NormOperands {
        x: &residual.rows,
        norm: weights.final_norm.as_ref(),
        rows,
        hidden_size: model.config.hidden_size,
        out: x,
        sum_squares: &mut residual.sum_squares,
    });
    match &weights.project_out {
        Some(project_out) => {
            backend.linear(LinearOperands::new(x, rows, project_out, embedded));
            embedded
        }
        None => x,
    }
}

/// Position of every token of (B, S): a row of the rotary table, or OPT's row of its position table. With a mask,
/// positions count tokens only (model-coverage: cumsum(mask)·mask − 1, OPT + 2). `past` tokens came before.
pub fn positions(config: &ModelConfig, samples: usize, tokens: usize, mask: Option<&[u32]>) -> Vec<u32> {
    let offset = if config.rope.is_some() { 0 } else { 2 };
    let mut positions = Vec::with_capacity(samples * tokens);
    for b in 0..samples {
        let mut seen = 0;
        for s in 0..tokens {
            let real = mask.is_none_or(|mask| mask[b * tokens + s] != 0);
            seen += u32::from(real);
            // A pad's own states are never read; its position must only exist in the table.
            positions.push(if real { seen - 1 + offset } else { offset.saturating_sub(1) });
        }
    }
    positions
}

/// Loads a batch into the device buffers. Ids, lengths and mask were checked.
pub fn load<B: Backend>(
    backend: &B,
    config: &ModelConfig,
    batch: &mut Batch<B>,
    samples: usize,
    tokens: &[u32],
    mask: Option<&[u32]>,
) {
    let length = tokens.len() / samples;
    batch.shape = BatchShape { samples, tokens: length };
    backend.upload_indices(tokens, &mut batch.tokens);
    backend.upload_indices(&positions(config, samples, length, mask), &mut batch.positions);
    batch.padded = mask.is_some_and(|mask| mask.contains(&0));
    if let Some(mask) = mask {
        backend.upload_indices(mask, &mut batch.mask);
    }
}
