//! Chat templates: how a conversation becomes one text.

use std::{collections::BTreeMap, path::PathBuf};

use minijinja::{Environment, ErrorKind, Value as Jinja, syntax::SyntaxConfig};
use serde_json::{Map, Value};

use super::date;
use crate::{
    error::{Error, Result, printable},
    source::ModelSource,
};

/// Steps that a template may take, of at most 64 bytes each: real ones need some thousands for a long conversation.
const FUEL: u64 = 2_000_000;

/// A model's chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    /// The file that holds the template, for messages.
    path: PathBuf,
    template: String,
    /// `bos_token`, `eos_token` and so on, where the model has them.
    tokens: Vec<(&'static str, String)>,
}

impl ChatTemplate {
    /// From chat_template.jinja, else `chat_template` in tokenizer_config.json (a string, or a list of which "default"
    /// is taken); `None` when there is neither.
    pub(super) fn load(source: &ModelSource) -> Result<Option<Self>> {
        let path = source.path_of("tokenizer_config.json");
        let wrong = |what: &str, expected: &str, got: String| {
            Error::file(&path, what, expected, got, "Download tokenizer_config.json again.")
        };
        let config = match source.read_text("tokenizer_config.json")? {
            None => Map::new(),
            Some(text) => match serde_json::from_str(&text) {
                Ok(Value::Object(config)) => config,
                Ok(_) => return Err(wrong("content", "a JSON object", "another JSON value".into())),
                Err(error) => return Err(wrong("content", "valid JSON", error.to_string())),
            },
        };
        let (path, template) = match source.read_text("chat_template.jinja")? {
            Some(template) => (source.path_of("chat_template.jinja"), template),
            None => match config.get("chat_template") {
                None | Some(Value::Null) => return Ok(None),
                Some(Value::String(template)) => (path.clone(), template.clone()),
                Some(Value::Array(list)) => {
                    let default = list.iter().find(|entry| entry["name"] == "default");
                    match default.and_then(|entry| entry["template"].as_str()) {
                        Some(template) => (path.clone(), template.to_string()),
                        None => {
                            let got = format!("a list of {} without it", list.len());
                            return Err(wrong("chat_template", "a template named \"default\"", got));
                        }
                    }
                }
                Some(_) => {
                    let got = "another JSON value".to_string();
                    return Err(wrong("chat_template", "a string or a list of named templates", got));
                }
            },
        };
        let tokens = ["bos_token", "eos_token", "unk_token", "pad_token"].into_iter().filter_map(|name| {
            // Either the text itself, or an object that has it as `content`.
            let token = config.get(name)?;
            let text = token.as_str().or_else(|| token.get("content")?.as_str())?;
            Some((name, text.to_string()))
        });
        let tokens = tokens.collect();
        Ok(Some(Self { path, template, tokens }))
    }

    /// The conversation of `messages`, (role, content) each, as one text; with `add_generation_prompt` it ends with
    /// the beginning of the assistant's answer. Special tokens are in the text: encode it without adding more.
    ///
    /// # Errors
    /// When the template is broken, refuses the conversation, or takes too long or too much memory.
    pub fn render(&self, messages: &[(&str, &str)], add_generation_prompt: bool) -> Result<String> {
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_syntax(
            SyntaxConfig::builder()
                .trim_blocks(true)
                .lstrip_blocks(true)
                .build()
                .expect("only the delimiters can clash, and they are the usual ones"),
        );
        environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| {
            date::now(&format).map_err(|conversion| {
                minijinja::Error::new(
                    ErrorKind::InvalidOperation,
                    format!("strftime_now: unknown {conversion}"),
                )
            })
        });
        let messages = messages.iter().map(|(role, content)| {
            Jinja::from(BTreeMap::from([("role", Jinja::from(*role)), ("content", Jinja::from(*content))]))
        });
        let mut variables = BTreeMap::from([
            ("messages", messages.collect::<Vec<_>>().into()),
            ("add_generation_prompt", add_generation_prompt.into()),
            // Given but none, as Hugging Face does: templates ask either way.
            ("tools", Jinja::from(())),
            ("documents", Jinja::from(())),
        ]);
        variables.extend(self.tokens.iter().map(|(name, text)| (*name, Jinja::from(text.as_str()))));
        environment.render_str(&self.template, Jinja::from(variables)).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &minijinja::Error) -> Error {
        if error.kind() == ErrorKind::OutOfFuel {
            return Error::file(
                &self.path,
                "chat template",
                format!("an end within {FUEL} steps"),
                "none: it loops for ever, or nearly so",
                "Shorten the conversation, or correct the template.",
            );
        }
        let got = printable(&error.to_string());
        let help = "Change the conversation so that the template accepts it, or correct the template.";
        Error::file(&self.path, "chat template", "a template that renders this conversation", got, help)
    }
}
