//! Model folders: every numbered case of a bad one, and what good ones give.

mod common;

use std::{fs, path::Path};

use common::{
    assert_error,
    models::{Folder, serialize, shard_name},
    small,
};
use probeprune::{
    Error, Result,
    backend::Backend,
    checkpoint::{Checkpoint, Dtype, check_shapes},
    config::ModelConfig,
    gpu::weights_on_gpu,
    prune::settings::Settings,
    session::{Limits, Session},
    source::{Bundle, ModelSource},
};
use serde_json::json;

/// Loads a folder as a model does.
fn load(folder: &Folder) -> Result<Checkpoint> {
    let mut config = ModelConfig::load(&folder.source())?;
    let checkpoint = Checkpoint::open(&folder.source(), true)?;
    check_shapes(&mut config, &checkpoint)?;
    Ok(checkpoint)
}

/// Of a token.
fn first_logits(folder: &Folder) -> Vec<u32> {
    let limits = Limits { samples: 1, tokens: 2, capacity: 0 };
    let mut session = Session::new(small::load(folder), Settings::default_for(2), limits, None).unwrap();
    session.forward(&[5, 6], 1, None, true).unwrap();
    small::bits(&session.logits(1).unwrap())
}

#[test]
fn case_28_only_bin() {
    let folder = Folder::llama();
    folder.remove("model.safetensors");
    assert_error(
        load(&folder),
        &["model.safetensors: weights: expected this file, or", "got neither.", "download"],
    );
    folder.write("pytorch_model.bin", "PK");
    let parts = [
        "expected this file, or model.safetensors.index.json",
        "got only \"pytorch_model.bin\".",
        "probeprune convert",
        folder.path().to_str().unwrap(),
    ];
    assert_error(load(&folder), &parts);
}

#[test]
fn case_29_shard_missing() {
    let folder = Folder::llama();
    folder.shard(3);
    folder.remove(&shard_name(1, 3));
    let parts = [
        "model-00002-of-00003.safetensors: shard, one of 3: expected this file",
        "no such file.",
        "download the model again",
    ];
    assert_error(load(&folder), &parts);
}

#[test]
fn case_30_shard_outside_the_folder() {
    for shard in
        ["/etc/passwd", "../model.safetensors", "a/../../b", "", "a\\b", "a\u{1b}[2J", &"x".repeat(256)]
    {
        let folder = Folder::llama();
        folder.shard(2);
        folder.edit_json("model.safetensors.index.json", |index| {
            index["weight_map"]["model.norm.weight"] = shard.into()
        });
        let got = format!(
            "expected names of files inside the model's folder, got {}",
            format!("{shard:?}").get(..60).unwrap_or(&format!("{shard:?}."))
        );
        assert_error(load(&folder), &["index.json: weight_map: ", &got, "download it again"]);
    }
}

#[test]
fn case_31_index_names_a_tensor_its_shard_lacks() {
    let stale = |name: &str, changes: serde_json::Value| {
        let folder = Folder::llama_with(changes);
        folder.edit_tensors(|tensors| drop(tensors.remove(name)));
        folder.shard(2);
        folder.edit_json("model.safetensors.index.json", |index| {
            index["weight_map"][name] = shard_name(0, 2).into()
        });
        folder
    };
    for (name, changes) in [
        ("model.norm.weight", json!({})),
        ("model.layers.1.mlp.up_proj.weight", json!({ "tie_word_embeddings": true })),
        ("lm_head.weight", json!({})),
        ("model.embed_tokens.weight", json!({ "tie_word_embeddings": true })),
    ] {
        let parts = [
            &format!("model-00001-of-00002.safetensors: tensor {name:?}: expected this tensor"),
            "got no such tensor.",
            "download",
        ];
        assert_error(load(&stale(name, changes)), &parts);
    }
    // What no model needs, or this one does not.
    let unused = stale("model.layers.0.self_attn.rotary_emb.inv_freq", json!({}));
    assert!(ModelConfig::load(&unused.source()).unwrap().notes.is_empty());
    load(&unused).unwrap();
    let tied = stale("lm_head.weight", json!({ "tie_word_embeddings": true }));
    let mut config = ModelConfig::load(&tied.source()).unwrap();
    check_shapes(&mut config, &load(&tied).unwrap()).unwrap();
    assert!(config.tie_word_embeddings);
    assert!(config.notes[0].contains("the index lists lm_head.weight"), "{:?}", config.notes);
}

#[test]
fn case_32_tensor_in_two_shards() {
    let folder = Folder::llama();
    let tensors = folder.tensors();
    folder.shard(2);
    folder.write(&shard_name(1, 2), serialize(&tensors, Dtype::F32));
    let parts = [
        "model-00002-of-00002.safetensors: tensor",
        "expected every tensor in one shard only, got the same name in",
        "model-00001-of-00002",
        "mixed",
    ];
    assert_error(load(&folder), &parts);
    folder
        .write("model.safetensors.index.json", r#"{"weight_map":{"w":"a.safetensors","w":"b.safetensors"}}"#);
    assert_error(
        load(&folder),
        &["index.json: weight_map, \"w\": expected every tensor in one shard only, got this name twice."],
    );
}

#[test]
fn broken_index() {
    let folder = Folder::llama();
    folder.remove("model.safetensors");
    for (index, got) in [
        ("{", "EOF"),
        ("{}", "missing field"),
        (r#"{"weight_map":[]}"#, "invalid type"),
        (r#"{"weight_map":{}}"#, "none"),
    ] {
        folder.write("model.safetensors.index.json", index);
        assert_error(
            load(&folder),
            &["model.safetensors.index.json:", "weight_map", got, "Download the index again."],
        );
    }
}

#[cfg(unix)]
#[test]
fn case_34_not_a_regular_file() {
    let folder = Folder::llama();
    folder.remove("model.safetensors");
    fs::create_dir(folder.file("model.safetensors")).unwrap();
    let expected = "model.safetensors: kind of file: expected a regular file, got";
    assert_error(load(&folder), &[expected, "a folder.", "Replace it"]);
    fs::remove_dir(folder.file("model.safetensors")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(folder.file("model.safetensors")).status().unwrap();
    assert!(made.success());
    assert_error(load(&folder), &[expected, "a FIFO, socket or device.", "Replace it"]);
    folder.remove("model.safetensors");
    std::os::unix::fs::symlink("nowhere", folder.file("model.safetensors")).unwrap();
    assert_error(load(&folder), &[expected, "a link to a file that is missing.", "Replace it"]);
}

#[cfg(target_os = "linux")]
#[test]
fn case_35_no_permission() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = Folder::llama();
    let path = folder.file("model.safetensors");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&path).is_ok() {
        // Root may read everything except the kernel's write-only files.
        let write_only = Path::new("/proc/sys/vm/compact_memory");
        if !write_only.exists() || fs::File::open(write_only).is_ok() {
            return;
        }
        folder.remove("model.safetensors");
        symlink(write_only, &path).unwrap();
    }
    assert_error(
        load(&folder),
        &["model.safetensors: cannot open: Permission denied", "Check the permissions"],
    );
}

#[test]
fn case_42_vocab_differs_from_embedding() {
    let folder = Folder::llama();
    folder.edit_json("config.json", |config| config["vocab_size"] = json!(265));
    let expected = "expected [265, 16] (vocab_size, hidden_size of config.json), got [264, 16].";
    assert_error(load(&folder), &["shape of tensor", expected, "from the same place"]);
}

#[test]
fn case_51_positions_differ_from_table() {
    let folder = Folder::opt();
    folder.edit_json("config.json", |config| config["max_position_embeddings"] = json!(66));
    let expected =
        "expected [68, 16] (max_position_embeddings + 2, hidden_size of config.json), got [66, 16].";
    assert_error(load(&folder), &["shape of tensor \"model.decoder.embed_positions.weight\": ", expected]);
}

#[test]
fn good_folders_load() {
    let opt_350m = json!({ "do_layer_norm_before": false, "word_embed_proj_dim": 8 });
    let bare_opt = json!({ "enable_bias": false, "layer_norm_elementwise_affine": false });
    let qwen = json!({ "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2" });
    let mistral =
        json!({ "architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 8 });
    let biased =
        json!({ "attention_bias": true, "mlp_bias": true, "head_dim": 8, "tie_word_embeddings": true });
    for folder in [
        Folder::llama(),
        Folder::llama_with(qwen),
        Folder::llama_with(mistral),
        Folder::llama_with(biased),
        Folder::opt(),
        Folder::opt_with(opt_350m),
        Folder::opt_with(bare_opt),
        Folder::opt_with(json!({ "tie_word_embeddings": false, "_remove_final_layer_norm": true })),
    ] {
        let whole = load(&folder).unwrap();
        let tensors = folder.tensors();
        assert!(whole.names().eq(tensors.keys()));
        for (name, (shape, values)) in &tensors {
            let tensor = whole.require(name).unwrap();
            assert_eq!((tensor.shape(), tensor.to_f32()), (shape.as_slice(), values.clone()));
        }
        folder.shard(3);
        let shards = load(&folder).unwrap();
        assert_eq!(shards.fingerprint(), whole.fingerprint());
        assert!(shards.names().eq(whole.names()));
        let sizes = (0..3).map(|index| folder.read(&shard_name(index, 3)).len() as u64);
        assert_eq!(shards.file_bytes(), sizes.sum::<u64>());
        assert!(shards.path().ends_with("model.safetensors.index.json"));
    }
}

#[test]
fn dtypes_may_be_mixed() {
    let folder = Folder::llama();
    let tensors = folder.tensors();
    folder.shard(2);
    let second =
        tensors.into_iter().enumerate().filter(|(index, _)| index % 2 == 1).map(|(_, tensor)| tensor);
    folder.write(&shard_name(1, 2), serialize(&second.collect(), Dtype::BF16));
    load(&folder).unwrap();
}

#[test]
fn head_and_embedding() {
    let folder = Folder::llama();
    folder.edit_tensors(|tensors| drop(tensors.remove("lm_head.weight")));
    assert_error(
        load(&folder),
        &["tensor \"lm_head.weight\": expected the head, since tie_word_embeddings is false"],
    );
    folder.edit_json("config.json", |config| config["tie_word_embeddings"] = true.into());
    load(&folder).unwrap();
    folder.edit_tensors(|tensors| {
        let embedding = tensors.remove("model.embed_tokens.weight").unwrap();
        tensors.insert("lm_head.weight".into(), embedding);
    });
    load(&folder).unwrap();
    folder.edit_tensors(|tensors| drop(tensors.remove("lm_head.weight")));
    assert_error(
        load(&folder),
        &["tensor \"model.embed_tokens.weight\": expected a tensor that the model needs, got no such"],
    );
}

/// Either tensor of a tied pair counts once, two that differ count twice.
#[test]
fn estimates_follow_the_head() {
    let bytes = |folder: &Folder| {
        let mut config = ModelConfig::load(&folder.source()).unwrap();
        let checkpoint = load(folder).unwrap();
        check_shapes(&mut config, &checkpoint).unwrap();
        weights_on_gpu(&config, &checkpoint)
    };
    let folder = Folder::llama_with(json!({ "tie_word_embeddings": true }));
    let once = bytes(&folder);
    let embedding = folder.tensors()["model.embed_tokens.weight"].clone();
    let put = |head| folder.edit_tensors(|tensors| drop(tensors.insert("lm_head.weight".into(), head)));
    put(embedding.clone());
    assert_eq!(bytes(&folder), once);
    put((embedding.0.clone(), vec![0.5; embedding.1.len()]));
    assert_eq!(bytes(&folder), once + 2 * embedding.1.len() as u64);
    folder.edit_tensors(|tensors| drop(tensors.remove("model.embed_tokens.weight")));
    assert_eq!(bytes(&folder), once);
}

/// As transformers 5: a head that differs is used, whatever config.json says.
#[test]
fn tied_by_config_but_different() {
    for tied in [
        Folder::llama_with(json!({ "tie_word_embeddings": true })),
        Folder::opt(),
        Folder::opt_with(json!({ "do_layer_norm_before": false, "word_embed_proj_dim": 8 })),
    ] {
        let tensors = tied.tensors();
        let (embedding, head) =
            tensors.iter().find(|(name, _)| name.ends_with("embed_tokens.weight")).unwrap();
        let settled = |head: &(Vec<usize>, Vec<f32>)| {
            tied.edit_tensors(|tensors| drop(tensors.insert("lm_head.weight".into(), head.clone())));
            let model = small::load(&tied);
            let mut config = ModelConfig::load(&tied.source()).unwrap();
            check_shapes(&mut config, &load(&tied).unwrap()).unwrap();
            assert_eq!(config, model.config);
            let first = model.backend.download_weight(&model.weights.lm_head.weight).unwrap().to_f32()[0];
            (config.tie_word_embeddings, config.notes.len(), first)
        };
        assert_eq!(settled(head), (true, 0, head.1[0]));
        let mut other = head.clone();
        other.1[0] += 1.0;
        assert_eq!(settled(&other), (false, 1, other.1[0]), "{embedding}");
    }
}

#[test]
fn missing_wrong_and_unannounced_tensors() {
    let folder = Folder::llama();
    let name = "model.layers.1.mlp.up_proj.weight";
    folder.edit_tensors(|tensors| drop(tensors.remove(name)));
    assert_error(
        load(&folder),
        &["tensor \"model.layers.1.mlp.up_proj.weight\": expected", "no such tensor among 20", "incomplete"],
    );
    folder.edit_tensors(|tensors| drop(tensors.insert(name.into(), (vec![16, 24], vec![0.0; 384]))));
    assert_error(
        load(&folder),
        &["shape of tensor", "[24, 16] (intermediate_size, hidden_size of config.json), got [16, 24]"],
    );
    let folder = Folder::llama();
    folder.edit_tensors(|tensors| {
        tensors.insert("model.layers.0.self_attn.o_proj.bias".into(), (vec![16], vec![0.0; 16]));
    });
    let parts = ["o_proj.bias\": expected no bias here, going by attention_bias", "got one.", "same place"];
    assert_error(load(&folder), &parts);
}

#[test]
fn old_names_and_buffers() {
    let folder = Folder::opt();
    folder.edit_tensors(|tensors| {
        *tensors = std::mem::take(tensors)
            .into_iter()
            .map(|(name, tensor)| (name.strip_prefix("model.").unwrap().to_string(), tensor))
            .collect();
    });
    let checkpoint = load(&folder).unwrap();
    assert!(checkpoint.tensor("model.decoder.layers.0.fc1.weight").is_some());
    // A model saved without its head, which is tied.
    for (class, model_type) in
        [("LlamaForCausalLM", "llama"), ("MistralForCausalLM", "mistral"), ("Qwen2ForCausalLM", "qwen2")]
    {
        let changes =
            json!({ "architectures": [class], "model_type": model_type, "tie_word_embeddings": true });
        let folder = Folder::llama_with(changes);
        let logits = first_logits(&folder);
        folder.edit_tensors(|tensors| {
            *tensors = std::mem::take(tensors)
                .into_iter()
                .map(|(name, tensor)| (name.strip_prefix("model.").unwrap().to_string(), tensor))
                .collect();
        });
        assert!(load(&folder).unwrap().names().any(|name| name == "layers.0.mlp.up_proj.weight"));
        assert_eq!(first_logits(&folder), logits);
    }
    let folder = Folder::llama();
    folder.edit_tensors(|tensors| {
        tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), (vec![2], vec![1.0, 0.5]));
    });
    load(&folder).unwrap();
}

#[test]
fn fingerprint_tells_checkpoints_apart() {
    let folder = Folder::llama();
    let print = |folder: &Folder| Checkpoint::open(&folder.source(), true).unwrap().fingerprint();
    let first = print(&folder);
    assert_eq!((first.len(), print(&folder)), (64, first.clone()));
    folder.edit_tensors(|tensors| tensors.get_mut("model.norm.weight").unwrap().1[3] += 1.0);
    assert_ne!(print(&folder), first);
}

/// A model in the program's own memory, at every alignment.
#[test]
fn bundled_models_load() {
    let folder = Folder::llama();
    let config: &'static [u8] = folder.read("config.json").leak();
    for shift in 0..4 {
        let bytes: &'static [u8] = [vec![0; shift], folder.read("model.safetensors")].concat().leak();
        let files = Box::leak(Box::new([("config.json", config), ("model.safetensors", &bytes[shift..])]));
        let source = ModelSource::Bundled(Box::leak(Box::new(Bundle { name: "test", files })));
        let mut model = ModelConfig::load(&source).unwrap();
        let bundled = Checkpoint::open(&source, shift % 2 == 0).unwrap();
        check_shapes(&mut model, &bundled).unwrap();
        assert_eq!(bundled.fingerprint(), load(&folder).unwrap().fingerprint());
        for (name, (_, values)) in folder.tensors() {
            assert_eq!(bundled.require(&name).unwrap().to_f32(), values);
        }
        assert_eq!(bundled.path(), "bundled:test/model.safetensors");
    }
    let empty = Box::leak(Box::new(Bundle { name: "empty", files: &[("model.safetensors", b"short")] }));
    assert_error(
        Checkpoint::open(&ModelSource::Bundled(empty), true),
        &["bundled:empty/model.safetensors: size: ", "got 5 bytes"],
    );
    let empty = Box::leak(Box::new(Bundle { name: "empty", files: &[] }));
    assert_error(
        Checkpoint::open(&ModelSource::Bundled(empty), true),
        &["bundled:empty/model.safetensors: weights: "],
    );
}

/// A file whose size the system reports as 0 though it has content.
#[cfg(target_os = "linux")]
#[test]
fn size_that_is_not_the_contents() {
    let folder = Folder::llama();
    folder.remove("model.safetensors");
    std::os::unix::fs::symlink("/proc/self/status", folder.file("model.safetensors")).unwrap();
    assert_error(load(&folder), &["model.safetensors: header length: expected at most"]);
}

#[test]
fn missing_folder_is_an_error() {
    let gone = ModelSource::Folder("/nonexistent/model".into());
    assert!(matches!(Checkpoint::open(&gone, true), Err(Error::File { .. })));
}
