//! Hostile tokenizers: each ends in one clear error, or works, in bounded time and memory.

mod common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    time::{Duration, Instant},
};

use common::models::{Folder, VOCAB_SIZE};
use probeprune::tokenizer::Tokenizer;
use serde_json::{Value, json};

/// Counts what each thread has allocated.
struct Counting;

thread_local! {
    static USED: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

fn count(bytes: isize) {
    let _ = USED.try_with(|used| {
        let now = used.get().0 + bytes;
        used.set((now, used.get().1.max(now)));
    });
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as for the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as for the caller.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Loads this file and encodes a text with it: within 2 s, and 256 MB beyond the file's size. Gives the error.
fn try_text(name: &str, file: String, text: &str) -> Option<String> {
    let folder = Folder::llama();
    let size = file.len();
    folder.write("tokenizer.json", file);
    let start = Instant::now();
    USED.set((0, 0));
    let result = Tokenizer::load(&folder.source(), VOCAB_SIZE).and_then(|tokenizer| {
        let ids = tokenizer.encode(text, true)?;
        tokenizer.decode(&ids, false)
    });
    let (used, time) = (USED.get().1 as usize, start.elapsed());
    assert!(used < size + (256 << 20), "{name}: {used} bytes for a file of {size}");
    assert!(time < Duration::from_secs(2), "{name}: {time:?}");
    let error = result.err().map(|error| error.to_string());
    assert!(error.as_ref().is_none_or(|error| error.len() < 1000), "{name}: {error:?}");
    error
}

fn edited(name: &str, edit: impl FnOnce(&mut Value)) -> Option<String> {
    let mut file: Value = serde_json::from_slice(&Folder::llama().read("tokenizer.json")).unwrap();
    edit(&mut file);
    try_text(name, file.to_string(), &"a b ".repeat(50))
}

/// What the part `part` is when it is `value`.
fn refused(part: &str, value: Value, reason: &str) {
    let error = edited(reason, |file| file[part] = value).expect(reason);
    assert!(error.contains(part) && error.contains(reason), "{error}");
}

fn replace(pattern: &str, content: &str) -> Value {
    json!({ "type": "Replace", "pattern": { "String": pattern }, "content": content })
}

fn split(expression: &str) -> Value {
    json!({ "type": "Split", "pattern": { "Regex": expression }, "behavior": "Isolated", "invert": false })
}

fn bytes() -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true })
}

/// A text in the place of a part of tokenizer.json, which has more levels than serde_json reads.
fn nested(part: &str, list: &str, depth: usize) -> String {
    let open = format!("{{\"type\":\"Sequence\",\"{list}\":[").repeat(depth);
    let value = format!("{open}{}", "]}".repeat(depth));
    let file = String::from_utf8(Folder::llama().read("tokenizer.json")).unwrap();
    let mut file: Value = serde_json::from_str(&file).unwrap();
    file[part] = json!("PLACE");
    file.to_string().replace("\"PLACE\"", &value)
}

#[test]
fn expressions() {
    for part in ["pre_tokenizer", "normalizer"] {
        let step = |expression: &str| match part {
            "normalizer" => json!({ "type": "Replace", "pattern": { "Regex": expression }, "content": "x" }),
            _ => json!({ "type": "Sequence", "pretokenizers": [split(expression), bytes()] }),
        };
        for endless in ["(?:(?=[ab ])[ab ]|[ab ])*c", "(?:(?=.).+)+c"] {
            let error = edited(endless, |file| file[part] = step(endless)).expect(endless);
            assert!(error.contains("too many steps on this text"), "{error}");
        }
        for large in ["(a{1000}){1000}", "(?=(\\p{L}{1000}){1000})b"] {
            refused(part, step(large), "error building NFA");
        }
        let many = "(?=\\p{L}{300})|".repeat(3000);
        assert!(edited("many parts", |file| file[part] = step(&many)).is_some());
        let all = vec![step(&"(?=\\p{L}{300})|".repeat(200)); 16];
        assert!(
            edited("many expressions", |file| file[part] =
                json!({ "type": "Sequence", "pretokenizers": all, "normalizers": all }))
            .is_some()
        );
    }
}

#[test]
fn texts_that_grow() {
    refused("normalizer", replace("a", &"a".repeat(1000)), "content of 1000 bytes");
    refused(
        "normalizer",
        json!({ "type": "Prepend", "prepend": "x".repeat(1 << 20) }),
        "prepend of 1048576 bytes",
    );
    refused("normalizer", json!({ "type": "Prepend", "prepend": "x".repeat(100 << 20) }), "2097152 bytes");
    for step in [replace("a", "aa"), replace("a", &"a".repeat(200)), json!({ "type": "ByteLevel" })] {
        let steps = vec![step; 16];
        let part = json!({ "type": "Sequence", "normalizers": steps });
        // Only bytes beyond ASCII grow in ByteLevel.
        let mut file: Value = serde_json::from_slice(&Folder::llama().read("tokenizer.json")).unwrap();
        file["normalizer"] = part;
        let error = try_text("doubling", file.to_string(), &"a é".repeat(50)).unwrap();
        assert!(error.contains("steps that make"), "{error}");
    }
    refused(
        "pre_tokenizer",
        json!({ "type": "Sequence", "pretokenizers": vec![json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true }); 3] }),
        "ByteLevel",
    );
    let spread = json!({ "type": "BPEDecoder", "suffix": "" });
    let error = edited("decoder", |file| {
        file["decoder"] = json!({ "type": "Sequence", "decoders": vec![spread; 16] })
    });
    assert!(error.unwrap().contains("steps that make"));
    refused("decoder", replace("a", &"a".repeat(1000)), "content of 1000 bytes");
}

#[test]
fn many_steps_and_levels() {
    for (part, list) in
        [("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers"), ("decoder", "decoders")]
    {
        let steps = vec![
            json!({ "type": "Strip", "strip_left": true, "strip_right": true, "content": "x", "start": 1, "stop": 0 });
            17
        ];
        refused(part, json!({ "type": "Sequence", list: steps }), "more than 16 steps");
        let file = nested(part, list, 100_000);
        assert!(try_text("nested", file, "a").unwrap().contains("at most 2097152 bytes"));
        let file = nested(part, list, 10_000);
        assert!(try_text("nested", file, "a").unwrap().contains("recursion limit"));
        // Without its pre-tokenizer the model lacks tokens.
        if part != "pre_tokenizer" {
            assert_eq!(try_text("nested", nested(part, list, 40), "a"), None);
        }
    }
}

#[test]
fn post_processors() {
    let template = |single: Value, ids: usize| {
        json!({ "type": "TemplateProcessing", "single": single, "pair": [],
                "special_tokens": { "<s>": { "id": "<s>", "ids": vec![0; ids], "tokens": vec!["<s>"; ids] } } })
    };
    let (text, token) = (
        json!({ "Sequence": { "id": "A", "type_id": 0 } }),
        json!({ "SpecialToken": { "id": "<s>", "type_id": 0 } }),
    );
    assert_eq!(edited("two", |file| file["post_processor"] = template(json!([token, text, token]), 2)), None);
    refused("post_processor", template(json!([token, text]), 2_000), "at most 1024 ids");
    refused("post_processor", template(json!([text, text]), 1), "2 texts instead of one");
    refused("post_processor", template(json!([token]), 1), "0 texts instead of one");
    refused("post_processor", template(json!([token, text]), 2_000_000), "2097152 bytes");
    let many = vec![template(json!([text, token, token]), 300); 2];
    refused("post_processor", json!({ "type": "Sequence", "processors": many }), "at most 1024 ids");
}

/// As tokenizer.json, with this model.
fn model(name: &str, model: &str) -> Option<String> {
    let file = Folder::llama().read("tokenizer.json");
    let mut file: Value = serde_json::from_slice(&file).unwrap();
    file["model"] = json!("PLACE");
    try_text(name, file.to_string().replace("\"PLACE\"", model), &"a b ".repeat(50))
}

#[test]
fn models() {
    let entries = |count: usize| (0..count).map(|i| format!("\"{i:x}\":{i}")).collect::<Vec<_>>().join(",");
    let bpe =
        |vocab: &str, more: &str| format!("{{\"type\":\"BPE\",\"vocab\":{{{vocab}}},\"merges\":[]{more}}}");
    let at_most = entries(1 << 19);
    assert_eq!(model("the most tokens", &bpe(&at_most, "")), None);
    assert!(model("more", &bpe(&entries((1 << 19) + 1), "")).unwrap().contains("at most 524288 tokens"));
    assert!(
        model("affix", &bpe("\"a\":0", &format!(",\"end_of_word_suffix\":\"{}\"", "x".repeat(1 << 20))))
            .unwrap()
            .contains("at most 64 bytes")
    );
    let merges = "[\"a\",\"b\"],".repeat(600_001);
    let merges = format!(
        "{{\"type\":\"BPE\",\"vocab\":{{\"a\":0,\"b\":1,\"ab\":2}},\"merges\":[{}]}}",
        &merges[..merges.len() - 1]
    );
    assert!(model("merges", &merges).unwrap().contains("at most 1800000 values"));
    let merges = "[\"a\",\"b\"],".repeat(600_000);
    let merges = format!(
        "{{\"type\":\"BPE\",\"vocab\":{{\"a\":0,\"b\":1,\"ab\":2}},\"merges\":[{}]}}",
        &merges[..merges.len() - 1]
    );
    assert_eq!(model("the most merges", &merges), None);
    let unigram = |pieces: String| {
        format!("{{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"<unk>\",0.0],{pieces}]}}")
    };
    assert!(
        model("deep", &unigram(format!("[\"{}\",-1.0]", "a".repeat(100_000))))
            .unwrap()
            .contains("at most 1024 bytes")
    );
    let pieces = |count: u32| {
        let first = |i| char::from_u32(0x4e00 + i).unwrap();
        (0..count)
            .map(|i| format!("[\"{}{}\",-1.0]", first(i), "a".repeat(1000)))
            .collect::<Vec<_>>()
            .join(",")
    };
    assert_eq!(model("wide", &unigram(pieces(520))), None);
    assert!(model("wider", &unigram(pieces(530))).unwrap().contains("different beginnings of pieces"));
    let words = |most: u64| {
        format!(
            "{{\"type\":\"WordPiece\",\"unk_token\":\"a\",\"continuing_subword_prefix\":\"##\",\"max_input_chars_per_word\":{most},\"vocab\":{{\"a\":0}}}}"
        )
    };
    assert_eq!(model("words", &words(100)), None);
    assert!(model("long words", &words(1 << 40)).unwrap().contains("max_input_chars_per_word"));
}

#[test]
fn added_tokens() {
    let added = |count: usize| {
        let token = |i: usize| json!({ "id": i, "content": format!("<{i}>"), "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true });
        (0..count).map(token).collect::<Vec<_>>()
    };
    assert_eq!(edited("many", |file| file["added_tokens"] = added(70_000).into()), None);
    refused("added_tokens", added(150_000).into(), "at most 131072");
}

#[test]
fn long_texts_take_time_in_proportion() {
    let tokenizer = Tokenizer::load(&Folder::llama().source(), VOCAB_SIZE).unwrap();
    for text in ["a", "hello", " ", "\n", "é", "</s>"].map(|piece| piece.repeat(900_000 / piece.len())) {
        let start = Instant::now();
        let ids = tokenizer.encode(&text, false).unwrap();
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}: {:?}", &text[..4], start.elapsed());
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    }
    // As much as one search remembers; the crate would go on with other ids.
    let error = tokenizer.encode(&format!("{}a", " ".repeat(1_100_000)), false).unwrap_err().to_string();
    assert!(error.contains("too many steps on this text") && error.contains("Shorten long runs"), "{error}");
}
