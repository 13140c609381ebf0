//! Decoding up to a context limit and past it.

use std::sync::Arc;

use probeprune::{
    cpu::Cpu,
    session::{GenerateOptions, Limits, Session},
};
use serde_json::{Value, json};

use super::{bits, dense, folders, load, random_tokens};
use crate::common::{
    assert_error,
    models::Folder,
    plain::{Plain, assert_close},
};

/// A LLaMA that was trained with 16 positions.
const TRAINED: usize = 16;
const FACTOR: f64 = 2.0;

fn with_rope(scaling: Value, positions: usize) -> Folder {
    Folder::llama_with(json!({ "rope_scaling": scaling, "max_position_embeddings": positions }))
}

fn no_visit(_: usize, _: probeprune::prune::Block, _: &[f64], _: &mut [f64]) {}

/// Runs prompts and then their further tokens one by one; `check` sees the number of further tokens so far and the logits.
fn decode(
    session: &mut Session<Cpu>,
    prompts: &[&[u32]],
    further: &[&[u32]],
    mut check: impl FnMut(usize, &[f32]),
) {
    let length = prompts.iter().map(|prompt| prompt.len()).max().unwrap();
    let padded = |pad: u32, row: &dyn Fn(&[u32]) -> Vec<u32>| -> Vec<u32> {
        prompts.iter().flat_map(|prompt| [vec![pad; length - prompt.len()], row(prompt)].concat()).collect()
    };
    let mask = padded(0, &|prompt| vec![1; prompt.len()]);
    session.prefill(&padded(0, &|prompt| prompt.to_vec()), prompts.len(), Some(&mask), None).unwrap();
    check(0, &session.next_logits().unwrap());
    for step in 0..further[0].len() {
        let tokens: Vec<u32> = further.iter().map(|further| further[step]).collect();
        session.decode(&tokens, None).unwrap();
        check(step + 1, &session.next_logits().unwrap());
    }
}

#[test]
fn dynamic_rope_follows_the_length_of_every_step() {
    let folder = with_rope(json!({ "rope_type": "dynamic", "factor": FACTOR }), TRAINED);
    let (plain, model) = (Plain::new(&folder), load(&folder));
    let (d, v) = (plain.config.head_dim as f64, plain.config.vocab_size);
    let frequencies = |length: usize| {
        let stretch = (FACTOR * length as f64 / TRAINED as f64 - (FACTOR - 1.0)).max(1.0);
        plain.frequencies(10_000.0 * stretch.powf(d / (d - 2.0)))
    };
    let limits = Limits { samples: 2, tokens: 30, capacity: 40 };
    // One session for all: a long generation must leave nothing to a shorter one.
    let mut session = dense(&model, limits);
    for [long, short] in [[24, 24], [5, 5], [15, 9], [16, 16], [17, 11], [30, 30], [4, 2]] {
        let texts = [long, short].map(|length| random_tokens(length as u64, length + 10));
        let [a, b] = [(&texts[0], long), (&texts[1], short)].map(|(text, at)| text.split_at(at));
        decode(&mut session, &[a.0, b.0], &[a.1, b.1], |done, logits| {
            for (text, length, logits) in [(&texts[0], long, &logits[..v]), (&texts[1], short, &logits[v..])]
            {
                // Keys stay as they were rotated when their token ran; pads count as tokens of a length.
                let at = |slot: usize| frequencies(long + (slot + 1).saturating_sub(length));
                let seen = &text[..length + done];
                let want = plain.logits(seen, seen.len(), &at, &mut no_visit);
                let what = format!("{long} and {short} tokens, {done} more");
                assert_close(&what, logits, &want[want.len() - v..], 1e-4);
            }
        });
        // A whole text is rotated by its own length.
        let text = &texts[0][..long];
        session.forward(text, 1, None, false).unwrap();
        let want = plain.logits(text, long, &|_| frequencies(long), &mut no_visit);
        assert_close("a whole text", &session.logits(1).unwrap(), &want, 1e-4);
    }
}

#[test]
fn other_kinds_of_rope_do_not_change_with_the_length() {
    let original = json!({ "original_max_position_embeddings": TRAINED, "factor": 4.0 });
    for (kind, more) in [
        ("default", json!({})),
        ("linear", json!({})),
        ("llama3", json!({ "low_freq_factor": 1.0, "high_freq_factor": 4.0 })),
        ("yarn", json!({})),
    ] {
        let mut scaling = original.clone();
        scaling["rope_type"] = kind.into();
        scaling.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let model = load(&with_rope(scaling, 4 * TRAINED));
        let v = model.config.vocab_size;
        let limits = Limits { samples: 1, tokens: 40, capacity: 40 };
        let (text, mut whole) = (random_tokens(1, 40), dense(&model, limits));
        whole.forward(&text, 1, None, false).unwrap();
        let whole = whole.logits(1).unwrap();
        for prompt in [TRAINED - 1, TRAINED, TRAINED + 1] {
            let (prompt, further) = text.split_at(prompt);
            decode(&mut dense(&model, limits), &[prompt], &[further], |done, logits| {
                let want: Vec<f64> =
                    whole[(prompt.len() + done - 1) * v..][..v].iter().map(|&x| x.into()).collect();
                assert_close(&format!("{kind}, {done} after {}", prompt.len()), logits, &want, 1e-4);
            });
        }
    }
}

#[test]
fn decoding_sees_what_the_window_lets_it_see() {
    let mistral = json!({ "architectures": ["MistralForCausalLM"], "model_type": "mistral" });
    let qwen = |types: [&str; 2]| {
        json!({ "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "use_sliding_window": true,
                "layer_types": types })
    };
    let (full, sliding) = ("full_attention", "sliding_attention");
    let cases = [
        (mistral.clone(), 1, [true, true]),
        (mistral.clone(), 5, [true, true]),
        (mistral, 64, [true, true]),
        (qwen([full, sliding]), 5, [false, true]),
        (qwen([sliding, full]), 3, [true, false]),
    ];
    for (mut changes, window, windowed) in cases {
        changes["sliding_window"] = window.into();
        let folder = Folder::llama_with(changes);
        let (plain, model) = (Plain::new(&folder), load(&folder));
        let windows = [0, 1].map(|layer| model.config.window(layer));
        assert_eq!(windows, windowed.map(|windowed| windowed.then_some(window)));
        let v = model.config.vocab_size;
        let limits = Limits { samples: 2, tokens: 9, capacity: 20 };
        let texts = [random_tokens(1, 20), random_tokens(2, 15)];
        let [(a, more_a), (b, more_b)] = [texts[0].split_at(9), texts[1].split_at(4)];
        decode(&mut dense(&model, limits), &[a, b], &[more_a, more_b], |done, logits| {
            for (sample, (text, length)) in [(&texts[0], 9), (&texts[1], 4)].into_iter().enumerate() {
                let seen = &text[..length + done];
                let want = plain.logits(seen, seen.len(), &|_| plain.frequencies(10_000.0), &mut no_visit);
                let what = format!("window {window}, sample {sample}, {done} more");
                assert_close(&what, &logits[sample * v..][..v], &want[want.len() - v..], 1e-4);
            }
        });
    }
}

#[test]
fn the_last_position_is_there_and_none_after_it() {
    for folder in folders() {
        let (plain, model) = (Plain::new(&folder), load(&folder));
        let (positions, v) = (model.config.max_position_embeddings, model.config.vocab_size);
        let limits = Limits { samples: 1, tokens: positions, capacity: positions };
        for too_long in
            [Limits { tokens: positions + 1, ..limits }, Limits { capacity: positions + 1, ..limits }]
        {
            let settings = probeprune::prune::settings::Settings::default_for(3);
            let refused = Session::new(Arc::clone(&model), settings, too_long, None);
            assert_error(refused.map(drop), &["at most 64 tokens", "got 65"]);
        }
        let text = random_tokens(1, positions);
        let (prompt, further) = text.split_at(positions - 3);
        let want = plain.logits(&text, positions, &|_| plain.frequencies(10_000.0), &mut no_visit);
        let mut session = dense(&model, limits);
        let mut fresh = Vec::new();
        decode(&mut session, &[prompt], &[further], |done, logits| {
            let at = (prompt.len() + done - 1) * v;
            assert_close(&format!("{done} more"), logits, &want[at..at + v], 1e-4);
            fresh.push(bits(logits));
        });
        assert_error(session.decode(&[5], None), &["at most 64 tokens in all", "got 65"]);
        let options = |max_new_tokens| GenerateOptions { max_new_tokens, ..GenerateOptions::default() };
        let prompts = [prompt.to_vec()];
        let refused = session.generate(&prompts, &options(4), |_, _| ());
        assert_error(refused, &["at most 64 in all", "got 61 + 4"]);
        assert_eq!(session.generate(&prompts, &options(3), |_, _| ()).unwrap().tokens[0].len(), 3);
        // A full cache is as good as an empty one for what comes next.
        decode(&mut session, &[prompt], &[further], |done, logits| assert!(bits(logits) == fresh[done]));
    }
}

#[test]
fn a_cache_of_more_keys_than_attention_takes_at_once() {
    // Sharp scores: a running softmax has to rescale what it summed before.
    let folder = Folder::llama_with(json!({ "num_hidden_layers": 1, "max_position_embeddings": 2048 }));
    folder.edit_tensors(|tensors| {
        let (_, q) = tensors.get_mut("model.layers.0.self_attn.q_proj.weight").unwrap();
        q.iter_mut().for_each(|q| *q *= 8.0);
    });
    let (plain, model) = (Plain::new(&folder), load(&folder));
    let v = model.config.vocab_size;
    let limits = Limits { samples: 2, tokens: 1300, capacity: 1310 };
    let texts = [random_tokens(1, 1303), random_tokens(2, 103)];
    let wants: Vec<Vec<f64>> = texts
        .iter()
        .map(|text| plain.logits(text, text.len(), &|_| plain.frequencies(10_000.0), &mut no_visit))
        .collect();
    // The second sample's pads are more than the first 1,024 keys.
    let [(a, more_a), (b, more_b)] = [texts[0].split_at(1300), texts[1].split_at(100)];
    decode(&mut dense(&model, limits), &[a, b], &[more_a, more_b], |done, logits| {
        for (sample, length) in [1300, 100].into_iter().enumerate() {
            let want = &wants[sample][(length + done - 1) * v..][..v];
            assert_close(&format!("sample {sample}, {done} more"), &logits[sample * v..][..v], want, 1e-3);
        }
    });
}
