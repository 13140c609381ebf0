//! The CPU's goals as result rows, from what was measured.

use std::io;

use serde_json::{Map, Value, json};

use crate::rows::Rows;

/// Number, ratio, whether more is better, goals.
type Goal = (usize, &'static str, bool, &'static [f64]);

const DENSE: Goal =
    (16, "dense prefill: tokens per second / those of the fastest peer, same model, float32", true, &[1.0]);
const MLP: Goal =
    (17, "pruned MLP block / (FLOP share × dense block), 20×64 and 4×256, 40 %", false, &[1.05, 1.05]);
const AUTHORS: Goal =
    (18, "speed over the authors' operations, 20×64 / 4×256 / 1×128, 40 %", true, &[1.25, 1.45, 2.6]);

/// Writes row 17 of the MLP blocks that were measured.
///
/// # Errors
/// A file that cannot be written.
pub fn mlp(rows: &mut Rows, blocks: &[Value]) -> io::Result<()> {
    let ratio = |block: &Value| {
        (block["time_ratio_over_share"].clone(), block["time_ratio_over_share_quartiles"].clone())
    };
    passed(rows, MLP, blocks.iter().map(ratio), "its own dense block")
}

/// Writes rows 16 and 18 of a whole model; `None` where there was none.
///
/// # Errors
/// A file that cannot be written.
pub fn model(rows: &mut Rows, model: Option<&Value>) -> io::Result<()> {
    let Some(model) = model else {
        let why = "needs --model, and --pytorch or --peer (tools/peers)";
        not_run(rows, DENSE, why)?;
        return not_run(rows, AUTHORS, why);
    };
    // The fastest peer is the one that this program is least ahead of.
    let ahead = |peer: &(&String, &Value)| peer.1["median"].as_f64().unwrap_or(f64::INFINITY);
    let peers = model["prefill"]["speed_over"].as_object();
    match peers.and_then(|peers| peers.iter().min_by(|a, b| ahead(a).total_cmp(&ahead(b)))) {
        Some((name, over)) => passed(rows, DENSE, [of(over)].into_iter(), name)?,
        None => not_run(rows, DENSE, "needs --pytorch or --peer (tools/peers)")?,
    }
    match model["authors"].as_array() {
        Some(grids) => {
            passed(rows, AUTHORS, grids.iter().map(|grid| of(&grid["speed_over"])), "the authors' operations")
        }
        None => {
            not_run(rows, AUTHORS, "needs --pytorch \"PYTHON tools/peers/pytorch.py FOLDER --interactive\"")
        }
    }
}

/// Median and quartiles of a ratio.
fn of(ratio: &Value) -> (Value, Value) {
    (ratio["median"].clone(), ratio["quartiles"].clone())
}

fn passed(
    rows: &mut Rows,
    goal: Goal,
    ratios: impl Iterator<Item = (Value, Value)>,
    peer: &str,
) -> io::Result<()> {
    let (_, _, more, targets) = goal;
    let (values, quartiles): (Vec<Value>, Vec<Value>) = ratios.unzip();
    let is_met = |(value, target): (&Value, &f64)| {
        value.as_f64().is_some_and(|value| if more { value >= *target } else { value <= *target })
    };
    let met = values.len() == targets.len() && values.iter().zip(targets).all(is_met);
    let mut fields = fields(goal);
    fields.extend([
        ("value".to_string(), values.into()),
        ("quartiles".to_string(), quartiles.into()),
        ("peer".to_string(), peer.into()),
        ("met".to_string(), met.into()),
    ]);
    rows.append("passed", fields)
}

fn not_run(rows: &mut Rows, goal: Goal, why: &str) -> io::Result<()> {
    let mut fields = fields(goal);
    fields.insert("why".to_string(), why.into());
    rows.append("not run", fields)
}

/// What every row has.
fn fields((number, what, _, targets): Goal) -> Map<String, Value> {
    let fields = json!({
        "goal": number, "what": what, "value": null, "peer": null, "prediction": null, "target": targets, "device": "cpu",
        "reduced": false,
    });
    let Value::Object(fields) = fields else { unreachable!("it is one") };
    fields
}
