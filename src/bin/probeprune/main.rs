//! The command-line program: see `probeprune --help`.

mod args;
mod calibrate;
mod completions;
mod corpus;
mod demo;
mod device;
mod doctor;
mod failure;
mod generate;
mod input;
mod inspect;
mod interrupt;
mod perplexity;
mod progress;
mod sweep;
mod table;

use std::process::ExitCode;

use args::{Cli, Command};
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::parse();
    interrupt::install();
    failure::exit_code(match cli.command.unwrap_or_default() {
        Command::Demo(args) => demo::run(&args),
        Command::Perplexity(args) => perplexity::run(&args),
        Command::Sweep(args) => sweep::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Doctor => doctor::run(),
        Command::Completions(args) => completions::run(&args),
        Command::Corpus(args) => corpus::run(&args),
    })
}
