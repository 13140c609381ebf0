//! Corrections of a fold: switching them off, forgetting them, and keeping them for other sessions.

use std::ptr::{null, null_mut};

use crate::{
    bindings::*,
    fold::{History, adapting, calibrated, corrections, fold, run},
    models::evaluate,
    support::*,
};

#[test]
fn a_fold_and_its_sessions_need_nothing_else() {
    let model = tiny_llama();
    let history = calibrated(&model);
    let folded = fold(&model, &adapting(), &history);
    drop((model, history));
    let session = session(&folded, &adapting(), limits(4, 16, 0));
    drop(folded);
    let fresh = corrections(&session);
    assert!(fresh.adapting == 1 && fresh.probed_share.is_nan() && fresh.excess_error.is_nan());
    let (batch, next) = (tokens(4 * 16, 1), tokens(4 * 16, 2));
    let first = evaluate(&session, &batch, 4);
    assert_eq!(corrections(&session).probed_share, 1.0);
    assert!(corrections(&session).excess_error.is_finite());
    // SAFETY: a living handle.
    unsafe {
        ok(probeprune_session_set_adapting(session.0, 0));
        let frozen = evaluate(&session, &next, 4);
        assert_eq!((evaluate(&session, &next, 4), corrections(&session).adapting), (frozen, 0));
        ok(probeprune_session_set_adapting(session.0, 1));
        refused(probeprune_session_set_adapting(session.0, 2), PROBEPRUNE_INVALID_ARGUMENT, &["active", "2"]);
        assert_ne!(evaluate(&session, &next, 4), frozen);
        ok(probeprune_session_set_adapting(session.0, 0));
        ok(probeprune_session_reset_corrections(session.0));
        assert_eq!(corrections(&session).adapting, 0, "as it was told");
        ok(probeprune_session_set_adapting(session.0, 1));
    }
    assert!(corrections(&session).adapting == 1 && corrections(&session).probed_share.is_nan());
    assert_eq!(evaluate(&session, &batch, 4), first);
}

/// A session of a fold that begins with a calibration's corrections.
fn session_with(folded: &Model, history: &History) -> Session {
    // SAFETY: living handles and structs.
    Owned::new(probeprune_session_free, |out| unsafe {
        probeprune_session_create(folded.0, &adapting(), &limits(4, 16, 0), history.0, out)
    })
}

#[test]
fn corrections_are_kept_with_a_calibration() {
    let model = tiny_llama();
    let history = calibrated(&model);
    let folded = fold(&model, &adapting(), &history);
    let first = session_with(&folded, &history);
    let untaught = run(&first).0;
    let folder = tempfile::tempdir().unwrap();
    let path = c(folder.path().join("history.safetensors").to_str().unwrap());
    // SAFETY: living handles and strings.
    let (learned, read) = unsafe {
        let learned = Owned::new(probeprune_calibration_free, |out| {
            probeprune_calibration_with_corrections(history.0, first.0, out)
        });
        ok(probeprune_calibration_save(learned.0, path.as_ptr()));
        let read = Owned::new(probeprune_calibration_free, |out| {
            probeprune_calibration_load(model.0, path.as_ptr(), out)
        });
        (learned, read)
    };
    let sessions = [&learned, &read].map(|history| session_with(&folded, history));
    let taught = run(&first).0;
    assert_ne!(taught, untaught);
    for session in &sessions {
        assert_eq!(run(session).0, taught, "goes on where the first one was");
    }
    // SAFETY: a living handle.
    ok(unsafe { probeprune_session_reset_corrections(sessions[0].0) });
    assert_eq!(run(&sessions[0]).0, untaught);

    let plain = session(&folded, &defaults(probeprune_settings_init), limits(1, 8, 0));
    let (mut out, invalid) = (null_mut(), PROBEPRUNE_INVALID_ARGUMENT);
    // SAFETY: living handles, and NULL, which is refused.
    unsafe {
        let opt = Owned::new(probeprune_model_free, |out| {
            probeprune_model_load(c("bundled:tiny-opt").as_ptr(), null(), out)
        });
        let other = calibrated(&opt);
        let mut keep = |history, session| probeprune_calibration_with_corrections(history, session, &mut out);
        refused(keep(history.0, plain.0), invalid, &["session", "corrects a fold"]);
        refused(keep(other.0, first.0), invalid, &["calibration", "fingerprint"]);
        refused(keep(null(), first.0), invalid, &["calibration", "NULL"]);
        refused(keep(history.0, null_mut()), invalid, &["session", "NULL"]);
    }
    assert!(out.is_null());
}
