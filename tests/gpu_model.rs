//! Whole models on the GPU backend, which runs on the emulator or, in GPU-only mode, on a GPU; the CPU backend is the judge.

mod common;
#[path = "common/device.rs"]
mod device;
#[path = "common/emulator.rs"]
mod emulator;
#[path = "common/sessions.rs"]
mod sessions;

use std::sync::Arc;

use common::models::{Folder, VOCAB_SIZE};
use device::{TestDevice, assert_fails_without_a_gpu, backend, reduced_shapes};
use probeprune::{
    backend::Backend,
    corpus,
    cpu::Cpu,
    gpu::{Gpu, GpuDtype},
    model::Model,
    prune::{
        history::HistoryLayout,
        settings::{
            Adapt, AdaptMetric, AdaptSettings, Compensation, HistoryDtype, Method, Prefill, ProbeOrder,
            ProbeTokens, Settings,
        },
    },
    session::{CalibrationOptions, GenerateOptions, Limits, Session, calibrate, measure_losses},
    source::ModelSource,
    tokenizer::Tokenizer,
};
use serde_json::json;
use sessions::{Kept, kept, nmse, random_tokens};

fn load<B: Backend>(source: &ModelSource, backend: B) -> Arc<Model<B>> {
    Arc::new(Model::load(source, true, Arc::new(backend), |_| ()).unwrap())
}

fn cpu(source: &ModelSource) -> Arc<Model<Cpu>> {
    load(source, Cpu::new(2).unwrap())
}

/// Races are looked for operation by operation in tests/gpu_ops; whole models run without the checker.
fn gpu(source: &ModelSource, dtype: GpuDtype) -> Arc<Model<Gpu<TestDevice>>> {
    load(source, backend(dtype))
}

/// Indices that both keep, of those that `want` keeps.
fn agreement(got: &Kept, want: &Kept) -> (usize, usize) {
    let (mut both, mut all) = (0, 0);
    for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
        assert_eq!(got.is_some(), want.is_some());
        if let (Some(got), Some(want)) = (got, want) {
            assert_eq!(got.len(), want.len());
            both += want.iter().filter(|index| got.binary_search(index).is_ok()).count();
            all += want.len();
        }
    }
    (both, all)
}

/// Text in the language that the bundled models were trained on.
fn prose(source: &ModelSource, vocab_size: usize, tokens: usize) -> Vec<u32> {
    let text = corpus::text(&[corpus::Topic::Stories], 5, 12 * tokens);
    let ids = Tokenizer::load(source, vocab_size).unwrap().encode(&text, false).unwrap();
    ids[..tokens].to_vec()
}

const BUNDLED: [&str; 2] = ["bundled:tiny-llama", "bundled:tiny-opt"];
const BATCH: Limits = Limits { samples: 2, tokens: 40, capacity: 0 };

/// The bundled models with `pp`: with the CPU's kept sets the logits must be the CPU's but for the dtype's rounding,
/// and left to itself the GPU has to choose as the CPU does.
fn bundled(dtype: GpuDtype, nmse_limit: f64) {
    let (mut both, mut all) = (0, 0);
    for name in BUNDLED {
        let source = ModelSource::locate(name).unwrap();
        let (cpu, gpu) = (cpu(&source), gpu(&source, dtype));
        let n = BATCH.samples * BATCH.tokens;
        let tokens = prose(&source, cpu.config.vocab_size, 2 * n);
        let options = CalibrationOptions {
            seq_len: BATCH.tokens,
            batch_size: 2,
            flap: false,
            linear_rank: 0,
            ..Default::default()
        };
        let calibration = calibrate(&cpu, &tokens[n..], options, |_| ()).unwrap();
        for prune_ratio in [0.2, 0.4, 0.6] {
            let settings = Settings {
                method: Method::ProbePruning,
                prune_ratio,
                round_channels: 8,
                skip_layers: vec![0],
                ..Settings::default()
            };
            let run = |kept: Option<&Kept>| {
                let mut session =
                    Session::new(Arc::clone(&gpu), settings.clone(), BATCH, Some(&calibration)).unwrap();
                if let Some(kept) = kept {
                    session.pin(kept).unwrap();
                }
                session.forward(&tokens[..n], BATCH.samples, None, true).unwrap();
                session
            };
            let mut reference =
                Session::new(Arc::clone(&cpu), settings.clone(), BATCH, Some(&calibration)).unwrap();
            reference.forward(&tokens[..n], BATCH.samples, None, true).unwrap();
            let want = kept(&reference);
            let error = nmse(&run(Some(&want)).logits(2).unwrap(), &reference.logits(2).unwrap());
            println!("{name}, {}, {prune_ratio}: logits NMSE {error:.1e}", dtype.name());
            assert!(error <= nmse_limit, "{name} at {prune_ratio}: NMSE {error:e}");
            let (same, of) = agreement(&kept(&run(None)), &want);
            println!("{name}, {}, {prune_ratio}: {same} of {of} kept indices", dtype.name());
            (both, all) = (both + same, all + of);
        }
    }
    assert!(both * 100 >= all * 99, "{both} of {all} kept indices");
}

#[test]
fn bundled_models_in_bf16() {
    bundled(GpuDtype::Bf16, 1e-4);
}

#[test]
fn bundled_models_in_f16() {
    bundled(GpuDtype::F16, 1e-5);
}

/// Compensation, and groups of channels: as [`bundled`], at 40 %.
#[test]
fn compensation_and_groups_agree_with_the_cpu() {
    let (mut both, mut all) = (0, 0);
    for name in BUNDLED {
        let source = ModelSource::locate(name).unwrap();
        let plain = cpu(&source);
        let n = BATCH.samples * BATCH.tokens;
        let tokens = prose(&source, plain.config.vocab_size, 3 * n);
        let options = CalibrationOptions {
            seq_len: BATCH.tokens,
            batch_size: 2,
            flap: false,
            linear_rank: 8,
            ..Default::default()
        };
        let calibration = calibrate(&plain, &tokens[n..], options, |_| ()).unwrap();
        let order = || Some(calibration.channel_order.clone());
        let cpu = Model::load_ordered(&source, true, Arc::clone(&plain.backend), order(), |_| ()).unwrap();
        let gpu = Arc::new(backend(GpuDtype::Bf16));
        let gpu = Model::load_ordered(&source, true, gpu, order(), |_| ()).unwrap();
        let (cpu, gpu) = (Arc::new(cpu), Arc::new(gpu));
        for (compensate, channel_group) in [
            (Compensation::ProbeMean, 1),
            (Compensation::Linear { rank: 8 }, 1),
            (Compensation::None, 8),
            (Compensation::Linear { rank: 5 }, 16),
        ] {
            let settings = Settings {
                method: Method::ProbePruning,
                prune_ratio: 0.4,
                round_channels: 16,
                skip_layers: vec![0],
                compensate,
                channel_group,
                ..Settings::default()
            };
            let mut want =
                Session::new(Arc::clone(&cpu), settings.clone(), BATCH, Some(&calibration)).unwrap();
            want.forward(&tokens[..n], BATCH.samples, None, true).unwrap();
            let chosen = kept(&want);
            let mut got =
                Session::new(Arc::clone(&gpu), settings.clone(), BATCH, Some(&calibration)).unwrap();
            got.forward(&tokens[..n], BATCH.samples, None, true).unwrap();
            let (same, of) = agreement(&kept(&got), &chosen);
            (both, all) = (both + same, all + of);
            got.pin(&chosen).unwrap();
            got.forward(&tokens[..n], BATCH.samples, None, true).unwrap();
            assert_eq!(kept(&got), chosen);
            let error = nmse(&got.logits(2).unwrap(), &want.logits(2).unwrap());
            println!(
                "{name}, {compensate}, groups of {channel_group}: NMSE {error:.1e}, {same} of {of} kept"
            );
            assert!(error <= 1e-4, "{name}, {compensate}, groups of {channel_group}: NMSE {error:e}");
        }
    }
    assert!(both * 100 >= all * 99, "{both} of {all} kept indices");
}

/// Folds that a probe corrects, batch after batch: losses, logits, and the errors that corrections are decided by.
#[test]
fn corrected_folds_agree_with_the_cpu() {
    let limits = Limits { samples: 3, tokens: 24, capacity: 0 };
    let n = limits.samples * limits.tokens;
    // The third batch of a shape replays a graph.
    let batches = 3;
    for name in BUNDLED {
        let source = ModelSource::locate(name).unwrap();
        let (cpu, gpu) = (cpu(&source), gpu(&source, GpuDtype::F16));
        let tokens = prose(&source, cpu.config.vocab_size, (4 + batches) * n);
        let (calibration_text, tokens) = tokens.split_at(4 * n);
        let options =
            CalibrationOptions { seq_len: limits.tokens, batch_size: 3, fold: true, ..Default::default() };
        let calibration = calibrate(&cpu, calibration_text, options, |_| ()).unwrap();
        let mask = left_mask(&[0, 4, 9], limits.tokens);
        // The last are shares of samples and of tokens. Of rows with nearly equal norms each backend may probe another one, and
        // then the corrections differ; where all are probed there is no choice.
        for (metric, forgetting, parallel_probe, mask, probed) in [
            (AdaptMetric::Full, 1.0, false, None, [1.0, 1.0]),
            (AdaptMetric::Full, 0.9, true, Some(&mask), [0.7, 0.6]),
            (AdaptMetric::Diagonal, 1.0, false, Some(&mask), [0.7, 0.6]),
        ] {
            let adapt = AdaptSettings {
                mode: Adapt::Probe { tokens: None },
                metric,
                forgetting,
                prior_tokens: 50,
                every: 1,
                ..Default::default()
            };
            let settings = Settings {
                method: Method::Fold,
                prune_ratio: 0.4,
                skip_layers: vec![0],
                round_channels: 8,
                probe_samples: probed[0],
                probe_tokens: ProbeTokens::Share(probed[1]),
                parallel_probe,
                adapt,
                ..Settings::default()
            };
            let what = format!("{name}, {metric:?}, parallel {parallel_probe}");
            let mut want =
                Session::new(Arc::clone(&cpu), settings.clone(), limits, Some(&calibration)).unwrap();
            let mut got =
                Session::new(Arc::clone(&gpu), settings.clone(), limits, Some(&calibration)).unwrap();
            for (batch, tokens) in tokens.chunks(n).enumerate() {
                let mask = mask.map(Vec::as_slice);
                let losses = [
                    want.evaluate(tokens, 3, mask, true).unwrap(),
                    got.evaluate(tokens, 3, mask, true).unwrap(),
                ];
                let [before, after] = [want.excess_error(), got.excess_error()].map(Option::unwrap);
                println!("{what}, batch {batch}: losses {losses:?}, errors {before} {after}");
                assert!((losses[0] - losses[1]).abs() <= 2e-3, "{losses:?}: {what}, batch {batch}");
                assert!((after - before).abs() <= 5e-3, "{before}, {after}: {what}, batch {batch}");
            }
            let real = |mut logits: Vec<f32>| {
                for (row, logits) in logits.chunks_exact_mut(cpu.config.vocab_size).enumerate() {
                    if mask.is_some_and(|mask| mask[row] == 0) {
                        logits.fill(0.0);
                    }
                }
                logits
            };
            let error = nmse(&real(got.logits(3).unwrap()), &real(want.logits(3).unwrap()));
            println!("{what}: NMSE {error:.1e}");
            assert!(error <= 1e-5, "NMSE {error:e}: {what}");
        }
    }
}

/// Prompts that the dense model runs: its bits on the device, and then a fold that they corrected.
#[test]
fn dense_prompts_agree_with_the_cpu() {
    let limits = Limits { samples: 2, tokens: 12, capacity: 14 };
    for name in BUNDLED {
        let source = ModelSource::locate(name).unwrap();
        let (cpu, gpu) = (cpu(&source), gpu(&source, GpuDtype::F16));
        let text = prose(&source, cpu.config.vocab_size, 12 * limits.tokens);
        let options =
            CalibrationOptions { seq_len: limits.tokens, batch_size: 3, fold: true, ..Default::default() };
        let calibration = calibrate(&cpu, &text[..10 * limits.tokens], options, |_| ()).unwrap();
        let (prompts, mask) = (&text[10 * limits.tokens..], left_mask(&[0, 3], limits.tokens));
        let settings = Settings {
            method: Method::Fold,
            prune_ratio: 0.4,
            skip_layers: vec![0],
            round_channels: 8,
            probe_samples: 1.0,
            adapt: AdaptSettings { mode: Adapt::Probe { tokens: Some(16) }, ..Default::default() },
            prefill: Prefill::Dense,
            ..Settings::default()
        };
        fn logits<B: Backend>(mut session: Session<B>, prompts: &[u32], mask: &[u32]) -> [Vec<f32>; 2] {
            session.prefill(prompts, 2, Some(mask), None).unwrap();
            let of_prompt = session.next_logits().unwrap();
            for token in 5..7 {
                session.decode(&[token, token + 1], None).unwrap();
            }
            [of_prompt, session.next_logits().unwrap()]
        }
        let fold = |settings: &Settings| {
            Session::new(Arc::clone(&gpu), settings.clone(), limits, Some(&calibration)).unwrap()
        };
        let got = logits(fold(&settings), prompts, &mask);
        let plain = logits(fold(&Settings::default()), prompts, &mask);
        assert_eq!(got[0], plain[0], "{name}");
        assert_ne!(got[1], plain[1], "{name}");
        let of_cpu = Session::new(Arc::clone(&cpu), settings, limits, Some(&calibration)).unwrap();
        let error = nmse(&got[1], &logits(of_cpu, prompts, &mask)[1]);
        println!("{name}: NMSE {error:.1e}");
        assert!(error <= 1e-5, "{name}: NMSE {error:e}");
    }
}

#[test]
fn gpu_only_mode_fails_without_a_gpu() {
    assert_fails_without_a_gpu("heads_without_a_kernel_are_refused");
}

/// Small random models with every feature that changes a launch: GQA, biases, head_dim that is not a multiple of 8,
/// a sliding window in one of the layers, OPT with and without affine norms, post-norm with projections (350m).
fn folders() -> Vec<Folder> {
    vec![
        Folder::llama(),
        Folder::llama_with(json!({ "num_key_value_heads": 1, "attention_bias": true, "mlp_bias": true })),
        Folder::llama_with(json!({
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "head_dim": 6,
            "use_sliding_window": true, "sliding_window": 5, "layer_types": ["full_attention", "sliding_attention"],
        })),
        Folder::opt(),
        Folder::opt_with(json!({ "do_layer_norm_before": false, "word_embed_proj_dim": 20 })),
    ]
}

/// Left pads before the first `pads[b]` tokens.
fn left_mask(pads: &[usize], length: usize) -> Vec<u32> {
    pads.iter().flat_map(|&pads| (0..length).map(move |s| u32::from(s >= pads))).collect()
}

/// Settings that reach every operation, and the mask to run them with.
fn variants() -> Vec<(Settings, Option<Vec<u32>>)> {
    let mask = Some(left_mask(&[0, 5, 10], 11));
    let base = Settings { prune_ratio: 0.4, skip_layers: vec![0], round_channels: 1, ..Settings::default() };
    let pp = Settings { method: Method::ProbePruning, ..base.clone() };
    let half = HistoryLayout { dtype: HistoryDtype::F16, bucket: 4 };
    let of = |method| Settings { method, ..base.clone() };
    vec![
        (of(Method::None), None),
        (pp.clone(), None),
        (pp.clone(), mask.clone()),
        (Settings { parallel_probe: true, probe_samples: 0.7, ..pp.clone() }, mask.clone()),
        (Settings { probe_from: Some(2), ..pp.clone() }, mask.clone()),
        (Settings { probe_order: ProbeOrder::SamplesTokens, history_layout: half, ..pp.clone() }, None),
        (Settings { fixed_probe_weight: Some(0.5), probe_order: ProbeOrder::Tokens, ..pp }, None),
        (of(Method::FullBatch), mask),
        (of(Method::WandaSp), None),
        (of(Method::Flap), None),
        (of(Method::Magnitude), None),
    ]
}

/// Every setting on the GPU and on the CPU, `batches` times with other tokens; `text` gives as many tokens as are asked for.
/// Returns how many kept indices are the same, and of how many.
fn every_setting_agrees(
    name: &str,
    source: &ModelSource,
    batches: usize,
    text: impl Fn(usize) -> Vec<u32>,
) -> (usize, usize) {
    let (mut both, mut all) = (0, 0);
    let (cpu, gpu) = (cpu(source), gpu(source, GpuDtype::F16));
    let vocab_size = cpu.config.vocab_size;
    let limits = Limits { samples: 3, tokens: 11, capacity: 0 };
    let options =
        CalibrationOptions { seq_len: 11, batch_size: 2, flap: true, linear_rank: 0, ..Default::default() };
    let tokens = text(55 + 33 * batches);
    let (calibration_text, batches) = tokens.split_at(55);
    let calibration = calibrate(&cpu, calibration_text, options, |_| ()).unwrap();
    for (settings, mask) in variants() {
        let mut want = Session::new(Arc::clone(&cpu), settings.clone(), limits, Some(&calibration)).unwrap();
        let mut got = Session::new(Arc::clone(&gpu), settings.clone(), limits, Some(&calibration)).unwrap();
        for (batch, tokens) in batches.chunks(33).enumerate() {
            let losses = [
                want.evaluate(tokens, 3, mask.as_deref(), true).unwrap(),
                got.evaluate(tokens, 3, mask.as_deref(), true).unwrap(),
            ];
            let what = format!("{name} {settings:?} batch {batch}");
            let (same, of) = agreement(&kept(&got), &kept(&want));
            (both, all) = (both + same, all + of);
            if same == of {
                // Pads' logits are meaningless.
                let real = |mut session: Vec<f32>| {
                    for (row, logits) in session.chunks_exact_mut(vocab_size).enumerate() {
                        if mask.as_ref().is_some_and(|mask| mask[row] == 0) {
                            logits.fill(0.0);
                        }
                    }
                    session
                };
                let error = nmse(&real(got.logits(3).unwrap()), &real(want.logits(3).unwrap()));
                assert!(error <= 1e-5, "NMSE {error:e}: {what}");
                assert!((losses[0] - losses[1]).abs() <= 2e-3, "{losses:?}: {what}");
            }
        }
    }
    println!("{name}: {both} of {all} kept indices");
    (both, all)
}

#[test]
fn every_kind_of_model_and_setting_agrees_with_the_cpu() {
    let (mut both, mut all) = (0, 0);
    for folder in folders() {
        // The third batch of a shape replays a graph.
        let name = format!("{:?}", folder.path());
        let text = |n| random_tokens(1, VOCAB_SIZE, n);
        let (same, of) = every_setting_agrees(&name, &folder.source(), 3, text);
        (both, all) = (both + same, all + of);
    }
    assert!(both * 100 >= all * 99, "{both} of {all} kept indices");
}

#[test]
fn bundled_models_agree_with_the_cpu_in_every_setting() {
    let batches = if reduced_shapes() { 1 } else { 3 };
    for name in BUNDLED {
        let source = ModelSource::locate(name).unwrap();
        let vocab_size = cpu(&source).config.vocab_size;
        let (both, all) = every_setting_agrees(name, &source, batches, |n| prose(&source, vocab_size, n));
        assert!(both * 100 >= all * 99, "{name}: {both} of {all} kept indices");
    }
}

#[test]
fn calibration_agrees_with_the_cpu() {
    let source = Folder::llama();
    let source = source.source();
    let (cpu, gpu) = (cpu(&source), gpu(&source, GpuDtype::F16));
    let options =
        CalibrationOptions { seq_len: 11, batch_size: 2, flap: true, linear_rank: 0, ..Default::default() };
    let tokens = random_tokens(1, cpu.config.vocab_size, 55);
    let want = calibrate(&cpu, &tokens, options, |_| ()).unwrap();
    let got = calibrate(&gpu, &tokens, options, |_| ()).unwrap();
    for (got, want) in got.layers.iter().flatten().zip(want.layers.iter().flatten()) {
        assert!(nmse(&got.energy, &want.energy) <= 1e-5);
        let (got, want) = (got.flap.as_ref().unwrap(), want.flap.as_ref().unwrap());
        assert!(nmse(&got.fluctuation, &want.fluctuation) <= 1e-4);
        assert!(nmse(&got.baseline, &want.baseline) <= 1e-4);
    }
}

/// What pruning single blocks loses, by which measured allocations go.
#[test]
fn losses_of_single_blocks_agree_with_the_cpu() {
    for folder in [Folder::llama(), Folder::opt()] {
        let source = folder.source();
        let (cpu, gpu) = (cpu(&source), gpu(&source, GpuDtype::F16));
        let options = CalibrationOptions { seq_len: 11, batch_size: 2, fold: true, ..Default::default() };
        let tokens = random_tokens(1, cpu.config.vocab_size, 55);
        let calibration = calibrate(&cpu, &tokens, options, |_| ()).unwrap();
        for method in [Method::ProbePruning, Method::Fold] {
            let settings = Settings { method, ..Settings::default_for(2) };
            let want = measure_losses(&cpu, &settings, &calibration, &tokens[..33], 3, |_| ()).unwrap();
            let got = measure_losses(&gpu, &settings, &calibration, &tokens[..33], 3, |_| ()).unwrap();
            for (got, want) in got.layers.iter().flatten().zip(want.layers.iter().flatten()) {
                assert_eq!(got.kept, want.kept);
                println!("{method}: {:?}, {:?}", got.losses, want.losses);
                for (got, want) in got.losses.iter().zip(&want.losses) {
                    assert!((got - want).abs() <= 0.02 * want + 1e-5, "{method}: {got}, {want}");
                }
            }
        }
    }
}

/// Prompts of several lengths, decoding on kept heads with a cache, and new choices on the way.
#[test]
fn generation_agrees_with_the_cpu() {
    for name in BUNDLED {
        let source = ModelSource::locate(name).unwrap();
        let (cpu, gpu) = (cpu(&source), gpu(&source, GpuDtype::F16));
        let text = prose(&source, cpu.config.vocab_size, 20);
        let prompts = [text[..20].to_vec(), text[3..12].to_vec()];
        let limits = Limits { samples: 2, tokens: 20, capacity: 28 };
        for (method, reprobe_every) in [(Method::None, None), (Method::ProbePruning, Some(3))] {
            let settings = Settings {
                method,
                prune_ratio: 0.4,
                skip_layers: vec![0],
                round_channels: 8,
                probe_samples: 1.0,
                ..Settings::default()
            };
            let options = GenerateOptions { max_new_tokens: 8, reprobe_every, ..GenerateOptions::default() };
            fn tokens<B: Backend>(
                model: &Arc<Model<B>>,
                settings: &Settings,
                limits: Limits,
                prompts: &[Vec<u32>],
                options: &GenerateOptions,
            ) -> Vec<Vec<u32>> {
                let mut session = Session::new(Arc::clone(model), settings.clone(), limits, None).unwrap();
                session.generate(prompts, options, |_, _| ()).unwrap().tokens
            }
            let want = tokens(&cpu, &settings, limits, &prompts, &options);
            assert_eq!(tokens(&gpu, &settings, limits, &prompts, &options), want, "{name} {method}");
        }
    }
}

/// Repeated batches of one shape are replayed as a graph; the bits must not show it.
#[test]
fn replayed_forwards_give_the_same_bits() {
    let source = Folder::llama();
    let source = source.source();
    let gpu = gpu(&source, GpuDtype::Bf16);
    let limits = Limits { samples: 2, tokens: 9, capacity: 0 };
    let mut session = Session::new(Arc::clone(&gpu), Settings::default_for(2), limits, None).unwrap();
    let tokens = random_tokens(7, gpu.config.vocab_size, 18);
    let mut run = || {
        session.forward(&tokens, 2, None, false).unwrap();
        session.logits(2).unwrap().iter().map(|x| x.to_bits()).collect::<Vec<_>>()
    };
    let first = run();
    assert!((0..8).all(|_| run() == first));
}

#[test]
fn overflow_is_an_error_that_names_the_place_and_leaves_the_session_usable() {
    let folder = Folder::llama();
    folder.edit_tensors(|tensors| {
        let (_, values) = tensors.get_mut("model.layers.1.mlp.up_proj.weight").unwrap();
        values.iter_mut().for_each(|x| *x *= 1e6);
    });
    let source = folder.source();
    let gpu = gpu(&source, GpuDtype::F16);
    let limits = Limits { samples: 1, tokens: 9, capacity: 0 };
    let mut session = Session::new(Arc::clone(&gpu), Settings::default_for(2), limits, None).unwrap();
    for _ in 0..2 {
        let error = session.evaluate(&random_tokens(7, gpu.config.vocab_size, 9), 1, None, true).unwrap_err();
        assert!(error.to_string().starts_with("layer "), "{error}");
    }
}

#[test]
fn heads_without_a_kernel_are_refused() {
    let folder = Folder::llama_with(json!({ "head_dim": 258 }));
    let gpu = backend(GpuDtype::F16);
    let error = Model::load(&folder.source(), true, Arc::new(gpu), |_| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "head_dim: expected at most 256 on a GPU, got 258. Run it on the CPU (`device` cpu)."
    );
}

#[test]
fn sessions_that_kernels_cannot_count_are_refused() {
    let gpu = gpu(&Folder::llama().source(), GpuDtype::F16);
    let refusal = |samples, bucket| {
        let mut settings = Settings::default_for(2);
        settings.history_layout.bucket = bucket;
        let limits = Limits { samples, tokens: 2, capacity: 0 };
        Session::new(Arc::clone(&gpu), settings, limits, None).unwrap_err().to_string()
    };
    let on_cpu = "Run it on the CPU (`device` cpu).";
    for (samples, got) in [(1_000_001, 2_000_002), (usize::MAX, usize::MAX)] {
        let expected =
            format!("samples × tokens of a batch: expected at most 2000000 on a GPU, got {got}. {on_cpu}");
        assert_eq!(refusal(samples, 1), expected);
    }
    let expected = format!("history_bucket: expected at most 2000000 on a GPU, got 2147483648. {on_cpu}");
    assert_eq!(refusal(1, 1 << 31), expected);
}
