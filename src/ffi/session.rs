//! Sessions: batches, their losses and logits.

use std::sync::{
    Arc, Mutex, TryLockError,
    atomic::{AtomicBool, Ordering},
};

use super::{
    check::{self, Buffer, Out, OutStruct},
    dlpack::DLManagedTensorVersioned,
    handle::{self, Handle},
    model::{History, Model, entries, with_model},
    place::{self, AnySession, Batch},
    settings::MethodSettings,
    status::{Failure, Outcome, Status, call},
    structs::{Counts, SessionLimits, Work},
};
use crate::prune::{
    BatchShape, counts,
    settings::{Method, Settings},
};

/// The session behind `probeprune_session*`.
pub struct State {
    pub(super) session: Box<dyn AnySession>,
    settings: Settings,
    /// The fingerprint that its calibrations have.
    pub(super) original: String,
    /// Whether a batch has run, whose logits can be read.
    pub(super) ran: bool,
}

/// A session for one thread at a time, and the flag by which any thread cancels it.
pub struct Guarded {
    state: Mutex<State>,
    cancel: Arc<AtomicBool>,
}

/// `probeprune_session`.
pub type Session = Handle<Guarded>;

/// Runs `body` on a session.
///
/// # Safety
/// As [`handle::with`].
pub(super) unsafe fn with_session<R>(
    session: *const Session,
    body: impl FnOnce(&mut State) -> Outcome<R>,
) -> Outcome<R> {
    // SAFETY: the caller promises that `session` is null or not freed.
    unsafe {
        handle::with(session, "session", |guarded| {
            let mut state = match guarded.state.try_lock() {
                Ok(state) => state,
                // The handle reports the panic.
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    let help = "One thread at a time may use a session; its callbacks may not.";
                    let got = "one that has not returned";
                    return Err(Failure::new(Status::Busy, "session", "no other call on it", got, help));
                }
            };
            let broken = state.session.is_broken();
            body(&mut state).map_err(|failure| place::poisoned(failure, broken || state.session.is_broken()))
        })
    }
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_session_create(
    model: *const Model,
    settings: *const MethodSettings,
    limits: *const SessionLimits,
    calibration: *const History,
    out: *mut *mut Session,
) -> i32 {
    // SAFETY: the header requires `model` and `calibration` to be null or not freed, `settings` and `limits` to be
    // null or readable for their `struct_size`, `skip_layers` to have `skip_layer_count` entries, and `out` to be
    // null or writable.
    call(|| unsafe {
        with_model(model, |model| {
            let model = &model.model;
            let settings = check::versioned_or_default(settings, "settings")?;
            let settings = settings.settings(model.config().num_hidden_layers)?;
            let limits = check::versioned(limits, "limits")?.limits();
            let out = Out::new(out, "out")?;
            let session = match calibration.is_null() {
                true => model.session(settings.clone(), limits, None)?,
                false => handle::with(calibration, "calibration", |calibration| {
                    Ok(model.session(settings.clone(), limits, Some(calibration))?)
                })?,
            };
            let cancel = session.canceller();
            let original = model.original().to_string();
            let state = Mutex::new(State { session, settings, original, ran: false });
            check::give(out, Handle::new(Guarded { state, cancel }));
            Ok(())
        })
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_session_free(session: *mut Session) {
    // SAFETY: the header requires `session` to be null, or neither freed before nor in use.
    unsafe { check::take_back(session) }
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_session_cancel(session: *const Session) -> i32 {
    call(|| {
        // SAFETY: the header requires `session` to be null or not freed. Its canceller is atomic, so another thread
        // may use the session.
        let session = unsafe { check::read(session, "session") }?;
        session.value().cancel.store(true, Ordering::Relaxed);
        Ok(())
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_session_synchronize(session: *mut Session) -> i32 {
    // SAFETY: the header requires `session` to be null or not freed.
    call(|| unsafe { with_session(session, |state| Ok(state.session.synchronize()?)) })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_session_layer_counts(
    session: *mut Session,
    layer: u64,
    out: *mut Counts,
) -> i32 {
    // SAFETY: the header requires `session` to be null or not freed, and `out` to be null or writable for its
    // `struct_size`.
    call(|| unsafe {
        with_session(session, |state| {
            let out = OutStruct::new(out, "counts")?;
            let config = state.session.config();
            let counts = state.session.layer_counts()[index(layer, config.num_hidden_layers)?];
            let share = |kept: usize, of: usize| 1.0 - kept as f64 / of as f64;
            out.write(Counts {
                struct_size: 0,
                probes_attention: counts.probes_attention.into(),
                probes_mlp: counts.probes_mlp.into(),
                reserved: 0,
                heads: counts.heads as u64,
                kv_heads: counts.kv_heads as u64,
                channels: counts.channels as u64,
                head_ratio: share(counts.heads, config.num_attention_heads),
                channel_ratio: share(counts.channels, config.intermediate_size),
            });
            Ok(())
        })
    })
}

pub(super) fn index(layer: u64, layers: usize) -> Outcome<usize> {
    usize::try_from(layer).ok().filter(|&layer| layer < layers).ok_or_else(|| {
        Failure::argument("layer", format!("a number below {layers}"), layer, "Layers are counted from 0.")
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_session_work(
    session: *mut Session,
    samples: usize,
    length: usize,
    out: *mut Work,
) -> i32 {
    // SAFETY: the header requires `session` to be null or not freed, and `out` to be null or writable for its
    // `struct_size`.
    call(|| unsafe {
        with_session(session, |state| {
            let out = OutStruct::new(out, "work")?;
            if entries(samples, length)? == 0 {
                let help = "Give the batch's size.";
                return Err(Failure::argument("batch", "at least one token", "none", help));
            }
            let settings = &state.settings;
            let batch = BatchShape { samples, tokens: length };
            let probe = match settings.method {
                Method::ProbePruning => counts::probe_shape(settings, batch),
                Method::FullBatch => batch,
                Method::Fold if settings.adapt.is_on() => counts::probe_shape(settings, batch),
                _ => BatchShape { samples: 0, tokens: 0 },
            };
            let shares = state.session.shares(batch);
            out.write(Work {
                struct_size: 0,
                reserved: 0,
                probe_samples: probe.samples as u64,
                probe_tokens: probe.tokens as u64,
                flops_share: shares.total,
                probe_flops_share: shares.probe,
            });
            Ok(())
        })
    })
}

/// A caller's batch.
///
/// # Safety
/// Pointers that are not null are valid for reading samples × length entries while the result is used.
pub(super) unsafe fn batch<'a>(
    tokens: *const u32,
    mask: *const u32,
    samples: usize,
    length: usize,
) -> Outcome<Batch<'a>> {
    let count = entries(samples, length)?;
    // SAFETY: the caller promises samples × length readable entries at each pointer that is not null.
    let (tokens, mask) =
        unsafe { (check::array(tokens, count, "tokens")?, check::optional_array(mask, count, "mask")?) };
    Ok(Batch { tokens, samples, mask })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_session_evaluate(
    session: *mut Session,
    tokens: *const u32,
    mask: *const u32,
    samples: usize,
    length: usize,
    update_history: i32,
    loss: *mut f64,
) -> i32 {
    // SAFETY: the header requires `session` to be null or not freed, `tokens` to have samples × length entries,
    // `mask` as many unless it is null, and `loss` to be null or writable.
    call(|| unsafe {
        with_session(session, |state| {
            let (batch, loss) = (batch(tokens, mask, samples, length)?, Out::new(loss, "loss")?);
            loss.write(state.session.evaluate(batch, update_history != 0)?);
            state.ran = true;
            Ok(())
        })
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_session_losses(
    session: *mut Session,
    tokens: *const u32,
    mask: *const u32,
    samples: usize,
    length: usize,
    update_history: i32,
    out: *mut f32,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    // SAFETY: the header requires `session` to be null or not freed, `tokens` to have samples × length entries,
    // `mask` as many unless it is null, `out` to be null or to have room for `capacity` losses, and `count` to be
    // null or writable.
    call(|| unsafe {
        with_session(session, |state| {
            let out = Buffer::new(out, capacity, count, "out")?;
            out.fill(entries(samples, length)?, || {
                let batch = batch(tokens, mask, samples, length)?;
                let losses = state.session.losses(batch, update_history != 0)?;
                state.ran = true;
                Ok(losses)
            })
        })
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_session_forward(
    session: *mut Session,
    tokens: *const u32,
    mask: *const u32,
    samples: usize,
    length: usize,
    update_history: i32,
) -> i32 {
    // SAFETY: the header requires `session` to be null or not freed, `tokens` to have samples × length entries, and
    // `mask` as many unless it is null.
    call(|| unsafe {
        with_session(session, |state| {
            state.session.forward(batch(tokens, mask, samples, length)?, update_history != 0)?;
            state.ran = true;
            Ok(())
        })
    })
}

fn check_ran(state: &State) -> Outcome {
    if state.ran {
        return Ok(());
    }
    Err(Failure::argument("logits", "a batch that has run", "none", "Run one first."))
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_session_logits(
    session: *mut Session,
    samples: usize,
    out: *mut f32,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    // SAFETY: the header requires `session` to be null or not freed, `out` to be null or to have room for `capacity`
    // logits, and `count` to be null or writable.
    call(|| unsafe {
        with_session(session, |state| {
            check_ran(state)?;
            let out = Buffer::new(out, capacity, count, "out")?;
            let needed = state.session.logits_shape(samples).iter().product();
            out.fill(needed, || Ok(state.session.logits(samples)?))
        })
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_session_logits_at(
    session: *mut Session,
    samples: usize,
    slots: *const u32,
    slot_count: usize,
    out: *mut f32,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    // SAFETY: the header requires `session` to be null or not freed, `slots` to have `slot_count` entries, `out` to be null
    // or to have room for `capacity` logits, and `count` to be null or writable.
    call(|| unsafe {
        with_session(session, |state| {
            check_ran(state)?;
            let out = Buffer::new(out, capacity, count, "out")?;
            let slots = check::array(slots, slot_count, "slots")?;
            let [samples, _, vocab_size] = state.session.logits_shape(samples);
            let needed = entries(samples, slot_count)?.saturating_mul(vocab_size);
            out.fill(needed, || Ok(state.session.logits_at(samples, slots)?))
        })
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_session_export_logits(
    session: *mut Session,
    samples: usize,
    out: *mut *mut DLManagedTensorVersioned,
) -> i32 {
    // SAFETY: the header requires `session` to be null or not freed, and `out` to be null or writable.
    call(|| unsafe {
        with_session(session, |state| {
            check_ran(state)?;
            let out = Out::new(out, "out")?;
            state.session.export_logits(samples)?.give(out);
            Ok(())
        })
    })
}
