//! The project's goals for a GPU: ratios, each with its goal, its limit and the analytic model's expectation.

use std::{
    any::Any,
    fmt::Write,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
};

use probeprune::backend::Backend;
use serde_json::{Value, json};

use crate::{
    clocks,
    measure::{Bench, Finding},
    peers::Trouble,
    rows::Rows,
    timer::Spread,
};

/// A row.
#[derive(Debug)]
pub struct Goal {
    pub number: usize,
    pub what: &'static str,
    /// Whether more is better.
    more: bool,
    /// One for each value.
    pub target: &'static [f64],
    limit: &'static str,
}

const fn goal(
    number: usize,
    what: &'static str,
    more: bool,
    target: &'static [f64],
    limit: &'static str,
) -> Goal {
    Goal { number, what, more, target, limit }
}

/// What a GPU is to reach; shapes are LLaMA-2-7B's.
pub const GOALS: [Goal; 15] = [
    goal(
        1,
        "pruned layer / dense layer (cuBLAS + flash + fused SwiGLU), 20×1024, 20/40/60 %",
        false,
        &[0.84, 0.645, 0.44],
        ".823/.629/.420",
    ),
    goal(
        2,
        "pruned layer / dense layer (cuBLAS + flash + fused SwiGLU), 4×1024, 20/40/60 %",
        false,
        &[0.92, 0.72, 0.52],
        ".89/.70/.49",
    ),
    goal(3, "gathered gate (or up) product / cuBLAS on compact weights, 4×1024", false, &[1.04], "1.0"),
    goal(4, "gathered down product / cuBLAS on compact weights, 4×1024", false, &[1.06], "1.0"),
    goal(5, "head-block q / o product / cuBLAS on compact weights, 4×1024", false, &[1.0, 1.0], ".95"),
    goal(
        6,
        "fused gathered gate, up and SwiGLU / cuBLAS + fused SwiGLU on compact weights, 4×1024",
        false,
        &[0.95],
        ".92",
    ),
    goal(
        7,
        "scores, fusion, top-k and index lists, % of the dense layer, 20×1024 / 4×1024",
        false,
        &[0.3, 1.5],
        ".15/.7 %",
    ),
    goal(8, "top-k of 11,008 / torch.topk", false, &[0.08], "launch"),
    goal(9, "dense product / cuBLAS, 4096³ / 8192³, bf16", false, &[1.0, 1.0], "~.95"),
    goal(10, "pruned / dense layer at 40 %, 1×1024, probe of 5 % of the tokens", false, &[0.75], ".65"),
    goal(
        11,
        "decoding step's layer on the 40 % kept before / dense layer, 1,024 tokens before",
        false,
        &[0.63],
        ".61",
    ),
    goal(12, "decoding product: bytes per second / device copy", true, &[0.93], "1.0"),
    goal(13, "pruned MLP block / 2:4 cuSPARSELt MLP block at equal FLOPs, 20×1024", false, &[0.75], ".65"),
    goal(
        14,
        "memory, pruned with a history of f16 in buckets of 16 / dense, 32 layers, 20×1024",
        false,
        &[1.02],
        "1.01",
    ),
    goal(
        15,
        "whole model: speed over the authors' PyTorch, 20×1024 / 4×1024 / 1×1024",
        true,
        &[1.7, 2.0, 3.0],
        "1.85/2.2/3.5",
    ),
];

impl Goal {
    /// Whether every value is where it should be.
    fn is_met(&self, values: &[f64]) -> bool {
        values.len() == self.target.len()
            && values.iter().zip(self.target).all(
                |(value, target)| {
                    if self.more { value >= target } else { value <= target }
                },
            )
    }
}

/// Where rows go, and what all of them say.
pub struct Report<'a> {
    pub rows: &'a mut Rows,
    /// The GPU's name, where there is one.
    pub device: Option<String>,
    /// Whether the shapes are so small that numbers mean nothing.
    pub reduced: bool,
    /// What the analytic model expects of a row on this GPU.
    pub prediction: &'a dyn Fn(usize) -> Option<Vec<f64>>,
}

/// Measures the rows of these numbers, one after another, whatever becomes of each; whether none failed. `broken` says
/// why nothing can run on the device any longer, if so.
///
/// # Errors
/// A file of rows that cannot be written.
pub fn run<B: Backend>(
    bench: &mut Bench<'_, B>,
    numbers: &[usize],
    broken: &dyn Fn() -> Option<String>,
    report: &mut Report<'_>,
) -> io::Result<bool> {
    let mut fine = true;
    let mut stopped: Option<String> = None;
    for &number in numbers {
        if let Some(why) = &stopped {
            report.not_run(number, why)?;
            continue;
        }
        let before = clocks::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| bench.row(number)));
        let clocks = json!({ "before": before, "after": clocks::now() });
        let failure = match outcome {
            Ok(Ok(finding)) => {
                report.found(number, &finding, clocks)?;
                continue;
            }
            Ok(Err(Trouble::Missing(why))) => {
                report.not_run(number, &why)?;
                continue;
            }
            Ok(Err(Trouble::Failed(error))) => error.to_string(),
            Err(panic) => format!("panic: {}", message(&*panic)),
        };
        report.failed(number, &failure)?;
        fine = false;
        stopped = broken().map(|why| format!("the device broke in row {number}: {why}"));
    }
    Ok(fine)
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("of something unknown")
}

impl Report<'_> {
    /// A row that cannot be measured here, and why.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn not_run(&mut self, number: usize, why: &str) -> io::Result<()> {
        self.line(number, "not run", Some(why), &Finding::default(), Value::Null)
    }

    fn failed(&mut self, number: usize, why: &str) -> io::Result<()> {
        self.line(number, "failed", Some(why), &Finding::default(), Value::Null)
    }

    fn found(&mut self, number: usize, finding: &Finding, clocks: Value) -> io::Result<()> {
        let status = if finding.missing.is_some() { "not run" } else { "passed" };
        self.line(number, status, finding.missing.as_deref(), finding, clocks)
    }

    fn line(
        &mut self,
        number: usize,
        status: &str,
        why: Option<&str>,
        finding: &Finding,
        clocks: Value,
    ) -> io::Result<()> {
        let goal = GOALS.iter().find(|goal| goal.number == number);
        let prediction = (self.prediction)(number);
        let values: Vec<f64> = finding.ratios.iter().map(|spread| spread.median).collect();
        let measured = (!values.is_empty()).then_some(&values);
        let quartiles =
            |spreads: &[Spread]| spreads.iter().map(|spread| spread.quartiles).collect::<Vec<_>>();
        let own_dense = finding.own_dense.as_ref().map(|(spreads, seconds)| {
            let medians: Vec<f64> = spreads.iter().map(|spread| spread.median).collect();
            json!({ "value": medians, "quartiles": quartiles(spreads), "seconds": seconds })
        });
        let met = goal.filter(|_| measured.is_some() && !self.reduced).map(|goal| goal.is_met(&values));
        let fields = json!({
            "goal": number,
            "what": goal.map(|goal| goal.what),
            "value": measured,
            "quartiles": measured.map(|_| quartiles(&finding.ratios)),
            "peer": (!finding.peer.is_empty()).then_some(&finding.peer),
            "own_seconds": finding.own_seconds,
            "peer_seconds": finding.peer_seconds,
            "own_dense": own_dense,
            "prediction": prediction,
            "target": goal.map(|goal| goal.target),
            "limit": goal.map(|goal| goal.limit),
            "met": met,
            "device": self.device,
            "reduced": self.reduced,
            "clocks": clocks,
            "why": why,
        });
        let Value::Object(fields) = fields else { unreachable!("it is one") };
        self.rows.append(status, fields)?;
        let mut text = format!("{number:>3}  {:<88} ", goal.map_or("", |goal| goal.what));
        match why {
            Some(why) => write!(text, "{status}: {why}"),
            None => write!(text, "{:<22}", joined(&values)),
        }
        .expect("memory can be written");
        if let Some((spreads, _)) = &finding.own_dense {
            let medians: Vec<f64> = spreads.iter().map(|spread| spread.median).collect();
            text += &format!(" (over our own dense layer {})", joined(&medians));
        }
        if let Some(goal) = goal {
            text += &format!("  goal {}, limit {}", joined(goal.target), goal.limit);
        }
        if let Some(prediction) = prediction {
            text += &format!(", predicted {}", joined(&prediction));
        }
        println!("{text}");
        Ok(())
    }
}

/// As "0.840/0.645/0.440".
pub fn joined(values: &[f64]) -> String {
    values.iter().map(|value| format!("{value:.3}")).collect::<Vec<_>>().join("/")
}

/// The header of what [`run`] prints.
pub fn print_header(device: &str, reduced: bool) {
    println!("{device}");
    if reduced {
        println!("reduced shapes: the numbers mean nothing");
    }
    println!("{:>3}  {:<88} measured", "row", "ratio");
}
