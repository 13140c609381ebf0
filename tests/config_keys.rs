//! Classes, and the keys of config.json: which are read, which must have a certain value, which change nothing, and what is said
//! of the rest. The keys are those of the config classes of transformers 4.46 and 5.24.

mod common;

use std::path::Path;

use common::{assert_error, models::Folder};
use probeprune::{Result, config::ModelConfig};
use serde_json::{Value, json};

fn parse(config: &Value) -> Result<ModelConfig> {
    ModelConfig::from_json(Path::new("m/config.json"), &config.to_string(), None)
}

/// A config of this type with these keys.
fn with(model_type: &str, mut keys: Value) -> Result<ModelConfig> {
    keys["model_type"] = model_type.into();
    parse(&keys)
}

const TYPES: [&str; 4] = ["llama", "mistral", "qwen2", "opt"];

/// Read, and refused by name if the value is not of the right type.
const USED: [(&[&str], &[&str]); 7] = [
    (
        &TYPES,
        &[
            "architectures",
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "max_position_embeddings",
            "tie_word_embeddings",
            "bos_token_id",
            "eos_token_id",
            "pad_token_id",
            "dtype",
            "layer_types",
        ],
    ),
    (
        &["llama", "mistral", "qwen2"],
        &[
            "intermediate_size",
            "num_key_value_heads",
            "head_dim",
            "hidden_act",
            "rms_norm_eps",
            "rope_theta",
            "rope_scaling",
            "rope_parameters",
            "partial_rotary_factor",
        ],
    ),
    (&["llama"], &["attention_bias", "mlp_bias"]),
    (&["mistral", "qwen2"], &["sliding_window"]),
    (&["qwen2"], &["use_sliding_window", "max_window_layers"]),
    (
        &["opt"],
        &["ffn_dim", "activation_function", "do_layer_norm_before", "word_embed_proj_dim", "enable_bias"],
    ),
    (&["opt"], &["layer_norm_elementwise_affine", "_remove_final_layer_norm"]),
];

/// A value for which a key that is not read changes nothing, and one for which it would.
fn fixed() -> [(&'static str, Value, Value); 9] {
    [
        ("add_cross_attention", json!(false), json!(true)),
        ("attention_chunk_size", json!(null), json!(64)),
        ("compression_config", json!(null), json!({ "bits": 4 })),
        ("is_causal", json!(true), json!(false)),
        ("is_encoder_decoder", json!(false), json!(true)),
        ("mlp_layer_types", json!(["dense", "dense"]), json!(["dense", "sparse"])),
        ("per_layer_config", json!(null), json!([{ "head_dim": 4 }])),
        ("pruned_heads", json!({}), json!({ "0": [1] })),
        ("quantization_config", json!(null), json!({ "quant_method": "gptq" })),
    ]
}

/// Of the config classes, and of those that they derive from.
const IRRELEVANT: [&str; 35] = [
    "_attn_implementation",
    "_commit_hash",
    "_name_or_path",
    "attention_dropout",
    "attn_implementation",
    "bad_words_ids",
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "dropout",
    "finetuning_task",
    "id2label",
    "init_std",
    "initializer_range",
    "is_decoder",
    "label2id",
    "layerdrop",
    "length_penalty",
    "max_length",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "repetition_penalty",
    "return_dict",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tokenizer_class",
    "torchscript",
    "transformers_version",
    "use_bfloat16",
    "use_cache",
];

#[test]
fn keys_that_are_read_are_checked() {
    for (types, keys) in USED {
        for (model_type, key) in types.iter().flat_map(|of| keys.iter().map(move |key| (of, key))) {
            let error = with(model_type, json!({ *key: [{}] }));
            assert_error(error, &[&format!("m/config.json: {key}: expected")]);
        }
    }
}

#[test]
fn keys_that_must_have_a_certain_value() {
    for model_type in TYPES {
        for (key, good, bad) in fixed() {
            assert_eq!(with(model_type, json!({ key: good })).unwrap().notes, [""; 0], "{model_type}, {key}");
            assert_error(
                with(model_type, json!({ key: bad })),
                &[&format!("m/config.json: {key}: expected ")],
            );
        }
    }
}

#[test]
fn keys_that_change_nothing_are_not_noted() {
    for (model_type, key) in TYPES.iter().flat_map(|of| IRRELEVANT.map(|key| (of, key))) {
        let plain = with(model_type, json!({})).unwrap();
        assert_eq!(with(model_type, json!({ key: 1 })).unwrap(), plain, "{model_type}, {key}");
    }
}

#[test]
fn unknown_keys_that_look_structural_are_noted() {
    // Of other models: Gemma 2, Granite, Cohere, SmolLM3, MPT, Qwen3-MoE, LLaMA's folders made from Mistral's.
    let keys = [
        "attn_logit_softcapping",
        "residual_multiplier",
        "logit_scale",
        "no_rope_layers",
        "alibi",
        "num_experts",
        "use_qk_norm",
        "sliding_window",
        "a\u{1b}[31mhead",
    ];
    for key in keys {
        let notes = with("llama", json!({ key: 2 })).unwrap().notes;
        let shown = format!("{key:?}");
        let expected =
            format!("config.json: LlamaForCausalLM has no such setting, so it is ignored: {shown}");
        assert_eq!(notes, [expected]);
        // Switched off, it is not worth a note.
        for off in [json!(null), json!(false), json!([]), json!({})] {
            assert_eq!(with("llama", json!({ key: off })).unwrap().notes, [""; 0], "{key}");
        }
    }
    let inside = json!({ "rope_scaling": { "rope_type": "linear", "factor": 2, "mrope_section": [1, 2] } });
    let notes = with("llama", inside).unwrap().notes;
    assert!(notes[0].ends_with("ignored: \"rope_scaling.mrope_section\""), "{notes:?}");
    let many: Value =
        (0..12).map(|i| (format!("head_{i:02}"), json!(1))).collect::<serde_json::Map<_, _>>().into();
    let notes = with("opt", many).unwrap().notes;
    assert!(
        notes[0].starts_with("config.json: OPTForCausalLM") && notes[0].ends_with("\"head_09\" and 2 more"),
        "{notes:?}"
    );
    let code = json!({ "auto_map": { "AutoModelForCausalLM": "modeling_x.XForCausalLM" } });
    assert!(with("llama", code.clone()).unwrap().notes[0].contains("auto_map names code"));
}

#[test]
fn classes_by_case_by_type_and_without_a_head() {
    let model_type = |keys: Value| parse(&keys).map(|config| (config.model_type, config.notes.len()));
    let named = |class: &str, of: &str| {
        assert_eq!(model_type(json!({ "architectures": [class] })).unwrap(), (of.into(), 0), "{class}");
        assert_eq!(
            model_type(json!({ "architectures": [class], "model_type": of })).unwrap(),
            (of.into(), 0)
        );
    };
    named("LLaMAForCausalLM", "llama");
    named("llamaforcausallm", "llama");
    named("OptForCausalLM", "opt");
    named("LlamaModel", "llama");
    named("MistralModel", "mistral");
    named("Qwen2Model", "qwen2");
    named("OPTModel", "opt");
    assert_eq!(model_type(json!({ "model_type": "LLaMA" })).unwrap(), ("llama".into(), 0));
    assert_eq!(model_type(json!({ "architectures": [], "model_type": "opt" })).unwrap(), ("opt".into(), 0));

    // transformers goes by model_type alone.
    for class in ["YiForCausalLM", "LlamaForCausalLM"] {
        let config = parse(&json!({ "architectures": [class], "model_type": "mistral" })).unwrap();
        assert_eq!((config.model_type.as_str(), config.sliding_window), ("mistral", Some(4_096)));
        let note = format!(
            "config.json: architectures has \"{class}\", model_type mistral: the model runs as MistralForCausalLM"
        );
        assert!(config.notes[0].starts_with(&note), "{:?}", config.notes);
    }
    for class in ["LlamaForSequenceClassification", "Qwen2ForTokenClassification", "OPTForQuestionAnswering"]
    {
        let got = format!("got \"{class}\". This model has another head");
        assert_error(
            parse(&json!({ "architectures": [class], "model_type": "llama" })),
            &["architectures: ", &got],
        );
    }
}

#[test]
fn qwen2_windows() {
    let qwen = |layers: u32, mut keys: Value| {
        keys["use_sliding_window"] = keys.get("use_sliding_window").cloned().unwrap_or(true.into());
        keys["sliding_window"] = json!(64);
        keys["num_hidden_layers"] = layers.into();
        with("qwen2", keys)
    };
    let windows = |keys: Value| {
        let config = qwen(4, keys).unwrap();
        assert_eq!(config.notes, [""; 0]);
        (0..4).map(|layer| config.window(layer)).collect::<Vec<_>>()
    };
    let (full, windowed) = (None, Some(64));
    assert_eq!(windows(json!({ "max_window_layers": 0 })), [windowed; 4]);
    assert_eq!(windows(json!({ "max_window_layers": 3 })), [full, full, full, windowed]);
    assert_eq!(windows(json!({ "max_window_layers": 4 })), [full; 4]);
    assert_eq!(windows(json!({})), [full; 4]);
    let (f, s) = ("full_attention", "sliding_attention");
    assert_eq!(
        windows(json!({ "max_window_layers": 0, "layer_types": [f, s, f, s] })),
        [full, windowed, full, windowed]
    );
    assert_eq!(windows(json!({ "max_window_layers": 0, "layer_types": [f, f, f, f] })), [full; 4]);
    assert_eq!(windows(json!({ "layer_types": [s, s, s, s] })), [windowed; 4]);
    assert_eq!(windows(json!({ "use_sliding_window": false, "layer_types": [f, f, f, f] })), [full; 4]);

    let expected =
        "layer_types: expected full_attention or sliding_attention for each of 4 layers, got a list.";
    for types in [json!([f, f, f]), json!([f, f, f, "chunked_attention"]), json!([f, f, f, 1])] {
        assert_error(qwen(4, json!({ "layer_types": types })), &[expected]);
    }
    let off = json!({ "use_sliding_window": false, "layer_types": [f, f, f, s] });
    assert_error(
        qwen(4, off),
        &["layer_types: expected full_attention for every layer, as use_sliding_window"],
    );
}

#[test]
fn layer_types_of_models_without_a_mix() {
    let of = |model_type: &str, window: Value, types: Value| {
        with(model_type, json!({ "num_hidden_layers": 2, "sliding_window": window, "layer_types": types }))
    };
    let (full, sliding) =
        (json!(["full_attention", "full_attention"]), json!(["sliding_attention", "sliding_attention"]));
    let mixed = json!(["full_attention", "sliding_attention"]);
    of("llama", json!(null), full.clone()).unwrap();
    of("opt", json!(null), full.clone()).unwrap();
    assert_eq!(of("mistral", json!(8), sliding.clone()).unwrap().window(1), Some(8));
    assert_eq!(of("mistral", json!(null), full.clone()).unwrap().window(1), None);
    let refused = [
        ("llama", json!(null), &sliding),
        ("llama", json!(null), &mixed),
        ("opt", json!(null), &mixed),
        ("mistral", json!(8), &full),
        ("mistral", json!(8), &mixed),
        ("mistral", json!(null), &sliding),
    ];
    for (model_type, window, types) in refused {
        let parts = ["layer_types: expected ", "for every layer, ", "got a list."];
        assert_error(of(model_type, window, types.clone()), &parts);
    }
}

#[test]
fn rope_of_older_and_newer_keys() {
    let rope = |keys: Value| {
        let config = with("llama", keys).unwrap();
        (config.rope.unwrap(), config.notes)
    };
    let linear = |factor: f64| json!({ "rope_type": "linear", "factor": factor });
    let (older, notes) =
        rope(json!({ "rope_scaling": linear(2.0), "rope_parameters": linear(4.0), "rope_theta": 7e4 }));
    assert_eq!(format!("{older:?}"), "Rope { theta: 70000.0, scaling: Linear { factor: 2.0 } }");
    assert_eq!(notes, ["config.json: rope_scaling is used and rope_parameters ignored, as in transformers"]);
    assert_eq!(rope(json!({ "rope_scaling": linear(2.0), "rope_parameters": linear(2.0) })).1, [""; 0]);
    // An empty object is none.
    let (newer, notes) = rope(json!({ "rope_scaling": {}, "rope_parameters": linear(4.0) }));
    assert_eq!((format!("{newer:?}").contains("factor: 4.0"), notes.len()), (true, 0));
    assert_eq!(rope(json!({ "rope_scaling": {} })), rope(json!({})));

    // transformers 5 takes the one beside the scaling first.
    let llama3 = |inner: Value| {
        json!({ "rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
                "original_max_position_embeddings": inner })
    };
    let of = |outer: Value, inner: Value| {
        rope(json!({ "original_max_position_embeddings": outer, "rope_scaling": llama3(inner) }))
    };
    let alone = of(json!(null), json!(4_096));
    assert_eq!(of(json!(4_096), json!(null)), alone);
    assert_eq!(of(json!(4_096), json!(4_096)), alone);
    let (both, notes) = of(json!(4_096), json!(8_192));
    assert_eq!(both, alone.0);
    assert!(notes[0].contains("original_max_position_embeddings is 4096, and 8192"), "{notes:?}");
}

#[test]
fn a_model_with_notes_loads() {
    let folder = Folder::llama_with(json!({ "architectures": ["YiForCausalLM"], "logit_scale": 2 }));
    let config = ModelConfig::load(&folder.source()).unwrap();
    assert_eq!(config.notes.len(), 2, "{:?}", config.notes);
}
