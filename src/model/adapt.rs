//! The correction of a fold by the probe (docs/method.md, section 13): the probe's tokens run in full, so the fold's error
//! on them is known exactly, and recursive least squares spreads it to the batch and remembers it.

use super::{
    attention::Rows,
    block::{intermediate, select_probe},
    context::BlockContext,
    kept::Kept,
    scratch::Scratch,
};
use crate::{
    backend::{
        AdaptOperands, AdaptScratch, Backend, KeptSet, Linear, Precision, Probe, ProbeGatherOperands,
        ProjectOperands,
    },
    error::Result,
    prune::settings::AdaptSettings,
};

/// A folded block whose last projection a probe corrects.
#[derive(Debug)]
pub struct Adapted<B: Backend> {
    /// The kept heads or channels.
    pub kept: KeptSet<B::Indices>,
    /// Of an MLP block only.
    pub split: Option<Split<B>>,
    /// μ_K (n).
    pub means: B::Statistics,
    /// P.
    pub precision: Precision<B::Statistics>,
    /// W' (H, n) in float32; (n, H) if [`Backend::TRANSPOSES_COLUMNS`].
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

/// What the probe of an MLP block computes: a row's channels do not depend on other rows, so the batch has the kept ones.
#[derive(Debug)]
pub struct Split<B: Backend> {
    /// The pruned channels.
    pub pruned: Kept<B>,
    /// All of the kept ones: n of n.
    pub all_kept: KeptSet<B::Indices>,
}

/// Buffers for corrections by probes of up to `t` rows.
pub fn scratch<B: Backend>(
    backend: &B,
    t: usize,
    widest: usize,
    hidden_size: usize,
) -> Result<AdaptScratch<B>> {
    Ok(AdaptScratch {
        features: backend.statistics(t * widest)?,
        images: backend.statistics(t * widest)?,
        errors: backend.statistics(t * hidden_size)?,
        gram: backend.statistics(t * (t + 1))?,
        at_mean: backend.statistics(t.min(1) * hidden_size)?,
        fault: backend.indices(t.min(1))?,
    })
}

/// Runs the gathered probe with `dense`'s heads or channels and corrects the last projection of `this`. The batch's
/// intermediate states are in `scratch.a`.
pub(super) fn correct<B: Backend>(
    this: BlockContext<'_, B>,
    dense: BlockContext<'_, B>,
    adapted: &mut Adapted<B>,
    scratch: &mut Scratch<B>,
) {
    let (backend, last) = (this.backend(), dense.last());
    // Only the parallel probe of `pp` reads the residual before.
    let Scratch { probe_x, attention, a, probe_a, pruned_a, probe, previous, adapt, .. } = scratch;
    let (t, target) = (probe.shape.rows(), &mut previous.rows);
    let mask = this.forward.batch.padded.then_some(&probe.mask);
    let slots = Some(&probe.slots);
    let rows = Rows { x: probe_x, shape: probe.shape, positions: &probe.positions, mask, slots };
    let Some(Split { pruned, .. }) = &adapted.split else {
        intermediate(dense, rows, None, None, None, attention, probe_a);
        project_all(this, dense, t, probe_a, target);
        return learn(this, adapted, false, probe, probe_a, target, adapt);
    };
    let (shape, hidden_size) = (this.forward.batch.shape, adapted.kept.channels());
    backend.probe_gather(ProbeGatherOperands { x: a, shape, hidden_size, probe, out: probe_a });
    intermediate(dense, rows, Some(pruned), None, None, attention, pruned_a);
    // The probe's input has been read.
    let of_pruned = probe_x;
    backend.project(ProjectOperands {
        kept: Some(&pruned.set),
        bias: last.bias.as_ref(),
        ..ProjectOperands::new(pruned_a, t, last, of_pruned)
    });
    backend.project(ProjectOperands {
        kept: Some(&adapted.kept),
        residual: Some(of_pruned),
        ..ProjectOperands::new(probe_a, t, last, target)
    });
    learn(this, adapted, true, probe, probe_a, target, adapt);
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
    let (shape, hidden_size) = (this.forward.batch.shape, dense.channels());
    this.backend().probe_gather(ProbeGatherOperands { x: a, shape, hidden_size, probe, out: probe_a });
    let target = &mut previous.rows;
    project_all(this, dense, probe.shape.rows(), probe_a, target);
    learn(this, adapted, false, probe, probe_a, target, adapt);
}

/// The dense block's output (T_p, H) for intermediate states (T_p, C).
fn project_all<B: Backend>(
    this: BlockContext<'_, B>,
    dense: BlockContext<'_, B>,
    t: usize,
    a: &B::Activations,
    target: &mut B::Activations,
) {
    let last = dense.last();
    this.backend()
        .project(ProjectOperands { bias: last.bias.as_ref(), ..ProjectOperands::new(a, t, last, target) });
}

/// The correction by the intermediate states `a` of a probe, those of all channels or of `kept_only`, and by the dense block's
/// output (T_p, H) for them.
fn learn<B: Backend>(
    this: BlockContext<'_, B>,
    adapted: &mut Adapted<B>,
    kept_only: bool,
    probe: &Probe<B>,
    a: &B::Activations,
    target: &B::Activations,
    scratch: &mut AdaptScratch<B>,
) {
    let Adapted { kept, split, means, precision, weight, bias, last, error, .. } = adapted;
    let kept = match split {
        Some(Split { all_kept, .. }) if kept_only => all_kept,
        _ => kept,
    };
    this.backend().adapt(AdaptOperands {
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
