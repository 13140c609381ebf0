//! Configs: Hugging Face's defaults, the checkpoints that users have, and every numbered case of a bad config.

mod common;

use std::path::Path;

use common::{assert_error, models::Folder};
use probeprune::{
    Result,
    config::{Activation, AttentionBias, Family, ModelConfig, RopeScaling},
};
use serde_json::{Value, json};

const HELP: &str = "Put back the model's own file, or correct this key.";

fn parse(config: &Value) -> Result<ModelConfig> {
    parse_text(&config.to_string())
}

fn parse_text(config: &str) -> Result<ModelConfig> {
    ModelConfig::from_json(Path::new("m/config.json"), config, None)
}

/// A LLaMA config with this key, set to the JSON text `value`.
fn with(key: &str, value: &str) -> Result<ModelConfig> {
    parse_text(&format!(r#"{{"architectures":["LlamaForCausalLM"],"{key}":{value}}}"#))
}

/// A LLaMA config with these keys.
fn llama(mut keys: Value) -> Result<ModelConfig> {
    keys["architectures"] = json!(["LlamaForCausalLM"]);
    parse(&keys)
}

#[test]
fn defaults_are_those_of_hugging_face() {
    let llama = parse(&json!({ "model_type": "llama" })).unwrap();
    let sizes = |c: &ModelConfig| {
        [c.vocab_size, c.hidden_size, c.intermediate_size, c.num_hidden_layers, c.num_attention_heads]
    };
    let rest = |c: &ModelConfig| {
        [c.num_key_value_heads, c.head_dim, c.max_position_embeddings, c.word_embed_proj_dim]
    };
    assert_eq!(sizes(&llama), [32_000, 4_096, 11_008, 32, 32]);
    assert_eq!(rest(&llama), [32, 128, 2_048, 4_096]);
    assert_eq!((llama.norm_eps, llama.activation, llama.family), (1e-6, Activation::Silu, Family::Llama));
    assert_eq!((llama.bos_token_id, llama.eos_token_ids, llama.pad_token_id), (Some(1), vec![2], None));
    assert!(!llama.tie_word_embeddings && !llama.mlp_bias && llama.norm_first && llama.final_norm);
    let rope = llama.rope.unwrap();
    assert_eq!((rope.theta, rope.scaling), (10_000.0, RopeScaling::Default));

    let mistral = parse(&json!({ "model_type": "mistral" })).unwrap();
    assert_eq!(sizes(&mistral), [32_000, 4_096, 14_336, 32, 32]);
    assert_eq!(rest(&mistral), [8, 128, 131_072, 4_096]);
    assert_eq!(mistral.sliding_window, Some(4_096));

    let qwen = parse(&json!({ "model_type": "qwen2" })).unwrap();
    assert_eq!(sizes(&qwen), [151_936, 4_096, 22_016, 32, 32]);
    assert_eq!(rest(&qwen), [32, 128, 32_768, 4_096]);
    assert_eq!(qwen.attention_bias, AttentionBias { qkv: true, output: false });
    assert_eq!((qwen.bos_token_id, qwen.eos_token_ids, qwen.sliding_window), (None, vec![], None));

    let opt = parse(&json!({ "model_type": "opt" })).unwrap();
    assert_eq!(sizes(&opt), [50_272, 768, 3_072, 12, 12]);
    assert_eq!(rest(&opt), [12, 64, 2_048, 768]);
    assert_eq!((opt.norm_eps, opt.activation, opt.family), (1e-5, Activation::Relu, Family::Opt));
    assert_eq!((opt.bos_token_id, opt.eos_token_ids, opt.pad_token_id), (Some(2), vec![2], Some(1)));
    assert_eq!(opt.attention_bias, AttentionBias { qkv: true, output: true });
    assert!(opt.tie_word_embeddings && opt.mlp_bias && opt.norm_affine && opt.norm_first && opt.final_norm);
    assert!(opt.rope.is_none());
}

#[test]
fn checkpoints_that_users_have() {
    let llama_31 = llama(json!({
        "head_dim": null, "num_key_value_heads": 8, "eos_token_id": [128001, 128008, 128009], "rope_theta": 500000,
        "rope_scaling": { "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                          "original_max_position_embeddings": 8192, "rope_type": "llama3" },
        "torch_dtype": "bfloat16",
    }))
    .unwrap();
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    assert_eq!(llama_31.rope.unwrap().scaling, scaling);
    assert_eq!((llama_31.num_key_value_heads, llama_31.eos_token_ids), (8, vec![128_001, 128_008, 128_009]));
    assert_eq!(llama_31.torch_dtype.as_deref(), Some("bfloat16"));

    let newer = llama(
        json!({ "dtype": "float16", "rope_parameters": { "rope_type": "linear", "factor": 2, "rope_theta": 7e4 } }),
    );
    let newer = newer.unwrap();
    let rope = newer.rope.unwrap();
    assert_eq!((rope.theta, rope.scaling), (70_000.0, RopeScaling::Linear { factor: 2.0 }));
    assert_eq!(newer.torch_dtype.as_deref(), Some("float16"));

    let first =
        llama(json!({ "pad_token_id": -1, "num_key_value_heads": null, "rope_scaling": null })).unwrap();
    assert_eq!((first.pad_token_id, first.num_key_value_heads), (None, 32));
    let old = llama(json!({ "rope_scaling": { "type": "dynamic", "factor": 2.0 } })).unwrap();
    assert_eq!(old.rope.unwrap().scaling, RopeScaling::Dynamic { factor: 2.0 });
    let biased = llama(json!({ "attention_bias": true, "mlp_bias": true, "head_dim": 100 })).unwrap();
    assert_eq!(biased.attention_bias, AttentionBias { qkv: true, output: true });
    assert!(biased.mlp_bias && biased.head_dim == 100);

    let mistral = parse(&json!({ "architectures": ["MistralForCausalLM"], "sliding_window": null })).unwrap();
    assert_eq!((mistral.model_type.as_str(), mistral.sliding_window), ("mistral", None));

    let opt_350m = parse(&json!({
        "model_type": "opt", "hidden_size": 1024, "num_attention_heads": 16, "word_embed_proj_dim": 512,
        "do_layer_norm_before": false, "_remove_final_layer_norm": false, "activation_function": "gelu_new",
    }))
    .unwrap();
    assert!(!opt_350m.norm_first && !opt_350m.final_norm);
    assert_eq!((opt_350m.word_embed_proj_dim, opt_350m.activation), (512, Activation::GeluTanh));
    let keys = ["enable_bias", "layer_norm_elementwise_affine"];
    let bare = parse(
        &json!({ "model_type": "opt", keys[0]: false, keys[1]: false, "_remove_final_layer_norm": true }),
    );
    let bare = bare.unwrap();
    assert!(
        !bare.mlp_bias
            && !bare.attention_bias.qkv
            && !bare.norm_affine
            && !bare.final_norm
            && bare.norm_first
    );
}

#[test]
fn generation_config_overrides_eos() {
    let folder = Folder::llama();
    let eos = |generation: &str| {
        folder.write("generation_config.json", generation);
        Ok(ModelConfig::load(&folder.source())?.eos_token_ids)
    };
    assert_eq!(eos("{}").unwrap(), [2]);
    assert_eq!(eos(r#"{"eos_token_id": 7}"#).unwrap(), [7]);
    assert_eq!(eos(r#"{"eos_token_id": [7, 8]}"#).unwrap(), [7, 8]);
    let parts = ["generation_config.json: eos_token_id: expected a token id", "got \"x\".", HELP];
    assert_error(eos(r#"{"eos_token_id": "x"}"#), &parts);
    // transformers reads numbers that JSON has not; those that are read here are refused by name.
    assert_eq!(eos(r#"{"eos_token_id": 7, "temperature": Infinity, "top_p": NaN}"#).unwrap(), [7]);
    assert_error(eos(r#"{"eos_token_id": NaN}"#), &["eos_token_id: expected a token id", "got \"NaN\"."]);
    assert_error(eos("["), &["generation_config.json: content: expected valid JSON"]);
}

#[test]
fn case_27_config_missing() {
    let parts = [
        "config.json: file: expected the model's config.json, got an empty folder.",
        "Pass the folder that holds",
    ];
    assert_error(ModelConfig::load(&Folder::empty().source()), &parts);
}

#[test]
fn case_36_no_heads() {
    let parts = ["m/config.json: num_attention_heads: expected a whole number from 1 to", "got 0.", HELP];
    assert_error(with("num_attention_heads", "0"), &parts);
}

#[test]
fn case_37_hidden_not_divisible_by_heads() {
    let keys = json!({ "hidden_size": 100, "num_attention_heads": 3 });
    let parts =
        ["hidden_size: expected a multiple of num_attention_heads (3) or give head_dim, got 100.", HELP];
    assert_error(llama(keys.clone()), &parts);
    let mut fixed = keys;
    fixed["head_dim"] = 32.into();
    assert_eq!(llama(fixed).unwrap().head_dim, 32);
    let opt = json!({ "model_type": "opt", "hidden_size": 100, "num_attention_heads": 3 });
    assert_error(parse(&opt), &["hidden_size: expected a multiple of num_attention_heads (3), got 100."]);
}

#[test]
fn case_38_heads_not_divisible_by_kv_heads() {
    let parts = ["num_key_value_heads: expected a divisor of num_attention_heads (32), got 5.", HELP];
    assert_error(with("num_key_value_heads", "5"), &parts);
}

#[test]
fn case_39_kv_heads_out_of_range() {
    for kv_heads in ["0", "33"] {
        let got = format!("num_key_value_heads: expected a whole number from 1 to 32, got {kv_heads}.");
        assert_error(with("num_key_value_heads", kv_heads), &[&got, HELP]);
    }
    let mistral = json!({ "model_type": "mistral", "num_attention_heads": 4 });
    assert_error(
        parse(&mistral),
        &["num_key_value_heads: expected a divisor of num_attention_heads (4), got no such key."],
    );
}

#[test]
fn case_40_odd_head_dim() {
    for keys in [json!({ "head_dim": 5 }), json!({ "hidden_size": 20, "num_attention_heads": 4 })] {
        assert_error(llama(keys), &["head_dim: expected an even number", "got 5.", HELP]);
    }
}

#[test]
fn case_41_layers() {
    for layers in ["0", "1000000000"] {
        let got = format!("num_hidden_layers: expected a whole number from 1 to 10000, got {layers}.");
        assert_error(with("num_hidden_layers", layers), &[&got, HELP]);
    }
}

#[test]
fn case_43_negative_fractional_or_string() {
    let keys = [
        "hidden_size",
        "vocab_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
        "head_dim",
    ];
    for key in keys {
        for value in ["-1", "2.5", "\"16\"", "[]", "true", "1e30", "18446744073709551616", "4294967296"] {
            assert_error(
                with(key, value),
                &[&format!("m/config.json: {key}: expected a whole number from 1"), ", got ", HELP],
            );
        }
    }
    // Old conversions write -1 for none.
    assert!(with("eos_token_id", "-1").unwrap().eos_token_ids.is_empty());
    assert_eq!(with("eos_token_id", "[-1,7]").unwrap().eos_token_ids, [7u32]);
    assert_eq!(with("bos_token_id", "-1").unwrap().bos_token_id, None);
    assert_error(with("hidden_size", "-16"), &["got -16."]);
    assert_error(with("hidden_size", "\"16\""), &["got \"16\"."]);
    for (key, value) in [("tie_word_embeddings", "1"), ("attention_bias", "\"no\"")] {
        assert_error(with(key, value), &[&format!("{key}: expected true or false, got {value}."), HELP]);
    }
    for value in ["-2", "1.5", "\"x\"", "[1,-2]", "4294967296"] {
        assert_error(with("eos_token_id", value), &["eos_token_id: expected a token id", HELP]);
    }
    assert_error(
        with("bos_token_id", "[1,2]"),
        &["bos_token_id: expected one token id or null, got a list."],
    );
}

#[test]
fn case_44_eps() {
    for eps in ["0", "0.0", "-1e-5", "1e-60", "1e300", "\"nan\"", "null", "NaN", "-Infinity"] {
        assert_error(
            with("rms_norm_eps", eps),
            &["rms_norm_eps: expected a number above 0 in f32", ", got", HELP],
        );
    }
}

#[test]
fn case_45_unknown_activation() {
    let parts = [
        "expected silu, swish, relu, gelu,",
        "got \"mish\".",
        "Other activation functions are not supported.",
    ];
    assert_error(with("hidden_act", "\"mish\""), &[&["m/config.json: hidden_act: "][..], &parts].concat());
    let opt = json!({ "model_type": "opt", "activation_function": "mish" });
    assert_error(parse(&opt), &[&["m/config.json: activation_function: "][..], &parts].concat());
    assert_error(with("hidden_act", "3"), &["hidden_act: expected a string, got 3."]);
}

#[test]
fn case_48_unsupported_architecture() {
    let parts = [
        "expected one of LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, OPTForCausalLM, got \"GPT2LMHeadModel\".",
        "not supported",
    ];
    assert_error(parse(&json!({ "architectures": ["GPT2LMHeadModel"] })), &parts);
    assert_error(
        parse(&json!({ "model_type": "gpt2" })),
        &["model_type: expected one of llama, mistral, qwen2, opt, got \"gpt2\"."],
    );
    assert_error(parse(&json!({})), &["architectures: expected one of LlamaForCausalLM", "got no such key."]);
    for wrong in [json!("LlamaForCausalLM"), json!([3])] {
        assert_error(
            parse(&json!({ "architectures": wrong })),
            &["architectures: expected a list of class names"],
        );
    }
    let both = json!({ "architectures": ["LlamaForCausalLM"], "model_type": "opt" });
    assert_error(
        parse(&both),
        &["model_type: expected llama as architectures has LlamaForCausalLM, got \"opt\"."],
    );
    assert_error(parse(&json!({ "model_type": "a\u{1b}[31m\n" })), &[r#"got "a\u{1b}[31m\n"."#]);
}

#[test]
fn case_49_quantization_config() {
    let parts = [
        "quantization_config: expected no such key, got an object.",
        "Quantized checkpoints are not supported",
    ];
    assert_error(with("quantization_config", r#"{"bits":4}"#), &parts);
    with("quantization_config", "null").unwrap();
}

#[test]
fn case_50_deep_nesting() {
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    assert_error(with("x", &deep), &["m/config.json: content: expected valid JSON", "recursion limit", HELP]);
}

#[test]
fn not_json_or_not_text() {
    assert_error(parse_text(""), &["content: expected valid JSON", "EOF"]);
    assert_error(parse_text("[1]"), &["content: expected a JSON object, got a list."]);
    let folder = Folder::llama();
    folder.write("config.json", b"{\"a\":\"\xff\"}");
    assert_error(
        ModelConfig::load(&folder.source()),
        &["config.json: content: expected UTF-8 text", "offset 6"],
    );
}
