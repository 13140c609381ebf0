//! What every block keeps, as the settings ask: chosen once here for the static methods, prepared for the dynamic ones.

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::{Limits, calibrate::directions};
use crate::{
    backend::{Backend, Fusion, History, Linear, Unit, WeightUse},
    checkpoint::Tensor,
    error::{Error, Result},
    model::{
        Block, Model,
        block::{fault_tag, norm_and_last},
        compensation::{Compensation as BlockCompensation, LinearMap},
        forward::Selections,
        scratch::Scratch,
        selection::{Kept, Probed, Recent, Selection},
    },
    prune::{
        calibration::{BlockMoments, Calibration, FlapMoments},
        counts, flap,
        flops::LayerCounts,
        linear_fit::LinearFit,
        settings::{Compensation, HistoryLayout, Method, Metric, Settings},
    },
};

/// Selections and counts of every layer.
pub(super) fn build<B: Backend>(
    model: &Model<B>,
    settings: &Settings,
    limits: Limits,
    calibration: Option<&Calibration>,
    scratch: &mut Scratch<B>,
) -> Result<(Selections<B>, Vec<LayerCounts>)> {
    let config = &model.config;
    let layers = config.num_hidden_layers;
    let mut selections: Selections<B> = (0..layers).map(|_| [Selection::Dense, Selection::Dense]).collect();
    let mut counts = vec![LayerCounts::dense(config); layers];
    let ratio = counts::layer_ratio(settings, layers)?;
    // Ratio 0 is the dense model to the bit, whatever the method.
    let Some(ratio) = ratio.filter(|&ratio| ratio > 0.0 && settings.method != Method::None) else {
        return Ok((selections, counts));
    };
    if settings.method.needs_calibration() && calibration.is_none() {
        return Err(Error::argument(
            format!("method {}", settings.method),
            "a calibration",
            "none",
            "Pass `calibration`.",
        ));
    }
    if settings.channel_group > 1 && model.channel_order.is_none() {
        return Err(Error::argument(
            format!("channel_group {}", settings.channel_group),
            "a model whose channels were sorted when it was loaded",
            "one in the checkpoint's order",
            "Load it in the order of a calibration.",
        ));
    }
    let pruned: Vec<usize> = (0..layers).filter(|layer| !settings.skip_layers.contains(layer)).collect();
    let mut builder = Builder { model, settings, limits, calibration, scratch };
    let flap_ratios = match settings.method {
        Method::Flap => builder.flap_ratios(&pruned, ratio)?,
        _ => Vec::new(),
    };
    for (i, &layer) in pruned.iter().enumerate() {
        for (which, block) in Block::ALL.into_iter().enumerate() {
            let len = match (settings.method, block) {
                // FLAP's shares come from data and may take everything; one unit is left then.
                (Method::Flap, Block::Attention) => {
                    let heads = config.num_attention_heads;
                    (heads - (flap_ratios[2 * i] * heads as f64) as usize).max(1)
                }
                (Method::Flap, Block::Mlp) => {
                    counts::kept_channels(settings, config, flap_ratios[2 * i + 1])?
                }
                (_, Block::Attention) => counts::kept_heads(settings, config, ratio)?,
                (_, Block::Mlp) => counts::kept_channels(settings, config, ratio)?,
            };
            let unit = block.unit(config, settings.channel_group).width();
            let units = if block == Block::Mlp { len / unit } else { len };
            let selection = builder.selection(layer, block, units)?;
            let count = &mut counts[layer];
            count.compensate = settings.compensate;
            match (block, &selection) {
                (_, Selection::Dense) => {}
                (Block::Attention, _) => {
                    count.heads = len;
                    count.kv_heads = len.min(config.num_key_value_heads);
                    count.probes_attention = settings.method.is_dynamic();
                }
                (Block::Mlp, _) => {
                    count.channels = len;
                    count.probes_mlp = settings.method.is_dynamic();
                }
            }
            selections[layer][which] = selection;
        }
    }
    super::take_fault(&*model.backend, &mut scratch.fault)?;
    Ok((selections, counts))
}

/// See [`super::Session::pin`].
pub(super) fn pin<B: Backend>(
    model: &Model<B>,
    kept: &[[Option<Vec<u32>>; 2]],
    selections: &mut Selections<B>,
) -> Result<()> {
    let (backend, config) = (&*model.backend, &model.config);
    let help = "Take them from a session with the same model and settings.";
    if kept.len() != selections.len() {
        let expected = format!("{} layers", selections.len());
        return Err(Error::argument("kept", expected, format!("{} layers", kept.len()), help));
    }
    for (layer, (pair, selections)) in kept.iter().zip(&mut *selections).enumerate() {
        for ((block, indices), selection) in Block::ALL.into_iter().zip(pair).zip(selections) {
            let (len, of) = selection.kept().map_or((0, 0), |kept| (kept.set.len, kept.set.of));
            let name = || format!("kept of layer {layer}, {}", block.name());
            let Some(indices) = indices.as_ref().filter(|_| len > 0) else {
                if indices.is_some() || len > 0 {
                    let what = |some: bool| if some { "a kept set" } else { "nothing: the block is dense" };
                    return Err(Error::argument(name(), what(len > 0), what(indices.is_some()), help));
                }
                continue;
            };
            let width = selection.kept().map_or(1, |kept| kept.width);
            let group = if block == Block::Mlp { width } else { 1 };
            let units = match block {
                Block::Attention => Some(indices.clone()),
                Block::Mlp => {
                    units(indices, model.channel_order.as_ref().map(|order| &order[layer][..]), width)
                }
            };
            let ascending = |units: &Vec<u32>| units.windows(2).all(|pair| pair[0] < pair[1]);
            let fits = |units: &Vec<u32>| {
                units.len() == len && units.last().is_some_and(|&last| (last as usize) < of)
            };
            let Some(units) = units.filter(|units| ascending(units) && fits(units)) else {
                let expected = format!("{} ascending indices below {}", len * group, of * group);
                let expected =
                    if group > 1 { format!("{expected}, in whole groups of {group}") } else { expected };
                return Err(Error::argument(name(), expected, format!("{} indices", indices.len()), help));
            };
            let mut kept = Kept::new(backend, config, block, width, len)?;
            backend.upload_indices(&units, &mut kept.set.indices);
            kept.follow_kv_heads(backend, config);
            match selection {
                // Its mean over the probe is still to be found.
                Selection::Probed(probed) if probed.compensation.is_some() => {
                    (probed.kept, probed.pinned, probed.pending) = (kept, true, None);
                }
                _ => *selection = Selection::Fixed { kept, bias: None },
            }
        }
    }
    Ok(())
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
                let words = history.layout.words(history.slots, history.width);
                backend.clear_statistics(&mut history.values, words);
                if let Some(moments) = moments(calibration, layer, block) {
                    fill(backend, history, &moments.energy);
                }
            }
        }
    }
}

fn moments(calibration: Option<&Calibration>, layer: usize, block: Block) -> Option<&BlockMoments> {
    calibration.map(|calibration| &calibration.layers[layer][block as usize])
}

/// Puts energies (slots, C) into a history of zeros.
fn fill<B: Backend>(backend: &B, history: &mut History<B>, energy: &[f32]) {
    let values = history.layout.encode(energy, history.width);
    backend.upload_statistics(&values, &mut history.values);
}

/// Groups of `width` channels from the channels that are in them, as the checkpoint numbers these; `None` if some are
/// not whole.
fn units(channels: &[u32], order: Option<&[u32]>, width: usize) -> Option<Vec<u32>> {
    let mut places = channels.to_vec();
    if let Some(order) = order {
        let mut place_of = vec![0; order.len()];
        order.iter().zip(0..).for_each(|(&channel, place)| place_of[channel as usize] = place);
        places =
            channels.iter().map(|&channel| place_of.get(channel as usize).copied()).collect::<Option<_>>()?;
        places.sort_unstable();
    }
    let is_group = |group: &[u32]| {
        (group[0] as usize).is_multiple_of(width) && group.iter().zip(group[0]..).all(|(a, b)| *a == b)
    };
    let mut groups = places.chunks_exact(width);
    groups.by_ref().all(is_group).then_some(())?;
    places
        .len()
        .is_multiple_of(width)
        .then(|| places.iter().step_by(width).map(|place| place / width as u32).collect())
}

fn upload<B: Backend>(backend: &B, values: &[f32]) -> Result<B::Statistics> {
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

struct Builder<'a, B: Backend> {
    model: &'a Model<B>,
    settings: &'a Settings,
    limits: Limits,
    calibration: Option<&'a Calibration>,
    scratch: &'a mut Scratch<B>,
}

impl<'a, B: Backend> Builder<'a, B> {
    fn moments(&self, layer: usize, block: Block) -> Option<&'a BlockMoments> {
        moments(self.calibration, layer, block)
    }

    fn flap_moments(&self, layer: usize, block: Block) -> Result<&'a FlapMoments> {
        self.moments(layer, block).and_then(|moments| moments.flap.as_ref()).ok_or_else(|| {
            Error::argument(
                "calibration",
                "one with FLAP's moments",
                "one without",
                "Make a new one with `probeprune calibrate`.",
            )
        })
    }

    /// Σ|W|, Σ W² or sqrt(Σ W⁴) of the block's last projection (C).
    fn statistic(&self, layer: usize, block: Block, metric: Metric) -> Result<B::Statistics> {
        let backend = &*self.model.backend;
        let (_, last) = norm_and_last(&self.model.weights.layers[layer], block);
        let mut statistic = backend.statistics(last.in_features)?;
        backend.column_statistic(last, metric, &mut statistic);
        Ok(statistic)
    }

    fn flap_ratios(&self, pruned: &[usize], ratio: f64) -> Result<Vec<f64>> {
        let (config, backend) = (&self.model.config, &*self.model.backend);
        let mut metrics = Vec::new();
        for &layer in pruned {
            for block in Block::ALL {
                let statistic = self.statistic(layer, block, Metric::Flap)?;
                let statistic = backend.download_statistics(&statistic, block.channels(config))?;
                let fluctuation = &self.flap_moments(layer, block)?.fluctuation;
                metrics.push((block, fluctuation.iter().zip(statistic).map(|(v, w)| v * w).collect()));
            }
        }
        let seq_len = self.calibration.map_or(0, |calibration| calibration.seq_len);
        Ok(flap::global_ratios(config, &metrics, ratio, seq_len, self.settings.flap_attention_factor))
    }

    fn selection(&mut self, layer: usize, block: Block, len: usize) -> Result<Selection<B>> {
        let metric = match self.settings.method {
            Method::None => return Ok(Selection::Dense),
            // The first block has no previous residual to take a probe from (spec section 6).
            Method::ProbePruning
                if self.settings.parallel_probe && layer == 0 && block == Block::Attention =>
            {
                return Ok(Selection::Dense);
            }
            Method::ProbePruning => return self.probed(layer, block, len, self.settings.metric, true),
            Method::FullBatch => return self.probed(layer, block, len, Metric::Ppsp, false),
            Method::Random => return self.random(layer, block, len),
            Method::WandaSp => Metric::WandaSp,
            // ‖W[:,c]‖₂ orders as its square does, over channels and over heads.
            Method::Flap | Method::Magnitude => Metric::Flap,
        };
        let statistic = self.statistic(layer, block, metric)?;
        let energy = match self.settings.method {
            Method::Magnitude => vec![1.0; block.channels(&self.model.config)],
            Method::Flap => self.flap_moments(layer, block)?.fluctuation.clone(),
            _ => self.moments(layer, block).map_or_else(Vec::new, |moments| match self.settings.compensate {
                Compensation::None => moments.energy.clone(),
                _ => moments.centred_energy(block.channels(&self.model.config), Compensation::CENTRED_SHARE),
            }),
        };
        let kept = self.by_energy(layer, block, len, metric, &statistic, &energy)?;
        let stand_in = match (self.settings.method, self.settings.compensate) {
            (Method::Flap, _) => Some(self.flap_moments(layer, block)?.baseline.clone()),
            (Method::WandaSp, Compensation::ProbeMean) => self
                .moments(layer, block)
                .map(|moments| moments.channel_means(block.channels(&self.model.config))),
            _ => None,
        };
        let bias = stand_in.map(|stand_in| self.bias(layer, block, &kept, stand_in)).transpose()?;
        Ok(Selection::Fixed { kept, bias })
    }

    fn probed(
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
            Ok(History { values: backend.statistics(layout.words(slots, width))?, slots, width, layout })
        };
        let compensate = self.settings.compensate;
        let fit = self.linear_fit(layer, block)?;
        let (mut kept_history, mut recent) = (None, None);
        if with_history {
            // Slots that calibration has not seen start at 0 and are filled by the updates.
            let slots = seen.max(self.limits.tokens);
            let mut layout = self.settings.history_layout;
            if fit.is_some() {
                // What a linear map leaves has one variance per channel, whatever the slot.
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
        let kept = Kept::new(backend, config, block, self.unit(block).width(), len)?;
        // Energies around a mean stay as calibration found them: updates made perplexity slightly worse.
        let updated = kept_history.is_some() && compensate == Compensation::None;
        let pending = updated.then(|| backend.statistics(self.limits.tokens * kept.blocks().channels()));
        let compensation = match compensate {
            Compensation::None => None,
            // Where nothing is pruned, there is nothing to stand in for.
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

    fn unit(&self, block: Block) -> Unit {
        block.unit(&self.model.config, self.settings.channel_group)
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

    /// Keeps the units with the highest scores for energies (slots, C).
    fn by_energy(
        &mut self,
        layer: usize,
        block: Block,
        len: usize,
        metric: Metric,
        statistic: &B::Statistics,
        energy: &[f32],
    ) -> Result<Kept<B>> {
        let (backend, config) = (&*self.model.backend, &self.model.config);
        let width = block.channels(config);
        let mut p = backend.statistics(energy.len())?;
        backend.upload_statistics(energy, &mut p);
        let (unit, slots) = (self.unit(block), energy.len() / width);
        let scores = &mut self.scratch.scores[layer][block as usize];
        backend.channel_score(&p, slots, width, Fusion::ProbeOnly, metric, statistic, unit, scores);
        self.keep_best(layer, block, len)
    }

    /// Units in the order of a permutation seeded by layer and block.
    fn random(&mut self, layer: usize, block: Block, len: usize) -> Result<Selection<B>> {
        let config = &self.model.config;
        let mut rng = ChaCha8Rng::seed_from_u64(self.settings.seed);
        rng.set_stream(2 * layer as u64 + u64::from(block == Block::Mlp));
        let mut scores: Vec<f32> =
            (0..block.channels(config) / self.unit(block).width()).map(|rank| rank as f32).collect();
        scores.shuffle(&mut rng);
        self.model.backend.upload_statistics(&scores, &mut self.scratch.scores[layer][block as usize]);
        Ok(Selection::Fixed { kept: self.keep_best(layer, block, len)?, bias: None })
    }

    fn keep_best(&mut self, layer: usize, block: Block, len: usize) -> Result<Kept<B>> {
        let (backend, config) = (&*self.model.backend, &self.model.config);
        let mut kept = Kept::new(backend, config, block, self.unit(block).width(), len)?;
        let Scratch { scores, fault, .. } = &mut *self.scratch;
        let scores = &scores[layer][block as usize];
        backend.top_k_keep(scores, &mut kept.set, fault_tag(layer, block, true), fault);
        kept.follow_kv_heads(backend, config);
        Ok(kept)
    }

    /// The projection's own bias plus W·v, v what stands in for the pruned channels (C).
    fn bias(&self, layer: usize, block: Block, kept: &Kept<B>, mut v: Vec<f32>) -> Result<B::Statistics> {
        let backend = &*self.model.backend;
        for unit in backend.download_indices(&kept.set.indices, kept.set.len)? {
            v[unit as usize * kept.width..][..kept.width].fill(0.0);
        }
        let (_, last) = norm_and_last(&self.model.weights.layers[layer], block);
        let mut on_device = backend.activations(last.in_features)?;
        backend.upload_activations(&v, &mut on_device);
        let mut product = backend.activations(last.out_features)?;
        backend.project(&on_device, 1, last, None, last.bias.as_ref(), None, None, &mut product);
        let product = backend.download_activations(&product, last.out_features)?;
        let mut bias = backend.statistics(last.out_features)?;
        backend.upload_statistics(&product, &mut bias);
        Ok(bias)
    }
}
