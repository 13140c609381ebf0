//! From config.json to [`ModelConfig`], per architecture.

use std::path::Path;

use serde_json::Value;

use super::{
    Activation, AttentionBias, Family, ModelConfig, Rope,
    fields::{Fields, parse_object},
    layer_shape,
};
use crate::error::Result;

/// Hugging Face's class name, `model_type`, and which of ours it is.
const ARCHITECTURES: [(&str, &str, Architecture); 4] = [
    ("LlamaForCausalLM", "llama", Architecture::Llama),
    ("MistralForCausalLM", "mistral", Architecture::Mistral),
    ("Qwen2ForCausalLM", "qwen2", Architecture::Qwen2),
    ("OPTForCausalLM", "opt", Architecture::Opt),
];

/// Deeper than any model there is; a corrupt count is refused before anything is allocated for it.
const MAX_LAYERS: usize = 10_000;

#[derive(Clone, Copy, PartialEq)]
enum Architecture {
    Llama,
    Mistral,
    Qwen2,
    Opt,
}

pub(super) fn config(path: &Path, config: &str, generation_config: Option<&str>) -> Result<ModelConfig> {
    let map = parse_object(path, config)?;
    let fields = Fields::new(path, "", &map);
    if fields.has("quantization_config") {
        return Err(fields.wrong_with_help(
            "quantization_config",
            "no such key",
            "Quantized checkpoints are not supported: use the f32, f16 or bf16 one.",
        ));
    }
    let (architecture, model_type) = architecture(&fields)?;
    let mut config = match architecture {
        Architecture::Opt => opt(&fields, model_type)?,
        other => llama(&fields, model_type, other)?,
    };
    config.layer_shapes = layer_shape::parse(&fields, &config)?;
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

fn architecture(fields: &Fields) -> Result<(Architecture, &'static str)> {
    let supported = ARCHITECTURES.map(|(class, ..)| class).join(", ");
    let help = "Other architectures are not supported: use a model of one of these.";
    let by_type = match fields.string("model_type")? {
        None => None,
        Some(model_type) => {
            Some(ARCHITECTURES.iter().find(|known| known.1 == model_type).ok_or_else(|| {
                let types = ARCHITECTURES.map(|(_, model_type, _)| model_type).join(", ");
                fields.wrong_with_help("model_type", format!("one of {types}"), help)
            })?)
        }
    };
    let class = match fields.get("architectures") {
        None | Some(Value::Null) => None,
        Some(Value::Array(classes)) if classes.is_empty() => None,
        Some(Value::Array(classes)) => {
            let Some(class) = classes[0].as_str() else {
                return Err(fields.wrong("architectures", "a list of class names"));
            };
            Some(class)
        }
        Some(_) => return Err(fields.wrong("architectures", "a list of class names")),
    };
    let by_class = match class {
        None => None,
        Some(class) => Some(ARCHITECTURES.iter().find(|known| known.0 == class).ok_or_else(|| {
            let got = crate::error::printable(class);
            crate::Error::file(fields.path(), "architectures", format!("one of {supported}"), got, help)
        })?),
    };
    match (by_class, by_type) {
        (Some(class), Some(model_type)) if class.1 != model_type.1 => {
            Err(fields.wrong("model_type", format!("{} as architectures has {}", class.1, class.0)))
        }
        (Some(known), _) | (None, Some(known)) => Ok((known.2, known.1)),
        (None, None) => Err(fields.wrong_with_help("architectures", format!("one of {supported}"), help)),
    }
}

fn llama(fields: &Fields, model_type: &str, architecture: Architecture) -> Result<ModelConfig> {
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
    let rope = Rope::parse(fields, max_position_embeddings)?;
    let eps = fields.number("rms_norm_eps", Some(1e-6), "a number above 0 in f32", |eps| eps as f32 > 0.0)?;
    let llama_bias = architecture == Architecture::Llama && fields.boolean("attention_bias", false)?;
    let attention_bias = match architecture {
        Architecture::Qwen2 => AttentionBias { qkv: true, output: false },
        _ => AttentionBias { qkv: llama_bias, output: llama_bias },
    };
    Ok(ModelConfig {
        family: Family::Llama,
        model_type: model_type.to_string(),
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
        sliding_window: sliding_window(fields, architecture, num_hidden_layers)?,
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

fn opt(fields: &Fields, model_type: &str) -> Result<ModelConfig> {
    let hidden_size = fields.size("hidden_size", 768)?;
    let num_attention_heads = fields.size("num_attention_heads", 12)?;
    let bias = fields.boolean("enable_bias", true)?;
    let norm_first = fields.boolean("do_layer_norm_before", true)?;
    Ok(ModelConfig {
        family: Family::Opt,
        model_type: model_type.to_string(),
        vocab_size: fields.size("vocab_size", 50_272)?,
        hidden_size,
        intermediate_size: fields.size("ffn_dim", 3_072)?,
        num_hidden_layers: fields.whole("num_hidden_layers", 12, 1, MAX_LAYERS)?,
        num_attention_heads,
        num_key_value_heads: num_attention_heads,
        head_dim: split_heads(fields, hidden_size, num_attention_heads, "")?,
        max_position_embeddings: fields.size("max_position_embeddings", 2_048)?,
        // Not a key of OPT's config: PyTorch's default.
        norm_eps: 1e-5,
        rope: None,
        sliding_window: None,
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

/// One window for all layers: Hugging Face can mix windowed and full layers for Qwen2, which is refused here.
fn sliding_window(fields: &Fields, architecture: Architecture, layers: usize) -> Result<Option<usize>> {
    match architecture {
        Architecture::Mistral if fields.get("sliding_window").is_none() => Ok(Some(4_096)),
        Architecture::Mistral => fields.optional_size("sliding_window"),
        Architecture::Qwen2 if fields.boolean("use_sliding_window", false)? => {
            let window = match fields.get("sliding_window") {
                None => Some(4_096),
                Some(_) => fields.optional_size("sliding_window")?,
            };
            // Layers from this one on are windowed.
            let first = fields.whole("max_window_layers", 28, 0, super::fields::MAX_SIZE)?;
            match window {
                None => Ok(None),
                Some(_) if first >= layers => Ok(None),
                Some(window) if first == 0 => Ok(Some(window)),
                Some(_) => Err(fields.wrong_with_help(
                    "max_window_layers",
                    format!("0 (every layer windowed) or at least num_hidden_layers ({layers}; none windowed)"),
                    "A mix of windowed and full layers is not supported: set use_sliding_window to false to run every layer in full.",
                )),
            }
        }
        _ => Ok(None),
    }
}

fn torch_dtype(fields: &Fields) -> Result<Option<String>> {
    let key = if fields.has("dtype") { "dtype" } else { "torch_dtype" };
    Ok(fields.string(key)?.map(str::to_string))
}
