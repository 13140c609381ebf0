//! Shapes of well-known models, for random weights.

use std::path::Path;

use clap::ValueEnum;
use probeprune::config::ModelConfig;
use serde_json::{Value, json};

use crate::failure::Result;

/// `--shape`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shape {
    /// 32 layers of 4096, 32 heads, 11008 channels
    #[value(name = "llama-2-7b")]
    Llama27b,
    /// 40 layers of 5120, 40 heads, 13824 channels
    #[value(name = "llama-2-13b")]
    Llama213b,
    /// 32 layers of 4096, 32 heads on 8 key/value heads, 14336 channels
    #[value(name = "llama-3-8b")]
    Llama38b,
    /// 40 layers of 5120, 40 heads, 20480 channels
    #[value(name = "opt-13b")]
    Opt13b,
    /// 12 layers of 768, 12 heads, 3072 channels
    #[value(name = "opt-125m")]
    Opt125m,
    /// 30 layers of 576, 9 heads on 3 key/value heads, 1536 channels
    #[value(name = "smollm2-135m")]
    Smollm2135m,
}

impl Shape {
    /// As on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string())
    }

    /// The model's config.
    pub(crate) fn config(self) -> Result<ModelConfig> {
        let text = self.json().to_string();
        Ok(ModelConfig::from_json(Path::new(&self.name()), &text, None)?)
    }

    fn json(self) -> Value {
        match self {
            Self::Llama27b => llama(32, 4096, 11008, 32, 32, 4096),
            Self::Llama213b => llama(40, 5120, 13824, 40, 40, 4096),
            Self::Llama38b => {
                let mut config = llama(32, 4096, 14336, 32, 8, 8192);
                config["vocab_size"] = json!(128_256);
                config["rope_theta"] = json!(5e5);
                config
            }
            Self::Opt13b => opt(40, 5120, 20480, 40),
            Self::Opt125m => opt(12, 768, 3072, 12),
            Self::Smollm2135m => {
                let mut config = llama(30, 576, 1536, 9, 3, 8192);
                config["vocab_size"] = json!(49_152);
                config["rope_theta"] = json!(1e5);
                config["tie_word_embeddings"] = json!(true);
                config
            }
        }
    }
}

fn llama(
    layers: usize,
    hidden: usize,
    channels: usize,
    heads: usize,
    kv_heads: usize,
    positions: usize,
) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "num_hidden_layers": layers, "hidden_size": hidden,
        "intermediate_size": channels, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "max_position_embeddings": positions, "vocab_size": 32_000, "rms_norm_eps": 1e-5,
    })
}

fn opt(layers: usize, hidden: usize, channels: usize, heads: usize) -> Value {
    json!({
        "architectures": ["OPTForCausalLM"], "num_hidden_layers": layers, "hidden_size": hidden, "ffn_dim": channels,
        "num_attention_heads": heads, "max_position_embeddings": 2048, "vocab_size": 50_272,
    })
}

#[cfg(test)]
mod tests {
    use probeprune::checkpoint::RandomTensors;

    use super::*;

    #[test]
    fn shapes_have_as_many_parameters_as_their_models() {
        // From the models' cards, in millions.
        let sizes = [6738.4, 13015.9, 8030.3, 12853.5, 125.2, 134.5];
        for (shape, millions) in Shape::value_variants().iter().zip(sizes) {
            let config = shape.config().unwrap();
            let parameters = RandomTensors::new(&config, 0).bytes() as f64 / 2.0 / 1e6;
            assert!((parameters - millions).abs() < 0.1, "{}: {parameters}", shape.name());
        }
    }
}
