//! A session's corrections of a fold.

use super::{
    check::{self, Out, OutStruct},
    handle::{self, Handle},
    model::History,
    session::{Session, State, with_session},
    status::{Failure, Outcome, call},
    structs::{Corrected, flag},
};
use crate::prune::calibration::Calibration;

/// Whether the session adapts; refuses one that cannot.
fn adapting(state: &State) -> Outcome<bool> {
    state.session.adapting().ok_or_else(|| {
        let help = "Create it with method FOLD and adapt PROBE.";
        Failure::argument("session", "one that corrects a fold", "another", help)
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_session_corrections(session: *mut Session, out: *mut Corrected) -> i32 {
    // SAFETY: the header requires `session` to be null or not freed, and `out` to be null or writable for its
    // `struct_size`.
    call(|| unsafe {
        with_session(session, |state| {
            let (out, session) = (OutStruct::new(out, "corrections")?, &state.session);
            out.write(Corrected {
                struct_size: 0,
                adapting: session.adapting().unwrap_or(false).into(),
                probed_share: session.probed_share().unwrap_or(f64::NAN),
                excess_error: session.excess_error().unwrap_or(f64::NAN),
            });
            Ok(())
        })
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_session_set_adapting(session: *mut Session, active: i32) -> i32 {
    // SAFETY: the header requires `session` to be null or not freed.
    call(|| unsafe {
        with_session(session, |state| {
            let active = flag(active, "active")?;
            adapting(state)?;
            state.session.set_adapting(active);
            Ok(())
        })
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_session_reset_corrections(session: *mut Session) -> i32 {
    // SAFETY: the header requires `session` to be null or not freed.
    call(|| unsafe {
        with_session(session, |state| {
            adapting(state)?;
            Ok(state.session.reset_corrections()?)
        })
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_calibration_with_corrections(
    calibration: *const History,
    session: *mut Session,
    out: *mut *mut History,
) -> i32 {
    // SAFETY: the header requires `calibration` and `session` to be null or not freed, and `out` to be null or writable.
    call(|| unsafe {
        with_session(session, |state| {
            let out = Out::new(out, "out")?;
            adapting(state)?;
            let learned = handle::with(calibration, "calibration", |calibration| {
                calibration.check_model(&state.original)?;
                Ok(Calibration { corrections: state.session.corrections()?, ..calibration.clone() })
            })?;
            check::give(out, Handle::new(learned));
            Ok(())
        })
    })
}
