//! Which layers attend to a window of tokens only.

use serde_json::Value;

use super::{
    architecture::Architecture,
    fields::{Fields, MAX_SIZE},
};
use crate::error::Result;

/// The window in tokens, and the layers that see all tokens before theirs all the same.
pub(super) type Windows = (Option<usize>, Vec<usize>);

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// As transformers 5 reads it: Mistral has one window for all layers, Qwen2 one for those that `layer_types` names or that
/// `max_window_layers` leaves, and other models have none.
pub(super) fn parse(fields: &Fields, architecture: Architecture, layers: usize) -> Result<Windows> {
    let types = layer_types(fields, layers)?;
    match architecture {
        Architecture::Qwen2 => qwen2(fields, types, layers),
        Architecture::Mistral => {
            let window = match fields.get("sliding_window") {
                None => Some(4_096),
                Some(_) => fields.optional_size("sliding_window")?,
            };
            // transformers ignores the types when it computes, but not when it caches.
            agree(fields, types, window.is_some(), "as sliding_window says")?;
            Ok((window, Vec::new()))
        }
        Architecture::Llama | Architecture::Opt => {
            agree(fields, types, false, "since this class has no windows")?;
            Ok((None, Vec::new()))
        }
    }
}

fn qwen2(fields: &Fields, types: Option<Vec<bool>>, layers: usize) -> Result<Windows> {
    let window = match fields.get("sliding_window") {
        None => Some(4_096),
        Some(_) => fields.optional_size("sliding_window")?,
    };
    // Layers from this one on are windowed.
    let first = fields.whole("max_window_layers", 28, 0, MAX_SIZE)?;
    let used = fields.boolean("use_sliding_window", false)?;
    let Some(window) = window.filter(|_| used) else {
        agree(fields, types, false, "as use_sliding_window and sliding_window say")?;
        return Ok((None, Vec::new()));
    };
    let is_windowed = types.unwrap_or_else(|| (0..layers).map(|layer| layer >= first).collect());
    let full: Vec<usize> = (0..layers).filter(|&layer| !is_windowed[layer]).collect();
    if full.len() == layers { Ok((None, Vec::new())) } else { Ok((Some(window), full)) }
}

/// Whether each layer is windowed, if `layer_types` says so.
fn layer_types(fields: &Fields, layers: usize) -> Result<Option<Vec<bool>>> {
    if !fields.has("layer_types") {
        return Ok(None);
    }
    let is_windowed = |kind: &Value| match kind.as_str() {
        Some(FULL) => Some(false),
        Some(SLIDING) => Some(true),
        _ => None,
    };
    let list = fields.get("layer_types").and_then(Value::as_array).filter(|list| list.len() == layers);
    let types: Option<Vec<bool>> = list.and_then(|list| list.iter().map(is_windowed).collect());
    let refused = || {
        let expected = format!("{FULL} or {SLIDING} for each of {layers} layers");
        fields.wrong_with_help("layer_types", expected, "Other kinds of layers are not supported.")
    };
    types.map(Some).ok_or_else(refused)
}

/// Refuses layer types other than one for all layers, for this reason.
fn agree(fields: &Fields, types: Option<Vec<bool>>, windowed: bool, reason: &str) -> Result<()> {
    if types.iter().flatten().all(|&is_windowed| is_windowed == windowed) {
        return Ok(());
    }
    let kind = if windowed { SLIDING } else { FULL };
    Err(fields.wrong("layer_types", format!("{kind} for every layer, {reason}")))
}
