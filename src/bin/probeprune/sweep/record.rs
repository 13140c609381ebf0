//! The finished runs of a sweep, one line of JSON each, in a file that starts with their common context.

use std::{
    fs::{self, File, TryLockError},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use probeprune::{Error, output::write_atomically};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{failure::Result, interrupt};

const FILE: &str = "runs.jsonl";
/// Locked while a sweep is at work in its folder.
const LOCK: &str = "sweep.lock";

/// The common context of a folder's runs: their numbers are comparable only if it is the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Context {
    /// Of this program.
    pub(super) version: String,
    pub(super) model: String,
    /// Identifies the model's weights.
    pub(super) fingerprint: String,
    /// Names of the text's files.
    pub(super) text: String,
    /// Of the measured token ids.
    pub(super) tokens_hash: String,
    pub(super) tokens: usize,
    pub(super) seq_len: usize,
    pub(super) batch_size: usize,
    /// Number of times each batch is timed.
    pub(super) rounds: usize,
    /// The calibration's files with their hashes; empty without calibration.
    pub(super) calibration: String,
    /// The GPU, or else the processor and operating system.
    pub(super) machine: String,
    /// "cpu" or "cuda:N".
    pub(super) device: String,
    pub(super) dtype: String,
    pub(super) threads: Option<usize>,
    /// The settings shared by all variants, which each can override.
    pub(super) settings: String,
}

/// One variant at one ratio, measured beside the dense model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// Hash of the context, the variant and its settings.
    pub(super) key: String,
    pub(super) variant: String,
    pub(super) prune_ratio: f64,
    pub(super) settings: String,
    /// Whether kept sets are chosen for every batch.
    pub(super) dynamic: bool,
    pub(super) perplexity: f64,
    pub(super) dense_perplexity: f64,
    /// Mean cross-entropy (nats) of every batch.
    pub(super) batch_losses: Vec<f64>,
    /// Tokens of a timed batch.
    pub(super) batch_tokens: usize,
    /// Of every timed batch, with all of the variant's work.
    pub(super) seconds: Vec<f64>,
    /// Of the dense model on the same batch, right before or after.
    pub(super) dense_seconds: Vec<f64>,
    /// Parts of the time on the same batches.
    pub(super) parts: Vec<Part>,
    /// Of the dense model's projection FLOPs, the probe's included.
    pub(super) flops_share: f64,
    pub(super) probe_flops_share: f64,
    /// Of the batches, to correct a fold; none without corrections.
    #[serde(default)]
    pub(super) probed_share: Option<f64>,
    /// Per layer.
    pub(super) layers: Vec<LayerRecord>,
    /// Of heads and of channels; none without scores.
    pub(super) histograms: [Option<Histogram>; 2],
}

/// A part of the time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) name: String,
    /// Of the dense model's time on the same batch; median.
    pub(super) share: f64,
}

/// A layer's kept heads and channels, in this order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct LayerRecord {
    pub(super) kept: [usize; 2],
    pub(super) of: [usize; 2],
    /// Mean Jaccard index of the kept sets of consecutive batches; none for fixed sets or a single batch.
    pub(super) overlap: [Option<f64>; 2],
}

/// Scores of the last batch in all pruned layers, as multiples of the lowest kept score of their layer: counts in bins over
/// the decades −3 to 3, with scores beyond them in the first and the last bin.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Histogram {
    pub(super) counts: Vec<u32>,
}

impl Histogram {
    pub(super) const BINS: usize = 48;
    pub(super) const DECADES: f64 = 3.0;

    /// Adds a layer's scores; the highest `kept` of them are kept.
    pub(super) fn add(&mut self, scores: &[f32], kept: usize) {
        self.counts.resize(Self::BINS, 0);
        let mut sorted = scores.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let lowest = f64::from(sorted[kept - 1]);
        for &score in scores {
            // 0/0 counts as the lowest kept score; 0 over any other score is −∞ and lands in the first bin.
            let decades = if f64::from(score) == lowest { 0.0 } else { (f64::from(score) / lowest).log10() };
            let bin = (decades + Self::DECADES) / (2.0 * Self::DECADES) * Self::BINS as f64;
            self.counts[(bin.max(0.0) as usize).min(Self::BINS - 1)] += 1;
        }
    }
}

/// The file.
#[derive(Debug)]
pub(super) struct Ledger {
    path: PathBuf,
    context: Context,
    records: Vec<Record>,
    /// Keeps other sweeps away; the system takes it back however the program ends.
    _lock: File,
}

impl Ledger {
    /// Opens `folder`, or creates it, for this sweep alone.
    ///
    /// # Errors
    /// If creating the folder fails, another sweep is at work in it, it holds runs of another context, or a file is damaged.
    pub(super) fn open(folder: &Path, context: Context) -> Result<Self> {
        fs::create_dir_all(folder)
            .map_err(|error| Error::io(folder, "create", error, "Pass a folder as --out."))?;
        let _lock = lock(folder)?;
        let path = folder.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => {
                return Err(
                    Error::io(path, "read", error, "Check its permissions, or pass another --out.").into()
                );
            }
        };
        let mut lines = text.lines().enumerate();
        let mut ledger = Self { path, context, records: Vec::new(), _lock };
        if let Some((_, first)) = lines.next() {
            let found: Context = ledger.parse(0, first)?;
            ledger.compare(&found)?;
        }
        ledger.records = lines.map(|(at, line)| ledger.parse(at, line)).collect::<Result<_>>()?;
        Ok(ledger)
    }

    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    /// All finished runs, in the order of their end.
    pub(super) fn records(&self) -> &[Record] {
        &self.records
    }

    /// Identifies a run with these settings.
    pub(super) fn key(&self, settings: &str) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(line(&self.context).as_bytes()).update(settings.as_bytes());
        hasher.finalize().to_hex()[..16].to_string()
    }

    pub(super) fn holds(&self, key: &str) -> bool {
        self.records.iter().any(|record| record.key == key)
    }

    /// Adds a finished run; an interruption at any moment leaves the file with or without the whole run.
    pub(super) fn add(&mut self, record: Record) -> Result<()> {
        self.records.push(record);
        let text = line(&self.context) + &self.records.iter().map(line).collect::<String>();
        Ok(interrupt::uninterrupted(|| write_atomically(&self.path, |file| file.write_all(text.as_bytes())))?)
    }

    fn parse<T: DeserializeOwned>(&self, at: usize, line: &str) -> Result<T> {
        serde_json::from_str(line).map_err(|error| {
            let what = format!("line {}", at + 1);
            let help = "Pass another --out, or delete the file to start over.";
            Error::file(&self.path, what, "a record of this version", error, help).into()
        })
    }

    /// Refuses a folder of other runs; the error names the first difference.
    fn compare(&self, found: &Context) -> Result<()> {
        let fields = |context: &Context| match serde_json::to_value(context) {
            Ok(serde_json::Value::Object(fields)) => fields,
            _ => unreachable!("a context is an object"),
        };
        let found = fields(found);
        let Some((name, ours)) = fields(&self.context).into_iter().find(|(name, ours)| found[name] != *ours)
        else {
            return Ok(());
        };
        let help = "A folder's runs share one context: pass another --out, or that sweep's flags.";
        Err(Error::file(&self.path, name.replace('_', " "), ours, &found[&name], help).into())
    }
}

/// Locks a folder. Where its file system has no locks, nothing keeps other sweeps away.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    let failed =
        |error| Error::io(&path, "lock", error, "Check that the folder is writable, or pass another --out.");
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            let help = "Wait until it ends, or pass another --out.";
            Err(Error::file(folder, "folder", "no other sweep at work in it", "one that has not ended", help)
                .into())
        }
        Err(TryLockError::Error(error)) if error.kind() != ErrorKind::Unsupported => {
            Err(failed(error).into())
        }
        _ => Ok(file),
    }
}

fn line(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("records have string keys and no failing parts") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_binned_by_their_distance_from_the_cut() {
        let mut histogram = Histogram::default();
        histogram.add(&[100.0, 1.0, 1.05, 0.0, 1e-9, 1e9], 4);
        // The cut is 1: 0 decades is bin 24, 2 decades bin 40; beyond three decades there are only the edges.
        let filled: Vec<_> = histogram.counts.iter().enumerate().filter(|(_, count)| **count > 0).collect();
        assert_eq!(filled, [(0, &2), (24, &2), (40, &1), (47, &1)]);
        histogram.add(&[0.0, 0.0], 1);
        assert_eq!(histogram.counts[24], 4);
    }
}
