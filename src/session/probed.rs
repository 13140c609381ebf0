//! The state of probed blocks: history filled by calibration, and compensation.

use super::{
    calibrate::directions,
    selections::{Builder, moments},
};
use crate::{
    backend::{Backend, History, Linear, WeightUse},
    checkpoint::Tensor,
    error::{Error, Result},
    model::{
        Model,
        compensation::{Compensation as BlockCompensation, LinearMap},
        forward::Selections,
        kept::Kept,
        selection::{Probed, Recent, Selection},
    },
    prune::{
        Block,
        calibration::Calibration,
        history::HistoryLayout,
        linear_fit::LinearFit,
        settings::{Compensation, Metric},
    },
};

impl<B: Backend> Builder<'_, B> {
    /// A block that a probe chooses `len` units for.
    pub(super) fn probed(
        &self,
        layer: usize,
        block: Block,
        len: usize,
        metric: Metric,
        with_history: bool,
    ) -> Result<Selection<B>> {
        let (backend, config) = (&*self.model.backend, &self.model.config);
        let width = block.channels(config);
        let seen = self.calibration.map_or(0, |calibration| calibration.seq_len);
        let history = |slots: usize, layout: HistoryLayout| {
            Ok(History {
                values: backend.statistics(layout.words(slots, width))?,
                slots,
                channels: width,
                layout,
            })
        };
        let compensate = self.settings.compensate;
        let fit = self.linear_fit(layer, block)?;
        let (mut kept_history, mut recent) = (None, None);
        if with_history {
            // Slots that calibration has not seen start at 0 and are filled by the updates.
            let slots = seen.max(self.limits.tokens);
            let mut layout = self.settings.history_layout;
            if fit.is_some() {
                // The remainder of a linear map has one variance per channel, whatever the slot.
                layout.bucket = slots;
            }
            let mut history = history(slots, layout)?;
            if let Some(moments) = self.moments(layer, block) {
                match (&fit, compensate) {
                    (Some(fit), _) => fill(backend, &mut history, &fit.variance),
                    (None, Compensation::None) => fill(backend, &mut history, &moments.energy),
                    (None, _) => {
                        let energies = moments.centred_energy(width, Compensation::CENTRED_SHARE);
                        fill(backend, &mut history, &energies);
                    }
                }
            }
            kept_history = Some(history);
        }
        if with_history && block == Block::Mlp && self.limits.capacity > 0 {
            let slots = self.limits.capacity;
            let energy = history(slots, HistoryLayout::default())?;
            recent = Some(Recent { energy, slots: backend.indices(slots)? });
        }
        let statistic = self.statistic(layer, block, metric)?;
        let kept = Kept::new(backend, config, block, self.unit(block).block_width(), len)?;
        // Energies around a mean stay as calibration found them: updates made perplexity slightly worse.
        let updated = kept_history.is_some() && compensate == Compensation::None;
        let pending = updated.then(|| backend.statistics(self.limits.tokens * kept.set.channels()));
        let compensation = match compensate {
            Compensation::None => None,
            // Nothing is pruned here.
            _ if kept.set.len == kept.set.of => None,
            _ => {
                let upload = |values: Vec<f32>| upload(backend, &values);
                let prior = match &fit {
                    Some(fit) => Some(fit.bias.clone()),
                    None => self.moments(layer, block).map(|moments| moments.channel_means(width)),
                };
                let prior = prior.map(upload).transpose()?;
                let map = fit.map(|fit| linear_map(backend, config.hidden_size, fit)).transpose()?;
                Some(BlockCompensation::new(backend, config, &kept, prior, map)?)
            }
        };
        Ok(Selection::Probed(Probed {
            kept,
            statistic,
            history: kept_history,
            pending: pending.transpose()?,
            recent,
            compensation,
            pinned: false,
        }))
    }

    /// The linear map that the settings ask for.
    fn linear_fit(&self, layer: usize, block: Block) -> Result<Option<LinearFit>> {
        let Compensation::Linear { rank } = self.settings.compensate else { return Ok(None) };
        let fit = self.moments(layer, block).and_then(|moments| moments.linear.as_ref());
        match fit.filter(|fit| fit.rank() >= rank) {
            Some(fit) => Ok(Some(fit.truncated(rank))),
            None => Err(Error::argument(
                format!("compensate {}", self.settings.compensate),
                format!("a calibration with linear maps of rank {rank} or more"),
                fit.map_or("one without".to_string(), |fit| format!("one with rank {}", fit.rank())),
                "Calibrate with `linear_rank`.",
            )),
        }
    }
}

/// See [`super::Session::reset_history`].
pub(super) fn reset_history<B: Backend>(
    model: &Model<B>,
    calibration: Option<&Calibration>,
    selections: &mut Selections<B>,
) {
    let backend = &*model.backend;
    for (layer, selections) in selections.iter_mut().enumerate() {
        for (block, selection) in Block::ALL.into_iter().zip(selections) {
            // Without pending energies history is never updated.
            if let Selection::Probed(Probed { history: Some(history), pending: Some(_), .. }) = selection {
                let words = history.layout.words(history.slots, history.channels);
                backend.clear_statistics(&mut history.values, words);
                if let Some(moments) = moments(calibration, layer, block) {
                    fill(backend, history, &moments.energy);
                }
            }
        }
    }
}

/// Puts energies (slots, C) into a history of zeros.
fn fill<B: Backend>(backend: &B, history: &mut History<B>, energy: &[f32]) {
    let values = history.layout.encode(energy, history.channels);
    backend.upload_statistics(&values, &mut history.values);
}

pub(super) fn upload<B: Backend>(backend: &B, values: &[f32]) -> Result<B::Statistics> {
    let mut out = backend.statistics(values.len())?;
    backend.upload_statistics(values, &mut out);
    Ok(out)
}

/// A fit on the device.
fn linear_map<B: Backend>(backend: &B, hidden_size: usize, fit: LinearFit) -> Result<LinearMap<B>> {
    let (rank, width) = (fit.rank(), fit.bias.len());
    let negated = (0..width).flat_map(|c| fit.coefficients[c..].iter().step_by(width).map(|x| -x)).collect();
    let negated = Tensor::from_f32(vec![width, rank], negated);
    Ok(LinearMap {
        negated: Linear {
            weight: backend.weight(&negated, WeightUse::Columns)?,
            bias: None,
            out_features: width,
            in_features: rank,
        },
        coefficients: upload(backend, &fit.coefficients)?,
        directions: directions(backend, &(fit.directions, fit.offsets), hidden_size)?,
    })
}
