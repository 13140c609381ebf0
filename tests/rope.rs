//! Rotary positions: bad settings, and frequencies against those of Hugging Face transformers 4.46.3 (PyTorch 1.13,
//! CPU); for the keys that it does not know (mscale, truncate, original length), transformers 5's formulas evaluated in
//! the same PyTorch.

mod common;

use std::path::Path;

use common::assert_error;
use probeprune::{
    Result,
    config::{ModelConfig, Rope, RopeScaling},
};
use serde_json::json;

const HELP: &str = "Put back the model's own file, or correct this key.";

/// A LLaMA config with this key, set to the JSON text `value`.
fn with(key: &str, value: &str) -> Result<ModelConfig> {
    let config = format!(r#"{{"architectures":["LlamaForCausalLM"],"{key}":{value}}}"#);
    ModelConfig::from_json(Path::new("m/config.json"), &config, None)
}

#[test]
fn case_46_unknown_rope_type_or_missing_key() {
    let unsupported =
        ["rope_scaling.rope_type: expected default, linear, dynamic, llama3 or yarn, got", "not supported"];
    assert_error(with("rope_scaling", r#"{"rope_type":"longrope"}"#), &unsupported);
    assert_error(with("rope_scaling", r#"{"factor":2}"#), &unsupported);
    assert_error(
        with("rope_scaling", r#"{"type":"su"}"#),
        &["rope_scaling.type: expected default, linear", "got \"su\"."],
    );
    let both = r#"{"type":"linear","rope_type":"yarn","factor":2}"#;
    assert_error(
        with("rope_scaling", both),
        &["rope_scaling.type: expected yarn, as rope_type, or no such key, got \"linear\"."],
    );
    let per_layer = r#"{"full_attention":{"rope_type":"linear","factor":2}}"#;
    assert_error(
        with("rope_parameters", per_layer),
        &["rope_parameters.rope_type: expected default,", "got no such key."],
    );
    with("rope_parameters", r#"{"rope_theta":5e5}"#).unwrap();
    assert_error(with("rope_scaling", "3"), &["rope_scaling: expected an object or null, got 3."]);
    assert_error(with("partial_rotary_factor", "0.5"), &["partial_rotary_factor: expected 1", "got 0.5."]);
    for kind in ["linear", "dynamic", "llama3", "yarn"] {
        let parts = ["rope_scaling.factor: expected a number of at least 1, got no such key.", HELP];
        assert_error(with("rope_scaling", &json!({ "rope_type": kind }).to_string()), &parts);
    }
    let whole = json!({ "rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
                        "original_max_position_embeddings": 8192 });
    for key in ["low_freq_factor", "high_freq_factor", "original_max_position_embeddings"] {
        let mut scaling = whole.clone();
        scaling.as_object_mut().unwrap().remove(key);
        let what = format!("rope_scaling.{key}: expected");
        assert_error(with("rope_scaling", &scaling.to_string()), &[&what, "got no such key.", HELP]);
        let newer = format!("rope_parameters.{key}: expected");
        assert_error(with("rope_parameters", &scaling.to_string()), &[&newer, "got no such key.", HELP]);
    }
}

#[test]
fn case_47_rope_values_out_of_range() {
    let llama3 = |factor: f64, low: f64, high: f64, original: i64| {
        json!({ "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
                "original_max_position_embeddings": original })
    };
    let cases = [
        (
            llama3(8.0, 4.0, 4.0, 8192),
            "high_freq_factor: expected a number above low_freq_factor (4), got 4.0.",
        ),
        (
            llama3(8.0, 4.0, 1.0, 8192),
            "high_freq_factor: expected a number above low_freq_factor (4), got 1.0.",
        ),
        (llama3(0.5, 1.0, 4.0, 8192), "factor: expected a number of at least 1, got 0.5."),
        (llama3(8.0, 0.0, 4.0, 8192), "low_freq_factor: expected a number above 0, got 0.0."),
        (llama3(8.0, 1.0, 4.0, 0), "original_max_position_embeddings: expected a whole number from 1"),
        (
            json!({ "rope_type": "linear", "factor": 0.99 }),
            "factor: expected a number of at least 1, got 0.99.",
        ),
        (
            json!({ "rope_type": "yarn", "factor": 2, "beta_fast": 1 }),
            "beta_fast: expected a number above beta_slow (1), got 1.",
        ),
        (
            json!({ "rope_type": "yarn", "factor": 2, "attention_factor": -1 }),
            "attention_factor: expected a number above 0, got -1.",
        ),
        (
            json!({ "rope_type": "yarn", "factor": 2, "mscale": 1e38 }),
            "mscale: expected a number from 0 to 1000000, got 1e+38.",
        ),
    ];
    for (scaling, message) in cases {
        assert_error(
            with("rope_scaling", &scaling.to_string()),
            &["m/config.json: rope_scaling.", message, HELP],
        );
    }
    assert_error(
        with("rope_theta", "1e39"),
        &["rope_theta: expected a number above 1, up to 3.4028235e38, got 1e+39."],
    );
    for theta in ["0", "-1", "1", "\"x\""] {
        assert_error(with("rope_theta", theta), &["rope_theta: expected a number above 1, got", HELP]);
    }
}

/// Two units in the last place: what PyTorch's vectorised f32 `pow` may be off.
const TOLERANCE: f64 = 2.4e-7;

#[track_caller]
fn check(
    theta: f64,
    scaling: RopeScaling,
    head_dim: usize,
    lengths: (usize, usize),
    expected: &[f64],
    scale: f64,
) {
    let (frequencies, got_scale) =
        Rope { theta, scaling }.inverse_frequencies(head_dim, lengths.0, lengths.1);
    assert_eq!(frequencies.len(), expected.len());
    for (got, want) in frequencies.iter().map(|x| f64::from(*x)).zip(expected) {
        assert!((got - want).abs() <= TOLERANCE * want, "got {got}, want {want}");
    }
    let got_scale = f64::from(got_scale);
    assert!((got_scale - scale).abs() <= TOLERANCE * scale, "got {got_scale}, want {scale}");
}

const DEFAULT: [f64; 8] = [1.0, 0.31622776, 0.1, 0.031622779, 0.01, 0.0031622779, 0.001, 0.00031622779];

#[test]
fn default_and_linear() {
    check(10_000.0, RopeScaling::Default, 16, (100, 2_048), &DEFAULT, 1.0);
    let quarter = DEFAULT.map(|frequency| frequency / 4.0);
    check(10_000.0, RopeScaling::Linear { factor: 4.0 }, 16, (100, 4_096), &quarter, 1.0);
}

#[test]
fn dynamic() {
    let scaling = RopeScaling::Dynamic { factor: 2.0 };
    check(10_000.0, scaling.clone(), 16, (100, 2_048), &DEFAULT, 1.0);
    check(10_000.0, scaling.clone(), 16, (2_048, 2_048), &DEFAULT, 1.0);
    let long =
        [1.0, 0.26051709, 0.067869157, 0.017681075, 0.0046062223, 0.0011999997, 0.00031262042, 8.1442966e-5];
    check(10_000.0, scaling.clone(), 16, (5_000, 2_048), &long, 1.0);
    // The 1 of the formula is lost to rounding; the base must not become 0.
    let huge = RopeScaling::Dynamic { factor: 17_756_622_526_046_215.0 };
    check(10_000.0, huge, 16, (0, 2_048), &DEFAULT, 1.0);
    // A head of 2 has the power 2 / 0 in the formula; its one frequency is 1 whatever the base.
    check(10_000.0, scaling, 2, (5_000, 2_048), &[1.0], 1.0);
}

#[test]
fn llama3() {
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8_192,
    };
    let expected = [
        1.0,
        0.44036663,
        0.19392276,
        0.085397102,
        0.037606031,
        0.016560441,
        0.0072926651,
        0.0032114461,
        0.00052484602,
        7.7846555e-5,
        3.4281024e-5,
        1.5096218e-5,
        6.6478697e-6,
        2.9274997e-6,
        1.2891732e-6,
        5.6770881e-7,
    ];
    check(500_000.0, scaling, 32, (100, 131_072), &expected, 1.0);
}

fn yarn(factor: f64, original_max_position_embeddings: usize) -> RopeScaling {
    RopeScaling::Yarn {
        factor,
        attention_factor: None,
        beta_fast: 32.0,
        beta_slow: 1.0,
        mscale: None,
        mscale_all_dim: None,
        original_max_position_embeddings,
        truncate: true,
    }
}

#[test]
fn yarn_defaults() {
    let expected = [
        1.0,
        0.56234133,
        0.31622776,
        0.17782794,
        0.1,
        0.056234129,
        0.028234623,
        0.013972196,
        0.0067857141,
        0.0032133791,
        0.0014682005,
        0.00063509983,
        0.00025,
        0.00014058533,
        7.9056947e-5,
        4.4456985e-5,
    ];
    check(10_000.0, yarn(4.0, 4_096), 32, (100, 4_096), &expected, 1.1386294);
    let original =
        [1.0, 0.31622776, 0.081250004, 0.019764237, 0.004375, 0.00079056947, 0.00025, 7.9056947e-5];
    check(10_000.0, yarn(4.0, 1_024), 16, (100, 4_096), &original, 1.1386294);
}

#[test]
fn yarn_with_every_key() {
    let expected = [
        1.0,
        0.42169651,
        0.17782794,
        0.074989416,
        0.031622779,
        0.013335215,
        0.0056234132,
        0.0019267413,
        0.00062500004,
        0.00018449221,
        4.4456985e-5,
        1.8747356e-5,
        7.9056936e-6,
        3.3338035e-6,
        1.4058534e-6,
        5.9284343e-7,
    ];
    let RopeScaling::Yarn { mscale, mscale_all_dim, truncate, .. } = yarn(4.0, 1) else { unreachable!() };
    let scaling = RopeScaling::Yarn {
        factor: 4.0,
        attention_factor: Some(0.75),
        beta_fast: 16.0,
        beta_slow: 2.0,
        mscale,
        mscale_all_dim,
        original_max_position_embeddings: 32_768,
        truncate,
    };
    check(1_000_000.0, scaling, 32, (100, 32_768), &expected, 0.75);
    let expected = [1.0, 0.31622776, 0.1, 0.027710859, 0.0055240626, 0.00072263816, 2.5e-5, 7.9056945e-6];
    let scaling = RopeScaling::Yarn {
        factor: 40.0,
        attention_factor: None,
        beta_fast: 32.0,
        beta_slow: 1.0,
        mscale: Some(1.0),
        mscale_all_dim: Some(0.707),
        original_max_position_embeddings: 4_096,
        truncate: false,
    };
    check(10_000.0, scaling, 16, (100, 163_840), &expected, 1.0857264);
}
