//! A block of a prompt that the dense model runs (docs/method.md, section 13). Decoding goes on with the fold, so the cache
//! takes what the fold keeps; and the fold's error on any of the prompt's rows is known for the price of its last projection.

use super::{
    adapt, attention,
    block::{intermediate, norm_after},
    context::{BlockContext, Mode},
    scratch::Scratch,
    selection::Selection,
    timeline::Step,
};
use crate::{
    backend::{Backend, ProjectOperands},
    kv_cache::Past,
    prune::Block,
};

/// Runs one block of `dense` after its norm: reads `scratch.current` and `scratch.x`, writes `scratch.next`. `this` is the
/// folded block, which is corrected if the prompt is probed.
pub(super) fn run<B: Backend>(
    this: BlockContext<'_, B>,
    dense: BlockContext<'_, B>,
    selection: &mut Selection<B>,
    past: Past<'_, B>,
    scratch: &mut Scratch<B>,
) {
    let (backend, batch) = (this.backend(), this.forward.batch);
    let Scratch { current, next, x, attention, a, .. } = scratch;
    let shape = batch.shape;
    let rows = attention::Rows { x, shape, positions: &batch.positions, mask: batch.mask(), slots: None };
    intermediate(dense, rows, None, None, None, attention, a);
    if this.block == Block::Attention {
        attention::keep(dense.model, shape, past, attention);
    }
    let last = dense.last();
    backend.project(ProjectOperands {
        bias: last.bias.as_ref(),
        residual: Some(&current.rows),
        ..ProjectOperands::new(a, shape.rows(), last, &mut next.rows)
    });
    norm_after(this, scratch);
    scratch.timeline.mark(backend, Step::of_block(this.block));
    if let (Selection::Adapted(adapted), Mode::Prompt { corrects: true }) = (selection, this.forward.mode) {
        adapt::correct_by_prompt(this, dense, adapted, scratch);
        scratch.timeline.mark(backend, Step::Probe);
    }
}
