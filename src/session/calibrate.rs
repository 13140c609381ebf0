//! Calibration: a dense pass over samples that gives history its start and the static methods their scores, and a second
//! one for linear compensation.

use std::sync::{Arc, atomic::AtomicBool};

use super::{Limits, Session, fault};
use crate::{
    backend::{Backend, ColumnStatisticOperands, Linear, WeightUse},
    checkpoint::Tensor,
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
}

/// Runs `tokens` (samples, S) densely and returns their moments. There must be no padding. `on_batch` is called with
/// the number of samples done, twice for each if there are linear maps to fit.
///
/// # Errors
/// As [`Session::evaluate`]; no samples at all; a model that was loaded with its channels in another order; what `on_batch`
/// ends with.
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
    let limits = Limits { samples: batch_size.min(samples), tokens: seq_len, capacity: 0 };
    let settings = Settings::default_for(config.num_hidden_layers);
    let session = Session::new(Arc::clone(model), settings, limits, None)?;
    let mut run = Run { session, tokens, options, on_batch, done: 0 };
    let rows = samples * seq_len;
    let h = config.hidden_size;

    let mut collected = collectors(config.num_hidden_layers, |_, block| {
        let inputs = if linear_rank > 0 { Some(Inputs::new(backend, h, seq_len)?) } else { None };
        Collected::moments(backend, seq_len, block.channels(config), options.flap, inputs)
    })?;
    run.pass(&mut collected)?;
    let mut layers: Vec<[BlockMoments; 2]> = Vec::new();
    let mut directions = Vec::new();
    for blocks in collected {
        let mut moments = Vec::new();
        for (block, collected) in Block::ALL.into_iter().zip(blocks) {
            let Collected::Moments { moments: of_a, inputs } = collected else { unreachable!("made above") };
            let of_a = block_moments(backend, seq_len, block.channels(config), &of_a, options.flap)?;
            // Squares overflow before values do, and no block comes after the last one that would look at these.
            if !of_a.energy.iter().all(|energy| energy.is_finite()) {
                return Err(fault(layers.len(), block, "an energy"));
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
    let channel_order = channel_order(model, &layers)?;
    Ok(Calibration { fingerprint: model.fingerprint.clone(), seq_len, samples, layers, channel_order })
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
            let context =
                Context { model: &*model, settings: &session.settings, batch: &session.batch, mode };
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
