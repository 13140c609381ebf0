//! Rows of results, and their formats.

use probeprune::{model::timeline::Step, prune::settings::Settings};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::{
    break_even::{self, BreakEven},
    cli::{Format, Test},
    measure::Measured,
    statistics::{Summary, median},
    table::{Table, json, percent},
};

/// A name and a value.
pub(crate) type Field = (&'static str, Value);

/// Fields as a JSON object in this order.
struct Object<'a>(Vec<&'a [Field]>);

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied().flatten().map(|(name, value)| (name, value)))
    }
}

/// Each as an object.
fn objects(all: &[Vec<Field>]) -> Vec<Object<'_>> {
    all.iter().map(|fields| Object(vec![fields])).collect()
}

/// The JSON.
#[derive(Serialize)]
struct Whole<'a> {
    environment: Object<'a>,
    settings: Object<'a>,
    rows: Vec<Object<'a>>,
    break_even: Option<Vec<Object<'a>>>,
}

/// A test of a variant.
#[derive(Debug)]
pub(crate) struct Row {
    /// As "prompt512", "decode32", "prompt512+decode32".
    test: String,
    pub(crate) variant: usize,
    pub(crate) method: String,
    pub(crate) prune_ratio: f64,
    batch_size: usize,
    prompt_len: usize,
    gen_len: usize,
    /// Tokens of the prompts' batch.
    pub(crate) rows: usize,
    /// Tokens timed by a repetition.
    tokens: usize,
    seconds: Vec<f64>,
    /// Median of the ratios to the dense run of the same round.
    pub(crate) time_ratio: f64,
    flops_share: Option<f64>,
    dense_batches: usize,
    logits: String,
    same_logits: bool,
    breakdown: Option<([f64; Step::ALL.len()], f64)>,
}

impl Row {
    /// `dense` is the same test's dense measurement.
    fn new(measured: &Measured, dense: &Measured, settings: &Settings) -> Self {
        let Measured { shape, decoded, .. } = *measured;
        let (prompt, decoding) = (format!("prompt{}", shape.tokens), format!("decode{decoded}"));
        let (test, tokens) = match measured.test {
            Test::Prompt => (prompt, shape.tokens),
            Test::Decode => (decoding, decoded),
            Test::PromptDecode => (format!("{prompt}+{decoding}"), shape.tokens + decoded),
        };
        let ratios = measured.seconds.iter().zip(&dense.seconds).map(|(pruned, dense)| pruned / dense);
        Self {
            test,
            variant: measured.variant,
            method: if measured.variant == 0 { "dense" } else { settings.method.name() }.to_string(),
            prune_ratio: settings.prune_ratio,
            batch_size: shape.samples,
            prompt_len: shape.tokens,
            gen_len: decoded,
            rows: shape.rows(),
            tokens: shape.samples * tokens,
            seconds: measured.seconds.clone(),
            time_ratio: median(&ratios.collect::<Vec<_>>()),
            flops_share: measured.flops_share,
            dense_batches: measured.dense_batches,
            logits: measured.logits.clone(),
            same_logits: measured.same_logits,
            breakdown: measured.breakdown.as_ref().map(|breakdown| (breakdown.seconds, breakdown.whole)),
        }
    }

    /// Whether no batch fell back to dense.
    pub(crate) fn is_pruned(&self) -> bool {
        self.dense_batches == 0
    }

    fn milliseconds(&self) -> Summary {
        Summary::of(&self.seconds.iter().map(|seconds| 1e3 * seconds).collect::<Vec<_>>())
    }

    fn tokens_per_second(&self) -> Summary {
        Summary::of(&self.seconds.iter().map(|seconds| self.tokens as f64 / seconds).collect::<Vec<_>>())
    }

    fn fields(&self) -> Vec<Field> {
        let (times, speeds) = (self.milliseconds(), self.tokens_per_second());
        let samples: Vec<f64> = self.seconds.iter().map(|seconds| 1e3 * seconds).collect();
        let mut fields = vec![
            ("test", json!(self.test)),
            ("method", json!(self.method)),
            ("prune_ratio", json!(self.prune_ratio)),
            ("batch_size", json!(self.batch_size)),
            ("prompt_len", json!(self.prompt_len)),
            ("gen_len", json!(self.gen_len)),
            ("tokens", json!(self.tokens)),
            ("mean_ms", json!(times.mean)),
            ("stddev_ms", json!(times.standard_deviation)),
            ("median_ms", json!(times.median)),
            ("min_ms", json!(times.min)),
            ("tokens_per_second", json!(speeds.mean)),
            ("tokens_per_second_stddev", json!(speeds.standard_deviation)),
            ("time_ratio", json!(self.time_ratio)),
            ("flops_share", json!(self.flops_share)),
            ("dense_batches", json!(self.dense_batches)),
            ("logits_blake3", json!(self.logits)),
            ("same_logits", json!(self.same_logits)),
            ("samples_ms", json!(samples)),
        ];
        const STEPS: [&str; Step::ALL.len()] =
            ["embedding_ms", "attention_ms", "mlp_ms", "probe_ms", "selection_ms", "history_ms", "head_ms"];
        for (step, name) in STEPS.into_iter().enumerate() {
            fields.push((name, json!(self.breakdown.map(|(steps, _)| 1e3 * steps[step]))));
        }
        fields.push(("recorded_ms", json!(self.breakdown.map(|(_, whole)| 1e3 * whole))));
        fields
    }
}

/// The whole report.
pub(crate) struct Report {
    /// Build, machine and device.
    pub(crate) environment: Vec<Field>,
    /// The settings of the measurement.
    pub(crate) settings: Vec<Field>,
    pub(crate) rows: Vec<Row>,
    /// With --break-even.
    pub(crate) break_even: Option<Vec<BreakEven>>,
}

impl Report {
    pub(crate) fn new(
        environment: Vec<Field>,
        settings: Vec<Field>,
        variants: &[Settings],
        measured: &[Measured],
        break_even: bool,
    ) -> Self {
        let dense_of = |pruned: &Measured| {
            let same = |other: &&Measured| {
                (other.variant, other.test, other.shape, other.decoded)
                    == (0, pruned.test, pruned.shape, pruned.decoded)
            };
            measured.iter().find(same).expect("the dense variant runs every test")
        };
        let row = |measured| Row::new(measured, dense_of(measured), &variants[measured.variant]);
        let rows: Vec<Row> = measured.iter().map(row).collect();
        let break_even = break_even.then(|| break_even::find(&rows));
        Self { environment, settings, rows, break_even }
    }

    pub(crate) fn text(&self, format: Format) -> String {
        match format {
            Format::Table => self.document(Table::text),
            Format::Markdown => self.document(Table::markdown),
            Format::Csv => self.csv(),
            Format::Json => {
                let rows: Vec<Vec<Field>> = self.rows.iter().map(Row::fields).collect();
                let found: Option<Vec<Vec<Field>>> =
                    self.break_even.as_ref().map(|found| found.iter().map(BreakEven::fields).collect());
                json(&Whole {
                    environment: Object(vec![&self.environment]),
                    settings: Object(vec![&self.settings]),
                    rows: objects(&rows),
                    break_even: found.as_deref().map(objects),
                })
            }
            Format::Jsonl => {
                let line = |row: &Row| {
                    let fields = row.fields();
                    let object = Object(vec![&self.environment, &self.settings, &fields]);
                    serde_json::to_string(&object).expect("fields have no failing parts") + "\n"
                };
                self.rows.iter().map(line).collect()
            }
        }
    }

    fn csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(Vec::new());
        for (at, row) in self.rows.iter().enumerate() {
            let fields = [&self.environment[..], &self.settings, &row.fields()].concat();
            if at == 0 {
                writer.write_record(fields.iter().map(|(name, _)| name)).expect("memory takes everything");
            }
            writer.write_record(fields.iter().map(|(_, value)| cell(value))).expect("rows are alike");
        }
        String::from_utf8(writer.into_inner().expect("memory takes everything")).expect("text is UTF-8")
    }

    /// Environment, settings, and tables.
    fn document(&self, draw: impl Fn(&Table) -> String) -> String {
        let line = |fields: &[Field]| {
            let said = fields.iter().filter(|(_, value)| !cell(value).is_empty());
            said.map(|(name, value)| format!("{name} {}", cell(value))).collect::<Vec<_>>().join(", ")
        };
        let mut out =
            format!("{}\n{}\n\n{}", line(&self.environment), line(&self.settings), draw(&self.times()));
        if self.rows.iter().any(|row| row.breakdown.is_some()) {
            out += "\nTime of each step, with time stamps (decoding: the last step), ms:\n";
            out += &draw(&self.steps());
        }
        for found in self.break_even.iter().flatten() {
            out += &format!("\n{}\n", found.sentence());
        }
        let fallen: usize = self.rows.iter().map(|row| row.dense_batches).sum();
        if fallen > 0 {
            out += &format!(
                "\n--dense-below ran {fallen} of the batches dense; the row after theirs has the time of pruning them.\n"
            );
        }
        out
    }

    fn times(&self) -> Table {
        let mut table = Table::new([
            "Test",
            "Batch",
            "Method",
            "Pruned",
            "Tokens/s",
            "Mean ms",
            "Median",
            "Min",
            "Time",
            "FLOPs",
            "Fell back",
            "Logits",
        ]);
        for row in &self.rows {
            let (times, speeds) = (row.milliseconds(), row.tokens_per_second());
            table.row([
                row.test.clone(),
                format!("{}", row.batch_size),
                row.method.clone(),
                percent(row.prune_ratio),
                format!("{:.1} ± {:.1}", speeds.mean, speeds.standard_deviation),
                format!("{:.3} ± {:.3}", times.mean, times.standard_deviation),
                format!("{:.3}", times.median),
                format!("{:.3}", times.min),
                percent(row.time_ratio),
                row.flops_share.map_or("–".to_string(), percent),
                row.dense_batches.to_string(),
                format!("{}{}", &row.logits[..8], if row.same_logits { "" } else { " (differ)" }),
            ]);
        }
        table
    }

    fn steps(&self) -> Table {
        let mut table = Table::new([
            "Test",
            "Batch",
            "Method",
            "Pruned",
            "Whole",
            "Embedding",
            "Attention",
            "MLP",
            "Probe",
            "Selection",
            "History",
            "Head",
        ]);
        for row in &self.rows {
            let Some((steps, whole)) = row.breakdown else { continue };
            let facts = [
                row.test.clone(),
                row.batch_size.to_string(),
                row.method.clone(),
                percent(row.prune_ratio),
                format!("{:.3}", 1e3 * whole),
            ];
            table.row(facts.into_iter().chain(steps.map(|seconds| format!("{:.3}", 1e3 * seconds))));
        }
        table
    }
}

/// A value as text; lists are separated by semicolons.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(";"),
        other => other.to_string(),
    }
}

#[cfg(test)]
impl Row {
    /// A pruned row, for tests.
    pub(crate) fn example(rows: usize, time_ratio: f64) -> Self {
        Self {
            test: "prompt16".to_string(),
            variant: 1,
            method: "pp".to_string(),
            prune_ratio: 0.4,
            batch_size: 1,
            prompt_len: 16,
            gen_len: 0,
            rows,
            tokens: 16,
            seconds: vec![1.0],
            time_ratio,
            flops_share: None,
            dense_batches: 0,
            logits: String::new(),
            same_logits: true,
            breakdown: None,
        }
    }
}
