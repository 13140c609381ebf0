//! A folded model as a Hugging Face folder.
//!
//! Where all layers have the same heads and channels, every key/value head has as many query heads, the heads divide the hidden
//! size, and the class has biases everywhere (LLaMA), config.json alone says what the model is. Otherwise its key "probeprune" has the shape of every layer,
//! and a modelling file beside it makes transformers understand that. This crate reads both.

use std::{collections::BTreeMap, io::Write, path::Path};

use serde_json::{Map, Value, json};

use crate::{
    backend::Backend,
    checkpoint::{Tensor, Tensors},
    config::LayerShape,
    error::{Error, Result},
    json::with_quoted_constants,
    model::{Model, fold::Fold},
    output::{OutTensor, write_atomically, write_folder_atomically, write_safetensors},
    prune::settings::Settings,
    source::ModelSource,
    weights::{LayerNames, prefix},
};

const MODELING: &str = include_str!("modeling_probeprune.py");

/// Files that go with a model and do not depend on its shape.
const COMPANIONS: &[&str] = &[
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
];

/// Writes `fold`, which was made from the model at `source` with `settings`, to the new folder `out`. The folder is complete
/// or absent. Returns whether it needs the modelling file.
///
/// # Errors
/// If `out` exists or cannot be written, the source's files cannot be read, or a device failed.
pub fn export<B: Backend>(
    fold: &Fold<B>,
    source: &ModelSource,
    settings: &Settings,
    out: &Path,
) -> Result<bool> {
    write_folder_atomically(out, |folder| write_files(fold, source, settings, folder))
}

fn write_files<B: Backend>(
    fold: &Fold<B>,
    source: &ModelSource,
    settings: &Settings,
    folder: &Path,
) -> Result<bool> {
    let write =
        |name: &str, content: &[u8]| write_atomically(&folder.join(name), |file| file.write_all(content));
    let plain = plain_shape(&fold.model);
    let config = config_json(&fold.model, source, plain.as_ref())?;
    write("config.json", format!("{:#}\n", Value::Object(config)).as_bytes())?;
    if plain.is_none() {
        write("modeling_probeprune.py", MODELING.as_bytes())?;
    }
    for name in COMPANIONS {
        if let Some(content) = source.read(name)? {
            write(name, &content)?;
        }
    }
    let metadata = [
        ("format", "pt".to_string()),
        ("probeprune", format!("{} {}", env!("CARGO_PKG_VERSION"), describe(settings))),
        ("probeprune_fingerprint", fold.model.fingerprint.clone()),
    ];
    let metadata: BTreeMap<_, _> = metadata.map(|(key, value)| (key.to_string(), value)).into();
    let tensors = tensors(&fold.model, plain.is_some())?;
    write_safetensors(&folder.join("model.safetensors"), &tensors, Some(metadata))?;
    Ok(plain.is_none())
}

/// The settings that a fold depends on.
fn describe(settings: &Settings) -> String {
    let Settings { method, prune_ratio, fold_choice, skip_layers, round_channels, .. } = settings;
    format!(
        "method {method}, prune_ratio {prune_ratio}, fold_choice {fold_choice}, skip_layers {skip_layers:?}, \
         round_channels {round_channels}"
    )
}

/// The shape of all layers, if a config of the model's class can say it.
fn plain_shape<B: Backend>(model: &Model<B>) -> Option<LayerShape> {
    let mut shapes = model.weights.layers.iter().map(|layer| &layer.shape);
    let first = shapes.next()?;
    let group = first.heads / first.kv_heads;
    let regular = (0..first.heads).all(|head| first.kv_head_of[head] as usize == head / group);
    let same = shapes.all(|shape| shape == first);
    // transformers insists on this, although head_dim says all that matters.
    let divides = model.config.hidden_size.is_multiple_of(first.heads);
    (model.config.model_type == "llama" && regular && same && divides).then(|| first.clone())
}

fn config_json<B: Backend>(
    model: &Model<B>,
    source: &ModelSource,
    plain: Option<&LayerShape>,
) -> Result<Map<String, Value>> {
    let text = source.read_text("config.json")?.unwrap_or_default();
    let parsed: Option<Value> = serde_json::from_str(&with_quoted_constants(&text)).ok();
    let parsed = parsed.and_then(|value| value.as_object().cloned());
    let mut config = parsed.ok_or_else(|| {
        let path = source.path_of("config.json");
        Error::file(
            path,
            "content",
            "the model's config.json",
            "another file",
            "Put back the model's own file.",
        )
    })?;
    let mut set = |key: &str, value: Value| config.insert(key.to_string(), value);
    // The original's may be those of a base class, or of a head that is not the embedding after all.
    set("architectures", json!([model.config.class()]));
    set("model_type", json!(model.config.model_type));
    set("tie_word_embeddings", json!(model.config.tie_word_embeddings));
    if let Some(shape) = plain {
        set("num_attention_heads", json!(shape.heads));
        set("num_key_value_heads", json!(shape.kv_heads));
        set("head_dim", json!(model.config.head_dim));
        set("intermediate_size", json!(shape.channels));
        set("attention_bias", json!(true));
        set("mlp_bias", json!(true));
        return Ok(config);
    }
    let names = model.tensor_names();
    let layers = model.weights.layers.iter().enumerate().map(|(index, layer)| {
        let start = format!("{}layers.{index}.", prefix(model.config.family));
        let biases: Vec<&str> = (names.iter().filter_map(|name| name.strip_prefix(&start)))
            .filter_map(|name| name.strip_suffix(".bias"))
            .filter(|name| !name.contains("norm"))
            .filter_map(|name| name.rsplit('.').next())
            .collect();
        json!({ "kv_head_of": layer.shape.kv_head_of, "channels": layer.shape.channels, "biases": biases })
    });
    set("probeprune", json!({ "layers": layers.collect::<Vec<_>>() }));
    let class = format!("modeling_probeprune.Probeprune{}", model.config.class());
    set("auto_map", json!({ "AutoModelForCausalLM": class }));
    Ok(config)
}

/// All tensors; with `biases` projections without one get one of zeros.
fn tensors<B: Backend>(model: &Model<B>, biases: bool) -> Result<Vec<(String, OutTensor)>> {
    let mut tensors = Vec::new();
    let names = model.tensor_names();
    let dtype = model.require(&names[0])?.dtype();
    for name in &names {
        // Vectors are float32 here. Those of the checkpoint have its dtype again; refitted biases stay as they are.
        let tensor = model.require(name)?;
        let rounded = tensor.rounded_to(dtype);
        let exact = rounded.to_f32() == tensor.to_f32();
        tensors.push((name.clone(), OutTensor::of(if exact { &rounded } else { &tensor })));
    }
    if !biases {
        return Ok(tensors);
    }
    let layers = LayerNames::of(model.config.family);
    let projections =
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", layers.o_proj, layers.down_proj];
    for layer in 0..model.config.num_hidden_layers {
        for part in projections.iter().chain(layers.mlp_first) {
            let name = format!("{}layers.{layer}.{part}", prefix(model.config.family));
            let bias = format!("{name}.bias");
            if !names.contains(&bias) {
                let rows = model.require(&format!("{name}.weight"))?.shape()[0];
                let zeros = Tensor::from_f32(vec![rows], vec![0.0; rows]).rounded_to(dtype);
                tensors.push((bias, OutTensor::of(&zeros)));
            }
        }
    }
    Ok(tensors)
}
