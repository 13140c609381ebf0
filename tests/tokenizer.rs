//! Tokenizers and chat templates: what good ones give, and every numbered case of a bad one.

mod common;

use std::time::{Duration, Instant};

use common::{
    assert_error,
    models::{Folder, VOCAB_SIZE},
};
use probeprune::{Result, tokenizer::Tokenizer};
use serde_json::{Value, json};

const AGAIN: &str = "Download tokenizer.json again.";

fn load(folder: &Folder) -> Result<Tokenizer> {
    Tokenizer::load(&folder.source(), VOCAB_SIZE)
}

/// Loads the good tokenizer after this edit.
fn edited(edit: impl FnOnce(&mut Value)) -> Result<Tokenizer> {
    let folder = Folder::llama();
    folder.edit_json("tokenizer.json", edit);
    load(&folder)
}

/// A tokenizer whose folder has this tokenizer_config.json.
fn configured(config: &Value) -> Result<Tokenizer> {
    let folder = Folder::llama();
    folder.write("tokenizer_config.json", config.to_string());
    load(&folder)
}

/// What this chat template makes of a short conversation.
fn render(template: &str) -> Result<String> {
    let config = json!({ "chat_template": template, "bos_token": "<s>", "eos_token": { "content": "</s>" } });
    let tokenizer = configured(&config)?;
    tokenizer.chat_template().unwrap().render(&[("system", "Be kind."), ("user", " Hi ")], true)
}

#[test]
fn text_and_back() {
    let tokenizer = load(&Folder::llama()).unwrap();
    assert_eq!(tokenizer.encode("hello hello", true).unwrap(), [0, 262, 263]);
    assert_eq!(tokenizer.encode("hello", false).unwrap(), [262]);
    assert_eq!(tokenizer.encode("", true).unwrap(), [0]);
    assert_eq!(tokenizer.encode("</s>", false).unwrap(), [2]);
    for text in ["", "hello hello", "naïve 日本 🦀\n", "a\0b"] {
        let ids = tokenizer.encode(text, true).unwrap();
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), format!("<s>{text}"));
    }
    assert_eq!(tokenizer.decode(&[262, 263, 999_999], true).unwrap(), "hello hello");
    assert!(tokenizer.chat_template().is_none());
}

#[test]
fn leftover_truncation_and_padding_are_dropped() {
    let tokenizer = edited(|tokenizer| {
        tokenizer["truncation"] =
            json!({ "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0 });
        tokenizer["padding"] = json!({ "strategy": { "Fixed": 9 }, "direction": "Right", "pad_to_multiple_of": null,
                                       "pad_id": 1, "pad_type_id": 0, "pad_token": "<pad>" });
    });
    assert_eq!(tokenizer.unwrap().encode("hello hello hello", true).unwrap(), [0, 262, 263, 263]);
}

#[test]
fn stream_gives_whole_characters() {
    let tokenizer = load(&Folder::llama()).unwrap();
    let text = "hello hello: naïve 日本 🦀🦀!";
    let ids = tokenizer.encode(text, false).unwrap();
    let mut stream = tokenizer.stream();
    let pieces: Vec<_> = ids.iter().filter_map(|id| stream.push(*id).unwrap()).collect();
    assert_eq!(pieces.concat(), text);
    assert!(pieces.len() < ids.len() && pieces.contains(&"🦀".to_string()));
    assert_eq!(stream.finish().unwrap(), "");

    // Half a crab, then the end.
    let crab = tokenizer.encode("🦀", false).unwrap();
    let mut stream = tokenizer.stream();
    assert!(crab[..2].iter().all(|id| stream.push(*id).unwrap().is_none()));
    assert_eq!(stream.finish().unwrap(), "\u{fffd}");

    // Bytes that never make a character do not hold back what follows, nor do tokens without text.
    let mut stream = tokenizer.stream();
    let garbage: String = (0..100).filter_map(|_| stream.push(crab[1]).unwrap()).collect();
    assert!(garbage.chars().all(|c| c == '\u{fffd}') && garbage.chars().count() >= 80);
    for _ in 0..1_000 {
        stream.push(2).unwrap();
    }
    let rest: String = ids.iter().filter_map(|id| stream.push(*id).unwrap()).collect();
    assert!(rest.ends_with(text), "{rest:?}");
}

/// Like LLaMA-2's: SentencePiece pieces with bytes for the rest, and a decoder that drops the first space.
#[test]
fn byte_fallback_and_spaces() {
    let mut vocab = json!({ "<unk>": 0, "▁": 1, "▁a": 2, "a": 3 });
    for byte in 0..256 {
        vocab[format!("<0x{byte:02X}>")] = (4 + byte).into();
    }
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "▁" }, { "type": "Replace", "pattern": { "String": " " }, "content": "▁" }] },
        "pre_tokenizer": null, "post_processor": null,
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " }, { "type": "ByteFallback" },
            { "type": "Fuse" }, { "type": "Strip", "content": " ", "start": 1, "stop": 0 }] },
        "model": { "type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "vocab": vocab,
                   "merges": [["▁", "a"]] },
    });
    let folder = Folder::llama();
    folder.write("tokenizer.json", tokenizer.to_string());
    let tokenizer = load(&folder).unwrap();
    let text = "a a 🦀é a🦀🦀 a";
    let ids = tokenizer.encode(text, false).unwrap();
    assert_eq!(ids[..2], [2, 2]);
    let mut stream = tokenizer.stream();
    let pieces: Vec<_> = ids.iter().filter_map(|id| stream.push(*id).unwrap()).collect();
    assert_eq!((pieces.concat(), pieces[1].as_str()), (text.to_string(), " a"));
}

#[test]
fn tokenizer_missing() {
    let folder = Folder::llama();
    folder.remove("tokenizer.json");
    let parts = [
        "tokenizer.json: file: expected the model's tokenizer, or vocab.json and merges.txt, got no such file.",
        "tokenizer.model",
        "save_pretrained",
    ];
    assert_error(load(&folder), &parts);
}

#[test]
fn case_52_corrupt() {
    let folder = Folder::llama();
    for text in ["", "{", "[]", "{}", "null", r#"{"version":"1.0"}"#, r#"{"model":{}}"#] {
        folder.write("tokenizer.json", text);
        assert_error(load(&folder), &["tokenizer.json: ", ": expected", ", got ", AGAIN]);
    }
    folder.write("tokenizer.json", b"{\"\xff\":1}");
    assert_error(
        load(&folder),
        &["tokenizer.json: content: expected UTF-8 text, got a byte that is not, at offset 2."],
    );
    // The crate panics on these: on the first ones when it loads them, on the last when it first uses it.
    let charsmap = |text: &str| {
        edited(|tokenizer| {
            tokenizer["normalizer"] = json!({ "type": "Precompiled", "precompiled_charsmap": text })
        })
    };
    for text in ["", "AAAA", "/////w==", "!"] {
        assert_error(
            charsmap(text),
            &["tokenizer.json: normalizer: expected the structure of a tokenizer.json", ", got ", AGAIN],
        );
    }
    let parts =
        ["tokenizer.json: encoding: expected a tokenizer that can do it, got \"", "download the file again"];
    assert_error(charsmap("AAAAAA=="), &parts);
    for (key, value) in
        [("decoder", json!({ "type": "None" })), ("post_processor", json!(3)), ("version", json!("2.0"))]
    {
        assert_error(
            edited(|tokenizer| tokenizer[key] = value),
            &[&format!("tokenizer.json: {key}: expected"), AGAIN],
        );
    }
}

#[test]
fn case_53_bad_regex() {
    let split =
        json!({ "type": "Split", "pattern": { "Regex": "(a" }, "behavior": "Isolated", "invert": false });
    let parts = ["tokenizer.json: pre_tokenizer: expected the structure", ", got \"", AGAIN];
    assert_error(edited(|tokenizer| tokenizer["pre_tokenizer"] = split), &parts);
    let nested = json!({ "type": "Replace", "pattern": { "Regex": "(".repeat(100_000) }, "content": "" });
    assert_error(
        edited(|tokenizer| tokenizer["normalizer"] = nested),
        &["tokenizer.json: normalizer: expected", AGAIN],
    );
}

#[test]
fn case_54_merge_of_unknown_token() {
    let merge =
        |merge: Value| edited(|tokenizer| tokenizer["model"]["merges"].as_array_mut().unwrap().push(merge));
    for (pair, token) in [(json!(["x", "nope"]), "nope"), (json!(["x", "q"]), "xq")] {
        assert_error(merge(pair), &["tokenizer.json: model: expected the structure", token, AGAIN]);
    }
}

#[test]
fn case_55_id_not_below_vocab() {
    let parts = [
        "expected an id below 263 (vocab_size in config.json), got 263.",
        "same place",
        "leave this token out",
    ];
    let small = Tokenizer::load(&Folder::llama().source(), 263).unwrap();
    assert_error(
        small.encode("a hello", true),
        &["tokenizer.json: token \"Ġhello\": ", parts[0], parts[1], parts[2]],
    );
    assert_eq!(small.encode("hello", true).unwrap(), [0, 262]);
    let far = edited(|tokenizer| tokenizer["model"]["vocab"]["far"] = 4_294_967_295u32.into()).unwrap();
    assert_eq!(far.encode("far hello", false).unwrap().last(), Some(&263));
    // Unused, and used.
    let padded = edited(|tokenizer| {
        let mut pad = tokenizer["added_tokens"][2].clone();
        (pad["id"], pad["content"]) = (VOCAB_SIZE.into(), "<more>".into());
        tokenizer["added_tokens"].as_array_mut().unwrap().push(pad);
    });
    let padded = padded.unwrap();
    assert_eq!(padded.encode("hello", true).unwrap(), [0, 262]);
    assert_error(padded.encode("a<more>", true), &["token \"<more>\": expected an id below 264", "got 264."]);
    assert_eq!(padded.decode(&[262, 264, 999_999, u32::MAX], true).unwrap(), "hello");
    assert_eq!(padded.decode(&[262, 264], false).unwrap(), "hello<more>");
    let template =
        edited(|tokenizer| tokenizer["post_processor"]["special_tokens"]["<s>"]["ids"] = json!([500]));
    assert_error(template, &["token \"\": expected an id below 264", "got 500.", "same place"]);
}

#[test]
fn case_56_no_unknown_token() {
    let parts = ["tokenizer.json: model.unk_token: expected an unknown-token of the vocabulary", AGAIN];
    let without_bytes = edited(|tokenizer| tokenizer["pre_tokenizer"] = json!({ "type": "Whitespace" }));
    assert_error(without_bytes, &[parts[0], ", got none.", AGAIN]);
    let model = |model: Value| edited(|tokenizer| tokenizer["model"] = model);
    let word_level = json!({ "type": "WordLevel", "vocab": { "a": 0 }, "unk_token": "<unk>" });
    assert_error(model(word_level), &[parts[0], ", got \"<unk>\", which is no token.", AGAIN]);
    assert_error(model(json!({ "type": "Unigram", "unk_id": null, "vocab": [["a", 0.0]] })), &parts);
    assert!(model(json!({ "type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0]] })).is_ok());
}

#[test]
fn chat_templates_as_hugging_face_renders_them() {
    let template = "{{ bos_token }}{% for message in messages %}\n    {% if message['role'] == 'user' %}\nU:{{ message.content.strip() }}{{ eos_token }}\n    {% else %}\nS:{{ message['content'] | trim }}\n    {% endif %}\n{% endfor %}\n{% if add_generation_prompt %}\nA:{% endif %}";
    assert_eq!(render(template).unwrap(), "<s>S:Be kind.\nU:Hi</s>\nA:");
    assert_eq!(
        render("{{ messages[0]['role'].upper() }}{% for m in messages %}{% break %}{% endfor %}").unwrap(),
        "SYSTEM"
    );
    assert_eq!(
        render("{% if tools is defined and tools %}T{% endif %}{{ messages | length }}").unwrap(),
        "2"
    );
    let date = render("{{ strftime_now('%d %b %Y') }}").unwrap();
    assert_eq!(date.split(' ').map(str::len).collect::<Vec<_>>(), [2, 3, 4]);
}

#[test]
fn where_the_chat_template_comes_from() {
    let named = json!({ "chat_template": [{ "name": "tool", "template": "x" }, { "name": "default", "template": "d" }] });
    let template = |tokenizer: &Tokenizer| tokenizer.chat_template().unwrap().render(&[], false).unwrap();
    assert_eq!(template(&configured(&named).unwrap()), "d");
    let folder = Folder::llama();
    folder.write("tokenizer_config.json", r#"{"chat_template":"from config"}"#);
    folder.write("chat_template.jinja", "from file");
    assert_eq!(template(&load(&folder).unwrap()), "from file");
    assert!(configured(&json!({ "chat_template": null })).unwrap().chat_template().is_none());
    let parts =
        ["tokenizer_config.json: chat_template: expected", ", got ", "Download tokenizer_config.json again."];
    for wrong in [json!(3), json!([]), json!([{ "name": "tool", "template": "x" }]), json!({})] {
        assert_error(configured(&json!({ "chat_template": wrong })), &parts);
    }
    assert_error(configured(&json!([])), &["tokenizer_config.json: content: expected a JSON object"]);
    folder.write("tokenizer_config.json", "{");
    assert_error(load(&folder), &["tokenizer_config.json: content: expected valid JSON, got EOF"]);
}

#[test]
fn chat_templates_that_fail() {
    let cases = [
        ("{{ raise_exception('only\nusers') }}", "only\\nusers"),
        ("{% if %}", "syntax error: expected a value"),
        ("{{ messages[0].content.nope() }}", "nope"),
    ];
    for (template, reason) in cases {
        let parts = [
            "tokenizer_config.json: chat template: expected a template that renders this conversation, got",
            reason,
            "Change the conversation",
        ];
        assert_error(render(template), &parts);
    }
}

/// More of these are in tests/hostile_templates.rs.
#[test]
fn case_57_endless_chat_template() {
    let endless = [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
        // Doubles a text until memory is full.
        "{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
        "{% for i in range(99999) %}{{ messages[0].content * 99999 }}{% endfor %}",
    ];
    for template in endless {
        let start = Instant::now();
        let parts = [
            "chat template: expected an end within the limits",
            "got \"too much work or memory",
            "Shorten the conversation, or correct the template.",
        ];
        assert_error(render(template), &parts);
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }
}
