//! `probeprune perplexity`: perplexity, time and FLOPs on a text.

use std::path::{Path, PathBuf};

use clap::Args;
use probeprune::{
    backend::Backend,
    output::{OutTensor, check_writable, write_safetensors},
    perplexity::{PerplexityOptions, PromptOptions, measure, measure_prompts, prompt_shares, shares},
    prune::{BatchShape, settings::Settings},
    session::{Limits, Session},
};
use serde::Serialize;

use crate::{
    args::{CalibrationArgs, DataArgs, MethodArgs, ModelArgs, dense_below_json, repetitions},
    device::{Task, with_model},
    failure::{Result, note, print},
    input::{Loaded, check_learns, save_learned},
    interrupt, probe, progress,
    table::{Format, Table, csv, json, percent},
};

/// Flags of `perplexity`.
#[derive(Debug, Args)]
pub(crate) struct PerplexityArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    method: MethodArgs,
    #[command(flatten)]
    calibration: CalibrationArgs,
    /// Measure generation: the first N tokens of each window are a prompt, and the others are scored as they are decoded
    #[arg(long, value_name = "N", conflicts_with_all = ["warmup_batches", "dump"], help_heading = "Data")]
    prompt_tokens: Option<usize>,
    /// Warm up with the first W batches, without counting them or updating history
    #[arg(long, value_name = "W", default_value_t = 0, value_parser = repetitions(0), help_heading = "Output")]
    warmup_batches: usize,
    /// Output format
    #[arg(long, value_enum, default_value_t, help_heading = "Output")]
    format: Format,
    /// Save every batch's kept sets, and the logits of its first two samples
    #[arg(long, value_name = "OUT.safetensors", help_heading = "Output")]
    dump: Option<PathBuf>,
    /// Save the history with what the run learned about its fold (--adapt), for later runs to go on from
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    save_history: Option<PathBuf>,
}

/// The result; also the columns of CSV.
#[derive(Debug, Serialize)]
struct Summary {
    model: String,
    method: &'static str,
    prune_ratio: f64,
    seq_len: usize,
    batch_size: usize,
    tokens: usize,
    perplexity: f64,
    seconds: f64,
    tokens_per_second: f64,
    /// Projection FLOPs, those of the probe included, as a share of the dense model's.
    flops_share: f64,
    probe_flops_share: f64,
    /// Share of the batches that were probed to correct a fold; none without corrections.
    probed_share: Option<f64>,
    /// How far the fold's error on the last probe exceeded calibration's, of the outputs' variance; none without corrections.
    excess_error: Option<f64>,
    warmup_batches: usize,
    /// "cpu" or "cuda:N".
    device: String,
    /// The GPU's name and driver.
    gpu: Option<String>,
    /// Number format of activations.
    dtype: &'static str,
    /// CPU threads; none on a GPU.
    threads: Option<usize>,
    /// Windows that history was calibrated with; 0 for none.
    calibration_samples: usize,
}

/// The whole JSON.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    summary: Summary,
    batch_losses: Vec<f64>,
    window_losses: Vec<f64>,
    /// Of --prompt-tokens: the tokens of a prompt, and the seconds of every batch's prompts and per token that it decoded.
    prompt_tokens: Option<usize>,
    prefill_seconds: Option<Vec<f64>>,
    decode_seconds_per_token: Option<Vec<f64>>,
    /// Batches that ran dense because of --dense-below, warm-up included.
    dense_batches: usize,
    settings: SettingsReport,
    kept: Vec<KeptReport>,
}

/// The settings in effect.
#[derive(Debug, Serialize)]
struct SettingsReport {
    metric: &'static str,
    /// A share, or "auto".
    probe_tokens: serde_json::Value,
    probe_samples: f64,
    probe_order: &'static str,
    probe_from: Option<usize>,
    parallel_probe: bool,
    allocation: &'static str,
    fixed_probe_weight: Option<f64>,
    skip_layers: Vec<usize>,
    round_channels: usize,
    momentum: f64,
    compensate: String,
    prior_tokens: usize,
    channel_group: usize,
    flap_attention_factor: u32,
    fold_choice: &'static str,
    adapt: String,
    adapt_metric: &'static str,
    adapt_forgetting: f64,
    adapt_prior_tokens: usize,
    adapt_every: usize,
    adapt_threshold: f64,
    prefill: &'static str,
    seed: u64,
    /// A number of tokens, or "auto".
    dense_below: serde_json::Value,
}

impl SettingsReport {
    fn new(settings: &Settings) -> Self {
        Self {
            metric: settings.metric.name(),
            probe_tokens: probe::tokens_json(settings.probe_tokens),
            probe_samples: settings.probe_samples,
            probe_order: settings.probe_order.name(),
            probe_from: settings.probe_from,
            parallel_probe: settings.parallel_probe,
            allocation: settings.allocation.name(),
            fixed_probe_weight: settings.fixed_probe_weight,
            skip_layers: settings.skip_layers.clone(),
            round_channels: settings.round_channels,
            momentum: settings.momentum,
            compensate: settings.compensate.to_string(),
            prior_tokens: settings.prior_tokens,
            channel_group: settings.channel_group,
            flap_attention_factor: settings.flap_attention_factor,
            fold_choice: settings.fold_choice.name(),
            adapt: settings.adapt.mode.to_string(),
            adapt_metric: settings.adapt.metric.name(),
            adapt_forgetting: settings.adapt.forgetting,
            adapt_prior_tokens: settings.adapt.prior_tokens,
            adapt_every: settings.adapt.every,
            adapt_threshold: settings.adapt.threshold,
            prefill: settings.prefill.name(),
            seed: settings.seed,
            dense_below: dense_below_json(settings.dense_below),
        }
    }
}

/// A layer's kept heads and channels.
#[derive(Debug, Serialize)]
struct KeptReport {
    heads: usize,
    channels: usize,
}

/// Runs the command.
pub(crate) fn run(args: &PerplexityArgs) -> Result<()> {
    for path in args.dump.iter().chain(&args.save_history) {
        check_writable(path)?;
    }
    let model = &args.model;
    with_model(&model.model, !model.no_mmap, &model.compute, args)
}

impl Task for &PerplexityArgs {
    fn run<B: Backend>(self, loaded: Loaded<B>) -> Result<()> {
        let settings = self.method.settings(&loaded.model.config)?;
        check_learns(self.save_history.as_ref(), &settings)?;
        let (tokens, seq_len) = loaded.windows(&self.data)?;
        let batch_size = self.data.batch_size;
        let count = tokens.len() / seq_len;
        let options = PerplexityOptions {
            seq_len,
            batch_size: batch_size.min(count),
            warmup_batches: self.warmup_batches,
        };
        let prompts = self.prompt_tokens.map(|prompt_tokens| PromptOptions {
            seq_len,
            batch_size: options.batch_size,
            prompt_tokens,
        });
        prompts.map_or(Ok(()), |prompts| prompts.check())?;
        let calibration = loaded.calibration(&self.calibration, &[&settings], seq_len, batch_size)?;
        let loaded = loaded.arranged(&settings, calibration.as_ref())?;
        let (prompt_or_window, capacity) =
            prompts.map_or((seq_len, 0), |prompts| (prompts.prompt_tokens, seq_len));
        let shape = BatchShape { samples: options.batch_size, tokens: prompt_or_window };
        let limits = Limits { samples: shape.samples, tokens: shape.tokens, capacity };
        let mut session = Session::new(loaded.model.clone(), settings.clone(), limits, calibration.as_ref())?;
        probe::note_large(loaded.model.config.num_hidden_layers, [(settings.clone(), shape)]);
        let calibration_samples = calibration.as_ref().map_or(0, |calibration| calibration.samples);
        let mut dump = Vec::new();
        let bar = progress::bar("measuring", count.div_ceil(options.batch_size));
        let (measured, times, share) = match prompts {
            None => {
                let measured = measure(&mut session, &tokens, options, |batch, session| {
                    if self.dump.is_some() {
                        add_batch(&mut dump, batch, session, seq_len)?;
                    }
                    bar.inc(1);
                    Ok(())
                })?;
                (measured, None, shares(&session, count, options))
            }
            Some(prompts) => {
                let (measured, times) = measure_prompts(&mut session, &tokens, prompts, || bar.inc(1))?;
                (measured, Some(times), prompt_shares(&session, count, prompts))
            }
        };
        bar.finish_and_clear();
        let report = Report {
            summary: Summary {
                model: loaded.name.clone(),
                method: settings.method.name(),
                prune_ratio: settings.prune_ratio,
                seq_len,
                batch_size,
                tokens: measured.tokens,
                perplexity: measured.perplexity(),
                seconds: measured.seconds,
                tokens_per_second: measured.tokens_per_second(),
                flops_share: share.total,
                probe_flops_share: share.probe,
                probed_share: session.probed_share(),
                excess_error: session.excess_error(),
                warmup_batches: self.warmup_batches,
                device: loaded.device.name.clone(),
                gpu: loaded.device.gpu.clone(),
                dtype: loaded.device.dtype,
                threads: loaded.device.threads,
                calibration_samples,
            },
            batch_losses: measured.batch_losses,
            window_losses: measured.window_losses,
            prompt_tokens: self.prompt_tokens,
            prefill_seconds: times.as_ref().map(|times| times.prefill.clone()),
            decode_seconds_per_token: times.map(|times| times.decode_per_token),
            dense_batches: session.dense_batches(),
            settings: SettingsReport::new(&settings),
            kept: session
                .layer_counts()
                .iter()
                .map(|layer| KeptReport { heads: layer.heads, channels: layer.channels })
                .collect(),
        };
        if session.dense_batches() > 0 {
            note(&format!("--dense-below ran {} batches dense", session.dense_batches()));
        }
        if let Some(path) = &self.dump {
            save(path, &dump)?;
        }
        if let Some(path) = &self.save_history {
            save_learned(path, calibration, &session)?;
        }
        print(&match self.format {
            Format::Table => table(&report.summary).text(),
            Format::Markdown => table(&report.summary).markdown(),
            Format::Csv => csv(&[report.summary]),
            Format::Json => json(&report),
        })
    }
}

fn table(summary: &Summary) -> Table {
    let mut table = Table::new([
        "Model",
        "Device",
        "Method",
        "Pruned",
        "Perplexity",
        "Tokens",
        "Seconds",
        "Tokens/s",
        "FLOPs",
        "Probe FLOPs",
    ]);
    table.row([
        summary.model.clone(),
        format!("{} {}", summary.device, summary.dtype),
        summary.method.to_string(),
        percent(summary.prune_ratio),
        format!("{:.4}", summary.perplexity),
        summary.tokens.to_string(),
        format!("{:.2}", summary.seconds),
        format!("{:.0}", summary.tokens_per_second),
        percent(summary.flops_share),
        percent(summary.probe_flops_share),
    ]);
    table
}

/// Adds the logits of samples 0 and 1, and the kept sets of every pruned layer.
fn add_batch<B: Backend>(
    dump: &mut Vec<(String, OutTensor)>,
    batch: usize,
    session: &mut Session<B>,
    seq_len: usize,
) -> probeprune::Result<()> {
    let logits = session.logits(2)?;
    let config = &session.model().config;
    let (layers, vocab_size) = (config.num_hidden_layers, config.vocab_size);
    let shape = [logits.len() / (seq_len * vocab_size), seq_len, vocab_size];
    dump.push((format!("batch{batch}.logits"), OutTensor::f32(&shape, &logits)));
    for layer in 0..layers {
        if let Some(heads) = session.kept_heads(layer)? {
            dump.push((format!("batch{batch}.layers.{layer}.attention.kept_heads"), OutTensor::i32(&heads)));
        }
        if let Some(channels) = session.kept_channels(layer)? {
            dump.push((format!("batch{batch}.layers.{layer}.mlp.kept_channels"), OutTensor::i32(&channels)));
        }
    }
    Ok(())
}

fn save(path: &Path, dump: &[(String, OutTensor)]) -> Result<()> {
    Ok(interrupt::uninterrupted(|| write_safetensors(path, dump, None))?)
}
