//! Chat templates: how a conversation becomes one text.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::Value;

use super::{
    jinja::{self, Conversation, Fault},
    special_tokens::object,
    template_tokens,
};
use crate::{
    error::{Error, Result, printable},
    source::ModelSource,
};

/// A model's chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    /// The file that holds the template, for messages.
    path: PathBuf,
    template: String,
    /// `bos_token`, `eos_token` and so on, where the model has them.
    tokens: BTreeMap<String, String>,
}

impl ChatTemplate {
    /// From additional_chat_templates/default.jinja, else chat_template.jinja, else `chat_template` in
    /// tokenizer_config.json (a string, or several with names, of which "default" is taken), as transformers 5 does;
    /// `None` when there is none.
    pub(super) fn load(source: &ModelSource) -> Result<Option<Self>> {
        let config = object(source, "tokenizer_config.json")?;
        for file in ["additional_chat_templates/default.jinja", "chat_template.jinja"] {
            if let Some(template) = source.read_text(file)? {
                let tokens = template_tokens::load(source, &config)?;
                return Ok(Some(Self { path: source.path_of(file), template, tokens }));
            }
        }
        let path = source.path_of("tokenizer_config.json");
        let wrong = |expected: &str, got: &str| {
            Error::file(&path, "chat_template", expected, got, "Download tokenizer_config.json again.")
        };
        let default = match config.get("chat_template") {
            None | Some(Value::Null) => return Ok(None),
            Some(text @ Value::String(_)) => Some(text),
            Some(Value::Array(list)) => {
                list.iter().find(|entry| entry["name"] == "default").map(|entry| &entry["template"])
            }
            Some(Value::Object(named)) => named.get("default"),
            Some(_) => return Err(wrong("a string or templates with names", "another JSON value")),
        };
        let Some(template) = default.and_then(Value::as_str) else {
            return Err(wrong("a template named \"default\"", "templates without it"));
        };
        let (template, tokens) = (template.to_string(), template_tokens::load(source, &config)?);
        Ok(Some(Self { path, template, tokens }))
    }

    /// The conversation of `messages`, (role, content) each, as one text, as transformers 5 renders it; with
    /// `add_generation_prompt` it ends with the beginning of the assistant's answer. Special tokens are in the text:
    /// encode it without adding more.
    ///
    /// # Errors
    /// When the template is broken, refuses the conversation, or takes too long, too much memory or too deep a
    /// recursion.
    pub fn render(&self, messages: &[(&str, &str)], add_generation_prompt: bool) -> Result<String> {
        let conversation = Conversation { messages, add_generation_prompt, tokens: &self.tokens };
        jinja::render(&self.template, &conversation).map_err(|fault| self.failed(&fault))
    }

    fn failed(&self, fault: &Fault) -> Error {
        let got = printable(&fault.to_string());
        let (expected, help) = match fault.is_limit {
            true => (
                "an end within the limits on work, memory and depth",
                "Shorten the conversation, or correct the template.",
            ),
            false => (
                "a template that renders this conversation",
                "Change the conversation so that the template accepts it, or correct the template.",
            ),
        };
        Error::file(&self.path, "chat template", expected, got, help)
    }
}
