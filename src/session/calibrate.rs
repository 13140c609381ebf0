//! Calibration: a dense pass over samples that gives history its start and the static methods their scores, and a second
//! one for linear compensation.

use std::{
    ops::Range,
    sync::{Arc, atomic::AtomicBool},
};

use super::{Limits, Session, fault};
use crate::{
    backend::{Backend, ColumnStatisticOperands, Linear, WeightUse},
    checkpoint::Tensor,
    config::ModelConfig,
    error::{Error, Proceed, Result},
    model::{
        Model,
        collect::{Collected, Inputs, Products},
        context::{Context, Mode},
        forward,
    },
    prune::{
        Block,
        calibration::{BlockMoments, Calibration, FlapMoments, slot_mean},
        linear_fit,
        second_moments::SecondMoments,
        settings::{Compensation, Metric, Settings},
    },
};

/// How to calibrate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CalibrationOptions {
    /// S of every sample.
    pub seq_len: usize,
    /// Samples per batch; the last one may be smaller.
    pub batch_size: usize,
    /// Also gather FLAP's moments, which takes twice the memory.
    pub flap: bool,
    /// Also fit linear maps of this rank, which takes a second pass; 0 for none.
    pub linear_rank: usize,
    /// Also gather the second moments that folds are fitted from.
    pub fold: bool,
    /// Bytes of second moments that the device holds at a time, at least those of a layer; more of them take further
    /// passes. 0 means [`CalibrationOptions::FOLD_MEMORY`].
    pub fold_memory: usize,
}

impl CalibrationOptions {
    /// Bytes of second moments at a time where nothing else is said.
    pub const FOLD_MEMORY: usize = 4 << 30;

    /// Passes over the samples that a model of `config` takes.
    pub fn passes(&self, config: &ModelConfig) -> usize {
        let of_second =
            if self.fold { config.num_hidden_layers.div_ceil(self.layers_at_a_time(config)) } else { 1 };
        of_second + usize::from(self.linear_rank > 0)
    }

    /// Layers whose second moments the device holds at a time.
    fn layers_at_a_time(&self, config: &ModelConfig) -> usize {
        let bytes: usize = Block::ALL.iter().map(|block| 4 * block.channels(config).pow(2)).sum();
        let memory = if self.fold_memory == 0 { Self::FOLD_MEMORY } else { self.fold_memory };
        (memory / bytes).clamp(1, config.num_hidden_layers)
    }
}

/// Runs `tokens` (samples, S) densely and returns their moments. There must be no padding. `on_batch` is called with
/// the number of samples done, once for each of [`CalibrationOptions::passes`].
///
/// # Errors
/// As [`Session::evaluate`]; no samples at all; a model that was loaded with its channels in another order; what `on_batch`
/// ends with. Second moments need room in the folder for temporary files.
pub fn calibrate<B: Backend, P: Proceed>(
    model: &Arc<Model<B>>,
    tokens: &[u32],
    options: CalibrationOptions,
    on_batch: impl FnMut(usize) -> P,
) -> Result<Calibration> {
    let CalibrationOptions { seq_len, batch_size, linear_rank, .. } = options;
    let (backend, config) = (&*model.backend, &model.config);
    let samples = tokens.len() / seq_len.max(1);
    if samples == 0 || !tokens.len().is_multiple_of(seq_len) {
        return Err(Error::argument(
            "calibration",
            format!("whole samples of {seq_len} tokens, at least one"),
            format!("{} tokens", tokens.len()),
            "Pass more text or a smaller `seq_len`; padded samples cannot calibrate.",
        ));
    }
    if linear_rank > config.hidden_size {
        return Err(Error::argument(
            "linear_rank",
            format!("a rank of at most {}, the model's hidden_size", config.hidden_size),
            linear_rank,
            "32 is usual.",
        ));
    }
    if model.channel_order.is_some() {
        let got = "one loaded in another order";
        let help = "Calibrate before loading it in the order that calibration finds.";
        return Err(Error::argument(
            "calibration",
            "a model with its channels in the checkpoint's order",
            got,
            help,
        ));
    }
    if !model.is_whole() {
        let help = "Calibrate the original; a model that was pruned for good needs no calibration.";
        return Err(Error::argument(
            "calibration",
            "a model with all of its heads and channels",
            "one that was pruned for good",
            help,
        ));
    }
    let limits = Limits { samples: batch_size.min(samples), tokens: seq_len, capacity: 0 };
    let settings = Settings::default_for(config.num_hidden_layers);
    let session = Session::new(Arc::clone(model), settings, limits, None)?;
    let mut run = Run { session, tokens, options, on_batch, done: 0 };
    let rows = samples * seq_len;
    let h = config.hidden_size;

    let together = if options.fold { options.layers_at_a_time(config) } else { 0 };
    let mut collected = collectors(config.num_hidden_layers, |layer, block| {
        let inputs = if linear_rank > 0 { Some(Inputs::new(backend, h, seq_len)?) } else { None };
        let width = block.channels(config);
        let second = (layer < together).then(|| backend.statistics(width * width)).transpose()?;
        Collected::moments(backend, seq_len, width, options.flap, inputs, second)
    })?;
    run.pass(&mut collected)?;
    let mut layers: Vec<[BlockMoments; 2]> = Vec::new();
    let mut directions = Vec::new();
    for blocks in collected {
        let mut moments = Vec::new();
        for (block, collected) in Block::ALL.into_iter().zip(blocks) {
            let Collected::Moments { moments: of_a, inputs, second } = collected else {
                unreachable!("made above")
            };
            let mut of_a = block_moments(backend, seq_len, block.channels(config), &of_a, options.flap)?;
            // Squares overflow before values do, and no block comes after the last one that would look at these.
            if !of_a.energy.iter().all(|energy| energy.is_finite()) {
                return Err(fault(layers.len(), block, "an energy"));
            }
            if let Some(sums) = second {
                of_a.second = Some(second_moments(backend, &sums, block.channels(config), rows)?);
            }
            moments.push(of_a);
            if let Some(inputs) = inputs {
                let mean = slot_mean(&backend.download_statistics(&inputs.moments.mean, seq_len * h)?, h);
                let mut second = backend.download_statistics(&inputs.second, h * h)?;
                second.iter_mut().for_each(|x| *x /= rows as f32);
                directions.push(linear_fit::directions(&mean, &second, linear_rank));
            }
        }
        layers.push(moments.try_into().expect("two blocks"));
    }
    if linear_rank > 0 {
        run.fit_linear(&mut layers, directions)?;
    }
    for first in (together..config.num_hidden_layers).step_by(together.max(1)).filter(|_| options.fold) {
        run.gather_second(&mut layers, first..config.num_hidden_layers.min(first + together))?;
    }
    let channel_order = channel_order(model, &layers)?;
    Ok(Calibration {
        fingerprint: model.fingerprint.clone(),
        seq_len,
        samples,
        layers,
        channel_order,
        corrections: None,
        losses: Vec::new(),
    })
}

/// Passes over the samples.
struct Run<'a, B: Backend, F> {
    session: Session<B>,
    tokens: &'a [u32],
    options: CalibrationOptions,
    on_batch: F,
    done: usize,
}

impl<B: Backend, F: FnMut(usize) -> P, P: Proceed> Run<'_, B, F> {
    fn pass(&mut self, collected: &mut Vec<[Collected<B>; 2]>) -> Result<()> {
        let CalibrationOptions { seq_len, batch_size, .. } = self.options;
        let model = Arc::clone(&self.session.model);
        let session = &mut self.session;
        let mut seen = 0;
        for batch in self.tokens.chunks(batch_size * seq_len) {
            session.load(batch, batch.len() / seq_len, None)?;
            let mode = Mode::Batch { update_history: false };
            let context = Context {
                model: &*model,
                settings: &session.settings,
                batch: &session.batch,
                mode,
                dense: None,
            };
            let collecting = Some((&mut *collected, seen));
            let (selections, scratch) = (&mut session.selections, &mut session.scratch);
            let going_on = AtomicBool::new(false);
            model.backend.scope(|| forward::run(&context, selections, scratch, None, collecting, &going_on));
            session.check_fault()?;
            seen += batch.len() / seq_len;
            self.done += batch.len() / seq_len;
            (self.on_batch)(self.done).proceed()?;
        }
        Ok(())
    }
}

/// P, and p0, of a block.
type Directions = (Vec<f32>, Vec<f32>);

impl<B: Backend, F: FnMut(usize) -> P, P: Proceed> Run<'_, B, F> {
    /// The second pass: fits a linear map to every block, whose directions come from the first.
    fn fit_linear(&mut self, layers: &mut [[BlockMoments; 2]], directions: Vec<Directions>) -> Result<()> {
        let CalibrationOptions { seq_len, linear_rank, .. } = self.options;
        let model = Arc::clone(&self.session.model);
        let (backend, config) = (&*model.backend, &model.config);
        let (rows, most_rows) = (self.tokens.len(), self.session.limits.samples * seq_len);
        let mut next = directions.iter();
        let mut collected = collectors(config.num_hidden_layers, |_, block| {
            let of_block = next.next().expect("one for each block");
            let directions = self::directions(backend, of_block, config.hidden_size)?;
            Ok(Collected::Products(Products::new(backend, directions, most_rows, block.channels(config))?))
        })?;
        self.pass(&mut collected)?;
        let blocks = layers.iter_mut().flatten().zip(collected.iter().flatten()).zip(directions);
        for (which, ((moments, collected), directions)) in blocks.enumerate() {
            let Collected::Products(products) = collected else { unreachable!("made above") };
            let width = Block::ALL[which % 2].channels(config);
            let product = backend.download_statistics(&products.product, linear_rank * width)?;
            let (means, squares) = (slot_mean(&moments.mean, width), slot_mean(&moments.energy, width));
            moments.linear = Some(linear_fit::fit(directions, &product, rows, &means, &squares));
        }
        Ok(())
    }
}

impl<B: Backend, F: FnMut(usize) -> P, P: Proceed> Run<'_, B, F> {
    /// One more pass: the second moments of these layers.
    fn gather_second(&mut self, layers: &mut [[BlockMoments; 2]], which: Range<usize>) -> Result<()> {
        let model = Arc::clone(&self.session.model);
        let (backend, config, rows) = (&*model.backend, &model.config, self.tokens.len());
        let mut collected = collectors(config.num_hidden_layers, |layer, block| {
            let width = block.channels(config);
            Ok(match which.contains(&layer) {
                true => Collected::Second(backend.statistics(width * width)?),
                false => Collected::Nothing,
            })
        })?;
        self.pass(&mut collected)?;
        for (moments, collected) in layers.iter_mut().zip(&collected) {
            for ((block, moments), collected) in Block::ALL.into_iter().zip(moments).zip(collected) {
                if let Collected::Second(sums) = collected {
                    moments.second = Some(second_moments(backend, sums, block.channels(config), rows)?);
                }
            }
        }
        Ok(())
    }
}

fn second_moments<B: Backend>(
    backend: &B,
    sums: &B::Statistics,
    width: usize,
    rows: usize,
) -> Result<SecondMoments> {
    SecondMoments::from_sums(&backend.download_statistics(sums, width * width)?, width, rows)
}

/// One for each block of each layer.
fn collectors<B: Backend>(
    layers: usize,
    mut new: impl FnMut(usize, Block) -> Result<Collected<B>>,
) -> Result<Vec<[Collected<B>; 2]>> {
    (0..layers).map(|layer| Ok([new(layer, Block::Attention)?, new(layer, Block::Mlp)?])).collect()
}

/// P with p0 as its bias, on the device.
pub(super) fn directions<B: Backend>(
    backend: &B,
    (directions, offsets): &(Vec<f32>, Vec<f32>),
    in_features: usize,
) -> Result<Linear<B>> {
    let out_features = offsets.len();
    let tensor = Tensor::from_f32(vec![out_features, in_features], directions.clone());
    let mut bias = backend.statistics(out_features)?;
    backend.upload_statistics(offsets, &mut bias);
    let weight = backend.weight(&tensor, WeightUse::Rows)?;
    Ok(Linear { weight, bias: Some(bias), out_features, in_features })
}

fn block_moments<B: Backend>(
    backend: &B,
    seq_len: usize,
    width: usize,
    moments: &crate::backend::Moments<B>,
    flap: bool,
) -> Result<BlockMoments> {
    let download = |values: &B::Statistics| backend.download_statistics(values, seq_len * width);
    let column_sums = |values: &B::Statistics| -> Result<Vec<f32>> {
        let mut sums = vec![0.0f32; width];
        for row in download(values)?.chunks_exact(width) {
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        Ok(sums)
    };
    let flap_moments = || {
        Result::Ok(FlapMoments {
            fluctuation: column_sums(&moments.fluctuation)?,
            baseline: column_sums(&moments.baseline)?.iter().map(|sum| sum / seq_len as f32).collect(),
        })
    };
    Ok(BlockMoments {
        energy: download(&moments.energy)?,
        mean: download(&moments.mean)?,
        flap: if flap { Some(flap_moments()?) } else { None },
        linear: None,
        second: None,
    })
}

/// See [`Calibration::channel_order`].
fn channel_order<B: Backend>(model: &Model<B>, layers: &[[BlockMoments; 2]]) -> Result<Vec<Vec<u32>>> {
    let (backend, width) = (&*model.backend, model.config.intermediate_size);
    let mut statistic = backend.statistics(width)?;
    let mut orders = Vec::new();
    for ([_, moments], layer) in layers.iter().zip(&model.weights.layers) {
        backend.column_statistic(ColumnStatisticOperands {
            projection: layer.last(Block::Mlp),
            metric: Metric::Ppsp,
            out: &mut statistic,
        });
        // Energies that compensated runs score by; where nothing compensates they group as well as plain ones.
        let mut scores = match &moments.linear {
            Some(fit) => fit.variance.iter().map(|&x| f64::from(x)).collect(),
            None => slot_mean(&moments.centred_energy(width, Compensation::CENTRED_SHARE), width),
        };
        let statistic = backend.download_statistics(&statistic, width)?;
        scores.iter_mut().zip(statistic).for_each(|(score, statistic)| *score *= f64::from(statistic));
        if !scores.iter().all(|score| score.is_finite()) {
            return Err(fault(orders.len(), Block::Mlp, "a channel score"));
        }
        let mut order: Vec<u32> = (0..width as u32).collect();
        order.sort_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]));
        orders.push(order);
    }
    Ok(orders)
}
