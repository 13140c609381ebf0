//! Checks of a tokenizer.json: which part the tokenizers crate refuses, and errors that it does not look for.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::{
    DecoderWrapper, Model, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
};

use super::quiet::quietly;
use crate::error::{Error, Result, printable};

const HELP: &str = "Download tokenizer.json again.";

/// The error for a file that the crate refuses with `reason`: names the part at fault.
pub(super) fn refused(path: &Path, text: &str, reason: &str) -> Error {
    let parts: Value = match serde_json::from_str(text) {
        Ok(parts) => parts,
        Err(error) => return Error::file(path, "content", "valid JSON", error, HELP),
    };
    fn part<'a, T: Deserialize<'a>>(parts: &'a Value, key: &'static str) -> Option<(&'static str, String)> {
        let value = parts.get(key).filter(|value| !value.is_null())?;
        match quietly(|| T::deserialize(value).err().map(|error| error.to_string())) {
            Ok(None) => None,
            Ok(Some(reason)) | Err(reason) => Some((key, reason)),
        }
    }
    let (what, reason) = part::<ModelWrapper>(&parts, "model")
        .or_else(|| part::<PreTokenizerWrapper>(&parts, "pre_tokenizer"))
        .or_else(|| part::<NormalizerWrapper>(&parts, "normalizer"))
        .or_else(|| part::<PostProcessorWrapper>(&parts, "post_processor"))
        .or_else(|| part::<DecoderWrapper>(&parts, "decoder"))
        .unwrap_or(("content", reason.to_string()));
    Error::file(
        path,
        what,
        "the structure of a tokenizer.json of the tokenizers library",
        printable(&reason),
        HELP,
    )
}

/// The few fields that are checked; the vocabulary is skipped.
#[derive(Deserialize)]
struct Fields {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    model: ModelFields,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    normalizer: Value,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u64,
    content: String,
}

#[derive(Deserialize)]
struct ModelFields {
    unk_token: Option<String>,
    unk_id: Option<usize>,
    #[serde(default)]
    byte_fallback: Option<bool>,
}

/// Checks of a tokenizer that the crate has loaded from `text`: every id is below `vocab_size`, and any text can be
/// encoded.
pub(super) fn loaded(
    path: &Path,
    text: &str,
    tokenizer: &tokenizers::Tokenizer,
    vocab_size: usize,
) -> Result<()> {
    let fields: Fields = serde_json::from_str(text)
        .map_err(|error| Error::file(path, "content", "a tokenizer.json with a model", error, HELP))?;
    let added = fields.added_tokens.into_iter().map(|token| (token.content, token.id));
    let known = tokenizer.get_vocab(true).into_iter().map(|(token, id)| (token, u64::from(id)));
    if let Some((token, id)) =
        added.chain(known).filter(|(_, id)| *id >= vocab_size as u64).max_by_key(|(_, id)| *id)
    {
        return Err(Error::file(
            path,
            format!("token {}", printable(&token)),
            format!("an id below {vocab_size} (vocab_size in config.json)"),
            id,
            "Take tokenizer.json, config.json and the weights from the same place.",
        ));
    }
    let unk = fields.model.unk_token.as_deref();
    let unk_is_known = unk.is_some_and(|unk| tokenizer.get_model().token_to_id(unk).is_some());
    let all_bytes = fields.model.byte_fallback == Some(true)
        && (0..=255).all(|byte| tokenizer.get_model().token_to_id(&format!("<0x{byte:02X}>")).is_some());
    let covered = match tokenizer.get_model() {
        ModelWrapper::Unigram(_) => fields.model.unk_id.is_some() || all_bytes,
        ModelWrapper::BPE(_) => {
            unk_is_known
                || all_bytes
                || has_byte_level(&fields.pre_tokenizer)
                || has_byte_level(&fields.normalizer)
        }
        ModelWrapper::WordLevel(_) | ModelWrapper::WordPiece(_) => unk_is_known,
    };
    if covered {
        return Ok(());
    }
    let got = unk.map_or_else(|| "none".to_string(), |unk| format!("{}, which is no token", printable(unk)));
    let expected = "an unknown-token of the vocabulary, for characters that it lacks";
    Err(Error::file(path, "model.unk_token", expected, got, HELP))
}

/// Whether a pre-tokenizer or normalizer, or one of a sequence, turns text into bytes first.
pub(super) fn has_byte_level(part: &Value) -> bool {
    match part {
        Value::Object(fields) => {
            fields.get("type").is_some_and(|kind| kind == "ByteLevel") || fields.values().any(has_byte_level)
        }
        Value::Array(parts) => parts.iter().any(has_byte_level),
        _ => false,
    }
}
