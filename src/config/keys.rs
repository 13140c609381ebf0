//! What becomes of the keys of config.json that nothing here reads.

use serde_json::Value;

use super::{architecture::Architecture, fields::Fields};
use crate::error::{Result, printable};

type Fits = fn(&Value) -> bool;

/// Keys that would change what is computed, and the only value for which they do not; `null` means the same as no key.
const FIXED: [(&str, &str, Fits); 8] = [
    ("add_cross_attention", "false (cross-attention is not supported)", is_false),
    ("attention_chunk_size", "null (attention in chunks is not supported)", |_| false),
    ("compression_config", "no such key (compressed weights are not supported)", |_| false),
    ("is_causal", "true (attention to later tokens is not supported)", |value| *value == Value::Bool(true)),
    ("is_encoder_decoder", "false (encoders are not supported)", is_false),
    ("mlp_layer_types", "\"dense\" for every layer (experts are not supported)", all_dense),
    ("per_layer_config", "null (settings per layer are not supported)", |_| false),
    ("pruned_heads", "no heads (pruned heads are seen from the weights' shapes)", is_empty),
];

/// Keys that look as if they said how a model is built, but say how transformers computes.
const IRRELEVANT: [&str; 9] = [
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_flash_attn_2_enabled",
    "attn_implementation",
    "chunk_size_feed_forward",
    "use_flash_attention",
    "use_flash_attention_2",
    "use_flash_attn",
];

/// Parts of names that say how a model is built.
const STRUCTURAL: [&str; 30] = [
    "activation",
    "adapter",
    "alibi",
    "attention",
    "attn",
    "bias",
    "chunk",
    "embed",
    "expert",
    "ffn",
    "head",
    "hidden",
    "interleave",
    "layer",
    "logit",
    "lora",
    "mask",
    "mlp",
    "moe",
    "multiplier",
    "norm",
    "parallel",
    "position",
    "quant",
    "residual",
    "rope",
    "rotary",
    "scal",
    "softcap",
    "window",
];

fn is_false(value: &Value) -> bool {
    *value == Value::Bool(false)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

fn all_dense(value: &Value) -> bool {
    value.as_array().is_some_and(|layers| layers.iter().all(|layer| layer == "dense"))
}

/// Refuses values that would change what is computed, under keys that nothing reads.
///
/// # Errors
/// Naming the first such key.
pub(super) fn check_fixed(fields: &Fields) -> Result<()> {
    if fields.has("quantization_config") {
        return Err(fields.wrong_with_help(
            "quantization_config",
            "no such key",
            "Quantized checkpoints are not supported: use the f32, f16 or bf16 one.",
        ));
    }
    let refused = FIXED
        .iter()
        .find(|(key, _, fits)| fields.get(key).is_some_and(|value| !value.is_null() && !fits(value)));
    match refused {
        None => Ok(()),
        Some((key, expected, _)) => {
            let help = "The model needs what is not supported here: use another one.";
            Err(fields.wrong_with_help(key, expected, help))
        }
    }
}

/// Notes the keys that nothing has read although their names say how a model is built.
pub(super) fn note_unread(fields: &Fields, architecture: Architecture, notes: &mut Vec<String>) {
    let looks_structural = |key: &str, value: &Value| {
        let means_nothing = match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(_) | Value::Object(_) => is_empty(value),
            _ => false,
        };
        let name = key.rsplit('.').next().expect("a name").to_ascii_lowercase();
        let is_training = name.contains("drop") || name.ends_with("_token_id") || name.starts_with("output_");
        !means_nothing
            && !is_training
            && !IRRELEVANT.contains(&&*name)
            && STRUCTURAL.iter().any(|part| name.contains(part))
    };
    let mut keys: Vec<String> = fields
        .unread()
        .into_iter()
        .filter(|(key, value)| looks_structural(key, value))
        .map(|(key, _)| key)
        .collect();
    const MOST: usize = 10;
    let more = keys.len().saturating_sub(MOST);
    keys.truncate(MOST);
    if !keys.is_empty() {
        let names = keys.iter().map(|key| printable(key)).collect::<Vec<_>>().join(", ");
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        notes.push(format!(
            "config.json: {} has no such setting, so it is ignored: {names}{more}",
            architecture.class()
        ));
    }
    // Folders that were exported here bring code for transformers, which is not needed here.
    if fields.has("auto_map") && !fields.has("probeprune") {
        let class = architecture.class();
        notes.push(format!("config.json: auto_map names code of the model's own, which never runs here: the model runs as {class}"));
    }
}
