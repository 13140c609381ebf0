//! Models, text and tokens from the command line.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use probeprune::{
    Error,
    backend::Backend,
    checkpoint::{Checkpoint, RandomTensors, read_tensor_file},
    config::ModelConfig,
    gpu::GpuDtype,
    memory::check_room,
    model::Model,
    perplexity::windows,
    prune::{
        allocation::Losses,
        calibration::Calibration,
        settings::{Method, Settings},
    },
    session::{CalibrationOptions, Session, calibrate, measure_losses},
    source::ModelSource,
    tokenizer::Tokenizer,
};

use crate::{
    args::{CalibrationArgs, DataArgs, TensorKey},
    device::Device,
    failure::{Result, note},
    interrupt, progress,
};

/// Default number of calibration windows, if there is text for them.
const DEFAULT_SAMPLES: usize = 128;

/// Tokens that the losses of single blocks are measured on.
const LOSS_TOKENS: usize = 1024;

/// Calibration tokens per input of a linear map; fewer give a note.
const SHORT: usize = 10;

/// Longest default window.
const DEFAULT_SEQ_LEN: usize = 1024;

/// Most bytes of text that are tokenised as one. Text cannot be tokenised in pieces: other tokens would come out where they
/// meet.
const MOST_TEXT: u64 = 64 << 20;

/// Bytes of memory that tokenising takes for one of text, at most.
const MEMORY_OF_TEXT: u64 = 200;

/// Where a model's weights come from.
pub(crate) enum Origin {
    /// A model's files, mapped or read.
    Files {
        /// Where they are.
        source: ModelSource,
        /// Map them.
        mmap: bool,
    },
    /// Random numbers.
    Random {
        /// What the shape is called.
        name: String,
        /// The shape.
        config: Box<ModelConfig>,
        /// The numbers.
        tensors: RandomTensors,
    },
}

impl Origin {
    /// The files of `model`.
    pub(crate) fn files(model: &str, mmap: bool) -> Result<Self> {
        Ok(Self::Files { source: ModelSource::locate(model)?, mmap })
    }

    /// The files.
    pub(crate) fn source(&self) -> Option<&ModelSource> {
        match self {
            Self::Files { source, .. } => Some(source),
            Self::Random { .. } => None,
        }
    }

    /// What to call the model.
    fn name(&self) -> String {
        match self {
            Self::Files { source, .. } => source.name(),
            Self::Random { name, .. } => name.clone(),
        }
    }

    /// The number format that suits the weights on a GPU; random ones are bfloat16.
    pub(crate) fn gpu_dtype(&self) -> Result<GpuDtype> {
        match self {
            Self::Files { source, mmap } => Ok(GpuDtype::for_weights(&Checkpoint::open(source, *mmap)?)),
            Self::Random { .. } => Ok(GpuDtype::Bf16),
        }
    }

    fn config(&self) -> Result<ModelConfig> {
        match self {
            Self::Files { source, .. } => Ok(ModelConfig::load(source)?),
            Self::Random { config, .. } => Ok(ModelConfig::clone(config)),
        }
    }
}

/// A model, ready to run.
pub(crate) struct Loaded<B: Backend> {
    /// What to call it.
    pub(crate) name: String,
    /// Where it comes from.
    pub(crate) origin: Origin,
    /// Its weights on the device.
    pub(crate) model: Arc<Model<B>>,
    /// The device.
    pub(crate) device: Device,
}

impl<B: Backend> Loaded<B> {
    /// Loads a model onto a device.
    pub(crate) fn open(origin: Origin, backend: Arc<B>, device: Device) -> Result<Self> {
        let model = Arc::new(load(&origin, backend, &device, None)?);
        model.config.notes.iter().for_each(|text| note(text));
        Ok(Self { name: origin.name(), origin, model, device })
    }

    /// The model, reloaded with its channels in the calibration's order if the settings keep them in groups.
    pub(crate) fn arranged(self, settings: &Settings, calibration: Option<&Calibration>) -> Result<Self> {
        if settings.channel_group == 1 || settings.method == Method::None {
            return Ok(self);
        }
        let Some(calibration) = calibration else {
            return Err(Error::argument(
                format!("--channel-group {}", settings.channel_group),
                "a calibration, which sorts the channels",
                "none",
                "Pass --history FILE, --calibrate-text or --calibrate-tokens.",
            )
            .into());
        };
        let Self { name, origin, model, device } = self;
        let backend = Arc::clone(&model.backend);
        // Freed first: the device may not have room for both.
        drop(model);
        let order = Some(calibration.channel_order.clone());
        let model = Arc::new(load(&origin, backend, &device, order)?);
        Ok(Self { name, origin, model, device })
    }

    /// The model's tokenizer.
    pub(crate) fn tokenizer(&self) -> Result<Tokenizer> {
        let Some(source) = self.origin.source() else {
            let help = "Pass the folder of a model with --model.";
            return Err(Error::argument("tokenizer", "a model with one", "random weights", help).into());
        };
        let tokenizer = Tokenizer::load(source, self.model.config.vocab_size)?;
        tokenizer.notes().iter().for_each(|text| note(text));
        Ok(tokenizer)
    }

    /// --seq-len, or its default.
    pub(crate) fn seq_len(&self, given: Option<usize>) -> usize {
        given.unwrap_or(self.model.config.max_position_embeddings.min(DEFAULT_SEQ_LEN))
    }

    /// Token ids of text files, tokenised as one text, or of a tensor.
    pub(crate) fn tokens(&self, text: &[PathBuf], tensor: Option<&TensorKey>) -> Result<Vec<u32>> {
        if let Some(tensor) = tensor {
            return tensor_tokens(tensor, self.model.config.vocab_size);
        }
        let mut whole = String::new();
        for path in text {
            add_text(&mut whole, path)?;
        }
        check_room(whole.len() as u64 * MEMORY_OF_TEXT)?;
        Ok(self.tokenizer()?.encode(&whole, true)?)
    }

    /// The concatenated windows of `data`, and the tokens per window.
    pub(crate) fn windows(&self, data: &DataArgs) -> Result<(Vec<u32>, usize)> {
        let seq_len = self.seq_len(data.seq_len);
        let mut tokens = self.tokens(&data.text, data.tokens.as_ref())?;
        let whole = windows(&tokens, seq_len, data.max_tokens)?.len();
        tokens.truncate(whole);
        Ok((tokens, seq_len))
    }

    /// A calibration over the first windows of `tokens`.
    pub(crate) fn calibrate(
        &self,
        tokens: &[u32],
        samples: Option<usize>,
        options: CalibrationOptions,
    ) -> Result<Calibration> {
        let seq_len = options.seq_len;
        let available = tokens.len() / seq_len;
        let wanted = samples.unwrap_or(DEFAULT_SAMPLES.min(available).max(1));
        if available < wanted || wanted == 0 {
            return Err(Error::argument(
                "calibration",
                format!("tokens for {wanted} windows of {seq_len} (--seq-len), at least 1"),
                format!("{} tokens", tokens.len()),
                "Pass more text, or a smaller --seq-len or --calibrate-samples.",
            )
            .into());
        }
        if options.linear_rank > 0 && wanted * seq_len < SHORT * self.model.config.hidden_size {
            note(&format!(
                "linear maps of {} inputs are fitted to only {} tokens: calibrate with {} or more, on every kind of text \
                 to be run",
                self.model.config.hidden_size,
                wanted * seq_len,
                SHORT * self.model.config.hidden_size
            ));
        }
        let bar = progress::bar("calibrating", wanted * options.passes(&self.model.config));
        let done = |samples: usize| bar.set_position(samples as u64);
        let calibration = calibrate(&self.model, &tokens[..wanted * seq_len], options, done)?;
        bar.finish_and_clear();
        Ok(calibration)
    }

    /// What pruning single blocks loses under `method` on some of the windows of `tokens` that `calibration` is of.
    pub(crate) fn losses(&self, method: Method, calibration: &Calibration, tokens: &[u32]) -> Result<Losses> {
        let Calibration { seq_len, samples, .. } = *calibration;
        let wanted = (LOSS_TOKENS / seq_len).clamp(1, samples);
        let windows: Vec<&[u32]> = tokens.chunks_exact(seq_len).take(samples).collect();
        let chosen: Vec<u32> = (0..wanted).flat_map(|i| windows[i * samples / wanted]).copied().collect();
        let layers = self.model.config.num_hidden_layers;
        let settings = Settings { method, ..Settings::default_for(layers) };
        let bar = progress::bar("measuring", 2 * layers);
        let done = |blocks: usize| bar.set_position(blocks as u64);
        let losses = measure_losses(&self.model, &settings, calibration, &chosen, wanted, done)?;
        bar.finish_and_clear();
        Ok(losses)
    }

    /// Reads a history file of this model.
    pub(crate) fn history(&self, path: &Path) -> Result<Calibration> {
        let read = match self.origin {
            Origin::Files { mmap: false, .. } => Calibration::read,
            _ => Calibration::load,
        };
        Ok(read(path, &self.model.fingerprint, &self.model.config)?)
    }

    /// The calibration that `args` name, with all that runs with `settings` need, for batches of (`batch_size`, `seq_len`);
    /// none if none of them uses any.
    pub(crate) fn calibration(
        &self,
        args: &CalibrationArgs,
        settings: &[&Settings],
        seq_len: usize,
        batch_size: usize,
    ) -> Result<Option<Calibration>> {
        if let Some(path) = &args.history {
            let history = self.history(path)?;
            if history.seq_len != seq_len {
                return Err(Error::file(
                    path,
                    "sequence length",
                    format!("{seq_len}, as --seq-len"),
                    history.seq_len,
                    "Pass the same --seq-len, or calibrate again with `probeprune calibrate`.",
                )
                .into());
            }
            return Ok(Some(history));
        }
        let given = !args.calibrate_text.is_empty() || args.calibrate_tokens.is_some();
        let uses = |settings: &&&Settings| {
            let uses = settings.method.needs_calibration() || settings.method == Method::ProbePruning;
            uses && settings.prune_ratio > 0.0
        };
        let users: Vec<&Settings> = settings.iter().filter(uses).copied().collect();
        if users.is_empty() {
            if let (true, Some(Settings { method, prune_ratio, .. })) = (given, settings.first()) {
                note(&format!("calibration skipped: --method {method} at ratio {prune_ratio} needs none"));
            }
            return Ok(None);
        }
        let any = |method: Method| users.iter().any(|settings| settings.method == method);
        let linear_rank = users.iter().map(|settings| settings.compensate.rank()).max().unwrap_or(0);
        if !given {
            // Settings that need a calibration are refused later.
            let needed = users.iter().any(|settings| settings.channel_group > 1) || linear_rank > 0;
            if any(Method::ProbePruning) && !needed {
                note_empty_history();
            }
            return Ok(None);
        }
        let tokens = self.tokens(&args.calibrate_text, args.calibrate_tokens.as_ref())?;
        let options = CalibrationOptions {
            seq_len,
            batch_size,
            flap: any(Method::Flap),
            linear_rank,
            fold: any(Method::Fold),
            ..Default::default()
        };
        self.calibrate(&tokens, args.calibrate_samples, options).map(Some)
    }
}

fn load<B: Backend>(
    origin: &Origin,
    backend: Arc<B>,
    device: &Device,
    order: Option<Vec<Vec<u32>>>,
) -> Result<Model<B>> {
    let config = origin.config()?;
    let bar =
        progress::bar(if device.gpu.is_some() { "uploading" } else { "loading" }, config.num_hidden_layers);
    let done = |layers: usize| bar.set_position(layers as u64);
    let model = match origin {
        Origin::Files { source, mmap } => Model::load_ordered(source, *mmap, backend, order, done)?,
        Origin::Random { tensors, .. } => Model::random(config, tensors, backend, order, done)?,
    };
    bar.finish_and_clear();
    Ok(model)
}

/// Refuses --save-history where nothing is learned.
pub(crate) fn check_learns(save_history: Option<&PathBuf>, settings: &Settings) -> Result<()> {
    let learns = settings.method == Method::Fold && settings.adapt.is_on() && settings.prune_ratio > 0.0;
    if save_history.is_none() || learns {
        return Ok(());
    }
    let help = "Other runs learn nothing that a history file would hold.";
    let expected = "--method fold with --adapt probe and a ratio above 0";
    Err(Error::argument("--save-history", expected, "another run", help).into())
}

/// Saves the history with what the session learned about its fold.
pub(crate) fn save_learned<B: Backend>(
    path: &Path,
    calibration: Option<Calibration>,
    session: &Session<B>,
) -> Result<()> {
    let mut calibration = calibration.expect("a fold has a calibration");
    calibration.corrections = session.corrections()?;
    Ok(interrupt::uninterrupted(|| calibration.save(path))?)
}

/// Notes that `pp` starts from its probe alone.
pub(crate) fn note_empty_history() {
    note("no calibration: history starts at 0 and fills as batches run");
}

/// A whole text file, no longer than [`MOST_TEXT`].
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let mut text = String::new();
    add_text(&mut text, path)?;
    Ok(text)
}

/// Adds a whole text file to `text`, which must not become longer than [`MOST_TEXT`].
fn add_text(text: &mut String, path: &Path) -> Result<()> {
    let failed = |error| Error::io(path, "read", error, "Check the path and its permissions.");
    let room = MOST_TEXT - text.len() as u64;
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(room + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > room {
        let expected = format!("at most {MOST_TEXT} bytes of text in all");
        let help =
            "Pass a part of it (head -c 64M), or token ids instead: see --tokens and --calibrate-tokens.";
        return Err(Error::file(path, "size", expected, "more", help).into());
    }
    let added = std::str::from_utf8(&bytes).map_err(|error| {
        let got = format!("an invalid byte at offset {}", error.valid_up_to());
        Error::file(path, "content", "UTF-8 text", got, "Convert the file to UTF-8.")
    })?;
    *text += added;
    Ok(())
}

/// Token ids of an integer tensor, rows one after another.
fn tensor_tokens(tensor: &TensorKey, vocab_size: usize) -> Result<Vec<u32>> {
    let TensorKey { file, key } = tensor;
    let (shape, values) = read_tensor_file(file, key)?;
    let what = format!("tensor {key:?}");
    if !(1..=2).contains(&shape.len()) {
        let help = "Save token ids as one row per sample, or as one long row.";
        return Err(Error::file(file, what, "1 or 2 dimensions", format!("shape {shape:?}"), help).into());
    }
    let convert = |(at, &id): (usize, &i64)| {
        u32::try_from(id).ok().filter(|&id| (id as usize) < vocab_size).ok_or_else(|| {
            let expected = format!("an id from 0 to {}, below the model's vocab_size", vocab_size - 1);
            let help = "The text was tokenised for another model.";
            Error::file(file, format!("{what}, token {at}"), expected, id, help)
        })
    };
    Ok(values.iter().enumerate().map(convert).collect::<Result<_, _>>()?)
}
