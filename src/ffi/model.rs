//! Models: information, memory estimates, loading, calibration.

use std::ffi::{CString, c_char};

use super::{
    check::{self, Buffer, Out, OutStruct},
    dlpack,
    handle::{self, Handle},
    loaded::AnyModel,
    place,
    settings::MethodSettings,
    status::{Failure, Outcome, call},
    structs::{CalibrateOptions, Memory, ModelInfo, ModelOptions, Progress, SessionLimits, choice, flag},
};
use crate::{
    checkpoint::{Checkpoint, check_shapes},
    config::{Family, ModelConfig},
    error::{Error, Result},
    gpu::{cross_entropy_scratch, weights_on_gpu},
    prune::{Block, calibration::Calibration, flops::LayerCounts},
    session::{CalibrationOptions, Footprint},
    source::ModelSource,
};

/// The object behind `probeprune_model*`.
pub struct LoadedModel {
    pub(super) model: Box<dyn AnyModel>,
    fingerprint: CString,
    /// Of its tensors.
    pub(super) names: Vec<CString>,
    /// Its files; of a folded model those of the original.
    pub(super) source: ModelSource,
    pub(super) file_bytes: u64,
}

impl LoadedModel {
    pub(super) fn new(model: Box<dyn AnyModel>, source: ModelSource, file_bytes: u64) -> Self {
        let text = |text: &str| CString::new(text).unwrap_or_default();
        let fingerprint = text(model.fingerprint());
        let names = model.tensor_names().iter().map(|name| text(name)).collect();
        Self { model, fingerprint, names, source, file_bytes }
    }
}

/// `probeprune_model`.
pub type Model = Handle<LoadedModel>;
/// `probeprune_calibration`.
pub type History = Handle<Calibration>;

/// The source that a caller names.
///
/// # Safety
/// As [`check::text`].
pub(super) unsafe fn source(model: *const c_char) -> Outcome<ModelSource> {
    // SAFETY: the caller promises that `model` is null or NUL-terminated.
    Ok(ModelSource::locate(unsafe { check::text(model, "model") }?)?)
}

fn info(config: &ModelConfig, file_bytes: u64) -> ModelInfo {
    ModelInfo {
        struct_size: 0,
        family: if config.family == Family::Llama { 0 } else { 1 },
        vocab_size: config.vocab_size as u64,
        hidden_size: config.hidden_size as u64,
        intermediate_size: config.intermediate_size as u64,
        num_hidden_layers: config.num_hidden_layers as u64,
        num_attention_heads: config.num_attention_heads as u64,
        num_key_value_heads: config.num_key_value_heads as u64,
        head_dim: config.head_dim as u64,
        max_position_embeddings: config.max_position_embeddings as u64,
        file_bytes,
    }
}

/// Calls a caller's progress function.
pub(super) fn report(progress: Progress, user: *mut std::ffi::c_void, done: usize, of: usize) -> Result<()> {
    // SAFETY: the header requires a function that may be called with the `user` that came with it.
    match progress.map(|progress| unsafe { progress(user, done as u64, of as u64) }) {
        None | Some(0) => Ok(()),
        Some(_) => Err(Error::Cancelled),
    }
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_model_inspect(model: *const c_char, out: *mut ModelInfo) -> i32 {
    call(|| {
        // SAFETY: the header requires `model` to be null or NUL-terminated, and `out` to be null or writable for its
        // `struct_size`.
        let (source, out) = unsafe { (source(model)?, OutStruct::new(out, "info")?) };
        let mut config = ModelConfig::load(&source)?;
        let checkpoint = Checkpoint::open(&source, true)?;
        check_shapes(&mut config, &checkpoint)?;
        out.write(info(&config, checkpoint.file_bytes()));
        Ok(())
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_memory_estimate(
    model: *const c_char,
    options: *const ModelOptions,
    settings: *const MethodSettings,
    limits: *const SessionLimits,
    out: *mut Memory,
) -> i32 {
    call(|| {
        // SAFETY: the header requires `model` to be null or NUL-terminated, and each struct to be null or valid for
        // its `struct_size`.
        let (source, options, settings, limits, out) = unsafe {
            (
                source(model)?,
                check::versioned_or_default(options, "options")?,
                check::versioned_or_default(settings, "settings")?,
                check::versioned(limits, "limits")?.limits(),
                OutStruct::new(out, "memory")?,
            )
        };
        let mut config = ModelConfig::load(&source)?;
        let checkpoint = Checkpoint::open(&source, true)?;
        check_shapes(&mut config, &checkpoint)?;
        // SAFETY: the header requires `skip_layers` to have `skip_layer_count` entries.
        let settings = unsafe { settings.settings(config.num_hidden_layers) }?;
        settings.check()?;
        let layers = LayerCounts::by_settings(&config, &settings, None)?;
        let footprint = Footprint::new(&config, &settings, &layers, limits);
        let (weights, element, loss) = match options.device_type {
            dlpack::CPU => (checkpoint.file_bytes(), 4, 0),
            dlpack::CUDA => {
                let rows = limits.samples.saturating_mul(limits.tokens);
                let loss = cross_entropy_scratch(rows, config.vocab_size) as u64;
                (weights_on_gpu(&config, &checkpoint), 2, loss.saturating_mul(4))
            }
            other => return Err(place::no_such_device(other)),
        };
        let Footprint { scratch, history, probed, compensation, corrections, cache } = footprint;
        let [scratch, history, probed, compensation, corrections, cache] =
            [scratch, history, probed, compensation, corrections, cache].map(|part| part.bytes(element));
        let (scratch, probed) = (scratch.saturating_add(loss), probed.saturating_add(corrections));
        let parts = [weights, scratch, history, probed, compensation, cache];
        let total = parts.into_iter().fold(0, u64::saturating_add);
        out.write(Memory {
            struct_size: 0,
            reserved: 0,
            weights,
            scratch,
            history,
            probed,
            cache,
            total,
            compensation,
        });
        Ok(())
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_model_load(
    model: *const c_char,
    options: *const ModelOptions,
    out: *mut *mut Model,
) -> i32 {
    call(|| {
        // SAFETY: the header requires `model` to be null or NUL-terminated, `options` to be null or readable for its
        // `struct_size`, and `out` to be null or writable.
        let (source, options, out) = unsafe {
            (source(model)?, check::versioned_or_default(options, "options")?, Out::new(out, "out")?)
        };
        flag(options.read_weights, "read_weights")?;
        flag(options.use_stream, "use_stream")?;
        let config = ModelConfig::load(&source)?;
        let checkpoint = Checkpoint::open(&source, options.read_weights == 0)?;
        let order = match options.channel_order.is_null() {
            true => None,
            // SAFETY: the header requires a calibration that is not freed; null was excluded above.
            false => Some(unsafe {
                handle::with(options.channel_order, "channel_order", |calibration| {
                    calibration.check_model(&checkpoint.fingerprint())?;
                    Ok(calibration.channel_order.clone())
                })
            }?),
        };
        let layers = config.num_hidden_layers;
        let mut progress = |done| report(options.progress, options.user, done, layers);
        // SAFETY: the header requires `stream` to be of the device's primary context and to outlive the model's
        // sessions.
        let model = unsafe { place::load(config, &checkpoint, &options, order, &mut progress) }?;
        check::give(out, Handle::new(LoadedModel::new(model, source, checkpoint.file_bytes())));
        Ok(())
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_model_free(model: *mut Model) {
    // SAFETY: the header requires `model` to be null, or neither freed before nor in use.
    unsafe { check::take_back(model) }
}

/// Runs `body` on a model.
///
/// # Safety
/// As [`handle::with`].
pub(super) unsafe fn with_model<R>(
    model: *const Model,
    body: impl FnOnce(&LoadedModel) -> Outcome<R>,
) -> Outcome<R> {
    // SAFETY: the caller promises that `model` is null or not freed.
    unsafe {
        handle::with(model, "model", |model| {
            body(model).map_err(|failure| place::poisoned(failure, model.model.is_broken()))
        })
    }
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_model_get_info(model: *const Model, out: *mut ModelInfo) -> i32 {
    // SAFETY: the header requires `model` to be null or not freed, and `out` to be null or writable for its
    // `struct_size`.
    call(|| unsafe {
        with_model(model, |model| {
            OutStruct::new(out, "info")?.write(info(model.model.config(), model.file_bytes));
            Ok(())
        })
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_model_fingerprint(model: *const Model, out: *mut *const c_char) -> i32 {
    // SAFETY: the header requires `model` to be null or not freed, and `out` to be null or writable.
    call(|| unsafe {
        with_model(model, |model| {
            Out::new(out, "out")?.write(model.fingerprint.as_ptr());
            Ok(())
        })
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_model_eos_tokens(
    model: *const Model,
    out: *mut u32,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    // SAFETY: the header requires `model` to be null or not freed, `out` to be null or to have room for `capacity`
    // ids, and `count` to be null or writable.
    call(|| unsafe {
        with_model(model, |model| {
            Buffer::new(out, capacity, count, "out")?.write(&model.model.config().eos_token_ids)
        })
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_calibrate(
    model: *const Model,
    tokens: *const u32,
    samples: usize,
    length: usize,
    options: *const CalibrateOptions,
    out: *mut *mut History,
) -> i32 {
    call(|| {
        // SAFETY: the header requires `model` to be null or not freed, and pointers that are not null to lead to
        // samples × length tokens, options readable for their `struct_size`, and a writable `out`.
        unsafe {
            with_model(model, |model| {
                let count = entries(samples, length)?;
                let tokens = check::array(tokens, count, "tokens")?;
                let options = check::versioned_or_default(options, "options")?;
                let out = Out::new(out, "out")?;
                let batch_size = usize::try_from(options.batch_size).unwrap_or(usize::MAX);
                if batch_size == 0 {
                    return Err(Failure::argument("batch_size", "at least 1", 0, "8 is the default."));
                }
                let (flap, fold) = (flag(options.flap, "flap")?, flag(options.fold, "fold")?);
                let linear_rank = options.linear_rank as usize;
                let batch_size = batch_size.min(samples.max(1));
                let how = CalibrationOptions {
                    seq_len: length,
                    batch_size,
                    flap,
                    linear_rank,
                    fold,
                    ..Default::default()
                };
                let of = samples.saturating_mul(how.passes(model.model.config()));
                let mut progress = |done| report(options.progress, options.user, done, of);
                check::give(out, Handle::new(model.model.calibrate(tokens, how, &mut progress)?));
                Ok(())
            })
        }
    })
}

/// samples × length.
pub(super) fn entries(samples: usize, length: usize) -> Outcome<usize> {
    samples.checked_mul(length).ok_or_else(|| {
        Failure::argument(
            "batch",
            "a size that fits memory",
            format!("{samples} × {length}"),
            "Check the counts.",
        )
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_calibration_save(
    calibration: *const History,
    path: *const c_char,
) -> i32 {
    // SAFETY: the header requires `calibration` to be null or not freed, and `path` to be null or NUL-terminated.
    call(|| unsafe {
        handle::with(calibration, "calibration", |calibration| {
            Ok(calibration.save(check::text(path, "path")?.as_ref())?)
        })
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_calibration_load(
    model: *const Model,
    path: *const c_char,
    out: *mut *mut History,
) -> i32 {
    // SAFETY: the header requires `model` to be null or not freed, `path` to be null or NUL-terminated, and `out` to
    // be null or writable.
    call(|| unsafe {
        with_model(model, |model| {
            let (path, out) = (check::text(path, "path")?, Out::new(out, "out")?);
            let (fingerprint, config) = (model.model.fingerprint(), model.model.config());
            check::give(out, Handle::new(Calibration::load(path.as_ref(), fingerprint, config)?));
            Ok(())
        })
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_calibration_open(
    model: *const c_char,
    path: *const c_char,
    out: *mut *mut History,
) -> i32 {
    call(|| {
        // SAFETY: the header requires `model` and `path` to be null or NUL-terminated, and `out` to be null or
        // writable.
        let (source, path, out) =
            unsafe { (source(model)?, check::text(path, "path")?, Out::new(out, "out")?) };
        let config = ModelConfig::load(&source)?;
        let fingerprint = Checkpoint::open(&source, true)?.fingerprint();
        check::give(out, Handle::new(Calibration::load(path.as_ref(), &fingerprint, &config)?));
        Ok(())
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_calibration_free(calibration: *mut History) {
    // SAFETY: the header requires `calibration` to be null, or neither freed before nor in use.
    unsafe { check::take_back(calibration) }
}

/// The block with this number in the header.
pub(super) fn block(number: i32) -> Outcome<Block> {
    choice(number, &Block::ALL, "block")
}
