//! Groups of flags that several commands share.

use std::{path::PathBuf, str::FromStr};

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use probeprune::{
    Error,
    config::ModelConfig,
    prune::{
        counts,
        settings::{
            Adapt, AdaptMetric, AdaptSettings, Allocation, Compensation, DenseBelow, FoldChoice,
            HistoryDtype, HistoryLayout, Method, Metric, Prefill, ProbeOrder, ProbeTokens, Settings,
        },
    },
};
use serde_json::{Value, json};

use crate::{
    device::{DeviceChoice, DtypeChoice},
    failure::{Result, note},
    flags,
};

/// Which model, and how to run it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// A folder, bundled:NAME, or org/name in the local Hugging Face cache
    #[arg(long, value_name = "M")]
    pub(crate) model: String,
    /// Read weights and history into memory instead of mapping the files
    #[arg(long)]
    pub(crate) no_mmap: bool,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
}

/// Which device computes, and how.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Device")]
pub(crate) struct ComputeArgs {
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    #[command(flatten)]
    pub(crate) threads: ThreadArgs,
}

/// Which device, and the number format there.
#[derive(Clone, Copy, Debug, Default, Args)]
#[command(next_help_heading = "Device")]
pub(crate) struct DeviceArgs {
    /// cpu, cuda (the first GPU) or cuda:N; auto takes the first usable GPU, else the CPU
    #[arg(long, value_name = "auto|cpu|cuda[:N]", default_value = "auto")]
    pub(crate) device: DeviceChoice,
    /// Number format of products; auto is f32 on the CPU, and on a GPU f16 for f16 checkpoints, else bf16
    #[arg(long, value_enum, default_value_t)]
    pub(crate) dtype: DtypeChoice,
}

/// How many threads.
#[derive(Debug, Default, Args)]
pub(crate) struct ThreadArgs {
    /// CPU threads; 0 uses every core. Results do not depend on it
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1024))]
    pub(crate) threads: u16,
}

/// The data to measure, and its batches.
#[derive(Debug, Args)]
#[command(next_help_heading = "Data")]
pub(crate) struct DataArgs {
    /// Text files, tokenised as one text
    #[arg(long, value_name = "FILE", num_args = 1.., required_unless_present = "tokens", conflicts_with = "tokens")]
    pub(crate) text: Vec<PathBuf>,
    /// Token ids instead of text: an integer tensor of one or two dimensions, whose rows are concatenated
    #[arg(long, value_name = "FILE.safetensors:KEY")]
    pub(crate) tokens: Option<TensorKey>,
    /// Tokens per window; windows do not overlap [default: the model's context, at most 1024]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    pub(crate) seq_len: Option<usize>,
    /// Windows per batch
    #[arg(long, value_name = "B", default_value_t = 4, value_parser = at_least_one())]
    pub(crate) batch_size: usize,
    /// Measure at most T tokens, rounded down to whole windows
    #[arg(long, value_name = "T")]
    pub(crate) max_tokens: Option<usize>,
}

/// How, and how much, to prune.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Method")]
pub(crate) struct MethodArgs {
    /// Pruning method [default: pp with --prune-ratio, else none]
    #[arg(long, value_parser = names::<Method>(Method::ALL, Method::name))]
    pub(crate) method: Option<Method>,
    /// Share of heads and channels to prune, averaged over all layers; 0 to below 1
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    pub(crate) prune_ratio: Option<f64>,
    #[command(flatten)]
    pub(crate) tuning: TuningArgs,
}

/// The method's settings except its name and ratio.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Method")]
pub(crate) struct TuningArgs {
    /// Score of channels and heads under pp
    #[arg(long, default_value_t = Metric::Ppsp, value_parser = names::<Metric>(Metric::ALL, Metric::name))]
    metric: Metric,
    /// Share of a sample's tokens in the probe; auto takes at most half of them, and of all samples at most about 5 % of the
    /// batch's tokens, so that the probe of a small batch, such as one prompt, is cheap too
    #[arg(long, value_name = "SHARE|auto", default_value_t = ProbeTokens::PAPER, value_parser = setting::<ProbeTokens>, allow_negative_numbers = true)]
    probe_tokens: ProbeTokens,
    /// Share of a batch's samples in the probe
    #[arg(long, value_name = "SHARE", default_value_t = 0.05, allow_negative_numbers = true)]
    probe_samples: f64,
    /// What to select the probe by, in this order
    #[arg(
        long,
        value_name = "ORDER",
        default_value_t = ProbeOrder::TokensSamples,
        value_parser = names::<ProbeOrder>(ProbeOrder::ALL, ProbeOrder::name)
    )]
    probe_order: ProbeOrder,
    /// Probe only among the first N samples of a batch, to see how the others fare
    #[arg(long, value_name = "N")]
    probe_from: Option<usize>,
    /// Take the probe from the residual before the previous block, so that the two could run in parallel
    #[arg(long)]
    parallel_probe: bool,
    /// Fixed weight of the probe against history, instead of a weight by importance
    #[arg(long, value_name = "W", allow_negative_numbers = true)]
    fixed_probe_weight: Option<f64>,
    /// How blocks share what is kept: uniform, or by the losses that `calibrate --losses` measured, at the same FLOPs
    #[arg(long, value_name = "HOW", default_value_t = Allocation::Uniform, value_parser = names::<Allocation>(Allocation::ALL, Allocation::name))]
    allocation: Allocation,
    /// Layers that stay dense, such as 0,1,2; or none [default: 0,1,2, or those of them that the model has]
    #[arg(long, value_name = "LAYERS")]
    skip_layers: Option<LayerList>,
    /// Round an MLP's kept channels up to a multiple of N; 1 does not round
    #[arg(long, value_name = "N", default_value_t = 64)]
    round_channels: usize,
    /// Share of the old history kept in each update
    #[arg(long, value_name = "SHARE", default_value_t = 0.99, allow_negative_numbers = true)]
    momentum: f64,
    /// Number format of history in memory; f16 stores square roots
    #[arg(long, value_name = "DTYPE", default_value_t = HistoryDtype::F32, value_parser = names::<HistoryDtype>(HistoryDtype::ALL, HistoryDtype::name))]
    history_dtype: HistoryDtype,
    /// Token places averaged into one row of history; 1 is exact
    #[arg(long, value_name = "SLOTS", default_value_t = 1)]
    history_bucket: usize,
    /// Compensation for pruned channels: none, probe-mean (their mean over the probe), linear or linear:RANK (a low-rank
    /// map of the block's input, fitted by calibration). pp takes all of them, wanda-sp probe-mean
    #[arg(long, value_name = "HOW", default_value_t, value_parser = setting::<Compensation>)]
    compensate: Compensation,
    /// Weight of the calibration mean under --compensate, in probe tokens; 0 takes the probe's mean alone
    #[arg(long, value_name = "N", default_value_t = 40)]
    prior_tokens: usize,
    /// Keep MLP channels in groups of N (1, 8 or 16), sorted by calibration
    #[arg(long, value_name = "N", default_value_t = 1)]
    channel_group: usize,
    /// Weight of a head in FLAP's global ranking: 4 counts q, k, v and o; 2 counts q and o, for GQA
    #[arg(long, value_name = "N", default_value_t = 4)]
    flap_attention_factor: u32,
    /// How --method fold chooses what it keeps: pivot (what explains most of the rest) or score (as pp, by variance)
    #[arg(long, value_name = "HOW", default_value_t = FoldChoice::Pivot, value_parser = names::<FoldChoice>(FoldChoice::ALL, FoldChoice::name))]
    fold_choice: FoldChoice,
    /// Correct --method fold by a probe: none, probe or probe:TOKENS (of each batch). --parallel-probe corrects after the
    /// batch
    #[arg(long, value_name = "HOW", default_value_t, value_parser = setting::<Adapt>)]
    adapt: Adapt,
    /// What the correction knows of kept channels: full (their second moments) or diagonal (their variances)
    #[arg(long, value_name = "HOW", default_value_t = AdaptMetric::Diagonal, value_parser = names::<AdaptMetric>(AdaptMetric::ALL, AdaptMetric::name))]
    adapt_metric: AdaptMetric,
    /// Share of their weight that earlier tokens keep at each correction; 1 forgets nothing
    #[arg(long, value_name = "SHARE", default_value_t = AdaptSettings::default().forgetting, allow_negative_numbers = true)]
    adapt_forgetting: f64,
    /// Tokens that calibration counts as in corrections
    #[arg(long, value_name = "N", default_value_t = AdaptSettings::default().prior_tokens)]
    adapt_prior_tokens: usize,
    /// Probe every n-th batch while the fold fits the text
    #[arg(long, value_name = "N", default_value_t = AdaptSettings::default().every)]
    adapt_every: usize,
    /// Probe every batch while the fold's excess error is above this; see docs/method.md, section 13
    #[arg(long, value_name = "X", default_value_t = AdaptSettings::default().threshold, allow_negative_numbers = true)]
    adapt_threshold: f64,
    /// Which model runs prompts under --method fold: pruned (the folded one) or dense (the one that was folded; its rows are
    /// the probe of --adapt). The folded one decodes
    #[arg(long, value_name = "MODEL", default_value_t = Prefill::Pruned, value_parser = names::<Prefill>(Prefill::ALL, Prefill::name))]
    prefill: Prefill,
    /// Seed of --method random and of sampling
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Run batches of fewer tokens (samples × tokens) dense; auto runs those dense that pruning would make no faster, by their
    /// expected cost on the device; 0 prunes every batch, as in the paper
    #[arg(long, value_name = "TOKENS|auto", default_value_t = DenseBelow::NEVER, value_parser = setting::<DenseBelow>)]
    pub(crate) dense_below: DenseBelow,
}

impl MethodArgs {
    /// The settings for a model, after every check that needs no weights.
    pub(crate) fn settings(&self, config: &ModelConfig) -> Result<Settings> {
        let method = match (self.method, self.prune_ratio) {
            (Some(method), _) => method,
            (None, Some(_)) => Method::ProbePruning,
            (None, None) => Method::None,
        };
        if method != Method::None && self.prune_ratio.is_none() {
            let help = "0.4 prunes 40 % of heads and channels.";
            let expected = format!("a ratio for --method {method}");
            return Err(Error::argument("--prune-ratio", expected, "none", help).into());
        }
        self.tuning.settings(
            method,
            self.prune_ratio.unwrap_or(0.0),
            &Settings::default().skip_layers,
            config,
        )
    }
}

impl TuningArgs {
    /// The settings of a method at a ratio for a model, after every check that needs no weights. Without --skip-layers,
    /// those of `skip_layers` that the model has stay dense.
    pub(crate) fn settings(
        &self,
        method: Method,
        prune_ratio: f64,
        skip_layers: &[usize],
        config: &ModelConfig,
    ) -> Result<Settings> {
        let layers = config.num_hidden_layers;
        let mut settings = Settings {
            method,
            prune_ratio,
            metric: self.metric,
            probe_tokens: self.probe_tokens,
            probe_samples: self.probe_samples,
            probe_order: self.probe_order,
            probe_from: self.probe_from,
            parallel_probe: self.parallel_probe,
            fixed_probe_weight: self.fixed_probe_weight,
            allocation: self.allocation,
            skip_layers: match &self.skip_layers {
                Some(LayerList(skip)) => skip.clone(),
                None => skip_layers.iter().copied().filter(|&layer| layer < layers).collect(),
            },
            round_channels: self.round_channels,
            momentum: self.momentum,
            history_layout: HistoryLayout { dtype: self.history_dtype, bucket: self.history_bucket },
            compensate: self.compensate,
            prior_tokens: self.prior_tokens,
            channel_group: self.channel_group,
            flap_attention_factor: self.flap_attention_factor,
            fold_choice: self.fold_choice,
            adapt: AdaptSettings {
                mode: self.adapt,
                metric: self.adapt_metric,
                forgetting: self.adapt_forgetting,
                prior_tokens: self.adapt_prior_tokens,
                every: self.adapt_every,
                threshold: self.adapt_threshold,
            },
            prefill: self.prefill,
            seed: self.seed,
            dense_below: self.dense_below,
        };
        settings.check()?;
        if method == Method::None {
            settings.prune_ratio = 0.0;
        }
        if method == Method::Flap {
            counts::layer_ratio(&settings, layers)?;
        } else {
            // What a calibration measured is not known yet.
            counts::kept(&Settings { allocation: Allocation::Uniform, ..settings.clone() }, config, None)?;
        }
        if settings.prune_ratio > 0.0 && (0..layers).all(|layer| settings.skip_layers.contains(&layer)) {
            note(&format!("nothing is pruned: --skip-layers names all {layers} layers"));
        }
        Ok(settings)
    }
}

/// Text or tokens to calibrate with, or a saved history.
#[derive(Debug, Args)]
#[command(next_help_heading = "Calibration")]
pub(crate) struct CalibrationArgs {
    /// A history file from `probeprune calibrate` for this model and --seq-len
    #[arg(long, value_name = "FILE", conflicts_with_all = ["calibrate_text", "calibrate_tokens"])]
    pub(crate) history: Option<PathBuf>,
    /// Text files to calibrate with
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "calibrate_tokens")]
    pub(crate) calibrate_text: Vec<PathBuf>,
    /// Token ids to calibrate with
    #[arg(long, value_name = "FILE.safetensors:KEY")]
    pub(crate) calibrate_tokens: Option<TensorKey>,
    /// Windows of --seq-len tokens to calibrate with [default: all, at most 128]
    #[arg(long, value_name = "N")]
    pub(crate) calibrate_samples: Option<usize>,
}

/// `FILE.safetensors:KEY`.
#[derive(Clone, Debug)]
pub(crate) struct TensorKey {
    /// Before the last colon.
    pub(crate) file: PathBuf,
    /// After it.
    pub(crate) key: String,
}

impl FromStr for TensorKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.rsplit_once(':') {
            Some((file, key)) if !file.is_empty() && !key.is_empty() => {
                Ok(Self { file: file.into(), key: key.to_string() })
            }
            _ => Err("expected FILE:TENSOR, such as tokens.safetensors:eval".into()),
        }
    }
}

/// `0,1,2`, or `none` or nothing for no layer.
#[derive(Clone, Debug)]
pub(crate) struct LayerList(Vec<usize>);

impl FromStr for LayerList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() || text == "none" {
            return Ok(Self(Vec::new()));
        }
        let layers: Result<Vec<usize>, _> = text.split(',').map(|layer| layer.trim().parse()).collect();
        let mut layers = layers.map_err(|_| "expected layer numbers separated by commas, or none")?;
        layers.sort_unstable();
        layers.dedup();
        Ok(Self(layers))
    }
}

/// Parses one of the names of `all`; the help lists them.
pub(crate) fn names<T>(all: &'static [T], name: fn(T) -> &'static str) -> impl TypedValueParser<Value = T>
where
    T: Copy + Send + Sync + FromStr<Err = Error> + 'static,
{
    PossibleValuesParser::new(all.iter().map(move |&value| name(value))).try_map(|text| text.parse::<T>())
}

/// Parses a setting of the library.
pub(crate) fn setting<T: FromStr<Err = Error>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error| flags::message(&error))
}

/// As JSON: a number, or "auto".
pub(crate) fn dense_below_json(below: DenseBelow) -> Value {
    match below {
        DenseBelow::Tokens(tokens) => json!(tokens),
        DenseBelow::Auto => json!("auto"),
    }
}

/// Parses how often to repeat something, at least `least` times. More than 100 000 is a typing error.
pub(crate) fn repetitions(least: i64) -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u32).range(least..=100_000).map(|count| count as usize)
}

/// Parses a count of at least 1.
pub(crate) fn at_least_one() -> impl TypedValueParser<Value = usize> {
    clap::value_parser!(u32).range(1..).map(|count| count as usize)
}
