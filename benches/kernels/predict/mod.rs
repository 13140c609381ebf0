//! An analytic model of today's kernels on GPUs that are not here: the goals' own code on a driver whose launches only move a
//! clock. It counts bytes, floating-point operations, waves, loads in a row and gaps between launches; what it expects is
//! there to hold measurements against.

#[allow(dead_code)]
#[path = "../../../src/gpu/args.rs"]
mod args;
pub mod cost;
pub mod driver;
pub mod kernels;
pub mod machine;
mod rivals;

use std::sync::Arc;

use cost::Split;
use driver::Predicted;
use machine::{MACHINES, Machine};
use probeprune::gpu::{Gpu, GpuDtype};
use rivals::Rivals;

use crate::{
    content::Content,
    measure::{Bench, FULL, Finding},
    peers::Trouble,
};

/// The expectation for a row.
pub struct Prediction {
    pub finding: Finding,
    /// Where our runs' time goes: the kernels of each, and their split.
    pub runs: Vec<(Vec<&'static str>, Split)>,
}

impl Prediction {
    /// The row's values.
    pub fn values(&self) -> Vec<f64> {
        self.finding.ratios.iter().map(|spread| spread.median).collect()
    }
}

/// The machine that a device of this name is.
pub fn machine_called(device: &str) -> Option<&'static Machine> {
    MACHINES.iter().find(|machine| device.contains(machine.called))
}

/// The expectation for a row at full shapes.
///
/// # Errors
/// A kernel that the model does not know.
pub fn row(machine: &'static Machine, number: usize) -> Result<Prediction, Trouble> {
    let gpu = Arc::new(Gpu::new(Predicted::new(machine), GpuDtype::Bf16));
    let rivals = Rivals(&gpu);
    let mut bench = Bench::new(&gpu, &rivals, Content::none(), FULL, 1)?;
    let finding = bench.row(number)?;
    gpu.issued()?;
    Ok(Prediction { finding, runs: gpu.driver().take_runs() })
}
