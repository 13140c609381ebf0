//! Calls that cannot be answered: each is an error that says what, what was expected and what came, and leaves the
//! session as it was.

mod common;

use std::sync::Arc;

use common::{
    assert_error,
    models::{Folder, Tensors},
    small::load,
};
use probeprune::{
    Error,
    cpu::Cpu,
    model::Model,
    prune::{
        history::HistoryLayout,
        settings::{Compensation, HistoryDtype, Method, ProbeTokens, Settings},
    },
    session::{CalibrationOptions, GenerateOptions, Limits, Sampling, Session, calibrate},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

const LIMITS: Limits = Limits { samples: 2, tokens: 12, capacity: 20 };
/// The token whose embedding is spoilt.
const BAD: u32 = 200;

fn folders() -> [Folder; 2] {
    [
        Folder::llama_with(json!({ "num_hidden_layers": 3 })),
        // A head of its own: the bad token's embedding would spoil all logits otherwise.
        Folder::opt_with(json!({ "num_hidden_layers": 3, "tie_word_embeddings": false })),
    ]
}

fn pruning(method: Method) -> Settings {
    Settings {
        method,
        prune_ratio: 0.35,
        skip_layers: vec![0],
        round_channels: 1,
        momentum: 0.3,
        ..Settings::default()
    }
}

fn session(model: &Arc<Model<Cpu>>, settings: Settings) -> Session<Cpu> {
    Session::new(Arc::clone(model), settings, LIMITS, None).unwrap()
}

/// Tokens without the bad one.
fn random_tokens(seed: u64, n: usize) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(3..BAD)).collect()
}

fn generate(session: &mut Session<Cpu>, prompt: usize, options: &GenerateOptions) -> probeprune::Result<()> {
    session.generate(&[random_tokens(1, prompt)], options, |_, _| ()).map(|_| ())
}

/// Bits of the losses of three batches, with history, and of the units then kept.
fn trace(session: &mut Session<Cpu>) -> Vec<u64> {
    let mut trace: Vec<u64> = (20..23)
        .map(|seed| session.evaluate(&random_tokens(seed, 24), 2, None, true).unwrap().to_bits())
        .collect();
    for layer in 1..3 {
        let kept = [session.kept_heads(layer).unwrap(), session.kept_channels(layer).unwrap()];
        trace.extend(kept.into_iter().flatten().flatten().map(u64::from));
    }
    trace
}

#[test]
fn a_bad_batch_is_refused_and_leaves_the_session_as_it_was() {
    for folder in folders() {
        let model = load(&folder);
        let mut session = session(&model, pruning(Method::ProbePruning));
        let tokens = random_tokens(1, 24);
        let mut evaluate = |tokens: &[u32], samples: usize, mask: Option<&[u32]>, parts: &[&str]| {
            assert_error(session.evaluate(tokens, samples, mask, true), parts);
            assert_error(session.forward(tokens, samples, mask, true), parts);
        };
        let mut foreign = tokens.clone();
        foreign[15] = 264;
        evaluate(&foreign, 2, None, &["token 3 of sample 1", "expected an id below 264", "got 264"]);
        foreign[15] = u32::MAX;
        evaluate(&foreign, 2, None, &["token 3 of sample 1", "got 4294967295"]);
        let pads = [vec![1; 12], vec![0; 12]].concat();
        evaluate(&tokens, 2, Some(&pads), &["mask of sample 1", "at least one token", "only padding"]);
        evaluate(&tokens, 2, Some(&pads[..23]), &["mask", "expected 24 entries", "got 23"]);
        evaluate(&tokens, 1, None, &["batch", "at most 2 × 12", "got 1 × 24"]);
        evaluate(&tokens, 3, None, &["batch", "at most 2 × 12", "got 3 × 8"]);
        evaluate(&tokens, 5, None, &["batch", "same number of tokens", "got 24 tokens for 5 samples"]);
        evaluate(&tokens, 0, None, &["batch", "24 tokens for 0 samples"]);
        evaluate(&[], 0, None, &["batch", "0 tokens"]);
        evaluate(&[], 2, None, &["batch", "0 tokens"]);
        assert!(trace(&mut session) == trace(&mut self::session(&model, pruning(Method::ProbePruning))));
    }
}

#[test]
fn a_batch_without_anything_to_predict_has_no_loss() {
    for folder in folders() {
        let mut session = session(&load(&folder), Settings::default_for(3));
        assert_error(
            session.evaluate(&[5, 6], 2, None, true),
            &["batch", "two tokens", "no token with a successor"],
        );
        let mask = [0, 1, 0, 1, 0, 0];
        assert_error(session.evaluate(&[5; 6], 2, Some(&mask), true), &["batch", "two tokens"]);
    }
}

#[test]
fn settings_out_of_range_are_refused() {
    let model = load(&Folder::llama_with(json!({ "num_hidden_layers": 3 })));
    let base = || pruning(Method::ProbePruning);
    let refuse = |settings: Settings, parts: &[&str]| {
        assert_error(Session::new(Arc::clone(&model), settings, LIMITS, None).map(drop), parts);
    };
    for (ratio, got) in [(f64::NAN, "NaN"), (-0.1, "-0.1"), (1.0, "1"), (f64::INFINITY, "inf")] {
        let parts = ["prune_ratio", "expected a number from 0 up to but not including 1", "got", got];
        refuse(Settings { prune_ratio: ratio, ..base() }, &parts);
    }
    for (share, got) in [(0.0, "0"), (1.01, "1.01"), (f64::NAN, "NaN"), (-0.5, "-0.5")] {
        let expected = "expected a number above 0 and at most 1";
        refuse(
            Settings { probe_tokens: ProbeTokens::Share(share), ..base() },
            &["probe_tokens", expected, "got", got],
        );
        refuse(Settings { probe_samples: share, ..base() }, &["probe_samples", expected, "got", got]);
    }
    refuse(Settings { probe_from: Some(0), ..base() }, &["probe_from", "at least 1", "got 0"]);
    // 3/2 · 0.67 = 1.0 (rounded) in each pruned layer.
    refuse(
        Settings { prune_ratio: 0.67, ..base() },
        &["prune_ratio", "3 layers", "[0]", "0.67", "ratio of 1"],
    );
    refuse(Settings { skip_layers: vec![3], ..base() }, &["skip_layers", "0 to 2", "got 3"]);
    refuse(Settings { momentum: 1.1, ..base() }, &["momentum", "0 to 1", "1.1"]);
    refuse(Settings { fixed_probe_weight: Some(-0.1), ..base() }, &["fixed_probe_weight", "0 to 1", "-0.1"]);
    refuse(Settings { round_channels: 0, ..base() }, &["round_channels", "at least 1", "0"]);
    refuse(Settings { flap_attention_factor: 3, ..base() }, &["flap_attention_factor", "2 or 4", "3"]);
    refuse(Settings { channel_group: 4, ..base() }, &["channel_group", "1, 8 or 16", "4"]);
    refuse(Settings { channel_group: 8, ..base() }, &["channel_group 8", "sorted when it was loaded"]);
    refuse(
        Settings { channel_group: 8, ..pruning(Method::Flap) },
        &["channel_group 8", "pp or wanda-sp", "flap"],
    );
    for (method, compensate, expected) in [
        (Method::FullBatch, Compensation::ProbeMean, "`method` pp or `method` wanda-sp"),
        (Method::Flap, Compensation::ProbeMean, "`method` pp or `method` wanda-sp"),
        (Method::WandaSp, Compensation::Linear { rank: 2 }, "`method` pp"),
    ] {
        let name = format!("compensate {compensate}");
        refuse(Settings { compensate, ..pruning(method) }, &[&name, expected, method.name()]);
    }
    for method in [Method::WandaSp, Method::Flap] {
        refuse(pruning(method), &["method", method.name(), "a calibration", "none"]);
    }
    let without_flap =
        CalibrationOptions { seq_len: 8, batch_size: 1, flap: false, linear_rank: 0, ..Default::default() };
    let calibration = calibrate(&model, &random_tokens(1, 8), without_flap, |_| ()).unwrap();
    let result = Session::new(Arc::clone(&model), pruning(Method::Flap), LIMITS, Some(&calibration));
    assert_error(result.map(drop), &["calibration", "FLAP", "without"]);
}

#[test]
fn limits_that_do_not_fit_the_model_are_refused() {
    for folder in folders() {
        let model = load(&folder);
        let new = |limits| Session::new(Arc::clone(&model), Settings::default_for(3), limits, None).map(drop);
        assert_error(new(Limits { tokens: 65, ..LIMITS }), &["sequence length", "at most 64", "got 65"]);
        assert_error(new(Limits { capacity: 65, ..LIMITS }), &["sequence length", "at most 64", "got 65"]);
        assert!(new(Limits { tokens: 64, capacity: 64, ..LIMITS }).is_ok());
        assert_error(new(Limits { samples: 0, ..LIMITS }), &["batch", "at least one"]);
        assert_error(new(Limits { tokens: 0, ..LIMITS }), &["batch", "at least one"]);
    }
}

/// Needed bytes of an [`Error::OutOfMemory`].
#[track_caller]
fn out_of_memory<T>(result: probeprune::Result<T>) -> usize {
    match result.map(drop).unwrap_err() {
        Error::OutOfMemory { needed, .. } => needed,
        other => panic!("{other}"),
    }
}

#[test]
fn sizes_that_no_memory_has_are_refused_and_leave_the_model_usable() {
    // Dynamic scaling has no longest sequence, so that every size goes through.
    let dynamic =
        json!({ "num_hidden_layers": 3, "rope_scaling": { "rope_type": "dynamic", "factor": 2.0 } });
    let endless = Folder::llama_with(dynamic);
    let model = load(&endless);
    let expected = trace(&mut session(&model, pruning(Method::ProbePruning)));
    let settings = [
        Settings::default_for(3),
        pruning(Method::ProbePruning),
        Settings { compensate: Compensation::ProbeMean, ..pruning(Method::ProbePruning) },
        Settings {
            history_layout: HistoryLayout { dtype: HistoryDtype::F16, bucket: usize::MAX },
            ..pruning(Method::ProbePruning)
        },
        pruning(Method::FullBatch),
    ];
    for large in [1 << 40, 1 << 62, usize::MAX / 2, usize::MAX] {
        for settings in &settings {
            for limits in [
                Limits { samples: large, ..LIMITS },
                Limits { tokens: large, ..LIMITS },
                Limits { capacity: large, ..LIMITS },
                Limits { samples: large, tokens: large, capacity: large },
                Limits { samples: large, tokens: 1, capacity: 0 },
            ] {
                let needed = out_of_memory(Session::new(Arc::clone(&model), settings.clone(), limits, None));
                assert!(needed >= large.saturating_mul(4), "{limits:?}: {needed}");
            }
        }
    }
    assert!(trace(&mut session(&model, pruning(Method::ProbePruning))) == expected);
    for folder in folders() {
        let limits = Limits { samples: usize::MAX / 8, tokens: 64, capacity: 64 };
        out_of_memory(Session::new(load(&folder), Settings::default_for(3), limits, None));
    }
}

#[test]
fn threads_are_bounded() {
    assert_error(Cpu::new(Cpu::MOST_THREADS + 1).map(drop), &["threads", "at most 1024", "got 1025"]);
    assert_error(Cpu::new(usize::MAX).map(drop), &["threads", "at most 1024"]);
}

#[test]
fn calibration_takes_whole_samples() {
    let model = load(&Folder::llama());
    for (tokens, seq_len) in [(0, 8), (7, 8), (9, 8), (8, 0)] {
        let options =
            CalibrationOptions { seq_len, batch_size: 2, flap: true, linear_rank: 0, ..Default::default() };
        let result = calibrate(&model, &random_tokens(1, tokens), options, |_| ());
        assert_error(result, &["calibration", &format!("{seq_len} tokens"), &format!("got {tokens} tokens")]);
    }
    let options =
        CalibrationOptions { seq_len: 8, batch_size: 0, flap: true, linear_rank: 0, ..Default::default() };
    assert_error(calibrate(&model, &random_tokens(1, 8), options, |_| ()), &["batch", "at least one"]);
    let hidden_size = model.config.hidden_size;
    let ranked = |linear_rank| {
        let options =
            CalibrationOptions { seq_len: 8, batch_size: 1, flap: false, linear_rank, ..Default::default() };
        calibrate(&model, &random_tokens(1, 8 * 2), options, |_| ())
    };
    assert_eq!(ranked(hidden_size).unwrap().linear_rank(), Some(hidden_size));
    assert_error(ranked(hidden_size + 1), &["linear_rank", &format!("at most {hidden_size}")]);
}

#[test]
fn channel_orders_hold_each_channel_once() {
    let folder = Folder::llama();
    let right = load(&folder);
    let (layers, channels) = (right.config.num_hidden_layers, right.config.intermediate_size as u32);
    let identity: Vec<u32> = (0..channels).collect();
    let load = |order: Vec<Vec<u32>>| {
        let cpu = Arc::new(Cpu::new(1).unwrap());
        Model::load_ordered(&folder.source(), true, cpu, Some(order), |_| ()).map(drop)
    };
    load(vec![identity.clone(); layers]).unwrap();
    let twice: Vec<u32> = (0..channels).map(|channel| channel / 2 * 2).collect();
    let more: Vec<u32> = identity.iter().copied().chain([0]).collect();
    for wrong in [twice, more, identity[1..].to_vec(), (1..=channels).collect()] {
        let mut order = vec![identity.clone(); layers];
        order[layers - 1] = wrong;
        assert_error(load(order), &["channel order", "each of", "once"]);
    }
    for layers in [layers - 1, layers + 1] {
        assert_error(load(vec![identity.clone(); layers]), &["channel order", &format!("{layers} layers")]);
    }
}

#[test]
fn a_calibration_of_other_weights_is_refused() {
    let [model, other] =
        [3, 4].map(|layers| load(&Folder::llama_with(json!({ "num_hidden_layers": layers }))));
    let options =
        CalibrationOptions { seq_len: 8, batch_size: 1, flap: false, linear_rank: 0, ..Default::default() };
    let calibration = calibrate(&other, &random_tokens(1, 8), options, |_| ()).unwrap();
    let result = Session::new(model, pruning(Method::WandaSp), LIMITS, Some(&calibration));
    assert_error(result.map(drop), &["calibration"]);
}

#[test]
fn prompts_and_tokens_fit_the_cache_and_the_samples() {
    for folder in folders() {
        let limits = Limits { capacity: 10, ..LIMITS };
        let mut session = Session::new(load(&folder), pruning(Method::ProbePruning), limits, None).unwrap();
        let prompt = |length: usize| random_tokens(1, 2 * length);
        assert_error(session.prefill(&prompt(11), 2, None, None), &["prompt", "at most 10 tokens", "got 11"]);
        session.prefill(&prompt(10), 2, None, None).unwrap();
        assert_error(session.decode(&[5, 6], None), &["10"]);
        session.prefill(&prompt(9), 2, None, None).unwrap();
        let expected = ["decode", "2 tokens, one per sample"];
        assert_error(session.decode(&[5], None), &expected);
        assert_error(session.decode(&[5, 6], Some(&[1])), &expected);
        session.decode(&[5, 6], Some(&[1, 0])).unwrap();
    }
}

#[test]
fn generation_out_of_range_is_refused() {
    for folder in folders() {
        let model = load(&folder);
        let mut session = session(&model, pruning(Method::ProbePruning));
        let some = |max_new_tokens| GenerateOptions { max_new_tokens, ..GenerateOptions::default() };
        let prompts = [vec![3, 4], vec![]];
        assert_error(
            session.generate(&prompts, &some(2), |_, _| ()),
            &["prompt 1", "at least one token", "empty"],
        );
        assert_error(session.generate(&[], &some(2), |_, _| ()), &["prompts", "at least one", "got none"]);
        for (prompt, new) in [(12, 9), (1, 20), (12, usize::MAX)] {
            let got = format!("got {prompt} + {new}");
            assert_error(
                generate(&mut session, prompt, &some(new)),
                &["prompt and new tokens", "at most 20", &got],
            );
        }
        assert_error(generate(&mut session, 13, &some(1)), &["batch", "at most 2 × 12", "got 1 × 13"]);
        let three = vec![vec![3]; 3];
        assert_error(session.generate(&three, &some(2), |_, _| ()), &["batch", "at most 2", "got 3"]);
        assert_error(session.generate(&[vec![264]], &some(2), |_, _| ()), &["token 0 of sample 0", "264"]);
        for (temperature, got) in [(-1.0, "-1"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
            let sampling = Sampling { temperature, ..Sampling::default() };
            let options = GenerateOptions { sampling, ..some(2) };
            assert_error(generate(&mut session, 4, &options), &["temperature", "at least 0", "got", got]);
        }
        for (top_p, got) in [(0.0, "0"), (1.5, "1.5"), (-0.1, "-0.1"), (f32::NAN, "NaN")] {
            let sampling = Sampling { temperature: 1.0, top_p, ..Sampling::default() };
            let options = GenerateOptions { sampling, ..some(2) };
            assert_error(
                generate(&mut session, 4, &options),
                &["top_p", "above 0 and at most 1", "got", got],
            );
        }
        let options = GenerateOptions { reprobe_every: Some(0), ..some(2) };
        assert_error(generate(&mut session, 4, &options), &["reprobe_every", "at least 1", "0"]);
        assert!(trace(&mut session) == trace(&mut self::session(&model, pruning(Method::ProbePruning))));
        assert!(generate(&mut session, 12, &some(8)).is_ok());
        let mut cacheless =
            Session::new(model, Settings::default_for(3), Limits { capacity: 0, ..LIMITS }, None).unwrap();
        assert_error(generate(&mut cacheless, 4, &some(1)), &["prompt and new tokens", "at most 0"]);
        assert!(generate(&mut cacheless, 4, &some(0)).is_ok());
    }
}

/// The layer, block and quantity of an [`Error::NonFinite`].
#[track_caller]
fn non_finite<T: std::fmt::Debug>(result: probeprune::Result<T>) -> (usize, &'static str, &'static str) {
    match result.unwrap_err() {
        Error::NonFinite { layer, block, what, .. } => (layer, block, what),
        other => panic!("{other}"),
    }
}

#[test]
fn values_that_are_not_finite_are_reported_with_their_layer() {
    let residual = "the residual stream";
    // (tensor, factor on its first row, dense: where it shows, pruned: where it shows)
    let cases = [
        ("model.layers.1.self_attn.o_proj.weight", (1, "mlp", residual), (1, "attention", "a channel score")),
        ("model.layers.1.mlp.down_proj.weight", (2, "attention", residual), (1, "mlp", "a channel score")),
        ("model.layers.2.mlp.down_proj.weight", (2, "mlp", "the output"), (2, "mlp", "a channel score")),
        ("model.layers.0.input_layernorm.weight", (0, "mlp", residual), (0, "mlp", residual)),
        ("lm_head.weight", (2, "mlp", "the output"), (2, "mlp", "the output")),
    ];
    for (name, dense, pruned) in cases {
        for value in [f32::INFINITY, f32::NAN, 3e38] {
            let folder = Folder::llama_with(json!({ "num_hidden_layers": 3 }));
            folder.edit_tensors(|tensors: &mut Tensors| tensors.get_mut(name).unwrap().1[..4].fill(value));
            let model = load(&folder);
            for (settings, expected) in
                [(Settings::default_for(3), dense), (pruning(Method::ProbePruning), pruned)]
            {
                let mut session = session(&model, settings);
                let tokens = random_tokens(1, 24);
                assert_eq!(non_finite(session.evaluate(&tokens, 2, None, true)), expected, "{name} {value}");
                let options = GenerateOptions { max_new_tokens: 2, ..GenerateOptions::default() };
                assert_eq!(non_finite(generate(&mut session, 8, &options)).0, expected.0, "{name} {value}");
            }
        }
    }
}

#[test]
fn a_batch_that_overflows_does_not_touch_the_ones_after_it() {
    for (folder, name) in
        folders().into_iter().zip(["model.embed_tokens.weight", "model.decoder.embed_tokens.weight"])
    {
        for value in [f32::INFINITY, 1e25, f32::NAN] {
            folder.edit_tensors(|tensors| {
                tensors.get_mut(name).unwrap().1[BAD as usize * 16..][..16].fill(value)
            });
            let model = load(&folder);
            for method in [Method::None, Method::ProbePruning, Method::FullBatch] {
                let mut tokens = random_tokens(1, 24);
                tokens[18] = BAD;
                let mut session = session(&model, pruning(method));
                let mut fresh = self::session(&model, pruning(method));
                let options = GenerateOptions { max_new_tokens: 3, ..GenerateOptions::default() };
                assert_eq!(non_finite(session.evaluate(&tokens, 2, None, true)).0, 0);
                assert_eq!(non_finite(session.generate(&[tokens[12..].to_vec()], &options, |_, _| ())).0, 0);
                assert!(trace(&mut session) == trace(&mut fresh), "{name} {value} {method}");
            }
        }
    }
}
