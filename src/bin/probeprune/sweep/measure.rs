//! One run: a variant at one ratio. It alternates with the dense model, batch by batch, so that a slow moment of the
//! machine slows both.

use std::time::Instant;

use indicatif::ProgressBar;
use probeprune::{
    Result,
    backend::Backend,
    perplexity::{PerplexityOptions, shares},
    prune::{
        Block,
        calibration::Calibration,
        settings::{Compensation, Method, Settings},
    },
    session::{Limits, Session},
};

use super::record::{Histogram, LayerRecord, Part, Record};
use crate::{input::Loaded, statistics::median};

/// The batches of the text, and the number of times each is timed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batches<'a> {
    /// Whole windows, one after another.
    pub(super) windows: &'a [u32],
    pub(super) options: PerplexityOptions,
    pub(super) rounds: usize,
}

impl<'a> Batches<'a> {
    fn limits(self) -> Limits {
        Limits { samples: self.options.batch_size, tokens: self.options.seq_len, capacity: 0 }
    }

    fn iter(self) -> impl Iterator<Item = &'a [u32]> {
        self.windows.chunks(self.options.batch_size * self.options.seq_len)
    }

    pub(super) fn count(self) -> usize {
        self.iter().count()
    }
}

/// A batch's kept heads and channels by layer; `None` in dense layers.
type Selection = Vec<[Option<Vec<u32>>; 2]>;

/// The alternating sessions.
struct Run<'a, B: Backend> {
    batches: Batches<'a>,
    dense: Session<B>,
    pruned: Session<B>,
    /// Runs with the kept sets of `pruned` given: the time it saves is that of the choice.
    chosen: Option<Session<B>>,
}

/// Seconds per batch, each list over the same batches.
#[derive(Default)]
struct Times {
    dense: Vec<f64>,
    pruned: Vec<f64>,
    chosen: Vec<f64>,
}

/// Measures `settings`; the caller fills in the record's key and variant.
pub(super) fn measure<B: Backend>(
    loaded: &Loaded<B>,
    settings: &Settings,
    calibration: Option<&Calibration>,
    batches: Batches<'_>,
    bar: &ProgressBar,
) -> Result<Record> {
    let session = |settings: Settings, calibration: Option<&Calibration>| {
        Session::new(loaded.model.clone(), settings, batches.limits(), calibration)
    };
    let mut run = Run {
        batches,
        dense: session(Settings::default_for(loaded.model.config.num_hidden_layers), None)?,
        pruned: session(settings.clone(), calibration)?,
        // Static methods choose before the first batch. Compensation needs the probe even with the kept sets given, so the
        // difference would leave out the probe.
        chosen: (settings.method.is_dynamic() && settings.compensate == Compensation::None)
            .then(|| session(settings.clone(), None))
            .transpose()?,
    };
    let (mut losses, mut dense_losses, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    let mut times = Times::default();
    run.warm_up()?;
    for round in 0..batches.rounds {
        for (index, batch) in batches.iter().enumerate() {
            let mut last = Times::default();
            let [dense_loss, loss] = run.turn(batch, (round + index) % 2 == 1, &mut last)?;
            // In later rounds these batches are in the history already.
            if round == 0 {
                losses.push(loss);
                dense_losses.push(dense_loss);
                if settings.method.is_dynamic() {
                    kept.push(run.kept()?);
                }
            }
            // A smaller last batch runs at another speed.
            if batch.len() == run.batch_tokens() {
                times.dense.append(&mut last.dense);
                times.pruned.append(&mut last.pruned);
                times.chosen.append(&mut last.chosen);
            }
            bar.inc(1);
        }
    }
    let perplexity = |losses: &[f64]| (losses.iter().sum::<f64>() / losses.len() as f64).exp();
    let share = shares(&run.pruned, batches.windows.len() / batches.options.seq_len, batches.options);
    Ok(Record {
        key: String::new(),
        variant: String::new(),
        prune_ratio: settings.prune_ratio,
        settings: format!("{settings:?}"),
        dynamic: settings.method.is_dynamic(),
        perplexity: perplexity(&losses),
        dense_perplexity: perplexity(&dense_losses),
        batch_losses: losses,
        batch_tokens: run.batch_tokens(),
        parts: parts(&times),
        seconds: times.pruned,
        dense_seconds: times.dense,
        flops_share: share.total,
        probe_flops_share: share.probe,
        probed_share: run.pruned.probed_share(),
        layers: run.layers(&kept),
        // The ranks of a permutation are no scores.
        histograms: if settings.method == Method::Random { [None, None] } else { run.histograms()? },
    })
}

/// The parts of the time, as differences between sessions: a forward has no timers inside.
fn parts(times: &Times) -> Vec<Part> {
    let share =
        |of: &[f64]| median(&of.iter().zip(&times.dense).map(|(of, dense)| of / dense).collect::<Vec<_>>());
    let part = |name: &str, share: f64| Part { name: name.to_string(), share };
    let total = share(&times.pruned);
    if times.chosen.is_empty() {
        return vec![part(KEPT, total)];
    }
    let choice: Vec<f64> = times.pruned.iter().zip(&times.chosen).map(|(all, kept)| all - kept).collect();
    // Noise can make a small difference negative.
    let choice = share(&choice).max(0.0);
    vec![part(KEPT, total - choice), part("probe, scores, selection, history", choice)]
}

/// The part of every variant.
const KEPT: &str = "the batch on its kept heads and channels";

impl<B: Backend> Run<'_, B> {
    fn batch_tokens(&self) -> usize {
        self.batches.options.batch_size * self.batches.options.seq_len
    }

    /// Runs one batch untimed in each session, without updating history.
    fn warm_up(&mut self) -> Result<()> {
        let Some(batch) = self.batches.iter().next() else { return Ok(()) };
        let samples = batch.len() / self.batches.options.seq_len;
        for session in [&mut self.dense, &mut self.pruned].into_iter().chain(&mut self.chosen) {
            session.evaluate(batch, samples, None, false)?;
        }
        Ok(())
    }

    /// Runs a batch in every session; returns the dense and the pruned loss.
    fn turn(&mut self, batch: &[u32], pruned_first: bool, times: &mut Times) -> Result<[f64; 2]> {
        let samples = batch.len() / self.batches.options.seq_len;
        let evaluate = |session: &mut Session<B>, times: &mut Vec<f64>| {
            let start = Instant::now();
            let loss = session.evaluate(batch, samples, None, true)?;
            times.push(start.elapsed().as_secs_f64());
            Result::Ok(loss)
        };
        let mut losses = [0.0; 2];
        for pruned in [pruned_first, !pruned_first] {
            losses[usize::from(pruned)] = if pruned {
                evaluate(&mut self.pruned, &mut times.pruned)?
            } else {
                evaluate(&mut self.dense, &mut times.dense)?
            };
        }
        let kept = self.chosen.is_some().then(|| self.kept()).transpose()?;
        if let (Some(chosen), Some(kept)) = (&mut self.chosen, kept) {
            // A batch that fell back to dense has no kept sets to pin.
            if kept.iter().flatten().any(Option::is_some) {
                chosen.pin(&kept)?;
            }
            evaluate(chosen, &mut times.chosen)?;
        }
        Ok(losses)
    }

    fn kept(&self) -> Result<Selection> {
        let layers = 0..self.pruned.layer_counts().len();
        layers.map(|layer| Ok([self.pruned.kept_heads(layer)?, self.pruned.kept_channels(layer)?])).collect()
    }

    /// Kept counts by layer, and the overlap of consecutive batches' kept sets.
    fn layers(&self, kept: &[Selection]) -> Vec<LayerRecord> {
        let config = &self.pruned.model().config;
        let of = [config.num_attention_heads, config.intermediate_size];
        let counts = self.pruned.layer_counts().iter().enumerate();
        counts
            .map(|(layer, counts)| LayerRecord {
                kept: [counts.heads, counts.channels],
                of,
                overlap: [0, 1].map(|block| {
                    let sets: Option<Vec<&[u32]>> =
                        kept.iter().map(|batch| batch[layer][block].as_deref()).collect();
                    let pairs = sets?.windows(2).map(|pair| jaccard(pair[0], pair[1])).collect::<Vec<_>>();
                    (!pairs.is_empty()).then(|| pairs.iter().sum::<f64>() / pairs.len() as f64)
                }),
            })
            .collect()
    }

    fn histograms(&self) -> Result<[Option<Histogram>; 2]> {
        let config = &self.pruned.model().config;
        let mut histograms = [None, None];
        for (layer, counts) in self.pruned.layer_counts().iter().enumerate() {
            let of = [config.num_attention_heads, config.intermediate_size];
            for (block, kept) in [(Block::Attention, counts.heads), (Block::Mlp, counts.channels)] {
                if let Some(scores) = self.pruned.scores(layer, block)? {
                    // Grouped channels have one score for each group.
                    let kept = kept * scores.len() / of[block as usize];
                    let histogram = &mut histograms[block as usize];
                    histogram.get_or_insert_with(Histogram::default).add(&scores, kept);
                }
            }
        }
        Ok(histograms)
    }
}

/// |a ∩ b| / |a ∪ b| of ascending lists.
fn jaccard(a: &[u32], b: &[u32]) -> f64 {
    let both = a.iter().filter(|unit| b.binary_search(unit).is_ok()).count();
    both as f64 / (a.len() + b.len() - both) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_is_the_common_share_of_both_sets() {
        assert_eq!(jaccard(&[1, 2, 3], &[2, 3, 9]), 0.5);
        assert_eq!(jaccard(&[4], &[4]), 1.0);
    }
}
