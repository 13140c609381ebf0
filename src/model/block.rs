//! One block with Probe Pruning, in the method's four steps: the probe, its energies, the choice, the whole batch.

use super::{
    Block, Model, attention,
    collect::Collected,
    compensation::{self, Compensation},
    mlp,
    scratch::{Batch, Scratch},
    selection::{Kept, Probed, Recent, Selection},
    timeline::Step,
};
use crate::{
    backend::{Backend, EnergyOf, Fusion, Grid, Linear, Norm},
    kv_cache::{KvCache, LayerCache},
    prune::{
        counts,
        settings::{Method, Metric, Settings},
    },
    weights::Layer,
};

/// What a forward does besides computing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Choose kept sets by the probe.
    Batch {
        /// Keep the energies for [`update_history`]; off for a warm-up batch.
        update_history: bool,
    },
    /// Keep the choice; gather the energies of the MLP's channels in row `recent` for re-probing.
    Decode {
        /// Tokens since the last choice; `None` without re-probing.
        recent: Option<usize>,
    },
}

/// What all blocks of a forward share.
#[derive(Debug)]
pub struct Context<'a, B: Backend> {
    /// The model.
    pub model: &'a Model<B>,
    /// The method's settings.
    pub settings: &'a Settings,
    /// The batch.
    pub batch: &'a Batch<B>,
    /// What to do.
    pub mode: Mode,
}

/// Where the block is, for fault reports: never 0.
pub fn fault_tag(layer: usize, block: Block, of_score: bool) -> u32 {
    1 + 4 * layer as u32 + 2 * u32::from(block == Block::Mlp) + u32::from(of_score)
}

/// The layer, block and quantity of a fault.
pub fn describe_fault(tag: u32) -> (usize, Block, &'static str) {
    let code = tag - 1;
    let what = if code % 2 == 1 { "a channel score" } else { "the residual stream" };
    ((code / 4) as usize, Block::ALL[(code / 2 % 2) as usize], what)
}

/// Runs one block: reads `scratch.current` and writes `scratch.next`.
pub fn run<B: Backend>(
    context: &Context<'_, B>,
    index: usize,
    block: Block,
    selection: &mut Selection<B>,
    scratch: &mut Scratch<B>,
    cache: Option<&mut KvCache<B>>,
    collecting: Option<(&mut Collected<B>, usize)>,
) {
    let Context { model, batch, mode, .. } = *context;
    let (backend, config) = (&*model.backend, &model.config);
    let layer = &model.weights.layers[index];
    let (norm, last) = norm_and_last(layer, block);
    let (rows, h) = (batch.grid.rows(), config.hidden_size);
    let norm_first = config.norm_first.then_some(norm);

    backend.norm(
        &scratch.current.rows,
        norm_first,
        rows,
        h,
        &mut scratch.x,
        &mut scratch.current.sum_squares,
    );
    backend.check_finite(
        &scratch.current.sum_squares,
        rows,
        fault_tag(index, block, false),
        &mut scratch.fault,
    );

    if let (Selection::Probed(probed), Mode::Batch { .. }) = (&mut *selection, mode) {
        scratch.timeline.mark(backend, Step::of_block(block));
        // 1. The probe: the rows with the largest residual.
        take_probe(context, norm_first, scratch);
        // 2. The energies p (S_p, C) of their intermediate states, dense weights (spec sections 2 and 3).
        intermediate(context, layer, block, Source::Probe(&probed.compensation), None, None, None, scratch);
        if let Some(compensation) = &mut probed.compensation {
            compensation::centred_energies(context, block, compensation, scratch);
        }
        scratch.timeline.mark(backend, Step::Probe);
        // 3. Fusion with history, scores, the kept set, and what stands in for the rest.
        choose(context, index, block, probed, scratch);
        if let Some(compensation) = &mut probed.compensation {
            compensation.prepare(backend, last, &probed.kept, &mut scratch.compensation);
        }
        scratch.timeline.mark(backend, Step::Selection);
    }

    // 4. The whole batch on what is kept. What it shows goes into history once all of it is known to be finite.
    let past = cache.map(|cache| {
        let KvCache { layers, mask, capacity, len } = cache;
        (&mut layers[index], &*mask, *capacity, *len)
    });
    let (kept, energies) = match (&mut *selection, mode) {
        (
            Selection::Probed(Probed { kept, history: Some(_), pending: Some(pending), .. }),
            Mode::Batch { update_history: true },
        ) => (Some(&*kept), Some(pending)),
        (selection, _) => (selection.kept(), None),
    };
    intermediate(context, layer, block, Source::Batch, kept, past, energies, scratch);
    if let Some((collected, seen)) = collecting {
        collected.add(context, block, seen, scratch);
    }
    let bias = match &*selection {
        Selection::Fixed { bias: Some(bias), .. } => Some(bias),
        _ => last.bias.as_ref(),
    };
    let kept_blocks = selection.kept().map(Kept::blocks);
    let addition = match &*selection {
        Selection::Probed(Probed { compensation: Some(compensation), .. }) => {
            Some(compensation.addition(backend, &scratch.x, rows, &mut scratch.compensation.z))
        }
        _ => None,
    };
    let residual = Some(&scratch.current.rows);
    backend.project(&scratch.a, rows, last, kept_blocks, bias, addition, residual, &mut scratch.next.rows);
    if !config.norm_first {
        // Post-norm: the sum of squares written here is overwritten by the next block's, which reads the same rows.
        backend.norm(&scratch.next.rows, Some(norm), rows, h, &mut scratch.x, &mut scratch.next.sum_squares);
        std::mem::swap(&mut scratch.next.rows, &mut scratch.x);
    }
    scratch.timeline.mark(backend, Step::of_block(block));

    if let (Selection::Probed(Probed { kept, recent: Some(recent), .. }), Mode::Decode { recent: Some(at) }) =
        (selection, mode)
    {
        let kept = kept.blocks();
        backend.energy(&scratch.a, batch.grid, kept.channels(), batch.mask(), &mut scratch.p, None);
        backend.history_update(&scratch.p, 1, at, kept, 0.0, &mut recent.energy);
        scratch.timeline.mark(backend, Step::History);
    }
}

/// Folds the energies that the last batch left behind into history (spec section 6).
pub fn update_history<B: Backend>(context: &Context<'_, B>, selection: &mut Selection<B>) {
    let Selection::Probed(Probed { kept, history: Some(history), pending: Some(pending), .. }) = selection
    else {
        return;
    };
    let (tokens, momentum) = (context.batch.grid.tokens, context.settings.momentum);
    context.model.backend.history_update(pending, tokens, 0, kept.blocks(), momentum, history);
}

/// The block's norm and its last projection.
pub fn norm_and_last<B: Backend>(layer: &Layer<B>, block: Block) -> (&Norm<B>, &Linear<B>) {
    match block {
        Block::Attention => (&layer.attention.norm, &layer.attention.o_proj),
        Block::Mlp => (&layer.mlp.norm, &layer.mlp.down_proj),
    }
}

/// Step 1 (spec section 1): selects the probe by the residual's norms and gathers its norm(r) into `probe_x`.
fn take_probe<B: Backend>(context: &Context<'_, B>, norm_first: Option<&Norm<B>>, scratch: &mut Scratch<B>) {
    let Context { model, settings, batch, .. } = *context;
    let backend = &*model.backend;
    let (grid, h) = (batch.grid, model.config.hidden_size);
    let (samples, tokens) = match settings.method {
        Method::FullBatch => (grid.samples, grid.tokens),
        _ => counts::probe_counts(settings, grid.samples, grid.tokens),
    };
    let parallel = settings.parallel_probe && settings.method != Method::FullBatch;
    let Scratch { current, previous, x, probe, probe_x, .. } = scratch;
    probe.grid = Grid { samples, tokens };
    let sum_squares = if parallel { &previous.sum_squares } else { &current.sum_squares };
    let limit = counts::LEADING_SLOT_LIMIT;
    backend.probe_select(
        sum_squares,
        grid,
        settings.probe_order,
        &batch.positions,
        batch.mask(),
        limit,
        probe,
    );
    if parallel {
        // The previous residual goes through this block's own norm. Its Σr² lands where `next` will be anyway.
        backend.probe_gather(&previous.rows, grid, h, probe, &mut scratch.next.rows);
        let rows = probe.grid.rows();
        backend.norm(&scratch.next.rows, norm_first, rows, h, probe_x, &mut scratch.next.sum_squares);
    } else {
        backend.probe_gather(x, grid, h, probe, probe_x);
    }
}

/// Step 3 (spec sections 3 to 5): scores from the probe's energies and history, and the kept set.
fn choose<B: Backend>(
    context: &Context<'_, B>,
    index: usize,
    block: Block,
    probed: &mut Probed<B>,
    scratch: &mut Scratch<B>,
) {
    let Scratch { p, probe, scores, fault, .. } = scratch;
    choose_from(context, index, block, probed, (p, probe.grid.tokens, &probe.slots), scores, fault);
}

/// MLP channels anew from the energies of the last generated tokens (spec section 9).
pub fn reprobe<B: Backend>(
    context: &Context<'_, B>,
    index: usize,
    selection: &mut Selection<B>,
    tokens: usize,
    scratch: &mut Scratch<B>,
) {
    let Selection::Probed(probed) = selection else { return };
    let Some(mut recent) = probed.recent.take() else { return };
    let Recent { energy, slots } = &mut recent;
    let Scratch { scores, fault, .. } = scratch;
    choose_from(context, index, Block::Mlp, probed, (&energy.values, tokens, slots), scores, fault);
    // The next tokens compute other channels: what is not computed has to count as 0.
    context
        .model
        .backend
        .clear_statistics(&mut energy.values, tokens * context.model.config.intermediate_size);
    probed.recent = Some(recent);
}

fn choose_from<B: Backend>(
    context: &Context<'_, B>,
    index: usize,
    block: Block,
    probed: &mut Probed<B>,
    (p, tokens, slots): (&B::Statistics, usize, &B::Indices),
    scores: &mut [[B::Statistics; 2]],
    fault: &mut B::Indices,
) {
    if probed.pinned {
        return;
    }
    let Context { model, settings, .. } = *context;
    let (backend, config) = (&*model.backend, &model.config);
    let fixed_weight = settings.fixed_probe_weight.map(|weight| weight as f32);
    let fusion = match &probed.history {
        None => Fusion::ProbeOnly,
        Some(history) => Fusion::History { history, slots, fixed_weight },
    };
    let metric = if settings.method == Method::FullBatch { Metric::Ppsp } else { settings.metric };
    let unit = block.unit(config, settings.channel_group);
    let width = block.channels(config);
    let scores = &mut scores[index][block as usize];
    backend.channel_score(p, tokens, width, fusion, metric, &probed.statistic, unit, scores);
    backend.top_k_keep(scores, &mut probed.kept.set, fault_tag(index, block, true), fault);
    probed.kept.follow_kv_heads(backend, config);
}

/// Which rows go through the first projections.
enum Source<'a, B: Backend> {
    Batch,
    /// The probe, of which the energies are wanted, or the states themselves where there is compensation.
    Probe(&'a Option<Compensation<B>>),
}

/// Leaves the block's intermediate states of the batch or of the probe in `scratch.a`, and the batch's energies in
/// `energies` where they are asked for. The probe's energies are left in `scratch.p`.
fn intermediate<B: Backend>(
    context: &Context<'_, B>,
    layer: &Layer<B>,
    block: Block,
    source: Source<'_, B>,
    kept: Option<&Kept<B>>,
    past: Option<(&mut LayerCache<B>, &B::Indices, usize, usize)>,
    energies: Option<&mut B::Statistics>,
    scratch: &mut Scratch<B>,
) {
    let Context { model, batch, .. } = *context;
    let (backend, config) = (&*model.backend, &model.config);
    let Scratch { x, probe_x, q, k, v, a, p, probe, dense_kv_slots, rope_table, timeline, .. } = scratch;
    let alone = matches!(source, Source::Probe(_));
    let (x, grid, positions, mask, slots, energies) = match source {
        Source::Batch => (&*x, batch.grid, &batch.positions, batch.mask(), None, energies),
        Source::Probe(compensation) => {
            let mask = batch.padded.then_some(&probe.mask);
            let energies = compensation.is_none().then_some(p);
            (&*probe_x, probe.grid, &probe.positions, mask, Some(&probe.slots), energies)
        }
    };
    match block {
        Block::Mlp => {
            let kept = kept.map(Kept::blocks);
            let energy = energies.map(|out| EnergyOf { grid, mask, out, alone });
            mlp::intermediate(backend, &layer.mlp, config.activation, x, grid.rows(), kept, energy, a);
        }
        Block::Attention => {
            let (past, key_mask) = match past {
                Some((cache, cache_mask, capacity, len)) => (Some((cache, capacity, len)), Some(cache_mask)),
                None => (None, mask),
            };
            let rows = attention::Rows { grid, positions, mask: key_mask, slots };
            let qkv = attention::Qkv { q, k, v, dense_kv_slots, rope_table };
            attention::intermediate(backend, config, &layer.attention, x, rows, kept, qkv, past, a);
            if let Some(out) = energies {
                let channels = kept.map_or(block.channels(config), |kept| kept.blocks().channels());
                if !alone {
                    timeline.mark(backend, Step::Attention);
                }
                backend.energy(a, grid, channels, mask, out, None);
                if !alone {
                    timeline.mark(backend, Step::History);
                }
            }
        }
    }
}
