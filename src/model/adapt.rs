//! The correction of a fold by the probe (docs/method.md, section 13): the probe's tokens run in full, so the fold's error
//! on them is known exactly, and recursive least squares spreads it to the batch and remembers it.

use super::{
    attention::Rows,
    block::{intermediate, select_probe},
    context::BlockContext,
    scratch::Scratch,
};
use crate::{
    backend::{
        AdaptOperands, AdaptScratch, Backend, KeptSet, Linear, Precision, Probe, ProbeGatherOperands,
        ProjectOperands,
    },
    error::Result,
    prune::{BatchShape, settings::AdaptSettings},
};

/// A folded block whose last projection a probe corrects.
#[derive(Debug)]
pub struct Adapted<B: Backend> {
    /// The kept heads or channels.
    pub kept: KeptSet<B::Indices>,
    /// μ_K (n).
    pub means: B::Statistics,
    /// P.
    pub precision: Precision<B::Statistics>,
    /// W'ᵀ (n, H) in float32.
    pub weight: B::Statistics,
    /// b' (H).
    pub bias: B::Statistics,
    /// W' (H, n) in the model's dtype, which the batch runs with.
    pub last: Linear<B>,
    /// The fold's mean squared error on the last probe (1).
    pub error: B::Statistics,
    /// The same on calibration's text.
    pub expected_error: f64,
    /// The variance of the output on calibration's text times the share of channels that are pruned.
    pub error_scale: f64,
}

/// Buffers for corrections.
pub fn scratch<B: Backend>(
    backend: &B,
    probe: BatchShape,
    widest: usize,
    hidden_size: usize,
) -> Result<AdaptScratch<B>> {
    let t = probe.rows();
    Ok(AdaptScratch {
        features: backend.statistics(t * widest)?,
        images: backend.statistics(t * widest)?,
        errors: backend.statistics(t * hidden_size)?,
        gram: backend.statistics(t * (t + 1))?,
        at_mean: backend.statistics(t.min(1) * hidden_size)?,
        fault: backend.indices(t.min(1))?,
    })
}

/// Runs the gathered probe with all of `dense`'s heads or channels and corrects the last projection of `this`.
pub(super) fn correct<B: Backend>(
    this: BlockContext<'_, B>,
    dense: BlockContext<'_, B>,
    adapted: &mut Adapted<B>,
    scratch: &mut Scratch<B>,
) {
    let Scratch { probe_x, attention, a, probe, previous, adapt, .. } = scratch;
    let mask = this.forward.batch.padded.then_some(&probe.mask);
    let rows =
        Rows { x: probe_x, shape: probe.shape, positions: &probe.positions, mask, slots: Some(&probe.slots) };
    intermediate(dense, rows, None, None, None, attention, a);
    // Only the parallel probe of `pp` reads the residual before.
    learn(this, dense, adapted, probe, a, &mut previous.rows, adapt);
}

/// As [`correct`], by rows of a prompt that `dense` ran as a whole, up to its intermediate states in `scratch.a`.
pub(super) fn correct_by_prompt<B: Backend>(
    this: BlockContext<'_, B>,
    dense: BlockContext<'_, B>,
    adapted: &mut Adapted<B>,
    scratch: &mut Scratch<B>,
) {
    select_probe(this, scratch);
    let Scratch { a, probe_a, probe, previous, adapt, .. } = scratch;
    this.backend().probe_gather(ProbeGatherOperands {
        x: a,
        shape: this.forward.batch.shape,
        hidden_size: dense.channels(),
        probe,
        out: probe_a,
    });
    learn(this, dense, adapted, probe, probe_a, &mut previous.rows, adapt);
}

/// The correction by the intermediate states `a` (T_p, C) of a probe; its outputs go to `target` (T_p, H).
fn learn<B: Backend>(
    this: BlockContext<'_, B>,
    dense: BlockContext<'_, B>,
    adapted: &mut Adapted<B>,
    probe: &Probe<B>,
    a: &B::Activations,
    target: &mut B::Activations,
    scratch: &mut AdaptScratch<B>,
) {
    let (backend, last) = (this.backend(), dense.last());
    backend.project(ProjectOperands {
        bias: last.bias.as_ref(),
        ..ProjectOperands::new(a, probe.shape.rows(), last, target)
    });
    let Adapted { kept, means, precision, weight, bias, last, error, .. } = adapted;
    backend.adapt(AdaptOperands {
        a,
        target,
        rows: probe.shape.rows(),
        mask: this.forward.batch.padded.then_some(&probe.mask),
        kept,
        means,
        precision,
        bias_gain: 1.0 / AdaptSettings::BIAS_PRIOR_TOKENS,
        forgetting: this.forward.settings.adapt.forgetting as f32,
        weight,
        bias,
        last,
        error,
        scratch,
    });
}
