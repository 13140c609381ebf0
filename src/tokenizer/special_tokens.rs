//! Tokens that the files beside a tokenizer name, and flags about them, as transformers 5 reads them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tokenizers::{AddedToken, PostProcessorWrapper};

use super::{Inner, quiet::quietly};
use crate::{
    error::{Error, Result, printable},
    json::with_quoted_constants,
    source::ModelSource,
};

/// In this order they get their ids, if the vocabulary lacks them.
const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Tokens that these files can add: real ones have up to 65,536.
const MOST: usize = 1 << 17;

/// What tokenizer_config.json, special_tokens_map.json and added_tokens.json say.
#[derive(Debug, Default)]
pub(super) struct SpecialTokens {
    tokens: Vec<AddedToken>,
    pub(super) bos: Option<String>,
    pub(super) eos: Option<String>,
    /// Absent: as the tokenizer's class has it.
    pub(super) add_bos: Option<bool>,
    pub(super) add_eos: Option<bool>,
    pub(super) add_prefix_space: bool,
    /// `tokenizer_class`.
    pub(super) class: Option<String>,
    split_special_tokens: bool,
}

impl SpecialTokens {
    /// With `gpt2`, a tokenizer without tokenizer.json, tokens that are not named are GPT-2's.
    pub(super) fn read(source: &ModelSource, gpt2: bool) -> Result<Self> {
        let mut config = object(source, "tokenizer_config.json")?;
        let mut added = BTreeMap::new();
        if let Some(Value::Object(tokens)) = config.get("added_tokens_decoder") {
            for (id, token) in tokens {
                if let (Ok(id), Some(token)) = (id.parse::<u64>(), parsed(token, false)) {
                    added.insert(id, token);
                }
            }
        } else {
            for (name, token) in object(source, "special_tokens_map.json")? {
                let token = match token {
                    Value::Object(_) => parsed(&token, true).map(|token| json!(token)),
                    token => Some(token),
                };
                config.extend(token.map(|token| (name, token)));
            }
            let named: Vec<String> =
                NAMES.iter().filter_map(|name| Some(content(config.get(*name)?)?.into())).collect();
            for (token, id) in object(source, "added_tokens.json")? {
                if let Some(id) = id.as_u64() {
                    let special = named.contains(&token);
                    added.insert(id, AddedToken::from(token, special));
                }
            }
        }
        let mut tokens: Vec<AddedToken> = added.into_values().collect();
        let listed: Vec<AddedToken> = tokens.clone();
        let mut add = |token: &Value| {
            // A text is a special token, but differs from an equal token with properties.
            let special = match parsed(token, true) {
                Some(special) if !listed.iter().any(|token| token.content == special.content) => special,
                _ => return,
            };
            if !tokens.contains(&special) {
                tokens.push(special);
            }
        };
        let default = json!("<|endoftext|>");
        for name in NAMES {
            if gpt2 && ["bos_token", "eos_token", "unk_token"].contains(&name) {
                config.entry(name).or_insert_with(|| default.clone());
            }
            config.get(name).into_iter().for_each(&mut add);
        }
        for (name, token) in &config {
            if name.ends_with("_token") && !NAMES.contains(&name.as_str()) && token.is_string() {
                add(token);
            }
        }
        let more = ["extra_special_tokens", "additional_special_tokens"]
            .iter()
            .find_map(|key| config.get(*key).filter(|more| !more.is_null()));
        match more {
            Some(Value::Array(more)) => more.iter().for_each(&mut add),
            Some(Value::Object(more)) => more.values().for_each(&mut add),
            _ => {}
        }
        if tokens.len() > MOST {
            let path = source.path_of("tokenizer_config.json");
            let help = "Put back the model's own file.";
            return Err(Error::file(path, "special tokens", format!("at most {MOST}"), tokens.len(), help));
        }
        let text = |key: &str| config.get(key).and_then(content).map(String::from);
        let flag = |key: &str| config.get(key).and_then(Value::as_bool);
        Ok(Self {
            tokens,
            bos: text("bos_token"),
            eos: text("eos_token"),
            add_bos: flag("add_bos_token"),
            add_eos: flag("add_eos_token"),
            add_prefix_space: flag("add_prefix_space") == Some(true),
            class: text("tokenizer_class"),
            split_special_tokens: flag("split_special_tokens") == Some(true),
        })
    }

    /// Makes them tokens of `inner`: those that its vocabulary lacks get the ids after it.
    pub(super) fn add_to(&self, source: &ModelSource, inner: &mut Inner) -> Result<()> {
        inner.set_encode_special_tokens(self.split_special_tokens);
        let added =
            quietly(|| inner.add_tokens(self.tokens.iter().cloned()).map_err(|error| error.to_string()));
        added.unwrap_or_else(Err).map(drop).map_err(|got| {
            let path = source.path_of("tokenizer_config.json");
            let help = "Download tokenizer_config.json again.";
            Error::file(path, "special tokens", "tokens that can be told apart", printable(&got), help)
        })
    }

    /// Puts BOS in front and EOS behind, as the flags say.
    pub(super) fn post_processor(&self, inner: &Inner) -> Option<PostProcessorWrapper> {
        let wanted = |flag: Option<bool>, token: &Option<String>| {
            let token = token.clone().filter(|_| flag == Some(true))?;
            Some((inner.token_to_id(&token)?, token))
        };
        let (bos, eos) = (wanted(self.add_bos, &self.bos), wanted(self.add_eos, &self.eos));
        let piece = |(_, token): &(u32, String)| json!({ "SpecialToken": { "id": token, "type_id": 0 } });
        let text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
        let single: Vec<Value> = bos.iter().map(piece).chain([text]).chain(eos.iter().map(piece)).collect();
        let tokens: Map<String, Value> = bos
            .iter()
            .chain(&eos)
            .map(|(id, token)| (token.clone(), json!({ "id": token, "ids": [id], "tokens": [token] })))
            .collect();
        let template = json!({ "type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": tokens });
        Some(serde_json::from_value(template).expect("a valid template"))
    }
}

/// A JSON file of the model as an object; empty where there is none.
pub(super) fn object(source: &ModelSource, file: &str) -> Result<Map<String, Value>> {
    let Some(text) = source.read_text(file)? else { return Ok(Map::new()) };
    let wrong = |expected: &str, got: String| {
        let help = format!("Download {file} again.");
        Err(Error::file(source.path_of(file), "content", expected, got, help))
    };
    match serde_json::from_str(&with_quoted_constants(&text)) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => wrong("a JSON object", "another JSON value".to_string()),
        Err(error) => wrong("valid JSON", error.to_string()),
    }
}

/// The text of a token, which is one itself or has it as `content`.
fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// A token with its properties; `special` if it has no say in that itself.
fn parsed(token: &Value, special: bool) -> Option<AddedToken> {
    let flag = |key: &str, default: bool| token.get(key).and_then(Value::as_bool).unwrap_or(default);
    let special = special || flag("special", false);
    Some(AddedToken {
        content: content(token)?.to_string(),
        single_word: flag("single_word", false),
        lstrip: flag("lstrip", false),
        rstrip: flag("rstrip", false),
        normalized: flag("normalized", !special),
        special,
    })
}
