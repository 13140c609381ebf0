//! Small valid model folders with seeded random weights, and edits that make them bad.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use probeprune::{checkpoint::Dtype, source::ModelSource};
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Tokens of the tokenizer, and `vocab_size` of the models: 3 special tokens, 256 bytes, 5 merged ones.
pub const VOCAB_SIZE: usize = 264;

/// Tensors by name: shape, and row-major elements.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// A model folder that is deleted when dropped.
pub struct Folder(TempDir);

impl Folder {
    /// An empty folder.
    pub fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A LLaMA folder: 2 layers, hidden 16, 4 query and 2 key heads of 4, 24 MLP channels, 64 positions.
    pub fn llama() -> Self {
        Self::llama_with(json!({}))
    }

    /// The same with `changes` to config.json (null removes a key); the weights fit the changed config.
    pub fn llama_with(changes: Value) -> Self {
        let mut config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB_SIZE,
            "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu",
            "rope_theta": 10000.0, "tie_word_embeddings": false, "bos_token_id": 0, "eos_token_id": 2,
            "torch_dtype": "float32",
        });
        merge(&mut config, changes);
        let tensors = llama_tensors(&config, 1);
        Self::new(&config, &tensors)
    }

    /// An OPT folder: 2 layers, hidden 16, 4 heads, 24 MLP channels, 64 positions.
    pub fn opt() -> Self {
        Self::opt_with(json!({}))
    }

    /// The same with `changes` to config.json (null removes a key); the weights fit the changed config.
    pub fn opt_with(changes: Value) -> Self {
        let mut config = json!({
            "architectures": ["OPTForCausalLM"], "model_type": "opt", "vocab_size": VOCAB_SIZE, "hidden_size": 16,
            "ffn_dim": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64,
            "activation_function": "relu", "do_layer_norm_before": true, "word_embed_proj_dim": 16,
            "bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1, "torch_dtype": "float32",
        });
        merge(&mut config, changes);
        let tensors = opt_tensors(&config, 1);
        Self::new(&config, &tensors)
    }

    fn new(config: &Value, tensors: &Tensors) -> Self {
        let folder = Self::empty();
        folder.write("config.json", config.to_string());
        folder.write("model.safetensors", serialize(tensors, Dtype::F32));
        folder.write("tokenizer.json", tokenizer().to_string());
        folder
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub fn source(&self) -> ModelSource {
        ModelSource::Folder(self.path().to_path_buf())
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.file(name)).unwrap()
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::create_dir_all(self.file(name).parent().unwrap()).unwrap();
        fs::write(self.file(name), content).unwrap();
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.file(name)).unwrap();
    }

    /// Changes a JSON file.
    pub fn edit_json(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        let mut value = serde_json::from_slice(&self.read(name)).unwrap();
        edit(&mut value);
        self.write(name, value.to_string());
    }

    /// The tensors of model.safetensors, as f32.
    pub fn tensors(&self) -> Tensors {
        let bytes = self.read("model.safetensors");
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let f32s = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        file.iter()
            .map(|(name, view)| (name.to_string(), (view.shape().to_vec(), f32s(view.data()))))
            .collect()
    }

    /// Changes the tensors of model.safetensors.
    pub fn edit_tensors(&self, edit: impl FnOnce(&mut Tensors)) {
        let mut tensors = self.tensors();
        edit(&mut tensors);
        self.write("model.safetensors", serialize(&tensors, Dtype::F32));
    }

    /// Splits model.safetensors into `count` shards with an index.
    pub fn shard(&self, count: usize) {
        let tensors = self.tensors();
        let mut shards = vec![Tensors::new(); count];
        let mut map = serde_json::Map::new();
        for (index, (name, tensor)) in tensors.into_iter().enumerate() {
            map.insert(name.clone(), shard_name(index % count, count).into());
            shards[index % count].insert(name, tensor);
        }
        for (index, shard) in shards.iter().enumerate() {
            self.write(&shard_name(index, count), serialize(shard, Dtype::F32));
        }
        let index = json!({ "metadata": { "total_size": 1 }, "weight_map": map });
        self.write("model.safetensors.index.json", index.to_string());
        self.remove("model.safetensors");
    }
}

/// Name of shard `index`, from 0.
pub fn shard_name(index: usize, count: usize) -> String {
    format!("model-{:05}-of-{count:05}.safetensors", index + 1)
}

/// Puts the keys of `changes` into `config`; null removes a key.
fn merge(config: &mut Value, changes: Value) {
    let Value::Object(changes) = changes else { panic!("changes are an object") };
    let config = config.as_object_mut().unwrap();
    for (key, value) in changes {
        if value.is_null() {
            config.remove(&key);
        } else {
            config.insert(key, value);
        }
    }
}

/// A safetensors file of `tensors`, rounded to `dtype`.
pub fn serialize(tensors: &Tensors, dtype: Dtype) -> Vec<u8> {
    let (file_dtype, convert): (_, fn(f32) -> Vec<u8>) = match dtype {
        Dtype::F32 => (safetensors::Dtype::F32, |x| x.to_le_bytes().to_vec()),
        Dtype::F16 => (safetensors::Dtype::F16, |x| f16::from_f32(x).to_le_bytes().to_vec()),
        Dtype::BF16 => (safetensors::Dtype::BF16, |x| bf16::from_f32(x).to_le_bytes().to_vec()),
    };
    let data: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, values))| (name, shape, values.iter().flat_map(|x| convert(*x)).collect()))
        .collect();
    let views = data.iter().map(|(name, shape, bytes)| {
        (name.as_str(), TensorView::new(file_dtype, shape.to_vec(), bytes).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

/// A safetensors file with `header` as it stands.
pub fn raw_safetensors(header: impl AsRef<[u8]>, data: &[u8]) -> Vec<u8> {
    let header = header.as_ref();
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

/// Random tensors: weights around 0, norm weights around 1.
struct Random {
    state: u64,
    tensors: Tensors,
}

impl Random {
    fn next(&mut self) -> f32 {
        // SplitMix64.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn add(&mut self, name: &str, shape: &[usize], center: f32) {
        let scale = if shape.len() == 2 { (3.0 / shape[1] as f32).sqrt() } else { 0.1 };
        let values = (0..shape.iter().product()).map(|_| center + scale * self.next()).collect();
        self.tensors.insert(name.to_string(), (shape.to_vec(), values));
    }

    fn linear(&mut self, name: &str, outputs: usize, inputs: usize, bias: bool) {
        self.add(&format!("{name}.weight"), &[outputs, inputs], 0.0);
        if bias {
            self.add(&format!("{name}.bias"), &[outputs], 0.0);
        }
    }

    fn layer_norm(&mut self, name: &str, width: usize) {
        self.add(&format!("{name}.weight"), &[width], 1.0);
        self.add(&format!("{name}.bias"), &[width], 0.0);
    }
}

fn size(config: &Value, key: &str) -> Option<usize> {
    config[key].as_u64().map(|size| size as usize)
}

fn flag(config: &Value, key: &str, default: bool) -> bool {
    config[key].as_bool().unwrap_or(default)
}

/// Weights for a LLaMA, Mistral or Qwen2 config.
pub fn llama_tensors(config: &Value, seed: u64) -> Tensors {
    let need = |key| size(config, key).unwrap();
    let (hidden, channels, heads) =
        (need("hidden_size"), need("intermediate_size"), need("num_attention_heads"));
    let head_dim = size(config, "head_dim").unwrap_or(hidden / heads);
    let kv_heads = size(config, "num_key_value_heads").unwrap_or(heads);
    let qwen = config["model_type"] == "qwen2";
    let output_bias = flag(config, "attention_bias", false);
    let mlp_bias = flag(config, "mlp_bias", false);
    let mut random = Random { state: seed, tensors: Tensors::new() };
    random.add("model.embed_tokens.weight", &[need("vocab_size"), hidden], 0.0);
    for layer in 0..need("num_hidden_layers") {
        let name = |rest: &str| format!("model.layers.{layer}.{rest}");
        random.add(&name("input_layernorm.weight"), &[hidden], 1.0);
        random.linear(&name("self_attn.q_proj"), heads * head_dim, hidden, output_bias || qwen);
        random.linear(&name("self_attn.k_proj"), kv_heads * head_dim, hidden, output_bias || qwen);
        random.linear(&name("self_attn.v_proj"), kv_heads * head_dim, hidden, output_bias || qwen);
        random.linear(&name("self_attn.o_proj"), hidden, heads * head_dim, output_bias);
        random.add(&name("post_attention_layernorm.weight"), &[hidden], 1.0);
        random.linear(&name("mlp.gate_proj"), channels, hidden, mlp_bias);
        random.linear(&name("mlp.up_proj"), channels, hidden, mlp_bias);
        random.linear(&name("mlp.down_proj"), hidden, channels, mlp_bias);
    }
    random.add("model.norm.weight", &[hidden], 1.0);
    if !flag(config, "tie_word_embeddings", false) {
        random.linear("lm_head", need("vocab_size"), hidden, false);
    }
    random.tensors
}

/// Weights for an OPT config.
pub fn opt_tensors(config: &Value, seed: u64) -> Tensors {
    let need = |key| size(config, key).unwrap();
    let (hidden, channels) = (need("hidden_size"), need("ffn_dim"));
    let embedding = size(config, "word_embed_proj_dim").unwrap_or(hidden);
    let bias = flag(config, "enable_bias", true);
    let affine = flag(config, "layer_norm_elementwise_affine", true);
    let final_norm =
        flag(config, "do_layer_norm_before", true) && !flag(config, "_remove_final_layer_norm", false);
    let mut random = Random { state: seed, tensors: Tensors::new() };
    random.add("model.decoder.embed_tokens.weight", &[need("vocab_size"), embedding], 0.0);
    random.add("model.decoder.embed_positions.weight", &[need("max_position_embeddings") + 2, hidden], 0.0);
    if embedding != hidden {
        random.linear("model.decoder.project_in", hidden, embedding, false);
        random.linear("model.decoder.project_out", embedding, hidden, false);
    }
    for layer in 0..need("num_hidden_layers") {
        let name = |rest: &str| format!("model.decoder.layers.{layer}.{rest}");
        for projection in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            random.linear(&name(&format!("self_attn.{projection}")), hidden, hidden, bias);
        }
        random.linear(&name("fc1"), channels, hidden, bias);
        random.linear(&name("fc2"), hidden, channels, bias);
        if affine {
            random.layer_norm(&name("self_attn_layer_norm"), hidden);
            random.layer_norm(&name("final_layer_norm"), hidden);
        }
    }
    if final_norm && affine {
        random.layer_norm("model.decoder.final_layer_norm", hidden);
    }
    if !flag(config, "tie_word_embeddings", true) {
        random.linear("lm_head", need("vocab_size"), embedding, false);
    }
    random.tensors
}

/// A byte-level BPE tokenizer.json: `<s>` 0, `<pad>` 1, `</s>` 2, the 256 bytes, then `he`, `ll`, `llo`, `hello`,
/// and ` hello`; `<s>` goes before a text.
pub fn tokenizer() -> Value {
    let mut vocab = serde_json::Map::new();
    let specials = ["<s>", "<pad>", "</s>"];
    // Byte-level BPE writes a byte as a printable character: itself, or the next one from U+0100.
    let mut unprintable = 0x100;
    let bytes = (0..=255u32).map(|byte| match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => char::from_u32(byte).unwrap().to_string(),
        _ => {
            unprintable += 1;
            char::from_u32(unprintable - 1).unwrap().to_string()
        }
    });
    let merged = ["he", "ll", "llo", "hello", "Ġhello"].map(String::from);
    for token in specials.map(String::from).into_iter().chain(bytes).chain(merged) {
        vocab.insert(token, vocab.len().into());
    }
    let special = |id: usize| {
        json!({ "id": id, "content": specials[id], "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0), special(1), special(2)],
        "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [0], "tokens": ["<s>"] } },
        },
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab,
            "merges": [["h", "e"], ["l", "l"], ["ll", "o"], ["he", "llo"], ["Ġ", "hello"]],
        },
    })
}
