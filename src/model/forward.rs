//! Embedding, every block of every layer, the head's input.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{
    Block, Model,
    block::{self, Context},
    collect::Collected,
    scratch::{Batch, Residual, Scratch},
    selection::Selection,
    timeline::Step,
};
use crate::{backend::Backend, config::ModelConfig, kv_cache::KvCache};

/// Kept sets of every layer: attention, then MLP.
pub type Selections<B> = Vec<[Selection<B>; 2]>;

/// What calibration gathers of every layer's blocks, and the number of samples seen.
pub type Collecting<'a, B> = Option<(&'a mut Vec<[Collected<B>; 2]>, usize)>;

/// Runs the decoder; the residual stream ends in `scratch.current`. Ends early, between two layers, once `cancelled`.
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
    for (index, selections) in selections.iter_mut().enumerate() {
        if cancelled.load(Ordering::Relaxed) {
            return;
        }
        for (which, (kind, selection)) in Block::ALL.into_iter().zip(selections).enumerate() {
            let collecting =
                collecting.as_mut().map(|(collected, seen)| (&mut collected[index][which], *seen));
            block::run(context, index, kind, selection, scratch, cache.as_deref_mut(), collecting);
            scratch.advance();
        }
    }
}

fn embed<B: Backend>(context: &Context<'_, B>, scratch: &mut Scratch<B>) {
    let (backend, weights, batch) = (&*context.model.backend, &context.model.weights, context.batch);
    let rows = batch.grid.rows();
    let positions = weights.embed_positions.as_ref().map(|table| (table, &batch.positions));
    let Some(project_in) = &weights.project_in else {
        return backend.embed(
            &weights.embed_tokens,
            &batch.tokens,
            positions,
            rows,
            &mut scratch.current.rows,
        );
    };
    // OPT-350m: tokens are embedded narrower than the hidden size, positions are not.
    backend.embed(&weights.embed_tokens, &batch.tokens, None, rows, &mut scratch.embedded);
    let (table, positions) = positions.expect("only OPT has project_in");
    backend.embed(table, positions, None, rows, &mut scratch.next.rows);
    let (residual, out) = (Some(&scratch.next.rows), &mut scratch.current.rows);
    backend.project(&scratch.embedded, rows, project_in, None, project_in.bias.as_ref(), None, residual, out);
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
    let width = model.config.hidden_size;
    backend.norm(&residual.rows, weights.final_norm.as_ref(), rows, width, x, &mut residual.sum_squares);
    match &weights.project_out {
        Some(project_out) => {
            backend.linear(x, rows, project_out, None, None, 1.0, None, embedded);
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
            // A pad's own states are never looked at; its position only has to exist in the table.
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
    batch.grid = crate::backend::Grid { samples, tokens: length };
    backend.upload_indices(tokens, &mut batch.tokens);
    backend.upload_indices(&positions(config, samples, length, mask), &mut batch.positions);
    batch.padded = mask.is_some_and(|mask| mask.contains(&0));
    if let Some(mask) = mask {
        backend.upload_indices(mask, &mut batch.mask);
    }
}
