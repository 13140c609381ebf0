//! Weights that are not finite: the block that they spoil is named, whatever is pruned there.

use std::{fmt::Debug, sync::Arc};

use probeprune::{
    Error, Result,
    cpu::Cpu,
    model::Model,
    prune::{
        Block,
        calibration::Calibration,
        settings::{Method, Settings},
    },
    session::{CalibrationOptions, GenerateOptions, Limits, Session, calibrate},
};

use super::{bits, calibrated, folders, load, pruning, random_tokens};

/// Tensors of a layer, and their blocks.
const LLAMA: [(&str, &str); 8] = [
    ("input_layernorm.weight", "attention"),
    ("self_attn.q_proj.weight", "attention"),
    ("self_attn.v_proj.weight", "attention"),
    ("self_attn.o_proj.weight", "attention"),
    ("post_attention_layernorm.weight", "mlp"),
    ("mlp.gate_proj.weight", "mlp"),
    ("mlp.up_proj.weight", "mlp"),
    ("mlp.down_proj.weight", "mlp"),
];
const OPT: [(&str, &str); 8] = [
    ("self_attn_layer_norm.bias", "attention"),
    ("self_attn.k_proj.weight", "attention"),
    ("self_attn.v_proj.bias", "attention"),
    ("self_attn.out_proj.weight", "attention"),
    ("final_layer_norm.weight", "mlp"),
    ("fc1.weight", "mlp"),
    ("fc1.bias", "mlp"),
    ("fc2.weight", "mlp"),
];
const LAYERS: usize = 3;
const TOKENS: usize = 12;

#[track_caller]
fn assert_fault<T: Debug>(what: &str, result: Result<T>, want: (usize, &str, &str)) {
    let Err(Error::NonFinite { layer, block, what: quantity, .. }) = result else {
        panic!("{what}: {result:?}")
    };
    assert_eq!((layer, block, quantity), want, "{what}");
}

/// Runs everything on a model with a weight in `block` of `layer` that is not finite.
fn check(
    what: &str,
    model: &Arc<Model<Cpu>>,
    sound: &Calibration,
    (layer, block): (usize, &str),
    last: bool,
) {
    let tokens = random_tokens(1, 2 * TOKENS);
    let evaluate = |settings: Settings| {
        let limits = Limits { samples: 2, tokens: TOKENS, capacity: 0 };
        Session::new(Arc::clone(model), settings, limits, Some(sound))
            .and_then(|mut session| session.evaluate(&tokens, 2, None, true))
    };
    // A dense block's output is looked at where the next one begins.
    let (after, ends) = match (layer, block) {
        (layer, "attention") => ((layer, "mlp", "the residual stream"), false),
        (layer, _) if layer + 1 < LAYERS => ((layer + 1, "attention", "the residual stream"), false),
        (layer, _) => ((layer, "mlp", "the output"), true),
    };
    assert_fault(&format!("{what}, dense"), evaluate(Settings::default_for(LAYERS)), after);
    let limits = Limits { samples: 2, tokens: TOKENS, capacity: 20 };
    let settings = Settings::default_for(LAYERS);
    let mut session = Session::new(Arc::clone(model), settings, limits, None).unwrap();
    let options = GenerateOptions { max_new_tokens: 3, ..GenerateOptions::default() };
    let prompts = [random_tokens(2, TOKENS), random_tokens(3, 4)];
    assert_fault(&format!("{what}, generation"), session.generate(&prompts, &options, |_, _| ()), after);

    // A pruned block's scores see its weights before, through the probe or the column statistic.
    let score = (layer, block, "a channel score");
    let pruned = if layer == 0 { after } else { score };
    assert_fault(&format!("{what}, pp"), evaluate(pruning()), pruned);
    let full = Settings { method: Method::FullBatch, ..pruning() };
    assert_fault(&format!("{what}, full-batch"), evaluate(full), pruned);
    // Static methods read the last projections when the session is made.
    if layer > 0 && last {
        for method in [Method::WandaSp, Method::Magnitude] {
            assert_fault(&format!("{what}, {method}"), evaluate(Settings { method, ..pruning() }), score);
        }
    }
    let found = match (ends, last) {
        (false, _) => after,
        (true, false) => (layer, block, "an energy"),
        (true, true) => score,
    };
    for linear_rank in [0, 2] {
        let options = CalibrationOptions {
            seq_len: TOKENS,
            batch_size: 1,
            flap: true,
            linear_rank,
            ..Default::default()
        };
        let result = calibrate(model, &tokens, options, |_| ());
        assert_fault(&format!("{what}, calibration"), result.map(drop), found);
    }
}

#[test]
fn a_batch_that_was_refused_leaves_no_trace() {
    for (folder, table) in folders().into_iter().zip(["model", "model.decoder"]) {
        let sound = calibrated(&load(&folder));
        // The square of token 3 overflows, and nothing else does.
        folder.edit_tensors(|tensors| {
            let (_, values) = tensors.get_mut(&format!("{table}.embed_tokens.weight")).unwrap();
            values[3 * 16] = 1e30;
            // OPT's head is this table too.
            tensors.insert("lm_head.weight".into(), (vec![264, 16], vec![0.5; 264 * 16]));
        });
        folder.edit_json("config.json", |config| config["tie_word_embeddings"] = false.into());
        let model = load(&folder);
        let calibration = Calibration { fingerprint: model.fingerprint.clone(), ..sound.clone() };
        let good = |seed| random_tokens(seed, 2 * TOKENS).into_iter().map(|token| token.max(4)).collect();
        let (first, second): (Vec<u32>, Vec<u32>) = (good(1), good(2));
        let mut bad: Vec<u32> = good(3);
        bad[2 * TOKENS - 1] = 3;
        let run = |with_bad: bool| {
            let limits = Limits { samples: 2, tokens: TOKENS, capacity: 20 };
            let mut session =
                Session::new(Arc::clone(&model), pruning(), limits, Some(&calibration)).unwrap();
            let at = (0, "attention", "the residual stream");
            let mut trace = Vec::new();
            for (index, batch) in [&first, &second, &first].into_iter().enumerate() {
                let ended = |session: &mut Session<Cpu>| {
                    session.decode(&[5, 5], None).is_err() && session.next_logits().is_err()
                };
                if with_bad {
                    assert_fault("evaluate", session.evaluate(&bad, 2, None, true), at);
                    assert!(ended(&mut session));
                    assert_fault("forward", session.forward(&bad, 2, None, true), at);
                    assert_fault("prefill", session.prefill(&bad, 2, None, Some(2)), at);
                    assert!(ended(&mut session));
                }
                session.forward(batch, 2, None, true).unwrap();
                trace.extend(bits(&session.logits(2).unwrap()));
                let scores = (1..3).map(|layer| session.scores(layer, Block::Mlp).unwrap().unwrap());
                trace.extend(scores.flat_map(|scores| bits(&scores)));
                session.prefill(batch, 2, None, None).unwrap();
                // A step that fails ends its generation; one that is left open is ended by the next batch.
                if with_bad && index != 1 {
                    assert_fault("decode", session.decode(&[5, 3], None), at);
                    assert!(ended(&mut session));
                }
            }
            trace
        };
        assert!(run(true) == run(false));
    }
}

#[test]
fn a_weight_that_is_not_finite_is_reported_with_its_block() {
    for (which, tensors) in [LLAMA, OPT].into_iter().enumerate() {
        let sound = calibrated(&load(&folders()[which]));
        let prefix = ["model", "model.decoder"][which];
        for (layer, (tensor, block)) in (0..LAYERS).flat_map(|layer| tensors.map(|tensor| (layer, tensor))) {
            for value in [f32::NAN, f32::INFINITY] {
                let folder = &folders()[which];
                folder.edit_tensors(|all| {
                    let (_, values) = all.get_mut(&format!("{prefix}.layers.{layer}.{tensor}")).unwrap();
                    *values.last_mut().unwrap() = value;
                });
                let model = load(folder);
                // Calibration of sound weights: what the spoiled ones do is the session's to find.
                let sound = Calibration { fingerprint: model.fingerprint.clone(), ..sound.clone() };
                let last =
                    ["o_proj", "out_proj", "down_proj", "fc2"].iter().any(|last| tensor.contains(last));
                check(&format!("{value} in {tensor} of layer {layer}"), &model, &sound, (layer, block), last);
            }
        }
    }
}
