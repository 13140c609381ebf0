//! Calibration: a dense pass over samples that gives history its start and the static methods their scores.

use std::sync::{Arc, atomic::AtomicBool};

use super::{Limits, Session};
use crate::{
    backend::{Backend, Moments},
    error::{Error, Proceed, Result},
    model::{
        Block, Model,
        block::{Context, Mode},
        forward,
    },
    prune::{
        calibration::{BlockMoments, Calibration, FlapMoments},
        settings::Settings,
    },
};

/// How to calibrate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CalibrationOptions {
    /// S of every sample.
    pub seq_len: usize,
    /// Samples per batch; the last one may be smaller.
    pub batch_size: usize,
    /// Also gather FLAP's moments, which takes three times the memory.
    pub flap: bool,
}

/// Runs `tokens` (samples, S) densely and returns their moments. There must be no padding. `on_batch` is called with
/// the number of samples done.
///
/// # Errors
/// As [`Session::evaluate`]; no samples at all; what `on_batch` ends with.
pub fn calibrate<B: Backend, P: Proceed>(
    model: &Arc<Model<B>>,
    tokens: &[u32],
    options: CalibrationOptions,
    mut on_batch: impl FnMut(usize) -> P,
) -> Result<Calibration> {
    let CalibrationOptions { seq_len, batch_size, flap } = options;
    let samples = tokens.len() / seq_len.max(1);
    if samples == 0 || !tokens.len().is_multiple_of(seq_len) {
        return Err(Error::argument(
            "calibration",
            format!("whole samples of {seq_len} tokens, at least one"),
            format!("{} tokens", tokens.len()),
            "Pass more text or a smaller --seq-len; padded samples cannot calibrate.",
        ));
    }
    let limits = Limits { samples: batch_size.min(samples), tokens: seq_len, capacity: 0 };
    let mut session =
        Session::new(Arc::clone(model), Settings::default_for(model.config.num_hidden_layers), limits, None)?;
    let (backend, config) = (&*model.backend, &model.config);
    let moments_of = |block: Block| {
        let len = seq_len * block.channels(config);
        let optional = || backend.statistics(if flap { len } else { 0 });
        Result::Ok(Moments {
            energy: backend.statistics(len)?,
            baseline: optional()?,
            fluctuation: optional()?,
        })
    };
    let mut moments: Vec<[Moments<B>; 2]> = (0..config.num_hidden_layers)
        .map(|_| Ok([moments_of(Block::Attention)?, moments_of(Block::Mlp)?]))
        .collect::<Result<_>>()?;
    let mut seen = 0;
    for batch in tokens.chunks(batch_size * seq_len) {
        session.load(batch, batch.len() / seq_len, None)?;
        let mode = Mode::Batch { update_history: false };
        let context = Context { model, settings: &session.settings, batch: &session.batch, mode };
        let collecting = Some((&mut moments, seen));
        let (selections, scratch) = (&mut session.selections, &mut session.scratch);
        let going_on = AtomicBool::new(false);
        backend.scope(|| forward::run(&context, selections, scratch, None, collecting, &going_on));
        session.check_fault()?;
        seen += batch.len() / seq_len;
        on_batch(seen).proceed()?;
    }
    let finish = |block: Block, moments: Moments<B>| {
        let width = block.channels(config);
        let column_sums = |values: &B::Statistics| -> Result<Vec<f32>> {
            let mut sums = vec![0.0f32; width];
            for row in backend.download_statistics(values, seq_len * width)?.chunks_exact(width) {
                sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
            Ok(sums)
        };
        let flap = || {
            Result::Ok(FlapMoments {
                fluctuation: column_sums(&moments.fluctuation)?,
                baseline: column_sums(&moments.baseline)?.iter().map(|sum| sum / seq_len as f32).collect(),
            })
        };
        Result::Ok(BlockMoments {
            energy: backend.download_statistics(&moments.energy, seq_len * width)?,
            flap: if options.flap { Some(flap()?) } else { None },
        })
    };
    let layers = moments
        .into_iter()
        .map(|[attention, mlp]| Ok([finish(Block::Attention, attention)?, finish(Block::Mlp, mlp)?]))
        .collect::<Result<_>>()?;
    Ok(Calibration { fingerprint: model.fingerprint.clone(), seq_len, samples: seen, layers })
}
