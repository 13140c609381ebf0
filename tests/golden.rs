//! The method against reference results: kept sets equal in every layer and batch, logits and losses close.
//!
//! The data under tests/golden was made by tools/golden/make_golden.py, an independent PyTorch reading of the method. Set
//! `PROBEPRUNE_GOLDEN` to a list of further folders (separated by `:`) of the same form.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use probeprune::{
    checkpoint::{open_file, read_tensor_file},
    cpu::{Cpu, Tier},
    model::Model,
    prune::settings::{Method, ProbeTokens, Settings},
    session::{CalibrationOptions, Limits, Session, calibrate},
    source::ModelSource,
};
use serde_json::Value;

/// Token rows of a reference file: (rows, S) and the tokens.
fn tokens(file: &Path, key: &str) -> (usize, usize, Vec<u32>) {
    let (shape, values) = read_tensor_file(file, key).expect(key);
    (shape[0], shape[1], values.into_iter().map(|x| u32::try_from(x).expect("a token")).collect())
}

fn settings(reference: &Value) -> Settings {
    let text = |key: &str| reference[key].as_str();
    let number = |key: &str| reference[key].as_f64();
    let default = Settings::default();
    Settings {
        method: text("method").expect("method").parse().expect("method"),
        prune_ratio: number("ratio").expect("ratio"),
        // Static methods name the metric they imply.
        metric: text("metric").and_then(|text| text.parse().ok()).unwrap_or(default.metric),
        probe_tokens: number("probe_tokens").map_or(default.probe_tokens, ProbeTokens::Share),
        probe_samples: number("probe_samples").unwrap_or(default.probe_samples),
        probe_order: text("probe_order").map_or(default.probe_order, |text| text.parse().expect("order")),
        parallel_probe: reference["parallel"].as_bool().unwrap_or(false),
        fixed_probe_weight: number("fixed_probe_weight"),
        skip_layers: reference["skip_layers"]
            .as_array()
            .expect("skip_layers")
            .iter()
            .map(|layer| layer.as_u64().expect("layer") as usize)
            .collect(),
        round_channels: reference["round_channels"].as_u64().expect("round_channels") as usize,
        momentum: number("momentum").unwrap_or(default.momentum),
        flap_attention_factor: reference["flap_attention_factor"].as_u64().unwrap_or(4) as u32,
        ..default
    }
}

/// Σ(a−b)² / Σb².
fn nmse(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len(), "length");
    let pairs = || got.iter().zip(expected).map(|(&a, &b)| (f64::from(a), f64::from(b)));
    pairs().map(|(a, b)| (a - b).powi(2)).sum::<f64>() / pairs().map(|(_, b)| b * b).sum::<f64>()
}

fn check_folder(folder: &Path, tier: Tier) -> usize {
    let reference: Value = serde_json::from_str(
        &std::fs::read_to_string(folder.join("reference.json")).expect("reference.json"),
    )
    .unwrap();
    let file = folder.join("reference.safetensors");
    let tensors = open_file(&file).expect("reference.safetensors");
    let source = ModelSource::Folder(folder.to_path_buf());
    let cpu = Arc::new(Cpu::with_tier(2, tier).unwrap());
    let model = Arc::new(Model::load(&source, true, cpu, |_| ()).expect("model"));
    let batch_size = reference["batch_size"].as_u64().expect("batch_size") as usize;
    let (rows, seq_len, eval) = tokens(&file, "eval_tokens");
    let mask = tensors.names().any(|name| name == "eval_mask").then(|| tokens(&file, "eval_mask").2);
    let (_, calibration_len, calibration_tokens) = tokens(&file, "calib_tokens");
    let options = CalibrationOptions {
        seq_len: calibration_len,
        batch_size,
        flap: true,
        linear_rank: 0,
        ..Default::default()
    };
    let calibration = calibrate(&model, &calibration_tokens, options, |_| ()).expect("calibration");
    let mut checked = 0;
    for (name, setting) in reference["settings"].as_object().expect("settings") {
        let context = format!("{} {name} ({tier})", folder.file_name().unwrap().display());
        let calibration = setting["calibrated"].as_bool().unwrap_or(true).then_some(&calibration);
        let limits = Limits { samples: batch_size.min(rows), tokens: seq_len, capacity: 0 };
        let settings = settings(setting);
        let fixed = matches!(settings.method, Method::None);
        let mut session = Session::new(Arc::clone(&model), settings, limits, calibration).expect(&context);
        let stride = batch_size * seq_len;
        let batches: Vec<&[u32]> = eval.chunks(stride).collect();
        let masks: Option<Vec<&[u32]>> = mask.as_ref().map(|mask| mask.chunks(stride).collect());
        let mask_of = |batch: usize| masks.as_ref().map(|masks| masks[batch]);
        session.evaluate(batches[0], batches[0].len() / seq_len, mask_of(0), false).expect(&context);
        for batch in 0..reference["num_batches"].as_u64().expect("num_batches") as usize {
            let samples = batches[batch].len() / seq_len;
            let loss = session.evaluate(batches[batch], samples, mask_of(batch), true).expect(&context);
            // Padded folders have no losses: frameworks differ in what they average over.
            if let Some(expected) = setting["batch_losses"][batch].as_f64() {
                let error = (loss / expected - 1.0).abs();
                assert!(error < 1e-4, "{context} batch {batch}: loss {loss}, expected {expected}");
            }
            for layer in 0..model.config.num_hidden_layers {
                for (key, got) in [
                    ("attention.kept_heads", session.kept_heads(layer).unwrap()),
                    ("mlp.kept_channels", session.kept_channels(layer).unwrap()),
                ] {
                    let key = format!("{name}.batch{batch}.layers.{layer}.{key}");
                    if !tensors.names().any(|name| name == key) {
                        continue;
                    }
                    let expected: Vec<u32> =
                        read_tensor_file(&file, &key).unwrap().1.into_iter().map(|x| x as u32).collect();
                    assert!(!fixed, "{context}: dense keeps nothing back");
                    assert_eq!(got, Some(expected), "{context}: {key}");
                    checked += 1;
                }
            }
            let key = format!("{name}.batch{batch}.logits");
            if let Some(expected) = tensors.tensor(&key) {
                let samples = expected.shape()[0];
                let (mut got, mut expected) = (session.logits(samples).unwrap(), expected.to_f32());
                if let Some(mask) = mask_of(batch) {
                    // What a pad predicts means nothing.
                    let width = model.config.vocab_size;
                    for (row, _) in
                        mask[..samples * seq_len].iter().enumerate().filter(|(_, real)| **real == 0)
                    {
                        got[row * width..(row + 1) * width].fill(0.0);
                        expected[row * width..(row + 1) * width].fill(0.0);
                    }
                }
                let error = nmse(&got, &expected);
                assert!(error < 1e-8, "{context} batch {batch}: logits NMSE {error:e}");
                checked += 1;
            }
        }
    }
    checked
}

#[test]
fn kept_sets_and_logits_agree_with_the_reference() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&own)
        .expect("tests/golden")
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.join("reference.json").exists()
                && !path.file_name().unwrap().to_string_lossy().starts_with("generate")
        })
        .collect();
    assert!(!folders.is_empty(), "tests/golden holds reference folders");
    folders.extend(std::env::var_os("PROBEPRUNE_GOLDEN").iter().flat_map(std::env::split_paths));
    for folder in folders {
        for tier in Tier::available() {
            let checked = check_folder(&folder, tier);
            println!("{}, {tier}: {checked} kept sets and logits agree", folder.display());
            assert!(checked > 0, "{} checks nothing", folder.display());
        }
    }
}
