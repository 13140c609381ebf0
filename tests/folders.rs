//! Folders that are no model which can run: each error names what the folder is and the next step.

mod common;

use common::{
    assert_error,
    models::{Folder, shard_name},
};
use probeprune::{
    Result,
    checkpoint::{Checkpoint, check_shapes},
    config::ModelConfig,
    source::ModelSource,
};
use serde_json::json;

/// Reads config and weights as a model does.
fn load(source: &ModelSource) -> Result<()> {
    let mut config = ModelConfig::load(source)?;
    check_shapes(&mut config, &Checkpoint::open(source, true)?).map(drop)
}

/// A LLaMA folder without its weights, with these files.
fn without_weights(files: &[&str]) -> Folder {
    let folder = Folder::llama();
    folder.remove("model.safetensors");
    files.iter().for_each(|file| folder.write(file, "x"));
    folder
}

/// A folder of these files only.
fn with(files: &[&str]) -> Folder {
    let folder = Folder::empty();
    files.iter().for_each(|file| folder.write(file, "{}"));
    folder
}

#[test]
fn folders_are_named_for_what_they_are() {
    let adapter = ["only an adapter (\"adapter_", "merge it into that", "merge_and_unload"];
    let quantized = ["quantized weights, going by \"quant", "Use the model that is not quantized"];
    let makers = ["only its makers' own format (\"consolidated.", "Hugging Face transformers"];
    let gguf = ["only a file of llama.cpp (\"", "safetensors"];
    let unread = ["got only \"", "a format that is not read", "save_pretrained"];
    let cases: &[(Folder, &[&str])] = &[
        (with(&["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"]), &adapter),
        (with(&["adapter_model.bin"]), &adapter),
        (without_weights(&["adapter_config.json", "adapter_model.safetensors"]), &adapter),
        (without_weights(&["quantize_config.json", "gptq_model-4bit-128g.safetensors"]), &quantized),
        (without_weights(&["quant_config.json", "awq_model_w4_g128.pt"]), &quantized),
        (with(&["consolidated.00.pth", "params.json", "tokenizer.model"]), &makers),
        (with(&["consolidated.safetensors", "params.json"]), &makers),
        (without_weights(&["consolidated.00.pth", "consolidated.01.pth"]), &makers),
        (with(&["model-q4_k_m.gguf"]), &gguf),
        (without_weights(&["model.Q8_0.gguf"]), &gguf),
        (with(&["model_index.json", "unet/config.json"]), &["a pipeline of diffusers", "LLaMA or OPT"]),
        (with(&[]), &["got an empty folder", "download"]),
        (with(&["7b/config.json"]), &["one in the folder \"7b\" inside it", "Pass "]),
        (
            with(&["README.md"]),
            &["config.json: file: ", "got no such file", "Pass the folder that holds config.json"],
        ),
        (without_weights(&[]), &["got neither", "download"]),
        (without_weights(&["pytorch_model.bin"]), &["only \"pytorch_model.bin\"", "probeprune convert"]),
        (
            without_weights(&["pytorch_model-00001-of-00002.bin"]),
            &["without pytorch_model.bin.index.json", "Download"],
        ),
        (
            without_weights(&["model.fp16.safetensors"]),
            &["only \"model.fp16.safetensors\"", "Rename it to model.safetensors"],
        ),
        (without_weights(&["tf_model.h5"]), &unread),
        (without_weights(&["flax_model.msgpack"]), &unread),
        (without_weights(&["pytorch_model.pt"]), &unread),
        (without_weights(&["rust_model.ot", "model.onnx"]), &unread),
    ];
    for (folder, parts) in cases {
        assert_error(load(&folder.source()), parts);
    }
    let based = with(&[]);
    based.write("adapter_config.json", json!({ "base_model_name_or_path": "org/base\u{1b}" }).to_string());
    assert_error(load(&based.source()), &["a change to a model, \"org/base\\u{1b}\""]);
    let shards = Folder::llama();
    shards.shard(2);
    shards.remove("model.safetensors.index.json");
    let name = shard_name(0, 2);
    assert_error(
        load(&shards.source()),
        &["shards such as", &name, "without model.safetensors.index.json", "Download"],
    );
}

/// A model whose tensors are called otherwise.
fn renamed(rename: impl Fn(&str) -> String) -> Folder {
    let folder = Folder::llama();
    folder.edit_tensors(|tensors| {
        *tensors =
            std::mem::take(tensors).into_iter().map(|(name, tensor)| (rename(&name), tensor)).collect();
    });
    folder
}

#[test]
fn prefixes_of_names_are_named() {
    for (prefix, tool) in [
        ("_orig_mod.", "as torch.compile does"),
        ("module.", "as DataParallel or DistributedDataParallel does"),
        ("base_model.model.", "as PEFT does"),
        ("_fsdp_wrapped_module.", "as FSDP does"),
        ("my.own.", "\"my.own.\". Save"),
    ] {
        let folder = renamed(|name| format!("{prefix}{name}"));
        let (found, removed) = (
            format!("{:?}: names begin with", format!("{prefix}model.embed_tokens.weight")),
            format!("removeprefix({prefix:?})"),
        );
        let parts = [
            "tensor \"model.embed_tokens.weight\": expected a tensor that the model needs, got ",
            &found,
            tool,
            &removed,
        ];
        assert_error(load(&folder.source()), &parts);
    }
    // Another prefix in place of `model.`, and no prefix at all in the way.
    let other = renamed(|name| name.replace("model.", "transformer."));
    assert_error(
        load(&other.source()),
        &["got \"transformer.embed_tokens.weight\"", "names begin with \"transformer.\""],
    );
    let missing = renamed(|name| name.replace("embed_tokens", "wte"));
    assert_error(load(&missing.source()), &["no such tensor among 21"]);
}

#[test]
fn quantized_tensors_are_named() {
    for parts in [
        &["qweight", "qzeros", "scales", "g_idx"][..],
        &["qweight", "qzeros", "scales"],
        &["weight_packed", "weight_scale", "weight_shape"],
        &["codes", "codebooks"],
    ] {
        let folder = Folder::llama();
        folder.edit_tensors(|tensors| {
            tensors.remove("model.layers.0.self_attn.q_proj.weight").unwrap();
            for part in parts {
                tensors.insert(format!("model.layers.0.self_attn.q_proj.{part}"), (vec![1], vec![1.0]));
            }
        });
        let found = format!("got \"model.layers.0.self_attn.q_proj.{}\", of quantized weights", parts[0]);
        assert_error(
            load(&folder.source()),
            &["q_proj.weight\": expected a tensor that", &found, "not quantized"],
        );
    }
}

#[test]
fn pointers_of_git_lfs_are_named() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
    for file in ["config.json", "model.safetensors", "generation_config.json"] {
        let folder = Folder::llama();
        folder.write(file, pointer);
        assert_error(
            load(&folder.source()),
            &[file, "content: expected", "a Git LFS pointer", "git lfs pull"],
        );
    }
    let folder = Folder::llama();
    folder.write("tokenizer.json", pointer);
    let tokenizer = probeprune::tokenizer::Tokenizer::load(&folder.source(), 264);
    assert_error(
        tokenizer.map(drop),
        &["tokenizer.json: content: expected", "a Git LFS pointer", "git lfs pull"],
    );
}

/// A download that was broken off, as huggingface_hub leaves it.
#[test]
fn snapshots_without_weights_are_named() {
    let cache = Folder::empty();
    let config = Folder::llama().read("config.json");
    cache.write("models--org--part/refs/main", "new");
    cache.write("models--org--part/snapshots/new/config.json", &config);
    let locate = || ModelSource::locate_with_env("org/part", |_| Some(cache.path().into())).unwrap();
    let cause = "a snapshot of the Hugging Face cache without them";
    assert_error(
        load(&locate()),
        &["snapshots/new/model.safetensors: weights: ", cause, "hf download \"org/part\"."],
    );
    cache.write("models--org--part/snapshots/old/config.json", &config);
    cache.write(
        "models--org--part/snapshots/old/model.safetensors",
        Folder::llama().read("model.safetensors"),
    );
    assert_error(
        load(&locate()),
        &[cause, "hf download \"org/part\", or pass the older ", "snapshots/old\"."],
    );
}
