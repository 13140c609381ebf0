//! The special tokens that a chat template can name: `bos_token`, `eos_token` and any other.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{json_file::has_byte_level, special_tokens::object};
use crate::{
    error::{Error, Result},
    source::ModelSource,
};

/// Names and texts, from where transformers 5 takes them: what the tokenizer's class says, then tokenizer_config.json,
/// then, unless that lists `added_tokens_decoder`, special_tokens_map.json. A token that is null is none.
pub(super) fn load(source: &ModelSource, config: &Map<String, Value>) -> Result<BTreeMap<String, String>> {
    let mut tokens = BTreeMap::new();
    for (name, text) in class_defaults(source, config)? {
        tokens.insert(name.to_string(), text.to_string());
    }
    merge(&mut tokens, config);
    if !config.contains_key("added_tokens_decoder") {
        merge(&mut tokens, &object(source, "special_tokens_map.json")?);
    }
    Ok(tokens)
}

/// Every key that ends in `_token`, then the tokens that have other names.
fn merge(tokens: &mut BTreeMap<String, String>, from: &Map<String, Value>) {
    let named = ["model_specific_special_tokens", "extra_special_tokens"];
    let named = named.into_iter().filter_map(|key| from.get(key)?.as_object()).flatten();
    for (name, token) in from.iter().filter(|(name, _)| name.ends_with("_token")).chain(named) {
        // Either the text itself, or an object that has it as `content`.
        match token.as_str().or_else(|| token.get("content")?.as_str()) {
            Some(text) => {
                tokens.insert(name.clone(), text.to_string());
            }
            None if token.is_null() => {
                tokens.remove(name);
            }
            None => {}
        }
    }
}

/// The tokens of classes that LLaMA and OPT checkpoints name; of others there are none.
fn class_defaults(
    source: &ModelSource,
    config: &Map<String, Value>,
) -> Result<&'static [(&'static str, &'static str)]> {
    const END_OF_TEXT: &str = "<|endoftext|>";
    let class = match config.get("tokenizer_class").and_then(Value::as_str) {
        Some(class) => class.strip_suffix("Fast").unwrap_or(class),
        None if object(source, "config.json")?.get("model_type").is_some_and(|kind| kind == "opt") => {
            "GPT2Tokenizer"
        }
        None => "",
    };
    Ok(match class {
        "GPT2Tokenizer" => {
            &[("bos_token", END_OF_TEXT), ("eos_token", END_OF_TEXT), ("unk_token", END_OF_TEXT)]
        }
        "Qwen2Tokenizer" => {
            &[("eos_token", END_OF_TEXT), ("unk_token", END_OF_TEXT), ("pad_token", END_OF_TEXT)]
        }
        "CodeLlamaTokenizer" => &[
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
            ("unk_token", "<unk>"),
            ("prefix_token", "▁<PRE>"),
            ("middle_token", "▁<MID>"),
            ("suffix_token", "▁<SUF>"),
            ("eot_token", "▁<EOT>"),
            ("fill_token", "<FILL_ME>"),
        ],
        // LLaMA-3's folders name this class too, with tokens of bytes: transformers then takes one without defaults.
        "LlamaTokenizer" => match has_bytes(source)? {
            true => &[],
            false => &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")],
        },
        _ => &[],
    })
}

/// Whether tokenizer.json has tokens of bytes. Its vocabulary is passed over.
fn has_bytes(source: &ModelSource) -> Result<bool> {
    #[derive(Deserialize)]
    struct Steps {
        pre_tokenizer: Option<Value>,
        normalizer: Option<Value>,
        decoder: Option<Value>,
    }
    let Some(text) = source.read_text("tokenizer.json")? else { return Ok(false) };
    let Steps { pre_tokenizer, normalizer, decoder } = serde_json::from_str(&text).map_err(|error| {
        let path = source.path_of("tokenizer.json");
        Error::file(path, "content", "valid JSON", error, "Download tokenizer.json again.")
    })?;
    Ok([pre_tokenizer, normalizer, decoder].iter().flatten().any(has_byte_level))
}
