//! The command line.

use clap::{Parser, Subcommand};

use crate::{calibrate, completions, corpus, demo, generate, inspect, perplexity, sweep};

/// Runs LLaMA and OPT checkpoints densely and pruned by a probe (Probe Pruning, ICLR 2025).
///
/// Without a command, a demonstration on a small bundled model: dense against Probe Pruning and other methods.
#[derive(Debug, Parser)]
#[command(name = "probeprune", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Compare dense, pp, wanda-sp, flap and random at 20, 40 and 60 % (what runs without a command)
    Demo(demo::DemoArgs),
    /// Measure perplexity, time and FLOPs, dense or pruned
    Perplexity(perplexity::PerplexityArgs),
    /// Compare methods and ratios on one text: perplexity, time, kept sets, and a report to look at
    Sweep(sweep::SweepArgs),
    /// Run text densely once and save what history and the static methods need
    Calibrate(calibrate::CalibrateArgs),
    /// Continue prompts, dense or pruned
    Generate(generate::GenerateArgs),
    /// Show a model's config, tensors, memory needed, and what a prune ratio keeps
    Inspect(inspect::InspectArgs),
    /// Show what this machine offers and what this build contains
    Doctor,
    /// Write a shell's completion script to standard output
    Completions(completions::CompletionsArgs),
    /// Write synthetic text to standard output
    #[command(hide = true)]
    Corpus(corpus::CorpusArgs),
}

impl Default for Command {
    fn default() -> Self {
        Self::Demo(demo::DemoArgs::default())
    }
}
