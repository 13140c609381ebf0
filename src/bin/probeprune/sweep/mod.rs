//! `probeprune sweep`: compares methods and ratios on one text, each alternating with the dense model, and writes a
//! report.

mod command;
mod figures;
mod measure;
mod plots;
mod quartiles;
mod record;
mod report;
mod summary;
mod variant;

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

use clap::Args;
use probeprune::{
    Error,
    backend::Backend,
    output::write_atomically,
    perplexity::PerplexityOptions,
    prune::{calibration::Calibration, settings::Settings},
};

use self::{
    command::Flags,
    measure::Batches,
    record::{Context, Ledger, Record},
    variant::Variant,
};
use crate::{
    args::{CalibrationArgs, DataArgs, MethodArgs, ModelArgs, repetitions},
    device::{Task, machine, with_model},
    failure::{Result, note, print},
    input::Loaded,
    interrupt, progress,
    table::{Format, csv, json},
};

/// Flags of `sweep`.
#[derive(Debug, Args)]
#[command(mut_arg("method", |arg| arg.hide(true)), mut_arg("prune_ratio", |arg| arg.hide(true)))]
pub(crate) struct SweepArgs {
    /// The first field, because the others take their values out of the matches.
    #[command(flatten)]
    flags: Flags,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    /// Variants to compare: METHOD or METHOD+FLAG=VALUE+…, with the method flags below, such as pp+probe-tokens=0.25
    #[arg(
        long,
        visible_alias = "methods",
        value_name = "VARIANTS",
        value_delimiter = ',',
        default_value = "pp,wanda-sp,flap",
        help_heading = "Sweep"
    )]
    variants: Vec<Variant>,
    /// Shares of heads and channels to prune; every variant runs at each
    #[arg(
        long,
        value_name = "RATIOS",
        value_delimiter = ',',
        default_value = "0.2,0.4,0.6",
        allow_negative_numbers = true,
        help_heading = "Sweep"
    )]
    ratios: Vec<f64>,
    /// Timed runs of every batch; perplexity is that of the first
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = repetitions(1), help_heading = "Sweep")]
    rounds: usize,
    /// Folder for runs.jsonl, sweep.csv, sweep.json and report.html; interrupted sweeps resume from it
    #[arg(long, value_name = "FOLDER", help_heading = "Output")]
    out: PathBuf,
    /// Format of the result on standard output
    #[arg(long, value_enum, default_value_t, help_heading = "Output")]
    format: Format,
    #[command(flatten)]
    method: MethodArgs,
    #[command(flatten)]
    calibration: CalibrationArgs,
}

/// A variant at a ratio.
struct Planned {
    label: String,
    settings: Settings,
    key: String,
}

/// Runs the command.
pub(crate) fn run(args: &SweepArgs) -> Result<()> {
    for (flag, given, instead) in [
        ("--method", args.method.method.is_some(), "--variants"),
        ("--prune-ratio", args.method.prune_ratio.is_some(), "--ratios"),
    ] {
        if given {
            let help = format!("A sweep takes lists: pass {instead}.");
            return Err(Error::argument(flag, "nothing", "a value", help).into());
        }
    }
    let model = &args.model;
    with_model(&model.model, !model.no_mmap, &model.compute, args)
}

impl Task for &SweepArgs {
    fn run<B: Backend>(self, loaded: Loaded<B>) -> Result<()> {
        let config = &loaded.model.config;
        let mut settings = Vec::new();
        for &ratio in &self.ratios {
            for variant in &self.variants {
                settings.push((variant, variant.settings(&self.method, ratio, config)?));
            }
        }
        let needs =
            |s: &Settings| s.method.needs_calibration() || s.channel_group > 1 || s.compensate.rank() > 0;
        if let Some((variant, _)) = settings.iter().find(|(_, s)| needs(s))
            && !self.is_calibrated()
        {
            let help = "Pass --history FILE, --calibrate-text or --calibrate-tokens.";
            let name = format!("--variants {}", variant.label);
            return Err(Error::argument(name, "a calibration", "none", help).into());
        }
        let (windows, seq_len) = loaded.windows(&self.data)?;
        let base = self.method.settings(config)?;
        let flags = self.resolved_flags(seq_len, &base);
        let mut ledger = Ledger::open(&self.out, self.context(&loaded, &windows, seq_len, &base)?)?;
        let mut planned: Vec<Planned> = Vec::new();
        for (variant, settings) in settings {
            let key = ledger.key(&format!("{} {settings:?}", variant.label));
            if !planned.iter().any(|other| other.key == key) {
                planned.push(Planned { label: variant.label.clone(), settings, key });
            }
        }
        let all = planned.len();
        planned.retain(|run| !ledger.holds(&run.key));
        if planned.len() < all {
            let (done, folder) = (all - planned.len(), self.out.display());
            note(&format!("{done} of {all} runs are in {folder} already: skipped"));
        }
        self.measure(loaded, &planned, &windows, seq_len, &mut ledger)?;
        write_results(&self.out, &ledger, &flags)?;
        let rows = summary::rows(ledger.records());
        print(&match self.format {
            Format::Table => summary::table(&rows).text(),
            Format::Markdown => summary::table(&rows).markdown(),
            Format::Csv => csv(&rows),
            Format::Json => json(&report::everything(&ledger)),
        })
    }
}

impl SweepArgs {
    fn is_calibrated(&self) -> bool {
        let CalibrationArgs { history, calibrate_text, calibrate_tokens, .. } = &self.calibration;
        history.is_some() || !calibrate_text.is_empty() || calibrate_tokens.is_some()
    }

    /// The flags, with the defaults that depend on the model.
    fn resolved_flags(&self, seq_len: usize, base: &Settings) -> Flags {
        let layers = base.skip_layers.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        let mut flags = self.flags.clone();
        flags.add_default("seq-len", &seq_len.to_string());
        flags.add_default("skip-layers", if layers.is_empty() { "none" } else { &layers });
        flags
    }

    /// The context of all runs.
    fn context<B: Backend>(
        &self,
        loaded: &Loaded<B>,
        windows: &[u32],
        seq_len: usize,
        base: &Settings,
    ) -> Result<Context> {
        let names = |paths: &[PathBuf]| {
            let names = paths.iter().map(|path| path.file_name().unwrap_or_default().to_string_lossy());
            names.collect::<Vec<_>>().join(" ")
        };
        let text = match &self.data.tokens {
            Some(tensor) => format!("{}:{}", names(std::slice::from_ref(&tensor.file)), tensor.key),
            None => names(&self.data.text),
        };
        Ok(Context {
            version: env!("CARGO_PKG_VERSION").to_string(),
            model: loaded.name.clone(),
            fingerprint: loaded.model.fingerprint.clone(),
            text,
            tokens_hash: digits(blake3::hash(bytemuck::cast_slice(windows))),
            tokens: windows.len(),
            seq_len,
            batch_size: self.data.batch_size,
            rounds: self.rounds,
            calibration: self.calibration_name()?,
            machine: loaded.device.gpu.clone().unwrap_or_else(machine),
            device: loaded.device.name.clone(),
            dtype: loaded.device.dtype.to_string(),
            threads: loaded.device.threads,
            settings: format!("{base:?}"),
        })
    }

    /// The calibration's files, windows and content.
    fn calibration_name(&self) -> Result<String> {
        let CalibrationArgs { history, calibrate_text, calibrate_tokens, calibrate_samples } =
            &self.calibration;
        let tensor = calibrate_tokens.as_ref();
        let files: Vec<&PathBuf> =
            history.iter().chain(calibrate_text).chain(tensor.map(|tensor| &tensor.file)).collect();
        let mut name = String::new();
        for path in files {
            let mut hasher = blake3::Hasher::new();
            File::open(path)
                .and_then(|file| hasher.update_reader(file).map(drop))
                .map_err(|error| Error::io(path, "read", error, "Check the path and its permissions."))?;
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            name += &format!("{file} ({}) ", digits(hasher.finalize()));
        }
        if let Some(tensor) = tensor {
            name += &format!("{} ", tensor.key);
        }
        if let (false, Some(samples)) = (name.is_empty(), calibrate_samples) {
            name += &format!("{samples} windows");
        }
        Ok(name.trim_end().to_string())
    }

    /// Measures the planned runs and saves each result at once.
    fn measure<B: Backend>(
        &self,
        loaded: Loaded<B>,
        planned: &[Planned],
        windows: &[u32],
        seq_len: usize,
        ledger: &mut Ledger,
    ) -> Result<()> {
        // One calibration serves all variants.
        let settings: Vec<&Settings> = planned.iter().map(|run| &run.settings).collect();
        let batch_size = self.data.batch_size;
        let calibration: Option<Calibration> =
            loaded.calibration(&self.calibration, &settings, seq_len, batch_size)?;
        // Variants that keep single channels give the same results with sorted channels.
        let grouped = settings.iter().find(|settings| settings.channel_group > 1);
        let loaded = match grouped {
            Some(settings) => loaded.arranged(settings, calibration.as_ref())?,
            None => loaded,
        };
        let options = PerplexityOptions {
            seq_len,
            batch_size: batch_size.min(windows.len() / seq_len),
            warmup_batches: 0,
        };
        let batches = Batches { windows, options, rounds: self.rounds };
        let bar = progress::bar("measuring", planned.len() * batches.count() * batches.rounds);
        for run in planned {
            let measured = measure::measure(&loaded, &run.settings, calibration.as_ref(), batches, &bar)?;
            ledger.add(Record { key: run.key.clone(), variant: run.label.clone(), ..measured })?;
        }
        bar.finish_and_clear();
        Ok(())
    }
}

/// Writes the files derived from the runs.
fn write_results(folder: &Path, ledger: &Ledger, flags: &Flags) -> Result<()> {
    let rows = summary::rows(ledger.records());
    for (name, text) in [
        ("sweep.csv", csv(&rows)),
        ("sweep.json", json(&report::everything(ledger))),
        ("report.html", report::html(ledger, &rows, flags)),
    ] {
        interrupt::uninterrupted(|| {
            write_atomically(&folder.join(name), |file| file.write_all(text.as_bytes()))
        })?;
    }
    Ok(())
}

/// Sixteen hex digits of a content's hash.
fn digits(hash: blake3::Hash) -> String {
    hash.to_hex()[..16].to_string()
}
