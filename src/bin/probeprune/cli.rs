//! The command line.

use clap::{Parser, Subcommand};

use crate::{calibrate, completions, convert, corpus, demo, export, generate, inspect, perplexity, sweep};

/// Run LLaMA and OPT checkpoints dense or pruned, with a probe per batch (Probe Pruning, ICLR 2025).
///
/// Without a command, runs demo: dense against Probe Pruning and other methods on a small bundled model.
#[derive(Debug, Parser)]
#[command(name = "probeprune", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Compare all methods with the dense model at 20, 40 and 60 % (the default command)
    Demo(demo::DemoArgs),
    /// Measure perplexity, time and FLOPs, dense or pruned
    Perplexity(perplexity::PerplexityArgs),
    /// Compare methods and ratios on one text: perplexity, time, kept sets, and an HTML report
    Sweep(sweep::SweepArgs),
    /// Run text through the dense model and save a history for later runs
    Calibrate(calibrate::CalibrateArgs),
    /// Write a model's PyTorch weights (pytorch_model.bin) as safetensors files beside them
    Convert(convert::ConvertArgs),
    /// Fold a model with --method fold and save it as a Hugging Face folder
    Export(export::ExportArgs),
    /// Continue prompts, dense or pruned
    ///
    /// For one prompt, or a few, --probe-tokens auto is recommended: the default probe takes half of a prompt.
    Generate(generate::GenerateArgs),
    /// Show a model's config, tensors and memory, and the heads and channels kept at a prune ratio
    Inspect(inspect::InspectArgs),
    /// Show this machine's hardware and this build's contents
    Doctor,
    /// Print a shell's completion script
    Completions(completions::CompletionsArgs),
    /// Print synthetic text
    #[command(hide = true)]
    Corpus(corpus::CorpusArgs),
}

impl Default for Command {
    fn default() -> Self {
        Self::Demo(demo::DemoArgs::default())
    }
}
