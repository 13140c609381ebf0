//! Random damage to a model's files: an error or a model, never a panic.

mod common;

use std::{path::Path, sync::LazyLock};

use common::models::{Folder, shard_name};
use probeprune::{
    checkpoint::{Checkpoint, check_shapes},
    config::ModelConfig,
    tokenizer::Tokenizer,
};
use proptest::{prelude::*, sample::Index};

/// What happens to a file's bytes.
#[derive(Clone, Debug)]
enum Damage {
    /// One byte, near the beginning or anywhere, becomes another.
    Change { near_start: bool, at: Index, to: u8 },
    /// One JSON token is put where it may not belong.
    Insert { at: Index, text: &'static str },
    /// The file ends early.
    Truncate(Index),
    /// A piece is missing.
    Remove { at: Index, length: usize },
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let length = bytes.len();
        if length == 0 {
            return;
        }
        match self {
            Self::Change { near_start, at, to } => {
                bytes[at.index(if *near_start { length.min(400) } else { length })] = *to
            }
            Self::Insert { at, text } => {
                let at = at.index(length.min(400));
                bytes.splice(at..at, text.bytes());
            }
            Self::Truncate(at) => bytes.truncate(at.index(length)),
            Self::Remove { at, length: gap } => {
                let at = at.index(length);
                bytes.drain(at..length.min(at + gap));
            }
        }
    }
}

fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let text = prop::sample::select(vec![
        "0", "9", "-", ".5", "e9", "null", "\"", "\\u0000", ",", "[", "{", "}", "]", "\0",
    ]);
    let one = prop_oneof![
        (any::<bool>(), any::<Index>(), any::<u8>()).prop_map(|(near_start, at, to)| Damage::Change {
            near_start,
            at,
            to
        }),
        (any::<bool>(), any::<Index>(), b'0'..=b'9').prop_map(|(near_start, at, to)| Damage::Change {
            near_start,
            at,
            to
        }),
        (any::<Index>(), text).prop_map(|(at, text)| Damage::Insert { at, text }),
        any::<Index>().prop_map(Damage::Truncate),
        (any::<Index>(), 1usize..20).prop_map(|(at, length)| Damage::Remove { at, length }),
    ];
    prop::collection::vec(one, 1..4)
}

/// Loads everything and looks at every byte of it.
fn load(folder: &Folder) {
    let source = folder.source();
    let config = ModelConfig::load(&source);
    for mmap in [false, true] {
        let Ok(checkpoint) = Checkpoint::open(&source, mmap) else { continue };
        for name in checkpoint.names() {
            if let Some(tensor) = checkpoint.tensor(name) {
                assert_eq!(tensor.to_f32().len(), tensor.shape().iter().product::<usize>());
            }
        }
        checkpoint.fingerprint();
        if let Ok(config) = &config {
            let _ = check_shapes(&mut config.clone(), &checkpoint);
        }
    }
    if let Ok(tokenizer) = Tokenizer::load(&source, 264) {
        let ids = tokenizer.encode("hello hello 🦀", true);
        let _ = ids.and_then(|ids| tokenizer.decode(&ids, true));
        if let Some(template) = tokenizer.chat_template() {
            let _ = template.render(&[("user", "hi")], true);
        }
    }
}

fn load_damaged(folder: &Folder, file: &str, damages: &[Damage]) {
    let good = folder.read(file);
    let mut bytes = good.clone();
    damages.iter().for_each(|damage| damage.apply(&mut bytes));
    folder.write(file, bytes);
    load(folder);
    folder.write(file, good);
}

/// One folder per test: the cases of a test run one after the other, each on the good files.
fn sharded() -> Folder {
    let folder = Folder::llama();
    folder.write("tokenizer_config.json", r#"{"chat_template":"{% for m in messages %}{{ m.role }}{{ bos_token }}{% endfor %}","bos_token":{"content":"<s>"}}"#);
    folder.write("generation_config.json", r#"{"eos_token_id":[2,3]}"#);
    folder.shard(2);
    folder
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn weights(damages in damage()) {
        static FOLDER: LazyLock<Folder> = LazyLock::new(|| {
            let folder = Folder::llama();
            folder.remove("tokenizer.json");
            folder
        });
        load_damaged(&FOLDER, "model.safetensors", &damages);
    }

    #[test]
    fn shards_and_texts(damages in damage(), which in 0usize..5) {
        static FOLDER: LazyLock<Folder> = LazyLock::new(sharded);
        let shard = shard_name(1, 2);
        let files = ["model.safetensors.index.json", &shard, "tokenizer_config.json", "generation_config.json", "config.json"];
        load_damaged(&FOLDER, files[which], &damages);
    }

    #[test]
    fn tokenizers(damages in damage()) {
        static FOLDER: LazyLock<Folder> = LazyLock::new(|| {
            let folder = Folder::llama();
            folder.remove("model.safetensors");
            folder
        });
        load_damaged(&FOLDER, "tokenizer.json", &damages);
    }

    /// Any value of any key, of plausible kinds.
    #[test]
    fn config_values(
        key in prop::sample::select(vec![
            "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta",
            "sliding_window", "word_embed_proj_dim", "ffn_dim", "eos_token_id", "factor", "low_freq_factor",
            "high_freq_factor", "original_max_position_embeddings", "beta_fast", "mscale", "attention_factor",
        ]),
        value in prop_oneof![
            any::<i64>().prop_map(|n| n.to_string()),
            (0u32..200).prop_map(|n| n.to_string()),
            any::<f64>().prop_map(|x| format!("{x:e}")),
        ],
        model_type in prop::sample::select(vec!["llama", "mistral", "qwen2", "opt"]),
        rope_type in prop::sample::select(vec!["linear", "dynamic", "llama3", "yarn"]),
        seq_len in 0usize..1_000_000,
    ) {
        let scaling = format!(
            r#"{{"rope_type":"{rope_type}","factor":2,"low_freq_factor":1,"high_freq_factor":4,"original_max_position_embeddings":64,"{key}":{value}}}"#
        );
        let text = format!(r#"{{"model_type":"{model_type}","{key}":{value},"rope_scaling":{scaling}}}"#);
        if let Ok(config) = ModelConfig::from_json(Path::new("config.json"), &text, None)
            && let Some(rope) = &config.rope
            && config.head_dim <= 1 << 16
        {
            let (frequencies, scale) =
                rope.inverse_frequencies(config.head_dim, seq_len, config.max_position_embeddings);
            prop_assert_eq!(frequencies.len(), config.head_dim / 2);
            prop_assert!(scale.is_finite() && frequencies.iter().all(|x| x.is_finite() && *x >= 0.0), "{}: {:?} {}", text, frequencies, scale);
        }
    }
}
