//! From config.json to [`ModelConfig`], per architecture.

use std::path::Path;

use serde_json::Value;

use super::{
    Activation, AttentionBias, Family, ModelConfig, Rope,
    architecture::Architecture,
    fields::{Fields, parse_object},
    keys::{check_fixed, note_unread},
    layer_shape, window,
};
use crate::error::Result;

/// Deeper than any model there is; a corrupt count is refused before anything is allocated for it.
const MAX_LAYERS: usize = 10_000;

pub(super) fn config(path: &Path, config: &str, generation_config: Option<&str>) -> Result<ModelConfig> {
    let map = parse_object(path, config)?;
    let fields = Fields::new(path, "", &map);
    check_fixed(&fields)?;
    let mut notes = Vec::new();
    let architecture = Architecture::parse(&fields, &mut notes)?;
    let mut config = match architecture {
        Architecture::Opt => opt(&fields, architecture)?,
        _ => llama(&fields, architecture, &mut notes)?,
    };
    config.layer_shapes = layer_shape::parse(&fields, &config)?;
    note_unread(&fields, architecture, &mut notes);
    config.notes = notes;
    if let Some(text) = generation_config {
        let path = path.with_file_name("generation_config.json");
        let map = parse_object(&path, text)?;
        let fields = Fields::new(&path, "", &map);
        if fields.has("eos_token_id") {
            config.eos_token_ids = fields.token_ids("eos_token_id", None)?;
        }
    }
    Ok(config)
}

fn llama(fields: &Fields, architecture: Architecture, notes: &mut Vec<String>) -> Result<ModelConfig> {
    // Where the config classes' defaults differ: (intermediate_size, max_position_embeddings, kv heads, vocab).
    let (intermediate_size, positions, kv_heads, vocab_size) = match architecture {
        Architecture::Mistral => (14_336, 131_072, Some(8), 32_000),
        Architecture::Qwen2 => (22_016, 32_768, Some(32), 151_936),
        _ => (11_008, 2_048, None, 32_000),
    };
    let hidden_size = fields.size("hidden_size", 4_096)?;
    let num_hidden_layers = fields.whole("num_hidden_layers", 32, 1, MAX_LAYERS)?;
    let num_attention_heads = fields.size("num_attention_heads", 32)?;
    let head_dim = match fields.optional_size("head_dim")? {
        Some(head_dim) => head_dim,
        None => split_heads(fields, hidden_size, num_attention_heads, " or give head_dim")?,
    };
    let num_key_value_heads = match fields.get("num_key_value_heads") {
        None => kv_heads.unwrap_or(num_attention_heads),
        Some(Value::Null) => num_attention_heads,
        Some(_) => fields.whole("num_key_value_heads", 1, 1, num_attention_heads)?,
    };
    if num_key_value_heads > num_attention_heads || !num_attention_heads.is_multiple_of(num_key_value_heads) {
        let expected = format!("a divisor of num_attention_heads ({num_attention_heads})");
        return Err(fields.wrong("num_key_value_heads", expected));
    }
    if !head_dim.is_multiple_of(2) {
        let expected = "an even number (rotary positions turn pairs of channels)";
        let got = format!("{head_dim}");
        return Err(fields.computed("head_dim", expected, got));
    }
    let max_position_embeddings = fields.size("max_position_embeddings", positions)?;
    let rope = Rope::parse(fields, max_position_embeddings, notes)?;
    let (sliding_window, full_attention_layers) = window::parse(fields, architecture, num_hidden_layers)?;
    let eps = fields.number("rms_norm_eps", Some(1e-6), "a number above 0 in f32", |eps| eps as f32 > 0.0)?;
    let llama_bias = architecture == Architecture::Llama && fields.boolean("attention_bias", false)?;
    let attention_bias = match architecture {
        Architecture::Qwen2 => AttentionBias { qkv: true, output: false },
        _ => AttentionBias { qkv: llama_bias, output: llama_bias },
    };
    Ok(ModelConfig {
        family: Family::Llama,
        model_type: architecture.model_type().to_string(),
        vocab_size: fields.size("vocab_size", vocab_size)?,
        hidden_size,
        intermediate_size: fields.size("intermediate_size", intermediate_size)?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        max_position_embeddings,
        norm_eps: eps as f32,
        rope: Some(rope),
        sliding_window,
        full_attention_layers,
        activation: activation(fields, "hidden_act", "silu")?,
        tie_word_embeddings: fields.boolean("tie_word_embeddings", false)?,
        attention_bias,
        mlp_bias: architecture == Architecture::Llama && fields.boolean("mlp_bias", false)?,
        norm_affine: true,
        norm_first: true,
        final_norm: true,
        word_embed_proj_dim: hidden_size,
        bos_token_id: fields.token_id("bos_token_id", (architecture != Architecture::Qwen2).then_some(1))?,
        eos_token_ids: fields
            .token_ids("eos_token_id", (architecture != Architecture::Qwen2).then_some(2))?,
        pad_token_id: fields.token_id("pad_token_id", None)?,
        layer_shapes: None,
        torch_dtype: torch_dtype(fields)?,
        notes: Vec::new(),
    })
}

fn opt(fields: &Fields, architecture: Architecture) -> Result<ModelConfig> {
    let hidden_size = fields.size("hidden_size", 768)?;
    let num_attention_heads = fields.size("num_attention_heads", 12)?;
    let bias = fields.boolean("enable_bias", true)?;
    let norm_first = fields.boolean("do_layer_norm_before", true)?;
    let num_hidden_layers = fields.whole("num_hidden_layers", 12, 1, MAX_LAYERS)?;
    window::parse(fields, architecture, num_hidden_layers)?;
    Ok(ModelConfig {
        family: Family::Opt,
        model_type: architecture.model_type().to_string(),
        vocab_size: fields.size("vocab_size", 50_272)?,
        hidden_size,
        intermediate_size: fields.size("ffn_dim", 3_072)?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: num_attention_heads,
        head_dim: split_heads(fields, hidden_size, num_attention_heads, "")?,
        max_position_embeddings: fields.size("max_position_embeddings", 2_048)?,
        // Not a key of OPT's config: PyTorch's default.
        norm_eps: 1e-5,
        rope: None,
        sliding_window: None,
        full_attention_layers: Vec::new(),
        activation: activation(fields, "activation_function", "relu")?,
        tie_word_embeddings: fields.boolean("tie_word_embeddings", true)?,
        attention_bias: AttentionBias { qkv: bias, output: bias },
        mlp_bias: bias,
        norm_affine: fields.boolean("layer_norm_elementwise_affine", true)?,
        norm_first,
        final_norm: norm_first && !fields.boolean("_remove_final_layer_norm", false)?,
        word_embed_proj_dim: fields.optional_size("word_embed_proj_dim")?.unwrap_or(hidden_size),
        bos_token_id: fields.token_id("bos_token_id", Some(2))?,
        eos_token_ids: fields.token_ids("eos_token_id", Some(2))?,
        pad_token_id: fields.token_id("pad_token_id", Some(1))?,
        layer_shapes: None,
        torch_dtype: torch_dtype(fields)?,
        notes: Vec::new(),
    })
}

/// `hidden_size / num_attention_heads`, which must leave no rest.
fn split_heads(fields: &Fields, hidden_size: usize, heads: usize, otherwise: &str) -> Result<usize> {
    if hidden_size.is_multiple_of(heads) {
        return Ok(hidden_size / heads);
    }
    let expected = format!("a multiple of num_attention_heads ({heads}){otherwise}");
    Err(fields.computed("hidden_size", &expected, hidden_size.to_string()))
}

fn activation(fields: &Fields, key: &str, default: &str) -> Result<Activation> {
    match fields.string(key)?.unwrap_or(default) {
        "silu" | "swish" => Ok(Activation::Silu),
        "relu" => Ok(Activation::Relu),
        "gelu" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
        _ => Err(fields.wrong_with_help(
            key,
            "silu, swish, relu, gelu, gelu_new, gelu_pytorch_tanh or gelu_fast",
            "Other activation functions are not supported.",
        )),
    }
}

fn torch_dtype(fields: &Fields) -> Result<Option<String>> {
    let key = if fields.has("dtype") { "dtype" } else { "torch_dtype" };
    Ok(fields.string(key)?.map(str::to_string))
}
