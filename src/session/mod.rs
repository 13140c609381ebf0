//! A session: one user's run of a shared model with its own settings, buffers, history and cache.

mod calibrate;
mod footprint;
mod generate;
mod kept;
mod losses;
mod measure;
mod sampling;
mod selections;

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

pub use calibrate::{CalibrationOptions, calibrate};
pub use footprint::{Footprint, Part};
pub use generate::{GenerateOptions, Generated};
pub use sampling::Sampling;

use crate::{
    backend::{Backend, Grid, Probe},
    config::RopeScaling,
    error::{Error, Result},
    kv_cache::KvCache,
    model::{
        Block, Model,
        block::{self, Context, Mode},
        forward::{self, Selections},
        scratch::{Batch, Scratch},
        selection::Selection,
        timeline::Step,
    },
    prune::{
        calibration::Calibration,
        flops::{self, LayerCounts, Shares},
        settings::Settings,
    },
};

/// The largest batch a session will see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// B.
    pub samples: usize,
    /// S of a batch or prompt.
    pub tokens: usize,
    /// Slots of the key/value cache (prompt and new tokens); 0 for a session that does not generate.
    pub capacity: usize,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Session<B: Backend> {
    model: Arc<Model<B>>,
    settings: Settings,
    limits: Limits,
    counts: Vec<LayerCounts>,
    selections: Selections<B>,
    /// Whether [`Session::pin`] made the choice.
    pinned: bool,
    scratch: Scratch<B>,
    batch: Batch<B>,
    cache: Option<KvCache<B>>,
    /// Log-softmax losses and their targets, (T).
    losses: B::Statistics,
    targets: B::Indices,
    loss_scratch: B::Statistics,
    /// Selects every sample's last token.
    last: Probe<B>,
    /// Position of every sample's next token.
    next_positions: Vec<u32>,
    /// Logits of a generation step (B, V).
    next_logits: B::Statistics,
    /// Whether there is room for them; without a cache only once somebody asked for them.
    has_next_logits: bool,
    /// The most likely token of each (B).
    next_tokens: B::Indices,
    /// Samples whose next token's logits these are, if they are of the latest batch.
    predicted: Option<usize>,
    /// Where a generation stands; `None` before [`Session::prefill`] and after any other batch.
    steps: Option<generate::Steps>,
    /// Sequence length that the rotary table was made for; only dynamic scaling ever changes it.
    rope_length: usize,
    /// Stands in for `selections` where a batch falls back to dense; none where none does.
    dense: Option<Selections<B>>,
    /// Whether the latest batch fell back.
    fell_back: bool,
    /// How many did.
    dense_batches: usize,
    /// Set from outside to end what runs.
    cancel: Arc<AtomicBool>,
}

impl<B: Backend> Session<B> {
    /// A session of `model` with `settings`. `calibration` fills history; the static methods cannot do without.
    ///
    /// # Errors
    /// Settings out of range or impossible for this model, a batch longer than the model's positions, a calibration
    /// that is missing or lacks what the method needs.
    pub fn new(
        model: Arc<Model<B>>,
        settings: Settings,
        limits: Limits,
        calibration: Option<&Calibration>,
    ) -> Result<Self> {
        settings.check()?;
        let (backend, config) = (&*model.backend, &model.config);
        let longest = limits.tokens.max(limits.capacity);
        let dynamic =
            config.rope.as_ref().is_some_and(|rope| matches!(rope.scaling, RopeScaling::Dynamic { .. }));
        if longest > config.max_position_embeddings && !dynamic {
            return Err(Error::argument(
                "sequence length",
                format!(
                    "at most {} tokens, the model's max_position_embeddings",
                    config.max_position_embeddings
                ),
                longest,
                "Use shorter windows or prompts, or fewer new tokens.",
            ));
        }
        if limits.samples == 0 || limits.tokens == 0 {
            return Err(Error::argument(
                "batch",
                "at least one sample of one token",
                "none",
                "Pass some input.",
            ));
        }
        if settings.dense_below > 0 && limits.capacity > 0 {
            return Err(Error::argument(
                "dense_below",
                "0 where text is generated: the key/value cache has room for kept heads only",
                settings.dense_below,
                "Leave it out.",
            ));
        }
        if let Some(calibration) = calibration {
            calibration.check_model(&model.fingerprint)?;
        }
        let grid = Grid { samples: limits.samples, tokens: limits.tokens };
        let rotary_positions = if config.rope.is_some() { longest } else { 0 };
        let mut scratch = Scratch::new(backend, config, &settings, grid, rotary_positions)?;
        let calibration = in_order(&model, calibration);
        let (selections, counts) =
            selections::build(&model, &settings, limits, calibration.as_deref(), &mut scratch)?;
        let prunes = selections.iter().flatten().any(|selection| selection.kept().is_some());
        let dense = || selections.iter().map(|_| [Selection::Dense, Selection::Dense]).collect();
        let dense = (prunes && settings.dense_below > 0).then(dense);
        let rows = grid.rows();
        let indices = |len: usize| backend.indices(len);
        let cache = match limits.capacity {
            0 => None,
            capacity => {
                let heads: Vec<usize> = counts.iter().map(|layer| layer.kv_heads).collect();
                Some(KvCache::new(backend, limits.samples, capacity, &heads, config.head_dim)?)
            }
        };
        let mut session = Self {
            settings,
            limits,
            counts,
            selections,
            pinned: false,
            scratch,
            cache,
            batch: Batch {
                grid,
                tokens: indices(rows)?,
                positions: indices(rows)?,
                mask: indices(rows)?,
                padded: false,
            },
            losses: backend.statistics(rows)?,
            targets: indices(rows)?,
            loss_scratch: backend.statistics(backend.cross_entropy_scratch(rows, config.vocab_size))?,
            last: Probe {
                grid: Grid { samples: limits.samples, tokens: 1 },
                samples: indices(limits.samples)?,
                slots: indices(1)?,
                positions: indices(limits.samples)?,
                mask: indices(limits.samples)?,
            },
            next_positions: Vec::new(),
            has_next_logits: limits.capacity > 0,
            next_logits: backend.statistics(if limits.capacity > 0 {
                limits.samples * config.vocab_size
            } else {
                0
            })?,
            next_tokens: indices(limits.samples)?,
            predicted: None,
            steps: None,
            rope_length: 0,
            dense,
            fell_back: false,
            dense_batches: 0,
            cancel: Arc::default(),
            model: Arc::clone(&model),
        };
        let samples: Vec<u32> = (0..limits.samples as u32).collect();
        backend.upload_indices(&samples, &mut session.last.samples);
        session.prepare_rope(config.max_position_embeddings.min(longest));
        Ok(session)
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model<B>> {
        &self.model
    }

    /// Set to true, from any thread, this ends the batch or step that runs now, between two layers, or else the next one,
    /// with [`Error::Cancelled`]; it is false again then. The session stays usable.
    pub fn canceller(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancel)
    }

    /// Kept counts of every layer.
    pub fn layer_counts(&self) -> &[LayerCounts] {
        &self.counts
    }

    /// Shares of the dense model's projection FLOPs for a batch of this shape.
    pub fn shares(&self, grid: Grid) -> Shares {
        if self.falls_back(grid) {
            return Shares { total: 1.0, probe: 0.0 };
        }
        flops::shares(&self.model.config, &self.settings, &self.counts, grid)
    }

    fn falls_back(&self, grid: Grid) -> bool {
        self.dense.is_some() && grid.rows() < self.settings.dense_below
    }

    /// Runs the decoder on a batch; see [`Session::evaluate`] for the arguments. Look at the outcome with
    /// [`Session::logits`], [`Session::kept_heads`] and [`Session::kept_channels`].
    ///
    /// # Errors
    /// As [`Session::evaluate`].
    pub fn forward(
        &mut self,
        tokens: &[u32],
        samples: usize,
        mask: Option<&[u32]>,
        update_history: bool,
    ) -> Result<()> {
        self.load(tokens, samples, mask)?;
        self.run(Mode::Batch { update_history }, false)?;
        self.update_history(update_history);
        Ok(())
    }

    /// Folds the batch that ran into history, unless it was a warm-up.
    fn update_history(&mut self, update_history: bool) {
        if !update_history || self.fell_back {
            return;
        }
        self.scratch.timeline.mark(&self.model.backend, None);
        let mode = Mode::Batch { update_history };
        let context = Context { model: &*self.model, settings: &self.settings, batch: &self.batch, mode };
        let selections = self.selections.iter_mut().flatten();
        let fold = || selections.for_each(|selection| block::update_history(&context, selection));
        self.model.backend.scope(fold);
        self.scratch.timeline.mark(&self.model.backend, Step::History);
    }

    /// Logits (samples·S, V) of the first `samples` samples of the batch that ran last.
    ///
    /// # Errors
    /// A device that has no room for them or failed.
    pub fn logits(&mut self, samples: usize) -> Result<Vec<f32>> {
        let (logits, shape) = self.device_logits(samples)?;
        self.model.backend.download_statistics(&logits, shape.iter().product())
    }

    /// Shape \[samples, S, V\] of [`Session::logits`].
    pub fn logits_shape(&self, samples: usize) -> [usize; 3] {
        let Grid { samples: all, tokens } = self.batch.grid;
        [samples.min(all), tokens, self.model.weights.lm_head.out_features]
    }

    /// As [`Session::logits`], in new memory on the device, with their shape \[samples, S, V\].
    ///
    /// # Errors
    /// As [`Session::logits`].
    pub fn device_logits(&mut self, samples: usize) -> Result<(B::Statistics, [usize; 3])> {
        let shape = self.logits_shape(samples);
        let rows = shape[0] * shape[1];
        let backend = &*self.model.backend;
        let Scratch { current, x, embedded, .. } = &mut self.scratch;
        let input = forward::head_input(&self.model, current, rows, x, embedded);
        let mut logits = backend.statistics(rows * shape[2])?;
        backend.logits(input, rows, &self.model.weights.lm_head, &mut logits);
        Ok((logits, shape))
    }

    /// Checks a batch and puts it on the device.
    fn load(&mut self, tokens: &[u32], samples: usize, mask: Option<&[u32]>) -> Result<()> {
        (self.steps, self.predicted) = (None, None);
        let (config, limits) = (&self.model.config, self.limits);
        if samples == 0 || tokens.is_empty() || !tokens.len().is_multiple_of(samples) {
            return Err(Error::argument(
                "batch",
                "the same number of tokens, at least one, for every sample",
                format!("{} tokens for {samples} samples", tokens.len()),
                "Pad shorter samples on the left and pass a mask.",
            ));
        }
        let length = tokens.len() / samples;
        if samples > limits.samples || length > limits.tokens {
            return Err(Error::argument(
                "batch",
                format!("at most {} × {}, the session's limits", limits.samples, limits.tokens),
                format!("{samples} × {length}"),
                "Make a session with larger limits.",
            ));
        }
        if let Some(at) = tokens.iter().position(|&token| token as usize >= config.vocab_size) {
            return Err(Error::argument(
                format!("token {} of sample {}", at % length, at / length),
                format!("an id below {}, the model's vocab_size", config.vocab_size),
                tokens[at],
                "The text was tokenised for another model.",
            ));
        }
        if let Some(mask) = mask {
            if mask.len() != tokens.len() {
                let got = format!("{} entries", mask.len());
                return Err(Error::argument(
                    "mask",
                    format!("{} entries", tokens.len()),
                    got,
                    "One per token.",
                ));
            }
            if let Some(sample) = mask.chunks_exact(length).position(|row| row.iter().all(|&real| real == 0))
            {
                return Err(Error::argument(
                    format!("mask of sample {sample}"),
                    "at least one token",
                    "only padding",
                    "Leave the sample out of the batch.",
                ));
            }
        }
        forward::load(&*self.model.backend, config, &mut self.batch, samples, tokens, mask);
        Ok(())
    }

    /// Runs the loaded batch and reports a fault, if there was one.
    fn run(&mut self, mode: Mode, cached: bool) -> Result<()> {
        let past = if cached { self.cache.as_ref().map_or(0, |cache| cache.len) } else { 0 };
        self.prepare_rope(past + self.batch.grid.tokens);
        self.fell_back = self.falls_back(self.batch.grid);
        self.dense_batches += usize::from(self.fell_back);
        let context = Context { model: &*self.model, settings: &self.settings, batch: &self.batch, mode };
        let cache = self.cache.as_mut().filter(|_| cached);
        let dense = self.dense.as_mut().filter(|_| self.fell_back);
        let (selections, scratch) = (dense.unwrap_or(&mut self.selections), &mut self.scratch);
        let cancel = &*self.cancel;
        self.model.backend.scope(|| forward::run(&context, selections, scratch, cache, None, cancel));
        let outcome = self.check_fault();
        if self.cancel.swap(false, Ordering::Relaxed) { Err(Error::Cancelled) } else { outcome }
    }

    fn check_fault(&mut self) -> Result<()> {
        take_fault(&*self.model.backend, &mut self.scratch.fault)
    }

    fn output_fault(&self) -> Error {
        fault(self.model.config.num_hidden_layers - 1, Block::Mlp, "the output")
    }

    /// Fills the rotary table for sequences of `length` tokens; only dynamic scaling looks at the length.
    fn prepare_rope(&mut self, length: usize) {
        let config = &self.model.config;
        let Some(rope) = &config.rope else { return };
        let length = match rope.scaling {
            RopeScaling::Dynamic { .. } => length.max(config.max_position_embeddings),
            _ => config.max_position_embeddings,
        };
        if length == self.rope_length {
            return;
        }
        self.rope_length = length;
        let (frequencies, scaling) =
            rope.inverse_frequencies(config.head_dim, length, config.max_position_embeddings);
        let mut table = Vec::new();
        for position in 0..self.limits.tokens.max(self.limits.capacity) {
            let angles = || frequencies.iter().map(|frequency| position as f32 * frequency);
            table.extend(angles().map(|angle| angle.cos() * scaling));
            table.extend(angles().map(|angle| angle.sin() * scaling));
        }
        self.model.backend.upload_statistics(&table, &mut self.scratch.rope_table);
    }
}

/// A calibration is in the checkpoint's order of channels, the model's may be another.
fn in_order<'a, B: Backend>(
    model: &Model<B>,
    calibration: Option<&'a Calibration>,
) -> Option<Cow<'a, Calibration>> {
    calibration.map(|of| {
        model.channel_order.as_ref().map_or(Cow::Borrowed(of), |order| Cow::Owned(of.reordered(order)))
    })
}

/// Reports and clears the fault that operations left behind, if they did.
fn take_fault<B: Backend>(backend: &B, fault_tag: &mut B::Indices) -> Result<()> {
    let tag = backend.download_indices(fault_tag, 1)?[0];
    if tag == 0 {
        return Ok(());
    }
    backend.upload_indices(&[0], fault_tag);
    let (layer, block, what) = block::describe_fault(tag);
    Err(fault(layer, block, what))
}

fn fault(layer: usize, block: Block, what: &'static str) -> Error {
    Error::NonFinite {
        layer,
        block: block.name(),
        what,
        help: "The weights or the input overflow float32, or the checkpoint is damaged.".to_string(),
    }
}
