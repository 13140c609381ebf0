//! Generation with padding, Probe Pruning and re-probing against the oracle (tests/golden/generate-*).

use std::{path::Path, sync::Arc};

use probeprune::{
    checkpoint::{open_file, read_tensor_file},
    cpu::Cpu,
    model::Model,
    prune::settings::{ProbeTokens, Settings},
    session::{CalibrationOptions, GenerateOptions, Limits, Session, calibrate},
    source::ModelSource,
};
use serde_json::Value;

fn integers(file: &Path, key: &str) -> (usize, usize, Vec<u32>) {
    let (shape, values) = read_tensor_file(file, key).expect(key);
    (shape[0], *shape.last().unwrap(), values.into_iter().map(|x| x as u32).collect())
}

fn check_folder(name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let file = folder.join("reference.safetensors");
    let reference: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("reference.json")).unwrap()).unwrap();
    let source = ModelSource::Folder(folder);
    let model = Arc::new(Model::load(&source, true, Arc::new(Cpu::new(2).unwrap()), |_| ()).unwrap());
    let names: Vec<String> = open_file(&file).unwrap().names().map(str::to_string).collect();
    let (_, seq_len, calibration) = integers(&file, "calib_tokens");
    let batch_size = reference["batch_size"].as_u64().unwrap() as usize;
    let options =
        CalibrationOptions { seq_len, batch_size, flap: true, linear_rank: 0, ..Default::default() };
    let calibration = calibrate(&model, &calibration, options, |_| ()).unwrap();

    let (samples, length, tokens) = integers(&file, "prompt_tokens");
    let (_, _, mask) = integers(&file, "prompt_mask");
    let prompts: Vec<Vec<u32>> = (0..samples)
        .map(|b| (b * length..(b + 1) * length).filter(|&i| mask[i] != 0).map(|i| tokens[i]).collect())
        .collect();
    assert!(prompts.iter().any(|prompt| prompt.len() < length), "{name} has padding");
    let new_tokens = reference["generate"].as_u64().unwrap() as usize;
    for (setting, values) in reference["settings"].as_object().unwrap() {
        let settings = Settings {
            method: values["method"].as_str().unwrap().parse().unwrap(),
            prune_ratio: values["ratio"].as_f64().unwrap(),
            probe_tokens: ProbeTokens::Share(values["probe_tokens"].as_f64().unwrap()),
            probe_samples: values["probe_samples"].as_f64().unwrap(),
            skip_layers: values["skip_layers"]
                .as_array()
                .unwrap()
                .iter()
                .map(|layer| layer.as_u64().unwrap() as usize)
                .collect(),
            round_channels: values["round_channels"].as_u64().unwrap() as usize,
            ..Settings::default()
        };
        let limits = Limits { samples, tokens: length, capacity: length + new_tokens };
        let options = |max_new_tokens| GenerateOptions {
            max_new_tokens,
            reprobe_every: values["reprobe_every"].as_u64().map(|n| n as usize),
            ..GenerateOptions::default()
        };
        let generate = |n: usize| {
            let mut session =
                Session::new(Arc::clone(&model), settings.clone(), limits, Some(&calibration)).unwrap();
            let generated = session.generate(&prompts, &options(n), |_, _| ()).unwrap();
            (session, generated.tokens)
        };
        let compare = |session: &Session<Cpu>, stage: &str, what: &str| {
            let mut compared = 0;
            for layer in 0..model.config.num_hidden_layers {
                for (key, got) in [
                    ("attention.kept_heads", session.kept_heads(layer).unwrap()),
                    ("mlp.kept_channels", session.kept_channels(layer).unwrap()),
                ] {
                    let key = format!("{setting}.{stage}.layers.{layer}.{key}");
                    if names.contains(&key) {
                        assert_eq!(got, Some(integers(&file, &key).2), "{name} {what}: {key}");
                        compared += 1;
                    }
                }
            }
            compared
        };
        // The prompt's selection, then each re-probe's: a generation that stops there has it still.
        let (session, _) = generate(1);
        let compared = compare(&session, "batch0", "after the prompt");
        assert!(compared > 0 || setting == "dense", "{name} {setting}: kept sets to compare");
        if let Some(every) = values["reprobe_every"].as_u64() {
            for stage in 1..=3 {
                let (session, _) = generate(stage * every as usize + 1);
                let compared = compare(&session, &format!("reprobe{stage}"), "after re-probing");
                assert!(compared > 0, "{name} {setting}: re-probe {stage} to compare");
            }
        }
        let (mut session, got) = generate(new_tokens);
        let (_, _, expected) = integers(&file, &format!("{setting}.tokens"));
        assert_eq!(got.concat(), expected, "{name} {setting}: greedy tokens");
        // A session starts afresh with every generation; only history has moved on, which dense does not have.
        if setting == "dense" {
            assert_eq!(session.generate(&prompts, &options(new_tokens), |_, _| ()).unwrap().tokens, got);
        }
    }
}

#[test]
fn llama_generates_as_the_oracle_does() {
    check_folder("generate-llama");
}

#[test]
fn opt_generates_as_the_oracle_does() {
    check_folder("generate-opt");
}
