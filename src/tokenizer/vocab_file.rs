//! vocab.json and merges.txt, as OPT has them: GPT-2's tokenizer, built as transformers builds it.

use std::collections::HashMap;

use tokenizers::{
    TokenizerBuilder,
    models::bpe::{BPE, Vocab},
};

use super::{
    Inner,
    extent::Extent,
    json_file::{MOST_MERGES, MOST_TOKENS, large},
    quiet::quietly,
    special_tokens::SpecialTokens,
    steps::{Decoder, PreTokenizer},
};
use crate::{
    error::{Error, Result, printable},
    source::ModelSource,
};

/// The tokenizer of these two files; `None` where one of them is missing.
pub(super) fn read(source: &ModelSource) -> Result<Option<Inner>> {
    let (Some(vocab), Some(merges)) = (source.read_text("vocab.json")?, source.read_text("merges.txt")?)
    else {
        return Ok(None);
    };
    let vocab = read_vocab(source, &vocab)?;
    let merges = read_merges(source, &merges)?;
    let wrong = |got: &str| {
        let help = "Download vocab.json and merges.txt again, from the same place.";
        let expected = "pairs of tokens that vocab.json has, as it has what each makes";
        Error::file(source.path_of("merges.txt"), "merges", expected, printable(got), help)
    };
    let tokens = SpecialTokens::read(source, true)?;
    let made = quietly(|| -> tokenizers::Result<Inner> {
        // Neither of these two does anything, but so it is in transformers.
        let model = BPE::builder()
            .vocab_and_merges(vocab, merges)
            .continuing_subword_prefix(String::new())
            .end_of_word_suffix(String::new());
        TokenizerBuilder::new()
            .with_model(model.build()?.into())
            .with_pre_tokenizer(Some(PreTokenizer::gpt2(tokens.add_prefix_space)))
            .with_decoder(Some(Decoder::gpt2()))
            .build()
    });
    let mut inner = match made {
        Ok(Ok(inner)) => inner,
        Ok(Err(error)) => return Err(wrong(&error.to_string())),
        Err(panic) => return Err(wrong(&panic)),
    };
    tokens.add_to(source, &mut inner)?;
    inner.with_post_processor(tokens.post_processor(&inner));
    Ok(Some(inner))
}

fn read_vocab(source: &ModelSource, text: &str) -> Result<Vocab> {
    const HELP: &str = "Download vocab.json again.";
    let path = source.path_of("vocab.json");
    let invalid = |error| Error::file(&path, "content", "a JSON object of tokens and their ids", error, HELP);
    let extent: Extent = serde_json::from_str(text).map_err(invalid)?;
    if extent.values > MOST_TOKENS {
        return Err(large(&path, "content", &format!("at most {MOST_TOKENS} tokens"), extent.values));
    }
    let vocab: Vocab = serde_json::from_str(text).map_err(invalid)?;
    let mut tokens: HashMap<u32, &str> = HashMap::new();
    for (token, id) in &vocab {
        if let Some(other) = tokens.insert(*id, token) {
            let mut both = [printable(token), printable(other)];
            both.sort();
            return Err(Error::file(&path, both.join(" and "), "an id each", format!("{id} for both"), HELP));
        }
    }
    if vocab.is_empty() {
        return Err(Error::file(&path, "content", "tokens", "none", HELP));
    }
    Ok(vocab)
}

fn read_merges(source: &ModelSource, text: &str) -> Result<Vec<(String, String)>> {
    let path = source.path_of("merges.txt");
    let lines = text.bytes().filter(|byte| *byte == b'\n').count();
    if lines > MOST_MERGES / 3 {
        return Err(large(&path, "content", &format!("at most {} lines", MOST_MERGES / 3), lines));
    }
    let pair = |(at, line): (usize, &str)| match line.split(' ').collect::<Vec<_>>()[..] {
        [left, right] => Ok((left.to_string(), right.to_string())),
        _ => {
            let expected = "two tokens with a space between";
            Err(Error::file(
                &path,
                format!("line {}", at + 1),
                expected,
                printable(line),
                "Download merges.txt again.",
            ))
        }
    };
    text.lines().enumerate().filter(|(_, line)| !line.starts_with("#version")).map(pair).collect()
}
