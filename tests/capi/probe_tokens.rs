//! `probe_tokens`: a share, or a probe that the batch's size bounds.

use std::ptr::null;

use probeprune::{
    prune::settings::{Method, ProbeTokens, Settings},
    session::{self as library, Limits},
};

use crate::{
    bindings::*,
    models::{evaluate, in_rust, kept},
    support::*,
};

const AUTO: f64 = PROBEPRUNE_PROBE_TOKENS_AUTO as f64;

fn with(probe_tokens: f64) -> probeprune_settings {
    probeprune_settings { probe_tokens, ..pruning(0.4) }
}

#[test]
fn auto_is_the_library_s() {
    let model = tiny_llama();
    let bounds = Limits { samples: 2, tokens: 60, capacity: 0 };
    let settings = Settings {
        method: Method::ProbePruning,
        prune_ratio: 0.4,
        probe_tokens: ProbeTokens::Auto,
        ..Settings::default()
    };
    let mut expected = library::Session::new(in_rust(), settings, bounds, None).unwrap();
    let session = session(&model, &with(AUTO), limits(2, 60, 0));
    let mut work = defaults(probeprune_work_init);
    for (samples, length, probe) in [(1, 60, 3), (2, 60, 6), (2, 9, 2)] {
        let batch = tokens(samples * length, 3);
        let loss = expected.evaluate(&batch, samples, None, true).unwrap();
        assert_eq!(evaluate(&session, &batch, samples).to_bits(), loss.to_bits());
        for layer in 3..10 {
            let channels = expected.kept_channels(layer).unwrap().unwrap();
            assert_eq!(kept(&session, layer as u64, PROBEPRUNE_BLOCK_MLP), channels);
        }
        // SAFETY: living handles and structs.
        ok(unsafe { probeprune_session_work(session.0, samples, length, &mut work) });
        assert_eq!((work.probe_samples, work.probe_tokens), (1, probe));
    }
}

#[test]
fn other_values_that_are_no_share_are_refused() {
    let (model, limits) = (tiny_llama(), limits(1, 8, 0));
    for (value, got) in
        [(0.0, "got 0"), (-0.5, "got -0.5"), (-2.0, "got -2"), (1.5, "1.5"), (f64::NAN, "NaN")]
    {
        let mut made = std::ptr::null_mut();
        // SAFETY: living handles and structs.
        let status = unsafe { probeprune_session_create(model.0, &with(value), &limits, null(), &mut made) };
        refused(status, PROBEPRUNE_INVALID_ARGUMENT, &["probe_tokens", "above 0 and at most 1", got]);
        assert!(made.is_null());
    }
    assert_eq!(defaults(probeprune_settings_init).probe_tokens, 0.5);
}
