//! Compensation of pruned channels, and channel groups: the same bits as the library's own types.

use std::{ptr::null, sync::Arc};

use probeprune::{
    cpu::Cpu,
    model::Model,
    prune::settings::{Compensation, Method, Settings},
    session::{self as library, Limits},
    source::ModelSource,
};

use crate::{
    bindings::*,
    models::{evaluate, in_rust, kept},
    support::*,
};

const RANK: u32 = 6;

#[test]
fn compensated_and_grouped_sessions_are_the_librarys() {
    let (model, rust) = (tiny_llama(), in_rust());
    let text = tokens(6 * 16, 1);
    let options = library::CalibrationOptions {
        seq_len: 16,
        batch_size: 8,
        flap: false,
        linear_rank: RANK as usize,
        ..Default::default()
    };
    let calibration = library::calibrate(&rust, &text, options, |_| ()).unwrap();
    let source = ModelSource::locate("bundled:tiny-llama").unwrap();
    let order = Some(calibration.channel_order.clone());
    let backend = Arc::new(Cpu::new(1).unwrap());
    let sorted_rust = Arc::new(Model::load_ordered(&source, true, backend, order, |_| ()).unwrap());
    let (name, folder) = (c("bundled:tiny-llama"), tempfile::tempdir().unwrap());
    let path = c(folder.path().join("history.safetensors").to_str().unwrap());
    let mut seen: Vec<(u64, u64)> = Vec::new();
    // SAFETY: living handles and buffers.
    let (history, sorted) = unsafe {
        let options = probeprune_calibrate_options {
            progress: Some(counting),
            user: (&raw mut seen).cast(),
            linear_rank: RANK,
            ..defaults(probeprune_calibrate_options_init)
        };
        let made = Owned::new(probeprune_calibration_free, |out| {
            probeprune_calibrate(model.0, text.as_ptr(), 6, 16, &options, out)
        });
        ok(probeprune_calibration_save(made.0, path.as_ptr()));
        let opened = Owned::new(probeprune_calibration_free, |out| {
            probeprune_calibration_open(name.as_ptr(), path.as_ptr(), out)
        });
        let options =
            probeprune_model_options { channel_order: opened.0, ..defaults(probeprune_model_options_init) };
        let sorted =
            Owned::new(probeprune_model_free, |out| probeprune_model_load(name.as_ptr(), &options, out));
        (opened, sorted)
    };
    assert_eq!(seen, [(6, 12), (12, 12)], "each sample twice");

    let base = Settings { method: Method::ProbePruning, prune_ratio: 0.4, ..Settings::default() };
    let probe_mean = Compensation::ProbeMean;
    let cases = [
        (Settings { compensate: probe_mean, prior_tokens: 3, ..base.clone() }, false),
        (Settings { compensate: Compensation::Linear { rank: RANK as usize }, ..base.clone() }, false),
        (Settings { compensate: probe_mean, channel_group: 8, ..base }, true),
    ];
    for (settings, in_groups) in cases {
        let given = probeprune_settings {
            compensate: match settings.compensate {
                Compensation::Linear { .. } => PROBEPRUNE_COMPENSATE_LINEAR,
                _ => PROBEPRUNE_COMPENSATE_PROBE_MEAN,
            } as i32,
            compensate_rank: settings.compensate.rank() as u32,
            prior_tokens: settings.prior_tokens as u64,
            channel_group: settings.channel_group as u32,
            ..pruning(0.4)
        };
        let (model, rust) = if in_groups { (&sorted, &sorted_rust) } else { (&model, &rust) };
        let bounds = Limits { samples: 4, tokens: 16, capacity: 0 };
        let mut expected =
            library::Session::new(Arc::clone(rust), settings, bounds, Some(&calibration)).unwrap();
        // SAFETY: living handles.
        let session = Owned::new(probeprune_session_free, |out| unsafe {
            probeprune_session_create(model.0, &given, &limits(4, 16, 0), history.0, out)
        });
        for seed in 0..2 {
            let batch = tokens(4 * 16, seed);
            let loss = expected.evaluate(&batch, 4, None, true).unwrap();
            assert_eq!(evaluate(&session, &batch, 4).to_bits(), loss.to_bits());
            let channels = expected.kept_channels(5).unwrap().expect("layer 5 is pruned");
            assert_eq!(kept(&session, 5, PROBEPRUNE_BLOCK_MLP), channels);
        }
        // What it compensates by is known from the prompt's probe alone.
        let batch = tokens(16, 3);
        // SAFETY: living handles and buffers.
        let status = unsafe { probeprune_session_prefill(session.0, batch.as_ptr(), null(), 1, 16, 2) };
        refused(status, PROBEPRUNE_INVALID_ARGUMENT, &["reprobe_every", "prompt's probe alone"]);
    }
    let all = kept(&session(&sorted, &pruning(0.0), limits(1, 4, 0)), 0, PROBEPRUNE_BLOCK_MLP);
    assert_eq!(all, (0..rust.config.intermediate_size as u32).collect::<Vec<_>>());
}

#[test]
fn what_compensation_and_groups_need_is_said() {
    let (model, text) = (tiny_llama(), tokens(2 * 8, 1));
    let opt = c("bundled:tiny-opt");
    let create = |settings: probeprune_settings, calibration: *const probeprune_calibration| {
        let mut out = std::ptr::null_mut();
        // SAFETY: living handles.
        unsafe { probeprune_session_create(model.0, &settings, &limits(2, 8, 0), calibration, &mut out) }
    };
    // SAFETY: living handles and buffers.
    let plain = Owned::new(probeprune_calibration_free, |out| unsafe {
        probeprune_calibrate(model.0, text.as_ptr(), 2, 8, null(), out)
    });
    let invalid = PROBEPRUNE_INVALID_ARGUMENT;
    let linear = probeprune_settings { compensate: PROBEPRUNE_COMPENSATE_LINEAR as i32, ..pruning(0.4) };
    refused(create(linear, plain.0), invalid, &["compensate linear:32", "calibration"]);
    refused(
        create(probeprune_settings { compensate: 3, ..pruning(0.4) }, null()),
        invalid,
        &["compensate", "3"],
    );
    let grouped = |channel_group| probeprune_settings { channel_group, ..pruning(0.4) };
    refused(create(grouped(8), plain.0), invalid, &["channel_group 8", "sorted when it was loaded"]);
    refused(create(grouped(5), plain.0), invalid, &["channel_group", "1, 8 or 16"]);
    // As programs from before there were groups have it.
    drop(session(&model, &grouped(0), limits(2, 8, 0)));

    // Another model's order; and a sorted model does not calibrate.
    let options =
        probeprune_model_options { channel_order: plain.0, ..defaults(probeprune_model_options_init) };
    let (mut other, mut again) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: living handles and buffers.
    unsafe {
        let status = probeprune_model_load(opt.as_ptr(), &options, &mut other);
        refused(status, invalid, &["calibration", "fingerprint"]);
        let sorted = Owned::new(probeprune_model_free, |out| {
            probeprune_model_load(c("bundled:tiny-llama").as_ptr(), &options, out)
        });
        let status = probeprune_calibrate(sorted.0, text.as_ptr(), 2, 8, null(), &mut again);
        refused(status, invalid, &["calibration", "the checkpoint's order"]);
        let steep = probeprune_calibrate_options {
            linear_rank: 1 << 20,
            ..defaults(probeprune_calibrate_options_init)
        };
        let status = probeprune_calibrate(model.0, text.as_ptr(), 2, 8, &steep, &mut again);
        refused(status, invalid, &["a rank of at most"]);
    }
    assert!(other.is_null() && again.is_null());

    // Compensation takes memory.
    let mut memory = [defaults(probeprune_memory_init); 2];
    for (settings, memory) in [pruning(0.4), linear].iter().zip(&mut memory) {
        // SAFETY: living structs.
        ok(unsafe { probeprune_memory_estimate(opt.as_ptr(), null(), settings, &limits(2, 8, 0), memory) });
    }
    assert!(memory[0].compensation == 0 && memory[1].compensation > 0);
    let [parts, total] = [
        memory[1].weights + memory[1].scratch + memory[1].history + memory[1].probed + memory[1].cache,
        memory[1].total,
    ];
    assert_eq!(parts + memory[1].compensation, total);
}
