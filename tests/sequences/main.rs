//! Sequences of calls on one session: generations up to every limit and one after another, measurements before and
//! after, batches that end early, probes of some samples only, weights that are not finite.

#[path = "../common/mod.rs"]
mod common;
mod decoding;
mod faults;
mod generations;
mod measuring;
mod probing;

use std::sync::Arc;

use common::small::{self, bits, folders, load, random_tokens};
use probeprune::{
    cpu::Cpu,
    model::Model,
    prune::{
        calibration::Calibration,
        settings::{Method, Settings},
    },
    session::{CalibrationOptions, Limits, Session, calibrate},
};

fn dense(model: &Arc<Model<Cpu>>, limits: Limits) -> Session<Cpu> {
    let settings = Settings::default_for(model.config.num_hidden_layers);
    Session::new(Arc::clone(model), settings, limits, None).unwrap()
}

fn calibrated(model: &Arc<Model<Cpu>>) -> Calibration {
    let options =
        CalibrationOptions { seq_len: 20, batch_size: 2, flap: true, linear_rank: 3, ..Default::default() };
    calibrate(model, &random_tokens(9, 5 * 20), options, |_| ()).unwrap()
}

fn pruning() -> Settings {
    small::pruning(Method::ProbePruning)
}
