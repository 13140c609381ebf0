//! One block with Probe Pruning, in four steps: the probe, the choice, the whole batch, and its energies for history.

use super::{
    adapt, attention,
    collect::Collected,
    compensation,
    context::{BlockContext, Context, Mode},
    fault::fault_tag,
    kept::Kept,
    mlp, prompt,
    scratch::{AttentionScratch, Scratch},
    selection::{Probed, Recent, Selection},
    timeline::Step,
};
use crate::{
    backend::{
        Backend, ChannelScoreOperands, CheckFiniteOperands, EnergyOperands, EnergyOutput, Fusion,
        HistoryUpdateOperands, NormOperands, ProbeGatherOperands, ProbeSelectOperands, ProjectOperands,
        TopKKeepOperands,
    },
    kv_cache::{KvCache, Past},
    prune::{
        Block, counts,
        settings::{Method, Metric, Settings},
    },
};

/// Runs one block: reads `scratch.current` and writes `scratch.next`. `collecting` has the samples seen so far.
pub fn run<B: Backend>(
    this: BlockContext<'_, B>,
    selection: &mut Selection<B>,
    scratch: &mut Scratch<B>,
    cache: Option<&mut KvCache<B>>,
    collecting: Option<(&mut Collected<B>, usize)>,
) {
    enter(this, scratch);
    let (backend, own) = (this.backend(), Step::of_block(this.block));
    if let (Mode::Prompt { .. }, Some(dense)) = (this.forward.mode, this.of_dense()) {
        let cache = cache.expect("only a prompt that is cached is run by the dense model");
        return prompt::run(this, dense, selection, cache.past(this.index), scratch);
    }
    let lagged = this.forward.settings.parallel_probe;
    if let (Selection::Adapted(_), Some(_)) = (&*selection, this.of_dense()) {
        scratch.timeline.mark(backend, own);
        gather_probe(this, scratch);
        scratch.timeline.mark(backend, Step::Probe);
    }
    if let (Selection::Probed(probed), Mode::Batch { .. }) = (&mut *selection, this.forward.mode) {
        scratch.timeline.mark(backend, own);
        take_probe(this, probed, scratch);
        scratch.timeline.mark(backend, Step::Probe);
        choose(this, probed, scratch);
        scratch.timeline.mark(backend, Step::Selection);
    }
    batch_states(this, selection, cache.map(|cache| cache.past(this.index)), scratch);
    if let Some((collected, seen)) = collecting {
        collected.add(this, seen, scratch);
    }
    if !lagged {
        correct(this, selection, scratch);
    }
    project(this, selection, scratch);
    scratch.timeline.mark(backend, own);
    if lagged {
        correct(this, selection, scratch);
    }
    record(this, selection, scratch);
}

/// Corrects a fold by the gathered probe, if there is one.
fn correct<B: Backend>(this: BlockContext<'_, B>, selection: &mut Selection<B>, scratch: &mut Scratch<B>) {
    if let (Selection::Adapted(adapted), Some(dense)) = (selection, this.of_dense()) {
        scratch.timeline.mark(this.backend(), Step::of_block(this.block));
        adapt::correct(this, dense, adapted, scratch);
        scratch.timeline.mark(this.backend(), Step::Probe);
    }
}

/// The norm, with the residual importance Σr² of every row.
fn enter<B: Backend>(this: BlockContext<'_, B>, scratch: &mut Scratch<B>) {
    let Scratch { current, x, fault, .. } = scratch;
    let rows = this.forward.batch.shape.rows();
    this.backend().norm(NormOperands {
        x: &current.rows,
        norm: this.norm_first(),
        rows,
        hidden_size: this.forward.model.config.hidden_size,
        out: x,
        sum_squares: &mut current.sum_squares,
    });
    let tag = fault_tag(this.index, this.block, false);
    this.backend().check_finite(CheckFiniteOperands { values: &current.sum_squares, len: rows, tag, fault });
}

/// Selects the probe by the residual's norms, and runs it with dense weights up to the energies `p` (S_p, C) of its
/// intermediate states (docs/method.md, sections 1 to 3).
fn take_probe<B: Backend>(this: BlockContext<'_, B>, probed: &mut Probed<B>, scratch: &mut Scratch<B>) {
    gather_probe(this, scratch);
    let Scratch { probe_x, attention, a, p, probe, .. } = scratch;
    let mask = this.forward.batch.padded.then_some(&probe.mask);
    let rows = attention::Rows {
        x: probe_x,
        shape: probe.shape,
        positions: &probe.positions,
        mask,
        slots: Some(&probe.slots),
    };
    match &mut probed.compensation {
        None => {
            let energy = EnergyOutput { shape: probe.shape, mask, out: p, energy_only: true };
            if let Some(energy) = intermediate(this, rows, None, None, Some(energy), attention, a) {
                separate_energy(this.backend(), a, this.channels(), energy);
            }
        }
        Some(compensation) => {
            intermediate(this, rows, None, None, None, attention, a);
            compensation::centred_energies(this, compensation, scratch);
        }
    }
}

/// Whether the probe is taken from the previous residual.
fn is_parallel(settings: &Settings) -> bool {
    settings.parallel_probe && settings.method == Method::ProbePruning
}

/// Selects the probe (docs/method.md, section 1).
pub(super) fn select_probe<B: Backend>(this: BlockContext<'_, B>, scratch: &mut Scratch<B>) {
    let Context { settings, batch, .. } = *this.forward;
    let full_batch = settings.method == Method::FullBatch;
    let Scratch { current, previous, probe, .. } = scratch;
    let from = if full_batch { batch.shape } else { counts::probed_from(settings, batch.shape) };
    probe.shape = if full_batch { batch.shape } else { counts::probe_shape(settings, batch.shape) };
    this.backend().probe_select(ProbeSelectOperands {
        sum_squares: if is_parallel(settings) { &previous.sum_squares } else { &current.sum_squares },
        shape: from,
        order: settings.probe_order,
        positions: &batch.positions,
        mask: batch.mask(),
        leading_slot_limit: counts::LEADING_SLOT_LIMIT,
        probe,
    });
}

/// Selects the probe and gathers its norm(r) into `probe_x`.
fn gather_probe<B: Backend>(this: BlockContext<'_, B>, scratch: &mut Scratch<B>) {
    select_probe(this, scratch);
    let Context { model, settings, batch, .. } = *this.forward;
    let (backend, hidden_size) = (&*model.backend, model.config.hidden_size);
    let Scratch { previous, next, x, probe, probe_x, .. } = scratch;
    let gather = |x: &B::Activations, out: &mut B::Activations| {
        backend.probe_gather(ProbeGatherOperands { x, shape: batch.shape, hidden_size, probe, out });
    };
    if !is_parallel(settings) {
        return gather(x, probe_x);
    }
    // The previous residual goes through this block's own norm. Its Σr² is written where `next` is later overwritten.
    gather(&previous.rows, &mut next.rows);
    backend.norm(NormOperands {
        x: &next.rows,
        norm: this.norm_first(),
        rows: probe.shape.rows(),
        hidden_size,
        out: probe_x,
        sum_squares: &mut next.sum_squares,
    });
}

/// Scores from the probe's energies and history, the kept set, and the compensation of the pruned channels
/// (docs/method.md, sections 3 to 5).
fn choose<B: Backend>(this: BlockContext<'_, B>, probed: &mut Probed<B>, scratch: &mut Scratch<B>) {
    let Scratch { p, probe, scores, fault, compensation, .. } = scratch;
    let energies = Energies { p, tokens: probe.shape.tokens, slots: &probe.slots };
    choose_by(this, probed, energies, &mut scores[this.index][this.block as usize], fault);
    if let Some(of_block) = &mut probed.compensation {
        of_block.prepare(this.backend(), this.last(), &probed.kept, compensation);
    }
}

/// Energies that a choice is made by.
struct Energies<'a, B: Backend> {
    /// (tokens, C).
    p: &'a B::Statistics,
    tokens: usize,
    /// The slot of each token.
    slots: &'a B::Indices,
}

fn choose_by<B: Backend>(
    this: BlockContext<'_, B>,
    probed: &mut Probed<B>,
    energies: Energies<'_, B>,
    scores: &mut B::Statistics,
    fault: &mut B::Indices,
) {
    if probed.pinned {
        return;
    }
    let Context { model, settings, .. } = *this.forward;
    let fixed_weight = settings.fixed_probe_weight.map(|weight| weight as f32);
    this.backend().channel_score(ChannelScoreOperands {
        p: energies.p,
        tokens: energies.tokens,
        channels: this.channels(),
        fusion: match &probed.history {
            None => Fusion::ProbeOnly,
            Some(history) => Fusion::History { history, slots: energies.slots, fixed_weight },
        },
        metric: if settings.method == Method::FullBatch { Metric::Ppsp } else { settings.metric },
        statistic: &probed.statistic,
        unit: this.block.unit(&model.config, settings.channel_group),
        out: scores,
    });
    let (kept, tag) = (&mut probed.kept, fault_tag(this.index, this.block, true));
    this.backend().top_k_keep(TopKKeepOperands { scores, kept: &mut kept.set, tag, fault });
    kept.follow_kv_heads(this.backend(), &model.config);
}

/// The last projection of the batch's intermediate states, and the residual.
fn project<B: Backend>(this: BlockContext<'_, B>, selection: &Selection<B>, scratch: &mut Scratch<B>) {
    let (backend, rows) = (this.backend(), this.forward.batch.shape.rows());
    let columns = match selection {
        // Its projection has the kept columns only.
        Selection::Folded { .. } => None,
        selection => selection.kept(),
    };
    let (last, bias) = match selection {
        Selection::Fixed { bias: Some(bias), .. } => (this.last(), Some(bias)),
        Selection::Adapted(adapted) => (&adapted.last, Some(&adapted.bias)),
        Selection::Folded { last, .. } => (last, last.bias.as_ref()),
        _ => (this.last(), this.last().bias.as_ref()),
    };
    let low_rank = match selection {
        Selection::Probed(Probed { compensation: Some(compensation), .. }) => {
            Some(compensation.low_rank(backend, &scratch.x, rows, &mut scratch.compensation.z))
        }
        _ => None,
    };
    backend.project(ProjectOperands {
        kept: columns.map(|kept| &kept.set),
        bias,
        low_rank,
        residual: Some(&scratch.current.rows),
        ..ProjectOperands::new(&scratch.a, rows, last, &mut scratch.next.rows)
    });
    norm_after(this, scratch);
}

/// The norm of `next`, where it comes after the block.
pub(super) fn norm_after<B: Backend>(this: BlockContext<'_, B>, scratch: &mut Scratch<B>) {
    let Some(norm) = this.norm_last() else { return };
    let Context { model, batch, .. } = *this.forward;
    let Scratch { next, x, .. } = scratch;
    // The next block overwrites this sum of squares with its own, of the same rows.
    this.backend().norm(NormOperands {
        x: &next.rows,
        norm: Some(norm),
        rows: batch.shape.rows(),
        hidden_size: model.config.hidden_size,
        out: x,
        sum_squares: &mut next.sum_squares,
    });
    std::mem::swap(&mut next.rows, x);
}

/// The intermediate states of the whole batch on the kept channels, in `scratch.a`. Its energies are left in `pending`, and go
/// into history once all of it is known to be finite.
fn batch_states<B: Backend>(
    this: BlockContext<'_, B>,
    selection: &mut Selection<B>,
    past: Option<Past<'_, B>>,
    scratch: &mut Scratch<B>,
) {
    let (backend, batch) = (this.backend(), this.forward.batch);
    let (kept, energies) = match (selection, this.forward.mode) {
        (
            Selection::Probed(Probed { kept, history: Some(_), pending: Some(pending), .. }),
            Mode::Batch { update_history: true },
        ) => (Some(&*kept), Some(pending)),
        (selection, _) => (selection.kept(), None),
    };
    let Scratch { x, attention, a, timeline, .. } = scratch;
    let (shape, mask) = (batch.shape, batch.mask());
    let rows = attention::Rows { x, shape, positions: &batch.positions, mask, slots: None };
    let energy = energies.map(|out| EnergyOutput { shape, mask, out, energy_only: false });
    if let Some(energy) = intermediate(this, rows, kept, past, energy, attention, a) {
        timeline.mark(backend, Step::Attention);
        let channels = kept.map_or(this.channels(), |kept| kept.set.channels());
        separate_energy(backend, a, channels, energy);
        timeline.mark(backend, Step::History);
    }
}

/// Runs rows up to the block's intermediate states `a`. The MLP's products leave the energies too; attention's are
/// returned as still to be computed.
pub(super) fn intermediate<'a, B: Backend>(
    this: BlockContext<'_, B>,
    rows: attention::Rows<'_, B>,
    kept: Option<&Kept<B>>,
    past: Option<Past<'_, B>>,
    energy: Option<EnergyOutput<'a, B>>,
    scratch: &mut AttentionScratch<B>,
    a: &mut B::Activations,
) -> Option<EnergyOutput<'a, B>> {
    let (model, layer) = (this.model, this.layer());
    match this.block {
        Block::Mlp => {
            mlp::intermediate(model, &layer.mlp, rows, kept, energy, a);
            None
        }
        Block::Attention => {
            attention::intermediate(model, &layer.attention, rows, kept, past, scratch, a);
            energy
        }
    }
}

fn separate_energy<B: Backend>(
    backend: &B,
    a: &B::Activations,
    channels: usize,
    energy: EnergyOutput<'_, B>,
) {
    let EnergyOutput { shape, mask, out, .. } = energy;
    backend.energy(EnergyOperands { a, shape, channels, mask, out, sums: None });
}

/// While tokens are generated: the energies of the MLP's channels, for re-probing (docs/method.md, section 9).
fn record<B: Backend>(this: BlockContext<'_, B>, selection: &mut Selection<B>, scratch: &mut Scratch<B>) {
    let (Selection::Probed(Probed { kept, recent: Some(recent), .. }), Mode::Decode { recent: Some(at) }) =
        (selection, this.forward.mode)
    else {
        return;
    };
    let (backend, batch, kept) = (this.backend(), this.forward.batch, &kept.set);
    let Scratch { a, p, timeline, .. } = scratch;
    let (shape, mask, channels) = (batch.shape, batch.mask(), kept.channels());
    backend.energy(EnergyOperands { a, shape, channels, mask, out: p, sums: None });
    let history = &mut recent.energy;
    backend.history_update(HistoryUpdateOperands { p, tokens: 1, at, kept, momentum: 0.0, history });
    timeline.mark(backend, Step::History);
}

/// Folds the energies of the last batch into history (docs/method.md, section 6).
pub fn update_history<B: Backend>(context: &Context<'_, B>, selection: &mut Selection<B>) {
    let Selection::Probed(Probed { kept, history: Some(history), pending: Some(pending), .. }) = selection
    else {
        return;
    };
    context.model.backend.history_update(HistoryUpdateOperands {
        p: pending,
        tokens: context.batch.shape.tokens,
        at: 0,
        kept: &kept.set,
        momentum: context.settings.momentum,
        history,
    });
}

/// Chooses MLP channels again, by the energies of the last `tokens` generated tokens (docs/method.md, section 9).
pub fn reprobe<B: Backend>(
    this: BlockContext<'_, B>,
    selection: &mut Selection<B>,
    tokens: usize,
    scratch: &mut Scratch<B>,
) {
    let Selection::Probed(probed) = selection else { return };
    let Some(mut recent) = probed.recent.take() else { return };
    let Recent { energy, slots } = &mut recent;
    let Scratch { scores, fault, .. } = scratch;
    let energies = Energies { p: &energy.values, tokens, slots };
    choose_by(this, probed, energies, &mut scores[this.index][this.block as usize], fault);
    // The next tokens compute other channels: those that they do not compute count as 0.
    this.backend().clear_statistics(&mut energy.values, tokens * this.channels());
    probed.recent = Some(recent);
}
