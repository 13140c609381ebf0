//! Latency of prompts and decoding, dense and pruned: see `probeprune-latency --help`.

mod break_even;
mod cli;
mod environment;
mod measure;
mod numbers;
mod report;
mod shape;
#[path = "../shared/mod.rs"]
mod shared;

use std::process::ExitCode;

use probeprune::{
    backend::Backend, checkpoint::RandomTensors, gpu::cuda::driver_is_installed, prune::settings::Settings,
};
use serde_json::json;

use cli::Cli;
use device::{DeviceChoice, Task, with_weights};
use failure::{Result, note, print};
use input::{Loaded, Origin};
use report::{Field, Report};
use shared::{
    args, command_line, device, failure, flags, input, interrupt, probe, progress, statistics, table,
    terminal,
};

/// Warm-up rounds: on a GPU a forward becomes a graph on its second run, for each of three rotating residual buffers.
const WARMUP: usize = 1;
const WARMUP_ON_GPU: usize = 6;

fn main() -> ExitCode {
    let cli: Cli = command_line::parse(std::env::args_os());
    interrupt::install();
    failure::exit_code(run(&cli))
}

fn run(cli: &Cli) -> Result<()> {
    cli.tests.sizes()?;
    let origin = match (&cli.weights.model, cli.weights.shape) {
        (Some(model), _) => Origin::files(model, !cli.no_mmap)?,
        (None, shape) => {
            let shape = shape.expect("clap asks for one of the two");
            let mut config = shape.config()?;
            let of = config.num_hidden_layers;
            let layers = cli.layers.map_or(of, usize::from).min(of);
            config.num_hidden_layers = layers;
            cli.variants(&config)?;
            let tensors = RandomTensors::new(&config, cli.tuning.seed);
            // On a GPU, tensors are made and uploaded one by one.
            if cli.compute.device.device == DeviceChoice::Cpu || !driver_is_installed() {
                environment::check_room(&tensors)?;
            }
            let name = format!("{}, {layers} of {of} layers, random weights", shape.name());
            Origin::Random { name, config: Box::new(config), tensors }
        }
    };
    with_weights(origin, &cli.compute, cli)
}

impl Task for &Cli {
    fn run<B: Backend>(self, loaded: Loaded<B>) -> Result<()> {
        let variants = self.variants(&loaded.model.config)?;
        let default = if loaded.device.gpu.is_some() { WARMUP_ON_GPU } else { WARMUP };
        let warmup = self.tests.warmup.unwrap_or(default);
        let calibrations = measure::calibrations(&loaded.model, &variants, self)?;
        // Groups of channels need sorted channels; a dense model takes the same time in any order.
        let pruned = variants.last().expect("there is a dense one");
        let loaded = loaded.arranged(pruned, calibrations.first().map(|(_, calibration)| calibration))?;
        let measured = measure::measure(&loaded.model, &variants, &calibrations, self, warmup)?;
        if measured.iter().any(|measured| !measured.same_logits) {
            note(
                "repetitions gave different logits: the device is not deterministic, or its memory is faulty",
            );
        }
        let environment = environment::fields(&loaded.device);
        let settings = settings(&loaded.name, &variants, warmup, self);
        let report = Report::new(environment, settings, &variants, &measured, self.tests.break_even);
        print(&report.text(self.format))
    }
}

/// The settings of a measurement.
fn settings(model: &str, variants: &[Settings], warmup: usize, cli: &Cli) -> Vec<Field> {
    // All pruned variants have the same tuning; the last one is pruned, if any is.
    let tuning = variants.last().expect("there is a dense one");
    vec![
        ("model", json!(model)),
        ("repetitions", json!(cli.tests.repetitions)),
        ("warmup", json!(warmup)),
        ("metric", json!(tuning.metric.name())),
        ("probe_tokens", probe::tokens_json(tuning.probe_tokens)),
        ("probe_samples", json!(tuning.probe_samples)),
        ("probe_order", json!(tuning.probe_order.name())),
        ("parallel_probe", json!(tuning.parallel_probe)),
        ("skip_layers", json!(tuning.skip_layers)),
        ("round_channels", json!(tuning.round_channels)),
        ("compensate", json!(tuning.compensate.to_string())),
        ("prior_tokens", json!(tuning.prior_tokens)),
        ("channel_group", json!(tuning.channel_group)),
        ("history_dtype", json!(tuning.history_layout.dtype.name())),
        ("history_bucket", json!(tuning.history_layout.bucket)),
        ("dense_below", args::dense_below_json(tuning.dense_below)),
        ("seed", json!(tuning.seed)),
    ]
}
