//! Every operation of a pruned block, on the CPU and on a GPU where there is one.
//!
//! - `cargo bench --bench kernels [-- --device cpu|cuda]`: criterion's measurement of the case table, then each case's time,
//!   rate, share of what this machine can do, and time over the whole operation's at the same shape.
//! - `cargo bench --bench kernels -- --test`: every case once, at a small shape.
//! - `cargo bench --bench kernels -- --goals [LIST] [--rows FILE]`: the project's goals for a GPU, each with its limit. Those
//!   whose rival is PyTorch are measured by tools/peers/goals.py.
//! - `cargo bench --bench kernels -- --predict h100|h200|a100|4090`: what an analytic model expects of today's kernels.

#![allow(unreachable_pub)]

#[path = "kernels/block.rs"]
mod block;
#[path = "kernels/case.rs"]
mod case;
#[path = "kernels/ceiling.rs"]
mod ceiling;
#[path = "kernels/clocks.rs"]
mod clocks;
#[path = "kernels/command.rs"]
mod command;
#[path = "kernels/content.rs"]
mod content;
#[path = "kernels/cuda.rs"]
mod cuda;
#[path = "kernels/expect.rs"]
mod expect;
#[path = "kernels/goals.rs"]
mod goals;
#[path = "kernels/measure.rs"]
mod measure;
#[path = "../tests/operations/mod.rs"]
mod operations;
#[path = "kernels/peers.rs"]
mod peers;
#[path = "kernels/predict/mod.rs"]
mod predict;
#[path = "kernels/rows.rs"]
mod rows;
#[path = "kernels/start.rs"]
mod start;
#[path = "kernels/table.rs"]
mod table;
#[path = "kernels/timer.rs"]
mod timer;

use std::{process::ExitCode, sync::Arc, time::Duration};

use case::{LARGE, LayerShape, MEDIUM, SMALL};
use ceiling::Ceiling;
use command::{Command, DeviceKind};
use content::Content;
use criterion::Criterion;
use cuda::Libraries;
use goals::{GOALS, Report};
use measure::{Bench, REDUCED};
use operations::ElementBytes;
use peers::{Peer, Peers, Rival, Trouble};
use probeprune::{
    Result,
    backend::Backend,
    cpu::Cpu,
    gpu::{Cuda, Gpu, GpuDtype},
};
use rows::Rows;
use table::Target;

fn main() -> ExitCode {
    let fine = match Command::read() {
        Command::Goals(options) => {
            let opened = start::supported().and_then(|()| Cuda::new(0));
            start::run(&options, opened, |gpu| Box::new(Libraries(gpu))).unwrap_or_else(|error| {
                eprintln!("{error}");
                false
            })
        }
        Command::Predict(machine) => {
            expect::print(machine);
            true
        }
        Command::Criterion { smoke, device, filter } => criterion(smoke, device, filter),
    };
    if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether what was asked for is there.
fn criterion(smoke: bool, device: Option<DeviceKind>, filter: Option<String>) -> bool {
    let short = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(10);
    // Criterion reads the command line too, and would refuse --device.
    let mut criterion = match (device, filter) {
        (None, _) => short.configure_from_args(),
        (Some(_), None) => short,
        (Some(_), Some(filter)) => short.with_filter(filter),
    };
    if device != Some(DeviceKind::Cuda) {
        on_cpu(&mut criterion, smoke).expect("the CPU has room");
    }
    let mut fine = true;
    if device != Some(DeviceKind::Cpu) {
        match start::supported().and_then(|()| Cuda::new(0)) {
            Err(reason) => {
                println!("not measured on a GPU: {reason}");
                fine = device.is_none();
            }
            Ok(cuda) => on_gpu(&mut criterion, cuda, smoke).expect("the GPU works"),
        }
    }
    criterion.final_summary();
    fine
}

fn on_cpu(criterion: &mut Criterion, smoke: bool) -> Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = Cpu::new(threads)?;
    let shapes: &[LayerShape] = if smoke { &[SMALL] } else { &MEDIUM };
    let target = Target {
        name: "cpu",
        backend: &cpu,
        ceiling: if smoke { Ceiling::unknown() } else { ceiling::of_cpu(threads) },
        flush: 0,
        element: ElementBytes { activation: 4, weight: 2 },
        peers: None,
    };
    table::run(criterion, &target, shapes)?;
    if smoke { goals_once(&Arc::new(cpu)) } else { Ok(()) }
}

fn on_gpu(criterion: &mut Criterion, cuda: Cuda, smoke: bool) -> Result<()> {
    let gpu = Arc::new(Gpu::new(cuda, GpuDtype::Bf16));
    let libraries = Libraries(&gpu);
    let ceiling = if smoke { Ceiling::unknown() } else { ceiling::of_gpu(&gpu)? };
    let flush = if smoke { 1 << 20 } else { measure::FULL.flush };
    let target = Target {
        name: "cuda",
        backend: &*gpu,
        ceiling,
        flush,
        element: ElementBytes { activation: 2, weight: 2 },
        peers: Some(&libraries),
    };
    table::run(criterion, &target, if smoke { &[SMALL] } else { &LARGE })?;
    if smoke { goals_once(&gpu) } else { Ok(()) }
}

/// Rivals that do nothing.
struct Idle;

impl Peers for Idle {
    fn prepare(&self, _rival: Rival) -> Result<Peer<'_>, Trouble> {
        Ok(Peer { name: "nothing".to_string(), run: Box::new(|| ()) })
    }

    fn memory_taken(&self) -> Result<f64> {
        Ok(1.0)
    }
}

/// The goals' code at a small shape: its numbers mean nothing there.
fn goals_once<B: Backend>(backend: &Arc<B>) -> Result<()> {
    let mut bench = Bench::new(backend, &Idle, Content::random(), REDUCED, 1)?;
    let mut rows = Rows::new(None, "smoke").expect("there is no file");
    let mut report = Report { rows: &mut rows, device: None, reduced: true, prediction: &|_| None };
    let numbers: Vec<usize> = GOALS.iter().map(|goal| goal.number).collect();
    let fine = goals::run(&mut bench, &numbers, &|| None, &mut report).expect("there is no file");
    assert!(fine, "every row can be measured");
    Ok(())
}
