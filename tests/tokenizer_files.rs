//! Tokenizers in vocab.json and merges.txt, special tokens of the files beside, and notes about older transformers.

mod common;

use std::{env, fs, path::Path};

use common::{
    assert_error,
    models::{Folder, VOCAB_SIZE},
};
use probeprune::{Result, source::ModelSource, tokenizer::Tokenizer};
use serde_json::{Value, json};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/opt-tokenizer");

/// A copy of the golden folder after this edit.
fn opt(edit: impl FnOnce(&Folder)) -> Result<Tokenizer> {
    let folder = Folder::empty();
    for file in ["vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"] {
        folder.write(file, fs::read(Path::new(GOLDEN).join(file)).unwrap());
    }
    edit(&folder);
    Tokenizer::load(&folder.source(), 1000)
}

fn compare(tokenizer: &Tokenizer, file: &Path) -> usize {
    let expected: Vec<(String, Vec<u32>)> = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    for (text, ids) in &expected {
        assert_eq!(tokenizer.encode(text, true).unwrap(), *ids, "{text:?}");
    }
    expected.len()
}

#[test]
fn the_ids_of_transformers() {
    let tokenizer = Tokenizer::load(&ModelSource::Folder(GOLDEN.into()), 1000).unwrap();
    assert_eq!(compare(&tokenizer, &Path::new(GOLDEN).join("ids.json")), 300);
    // More of them, which tools/golden/make_opt_tokenizer.py writes.
    if let Some(file) = env::var_os("PROBEPRUNE_TOKENIZER_IDS") {
        assert!(compare(&tokenizer, Path::new(&file)) >= 10_000);
    }
    assert!(tokenizer.notes().is_empty());
    let ids = tokenizer.encode("naïve 🦀</s>", true).unwrap();
    assert_eq!((ids[0], ids[ids.len() - 1]), (2, 2));
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "naïve 🦀");
    assert_eq!(tokenizer.decode(&[999, 2, 1], false).unwrap(), "</s><pad>");
}

/// The ids are transformers 5's.
#[test]
fn flags_and_special_tokens() {
    let config = |config: Value| {
        opt(|folder| {
            folder.remove("special_tokens_map.json");
            folder.write("tokenizer_config.json", config.to_string());
        })
        .unwrap()
    };
    let plain = config(json!({}));
    let the = plain.encode("the", true).unwrap();
    assert_eq!(the, [264]);
    let spaced = plain.encode(" the", true).unwrap();
    assert_ne!(the, spaced);
    // GPT-2's token comes after the vocabulary where nothing names another.
    assert_eq!(plain.encode("<|endoftext|>", false).unwrap(), [441]);
    assert_eq!(config(json!({ "add_prefix_space": true })).encode("the", true).unwrap(), spaced);
    let bos = config(
        json!({ "add_bos_token": true, "bos_token": "<s>", "add_eos_token": true, "eos_token": "</s>" }),
    );
    assert_eq!(bos.encode("the", true).unwrap(), [&[0], &the[..], &[2]].concat());
    assert_eq!(bos.encode("the", false).unwrap(), the);
    let none = config(json!({ "add_bos_token": true, "bos_token": null }));
    assert_eq!(none.encode("the", true).unwrap(), the);
    let strip = json!({ "content": "<pad>", "lstrip": true, "rstrip": true, "__type": "AddedToken" });
    assert_eq!(config(json!({ "pad_token": strip })).encode("  <pad>  ", false).unwrap(), [1]);
    let split = config(json!({ "split_special_tokens": true, "pad_token": "<pad>" }));
    assert_eq!(split.encode("<pad>", false).unwrap(), [31, 83, 68, 71, 33]);
    let listed = config(json!({ "added_tokens_decoder": { "700": { "content": "<x>", "special": true } },
                                "extra_special_tokens": ["<y>"], "image_token": "<z>" }));
    assert_eq!(listed.encode("<x><y><z>", false).unwrap(), [441, 444, 443]);
    let added = opt(|folder| folder.write("added_tokens.json", r#"{"<mine>": 900}"#)).unwrap();
    assert_eq!(added.encode("<mine>", false).unwrap(), [441]);
}

#[test]
fn merges_in_other_forms() {
    let expected = opt(|_| ()).unwrap().encode("the model of a house", true).unwrap();
    let merges = fs::read_to_string(Path::new(GOLDEN).join("merges.txt")).unwrap();
    let lines: Vec<&str> = merges.lines().collect();
    assert!(lines[0].starts_with("#version"));
    for text in [lines[1..].join("\n"), lines.join("\r\n"), merges.clone() + &lines[1..].join("\n")] {
        let tokenizer = opt(|folder| folder.write("merges.txt", text)).unwrap();
        assert_eq!(tokenizer.encode("the model of a house", true).unwrap(), expected);
    }
    let none = opt(|folder| folder.write("merges.txt", "")).unwrap();
    assert_eq!(none.encode("the", false).unwrap().len(), 3);
}

#[test]
fn bad_vocab_and_merges() {
    let vocab = |text: &[u8]| opt(|folder| folder.write("vocab.json", text));
    for text in ["", "{", "[]", "3", "{\"a\": -1}", "{\"a\": 1.5}", "{\"a\": \"1\"}", "{\"a\": 4294967296}"] {
        let parts = [
            "vocab.json: content: expected a JSON object of tokens and their ids, got",
            "Download vocab.json",
        ];
        assert_error(vocab(text.as_bytes()), &parts);
    }
    assert_error(vocab(b"{}"), &["vocab.json: content: expected tokens, got none."]);
    assert_error(vocab(b"{\"\xff\": 1}"), &["vocab.json: content: expected UTF-8 text"]);
    let twice = ["vocab.json: \"a\" and \"b\": expected an id each, got 1 for both."];
    assert_error(vocab(br#"{"a": 1, "b": 1}"#), &twice);
    let missing = [
        "merges.txt: merges: expected pairs of tokens that vocab.json has",
        "Download vocab.json and merges.txt",
    ];
    assert_error(vocab(br#"{"a": 1}"#), &missing);
    let merges = |text: &[u8]| opt(|folder| folder.write("merges.txt", text));
    assert_error(merges(b"a nope\n"), &[missing[0], "nope"]);
    for (text, line) in [("#version: 0.2\na b\n\na c", 3), ("a b c", 1), ("t h\nab", 2), ("a  b", 1)] {
        let part = format!("merges.txt: line {line}: expected two tokens with a space between, got");
        // The pair itself may be unknown, but the form comes first.
        assert_error(merges(text.as_bytes()), &[&part, "Download merges.txt again."]);
    }
    assert_error(merges(b"\xff"), &["merges.txt: content: expected UTF-8 text"]);
    assert_error(merges("t h\n".repeat(400_000).as_bytes()), &[missing[0], "th"]);
    assert_error(
        merges("t h\n".repeat(1_000_000).as_bytes()),
        &["merges.txt: content: expected at most 600000 lines"],
    );
    for file in ["vocab.json", "merges.txt"] {
        let removed = opt(|folder| folder.remove(file));
        assert_error(
            removed,
            &["tokenizer.json: file: expected the model's tokenizer, or vocab.json and merges.txt"],
        );
    }
    for file in ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"] {
        let broken = opt(|folder| folder.write(file, "{"));
        assert_error(broken, &[&format!("{file}: content: expected valid JSON, got"), "again."]);
    }
}

/// Loads a LLaMA folder with this tokenizer_config.json, with or without BOS in tokenizer.json.
fn llama(config: &Value, bos: bool) -> Tokenizer {
    let folder = Folder::llama();
    folder.write("tokenizer_config.json", config.to_string());
    if !bos {
        folder.edit_json("tokenizer.json", |tokenizer| tokenizer["post_processor"] = Value::Null);
    }
    Tokenizer::load(&folder.source(), VOCAB_SIZE).unwrap()
}

#[test]
fn notes_where_flags_decide_in_older_transformers() {
    let config = |class: &str, bos: Value, eos: Value| {
        json!({ "tokenizer_class": class, "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": bos,
                "add_eos_token": eos })
    };
    let (yes, no, absent) = (json!(true), json!(false), Value::Null);
    let cases = [
        ("LlamaTokenizerFast", &yes, &no, false, Some("adds none, as in transformers 5")),
        ("LlamaTokenizer", &absent, &absent, false, Some("and adds \"<s>\"")),
        ("LlamaTokenizerFast", &no, &no, true, Some("and adds none")),
        ("LlamaTokenizerFast", &yes, &yes, true, Some("and adds \"<s>\" and \"</s>\"")),
        ("GemmaTokenizerFast", &absent, &absent, true, None),
        ("GPTNeoXTokenizerFast", &absent, &absent, true, Some("adds \"<s>\", as in transformers 5")),
        ("LlamaTokenizerFast", &yes, &no, true, None),
        ("PreTrainedTokenizerFast", &yes, &yes, false, None),
        ("Qwen2Tokenizer", &yes, &yes, false, None),
        ("GPT2TokenizerFast", &yes, &absent, false, None),
    ];
    for (class, add_bos, add_eos, bos, expected) in cases {
        let tokenizer = llama(&config(class, add_bos.clone(), add_eos.clone()), bos);
        // The flags change nothing here.
        let ids: &[u32] = if bos { &[0, 262] } else { &[262] };
        assert_eq!(tokenizer.encode("hello", true).unwrap(), ids);
        match (expected, tokenizer.notes()) {
            (None, []) => {}
            (Some(expected), [note]) if note.contains(expected) && note.contains("transformers 4.46") => {}
            (_, notes) => panic!("{class} {add_bos} {add_eos} {bos}: {notes:?}"),
        }
    }
    assert_eq!(llama(&json!({}), false).notes().len(), 1);
}

#[test]
fn dropout_is_left_out_with_a_note() {
    let folder = Folder::llama();
    folder.edit_json("tokenizer.json", |tokenizer| tokenizer["model"]["dropout"] = json!(0.9));
    let tokenizer = Tokenizer::load(&folder.source(), VOCAB_SIZE).unwrap();
    assert!((0..50).all(|_| tokenizer.encode("hello", false).unwrap() == [262]));
    assert!(matches!(tokenizer.notes(), [note] if note.contains("dropout of 0.9")));
}
