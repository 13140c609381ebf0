//! Models that were pruned for good: exported folds, and checkpoints whose layers have fewer heads and channels than their
//! config says.

mod common;

use std::sync::Arc;

use common::{
    assert_error,
    models::{Folder, Tensors},
    plain::{Plain, assert_close},
    small::{bits, load, random_tokens},
};
use probeprune::{
    checkpoint::{Checkpoint, map_file},
    config::ModelConfig,
    cpu::Cpu,
    export::export,
    model::{Model, fold::Fold},
    prune::settings::{Method, Settings},
    session::{CalibrationOptions, Limits, Session, calibrate},
    source::ModelSource,
};
use serde_json::{Value, json};

const LIMITS: Limits = Limits { samples: 2, tokens: 12, capacity: 0 };

fn folded(model: &Arc<Model<Cpu>>, settings: &Settings) -> Fold<Cpu> {
    let options = CalibrationOptions { seq_len: 12, batch_size: 4, fold: true, ..Default::default() };
    let calibration = calibrate(model, &random_tokens(1, 9 * 12), options, |_| ()).unwrap();
    Fold::new(model, settings, &calibration, |_| ()).unwrap()
}

fn folding(prune_ratio: f64, skip_layers: &[usize]) -> Settings {
    let skip_layers = skip_layers.to_vec();
    Settings { method: Method::Fold, prune_ratio, skip_layers, round_channels: 1, ..Settings::default() }
}

fn logits(model: &Arc<Model<Cpu>>) -> Vec<f32> {
    let settings = Settings::default_for(model.config.num_hidden_layers);
    let mut session = Session::new(Arc::clone(model), settings, LIMITS, None).unwrap();
    session.forward(&random_tokens(2, 24), 2, None, true).unwrap();
    session.logits(2).unwrap()
}

/// The config of an exported folder, and its model.
fn exported(folder: &Folder, settings: &Settings) -> (Value, Arc<Model<Cpu>>, Arc<Model<Cpu>>) {
    let fold = folded(&load(folder), settings);
    let out = folder.file("folded");
    let needs_code = export(&fold, &folder.source(), settings, &out).unwrap();
    assert_eq!(out.join("modeling_probeprune.py").exists(), needs_code);
    assert!(out.join("tokenizer.json").exists());
    let config: Value = serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(config.get("auto_map").is_some(), needs_code);
    let metadata = map_file(&out.join("model.safetensors")).unwrap().metadata().clone();
    assert_eq!(metadata["probeprune_fingerprint"], fold.model.fingerprint);
    assert!(metadata["probeprune"].contains("method fold, prune_ratio"), "{metadata:?}");
    let backend = Arc::new(Cpu::new(2).unwrap());
    let model = Model::load(&ModelSource::Folder(out), true, backend, |_| ()).unwrap();
    (config, Arc::new(model), fold.model)
}

#[test]
fn an_exported_fold_is_the_fold_to_the_bit() {
    let three = json!({ "num_hidden_layers": 3 });
    let mha = json!({ "num_hidden_layers": 3, "num_key_value_heads": 4 });
    let uneven =
        json!({ "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 6, "head_dim": 2 });
    let qwen =
        json!({ "num_hidden_layers": 3, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"] });
    for (folder, skip, class) in [
        (Folder::llama_with(three.clone()), &[0][..], Some("ProbepruneLlamaForCausalLM")),
        (Folder::llama_with(mha.clone()), &[0][..], Some("ProbepruneLlamaForCausalLM")),
        (Folder::llama_with(mha), &[][..], None),
        // Five heads do not divide a hidden size of 16.
        (Folder::llama_with(uneven), &[][..], Some("ProbepruneLlamaForCausalLM")),
        (Folder::llama_with(qwen), &[1][..], Some("ProbepruneQwen2ForCausalLM")),
        (Folder::opt_with(three), &[][..], Some("ProbepruneOPTForCausalLM")),
    ] {
        let (config, model, fold) = exported(&folder, &folding(0.23, skip));
        let code = config["auto_map"]["AutoModelForCausalLM"].as_str();
        assert_eq!(code, class.map(|class| format!("modeling_probeprune.{class}")).as_deref());
        if class.is_none() {
            // 4 heads become 3 of 4 channels each, 24 channels become 19.
            let sizes = ["num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size"];
            assert_eq!(sizes.map(|key| config[key].as_u64().unwrap()), [4, 4, 4, 19]);
            assert_eq!([&config["attention_bias"], &config["mlp_bias"]], [&json!(true); 2]);
        }
        let shapes = |model: &Model<Cpu>| -> Vec<_> {
            model.weights.layers.iter().map(|layer| layer.shape.clone()).collect()
        };
        assert_eq!(shapes(&model), shapes(&fold));
        assert_eq!(bits(&logits(&model)), bits(&logits(&fold)));
    }
}

/// A head of its own in spite of the config stays one, also for transformers 4, which goes by the config.
#[test]
fn an_export_says_whether_the_head_is_tied() {
    let folder = Folder::llama_with(json!({ "num_hidden_layers": 3, "tie_word_embeddings": true }));
    let settings = folding(0.23, &[0]);
    assert_eq!(exported(&folder, &settings).0["tie_word_embeddings"], true);
    std::fs::remove_dir_all(folder.file("folded")).unwrap();
    folder.edit_tensors(|tensors| {
        let mut head = tensors["model.embed_tokens.weight"].clone();
        head.1.reverse();
        tensors.insert("lm_head.weight".into(), head);
    });
    let (config, model, fold) = exported(&folder, &settings);
    assert_eq!(config["tie_word_embeddings"], false);
    assert!(!model.config.tie_word_embeddings && model.config.notes.is_empty());
    assert_eq!(bits(&logits(&model)), bits(&logits(&fold)));
}

#[test]
fn nothing_is_left_of_an_export_that_fails() {
    let folder = Folder::llama_with(json!({ "num_hidden_layers": 3 }));
    let settings = folding(0.23, &[0]);
    let fold = folded(&load(&folder), &settings);
    let before = || std::fs::read_dir(folder.path()).unwrap().count();
    let count = before();
    let run = |out: &std::path::Path| export(&fold, &folder.source(), &settings, out);
    assert_error(run(&folder.file("config.json")), &["config.json", "a new folder"]);
    assert_error(run(&folder.file("none").join("out")), &["out", "write"]);
    let broken = Folder::empty();
    broken.write("config.json", "[]");
    assert_error(export(&fold, &broken.source(), &settings, &folder.file("out")), &["config.json"]);
    assert_eq!(before(), count);
}

/// As LLM-Pruner leaves a checkpoint: the config of the dense model, and rows and columns that are gone.
fn without_some(tensors: &mut Tensors) {
    let layer = "model.layers.1";
    let keep_rows = |tensors: &mut Tensors, name: &str, rows: &[usize]| {
        let (shape, values) = tensors.get_mut(&format!("{layer}.{name}.weight")).unwrap();
        let width = shape[1];
        *values = rows.iter().flat_map(|row| values[row * width..][..width].to_vec()).collect();
        shape[0] = rows.len();
    };
    let keep_columns = |tensors: &mut Tensors, name: &str, columns: &[usize]| {
        let (shape, values) = tensors.get_mut(&format!("{layer}.{name}.weight")).unwrap();
        *values = values.chunks_exact(shape[1]).flat_map(|row| columns.iter().map(|&c| row[c])).collect();
        shape[1] = columns.len();
    };
    let of_heads = |heads: &[usize]| -> Vec<usize> { heads.iter().flat_map(|h| 4 * h..4 * h + 4).collect() };
    // The second key/value head and its two query heads, and five channels.
    keep_rows(tensors, "self_attn.q_proj", &of_heads(&[2, 3]));
    keep_rows(tensors, "self_attn.k_proj", &of_heads(&[1]));
    keep_rows(tensors, "self_attn.v_proj", &of_heads(&[1]));
    keep_columns(tensors, "self_attn.o_proj", &of_heads(&[2, 3]));
    let channels: Vec<usize> = (0..24).filter(|c| c % 5 != 2).collect();
    for name in ["mlp.gate_proj", "mlp.up_proj"] {
        keep_rows(tensors, name, &channels);
    }
    keep_columns(tensors, "mlp.down_proj", &channels);
}

#[test]
fn a_checkpoint_of_narrower_layers_runs() {
    let folder = Folder::llama();
    let plain = Plain::new(&folder);
    folder.edit_tensors(without_some);
    let model = load(&folder);
    let frequencies = plain.frequencies(10_000.0);
    let want =
        plain.logits(&random_tokens(2, 24), 12, &|_| frequencies.clone(), &mut |layer, block, _, a| {
            let gone = |c: usize| match block {
                probeprune::prune::Block::Attention => c < 8,
                probeprune::prune::Block::Mlp => c % 5 == 2,
            };
            let width = block.channels(&plain.config);
            let states = a.iter_mut().enumerate().filter(|(at, _)| layer == 1 && gone(at % width));
            states.for_each(|(_, a)| *a = 0.0);
        });
    assert_close("logits", &logits(&model), &want, 1e-4);
}

#[test]
fn narrower_layers_whose_projections_disagree_are_refused() {
    let check = |edit: &dyn Fn(&mut Tensors)| {
        let folder = Folder::llama();
        folder.edit_tensors(|tensors| {
            without_some(tensors);
            edit(tensors);
        });
        Model::load(&folder.source(), true, Arc::new(Cpu::new(1).unwrap()), |_| ()).map(|_| ())
    };
    check(&|_| ()).unwrap();
    for (name, [rows, columns]) in [
        ("self_attn.q_proj", [4, 16]),
        ("self_attn.v_proj", [8, 16]),
        ("self_attn.o_proj", [16, 7]),
        ("mlp.gate_proj", [18, 16]),
        ("mlp.down_proj", [16, 25]),
        ("mlp.down_proj", [15, 19]),
    ] {
        let name = format!("model.layers.1.{name}.weight");
        let edited = |tensors: &mut Tensors| {
            tensors.insert(name.clone(), (vec![rows, columns], vec![0.0; rows * columns]));
        };
        assert_error(check(&edited), &["shape of tensor", "model.layers.1."]);
    }
    // Nor can its channels be sorted.
    let folder = Folder::llama();
    folder.edit_tensors(without_some);
    let order = Some(vec![(0..24).collect(), (0..24).collect()]);
    let backend = Arc::new(Cpu::new(1).unwrap());
    let sorted = Model::load_ordered(&folder.source(), true, backend, order, |_| ());
    assert_error(sorted.map(|_| ()), &["channel order", "19"]);
}

#[test]
fn shapes_in_a_config_that_cannot_be_are_refused() {
    let layer =
        |kv_head_of: Value, channels: Value| json!({ "kv_head_of": kv_head_of, "channels": channels });
    let good = || layer(json!([0, 0, 1]), json!(5));
    let config = |shapes: Value| {
        let folder = Folder::llama_with(json!({ "probeprune": shapes }));
        ModelConfig::load(&folder.source())
    };
    let shapes = config(json!({ "layers": [good(), good()] })).unwrap().layer_shapes.unwrap();
    assert_eq!((shapes[1].heads, shapes[1].kv_heads, shapes[1].channels), (3, 2, 5));
    assert_eq!(config(Value::Null).unwrap().layer_shapes, None);
    for (shapes, key) in [
        (json!([]), "probeprune"),
        (json!({}), "probeprune.layers"),
        (json!({ "layers": [good()] }), "probeprune.layers"),
        (json!({ "layers": [good(), layer(json!([0]), json!(0))] }), "layers[1].channels"),
        (json!({ "layers": [good(), layer(json!([0]), json!(25))] }), "layers[1].channels"),
        (json!({ "layers": [good(), layer(json!([0]), Value::Null)] }), "layers[1].channels"),
        (json!({ "layers": [layer(json!([]), json!(5)), good()] }), "layers[0].kv_head_of"),
        (json!({ "layers": [layer(json!([0, 2]), json!(5)), good()] }), "layers[0].kv_head_of"),
        (json!({ "layers": [layer(json!([0, 0, 0, 0, 0]), json!(5)), good()] }), "layers[0].kv_head_of"),
        (json!({ "layers": [layer(json!([0, -1]), json!(5)), good()] }), "layers[0].kv_head_of"),
        (json!({ "layers": [7, good()] }), "layers[0]"),
    ] {
        assert_error(config(shapes), &[key]);
    }
    // The checkpoint has to agree.
    let folder = Folder::llama_with(json!({ "probeprune": { "layers": [good(), good()] } }));
    let checkpoint = Checkpoint::open(&folder.source(), true).unwrap();
    let mut config = ModelConfig::load(&folder.source()).unwrap();
    assert_error(
        probeprune::checkpoint::check_shapes(&mut config, &checkpoint),
        &["shape of tensor", "q_proj"],
    );
}
