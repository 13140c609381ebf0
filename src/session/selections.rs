//! The selection of every block: made once for the static methods, prepared for the dynamic ones in [`super::probed`].

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::Limits;
use crate::{
    backend::{
        Backend, ChannelScoreOperands, ColumnStatisticOperands, Fusion, ProjectOperands, TopKKeepOperands,
    },
    error::{Error, Result},
    model::{
        Model, fault::fault_tag, forward::Selections, kept::Kept, scratch::Scratch, selection::Selection,
    },
    prune::{
        Block, Unit,
        calibration::{BlockMoments, Calibration, FlapMoments},
        counts::{self, KeptCounts},
        flap,
        flops::LayerCounts,
        settings::{Compensation, Method, Metric, Settings},
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
    let shapes = model.weights.layers.iter().map(|layer| &layer.shape);
    let mut selections: Selections<B> = (0..layers).map(|_| [Selection::Dense, Selection::Dense]).collect();
    let mut counts: Vec<LayerCounts> = shapes.map(LayerCounts::of).collect();
    let ratio = counts::layer_ratio(settings, layers)?;
    // Ratio 0 is the dense model to the bit, whatever the method; and the model of a fold runs as it is.
    let chooses = !matches!(settings.method, Method::None | Method::Fold);
    let Some(ratio) = ratio.filter(|&ratio| ratio > 0.0 && chooses) else {
        return Ok((selections, counts));
    };
    if !model.is_whole() {
        return Err(Error::argument(
            format!("method {}", settings.method),
            "a model with all of its heads and channels",
            "one that was pruned for good",
            "Run it with `method` none.",
        ));
    }
    if settings.method.needs_calibration() && calibration.is_none() {
        return Err(no_calibration(settings));
    }
    if settings.channel_group > 1 && model.channel_order.is_none() {
        return Err(Error::argument(
            format!("channel_group {}", settings.channel_group),
            "a model whose channels were sorted when it was loaded",
            "one in the checkpoint's order",
            "Load it in the order of a calibration.",
        ));
    }
    let mut builder = Builder { model, settings, limits, calibration, scratch };
    let kept = match settings.method {
        Method::Flap => builder.flap_counts(ratio)?,
        method => {
            let losses = calibration.and_then(|calibration| calibration.losses_of(method));
            counts::kept(settings, config, losses)?
        }
    };
    for (layer, kept) in kept.into_iter().enumerate() {
        for (which, block) in Block::ALL.into_iter().enumerate() {
            let Some(len) = kept[which] else { continue };
            let unit = block.unit(config, settings.channel_group).block_width();
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

pub(super) fn no_calibration(settings: &Settings) -> Error {
    Error::argument(format!("method {}", settings.method), "a calibration", "none", "Pass `calibration`.")
}

pub(super) fn moments(
    calibration: Option<&Calibration>,
    layer: usize,
    block: Block,
) -> Option<&BlockMoments> {
    calibration.map(|calibration| &calibration.layers[layer][block as usize])
}

/// Makes selections.
pub(super) struct Builder<'a, B: Backend> {
    pub(super) model: &'a Model<B>,
    pub(super) settings: &'a Settings,
    pub(super) limits: Limits,
    pub(super) calibration: Option<&'a Calibration>,
    pub(super) scratch: &'a mut Scratch<B>,
}

impl<'a, B: Backend> Builder<'a, B> {
    pub(super) fn moments(&self, layer: usize, block: Block) -> Option<&'a BlockMoments> {
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
    pub(super) fn statistic(&self, layer: usize, block: Block, metric: Metric) -> Result<B::Statistics> {
        let backend = &*self.model.backend;
        let last = self.model.weights.layers[layer].last(block);
        let mut statistic = backend.statistics(last.in_features)?;
        backend.column_statistic(ColumnStatisticOperands { projection: last, metric, out: &mut statistic });
        Ok(statistic)
    }

    /// FLAP's counts, from shares that come from data and may take everything: one head is left then.
    fn flap_counts(&self, ratio: f64) -> Result<Vec<KeptCounts>> {
        let (config, backend) = (&self.model.config, &*self.model.backend);
        let layers = config.num_hidden_layers;
        let pruned: Vec<usize> =
            (0..layers).filter(|layer| !self.settings.skip_layers.contains(layer)).collect();
        let mut metrics = Vec::new();
        for &layer in &pruned {
            for block in Block::ALL {
                let statistic = self.statistic(layer, block, Metric::Flap)?;
                let statistic = backend.download_statistics(&statistic, block.channels(config))?;
                let fluctuation = &self.flap_moments(layer, block)?.fluctuation;
                metrics.push((block, fluctuation.iter().zip(statistic).map(|(v, w)| v * w).collect()));
            }
        }
        let seq_len = self.calibration.map_or(0, |calibration| calibration.seq_len);
        let factor = self.settings.flap_attention_factor;
        let ratios = flap::global_ratios(config, &metrics, ratio, seq_len, factor);
        let mut kept = vec![[None, None]; layers];
        for (layer, ratios) in pruned.into_iter().zip(ratios.chunks_exact(2)) {
            let heads = config.num_attention_heads;
            let heads = (heads - (ratios[0] * heads as f64) as usize).max(1);
            kept[layer] = [Some(heads), Some(counts::kept_channels(self.settings, config, ratios[1])?)];
        }
        Ok(kept)
    }

    fn selection(&mut self, layer: usize, block: Block, len: usize) -> Result<Selection<B>> {
        let metric = match self.settings.method {
            Method::None | Method::Fold => return Ok(Selection::Dense),
            // The first block has no previous residual to take a probe from (docs/method.md, section 6).
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

    pub(super) fn unit(&self, block: Block) -> Unit {
        block.unit(&self.model.config, self.settings.channel_group)
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
        backend.channel_score(ChannelScoreOperands {
            p: &p,
            tokens: energy.len() / width,
            channels: width,
            fusion: Fusion::ProbeOnly,
            metric,
            statistic,
            unit: self.unit(block),
            out: &mut self.scratch.scores[layer][block as usize],
        });
        self.keep_best(layer, block, len)
    }

    /// Units in the order of a permutation seeded by layer and block.
    fn random(&mut self, layer: usize, block: Block, len: usize) -> Result<Selection<B>> {
        let config = &self.model.config;
        let mut rng = ChaCha8Rng::seed_from_u64(self.settings.seed);
        rng.set_stream(2 * layer as u64 + u64::from(block == Block::Mlp));
        let mut scores: Vec<f32> =
            (0..block.channels(config) / self.unit(block).block_width()).map(|rank| rank as f32).collect();
        scores.shuffle(&mut rng);
        self.model.backend.upload_statistics(&scores, &mut self.scratch.scores[layer][block as usize]);
        Ok(Selection::Fixed { kept: self.keep_best(layer, block, len)?, bias: None })
    }

    fn keep_best(&mut self, layer: usize, block: Block, len: usize) -> Result<Kept<B>> {
        let (backend, config) = (&*self.model.backend, &self.model.config);
        let mut kept = Kept::new(backend, config, block, self.unit(block).block_width(), len)?;
        let Scratch { scores, fault, .. } = &mut *self.scratch;
        let (scores, tag) = (&scores[layer][block as usize], fault_tag(layer, block, true));
        backend.top_k_keep(TopKKeepOperands { scores, kept: &mut kept.set, tag, fault });
        kept.follow_kv_heads(backend, config);
        Ok(kept)
    }

    /// The projection's own bias plus W·v, v (C) being the values of the pruned channels.
    fn bias(&self, layer: usize, block: Block, kept: &Kept<B>, mut v: Vec<f32>) -> Result<B::Statistics> {
        let backend = &*self.model.backend;
        for unit in backend.download_indices(&kept.set.indices, kept.set.len)? {
            v[unit as usize * kept.set.block_width..][..kept.set.block_width].fill(0.0);
        }
        let last = self.model.weights.layers[layer].last(block);
        let mut on_device = backend.activations(last.in_features)?;
        backend.upload_activations(&v, &mut on_device);
        let mut product = backend.activations(last.out_features)?;
        backend.project(ProjectOperands {
            bias: last.bias.as_ref(),
            ..ProjectOperands::new(&on_device, 1, last, &mut product)
        });
        let product = backend.download_activations(&product, last.out_features)?;
        let mut bias = backend.statistics(last.out_features)?;
        backend.upload_statistics(&product, &mut bias);
        Ok(bias)
    }
}
