//! A real checkpoint against Hugging Face transformers: SmolLM2-135M-Instruct, as tools/fetch/smollm2.py makes it.
//!
//! `PROBEPRUNE_SMOLLM2=FOLDER cargo test --release --test smollm2 -- --ignored`

use std::sync::Arc;

use probeprune::{
    cpu::Cpu,
    model::Model,
    prune::settings::Settings,
    session::{GenerateOptions, Limits, Session},
    source::ModelSource,
    tokenizer::Tokenizer,
};
use serde_json::Value;

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("an array").iter().map(|x| x.as_f64().expect("a number")).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    numbers(value).into_iter().map(|x| x as u32).collect()
}

#[test]
#[ignore = "needs PROBEPRUNE_SMOLLM2, a folder that tools/fetch/smollm2.py makes"]
fn logits_and_greedy_tokens_agree_with_transformers() {
    let folder = std::env::var_os("PROBEPRUNE_SMOLLM2").expect("PROBEPRUNE_SMOLLM2 names the folder");
    let reference: Value = serde_json::from_str(include_str!("golden/smollm2/logits.json")).unwrap();
    let source = ModelSource::Folder(folder.into());
    let model = Arc::new(Model::load(&source, true, Arc::new(Cpu::new(2).unwrap()), |_| ()).unwrap());
    let tokenizer = Tokenizer::load(&source, model.config.vocab_size).unwrap();
    for case in reference["cases"].as_array().unwrap() {
        let prompt = case["prompt"].as_str().unwrap();
        let tokens = tokenizer.encode(prompt, false).unwrap();
        assert_eq!(tokens, ids(&case["ids"]), "{prompt}");

        let limits = Limits { samples: 1, tokens: tokens.len(), capacity: tokens.len() + 16 };
        let mut session = Session::new(Arc::clone(&model), Settings::default(), limits, None).unwrap();
        let loss = session.evaluate(&tokens, 1, None, false).unwrap();
        let expected = case["mean_nll"].as_f64().unwrap();
        assert!((loss - expected).abs() < 2e-3, "{prompt}: mean loss {loss}, expected {expected}");

        let logits = session.logits(1).unwrap();
        let last = &logits[logits.len() - model.config.vocab_size..];
        let total: f64 = last.iter().map(|&x| f64::from(x).exp()).sum();
        let mut order: Vec<u32> = (0..last.len() as u32).collect();
        order.sort_by(|a, b| last[*b as usize].total_cmp(&last[*a as usize]));
        assert_eq!(order[..8], ids(&case["last_top8_ids"])[..], "{prompt}: the eight likeliest tokens");
        for (id, expected) in order.iter().zip(numbers(&case["last_top8_logprobs"])) {
            let got = f64::from(last[*id as usize]) - total.ln();
            assert!((got - expected).abs() < 2e-3, "{prompt}: token {id} at {got}, expected {expected}");
        }

        let options = GenerateOptions { max_new_tokens: 16, ..GenerateOptions::default() };
        let generated = session.generate(std::slice::from_ref(&tokens), &options, |_, _| ()).unwrap();
        assert_eq!(generated.tokens[0], ids(&case["greedy16"]), "{prompt}: greedy tokens");
        let text = tokenizer.decode(&generated.tokens[0], false).unwrap();
        assert_eq!(text, case["greedy_text"].as_str().unwrap(), "{prompt}: greedy text");
    }
}
