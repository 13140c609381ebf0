//! What every block keeps, as the settings ask: chosen once here for the static methods, prepared for the dynamic ones.

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::Limits;
use crate::{
    backend::{Backend, Fusion, History},
    error::{Error, Result},
    model::{
        Block, Model,
        block::{fault_tag, norm_and_last},
        forward::Selections,
        scratch::Scratch,
        selection::{Kept, Probed, Recent, Selection},
    },
    prune::{
        calibration::{BlockMoments, Calibration, FlapMoments},
        counts, flap,
        flops::LayerCounts,
        settings::{HistoryLayout, Method, Metric, Settings},
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
            format!("--method {}", settings.method),
            "a calibration",
            "none",
            "Pass --history FILE, --calibrate-text or --calibrate-tokens.",
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
                    counts::kept_channels(settings, config.intermediate_size, flap_ratios[2 * i + 1])
                }
                (_, Block::Attention) => counts::kept_heads(settings, config, ratio)?,
                (_, Block::Mlp) => counts::kept_channels(settings, config.intermediate_size, ratio),
            };
            let selection = builder.selection(layer, block, len)?;
            let count = &mut counts[layer];
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
            let Some(indices) = indices.as_ref().filter(|_| len > 0) else {
                if indices.is_some() || len > 0 {
                    let what = |some: bool| if some { "a kept set" } else { "nothing: the block is dense" };
                    let name = format!("kept of layer {layer}, {}", block.name());
                    return Err(Error::argument(name, what(len > 0), what(indices.is_some()), help));
                }
                continue;
            };
            let ascending = indices.windows(2).all(|pair| pair[0] < pair[1]);
            if indices.len() != len || !ascending || indices.last().is_some_and(|&last| last as usize >= of) {
                let expected = format!("{len} ascending indices below {of}");
                let name = format!("kept of layer {layer}, {}", block.name());
                return Err(Error::argument(name, expected, format!("{} indices", indices.len()), help));
            }
            let mut kept = Kept::new(backend, config, block, len)?;
            backend.upload_indices(indices, &mut kept.set.indices);
            kept.follow_kv_heads(backend, config);
            *selection = Selection::Fixed { kept, bias: None };
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
    for (layer, selections) in selections.iter_mut().enumerate() {
        for (block, selection) in Block::ALL.into_iter().zip(selections) {
            if let Selection::Probed(Probed { history: Some(history), .. }) = selection {
                let words = history.layout.words(history.slots, history.width);
                model.backend.clear_statistics(&mut history.values, words);
                fill(&*model.backend, history, moments(calibration, layer, block));
            }
        }
    }
}

fn moments(calibration: Option<&Calibration>, layer: usize, block: Block) -> Option<&BlockMoments> {
    calibration.map(|calibration| &calibration.layers[layer][usize::from(block == Block::Mlp)])
}

/// Puts calibration's energies into a history of zeros.
fn fill<B: Backend>(backend: &B, history: &mut History<B>, moments: Option<&BlockMoments>) {
    if let Some(moments) = moments {
        let energy = history.layout.encode(&moments.energy, history.width);
        backend.upload_statistics(&energy, &mut history.values);
    }
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
                "--history",
                "a calibration with FLAP's moments",
                "one without",
                "Make it anew with `probeprune calibrate`.",
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
            _ => self.moments(layer, block).map_or_else(Vec::new, |moments| moments.energy.clone()),
        };
        let kept = self.by_energy(layer, block, len, metric, &statistic, &energy)?;
        let bias = match self.settings.method {
            Method::Flap => Some(self.compensation(layer, block, &kept)?),
            _ => None,
        };
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
        let (mut kept_history, mut recent) = (None, None);
        if with_history {
            let layout = self.settings.history_layout;
            // Slots that calibration has not seen start at 0 and are filled by the updates.
            let mut history = history(seen.max(self.limits.tokens), layout)?;
            fill(backend, &mut history, self.moments(layer, block));
            kept_history = Some(history);
        }
        if with_history && block == Block::Mlp && self.limits.capacity > 0 {
            let slots = self.limits.capacity;
            let energy = history(slots, HistoryLayout::default())?;
            recent = Some(Recent { energy, slots: backend.indices(slots)? });
        }
        let statistic = self.statistic(layer, block, metric)?;
        let kept = Kept::new(backend, config, block, len)?;
        let pending = backend.statistics(if with_history {
            self.limits.tokens * kept.blocks().channels()
        } else {
            0
        })?;
        Ok(Selection::Probed(Probed { kept, statistic, history: kept_history, pending, recent }))
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
        let head_dim = (block == Block::Attention).then_some(config.head_dim);
        let slots = energy.len() / width;
        let scores = &mut self.scratch.scores;
        backend.channel_score(&p, slots, width, Fusion::ProbeOnly, metric, statistic, head_dim, scores);
        self.keep_best(layer, block, len)
    }

    /// Units in the order of a permutation seeded by layer and block.
    fn random(&mut self, layer: usize, block: Block, len: usize) -> Result<Selection<B>> {
        let config = &self.model.config;
        let mut rng = ChaCha8Rng::seed_from_u64(self.settings.seed);
        rng.set_stream(2 * layer as u64 + u64::from(block == Block::Mlp));
        let mut scores: Vec<f32> =
            (0..block.channels(config) / block.unit(config)).map(|rank| rank as f32).collect();
        scores.shuffle(&mut rng);
        self.model.backend.upload_statistics(&scores, &mut self.scratch.scores);
        Ok(Selection::Fixed { kept: self.keep_best(layer, block, len)?, bias: None })
    }

    fn keep_best(&mut self, layer: usize, block: Block, len: usize) -> Result<Kept<B>> {
        let (backend, config) = (&*self.model.backend, &self.model.config);
        let mut kept = Kept::new(backend, config, block, len)?;
        let Scratch { scores, fault, .. } = &mut *self.scratch;
        backend.top_k_keep(scores, &mut kept.set, fault_tag(layer, block, true), fault);
        kept.follow_kv_heads(backend, config);
        Ok(kept)
    }

    /// FLAP's bias: the projection's own plus W·v, v the baseline of the pruned channels.
    fn compensation(&self, layer: usize, block: Block, kept: &Kept<B>) -> Result<B::Statistics> {
        let backend = &*self.model.backend;
        let mut baseline = self.flap_moments(layer, block)?.baseline.clone();
        for unit in backend.download_indices(&kept.set.indices, kept.set.len)? {
            baseline[unit as usize * kept.width..][..kept.width].fill(0.0);
        }
        let (_, last) = norm_and_last(&self.model.weights.layers[layer], block);
        let mut v = backend.activations(last.in_features)?;
        backend.upload_activations(&baseline, &mut v);
        let mut product = backend.activations(last.out_features)?;
        backend.project(&v, 1, last, None, last.bias.as_ref(), None, &mut product);
        let product = backend.download_activations(&product, last.out_features)?;
        let mut bias = backend.statistics(last.out_features)?;
        backend.upload_statistics(&product, &mut bias);
        Ok(bias)
    }
}
