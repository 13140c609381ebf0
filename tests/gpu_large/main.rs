//! Shapes that only a GPU has time and memory for: a pair of LLaMA-2-7B's layers, products with more than 2^31 results,
//! sequences of 33,000 tokens, more samples than a grid has blocks. On the emulator the same tests run at small shapes, which
//! says that the tests work; see tests/common/device.rs.

#[path = "../common/device.rs"]
mod device;
#[path = "../common/emulator.rs"]
mod emulator;
mod layer_pair;
mod limits;
mod long_sequence;

use std::sync::Arc;

use probeprune::{backend::Backend, config::ModelConfig, cpu::Cpu, model::Model, session::Session};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

type Kept = Vec<[Option<Vec<u32>>; 2]>;

fn config(json: &serde_json::Value) -> ModelConfig {
    ModelConfig::from_json("test".as_ref(), &json.to_string(), None).unwrap()
}

fn every_core() -> Cpu {
    Cpu::new(std::thread::available_parallelism().map_or(1, usize::from)).unwrap()
}

fn random_model<B: Backend>(
    config: &ModelConfig,
    tensors: &probeprune::checkpoint::RandomTensors,
    backend: B,
) -> Arc<Model<B>> {
    Arc::new(Model::random(config.clone(), tensors, Arc::new(backend), None, |_| ()).unwrap())
}

fn random_tokens(seed: u64, vocab_size: usize, n: usize) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(0..vocab_size as u32)).collect()
}

fn kept<B: Backend>(session: &Session<B>) -> Kept {
    (0..session.model().config.num_hidden_layers)
        .map(|layer| [session.kept_heads(layer).unwrap(), session.kept_channels(layer).unwrap()])
        .collect()
}

/// Σ (got − want)² / Σ want²; infinite where something is not finite.
fn nmse(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error: f64 = got.iter().zip(want).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
    let error = error / want.iter().map(|&b| f64::from(b).powi(2)).sum::<f64>();
    if error.is_finite() { error } else { f64::INFINITY }
}
