//! What pruning single blocks loses, for measured allocations (docs/method.md, section 14).

use std::{ops::Range, sync::Arc};

use rayon::prelude::*;

use super::{Limits, Session, selections::Builder};
use crate::{
    backend::{Backend, Linear, LogitsOperands, Probe, ProbeGatherOperands, WeightUse},
    error::{Error, Proceed, Result},
    model::{
        Model,
        context::{Context, Mode},
        fold::BlockSource,
        forward,
        kept::Kept,
        scratch::Scratch,
        selection::Selection,
    },
    prune::{
        BatchShape, Block,
        allocation::{self, BlockLosses, Losses},
        calibration::Calibration,
        fold::FoldedBlock,
        settings::{Method, Settings},
    },
};

/// Every STRIDE-th token's prediction is compared.
const STRIDE: usize = 4;

/// Measures what `settings.method` (`pp` or `fold`) loses when it prunes a single block, for every block and several counts
/// of kept heads or channels: the mean KL divergence of the next token's distribution from the dense model's, over every
/// fourth token of the batch `tokens` (samples, S), which has no padding. `on_block` is called after each of the 2·L blocks
/// with its number, from 1.
///
/// # Errors
/// As [`Session::new`]; another method; samples of fewer than four tokens; values that are not finite; or what `on_block`
/// ends with.
pub fn measure_losses<B: Backend, P: Proceed>(
    model: &Arc<Model<B>>,
    settings: &Settings,
    calibration: &Calibration,
    tokens: &[u32],
    samples: usize,
    mut on_block: impl FnMut(usize) -> P,
) -> Result<Losses> {
    allocation::check_method(settings.method)?;
    let limits = Limits { samples, tokens: tokens.len() / samples.max(1), capacity: 0 };
    let settings = Settings { prune_ratio: 0.0, ..settings.clone() };
    let mut session = Session::new(Arc::clone(model), settings, limits, Some(calibration))?;
    session.load(tokens, samples, None)?;
    let calibration = &*calibration.in_order_of(model.channel_order.as_deref());
    let mut run = Run { predictions: Predictions::new(&*model.backend, limits)?, session, calibration };
    run.measure(|block| on_block(block).proceed())
}

/// A run over a batch.
struct Run<'a, B: Backend> {
    session: Session<B>,
    calibration: &'a Calibration,
    predictions: Predictions<B>,
}

impl<B: Backend> Run<'_, B> {
    fn measure(&mut self, mut on_block: impl FnMut(usize) -> Result<()>) -> Result<Losses> {
        let model = Arc::clone(&self.session.model);
        let (backend, config) = (&*model.backend, &model.config);
        let (method, blocks) = (self.session.settings.method, 2 * config.num_hidden_layers);
        let entries = self.session.batch.shape.rows() * config.hidden_size;
        self.forward(|context, _, scratch| forward::embed(context, scratch));
        let mut entry = backend.download_activations(&self.session.scratch.current.rows, entries)?;
        let mut dense = self.predict(&entry, 0..blocks)?;
        dense.chunks_exact_mut(config.vocab_size).for_each(to_log_probabilities);

        let mut layers = vec![];
        let mut of_layer = vec![];
        for at in 0..blocks {
            let (layer, block) = (at / 2, Block::ALL[at % 2]);
            let kept = allocation::levels(config, block);
            let mut losses = Vec::new();
            for selection in self.selections(at, &kept)? {
                self.session.selections[layer][at % 2] = selection;
                let pruned = self.predict(&entry, at..blocks)?;
                losses.push(divergence(&dense, &pruned, config.vocab_size));
            }
            self.session.selections[layer][at % 2] = Selection::Dense;
            self.advance(&mut entry, at)?;
            of_layer.push(BlockLosses { kept, losses });
            if block == Block::Mlp {
                layers.push(std::mem::take(&mut of_layer).try_into().expect("two blocks"));
            }
            on_block(at + 1)?;
        }
        Ok(Losses { method, layers })
    }

    /// Runs operations of a forward.
    fn forward(
        &mut self,
        operations: impl FnOnce(&Context<'_, B>, &mut forward::Selections<B>, &mut Scratch<B>) + Send,
    ) {
        let Session { model, settings, batch, selections, scratch, .. } = &mut self.session;
        let mode = Mode::Batch { update_history: false };
        let context = Context { model: &**model, settings, batch, mode, dense: None };
        model.backend.scope(|| operations(&context, selections, scratch));
    }

    /// Runs `blocks` from the residual stream at the entry of the first.
    fn run(&mut self, entry: &[f32], blocks: Range<usize>) {
        let model = Arc::clone(&self.session.model);
        model.backend.upload_activations(entry, &mut self.session.scratch.current.rows);
        self.forward(|context, selections, scratch| {
            forward::run_blocks(context, blocks, selections, scratch, None, None);
        });
    }

    /// Logits of the compared tokens, from the residual stream at the entry of the first of `blocks`.
    fn predict(&mut self, entry: &[f32], blocks: Range<usize>) -> Result<Vec<f32>> {
        let model = Arc::clone(&self.session.model);
        self.run(entry, blocks);
        self.session.check_fault()?;
        let logits = self.predictions.of(&model, self.session.batch.shape, &mut self.session.scratch)?;
        if logits.iter().all(|x| x.is_finite()) { Ok(logits) } else { Err(self.session.output_fault()) }
    }

    /// From the residual stream at the entry of a dense block to that at the next one's.
    fn advance(&mut self, entry: &mut Vec<f32>, at: usize) -> Result<()> {
        self.run(entry, at..at + 1);
        let Session { model, scratch, .. } = &self.session;
        *entry = model.backend.download_activations(&scratch.current.rows, entry.len())?;
        Ok(())
    }

    /// A block pruned to each of these counts, of which the last is the largest.
    fn selections(&mut self, at: usize, counts: &[usize]) -> Result<Vec<Selection<B>>> {
        let (layer, block, settings) = (at / 2, Block::ALL[at % 2], &self.session.settings);
        if settings.method == Method::ProbePruning {
            return counts.iter().map(|&count| self.probed(layer, block, count)).collect();
        }
        let model = Arc::clone(&self.session.model);
        let source = BlockSource::new(&model, layer, block, self.calibration)?;
        let folds = source.fold(counts, settings.fold_choice, None)?;
        folds.iter().map(|fold| folded(&model, block, &source, fold)).collect()
    }

    fn probed(&mut self, layer: usize, block: Block, count: usize) -> Result<Selection<B>> {
        let Session { model, settings, limits, scratch, .. } = &mut self.session;
        let builder =
            Builder { model, settings, limits: *limits, calibration: Some(self.calibration), scratch };
        let unit = if block == Block::Mlp { settings.channel_group } else { 1 };
        builder.probed(layer, block, count / unit, settings.metric, true)
    }
}

fn folded<B: Backend>(
    model: &Model<B>,
    block: Block,
    source: &BlockSource<'_>,
    folded: &FoldedBlock,
) -> Result<Selection<B>> {
    let (backend, config) = (&*model.backend, &model.config);
    let width = block.unit(config, 1).block_width();
    let mut kept = Kept::new(backend, config, block, width, folded.kept.len())?;
    backend.upload_indices(&folded.kept, &mut kept.set.indices);
    kept.follow_kv_heads(backend, config);
    let mut bias = backend.statistics(config.hidden_size)?;
    backend.upload_statistics(&folded.bias, &mut bias);
    let last = Linear {
        weight: backend.weight(&source.projection(folded), WeightUse::Columns)?,
        bias: Some(bias),
        out_features: config.hidden_size,
        in_features: kept.set.channels(),
    };
    Ok(Selection::Folded { kept, last })
}

/// The tokens whose predictions are compared, and room for their logits.
struct Predictions<B: Backend> {
    tokens: Probe<B>,
    logits: Option<B::Statistics>,
}

impl<B: Backend> Predictions<B> {
    fn new(backend: &B, limits: Limits) -> Result<Self> {
        let Limits { samples, tokens, .. } = limits;
        let slots: Vec<u32> = (STRIDE - 1..tokens).step_by(STRIDE).map(|slot| slot as u32).collect();
        let shape = BatchShape { samples, tokens: slots.len() };
        if shape.rows() == 0 {
            let expected = format!("windows of at least {STRIDE} tokens");
            return Err(Error::argument("calibration", expected, tokens, "Pass longer windows."));
        }
        let mut chosen = Probe {
            shape,
            samples: backend.indices(samples)?,
            slots: backend.indices(slots.len())?,
            positions: backend.indices(shape.rows())?,
            mask: backend.indices(shape.rows())?,
        };
        backend.upload_indices(&(0..samples as u32).collect::<Vec<_>>(), &mut chosen.samples);
        backend.upload_indices(&slots, &mut chosen.slots);
        Ok(Self { tokens: chosen, logits: None })
    }

    /// Logits (tokens, V) after the last block.
    fn of(&mut self, model: &Model<B>, shape: BatchShape, scratch: &mut Scratch<B>) -> Result<Vec<f32>> {
        let (backend, head) = (&*model.backend, &model.weights.lm_head);
        let rows = self.tokens.shape.rows();
        let entries = rows * head.out_features;
        let logits = match &mut self.logits {
            Some(logits) => logits,
            empty => empty.insert(backend.statistics(entries)?),
        };
        let Scratch { current, next, x, embedded, .. } = scratch;
        backend.probe_gather(ProbeGatherOperands {
            x: &current.rows,
            shape,
            hidden_size: model.config.hidden_size,
            probe: &mut self.tokens,
            out: &mut next.rows,
        });
        let input = forward::head_input(model, next, rows, x, embedded);
        backend.logits(LogitsOperands { x: input, rows, head, out: logits });
        backend.download_statistics(logits, entries)
    }
}

/// log(Σ exp(x)).
fn log_sum_exp(logits: &[f32]) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    f64::from(most) + logits.iter().map(|x| f64::from((x - most).exp())).sum::<f64>().ln()
}

fn to_log_probabilities(logits: &mut [f32]) {
    let sum = log_sum_exp(logits);
    logits.iter_mut().for_each(|x| *x = (f64::from(*x) - sum) as f32);
}

/// Mean over the rows of KL(dense ‖ pruned) in nats, from log-probabilities and from logits (rows, V).
fn divergence(dense: &[f32], pruned: &[f32], vocab_size: usize) -> f32 {
    let of_row = |(dense, pruned): (&[f32], &[f32])| -> f64 {
        let sum = log_sum_exp(pruned);
        let term = |(p, x): (&f32, &f32)| f64::from(p.exp()) * (f64::from(*p) - (f64::from(*x) - sum));
        dense.iter().zip(pruned).map(term).sum()
    };
    let rows = dense.par_chunks_exact(vocab_size).zip(pruned.par_chunks_exact(vocab_size));
    let sums: Vec<f64> = rows.map(of_row).collect();
    (sums.iter().sum::<f64>() / sums.len() as f64) as f32
}
