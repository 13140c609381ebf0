//! Chat templates against what transformers 5 renders (tests/golden/chat-templates, tools/golden/make_chat_templates.py).
//!
//! The templates are written for these tests, with the constructs of public models' templates.

mod common;

use std::{collections::BTreeMap, fs, path::PathBuf};

use common::{
    assert_error,
    models::{Folder, VOCAB_SIZE},
};
use probeprune::{Result, tokenizer::Tokenizer};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

type Conversation = Vec<(String, String)>;

fn golden(file: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/golden/chat-templates", file].iter().collect()
}

fn read<T: DeserializeOwned>(file: &str) -> T {
    let text = fs::read_to_string(golden(file)).expect(file);
    serde_json::from_str(&text).expect(file)
}

/// A tokenizer with this template and the special tokens of the golden data.
fn with_template(template: &str) -> Tokenizer {
    let folder = Folder::llama();
    let tokens = json!({ "bos_token": "<s>", "eos_token": "</s>" });
    folder.write("tokenizer_config.json", tokens.to_string());
    folder.write("chat_template.jinja", template);
    Tokenizer::load(&folder.source(), VOCAB_SIZE).unwrap()
}

fn render(tokenizer: &Tokenizer, conversation: &Conversation, add_generation_prompt: bool) -> Result<String> {
    let messages: Vec<_> =
        conversation.iter().map(|(role, content)| (role.as_str(), content.as_str())).collect();
    tokenizer.chat_template().expect("a template").render(&messages, add_generation_prompt)
}

/// Compares a text, or that there is an error.
fn assert_same(got: Result<String>, expected: &Value, what: &str) {
    match (got, expected.as_str()) {
        (Ok(got), Some(expected)) => assert_eq!(got, expected, "{what}"),
        (Err(_), None) => {}
        (got, _) => panic!("{what}: {got:?} but transformers: {expected}"),
    }
}

#[test]
fn templates_like_public_models() {
    let conversations: BTreeMap<String, Conversation> = read("conversations.json");
    let rendered: BTreeMap<String, BTreeMap<String, [Value; 2]>> = read("rendered.json");
    assert!(rendered.len() >= 40, "{}", rendered.len());
    for (name, expected) in rendered {
        let template = fs::read_to_string(golden(&format!("templates/{name}.jinja"))).unwrap();
        let tokenizer = with_template(&template);
        assert_eq!(expected.len(), conversations.len(), "{name}");
        for (conversation, expected) in expected {
            for (prompt, expected) in [false, true].into_iter().zip(&expected) {
                let got = render(&tokenizer, &conversations[&conversation], prompt);
                assert_same(got, expected, &format!("{name}, {conversation}, {prompt}"));
            }
        }
    }
}

/// One construct each: operators, filters, tests, methods, formats, whitespace, scopes, macros, printing.
#[test]
fn constructs() {
    let conversation = [("system", "Be \"kind\""), ("user", " Hi é<&>' \n two"), ("assistant", "Well\r\nok")]
        .map(|(role, content)| (role.to_string(), content.to_string()));
    let constructs: Vec<(String, Value)> = read("constructs.json");
    assert!(constructs.len() >= 150, "{}", constructs.len());
    for (template, expected) in constructs {
        let got = render(&with_template(&template), &conversation.to_vec(), true);
        assert_same(got, &expected, &format!("{template:?}"));
    }
}

/// Where templates and special tokens come from.
#[test]
fn folders() {
    let folders: BTreeMap<String, Value> = read("folders.json");
    assert!(folders.len() >= 35, "{}", folders.len());
    for (name, case) in folders {
        let folder = Folder::llama();
        for (file, content) in case["files"].as_object().unwrap() {
            folder.write(file, content.as_str().map_or_else(|| content.to_string(), str::to_string));
        }
        let got = Tokenizer::load(&folder.source(), VOCAB_SIZE)
            .and_then(|tokenizer| render(&tokenizer, &vec![("user".into(), "Hi".into())], false));
        assert_same(got, &case["rendered"], &name);
    }
}

#[test]
fn messages_of_templates_reach_the_user() {
    let conversation = vec![("user".into(), "Hi".into())];
    let cases = [
        ("{{ raise_exception('roles must\nalternate') }}", "\"roles must\\nalternate (line 1)\""),
        ("\n{{ messages[0].content.nope() }}", "'str object' has no attribute 'nope' (line 2)"),
        ("{{ nothing.here }}", "'nothing' is undefined"),
        ("{% if true %}", "expected the tag elif or else or endif, got the end of the template"),
        ("{% unknown %}", "unknown tag `unknown`"),
        ("{{ 1 | nope }}", "no filter named 'nope'"),
        ("{{ 1 is nope }}", "no test named 'nope'"),
        ("{{ 'a }}", "a string that does not end"),
        ("{{ [1) }}", "an unexpected `)`"),
        ("{# ", "a comment that does not end"),
        ("{% include 'other' %}", "`include` needs other templates"),
        ("{{ messages.append(1) }}", "'list object' has no attribute 'append'"),
    ];
    for (template, reason) in cases {
        let parts = [
            "chat_template.jinja: chat template: expected a template that renders this conversation, got",
            reason,
            "Change the conversation",
        ];
        assert_error(render(&with_template(template), &conversation, true), &parts);
    }
}
