//! What a tokenizer.json does to a text before and after its model, step by step: the tokenizers crate's steps, each
//! with a bound on what it may make of a text.

use serde_json::{Value, json};
use tokenizers::{
    DecoderWrapper, NormalizedString, NormalizerWrapper, PreTokenizedString, PreTokenizerWrapper, Result,
    SplitDelimiterBehavior,
    normalizers::Precompiled,
    pattern::{Invert, Pattern},
    pre_tokenizers::byte_level::ByteLevel,
};

use super::search::{Found, Search};

/// Steps of one kind. Real files have up to seven.
const MOST_STEPS: usize = 16;

/// Bytes of a text that a file adds or puts in place of another.
const MOST_ADDED: usize = 256;

/// How many times longer a text may become.
const MOST_GROWTH: usize = 64;

/// Bytes that any text may grow to.
const ANY_GROWTH: usize = 4096;

/// GPT-2's words, which [`ByteLevel`] splits at.
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The steps in `part`: itself, or those of a sequence, or of a sequence in it.
fn flat(part: Value, list: &str) -> Result<Vec<Value>> {
    let mut steps = Vec::new();
    let mut open = vec![part];
    while let Some(mut part) = open.pop() {
        match part.get_mut(list).map(Value::take) {
            Some(Value::Array(parts)) => open.extend(parts.into_iter().rev()),
            Some(_) => return Err(format!("{list}, which is no list").into()),
            None => steps.push(part),
        }
        if steps.len() + open.len() > MOST_STEPS {
            return Err(format!("more than {MOST_STEPS} steps").into());
        }
    }
    Ok(steps)
}

fn is(step: &Value, kind: &str) -> bool {
    step["type"] == kind
}

/// The expression of a `Split` or `Replace`.
fn search(step: &Value) -> Result<Search> {
    let pattern = &step["pattern"];
    match (pattern["String"].as_str(), pattern["Regex"].as_str()) {
        (Some(text), None) => Search::literal(text),
        (None, Some(expression)) => Search::new(expression),
        _ => Err("a pattern that is neither a String nor a Regex".into()),
    }
}

/// The text at `key`, which a step adds to others.
fn added(step: &Value, key: &str) -> Result<String> {
    let text = step[key].as_str().ok_or_else(|| format!("{key}, which is no text"))?;
    if text.len() > MOST_ADDED {
        return Err(format!("{key} of {} bytes, more than {MOST_ADDED}", text.len()).into());
    }
    Ok(text.to_string())
}

/// Whether a text of `before` bytes may become one of `after`.
fn check_growth(before: usize, after: usize) -> Result<()> {
    if after <= before.saturating_mul(MOST_GROWTH).saturating_add(ANY_GROWTH) {
        return Ok(());
    }
    Err(format!("steps that make {before} bytes of text {after} or more").into())
}

/// A step that replaces what an expression finds, in a normalizer or decoder.
#[derive(Debug)]
struct Replace {
    search: Search,
    content: String,
}

impl Replace {
    /// `None` for a step of another type.
    fn read(step: &Value) -> Result<Option<Self>> {
        if !is(step, "Replace") {
            return Ok(None);
        }
        Ok(Some(Self { search: search(step)?, content: added(step, "content")? }))
    }

    /// Where it finds something in `text`, and what lies between; what it makes of that is not too long for a text of `before`
    /// bytes.
    fn matches(&self, text: &str, before: usize) -> Result<Vec<(tokenizers::Offsets, bool)>> {
        let matches = (&self.search).find_matches(text)?;
        let length = |&((start, end), matches)| if matches { self.content.len() } else { end - start };
        check_growth(before, matches.iter().map(length).sum())?;
        Ok(matches)
    }
}

/// `normalizer`.
#[derive(Debug)]
pub(super) struct Normalizer(Vec<Normalize>);

#[derive(Debug)]
enum Normalize {
    Replace(Replace),
    Other(NormalizerWrapper),
}

impl Normalizer {
    pub(super) fn new(part: Value) -> Result<Self> {
        let step = |step: Value| -> Result<Normalize> {
            if let Some(replace) = Replace::read(&step)? {
                return Ok(Normalize::Replace(replace));
            }
            if is(&step, "Prepend") {
                added(&step, "prepend")?;
            }
            Ok(Normalize::Other(serde_json::from_value(step)?))
        };
        flat(part, "normalizers")?.into_iter().map(step).collect::<Result<_>>().map(Self)
    }

    fn run(&self, text: &mut NormalizedString) -> Result<()> {
        for step in &self.0 {
            let before = text.get_original().len();
            match step {
                Normalize::Replace(replace) => {
                    let matches = replace.matches(text.get(), before)?;
                    text.replace(Found(matches), &replace.content)?;
                }
                Normalize::Other(step) => {
                    if let NormalizerWrapper::Precompiled(table) = step {
                        check_growth(before, translated(table, text.get()))?;
                    }
                    tokenizers::Normalizer::normalize(step, text)?;
                    check_growth(before, text.get().len())?;
                }
            }
        }
        Ok(())
    }
}

/// At most how long `text` becomes by this table, of which each place in the text has at most one entry.
fn translated(table: &Precompiled, text: &str) -> usize {
    /// No entry is of more bytes.
    const WINDOW: usize = 8;
    let entry = |(at, _): (usize, char)| {
        let most = text.len().min(at + WINDOW);
        let end = (at..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(at);
        table.transform(&text[at..end]).map_or(0, str::len)
    };
    text.len() + text.char_indices().map(entry).sum::<usize>()
}

impl tokenizers::Normalizer for Normalizer {
    fn normalize(&self, text: &mut NormalizedString) -> Result<()> {
        // The crate's caller drops an error, and goes on: only a panic ends its work.
        self.run(text).unwrap_or_else(|error| panic!("normalizer: {error}"));
        Ok(())
    }
}

/// `pre_tokenizer`.
#[derive(Debug)]
pub(super) struct PreTokenizer(Vec<PreTokenize>);

#[derive(Debug)]
enum PreTokenize {
    Split {
        search: Search,
        behavior: SplitDelimiterBehavior,
        invert: bool,
    },
    /// A space in front of a text that has none.
    Space,
    Other(PreTokenizerWrapper),
}

impl PreTokenizer {
    pub(super) fn new(part: Value) -> Result<Self> {
        let mut steps = Vec::new();
        let parts = flat(part, "pretokenizers")?;
        if parts.iter().filter(|step| is(step, "ByteLevel")).count() > 2 {
            return Err("more than two steps of type ByteLevel".into());
        }
        for step in parts {
            if is(&step, "Split") {
                let behavior = serde_json::from_value(step["behavior"].clone())?;
                let invert = step["invert"].as_bool().ok_or("invert, which is neither true nor false")?;
                steps.push(PreTokenize::Split { search: search(&step)?, behavior, invert });
                continue;
            }
            match serde_json::from_value(step)? {
                PreTokenizerWrapper::ByteLevel(bytes) => steps.extend(byte_level(bytes)?),
                step => steps.push(PreTokenize::Other(step)),
            }
        }
        Ok(Self(steps))
    }

    /// GPT-2's, with a space in front of a text if `space`.
    pub(super) fn gpt2(space: bool) -> Self {
        Self::new(json!({ "type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true }))
            .expect("a valid step")
    }
}

/// What [`ByteLevel`] does, in steps.
fn byte_level(step: ByteLevel) -> Result<Vec<PreTokenize>> {
    let mut steps = Vec::new();
    if step.add_prefix_space {
        steps.push(PreTokenize::Space);
    }
    if step.use_regex {
        let behavior = SplitDelimiterBehavior::Isolated;
        steps.push(PreTokenize::Split { search: Search::new(WORDS)?, behavior, invert: false });
    }
    steps.push(PreTokenize::Other(ByteLevel::new(false, step.trim_offsets, false).into()));
    Ok(steps)
}

impl tokenizers::PreTokenizer for PreTokenizer {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> Result<()> {
        for step in &self.0 {
            match step {
                PreTokenize::Split { search, behavior, invert: true } => {
                    text.split(|_, part| part.split(Invert(search), *behavior))
                }
                PreTokenize::Split { search, behavior, invert: false } => {
                    text.split(|_, part| part.split(search, *behavior))
                }
                PreTokenize::Space => text.split(|_, mut part| {
                    if !part.get().starts_with(' ') {
                        part.prepend(" ");
                    }
                    Ok([part])
                }),
                PreTokenize::Other(step) => step.pre_tokenize(text),
            }
            .map_err(|error| format!("pre_tokenizer: {error}"))?;
        }
        Ok(())
    }
}

/// `decoder`.
#[derive(Debug)]
pub(super) struct Decoder(Vec<Decode>);

#[derive(Debug)]
enum Decode {
    Replace(Replace),
    Other(DecoderWrapper),
}

impl Decoder {
    pub(super) fn new(part: Value) -> Result<Self> {
        let step = |step: Value| -> Result<Decode> {
            Ok(match Replace::read(&step)? {
                Some(replace) => Decode::Replace(replace),
                None => Decode::Other(serde_json::from_value(step)?),
            })
        };
        flat(part, "decoders")?.into_iter().map(step).collect::<Result<_>>().map(Self)
    }

    /// From bytes as characters back to text.
    pub(super) fn gpt2() -> Self {
        Self(vec![Decode::Other(ByteLevel::default().into())])
    }
}

impl tokenizers::Decoder for Decoder {
    fn decode_chain(&self, mut tokens: Vec<String>) -> Result<Vec<String>> {
        let size = |tokens: &[String]| tokens.iter().map(String::len).sum();
        let before = size(&tokens);
        for step in &self.0 {
            match step {
                Decode::Replace(replace) => {
                    for token in &mut tokens {
                        let matches = replace.matches(token, before)?;
                        let piece = |&((start, end), matches): &(tokenizers::Offsets, bool)| {
                            if matches { replace.content.as_str() } else { &token[start..end] }
                        };
                        *token = matches.iter().map(piece).collect();
                    }
                }
                Decode::Other(step) => tokens = step.decode_chain(tokens)?,
            }
            check_growth(before, size(&tokens))?;
        }
        Ok(tokens)
    }
}
