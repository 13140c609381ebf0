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
#[path = "../common/sessions.rs"]
mod sessions;

use std::sync::Arc;

use probeprune::{
    backend::Backend,
    config::ModelConfig,
    cpu::Cpu,
    model::Model,
    prune::settings::{Method, Settings},
};

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

/// 40 % pruned by a probe, in every layer.
fn pruned() -> Settings {
    Settings {
        method: Method::ProbePruning,
        prune_ratio: 0.4,
        skip_layers: Vec::new(),
        round_channels: 8,
        ..Settings::default()
    }
}
