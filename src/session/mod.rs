//! A session: one user's run of a shared model with its own settings, buffers, history and cache.

mod adapt;
mod allocation;
mod calibrate;
mod checks;
mod footprint;
mod generate;
mod kept;
mod logits;
mod losses;
mod measure;
mod next;
mod probed;
mod sampling;
mod selections;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use adapt::Corrections;
pub use allocation::measure_losses;
pub use calibrate::{CalibrationOptions, calibrate};
pub use footprint::{Footprint, Part};
pub use generate::{GenerateOptions, Generated};
use losses::LossBuffers;
use next::NextTokens;
pub use sampling::Sampling;

use crate::{
    backend::Backend,
    config::RopeScaling,
    error::{Error, Result},
    kv_cache::KvCache,
    memory,
    model::{
        Model, block,
        context::{Context, Mode},
        fault::describe_fault,
        fold::Fold,
        forward::{self, Selections},
        scratch::{Batch, Scratch},
        selection::Selection,
        timeline::Step,
    },
    prune::{
        BatchShape, Block,
        adapt::Corrections as Learned,
        calibration::Calibration,
        cost::{self, Cost},
        flops::{self, LayerCounts, Shares},
        settings::{DenseBelow, Method, Settings},
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

impl Limits {
    /// B × S.
    pub(crate) fn shape(self) -> BatchShape {
        BatchShape { samples: self.samples, tokens: self.tokens }
    }

    /// Tokens of the longest sequence.
    fn longest(self) -> usize {
        self.tokens.max(self.capacity)
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct Session<B: Backend> {
    model: Arc<Model<B>>,
    /// Where the model comes from, if it is a folded one.
    fold: Option<Arc<Fold<B>>>,
    /// Of the fold, by probes.
    corrections: Option<Corrections>,
    settings: Settings,
    limits: Limits,
    counts: Vec<LayerCounts>,
    selections: Selections<B>,
    /// Whether [`Session::pin`] made the choice.
    pinned: bool,
    scratch: Scratch<B>,
    batch: Batch<B>,
    cache: Option<KvCache<B>>,
    losses: LossBuffers<B>,
    next: NextTokens<B>,
    /// The state of a generation; `None` before [`Session::prefill`] and after any other batch.
    steps: Option<generate::Steps>,
    /// Sequence length that the rotary table was made for; only dynamic scaling ever changes it.
    rope_length: usize,
    fallback: DenseFallback<B>,
    /// Set by the caller to end the batch or step that runs.
    cancel: Arc<AtomicBool>,
}

/// Small batches that run dense ([`Settings::dense_below`]).
#[derive(Debug)]
struct DenseFallback<B: Backend> {
    /// Dense blocks, used in place of the session's selections; `None` where no batch falls back.
    selections: Option<Selections<B>>,
    /// Whether the latest batch fell back.
    active: bool,
    /// Batches that did.
    batches: usize,
}

impl<B: Backend> Session<B> {
    /// A session of `model` with `settings`. `calibration` fills history; the static methods cannot do without. `fold` folds
    /// the model for this session; [`Session::of_fold`] shares one.
    ///
    /// # Errors
    /// Settings out of range or impossible for this model, a batch longer than the model's positions, a calibration
    /// that is missing or lacks moments that the method needs; a device without room for the session.
    pub fn new(
        model: Arc<Model<B>>,
        settings: Settings,
        limits: Limits,
        calibration: Option<&Calibration>,
    ) -> Result<Self> {
        settings.check()?;
        if settings.method != Method::Fold || settings.prune_ratio == 0.0 {
            return Self::build(model, settings, limits, calibration, None);
        }
        let calibration = calibration.ok_or_else(|| selections::no_calibration(&settings))?;
        let fold = Fold::new(&model, &settings, calibration, |_| ())?;
        Self::of_fold(Arc::new(fold), settings, limits, calibration.corrections.as_ref())
    }

    /// A session of a folded model, which any number of sessions may share. `settings` are those that it was folded with.
    /// It begins with `learned`, the corrections of an earlier session, if they are of the same fold.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn of_fold(
        fold: Arc<Fold<B>>,
        settings: Settings,
        limits: Limits,
        learned: Option<&Learned>,
    ) -> Result<Self> {
        settings.check()?;
        adapt::check(&fold, &settings)?;
        let model = Arc::clone(&fold.model);
        let learned = learned.filter(|learned| learned.fold == model.fingerprint);
        Self::build(model, settings, limits, None, Some((fold, learned)))
    }

    fn build(
        model: Arc<Model<B>>,
        settings: Settings,
        limits: Limits,
        calibration: Option<&Calibration>,
        fold: Option<(Arc<Fold<B>>, Option<&Learned>)>,
    ) -> Result<Self> {
        let (backend, config) = (&*model.backend, &model.config);
        checks::check_limits(config, &settings, limits)?;
        backend.check_sizes(&[
            ("samples × tokens of a batch", limits.samples.saturating_mul(limits.tokens)),
            ("slots of the key/value cache", limits.capacity),
            ("history_bucket", settings.history_layout.bucket),
            ("slots of the calibration", calibration.map_or(0, |calibration| calibration.seq_len)),
        ])?;
        if let Some(calibration) = calibration {
            calibration.check_model(&model.fingerprint)?;
        }
        checks::check_room(&model, &settings, limits, calibration)?;
        let longest = limits.longest();
        let shape = limits.shape();
        let rotary_positions = if config.rope.is_some() { longest } else { 0 };
        let mut scratch = Scratch::new(backend, config, &settings, shape, rotary_positions)?;
        let calibration = calibration.map(|of| of.in_order_of(model.channel_order.as_deref()));
        let (mut selections, mut counts) =
            selections::build(&model, &settings, limits, calibration.as_deref(), &mut scratch)?;
        let corrections = match &fold {
            Some((fold, learned)) => adapt::prepare(fold, &settings, *learned, &mut selections)?,
            None => None,
        };
        for (count, selections) in counts.iter_mut().zip(&selections) {
            let [attention, mlp] = selections.each_ref().map(|of| matches!(of, Selection::Adapted(_)));
            count.probes_attention |= attention;
            count.probes_mlp |= mlp;
        }
        let prunes = selections.iter().flatten().any(|selection| selection.kept().is_some());
        let dense = || selections.iter().map(|_| [Selection::Dense, Selection::Dense]).collect();
        let dense = (prunes && settings.dense_below != DenseBelow::NEVER).then(dense);
        let cache = match limits.capacity {
            0 => None,
            capacity => {
                let heads: Vec<usize> = counts.iter().map(|layer| layer.kv_heads).collect();
                let mut cache = KvCache::new(backend, limits.samples, capacity, &heads, config.head_dim)?;
                if let Some((fold, _)) = fold.as_ref().filter(|_| settings.prefills_dense()) {
                    cache.take_from_dense(backend, shape.rows(), &fold.kept_kv_heads())?;
                }
                Some(cache)
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
            batch: Batch::new(backend, shape)?,
            losses: LossBuffers::new(backend, config, shape.rows())?,
            next: NextTokens::new(backend, config, limits)?,
            steps: None,
            rope_length: 0,
            fallback: DenseFallback { selections: dense, active: false, batches: 0 },
            cancel: Arc::default(),
            model: Arc::clone(&model),
            fold: fold.map(|(fold, _)| fold),
            corrections,
        };
        session.prepare_rope(config.max_position_embeddings.min(longest))?;
        Ok(session)
    }

    /// The model that runs: under `fold` the folded one.
    pub fn model(&self) -> &Arc<Model<B>> {
        &self.model
    }

    /// Set to true, from any thread, this ends the running batch or step (or else the next one) between two layers with
    /// [`Error::Cancelled`], and is false again. The session stays usable.
    pub fn canceller(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancel)
    }

    /// Kept counts of every layer.
    pub fn layer_counts(&self) -> &[LayerCounts] {
        &self.counts
    }

    /// Shares of the dense model's projection FLOPs for a batch of this shape.
    pub fn shares(&self, shape: BatchShape) -> Shares {
        if self.falls_back(shape) {
            return Shares { total: 1.0, probe: 0.0 };
        }
        flops::shares(&self.model.config, &self.settings, &self.counts, shape)
    }

    /// As [`Session::shares`], for a prompt ([`Session::prefill`]).
    pub fn prompt_shares(&self, shape: BatchShape) -> Shares {
        flops::prompt_shares(&self.model.config, &self.settings, &self.counts, shape)
    }

    /// Whether a batch of this shape runs dense because of [`Settings::dense_below`].
    pub fn falls_back(&self, shape: BatchShape) -> bool {
        self.fallback.selections.is_some()
            && match self.settings.dense_below {
                DenseBelow::Tokens(tokens) => shape.rows() < tokens,
                DenseBelow::Auto => !self.expected_cost(shape).pays(),
            }
    }

    /// What a batch of this shape is expected to cost on this device, dense and pruned.
    pub fn expected_cost(&self, shape: BatchShape) -> Cost {
        cost::expected(&self.model.config, &self.settings, &self.counts, shape, &self.model.backend.rates())
    }

    /// Runs the decoder on a batch; see [`Session::evaluate`] for the arguments. Read the results with
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
        if !update_history || self.fallback.active {
            return;
        }
        self.scratch.timeline.mark(&self.model.backend, None);
        let mode = Mode::Batch { update_history };
        let context =
            Context { model: &*self.model, settings: &self.settings, batch: &self.batch, mode, dense: None };
        let selections = self.selections.iter_mut().flatten();
        let fold = || selections.for_each(|selection| block::update_history(&context, selection));
        self.model.backend.scope(fold);
        self.scratch.timeline.mark(&self.model.backend, Step::History);
    }

    /// Checks a batch and puts it on the device.
    fn load(&mut self, tokens: &[u32], samples: usize, mask: Option<&[u32]>) -> Result<()> {
        (self.steps, self.next.predicted) = (None, None);
        let config = &self.model.config;
        checks::check_batch(config, self.limits, tokens, samples, mask)?;
        forward::load(&*self.model.backend, config, &mut self.batch, samples, tokens, mask);
        Ok(())
    }

    /// Runs the loaded batch and reports a fault, if there was one.
    fn run(&mut self, mode: Mode, cached: bool) -> Result<()> {
        let past = if cached { self.cache.as_ref().map_or(0, |cache| cache.len) } else { 0 };
        self.prepare_rope(past + self.batch.shape.tokens)?;
        self.fallback.active = self.falls_back(self.batch.shape);
        self.fallback.batches += usize::from(self.fallback.active);
        let dense = self.dense_for(mode);
        let context = Context {
            model: &*self.model,
            settings: &self.settings,
            batch: &self.batch,
            mode,
            dense: dense.as_deref(),
        };
        let cache = self.cache.as_mut().filter(|_| cached);
        let dense = self.fallback.selections.as_mut().filter(|_| self.fallback.active);
        let (selections, scratch) = (dense.unwrap_or(&mut self.selections), &mut self.scratch);
        let cancel = &*self.cancel;
        self.model.backend.scope(|| forward::run(&context, selections, scratch, cache, None, cancel));
        let outcome = self.check_fault();
        if let Mode::Batch { update_history: true } | Mode::Prompt { .. } = mode {
            self.note_corrections()?;
        }
        if self.cancel.swap(false, Ordering::Relaxed) { Err(Error::Cancelled) } else { outcome }
    }

    fn check_fault(&mut self) -> Result<()> {
        take_fault(&*self.model.backend, &mut self.scratch.fault)
    }

    pub(crate) fn output_fault(&self) -> Error {
        fault(self.model.config.num_hidden_layers - 1, Block::Mlp, "the output")
    }

    /// Fills the rotary table for sequences of `length` tokens; only dynamic scaling looks at the length.
    fn prepare_rope(&mut self, length: usize) -> Result<()> {
        let config = &self.model.config;
        let Some(rope) = &config.rope else { return Ok(()) };
        let length = match rope.scaling {
            RopeScaling::Dynamic { .. } => length.max(config.max_position_embeddings),
            _ => config.max_position_embeddings,
        };
        if length == self.rope_length {
            return Ok(());
        }
        let (frequencies, scaling) =
            rope.inverse_frequencies(config.head_dim, length, config.max_position_embeddings);
        let longest = self.limits.longest();
        let mut table = memory::with_capacity(longest * config.head_dim)?;
        for position in 0..longest {
            let angles = || frequencies.iter().map(|frequency| position as f32 * frequency);
            table.extend(angles().map(|angle| angle.cos() * scaling));
            table.extend(angles().map(|angle| angle.sin() * scaling));
        }
        self.model.backend.upload_statistics(&table, &mut self.scratch.attention.rope_table);
        self.rope_length = length;
        Ok(())
    }
}

/// Reports and clears the fault that operations left behind, if there is one.
fn take_fault<B: Backend>(backend: &B, fault_tag: &mut B::Indices) -> Result<()> {
    let tag = backend.download_indices(fault_tag, 1)?[0];
    if tag == 0 {
        return Ok(());
    }
    backend.upload_indices(&[0], fault_tag);
    let (layer, block, what) = describe_fault(tag);
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
