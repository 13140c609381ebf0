//! The CPU's goals among those of a machine with a GPU as result rows, from what was measured in class A.

use std::io;

use serde_json::{Map, Value, json};

use crate::rows::Rows;

/// Number, ratio, whether more is better, goals.
type Goal = (usize, &'static str, bool, &'static [f64]);

const DENSE: Goal =
    (16, "dense prefill: tokens per second / those of the fastest peer, same model, float32", true, &[1.1]);
const MLP: Goal =
    (17, "pruned MLP block / (FLOP share × dense block), 20×64 and 4×256, 40 %", false, &[1.05, 1.05]);
const AUTHORS: Goal =
    (18, "speed over the authors' operations, 20×64 / 4×256 / 1×128, 40 %", true, &[1.25, 1.45, 2.6]);

/// Writes rows 16 to 18; a row of what was not measured says what it needs.
///
/// # Errors
/// A file that cannot be written.
pub fn write(rows: &mut Rows, class: &Value) -> io::Result<()> {
    match class["mlp"].as_array() {
        Some(blocks) => passed(rows, MLP, blocks.iter().map(block), "its own dense block")?,
        None => not_run(rows, MLP, "needs --items mlp")?,
    }
    let shapes = class["prefill"].as_array().map_or(&[][..], Vec::as_slice);
    let dense = shapes.iter().find(|shape| shape["batch"] == 4);
    match dense.and_then(|shape| best_peer(&shape["dense"]["speed_over"])) {
        Some((name, over)) => passed(rows, DENSE, [of(over)].into_iter(), name)?,
        None => {
            not_run(rows, DENSE, "needs --items prefill, --model, and --pytorch or --peer (tools/peers)")?
        }
    }
    let authors: Vec<&Value> = shapes
        .iter()
        .map(|shape| &shape["pp"]["speed_over_authors"])
        .filter(|over| !over.is_null())
        .collect();
    if authors.is_empty() {
        let why = "needs --items prefill, --model and --pytorch \"PYTHON tools/peers/pytorch.py FOLDER\"";
        return not_run(rows, AUTHORS, why);
    }
    passed(rows, AUTHORS, authors.into_iter().map(of), "the authors' operations")
}

fn block(block: &Value) -> (Value, Value) {
    (block["time_ratio_over_share"].clone(), block["time_ratio_over_share_quartiles"].clone())
}

/// The one that this program is least ahead of.
fn best_peer(speed_over: &Value) -> Option<(&String, &Value)> {
    let ahead = |peer: &(&String, &Value)| peer.1["median"].as_f64().unwrap_or(f64::INFINITY);
    speed_over.as_object()?.iter().min_by(|a, b| ahead(a).total_cmp(&ahead(b)))
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
