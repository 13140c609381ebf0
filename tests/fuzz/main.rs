//! Files of every kind, changed where their structure lets a change reach far: each is read or refused, without a panic and within
//! seconds. PROBEPRUNE_FUZZ_SECONDS (10) is the time for each kind; PROBEPRUNE_FUZZ_SEED (0) the first seed, of which a failure
//! names its own.

// A library for the targets of cargo-fuzz.
#[allow(unreachable_pub)]
#[path = "../../fuzz/src/lib.rs"]
mod readers;

mod change;

use std::{
    env, fs,
    path::Path,
    sync::Arc,
    thread::panicking,
    time::{Duration, Instant},
};

use change::Change;
use probeprune::{
    cpu::Cpu,
    model::Model,
    session::{CalibrationOptions, calibrate},
    source::ModelSource,
};
use serde_json::json;

/// Longest that a file may take to be read, with other tests beside it.
const SLOW: Duration = Duration::from_secs(5);

/// Says which seed failed.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if panicking() {
            eprintln!("PROBEPRUNE_FUZZ_SEED={}", self.0);
        }
    }
}

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

/// Makes files by `make` and reads them. Both accepted and refused ones must be among them.
fn fuzz(kind: &str, mut make: impl FnMut(&mut Change) -> Vec<u8>, read: fn(&[u8]) -> bool) {
    let (end, first) = (setting("PROBEPRUNE_FUZZ_SECONDS", 10), setting("PROBEPRUNE_FUZZ_SEED", 0));
    let begun = Instant::now();
    let mut counts = [0, 0];
    for seed in first.. {
        if begun.elapsed() >= Duration::from_secs(end) {
            break;
        }
        let seed = Seed(seed);
        let bytes = make(&mut Change::new(seed.0));
        let begun = Instant::now();
        counts[usize::from(read(&bytes))] += 1;
        assert!(begun.elapsed() < SLOW, "{kind}: {:?} for {} bytes", begun.elapsed(), bytes.len());
    }
    let [refused, accepted] = counts;
    println!("{kind}: {refused} refused, {accepted} accepted");
    assert!(refused > 0 && accepted > 0, "{kind}: {refused} refused, {accepted} accepted");
}

fn file(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn texts(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

#[test]
fn configs() {
    let rope =
        json!({ "rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 64, "beta_fast": 32 });
    let configs = [
        json!({ "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2,
                "num_attention_heads": 4, "num_key_value_heads": 2, "rope_scaling": rope, "eos_token_id": [1, 2] }),
        json!({ "model_type": "qwen2", "num_hidden_layers": 2, "use_sliding_window": true, "max_window_layers": 1,
                "layer_types": ["full_attention", "sliding_attention"], "sliding_window": 8 }),
        json!({ "model_type": "mistral", "rope_parameters": { "rope_type": "llama3", "factor": 8, "low_freq_factor": 1,
                "high_freq_factor": 4, "original_max_position_embeddings": 8192, "rope_theta": 5e5 } }),
        json!({ "model_type": "opt", "word_embed_proj_dim": 32, "activation_function": "relu", "eos_token_id": 2,
                "probeprune": { "layers": [{ "kv_head_of": [0, 1], "channels": 7 }] } }),
    ];
    fuzz(
        "config",
        |change| {
            let of = change.one(&configs).clone();
            change.json(of)
        },
        readers::config,
    );
}

#[test]
fn tokenizers() {
    let bundled = ModelSource::locate("bundled:tiny-llama").unwrap().read("tokenizer.json").unwrap().unwrap();
    let mut small: serde_json::Value = serde_json::from_slice(&bundled).unwrap();
    // Every kind of step, so that changes meet them.
    small["normalizer"] = json!({ "type": "Sequence", "normalizers": [
        { "type": "Prepend", "prepend": "▁" }, { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
        { "type": "NFC" }, { "type": "Strip", "strip_left": true, "strip_right": false },
        { "type": "Replace", "pattern": { "Regex": "(a|b)+c?" }, "content": "x" } ] });
    let whole: serde_json::Value = serde_json::from_slice(&bundled).unwrap();
    let tokenizers = [small, whole];
    fuzz(
        "tokenizer",
        |change| {
            let of = change.one(&tokenizers).clone();
            change.json(of)
        },
        readers::tokenizer,
    );
}

#[test]
fn templates() {
    let templates = texts("tests/golden/chat-templates/templates");
    fuzz("template", |change| change.template(&templates), readers::template);
}

#[test]
fn weights() {
    let good = file("tests/torch-files/expected.safetensors");
    fuzz("safetensors", |change| change.safetensors(&good), readers::safetensors);
}

#[test]
fn histories() {
    let source = ModelSource::locate("bundled:tiny-llama").unwrap();
    let cpu = Arc::new(Cpu::new(1).unwrap());
    let model = Arc::new(Model::load(&source, true, cpu, |_| ()).unwrap());
    let options =
        CalibrationOptions { seq_len: 4, batch_size: 2, flap: true, linear_rank: 2, ..Default::default() };
    let calibration = calibrate(&model, &[5, 9, 17, 3, 40, 8, 21, 60], options, |_| ()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.safetensors");
    calibration.save(&path).unwrap();
    let good = fs::read(path).unwrap();
    fuzz("history", |change| change.safetensors(&good), readers::history);
}

#[test]
fn torch_files() {
    let good = ["tensors.bin", "nested.bin", "legacy.bin", "sharded/pytorch_model-00001-of-00002.bin"]
        .map(|name| file(&format!("tests/torch-files/{name}")));
    fuzz(
        "torch",
        |change| {
            let of = change.one(&good).clone();
            change.torch(of)
        },
        readers::torch,
    );
}
