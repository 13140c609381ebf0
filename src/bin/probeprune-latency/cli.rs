//! The command line.

use clap::{Args, Parser, ValueEnum};
use probeprune::{
    Error,
    config::ModelConfig,
    prune::settings::{Method, Settings},
};

use crate::{
    args::{ComputeArgs, TuningArgs, names, repetitions},
    failure::Result,
    numbers::Numbers,
    shape::Shape,
};

/// Measure the latency of prompts and decoding, dense and pruned, for a model or random weights in a model's shape.
///
/// Pruned times include the probe, its scores, the selection and the update of history. The repetitions of all
/// configurations alternate, and ratios compare neighbouring repetitions, so that the noise of a machine cancels out.
#[derive(Debug, Parser)]
#[command(name = "probeprune-latency", version)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) weights: WeightArgs,
    /// Read weights into memory instead of mapping the files
    #[arg(long, help_heading = "Model")]
    pub(crate) no_mmap: bool,
    /// Number of layers of the --shape [default: all]
    #[arg(long, value_name = "N", conflicts_with = "model", help_heading = "Model", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) layers: Option<u16>,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// Pruning methods, separated by commas
    #[arg(
        long,
        value_name = "METHODS",
        default_value = "pp",
        value_delimiter = ',',
        value_parser = names::<Method>(Method::ALL, Method::name),
        help_heading = "Method"
    )]
    method: Vec<Method>,
    /// Shares of heads and channels to prune, separated by commas; dense is always measured too
    #[arg(
        long,
        value_name = "RATIOS",
        default_value = "0,0.2,0.4,0.6",
        value_delimiter = ',',
        help_heading = "Method"
    )]
    prune_ratio: Vec<f64>,
    #[command(flatten)]
    pub(crate) tuning: TuningArgs,
    #[command(flatten)]
    pub(crate) tests: TestArgs,
    /// Output format
    #[arg(long, value_enum, default_value_t, help_heading = "Output")]
    pub(crate) format: Format,
}

/// Where the weights come from.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct WeightArgs {
    /// Random weights in the shape of this model; nothing is downloaded
    #[arg(long, value_enum, help_heading = "Model")]
    pub(crate) shape: Option<Shape>,
    /// A folder, bundled:NAME, or org/name in the local Hugging Face cache
    #[arg(long, value_name = "M", help_heading = "Model")]
    pub(crate) model: Option<String>,
}

/// The measurements. Lists have the syntax of [`Numbers`].
#[derive(Debug, Args)]
#[command(next_help_heading = "Tests")]
pub(crate) struct TestArgs {
    /// Tokens of a prompt, a list such as 1,4 or 128-1024*2 (doubling) [default: 128,512; with --break-even: 16-1024*2]
    #[arg(long, value_name = "LIST")]
    prompt_len: Option<Numbers>,
    /// Tokens to decode after each prompt, a list such as 32 or 0-96+32 (steps of 32)
    #[arg(long, value_name = "LIST", default_value = "32")]
    gen_len: Numbers,
    /// Samples of a batch, a list such as 1,4,20
    #[arg(long, value_name = "LIST", default_value = "1")]
    batch_size: Numbers,
    /// Measure prompts without a cache, decoding after a prompt, or both together
    #[arg(
        long = "test",
        value_name = "TESTS",
        value_enum,
        default_value = "prompt,decode,prompt+decode",
        value_delimiter = ','
    )]
    tests: Vec<Test>,
    /// Timed repetitions of each configuration
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = repetitions(1))]
    pub(crate) repetitions: usize,
    /// Warm-up repetitions [default: 1; on a GPU 6, so that all graphs are made]
    #[arg(long, value_name = "N", value_parser = repetitions(0))]
    pub(crate) warmup: Option<usize>,
    /// Measure again with time stamps between the steps of a forward, and show the time of each step
    #[arg(long)]
    pub(crate) breakdown: bool,
    /// Find the batch size, in tokens, from which pruning is faster; measures prompts only
    #[arg(long)]
    pub(crate) break_even: bool,
}

/// The timed part of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Test {
    /// Prompts: a batch without a cache, up to the next token of each sample
    Prompt,
    /// Decoding after a prompt, which is not timed
    Decode,
    /// A prompt and decoding
    #[value(name = "prompt+decode")]
    PromptDecode,
}

/// Output formats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Text tables
    #[default]
    Table,
    /// Markdown tables
    Markdown,
    /// A header and comma-separated rows; samples separated by semicolons
    Csv,
    /// One JSON value with all details
    Json,
    /// One JSON object per row
    Jsonl,
}

impl TestArgs {
    /// Sizes to measure: prompts, batches, tokens to decode. Only the last list may have a 0.
    pub(crate) fn sizes(&self) -> Result<[Vec<usize>; 3]> {
        let prompts = match &self.prompt_len {
            Some(Numbers(given)) => given.clone(),
            None if self.break_even => (4..=10).map(|power| 1 << power).collect(),
            None => vec![128, 512],
        };
        for (flag, numbers) in [("--prompt-len", &prompts), ("--batch-size", &self.batch_size.0)] {
            if numbers.contains(&0) {
                return Err(Error::argument(flag, "numbers of at least 1", 0, "Leave out the 0.").into());
            }
        }
        if !self.wants(Test::Prompt) && self.gen_len.0 == [0] {
            let help = "Pass a larger --gen-len, or add prompt to --test.";
            return Err(
                Error::argument("--test", "something to measure", "decoding of 0 tokens", help).into()
            );
        }
        Ok([prompts, self.batch_size.0.clone(), self.gen_len.0.clone()])
    }

    /// Whether a test is to be measured.
    pub(crate) fn wants(&self, test: Test) -> bool {
        if self.break_even { test == Test::Prompt } else { self.tests.contains(&test) }
    }
}

impl Cli {
    /// The settings to compare, dense ones first.
    pub(crate) fn variants(&self, config: &ModelConfig) -> Result<Vec<Settings>> {
        // With --layers every layer is pruned: they represent the whole model's pruned layers.
        let skipped = if self.layers.is_some() { Vec::new() } else { Settings::default().skip_layers };
        let settings = |method, ratio| self.tuning.settings(method, ratio, &skipped, config);
        let mut variants = vec![settings(Method::None, 0.0)?];
        for &method in self.method.iter().filter(|&&method| method != Method::None) {
            for &ratio in &self.prune_ratio {
                let variant = settings(method, ratio)?;
                if ratio > 0.0 && !variants.contains(&variant) {
                    variants.push(variant);
                }
            }
        }
        Ok(variants)
    }
}
