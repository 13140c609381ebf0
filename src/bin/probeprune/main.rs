//! The command-line program: see `probeprune --help`.

mod args;
mod calibrate;
mod completions;
mod failure;
mod input;
mod interrupt;
mod perplexity;
mod progress;
mod table;

use std::process::ExitCode;

use args::{Cli, Command};
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::parse();
    interrupt::install();
    failure::exit_code(match cli.command {
        Command::Perplexity(args) => perplexity::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Completions(args) => completions::run(&args),
    })
}
