//! The probe of a run: how the programs report it.

use probeprune::prune::{
    BatchShape, counts,
    settings::{DenseBelow, Method, ProbeTokens, Settings},
};
use serde_json::{Value, json};

use crate::failure::note;

/// Probes of more than one in so many of a batch's tokens are noted.
const LARGE: usize = 10;

/// As JSON: a number, or "auto".
pub(crate) fn tokens_json(tokens: ProbeTokens) -> Value {
    match tokens {
        ProbeTokens::Share(share) => json!(share),
        ProbeTokens::Auto => json!("auto"),
    }
}

/// Notes, once for all batches of a run, that a probe is large where `auto` would take fewer tokens. The model has `layers`.
pub(crate) fn note_large(layers: usize, batches: impl IntoIterator<Item = (Settings, BatchShape)>) {
    let large = batches.into_iter().filter_map(|(settings, batch)| {
        let rows = probed_rows(layers, &settings, batch)?;
        let auto = Settings { probe_tokens: ProbeTokens::Auto, ..settings };
        let auto = counts::probe_shape(&auto, batch).rows();
        (rows * LARGE > batch.rows() && auto < rows).then_some((rows, auto, batch))
    });
    let share = |&(rows, _, batch): &(usize, usize, BatchShape)| rows as f64 / batch.rows() as f64;
    let largest =
        large.reduce(|largest, other| if share(&other) > share(&largest) { other } else { largest });
    if let Some((rows, auto, batch)) = largest {
        let BatchShape { samples, tokens } = batch;
        note(&format!(
            "the probe of a batch of {samples} × {tokens} tokens takes {rows} of them, which costs time; \
             --probe-tokens auto takes {auto}"
        ));
    }
}

/// Rows that a probe runs through the whole model for this batch, if there is such a probe. Under `full-batch` that is what is
/// asked for; where the dense model runs prompts, the probe is part of them.
fn probed_rows(layers: usize, settings: &Settings, batch: BatchShape) -> Option<usize> {
    let ratio = counts::layer_ratio(settings, layers).ok().flatten()?;
    let probes = match settings.method {
        Method::ProbePruning => match settings.dense_below {
            DenseBelow::Tokens(tokens) => batch.rows() >= tokens,
            // A probe that is too large for the batch leaves it dense.
            DenseBelow::Auto => false,
        },
        Method::Fold => settings.adapt.is_on() && !settings.prefills_dense(),
        _ => false,
    };
    (probes && ratio > 0.0).then(|| counts::probe_shape(settings, batch).rows())
}
