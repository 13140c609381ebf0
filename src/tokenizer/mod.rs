//! Text to token ids and back, from tokenizer.json, or from vocab.json and merges.txt.

mod chat;
mod date;
mod extent;
mod jinja;
mod json_file;
mod notes;
mod quiet;
mod search;
mod special_tokens;
mod steps;
mod template_tokens;
mod vocab_file;

use std::path::PathBuf;

pub use chat::ChatTemplate;
use quiet::quietly;
use special_tokens::SpecialTokens;
use tokenizers::{ModelWrapper, PostProcessorWrapper, TokenizerImpl};

use crate::{
    error::{Error, Result, printable},
    source::ModelSource,
};

/// The crate's tokenizer, with steps that are bounded.
type Inner =
    TokenizerImpl<ModelWrapper, steps::Normalizer, steps::PreTokenizer, PostProcessorWrapper, steps::Decoder>;

/// A model's tokenizer, and its chat template if it has one.
#[derive(Debug)]
pub struct Tokenizer {
    inner: Inner,
    path: PathBuf,
    vocab_size: usize,
    chat_template: Option<ChatTemplate>,
    notes: Vec<String>,
}

impl Tokenizer {
    /// Reads tokenizer.json or, where there is none, vocab.json and merges.txt, as well as the special tokens of
    /// tokenizer_config.json and the chat template; `vocab_size` is the model's.
    ///
    /// Truncation and padding settings left over in the file are dropped, as Hugging Face does. A token may have an id
    /// that is not below `vocab_size`, as long as no text is encoded with it.
    ///
    /// # Errors
    /// When the files are missing or damaged, larger than any real ones, or cannot encode every text.
    pub fn load(source: &ModelSource, vocab_size: usize) -> Result<Self> {
        let mut notes = Vec::new();
        let (path, inner) = match source.read_text("tokenizer.json")? {
            Some(text) => {
                let path = source.path_of("tokenizer.json");
                let mut inner = json_file::read(&path, &text, &mut notes)?;
                let special = SpecialTokens::read(source, false)?;
                special.add_to(source, &mut inner)?;
                notes.extend(notes::around(source, &special, &inner)?);
                (path, inner)
            }
            None => match vocab_file::read(source)? {
                Some(inner) => (source.path_of("vocab.json"), inner),
                None => return Err(missing(source)),
            },
        };
        let chat_template = ChatTemplate::load(source)?;
        let tokenizer = Self { inner, path, vocab_size, chat_template, notes };
        // Shows now whether the special tokens put around a text are in the vocabulary, and whether the crate panics on
        // a table that it has not read yet.
        tokenizer.encode("A é", true)?;
        Ok(tokenizer)
    }

    /// What a user should know about these files: a sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The token ids of `text`, each below the model's `vocab_size`; with `add_special_tokens`, those that the model
    /// expects around a text (often a BOS) are added.
    ///
    /// # Errors
    /// When the tokenizer fails on this text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let ids = match quietly(|| self.inner.encode_fast(text, add_special_tokens)) {
            Ok(Ok(encoding)) => encoding.get_ids().to_vec(),
            Ok(Err(error)) => return Err(self.failed("encoding", &error.to_string())),
            Err(panic) => return Err(self.failed("encoding", &panic)),
        };
        match ids.iter().find(|id| **id as usize >= self.vocab_size) {
            None => Ok(ids),
            Some(id) => Err(Error::file(
                &self.path,
                format!("token {}", printable(&self.inner.id_to_token(*id).unwrap_or_default())),
                format!("an id below {} (vocab_size in config.json)", self.vocab_size),
                id,
                "Take the tokenizer's files, config.json and the weights from the same place, or leave this token out of \
                 the text.",
            )),
        }
    }

    /// The text of `ids`, without special tokens if `skip_special`. Bytes that are not UTF-8 become U+FFFD; ids that
    /// stand for no token are left out.
    ///
    /// # Errors
    /// When the tokenizer fails on these ids.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        match quietly(|| self.inner.decode(ids, skip_special)) {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(error)) => Err(self.failed("decoding", &error.to_string())),
            Err(panic) => Err(self.failed("decoding", &panic)),
        }
    }

    /// Decodes token by token, without special tokens.
    pub fn stream(&self) -> DecodeStream<'_> {
        DecodeStream { tokenizer: self, ids: Vec::new(), given: 0 }
    }

    /// The model's chat template, if it has one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat_template.as_ref()
    }

    fn failed(&self, what: &str, reason: &str) -> Error {
        let help = "Shorten long runs of one kind of character in the text, or download the file again if it may be damaged.";
        Error::file(&self.path, what, "a tokenizer that can do it", printable(reason), help)
    }
}

/// The error for a folder without a tokenizer that can be read.
fn missing(source: &ModelSource) -> Error {
    Error::file(
        source.path_of("tokenizer.json"),
        "file",
        "the model's tokenizer, or vocab.json and merges.txt",
        "no such file",
        "If the model has tokenizer.model instead, convert it once with Python: \
         from transformers import AutoTokenizer as T; T.from_pretrained(FOLDER).save_pretrained(FOLDER)",
    )
}

/// Text of a growing sequence of tokens, given out in pieces that are complete UTF-8.
#[derive(Debug)]
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The tokens of the last piece given out, then those since. How a token reads can depend on the one before it
    /// (a leading space), so the last piece is decoded along.
    ids: Vec<u32>,
    /// How many of `ids` have been given out.
    given: usize,
}

impl DecodeStream<'_> {
    /// More tokens than one character can be spread over: bytes still incomplete after them stay so.
    const MOST_PENDING: usize = 16;

    /// Adds one token. Gives the text that is new and complete, or `None` if there is none yet.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<Option<String>> {
        self.ids.push(id);
        let pending = self.pending()?;
        let full = self.ids.len() - self.given >= Self::MOST_PENDING;
        match (pending.is_empty(), pending.ends_with(char::REPLACEMENT_CHARACTER)) {
            (true, _) if full => self.ids.truncate(self.given),
            // Bytes that never were a character: what follows must not be read together with them.
            (false, true) if full => {
                self.ids.clear();
                self.given = 0;
                return Ok(Some(pending));
            }
            (false, false) => {
                self.ids.drain(..self.given);
                self.given = self.ids.len();
                return Ok(Some(pending));
            }
            _ => {}
        }
        Ok(None)
    }

    /// The text that is left at the end: of an incomplete character, U+FFFD.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(self) -> Result<String> {
        self.pending()
    }

    fn pending(&self) -> Result<String> {
        let before = self.tokenizer.decode(&self.ids[..self.given], true)?;
        let all = self.tokenizer.decode(&self.ids, true)?;
        // Where the first bytes of `all` are not `before` (an incomplete character in both), nothing is certain yet.
        Ok(all.strip_prefix(&before).unwrap_or_default().to_string())
    }
}
