//! config.json and generation_config.json, parsed and checked.

mod architecture;
mod fields;
mod keys;
mod layer_shape;
mod parse;
mod rope;
mod window;

use std::path::Path;

use architecture::Architecture;
pub use layer_shape::LayerShape;
pub use rope::{Rope, RopeScaling};

use crate::{
    error::{Error, Result},
    source::ModelSource,
};

/// The two kinds of decoder block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// LLaMA, Mistral, Qwen2: RMSNorm, rotary positions, gated MLP.
    Llama,
    /// OPT: LayerNorm, learned positions, two-layer MLP.
    Opt,
}

/// The MLP's activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x · sigmoid(x): `silu`, `swish`.
    Silu,
    /// max(x, 0): `relu`.
    Relu,
    /// x · Φ(x) with the error function: `gelu`.
    Gelu,
    /// GELU's tanh form: `gelu_new`, `gelu_pytorch_tanh`, `gelu_fast`.
    GeluTanh,
}

/// Which attention projections have a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionBias {
    /// q_proj, k_proj and v_proj.
    pub qkv: bool,
    /// o_proj (OPT: out_proj).
    pub output: bool,
}

/// A model's sizes and settings. Field names are Hugging Face's; absent keys have the defaults of its config classes.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The kind of decoder block.
    pub family: Family,
    /// `llama`, `mistral`, `qwen2` or `opt`.
    pub model_type: String,
    /// Rows of the embedding table; every token id is below it.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Channels of the MLP (OPT: `ffn_dim`).
    pub intermediate_size: usize,
    /// Decoder layers, 1 to 10,000.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Channels of one head; even where positions are rotary.
    pub head_dim: usize,
    /// Longest sequence, in tokens.
    pub max_position_embeddings: usize,
    /// Added to the variance by the norms; positive and finite.
    pub norm_eps: f32,
    /// Rotary positions; `None` for OPT, whose positions are learned.
    pub rope: Option<Rope>,
    /// A token sees itself and this many minus one tokens before it; `None`: all before it.
    pub sliding_window: Option<usize>,
    /// Layers, ascending, in which a token sees all before it in spite of `sliding_window`.
    pub full_attention_layers: Vec<usize>,
    /// The MLP's activation function.
    pub activation: Activation,
    /// Whether the head is the embedding table.
    pub tie_word_embeddings: bool,
    /// Which attention projections have a bias.
    pub attention_bias: AttentionBias,
    /// Whether the MLP's projections have a bias.
    pub mlp_bias: bool,
    /// Whether norms have a weight (and, for OPT, a bias): OPT's `layer_norm_elementwise_affine`.
    pub norm_affine: bool,
    /// Whether norms come before attention and MLP (true) or after the residual is added (OPT-350m).
    pub norm_first: bool,
    /// Whether there is a norm after the last layer.
    pub final_norm: bool,
    /// Width of the embedding table; `hidden_size` unless OPT's project_in and project_out are there.
    pub word_embed_proj_dim: usize,
    /// Token put before a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text; generation_config.json overrides config.json.
    pub eos_token_ids: Vec<u32>,
    /// Token for padding.
    pub pad_token_id: Option<u32>,
    /// Heads and channels of every layer of a model that `probeprune export` wrote; `None`: those above, unless the checkpoint
    /// has fewer (see [`crate::checkpoint::check_shapes`]).
    pub layer_shapes: Option<Vec<LayerShape>>,
    /// `torch_dtype` (newer: `dtype`) as written; what counts is each tensor's own dtype.
    pub torch_dtype: Option<String>,
    /// What a user should know of how the files were read, a sentence each.
    pub notes: Vec<String>,
}

impl ModelConfig {
    /// Query heads per key/value head: 1 without grouped-query attention.
    pub fn gqa_group(&self) -> usize {
        self.num_attention_heads / self.num_key_value_heads
    }

    /// Hugging Face's class of the model.
    pub(crate) fn class(&self) -> &'static str {
        Architecture::named(&self.model_type).unwrap_or(Architecture::Llama).class()
    }

    /// The window of a layer: a token sees itself and this many minus one tokens before it; `None`: all before it.
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.sliding_window.filter(|_| self.full_attention_layers.binary_search(&layer).is_err())
    }

    /// Reads config.json and, where there is one, generation_config.json.
    ///
    /// # Errors
    /// When config.json is missing, or anything that [`from_json`](Self::from_json) refuses.
    pub fn load(source: &ModelSource) -> Result<Self> {
        let path = source.path_of("config.json");
        let Some(config) = source.read_text("config.json")? else {
            let (got, help) = source.instead_of_config();
            return Err(Error::file(path, "file", "the model's config.json", got, help));
        };
        let generation_config = source.read_text("generation_config.json")?;
        Self::from_json(&path, &config, generation_config.as_deref())
    }

    /// Parses config.json's text and, if given, that of the generation_config.json beside it; `path` is for messages.
    ///
    /// # Errors
    /// An [`Error::File`] naming the key for every value that is missing, of the wrong type, out of range,
    /// contradictory, or not supported. Nothing is allocated in proportion to any number in the file.
    pub fn from_json(path: &Path, config: &str, generation_config: Option<&str>) -> Result<Self> {
        parse::config(path, config, generation_config)
    }
}
