//! Folded models, their sessions and their files: the same bits as the library's own types.

use std::{
    ffi::{CStr, c_void},
    ptr::{null, null_mut},
    sync::Arc,
};

use probeprune::{
    cpu::Cpu,
    model::fold::Fold,
    prune::{
        calibration::Calibration,
        settings::{Adapt, AdaptMetric, AdaptSettings, FoldChoice, Method, Prefill, Settings},
    },
    session::{self as library, CalibrationOptions, Limits},
};

use crate::{
    bindings::*,
    models::{evaluate, in_rust, kept},
    support::*,
};

pub(crate) type History = Owned<probeprune_calibration>;
pub(crate) type RustModel = Arc<probeprune::model::Model<Cpu>>;

const BOUNDS: Limits = Limits { samples: 4, tokens: 16, capacity: 0 };

fn text() -> Vec<u32> {
    tokens(20 * 16, 1)
}

pub(crate) fn calibrated(model: &Model) -> History {
    let options = probeprune_calibrate_options { fold: 1, ..defaults(probeprune_calibrate_options_init) };
    // SAFETY: living handles and buffers.
    Owned::new(probeprune_calibration_free, |out| unsafe {
        probeprune_calibrate(model.0, text().as_ptr(), 20, 16, &options, out)
    })
}

pub(crate) fn calibrated_in_rust(model: &RustModel) -> Calibration {
    let options = CalibrationOptions { seq_len: 16, batch_size: 8, fold: true, ..Default::default() };
    library::calibrate(model, &text(), options, |_| ()).unwrap()
}

pub(crate) fn folding() -> probeprune_settings {
    probeprune_settings { method: PROBEPRUNE_METHOD_FOLD as i32, round_channels: 1, ..pruning(0.4) }
}

pub(crate) fn folding_in_rust() -> Settings {
    Settings { method: Method::Fold, prune_ratio: 0.4, round_channels: 1, ..Settings::default() }
}

pub(crate) fn adapting() -> probeprune_settings {
    probeprune_settings {
        adapt: PROBEPRUNE_ADAPT_PROBE as i32,
        adapt_tokens: 24,
        adapt_every: 1,
        ..folding()
    }
}

fn adapting_in_rust() -> Settings {
    let mode = Adapt::Probe { tokens: Some(24) };
    Settings { adapt: AdaptSettings { mode, every: 1, ..AdaptSettings::default() }, ..folding_in_rust() }
}

pub(crate) fn try_fold(
    model: &Model,
    settings: &probeprune_settings,
    history: &History,
) -> (i32, *mut probeprune_model) {
    let mut out = null_mut();
    // SAFETY: living handles and structs.
    let status = unsafe { probeprune_model_fold(model.0, settings, history.0, None, null_mut(), &mut out) };
    (status, out)
}

pub(crate) fn fold(model: &Model, settings: &probeprune_settings, history: &History) -> Model {
    Owned::new(probeprune_model_free, |out| {
        let (status, folded) = try_fold(model, settings, history);
        // SAFETY: a place for a handle.
        unsafe { *out = folded };
        status
    })
}

pub(crate) fn corrections(session: &Session) -> probeprune_corrections {
    let mut out = defaults(probeprune_corrections_init);
    // SAFETY: living handles and structs.
    ok(unsafe { probeprune_session_corrections(session.0, &mut out) });
    out
}

/// Losses of three batches, and what is known after them, in bits.
pub(crate) fn run(session: &Session) -> (Vec<u64>, [u64; 2]) {
    let losses = (0..3).map(|seed| evaluate(session, &tokens(4 * 16, seed), 4).to_bits()).collect();
    let corrections = corrections(session);
    (losses, [corrections.probed_share, corrections.excess_error].map(f64::to_bits))
}

fn run_in_rust(session: &mut library::Session<Cpu>) -> (Vec<u64>, [u64; 2]) {
    let losses = (0..3).map(|seed| session.evaluate(&tokens(4 * 16, seed), 4, None, true).unwrap().to_bits());
    let losses = losses.collect();
    let known = [session.probed_share(), session.excess_error()];
    (losses, known.map(|value| value.unwrap_or(f64::NAN).to_bits()))
}

#[test]
fn sessions_of_a_folded_model_are_the_librarys() {
    let (model, rust) = (tiny_llama(), in_rust());
    let (history, calibration) = (calibrated(&model), calibrated_in_rust(&rust));
    let full = PROBEPRUNE_ADAPT_METRIC_FULL as i32;
    let with = |adapt: AdaptSettings| Settings { adapt, ..adapting_in_rust() };
    let adapt = adapting_in_rust().adapt;
    for (given, settings) in [
        (folding(), folding_in_rust()),
        (
            probeprune_settings { fold_choice: PROBEPRUNE_FOLD_SCORE as i32, ..folding() },
            Settings { fold_choice: FoldChoice::Score, ..folding_in_rust() },
        ),
        (
            probeprune_settings {
                adapt_metric: full,
                adapt_prior_tokens: 50,
                adapt_forgetting: 0.9,
                ..adapting()
            },
            with(AdaptSettings { metric: AdaptMetric::Full, prior_tokens: 50, forgetting: 0.9, ..adapt }),
        ),
        (
            probeprune_settings { adapt_every: 2, adapt_threshold: 1e9, adapt_tokens: 0, ..adapting() },
            with(AdaptSettings { mode: Adapt::Probe { tokens: None }, every: 2, threshold: 1e9, ..adapt }),
        ),
    ] {
        let is_corrected = settings.adapt.is_on();
        let new = |settings| {
            library::Session::new(Arc::clone(&rust), settings, BOUNDS, Some(&calibration)).unwrap()
        };
        let mut expected = new(settings);
        let losses = run_in_rust(&mut expected);

        let folded = fold(&model, &given, &history);
        let [one, other] = [(); 2].map(|()| session(&folded, &given, limits(4, 16, 0)));
        assert_eq!(run(&one), losses);
        assert_eq!(run(&other), losses, "a session learns nothing from another");
        // SAFETY: living handles and structs.
        let own = Owned::new(probeprune_session_free, |out| unsafe {
            probeprune_session_create(model.0, &given, &limits(4, 16, 0), history.0, out)
        });
        assert_eq!(run(&own), losses, "a session that folds for itself");
        for layer in 3..10 {
            let channels = expected.kept_channels(layer).unwrap().unwrap();
            assert_eq!(kept(&one, layer as u64, PROBEPRUNE_BLOCK_MLP), channels);
            let heads = expected.kept_heads(layer).unwrap().unwrap();
            assert_eq!(kept(&own, layer as u64, PROBEPRUNE_BLOCK_ATTENTION), heads);
        }
        let mut work = defaults(probeprune_work_init);
        // SAFETY: living handles and structs.
        ok(unsafe { probeprune_session_work(one.0, 4, 16, &mut work) });
        assert_eq!(work.probe_samples > 0 && work.probe_flops_share > 0.0, is_corrected);

        // Without corrections, and without the handles that it was made from.
        let plain = session(&folded, &defaults(probeprune_settings_init), limits(4, 16, 0));
        let uncorrected = probeprune_settings { adapt: PROBEPRUNE_ADAPT_NONE as i32, ..given };
        let uncorrected = session(&folded, &uncorrected, limits(4, 16, 0));
        drop((one, other, own, folded));
        let expected = Settings { adapt: AdaptSettings::default(), ..expected_settings(&given) };
        let losses = run_in_rust(&mut new(expected));
        for session in [plain, uncorrected] {
            assert_eq!(run(&session), losses);
            assert_eq!(corrections(&session).adapting, 0);
        }
    }
}

/// Of the fold alone.
fn expected_settings(given: &probeprune_settings) -> Settings {
    let fold_choice = FoldChoice::ALL[given.fold_choice as usize];
    Settings { fold_choice, ..folding_in_rust() }
}

#[test]
fn an_exported_fold_is_loaded_as_it_is() {
    let model = tiny_llama();
    let folded = fold(&model, &folding(), &calibrated(&model));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("folded");
    let (name, mut needs_code) = (c(path.to_str().unwrap()), -1);
    // SAFETY: living handles and strings.
    let loaded = unsafe {
        refused(
            probeprune_model_export(model.0, name.as_ptr(), null_mut()),
            PROBEPRUNE_INVALID_ARGUMENT,
            &["model", "a folded one", "probeprune_model_fold"],
        );
        ok(probeprune_model_export(folded.0, name.as_ptr(), &mut needs_code));
        refused(
            probeprune_model_export(folded.0, name.as_ptr(), null_mut()),
            PROBEPRUNE_FILE,
            &["a new folder"],
        );
        refused(
            probeprune_model_export(folded.0, null(), null_mut()),
            PROBEPRUNE_INVALID_ARGUMENT,
            &["folder", "NULL"],
        );
        Owned::new(probeprune_model_free, |out| probeprune_model_load(name.as_ptr(), null(), out))
    };
    assert_eq!(needs_code == 1, path.join("modeling_probeprune.py").exists());
    assert!(path.join("tokenizer.json").exists());
    let dense = || defaults(probeprune_settings_init);
    let [of_file, of_fold] = [&loaded, &folded].map(|model| session(model, &dense(), limits(4, 16, 0)));
    assert_eq!(run(&of_file), run(&of_fold));
    // The file does not know which of the original's channels are left.
    let channels = kept(&of_fold, 5, PROBEPRUNE_BLOCK_MLP).len() as u32;
    assert_eq!(kept(&of_file, 5, PROBEPRUNE_BLOCK_MLP), (0..channels).collect::<Vec<_>>());
}

unsafe extern "C-unwind" fn second_layer_stops(user: *mut c_void, done: u64, of: u64) -> i32 {
    // SAFETY: what the test passes.
    let seen = unsafe { &mut *user.cast::<Vec<(u64, u64)>>() };
    seen.push((done, of));
    i32::from(seen.len() == 2)
}

#[test]
fn folding_reports_and_stops() {
    let model = tiny_llama();
    let history = calibrated(&model);
    let mut seen: Vec<(u64, u64)> = Vec::new();
    let mut out = null_mut();
    let user = (&raw mut seen).cast();
    let settings = folding();
    // SAFETY: living handles and structs, and callbacks that take what they are passed.
    unsafe {
        let folded = Owned::new(probeprune_model_free, |out| {
            probeprune_model_fold(model.0, &settings, history.0, Some(counting), user, out)
        });
        assert!(!folded.0.is_null());
        let stopping = Some(second_layer_stops as unsafe extern "C-unwind" fn(_, _, _) -> _);
        seen.clear();
        let status = probeprune_model_fold(model.0, &settings, history.0, stopping, user, &mut out);
        refused(status, PROBEPRUNE_CANCELLED, &["cancelled"]);
    }
    assert_eq!(seen, [(4, 10), (5, 10)], "layers 0 to 2 stay dense");
    assert!(out.is_null());
}

#[test]
fn what_cannot_be_folded_or_run_is_refused() {
    let (model, invalid) = (tiny_llama(), PROBEPRUNE_INVALID_ARGUMENT);
    let history = calibrated(&model);
    let refuses = |model: &Model, settings: probeprune_settings, history: &History, parts: &[&str]| {
        let (status, folded) = try_fold(model, &settings, history);
        refused(status, invalid, parts);
        assert!(folded.is_null());
    };
    refuses(&model, pruning(0.4), &history, &["method", "fold at a ratio above 0", "pp"]);
    refuses(&model, probeprune_settings { prune_ratio: 0.0, ..folding() }, &history, &["method", "ratio 0"]);
    refuses(&model, probeprune_settings { fold_choice: 2, ..folding() }, &history, &["fold_choice", "2"]);
    refuses(&model, probeprune_settings { adapt: 2, ..folding() }, &history, &["adapt", "0 to 1", "2"]);
    refuses(&model, probeprune_settings { prefill: 2, ..folding() }, &history, &["prefill", "0 to 1", "2"]);
    refuses(&model, probeprune_settings { adapt_metric: -1, ..folding() }, &history, &["adapt_metric"]);
    refuses(&model, probeprune_settings { adapt_every: 0, ..folding() }, &history, &["adapt_every"]);
    let forgetful = probeprune_settings { adapt_forgetting: 1.5, ..folding() };
    refuses(&model, forgetful, &history, &["adapt_forgetting"]);
    let never = probeprune_settings { adapt_threshold: f64::NAN, ..folding() };
    refuses(&model, never, &history, &["adapt_threshold"]);
    // SAFETY: living handles and buffers.
    let plain = Owned::new(probeprune_calibration_free, |out| unsafe {
        probeprune_calibrate(model.0, text().as_ptr(), 2, 16, null(), out)
    });
    refuses(&model, folding(), &plain, &["method fold", "second moments"]);
    let (mut out, settings) = (null_mut(), folding());
    // SAFETY: NULL is refused before it is used.
    unsafe {
        let fold = |settings: *const _, history, out: *mut _| {
            probeprune_model_fold(model.0, settings, history, None, null_mut(), out)
        };
        refused(fold(null(), history.0, &mut out), invalid, &["settings", "NULL"]);
        refused(fold(&settings, null(), &mut out), invalid, &["calibration", "NULL"]);
        refused(fold(&settings, history.0, null_mut()), invalid, &["out", "NULL"]);
    }
    let folded = fold(&model, &folding(), &history);
    refuses(&folded, folding(), &history, &["model to fold", "pruned"]);

    let create = |model: &Model, settings: probeprune_settings, history: *const probeprune_calibration| {
        let mut out = null_mut();
        // SAFETY: living handles.
        unsafe { probeprune_session_create(model.0, &settings, &limits(4, 16, 0), history, &mut out) }
    };
    let score = PROBEPRUNE_FOLD_SCORE as i32;
    let skipped = [4];
    for (settings, name) in [
        (probeprune_settings { prune_ratio: 0.5, ..folding() }, "prune_ratio"),
        (probeprune_settings { fold_choice: score, ..folding() }, "fold_choice"),
        (probeprune_settings { round_channels: 8, ..folding() }, "round_channels"),
        (
            probeprune_settings { skip_layers: skipped.as_ptr(), skip_layer_count: 1, ..folding() },
            "skip_layers",
        ),
    ] {
        refused(create(&folded, settings, null()), invalid, &[name, "as the model was folded with"]);
    }
    refused(create(&folded, adapting(), null()), invalid, &["adapt probe", "folded to be corrected"]);
    refused(create(&folded, pruning(0.4), null()), invalid, &["method pp", "pruned for good"]);
    let dense = probeprune_settings { prefill: PROBEPRUNE_PREFILL_DENSE as i32, ..folding() };
    refused(create(&folded, dense, null()), invalid, &["prefill dense", "folded for it"]);
    let corrected = fold(&model, &adapting(), &history);
    let full = PROBEPRUNE_ADAPT_METRIC_FULL as i32;
    let other = probeprune_settings { adapt_metric: full, ..adapting() };
    refused(create(&corrected, other, null()), invalid, &["adapt_metric", "diagonal", "full"]);

    // The original's calibration is allowed; a fold has none of its own.
    drop(Owned::new(probeprune_session_free, |out| {
        // SAFETY: living handles and structs.
        unsafe { probeprune_session_create(folded.0, &folding(), &limits(4, 16, 0), history.0, out) }
    }));
    let mut again = null_mut();
    // SAFETY: living handles and buffers.
    let status = unsafe { probeprune_calibrate(folded.0, text().as_ptr(), 2, 16, null(), &mut again) };
    refused(status, invalid, &["calibration", "pruned for good"]);

    let session = session(&folded, &folding(), limits(4, 16, 0));
    // SAFETY: a living handle, and NULL, which is refused.
    unsafe {
        let none = ["session", "corrects a fold"];
        refused(probeprune_session_set_adapting(session.0, 1), invalid, &none);
        refused(probeprune_session_reset_corrections(session.0), invalid, &none);
        refused(probeprune_session_corrections(session.0, null_mut()), invalid, &["corrections", "NULL"]);
    }
}

#[test]
fn programs_from_before_corrections_fold_without() {
    let model = tiny_llama();
    let history = calibrated(&model);
    let folded = fold(&model, &folding(), &history);
    // What comes after their struct is not read.
    let older = probeprune_settings { struct_size: 136, adapt_every: 0, adapt_tokens: 7, ..folding() };
    let same = fold(&model, &older, &history);
    let fingerprint = |model: &Model| {
        let mut out = null();
        // SAFETY: a living handle; the string lives as long.
        unsafe {
            ok(probeprune_model_fingerprint(model.0, &mut out));
            CStr::from_ptr(out).to_owned()
        }
    };
    assert_eq!(fingerprint(&same), fingerprint(&folded));
    assert_ne!(fingerprint(&folded), fingerprint(&model));
    let rust = in_rust();
    let fold = Fold::new(&rust, &folding_in_rust(), &calibrated_in_rust(&rust), |_| ()).unwrap();
    assert_eq!(fingerprint(&folded).to_str().unwrap(), fold.model.fingerprint);
    drop(session(&same, &older, limits(1, 8, 0)));
}

#[test]
fn prompts_of_a_fold_that_the_dense_model_runs() {
    let (model, rust) = (tiny_llama(), in_rust());
    let (history, calibration) = (calibrated(&model), calibrated_in_rust(&rust));
    let given = probeprune_settings { prefill: PROBEPRUNE_PREFILL_DENSE as i32, ..adapting() };
    let settings = Settings { prefill: Prefill::Dense, ..adapting_in_rust() };
    let limits = Limits { samples: 2, tokens: 16, capacity: 20 };
    let mut expected =
        library::Session::new(Arc::clone(&rust), settings, limits, Some(&calibration)).unwrap();
    let folded = fold(&model, &given, &history);
    let session = session(&folded, &given, crate::support::limits(2, 16, 20));
    let (prompts, next) = (tokens(2 * 16, 3), tokens(2, 4));
    expected.prefill(&prompts, 2, None, None).unwrap();
    expected.decode(&next, None).unwrap();
    let mut logits = vec![0.0; 2 * rust.config.vocab_size];
    let mut needed = 0;
    // SAFETY: living handles and buffers.
    unsafe {
        ok(probeprune_session_prefill(session.0, prompts.as_ptr(), null(), 2, 16, 0));
        ok(probeprune_session_decode(session.0, next.as_ptr(), null(), 2));
        ok(probeprune_session_next_logits(session.0, logits.as_mut_ptr(), logits.len(), &mut needed));
    }
    assert_eq!(logits, expected.next_logits().unwrap());
    assert_eq!(corrections(&session).probed_share, 1.0);
}
