//! Sequences of calls on one session: generations up to every limit and one after another, measurements before and
//! after, batches that end early, weights that are not finite.

#[path = "../common/mod.rs"]
mod common;
mod decoding;
mod faults;
mod generations;
mod measuring;

use std::sync::Arc;

use common::models::Folder;
use probeprune::{
    cpu::Cpu,
    model::Model,
    prune::{
        calibration::Calibration,
        settings::{Method, Settings},
    },
    session::{CalibrationOptions, Limits, Session, calibrate},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

fn folders() -> [Folder; 2] {
    [
        Folder::llama_with(json!({ "num_hidden_layers": 3 })),
        Folder::opt_with(json!({ "num_hidden_layers": 3 })),
    ]
}

fn load(folder: &Folder) -> Arc<Model<Cpu>> {
    Arc::new(Model::load(&folder.source(), true, Arc::new(Cpu::new(2).unwrap()), |_| ()).unwrap())
}

fn random_tokens(seed: u64, n: usize) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(3..264)).collect()
}

fn dense(model: &Arc<Model<Cpu>>, limits: Limits) -> Session<Cpu> {
    let settings = Settings::default_for(model.config.num_hidden_layers);
    Session::new(Arc::clone(model), settings, limits, None).unwrap()
}

fn calibrated(model: &Arc<Model<Cpu>>) -> Calibration {
    let options = CalibrationOptions { seq_len: 20, batch_size: 2, flap: true, linear_rank: 3 };
    calibrate(model, &random_tokens(9, 5 * 20), options, |_| ()).unwrap()
}

/// About half of everything but layer 0; history moves fast.
fn pruning() -> Settings {
    Settings {
        method: Method::ProbePruning,
        prune_ratio: 0.35,
        skip_layers: vec![0],
        round_channels: 1,
        momentum: 0.5,
        probe_samples: 0.3,
        ..Settings::default()
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}
