//! The command-line program: see `probeprune --help`.

mod calibrate;
mod cli;
mod completions;
mod convert;
mod corpus;
mod demo;
mod doctor;
mod export;
mod generate;
mod inspect;
mod perplexity;
mod prompts;
#[path = "../shared/mod.rs"]
mod shared;
mod sweep;

use std::process::ExitCode;

use cli::{Cli, Command};
use shared::{
    args, command_line, device, failure, flags, input, interrupt, probe, progress, statistics, table,
    terminal,
};

fn main() -> ExitCode {
    let cli: Cli = command_line::parse(prompts::attached(std::env::args_os()));
    interrupt::install();
    failure::exit_code(match cli.command.unwrap_or_default() {
        Command::Demo(args) => demo::run(&args),
        Command::Perplexity(args) => perplexity::run(&args),
        Command::Sweep(args) => sweep::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Doctor => doctor::run(),
        Command::Completions(args) => completions::run(&args),
        Command::Corpus(args) => corpus::run(&args),
    })
}
