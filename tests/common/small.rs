//! Small models on the CPU, and what tests of sessions run on them.

use std::sync::Arc;

use probeprune::{
    cpu::Cpu,
    model::Model,
    prune::settings::{Method, Settings},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use super::models::Folder;

/// A LLaMA and an OPT model of three layers.
pub fn folders() -> [Folder; 2] {
    [
        Folder::llama_with(json!({ "num_hidden_layers": 3 })),
        Folder::opt_with(json!({ "num_hidden_layers": 3 })),
    ]
}

/// On two threads.
pub fn load(folder: &Folder) -> Arc<Model<Cpu>> {
    load_on(folder, 2)
}

pub fn load_on(folder: &Folder, threads: usize) -> Arc<Model<Cpu>> {
    Arc::new(Model::load(&folder.source(), true, Arc::new(Cpu::new(threads).unwrap()), |_| ()).unwrap())
}

/// No special ones.
pub fn random_tokens(seed: u64, n: usize) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(3..264)).collect()
}

/// Half of everything but layer 0; history moves fast.
pub fn pruning(method: Method) -> Settings {
    Settings {
        method,
        prune_ratio: 0.35,
        skip_layers: vec![0],
        round_channels: 1,
        momentum: 0.5,
        probe_samples: 0.3,
        ..Settings::default()
    }
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}
