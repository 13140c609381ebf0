//! tokenizer.json, part by part, each with a bound on its size: what the tokenizers crate makes of a part can be many
//! times larger than the part.

use std::path::Path;

use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::{Value, value::RawValue};
use tokenizers::{
    AddedToken, Model, ModelWrapper, PostProcessorWrapper, TokenizerBuilder,
    models::{bpe::BPE, unigram::Unigram, wordlevel::WordLevel, wordpiece::WordPiece},
};

use super::{
    Inner,
    extent::Extent,
    quiet::quietly,
    steps::{Decoder, Normalizer, PreTokenizer},
};
use crate::error::{Error, Result, printable};

const HELP: &str = "Download tokenizer.json again.";

/// Bytes of a part other than the model and the added tokens: the largest real ones, with a table of characters, have
/// a fifth.
const MOST_PART: usize = 2 << 20;

/// Tokens of a vocabulary, twice as many as in the largest real ones; it takes the crate some 200 bytes each.
pub(super) const MOST_TOKENS: usize = 1 << 19;

/// Values in a list of merges, where each pair is one or three. The largest real ones have 580,604 pairs.
pub(super) const MOST_MERGES: usize = 1_800_000;

/// Added tokens. Real files with sounds or images as tokens have up to 65,536.
const MOST_ADDED: usize = 1 << 17;

/// Bytes of a piece of a Unigram model, and nodes of the tree of bytes that its pieces become, of some 350 bytes each.
const LONGEST_PIECE: usize = 1024;
const MOST_NODES: usize = 1 << 19;

/// Ids that a post-processor may put around a text.
const MOST_AROUND: usize = 1024;

/// Characters of a word that WordPiece may look at, which takes the cube of them.
const MOST_WORD: u64 = 512;

/// Bytes of what BPE puts around every character.
const MOST_AFFIX: usize = 64;

#[derive(Deserialize)]
struct Parts<'a> {
    version: Option<String>,
    #[serde(borrow)]
    added_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    normalizer: Option<&'a RawValue>,
    #[serde(borrow)]
    pre_tokenizer: Option<&'a RawValue>,
    #[serde(borrow)]
    model: &'a RawValue,
    #[serde(borrow)]
    post_processor: Option<&'a RawValue>,
    #[serde(borrow)]
    decoder: Option<&'a RawValue>,
}

/// The fields of a model that are checked; of the large ones, their sizes.
#[derive(Deserialize)]
struct Fields {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    vocab: Extent,
    #[serde(default)]
    merges: Extent,
    unk_token: Option<String>,
    unk_id: Option<usize>,
    byte_fallback: Option<bool>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    max_input_chars_per_word: Option<u64>,
}

impl Fields {
    fn is_unigram(&self) -> bool {
        self.kind.as_deref().map_or(self.unk_id.is_some(), |kind| kind == "Unigram")
    }
}

/// Reads `text`, the content of the file at `path`; adds to `notes` what is not done as the file says.
pub(super) fn read(path: &Path, text: &str, notes: &mut Vec<String>) -> Result<Inner> {
    let wrong = |what: &str, got: &str| {
        let expected = "the structure of a tokenizer.json of the tokenizers library";
        Error::file(path, what, expected, printable(got), HELP)
    };
    let parts: Parts = serde_json::from_str(text)
        .map_err(|error| Error::file(path, "content", "a tokenizer.json with a model", error, HELP))?;
    if let Some(version) = parts.version.filter(|version| version != "1.0") {
        return Err(Error::file(path, "version", "1.0", printable(&version), HELP));
    }
    let part = |what: &str, raw: Option<&RawValue>| -> Result<Option<Value>> {
        let Some(raw) = raw.map(RawValue::get).filter(|raw| *raw != "null") else { return Ok(None) };
        if raw.len() > MOST_PART {
            return Err(large(path, what, &format!("at most {MOST_PART} bytes"), raw.len()));
        }
        serde_json::from_str(raw).map(Some).map_err(|error| wrong(what, &error.to_string()))
    };
    let normalizer = part("normalizer", parts.normalizer)?;
    let pre_tokenizer = part("pre_tokenizer", parts.pre_tokenizer)?;
    let post_processor = part("post_processor", parts.post_processor)?;
    let decoder = part("decoder", parts.decoder)?;
    let bytes =
        pre_tokenizer.as_ref().is_some_and(has_byte_level) || normalizer.as_ref().is_some_and(has_byte_level);
    if let Some(post_processor) = &post_processor {
        let around = ids_around(post_processor).map_err(|got| wrong("post_processor", &got))?;
        if around > MOST_AROUND {
            return Err(large(
                path,
                "post_processor",
                &format!("at most {MOST_AROUND} ids around a text"),
                around,
            ));
        }
    }
    let fields: Fields =
        serde_json::from_str(parts.model.get()).map_err(|error| wrong("model", &error.to_string()))?;
    check_model(path, &fields)?;
    if fields.is_unigram() {
        let nodes = tree(parts.model).map_err(|error| wrong("model", &error.to_string()))?;
        if nodes > MOST_NODES {
            let expected = format!("at most {MOST_NODES} different beginnings of pieces");
            return Err(large(path, "model.vocab", &expected, nodes));
        }
    }
    let added = match parts.added_tokens.map(RawValue::get) {
        None => Vec::new(),
        Some(raw) => {
            let what = "added_tokens";
            let extent: Extent =
                serde_json::from_str(raw).map_err(|error| wrong(what, &error.to_string()))?;
            // Seven values each, and the token itself.
            if extent.values > 8 * MOST_ADDED {
                return Err(large(path, what, &format!("at most {MOST_ADDED}"), extent.values / 8));
            }
            serde_json::from_str::<Vec<AddedToken>>(raw).map_err(|error| wrong(what, &error.to_string()))?
        }
    };

    let normalizer = made(normalizer, Normalizer::new).map_err(|got| wrong("normalizer", &got))?;
    let pre_tokenizer = made(pre_tokenizer, PreTokenizer::new).map_err(|got| wrong("pre_tokenizer", &got))?;
    let decoder = made(decoder, Decoder::new).map_err(|got| wrong("decoder", &got))?;
    let post_processor: Option<PostProcessorWrapper> =
        made(post_processor, |part| Ok(serde_json::from_value(part)?))
            .map_err(|got| wrong("post_processor", &got))?;
    let mut model = model(parts.model, fields.kind.as_deref()).map_err(|got| wrong("model", &got))?;
    check_unknown(path, &fields, &model, bytes)?;
    if let ModelWrapper::BPE(bpe) = &mut model
        && let Some(dropout) = bpe.dropout.take().filter(|dropout| *dropout > 0.0)
    {
        notes.push(format!(
            "tokenizer.json has a dropout of {dropout}, which is for training: it is left out here, while transformers \
             would tokenise at random"
        ));
    }
    let tokenizer = quietly(|| {
        let mut inner = TokenizerBuilder::new()
            .with_model(model)
            .with_normalizer(normalizer)
            .with_pre_tokenizer(pre_tokenizer)
            .with_post_processor(post_processor)
            .with_decoder(decoder)
            .build()
            .map_err(|error| error.to_string())?;
        inner.add_tokens(added).map_err(|error| error.to_string())?;
        Ok(inner)
    });
    tokenizer.unwrap_or_else(Err).map_err(|got: String| wrong("added_tokens", &got))
}

pub(super) fn large(path: &Path, what: &str, expected: &str, got: usize) -> Error {
    Error::file(path, what, expected, got, "Put back the model's own file.")
}

/// What `make` makes of a part, if there is one; the crate may panic.
fn made<T>(
    part: Option<Value>,
    make: impl FnOnce(Value) -> tokenizers::Result<T>,
) -> std::result::Result<Option<T>, String> {
    let Some(part) = part else { return Ok(None) };
    quietly(|| make(part).map(Some).map_err(|error| error.to_string())).unwrap_or_else(Err)
}

/// Read as what it is: the crate's own way to find that out keeps two copies more.
fn model(raw: &RawValue, kind: Option<&str>) -> std::result::Result<ModelWrapper, String> {
    fn read<T: DeserializeOwned>(raw: &RawValue) -> std::result::Result<T, String> {
        serde_json::from_str(raw.get()).map_err(|error| error.to_string())
    }
    quietly(|| match kind {
        Some("BPE") => read::<BPE>(raw).map(ModelWrapper::BPE),
        Some("WordPiece") => read::<WordPiece>(raw).map(ModelWrapper::WordPiece),
        Some("WordLevel") => read::<WordLevel>(raw).map(ModelWrapper::WordLevel),
        Some("Unigram") => read::<Unigram>(raw).map(ModelWrapper::Unigram),
        _ => read::<ModelWrapper>(raw),
    })
    .unwrap_or_else(Err)
}

fn check_model(path: &Path, fields: &Fields) -> Result<()> {
    let unigram = fields.is_unigram();
    let tokens = if unigram { fields.vocab.values / 3 } else { fields.vocab.values };
    if tokens > MOST_TOKENS {
        return Err(large(path, "model.vocab", &format!("at most {MOST_TOKENS} tokens"), tokens));
    }
    if fields.merges.values > MOST_MERGES {
        return Err(large(
            path,
            "model.merges",
            &format!("at most {MOST_MERGES} values"),
            fields.merges.values,
        ));
    }
    if unigram && fields.vocab.longest > LONGEST_PIECE {
        let expected = format!("pieces of at most {LONGEST_PIECE} bytes");
        return Err(large(path, "model.vocab", &expected, fields.vocab.longest));
    }
    if let Some(most) = fields.max_input_chars_per_word.filter(|most| *most > MOST_WORD) {
        let expected = format!("at most {MOST_WORD}");
        return Err(Error::file(path, "model.max_input_chars_per_word", expected, most, HELP));
    }
    for affix in [&fields.continuing_subword_prefix, &fields.end_of_word_suffix].into_iter().flatten() {
        if affix.len() > MOST_AFFIX {
            return Err(large(
                path,
                "model's prefix or suffix",
                &format!("at most {MOST_AFFIX} bytes"),
                affix.len(),
            ));
        }
    }
    Ok(())
}

/// Nodes of the tree of bytes that the pieces of a Unigram model become.
fn tree(model: &RawValue) -> serde_json::Result<usize> {
    #[derive(Deserialize)]
    struct Pieces {
        vocab: Vec<(String, IgnoredAny)>,
    }
    let mut pieces = serde_json::from_str::<Pieces>(model.get())?.vocab;
    pieces.sort_by(|one, other| one.0.cmp(&other.0));
    let mut nodes = pieces.first().map_or(0, |(piece, _)| piece.len());
    for pair in pieces.windows(2) {
        let shared = pair[0].0.bytes().zip(pair[1].0.bytes()).take_while(|(one, other)| one == other).count();
        nodes += pair[1].0.len() - shared;
    }
    Ok(nodes)
}

/// Any text has tokens: those of its bytes, or an unknown-token.
fn check_unknown(path: &Path, fields: &Fields, model: &ModelWrapper, bytes: bool) -> Result<()> {
    let unk = fields.unk_token.as_deref();
    let unk_is_known = unk.is_some_and(|unk| model.token_to_id(unk).is_some());
    let all_bytes = fields.byte_fallback == Some(true)
        && (0..=255).all(|byte| model.token_to_id(&format!("<0x{byte:02X}>")).is_some());
    let covered = match model {
        ModelWrapper::Unigram(_) => fields.unk_id.is_some() || all_bytes,
        ModelWrapper::BPE(_) => unk_is_known || all_bytes || bytes,
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

/// How many ids a post-processor puts around a text; `Err` if it does not keep the text once.
fn ids_around(part: &Value) -> std::result::Result<usize, String> {
    if let Some(parts) = part["processors"].as_array() {
        return parts.iter().map(ids_around).sum();
    }
    let Some(template) = part["single"].as_array() else { return Ok(2) };
    let texts = template.iter().filter(|piece| piece["Sequence"]["id"] == "A").count();
    if texts != 1 {
        return Err(format!("a template with {texts} texts instead of one"));
    }
    let ids = |piece: &Value| {
        let token = piece["SpecialToken"]["id"].as_str()?;
        part["special_tokens"][token]["ids"].as_array().map(Vec::len)
    };
    Ok(template.iter().filter_map(ids).sum())
}
