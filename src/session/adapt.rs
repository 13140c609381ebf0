//! Corrections of a fold: their state in a session, and which batches are probed (docs/method.md, section 13).

use std::{borrow::Cow, sync::Arc};

use super::{Session, probed::upload};
use crate::{
    backend::{Backend, KeptSet, Linear, Precision, WeightUse},
    checkpoint::{Dtype, Tensor},
    error::{Error, Result},
    model::{
        Model,
        adapt::{Adapted, Split},
        context::Mode,
        fold::Fold,
        forward::Selections,
        kept::Kept,
        selection::Selection,
    },
    prune::{
        Block,
        adapt::{BlockCorrection, Corrections as Learned},
        fold::FoldedBlock,
        settings::{AdaptMetric, Settings},
    },
};

/// What a session knows of its corrections.
#[derive(Debug)]
pub(super) struct Corrections {
    /// Whether batches are probed at all.
    active: bool,
    /// Batches until the next probe.
    wait: usize,
    /// See [`Session::excess_error`].
    excess_error: Option<f64>,
    batches: usize,
    probed: usize,
}

impl Corrections {
    fn new() -> Self {
        Self { active: true, wait: 0, excess_error: None, batches: 0, probed: 0 }
    }
}

/// Refuses corrections that `fold` has no state for, and prompts for a model that it has not.
pub(super) fn check<B: Backend>(fold: &Fold<B>, settings: &Settings) -> Result<()> {
    let adapt = settings.adapt;
    let help = "Fold the model with the settings of its sessions.";
    if settings.prefills_dense() && fold.dense.is_none() {
        let expected = "a model that was folded for it";
        return Err(Error::argument("prefill dense", expected, "one that was not", help));
    }
    match &fold.start {
        _ if !adapt.is_on() => Ok(()),
        Some(start) if start.metric == adapt.metric => Ok(()),
        Some(start) => {
            let name = format!("adapt_metric {}", adapt.metric);
            Err(Error::argument(
                name,
                format!("{}, as the model was folded", start.metric),
                adapt.metric,
                help,
            ))
        }
        None => {
            let name = format!("adapt {}", adapt.mode);
            Err(Error::argument(name, "a model that was folded to be corrected", "one that was not", help))
        }
    }
}

/// The state of every folded block that a probe corrects, put in place of dense selections: as calibration made it, or as an
/// earlier session left it.
pub(super) fn prepare<B: Backend>(
    fold: &Fold<B>,
    settings: &Settings,
    learned: Option<&Learned>,
    selections: &mut Selections<B>,
) -> Result<Option<Corrections>> {
    let Some(start) = fold.start.as_ref().filter(|_| settings.adapt.is_on()) else { return Ok(None) };
    for (layer, blocks) in start.blocks.iter().enumerate() {
        for (block, folded) in Block::ALL.into_iter().zip(blocks) {
            if let Some((folded, dtype)) = folded {
                let learned = learned.and_then(|learned| learned.blocks[layer][block as usize].as_ref());
                let start = start_of(folded, settings);
                let state = learned.filter(|learned| learned.has_sizes_of(&start)).unwrap_or(&start);
                let adapted = adapted(&fold.model, block, folded, *dtype, settings, state)?;
                selections[layer][block as usize] = Selection::Adapted(Box::new(adapted));
            }
        }
    }
    Ok(Some(Corrections::new()))
}

fn adapted<B: Backend>(
    model: &Model<B>,
    block: Block,
    folded: &FoldedBlock,
    dtype: Dtype,
    settings: &Settings,
    state: &BlockCorrection,
) -> Result<Adapted<B>> {
    let (backend, config) = (&*model.backend, &model.config);
    let statistics = |values: &[f32]| upload(backend, values);
    let FoldedBlock { kept, prior, .. } = folded;
    let BlockCorrection { weight, bias, precision } = state;
    let prior = prior.as_ref().expect("a fold that is corrected has priors");
    let unit = block.unit(config, 1).block_width();
    let (n, h) = (kept.len() * unit, config.hidden_size);
    let all = block.channels(config) / unit;
    let set = |values: &[u32], of: usize| {
        let mut indices = backend.indices(values.len())?;
        backend.upload_indices(values, &mut indices);
        Result::Ok(KeptSet { indices, len: values.len(), of, block_width: unit })
    };
    let tensor = Tensor::from_f32(vec![h, n], weight.clone()).rounded_to(dtype);
    let precision = statistics(precision)?;
    Ok(Adapted {
        kept: set(kept, all)?,
        split: match block {
            Block::Attention => None,
            Block::Mlp => {
                let pruned: Vec<u32> =
                    (0..all as u32).filter(|channel| kept.binary_search(channel).is_err()).collect();
                let (set_of, none) = (set(&pruned, all)?, backend.indices(0)?);
                let pruned = Kept { set: set_of, kv_heads: None, kv_head_of: none };
                let numbers: Vec<u32> = (0..n as u32).collect();
                Some(Split { pruned, all_kept: set(&numbers, n)? })
            }
        },
        means: statistics(&prior.means)?,
        precision: match settings.adapt.metric {
            AdaptMetric::Full => Precision::Full(precision),
            AdaptMetric::Diagonal => Precision::Diagonal(precision),
        },
        weight: statistics(&laid_out::<B>(weight, n))?,
        bias: statistics(bias)?,
        last: Linear {
            weight: backend.weight(&tensor, WeightUse::Columns)?,
            bias: None,
            out_features: h,
            in_features: n,
        },
        error: backend.statistics(1)?,
        expected_error: prior.error,
        error_scale: prior.variance * prior.pruned_share,
    })
}

/// W' as the backend has it, from rows of n, or back, from its rows.
fn laid_out<B: Backend>(weight: &[f32], columns: usize) -> Cow<'_, [f32]> {
    if !B::TRANSPOSES_COLUMNS {
        return weight.into();
    }
    (0..columns).flat_map(|c| weight[c..].iter().step_by(columns).copied()).collect()
}

/// The state that calibration leaves.
fn start_of(folded: &FoldedBlock, settings: &Settings) -> BlockCorrection {
    let FoldedBlock { weight, bias, prior, .. } = folded;
    let prior = prior.as_ref().expect("a fold that is corrected has priors");
    let tokens = settings.adapt.prior_tokens as f32;
    BlockCorrection {
        weight: weight.clone(),
        bias: bias.clone(),
        precision: prior.metric.iter().map(|x| x / tokens).collect(),
    }
}

impl<B: Backend> Session<B> {
    /// Whether the next batch is probed.
    pub(super) fn is_probed(&self) -> bool {
        self.corrections.as_ref().is_some_and(|corrections| corrections.active && corrections.wait == 0)
    }

    /// The dense model, if it runs a batch in this mode or its probe.
    pub(super) fn dense_for(&self, mode: Mode) -> Option<Arc<Model<B>>> {
        let runs = match mode {
            Mode::Batch { update_history } => update_history && self.is_probed(),
            Mode::Prompt { .. } => true,
            Mode::Decode { .. } => false,
        };
        self.fold.as_ref().filter(|_| runs).and_then(|fold| fold.dense.clone())
    }

    /// After a batch: whether the next ones are probed.
    pub(super) fn note_corrections(&mut self) -> Result<()> {
        let is_probed = self.is_probed();
        let Some(corrections) = &mut self.corrections else { return Ok(()) };
        corrections.batches += 1;
        if !is_probed {
            corrections.wait = corrections.wait.saturating_sub(1);
            return Ok(());
        }
        corrections.probed += 1;
        let (mut sum, mut blocks) = (0.0, 0);
        for selection in self.selections.iter().flatten() {
            if let Selection::Adapted(adapted) = selection {
                let error = self.model.backend.download_statistics(&adapted.error, 1)?[0];
                let excess = f64::from(error) - adapted.expected_error;
                sum += excess / adapted.error_scale.max(f64::MIN_POSITIVE);
                blocks += 1;
            }
        }
        let excess = sum / f64::from(blocks);
        corrections.excess_error = Some(excess);
        let fits = excess <= self.settings.adapt.threshold;
        corrections.wait = if fits { self.settings.adapt.every - 1 } else { 0 };
        Ok(())
    }

    /// The fold's mean squared error on the latest probe, less that on calibration's text, as a share of the variance that the
    /// block's output had there, over the share of channels that are pruned; mean over the blocks. About 0 where calibration
    /// covers the text. `None` before the first probe, and without corrections.
    pub fn excess_error(&self) -> Option<f64> {
        self.corrections.as_ref().and_then(|corrections| corrections.excess_error)
    }

    /// The share of batches so far that were probed to correct the fold; `None` without corrections or batches.
    pub fn probed_share(&self) -> Option<f64> {
        let corrections = self.corrections.as_ref().filter(|corrections| corrections.batches > 0)?;
        Some(corrections.probed as f64 / corrections.batches as f64)
    }

    /// Whether batches are probed to correct the fold, now and then at least; `None` for a session without corrections.
    pub fn adapting(&self) -> Option<bool> {
        self.corrections.as_ref().map(|corrections| corrections.active)
    }

    /// With `false` the fold stays as it is from now on, with what it has learned, and no batch is probed.
    pub fn set_adapting(&mut self, active: bool) {
        if let Some(corrections) = &mut self.corrections {
            corrections.active = active;
        }
    }

    /// The fold as calibration made it: forgets all corrections, and what was counted. [`Session::set_adapting`] stays as it is.
    ///
    /// # Errors
    /// A device that failed or has no room.
    pub fn reset_corrections(&mut self) -> Result<()> {
        let adapting = self.adapting();
        if let Some(fold) = &self.fold {
            self.corrections = prepare(fold, &self.settings, None, &mut self.selections)?;
        }
        if let Some(active) = adapting {
            self.set_adapting(active);
        }
        Ok(())
    }

    /// What the session has learned about its fold, to be kept in a [`Calibration`](crate::prune::calibration::Calibration);
    /// `None` without corrections.
    ///
    /// # Errors
    /// A device that failed.
    pub fn corrections(&self) -> Result<Option<Learned>> {
        if self.corrections.is_none() {
            return Ok(None);
        }
        let (backend, h) = (&*self.model.backend, self.model.config.hidden_size);
        let of_block = |selection: &Selection<B>| {
            let Selection::Adapted(adapted) = selection else { return Ok(None) };
            let n = adapted.kept.channels();
            let precision = match &adapted.precision {
                Precision::Full(precision) => backend.download_statistics(precision, n * n)?,
                Precision::Diagonal(precision) => backend.download_statistics(precision, n)?,
            };
            let weight = backend.download_statistics(&adapted.weight, n * h)?;
            Result::Ok(Some(BlockCorrection {
                weight: laid_out::<B>(&weight, h).into_owned(),
                bias: backend.download_statistics(&adapted.bias, h)?,
                precision,
            }))
        };
        let layers =
            self.selections.iter().map(|[attention, mlp]| Ok([of_block(attention)?, of_block(mlp)?]));
        Ok(Some(Learned { fold: self.model.fingerprint.clone(), blocks: layers.collect::<Result<_>>()? }))
    }
}
