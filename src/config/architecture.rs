//! Which model a config.json is of.

use serde_json::Value;

use super::{Family, fields::Fields};
use crate::error::{Error, Result, printable};

/// The models that run, by their names in Hugging Face's transformers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Architecture {
    Llama,
    Mistral,
    Qwen2,
    Opt,
}

const ALL: [Architecture; 4] =
    [Architecture::Llama, Architecture::Mistral, Architecture::Qwen2, Architecture::Opt];

const HELP: &str = "Other architectures are not supported: use a model of one of these.";

impl Architecture {
    pub(super) fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Opt => "opt",
        }
    }

    /// The class with a language model's head.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Opt => "OPTForCausalLM",
        }
    }

    /// The class without it, which is enough where the head is the embedding.
    fn base_class(self) -> String {
        self.class().replace("ForCausalLM", "Model")
    }

    /// By `model_type`, in any case.
    pub(super) fn named(model_type: &str) -> Option<Self> {
        ALL.into_iter().find(|known| model_type.eq_ignore_ascii_case(known.model_type()))
    }

    fn family(self) -> Family {
        if self == Self::Opt { Family::Opt } else { Family::Llama }
    }

    /// By `architectures`, in any case, and by `model_type`, which decides between models of one family as it does in
    /// transformers. `notes` gets a sentence where the two disagree.
    pub(super) fn parse(fields: &Fields, notes: &mut Vec<String>) -> Result<Self> {
        let classes = classes(fields)?;
        if let Some(class) = classes.iter().find(|class| has_another_head(class)) {
            let expected = format!("one of {}", names(Self::class));
            let help =
                "This model has another head than a language model's: use the one that it was made from.";
            return Err(Error::file(fields.path(), "architectures", expected, printable(class), help));
        }
        let by_class = classes.iter().find_map(|class| {
            let is = |known: &Self| {
                class.eq_ignore_ascii_case(known.class()) || class.eq_ignore_ascii_case(&known.base_class())
            };
            ALL.into_iter().find(is)
        });
        let by_type = match fields.string("model_type")? {
            None => None,
            Some(model_type) => {
                let refused = || {
                    let expected = format!("one of {}", names(Self::model_type));
                    fields.wrong_with_help("model_type", expected, HELP)
                };
                Some(Self::named(model_type).ok_or_else(refused)?)
            }
        };
        match (by_class, by_type) {
            (Some(class), Some(by_type)) if class.family() != by_type.family() => {
                let expected = format!("{} as architectures has {}", class.model_type(), class.class());
                Err(fields.wrong("model_type", expected))
            }
            (by_class, Some(by_type)) => {
                if by_class != Some(by_type) && !classes.is_empty() {
                    notes.push(format!(
                        "config.json: architectures has {}, model_type {}: the model runs as {}, as in transformers",
                        printable(classes[0]),
                        by_type.model_type(),
                        by_type.class(),
                    ));
                }
                Ok(by_type)
            }
            (Some(by_class), None) => Ok(by_class),
            (None, None) => {
                let expected = format!("one of {}", names(Self::class));
                Err(match classes.first() {
                    Some(class) => {
                        Error::file(fields.path(), "architectures", expected, printable(class), HELP)
                    }
                    None => fields.wrong_with_help("architectures", expected, HELP),
                })
            }
        }
    }
}

fn names(name: impl Fn(Architecture) -> &'static str) -> String {
    ALL.map(name).join(", ")
}

fn classes<'a>(fields: &Fields<'a>) -> Result<Vec<&'a str>> {
    let classes = match fields.get("architectures") {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::Array(classes)) => classes.iter().map(Value::as_str).collect(),
        Some(_) => None,
    };
    classes.ok_or_else(|| fields.wrong("architectures", "a list of class names"))
}

/// Whether a class of transformers puts something else than a language model's head on a decoder.
fn has_another_head(class: &str) -> bool {
    [
        "ForSequenceClassification",
        "ForTokenClassification",
        "ForQuestionAnswering",
        "ForConditionalGeneration",
    ]
    .iter()
    .any(|head| class.ends_with(head))
}
