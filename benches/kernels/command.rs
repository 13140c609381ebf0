//! What the benchmark is asked for.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::{
    predict::machine::{MACHINES, Machine},
    start::Options,
};

/// What to do.
pub enum Command {
    Goals(Options),
    Predict(&'static Machine),
    /// `smoke`: only see that everything runs.
    Criterion {
        smoke: bool,
        device: Option<DeviceKind>,
        filter: Option<String>,
    },
}

/// Where to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceKind {
    Cpu,
    Cuda,
}

#[derive(Parser)]
struct Args {
    /// Measure the goals of these numbers, separated by commas; all without a list.
    #[arg(long, value_delimiter = ',', num_args = 0..=1, value_name = "LIST")]
    goals: Option<Vec<usize>>,
    /// A file to append a JSON line to for each goal.
    #[arg(long, requires = "goals", value_name = "FILE")]
    rows: Option<PathBuf>,
    /// The step that these lines belong to.
    #[arg(long, requires = "goals", default_value = "goals", value_name = "NAME")]
    step: String,
    /// Interleaved repetitions.
    #[arg(long, requires = "goals", default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Small shapes, to see that everything runs.
    #[arg(long)]
    reduced: bool,
    /// Print the expected results of a GPU.
    #[arg(long, value_name = "GPU", value_parser = machine, conflicts_with = "goals")]
    predict: Option<&'static Machine>,
    /// Measure the case table on this device only.
    #[arg(long, conflicts_with_all = ["goals", "predict"])]
    device: Option<DeviceKind>,
    /// With --device: only cases whose names match.
    #[arg(requires = "device")]
    filter: Option<String>,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn machine(name: &str) -> Result<&'static Machine, String> {
    let known: Vec<&str> = MACHINES.iter().map(|machine| machine.name).collect();
    let found = MACHINES.iter().find(|machine| machine.name == name);
    found.ok_or_else(|| format!("the model knows {}", known.join(", ")))
}

impl Command {
    /// From the command line.
    pub fn read() -> Self {
        let is_there = |flag: &str| std::env::args().any(|argument| argument == flag);
        // Everything else is criterion's. Without --bench, cargo test runs this.
        let own = ["--goals", "--predict", "--device"].into_iter().any(is_there);
        let smoke = is_there("--test") || !is_there("--bench");
        if !own {
            return Self::Criterion { smoke, device: None, filter: None };
        }
        let args = Args::parse();
        if let Some(machine) = args.predict {
            return Self::Predict(machine);
        }
        let Some(goals) = args.goals else {
            return Self::Criterion { smoke: args.reduced, device: args.device, filter: args.filter };
        };
        let Args { rows, step, reduced, .. } = args;
        Self::Goals(Options { goals, rows, step, rounds: args.rounds.into(), reduced })
    }
}
