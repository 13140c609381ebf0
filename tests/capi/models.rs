//! Whole models: the same bits as the library's own types, threads, callbacks, cancelling.

use std::{
    ffi::c_void,
    ptr::{null, null_mut},
    sync::Arc,
};

use probeprune::{
    cpu::Cpu,
    prune::{
        Block,
        settings::{Method, Settings},
    },
    session::{self as library, Limits},
    source::ModelSource,
};

use crate::{bindings::*, support::*};

pub(crate) fn in_rust() -> Arc<probeprune::model::Model<Cpu>> {
    let source = ModelSource::locate("bundled:tiny-llama").unwrap();
    Arc::new(probeprune::model::Model::load(&source, true, Arc::new(Cpu::new(1).unwrap()), |_| ()).unwrap())
}

pub(crate) fn evaluate(session: &Session, tokens: &[u32], samples: usize) -> f64 {
    let mut loss = 0.0;
    // SAFETY: living handles and buffers.
    ok(unsafe {
        let length = tokens.len() / samples;
        probeprune_session_evaluate(session.0, tokens.as_ptr(), null(), samples, length, 1, &mut loss)
    });
    loss
}

pub(crate) fn kept(session: &Session, layer: u64, block: u32) -> Vec<u32> {
    let (mut out, mut count) = (vec![0; 4096], 0);
    // SAFETY: living handles and buffers.
    ok(unsafe {
        let (out, capacity) = (out.as_mut_ptr(), out.len());
        probeprune_session_kept(session.0, layer, block as i32, out, capacity, &mut count)
    });
    out.truncate(count);
    out
}

fn scores(session: &Session, layer: u64, block: u32) -> Vec<f32> {
    let (mut out, mut count) = (vec![0.0; 4096], 0);
    // SAFETY: living handles and buffers.
    ok(unsafe {
        let (out, capacity) = (out.as_mut_ptr(), out.len());
        probeprune_session_scores(session.0, layer, block as i32, out, capacity, &mut count)
    });
    out.truncate(count);
    out
}

#[test]
fn batches_calibration_and_kept_sets_are_the_librarys() {
    let (model, rust) = (tiny_llama(), in_rust());
    let text = tokens(4 * 16, 1);
    let options = library::CalibrationOptions {
        seq_len: 16,
        batch_size: 8,
        flap: false,
        linear_rank: 0,
        ..Default::default()
    };
    let calibration = library::calibrate(&rust, &text, options, |_| ()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = c(folder.path().join("history.safetensors").to_str().unwrap());
    let settings = Settings { method: Method::ProbePruning, prune_ratio: 0.4, ..Settings::default() };
    let bounds = Limits { samples: 4, tokens: 16, capacity: 0 };
    let mut expected = library::Session::new(rust, settings, bounds, Some(&calibration)).unwrap();
    // SAFETY: living handles and buffers.
    let session = unsafe {
        let made = Owned::new(probeprune_calibration_free, |out| {
            probeprune_calibrate(model.0, text.as_ptr(), 4, 16, null(), out)
        });
        ok(probeprune_calibration_save(made.0, path.as_ptr()));
        let read = Owned::new(probeprune_calibration_free, |out| {
            probeprune_calibration_load(model.0, path.as_ptr(), out)
        });
        Owned::new(probeprune_session_free, |out| {
            probeprune_session_create(model.0, &pruning(0.4), &limits(4, 16, 0), read.0, out)
        })
    };
    for seed in 0..3 {
        let batch = tokens(4 * 16, seed);
        let loss = expected.evaluate(&batch, 4, None, true).unwrap();
        assert_eq!(evaluate(&session, &batch, 4).to_bits(), loss.to_bits());
        for layer in 0..10 {
            let heads = expected.kept_heads(layer).unwrap();
            let channels = expected.kept_channels(layer).unwrap();
            if let (Some(heads), Some(channels)) = (heads, channels) {
                assert_eq!(kept(&session, layer as u64, PROBEPRUNE_BLOCK_ATTENTION), heads);
                assert_eq!(kept(&session, layer as u64, PROBEPRUNE_BLOCK_MLP), channels);
                let of_channels = scores(&session, layer as u64, PROBEPRUNE_BLOCK_MLP);
                assert_eq!(of_channels, expected.scores(layer, Block::Mlp).unwrap().unwrap());
            } else {
                assert!(scores(&session, layer as u64, PROBEPRUNE_BLOCK_MLP).is_empty());
                let all = kept(&session, layer as u64, PROBEPRUNE_BLOCK_ATTENTION);
                assert_eq!(all, (0..all.len() as u32).collect::<Vec<_>>(), "a dense block keeps everything");
            }
        }
    }
    // Losses per token sum up to the mean, and counts are those of the settings.
    let batch = tokens(4 * 16, 9);
    let expected_losses = expected.losses(&batch, 4, None, false).unwrap();
    let (mut losses, mut count) = (vec![0.0f32; 64], 0);
    let mut counts = defaults(probeprune_layer_counts_init);
    let mut work = defaults(probeprune_work_init);
    // SAFETY: as above.
    unsafe {
        let out = losses.as_mut_ptr();
        ok(probeprune_session_losses(session.0, batch.as_ptr(), null(), 4, 16, 0, out, 64, &mut count));
        ok(probeprune_session_layer_counts(session.0, 5, &mut counts));
        ok(probeprune_session_work(session.0, 4, 16, &mut work));
    }
    assert_eq!((losses, count), (expected_losses, 64));
    let of_layer = expected.layer_counts()[5];
    assert_eq!((counts.heads, counts.channels), (of_layer.heads as u64, of_layer.channels as u64));
    assert!(counts.probes_mlp == 1 && counts.channel_ratio > 0.3 && counts.channel_ratio < 0.6);
    assert_eq!((work.probe_samples, work.probe_tokens), (1, 8));
    assert!(work.flops_share < 1.0 && work.probe_flops_share > 0.0);
}

#[test]
fn small_batches_run_densely_where_that_is_asked_for() {
    let model = tiny_llama();
    let mut settings = pruning(0.4);
    settings.dense_below = 33;
    let [dense, pruned, either] =
        [&pruning(0.0), &pruning(0.4), &settings].map(|settings| session(&model, settings, limits(4, 16, 0)));
    for (samples, same_as) in [(2, &dense), (3, &pruned)] {
        let batch = tokens(samples * 16, 3);
        let (loss, expected) = (evaluate(&either, &batch, samples), evaluate(same_as, &batch, samples));
        assert_eq!(loss.to_bits(), expected.to_bits(), "{samples} samples");
    }
}

#[test]
fn batches_that_pruning_makes_no_faster_run_densely_under_auto() {
    let model = tiny_llama();
    let settings = probeprune_settings { dense_below: PROBEPRUNE_DENSE_BELOW_AUTO, ..pruning(0.4) };
    let [dense, auto] =
        [&pruning(0.0), &settings].map(|settings| session(&model, settings, limits(2, 16, 0)));
    let batch = tokens(2 * 16, 3);
    assert_eq!(evaluate(&auto, &batch, 2).to_bits(), evaluate(&dense, &batch, 2).to_bits());
    // With a cache no batch can.
    let (limits, mut made) = (limits(2, 16, 20), null_mut());
    // SAFETY: living handles and structs.
    let status = unsafe { probeprune_session_create(model.0, &settings, &limits, null(), &mut made) };
    refused(status, PROBEPRUNE_INVALID_ARGUMENT, &["dense_below", "key/value cache", "auto"]);
}

/// Tokens that follow two prompts of different lengths.
fn continued(session: &Session, on_token: probeprune_token, user: *mut c_void) -> (i32, Vec<u32>) {
    let (long, short) = (tokens(9, 4), tokens(5, 5));
    let options = probeprune_generate_options {
        max_new_tokens: 6,
        reprobe_every: 2,
        on_token,
        user,
        ..defaults(probeprune_generate_options_init)
    };
    let (mut out, mut counts) = (vec![0u32; 12], [0usize; 2]);
    // SAFETY: living handles and buffers.
    let status = unsafe {
        let (prompts, lengths) = ([long.as_ptr(), short.as_ptr()], [9, 5]);
        let (out, counts) = (out.as_mut_ptr(), counts.as_mut_ptr());
        probeprune_session_generate(session.0, prompts.as_ptr(), lengths.as_ptr(), 2, &options, out, counts)
    };
    (status, out)
}

#[test]
fn step_by_step_is_all_at_once() {
    let model = tiny_llama();
    let new = || session(&model, &pruning(0.4), limits(2, 9, 15));
    let (status, all) = continued(&new(), None, null_mut());
    ok(status);
    let session = new();
    let mut padded = tokens(9, 4);
    padded.extend([0; 4].into_iter().chain(tokens(5, 5)));
    let mask: Vec<u32> = [[1; 9], [0, 0, 0, 0, 1, 1, 1, 1, 1]].concat();
    let (mut next, mut count) = ([0u32; 2], 0);
    // SAFETY: living handles and buffers.
    unsafe {
        let early = probeprune_session_next_tokens(session.0, next.as_mut_ptr(), 2, &mut count);
        refused(early, PROBEPRUNE_INVALID_ARGUMENT, &["a generation that has begun"]);
        refused(
            probeprune_session_decode(session.0, next.as_ptr(), null(), 2),
            PROBEPRUNE_INVALID_ARGUMENT,
            &["decode"],
        );
        ok(probeprune_session_prefill(session.0, padded.as_ptr(), mask.as_ptr(), 2, 9, 2));
        for step in 0..6 {
            ok(probeprune_session_next_tokens(session.0, next.as_mut_ptr(), 2, &mut count));
            assert_eq!(next, [all[step], all[6 + step]], "step {step}");
            let (mut logits, mut length) = (vec![0.0f32; 1 << 20], 0);
            let (out, capacity) = (logits.as_mut_ptr(), logits.len());
            ok(probeprune_session_next_logits(session.0, out, capacity, &mut length));
            let row = &logits[..length / 2];
            assert!(row.iter().all(|&logit| logit <= row[next[0] as usize]), "the most likely token");
            ok(probeprune_session_decode(session.0, next.as_ptr(), null(), 2));
        }
        refused(
            probeprune_session_decode(session.0, next.as_ptr(), null(), 2),
            PROBEPRUNE_INVALID_ARGUMENT,
            &["at most 15 tokens in all", "larger capacity"],
        );
        refused(
            probeprune_session_decode(session.0, next.as_ptr(), null(), 1),
            PROBEPRUNE_INVALID_ARGUMENT,
            &["2 tokens, one per sample"],
        );
        // Another batch ends the generation.
        ok(probeprune_session_forward(session.0, padded.as_ptr(), mask.as_ptr(), 2, 9, 0));
        let after = probeprune_session_next_tokens(session.0, next.as_mut_ptr(), 2, &mut count);
        refused(after, PROBEPRUNE_INVALID_ARGUMENT, &["other batches in between"]);
    }
}

#[test]
fn two_threads_with_two_sessions_give_the_bits_of_one_after_the_other() {
    let model = tiny_llama();
    let run = |seed: u32| {
        let session = session(&model, &pruning(0.4), limits(3, 32, 40));
        let losses: Vec<u64> =
            (0..4).map(|i| evaluate(&session, &tokens(96, seed + i), 3).to_bits()).collect();
        let (status, generated) = continued(&session, None, null_mut());
        ok(status);
        (losses, generated)
    };
    let one_after_the_other = [run(1), run(20)];
    for _ in 0..3 {
        let run = &run;
        let at_once = std::thread::scope(|scope| {
            let threads = [1, 20].map(|seed| scope.spawn(move || run(seed)));
            threads.map(|thread| thread.join().unwrap())
        });
        assert_eq!(at_once, one_after_the_other);
    }
}

unsafe extern "C-unwind" fn panicking(_user: *mut c_void, _sample: u64, _token: u32) -> i32 {
    panic!("injected")
}

unsafe extern "C-unwind" fn stopping(_user: *mut c_void, _sample: u64, _token: u32) -> i32 {
    1
}

unsafe extern "C-unwind" fn re_entering(user: *mut c_void, _sample: u64, _token: u32) -> i32 {
    // SAFETY: the session that is being used.
    let status = unsafe { probeprune_session_synchronize(user.cast()) };
    refused(status, PROBEPRUNE_BUSY, &["session", "callbacks"]);
    0
}

unsafe extern "C-unwind" fn cancelling(user: *mut c_void, _sample: u64, _token: u32) -> i32 {
    // SAFETY: the session that is being used; this call is the one that may be made.
    ok(unsafe { probeprune_session_cancel(user.cast()) });
    0
}

unsafe extern "C-unwind" fn no_more(_user: *mut c_void, _done: u64, _of: u64) -> i32 {
    1
}

#[test]
fn a_panic_in_a_callback_stays_inside() {
    let model = tiny_llama();
    let session = session(&model, &pruning(0.4), limits(2, 9, 15));
    refused(
        continued(&session, Some(panicking), null_mut()).0,
        PROBEPRUNE_PANIC,
        &["injected", "Free the handle"],
    );
    let mut loss = 0.0;
    // SAFETY: living handles and buffers.
    let again = unsafe {
        let batch = tokens(4, 0);
        probeprune_session_evaluate(session.0, batch.as_ptr(), null(), 1, 4, 0, &mut loss)
    };
    refused(again, PROBEPRUNE_PANIC, &["session", "an earlier call panicked", "only be freed"]);
    drop(session);
    // The model and its other sessions go on.
    let (status, _) = continued(&self::session(&model, &pruning(0.4), limits(2, 9, 15)), None, null_mut());
    ok(status);
}

#[test]
fn callbacks_cancel_and_may_not_enter() {
    let model = tiny_llama();
    let session = session(&model, &pruning(0.4), limits(2, 9, 15));
    let (status, undisturbed) = continued(&session, None, null_mut());
    ok(status);
    let fresh = || self::session(&model, &pruning(0.4), limits(2, 9, 15));
    refused(continued(&session, Some(stopping), null_mut()).0, PROBEPRUNE_CANCELLED, &["cancelled"]);
    refused(continued(&session, Some(cancelling), session.0.cast()).0, PROBEPRUNE_CANCELLED, &["cancelled"]);
    let other = fresh();
    let (status, tokens_out) = continued(&other, Some(re_entering), other.0.cast());
    ok(status);
    assert_eq!(tokens_out, undisturbed);
    // Cancelled from elsewhere, before it ran: once.
    let batch = tokens(8, 0);
    let mut loss = 0.0;
    // SAFETY: living handles and buffers.
    unsafe {
        ok(probeprune_session_cancel(session.0));
        let status = probeprune_session_evaluate(session.0, batch.as_ptr(), null(), 1, 8, 0, &mut loss);
        refused(status, PROBEPRUNE_CANCELLED, &["cancelled"]);
        assert_eq!(loss, 0.0);
        ok(probeprune_session_evaluate(session.0, batch.as_ptr(), null(), 1, 8, 0, &mut loss));
        // A step that was cancelled ends its generation.
        ok(probeprune_session_prefill(session.0, batch.as_ptr(), null(), 1, 8, 0));
        ok(probeprune_session_cancel(session.0));
        let step = || probeprune_session_decode(session.0, batch.as_ptr(), null(), 1);
        refused(step(), PROBEPRUNE_CANCELLED, &["cancelled"]);
        refused(step(), PROBEPRUNE_INVALID_ARGUMENT, &["decode", "a generation that has begun"]);
    }
    // Loading and calibrating report, and stop.
    let mut seen: Vec<(u64, u64)> = Vec::new();
    let mut made = null_mut();
    // SAFETY: as above; the callbacks take what they are passed.
    unsafe {
        let options = probeprune_model_options {
            progress: Some(counting),
            user: (&raw mut seen).cast(),
            ..defaults(probeprune_model_options_init)
        };
        let _model = Owned::new(probeprune_model_free, |out| {
            probeprune_model_load(c("bundled:tiny-llama").as_ptr(), &options, out)
        });
        assert_eq!(seen, (1..=10).map(|layer| (layer, 10)).collect::<Vec<_>>());
        let options = probeprune_model_options { progress: Some(no_more), ..options };
        let status = probeprune_model_load(c("bundled:tiny-llama").as_ptr(), &options, &mut made);
        refused(status, PROBEPRUNE_CANCELLED, &["cancelled"]);
        let options = probeprune_calibrate_options {
            batch_size: 1,
            progress: Some(no_more),
            ..defaults(probeprune_calibrate_options_init)
        };
        let mut history = null_mut();
        let status = probeprune_calibrate(model.0, batch.as_ptr(), 2, 4, &options, &mut history);
        refused(status, PROBEPRUNE_CANCELLED, &["cancelled"]);
        assert!(history.is_null() && made.is_null());
    }
}

#[test]
fn a_model_is_known_before_it_is_loaded() {
    let (name, model) = (c("bundled:tiny-opt"), tiny_llama());
    let mut info = defaults(probeprune_model_info_init);
    let mut memory = defaults(probeprune_memory_init);
    let mut fingerprint = null();
    let (mut eos, mut count) = ([0u32; 8], 0);
    // SAFETY: living handles and buffers.
    unsafe {
        ok(probeprune_model_inspect(name.as_ptr(), &mut info));
        assert_eq!(info.family, PROBEPRUNE_FAMILY_OPT as i32);
        let estimate = |limits, memory: &mut _| {
            ok(probeprune_memory_estimate(name.as_ptr(), null(), &pruning(0.4), &limits, memory));
            memory.total
        };
        let small = estimate(limits(1, 16, 0), &mut memory);
        let large = estimate(limits(8, 16, 32), &mut memory);
        assert!(memory.weights == info.file_bytes && memory.cache > 0 && large > small);
        ok(probeprune_model_get_info(model.0, &mut info));
        assert_eq!((info.family, info.num_hidden_layers), (PROBEPRUNE_FAMILY_LLAMA as i32, 10));
        ok(probeprune_model_fingerprint(model.0, &mut fingerprint));
        assert!(!std::ffi::CStr::from_ptr(fingerprint).is_empty());
        ok(probeprune_model_eos_tokens(model.0, eos.as_mut_ptr(), 8, &mut count));
    }
}

#[test]
fn text_becomes_tokens_and_text_again() {
    // SAFETY: living handles and buffers.
    unsafe {
        let name = c("bundled:tiny-llama");
        let tokenizer =
            Owned::new(probeprune_tokenizer_free, |out| probeprune_tokenizer_load(name.as_ptr(), out));
        let text = "The river runs past the old mill.";
        let (mut ids, mut count) = ([0u32; 64], 0);
        let encode = |bytes: &[u8], out: *mut u32, capacity, count: &mut usize| {
            probeprune_tokenizer_encode(
                tokenizer.0,
                bytes.as_ptr().cast(),
                bytes.len(),
                0,
                out,
                capacity,
                count,
            )
        };
        ok(encode(text.as_bytes(), null_mut(), 0, &mut count));
        let needed = count;
        let short = encode(text.as_bytes(), ids.as_mut_ptr(), needed - 1, &mut count);
        refused(short, PROBEPRUNE_TOO_SMALL, &["out"]);
        ok(encode(text.as_bytes(), ids.as_mut_ptr(), 64, &mut count));
        refused(encode(b"\xff", null_mut(), 0, &mut count), PROBEPRUNE_INVALID_ARGUMENT, &["UTF-8"]);
        let mut out = [0u8; 256];
        ok(probeprune_tokenizer_decode(
            tokenizer.0,
            ids.as_ptr(),
            needed,
            1,
            out.as_mut_ptr().cast(),
            out.len(),
            &mut count,
        ));
        assert_eq!(std::str::from_utf8(&out[..count]).unwrap(), text);
    }
}

#[test]
fn pinned_sessions_keep_what_they_are_told() {
    let model = tiny_llama();
    let (first, second) =
        (session(&model, &pruning(0.4), limits(2, 16, 0)), session(&model, &pruning(0.4), limits(2, 16, 0)));
    let batch = tokens(32, 8);
    let loss = evaluate(&first, &batch, 2);
    let sets: Vec<_> = (0..20)
        .map(|i| {
            let kept: Vec<i32> =
                kept(&first, i / 2, i as u32 % 2).iter().map(|&index| index as i32).collect();
            let len = kept.len();
            ints(kept, &[len])
        })
        .collect();
    // Layers 0 to 2 are dense.
    let pointers: Vec<_> =
        sets.iter().enumerate().map(|(i, set)| if i < 6 { null() } else { &raw const set.tensor }).collect();
    // SAFETY: living handles and tensors.
    unsafe {
        let few = probeprune_session_pin(second.0, pointers.as_ptr(), 19);
        refused(few, PROBEPRUNE_INVALID_ARGUMENT, &["20 tensors", "19"]);
        ok(probeprune_session_pin(second.0, pointers.as_ptr(), 20));
    }
    assert_eq!(evaluate(&second, &batch, 2).to_bits(), loss.to_bits());
}
