//! Where an older transformers gives other ids.

use tokenizers::TokenizerImpl;

use super::{
    Inner,
    special_tokens::{SpecialTokens, object},
};
use crate::{
    error::{Result, printable},
    source::ModelSource,
};

/// Classes of transformers 4.46 that put BOS and EOS around a text by flags, whatever tokenizer.json says, and whether
/// they add BOS where there is no flag.
const BY_FLAGS: [(&str, bool); 5] = [
    ("LlamaTokenizer", true),
    ("CodeLlamaTokenizer", true),
    ("GemmaTokenizer", true),
    ("CohereTokenizer", true),
    ("GPTNeoXTokenizer", false),
];

/// A note if transformers 4.46 would put other tokens around a text than `inner`, read from a tokenizer.json, does.
pub(super) fn around(source: &ModelSource, special: &SpecialTokens, inner: &Inner) -> Result<Option<String>> {
    if source.read("tokenizer_config.json")?.is_none() {
        return Ok(None);
    }
    let class = match &special.class {
        Some(class) => class.clone(),
        None => match object(source, "config.json")?.get("model_type").and_then(|kind| kind.as_str()) {
            Some("llama" | "mistral") => "LlamaTokenizer".to_string(),
            _ => return Ok(None),
        },
    };
    let plain = class.strip_suffix("Fast").unwrap_or(&class);
    let Some((_, adds_bos)) = BY_FLAGS.into_iter().find(|(name, _)| *name == plain) else { return Ok(None) };
    let id = |wanted: bool, token: &Option<String>, default: &str| {
        let token = token.as_deref().unwrap_or(default);
        wanted.then(|| inner.token_to_id(token).ok_or_else(|| token.to_string()))
    };
    let theirs = [
        id(special.add_bos.unwrap_or(adds_bos), &special.bos, "<s>"),
        id(special.add_eos == Some(true), &special.eos, "</s>"),
    ];
    let theirs: Vec<_> = theirs.into_iter().flatten().collect();
    let ours: Vec<u32> = inner.encode_fast("", true).map(|ids| ids.get_ids().to_vec()).unwrap_or_default();
    if theirs.iter().eq(ours.iter().map(|id| Ok(*id)).collect::<Vec<_>>().iter()) {
        return Ok(None);
    }
    let names = |ids: Vec<String>| if ids.is_empty() { "none".to_string() } else { ids.join(" and ") };
    let name = |id: &u32| printable(&TokenizerImpl::id_to_token(inner, *id).unwrap_or_default());
    let theirs = theirs.iter().map(|id| id.as_ref().map_or_else(|token| printable(token), name)).collect();
    Ok(Some(format!(
        "around a text, tokenizer.json adds {}, as in transformers 5; transformers 4.46 reads add_bos_token and \
         add_eos_token of tokenizer_config.json instead and adds {}",
        names(ours.iter().map(name).collect()),
        names(theirs)
    )))
}
