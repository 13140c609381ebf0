//! `probeprune calibrate`: saves the moments of a dense pass for later runs.

use std::path::PathBuf;

use clap::Args;
use probeprune::{
    backend::Backend,
    output::check_writable,
    prune::settings::{Compensation, Method},
    session::CalibrationOptions,
};

use crate::{
    args::{ModelArgs, TensorKey, at_least_one, names, setting},
    device::{Task, with_model},
    failure::{Result, print},
    input::Loaded,
    interrupt,
};

/// Flags of `calibrate`.
#[derive(Debug, Args)]
pub(crate) struct CalibrateArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Text files, tokenised as one text
    #[arg(
        long,
        alias = "calibrate-text",
        value_name = "FILE",
        num_args = 1..,
        required_unless_present = "tokens",
        conflicts_with = "tokens"
    )]
    text: Vec<PathBuf>,
    /// Token ids instead of text
    #[arg(long, alias = "calibrate-tokens", value_name = "FILE.safetensors:KEY")]
    tokens: Option<TensorKey>,
    /// Tokens per window [default: the model's context, at most 1024]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    seq_len: Option<usize>,
    /// Windows per batch
    #[arg(long, value_name = "B", default_value_t = 4, value_parser = at_least_one())]
    batch_size: usize,
    /// Windows to calibrate with [default: all, at most 128]
    #[arg(long, visible_alias = "samples", value_name = "N", value_parser = at_least_one())]
    calibrate_samples: Option<usize>,
    /// Compensation of later runs: linear or linear:RANK fits low-rank maps, in a second pass
    #[arg(long, value_name = "HOW", default_value_t = Compensation::ProbeMean, value_parser = setting::<Compensation>)]
    compensate: Compensation,
    /// Also gather the second moments that --method fold needs; they take C·(C + 1)/2 floats per block of C channels
    #[arg(long)]
    fold: bool,
    /// Memory for second moments at a time, in GiB; more of them take further passes
    #[arg(long, value_name = "GIB", default_value_t = 4, value_parser = at_least_one())]
    fold_memory: usize,
    /// Also measure what pruning each block loses under these methods (pp, fold), for --allocation measured
    #[arg(long, value_name = "METHODS", value_delimiter = ',', value_parser = names::<Method>(&[Method::ProbePruning, Method::Fold], Method::name))]
    losses: Vec<Method>,
    /// The history file to write
    #[arg(long, value_name = "HISTORY.safetensors")]
    out: PathBuf,
}

/// Runs the command.
pub(crate) fn run(args: &CalibrateArgs) -> Result<()> {
    check_writable(&args.out)?;
    let model = &args.model;
    with_model(&model.model, !model.no_mmap, &model.compute, args)
}

impl Task for &CalibrateArgs {
    fn run<B: Backend>(self, loaded: Loaded<B>) -> Result<()> {
        let tokens = loaded.tokens(&self.text, self.tokens.as_ref())?;
        // FLAP's moments and means too, so that one file serves every method.
        let options = CalibrationOptions {
            seq_len: loaded.seq_len(self.seq_len),
            batch_size: self.batch_size,
            flap: true,
            linear_rank: self.compensate.rank(),
            fold: self.fold,
            fold_memory: self.fold_memory.saturating_mul(1 << 30),
        };
        let mut calibration = loaded.calibrate(&tokens, self.calibrate_samples, options)?;
        for &method in &self.losses {
            calibration.losses.push(loaded.losses(method, &calibration, &tokens)?);
        }
        interrupt::uninterrupted(|| calibration.save(&self.out))?;
        print(&format!(
            "{}: {} windows of {} tokens of {}\n",
            self.out.display(),
            calibration.samples,
            calibration.seq_len,
            loaded.name
        ))
    }
}
