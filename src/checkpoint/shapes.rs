//! Checks a checkpoint against its config: every tensor that the model needs, in the right shape.

use super::{Checkpoint, head};
use crate::{
    config::{Family, LayerShape, ModelConfig},
    error::{Error, Result, printable},
    weights::{LayerNames, prefix},
};

/// A size and where in config.json it comes from.
pub(super) type Size = (&'static str, usize);

/// Checks that `checkpoint` has every tensor that a model of `config` needs, with a dtype that can run and the right
/// shape, and no bias that `config` does not announce. Other tensors are ignored. Returns the heads and channels of every
/// layer: those that config.json gives it, or else those of its projections, which may be fewer than the config's if all
/// projections of a block agree, as pruning without an export of its own leaves them.
///
/// Settles in `config`, with a note, what only the weights can say: whether the head is the embedding.
///
/// # Errors
/// For the first tensor that is missing, of the wrong dtype or shape, or not announced.
pub fn check_shapes(config: &mut ModelConfig, checkpoint: &Checkpoint) -> Result<Vec<LayerShape>> {
    head::settle(config, checkpoint);
    let config = &*config;
    let found =
        || (0..config.num_hidden_layers).map(|layer| layer_shape(config, checkpoint, layer)).collect();
    let shapes: Vec<LayerShape> = config.layer_shapes.clone().unwrap_or_else(found);
    visit(config, &shapes, &mut Check { config, checkpoint })?;
    Ok(shapes)
}

/// The heads and channels that the columns of a layer's last projections and the rows of its keys leave. Sizes that cannot
/// be right are the config's, for the check to find.
fn layer_shape(config: &ModelConfig, checkpoint: &Checkpoint, layer: usize) -> LayerShape {
    let names = LayerNames::of(config.family);
    let size = |part: &str, dimension: usize| {
        let name = format!("{}layers.{layer}.{part}.weight", prefix(config.family));
        let (file, found) = checkpoint.find(&name)?;
        file.entries()[found].shape.get(dimension).copied()
    };
    let whole = LayerShape::of(config);
    let heads_of = |part: &str, dimension: usize, most: usize| {
        let heads = size(part, dimension).filter(|size| size.is_multiple_of(config.head_dim));
        heads.map(|size| size / config.head_dim).filter(|heads| (1..=most).contains(heads))
    };
    let channels = size(names.down_proj, 1).filter(|size| (1..=whole.channels).contains(size));
    let channels = channels.unwrap_or(whole.channels);
    let heads = heads_of(names.o_proj, 1, whole.heads);
    let kv_heads = heads_of("self_attn.k_proj", 0, whole.kv_heads);
    match heads.zip(kv_heads).filter(|(heads, kv_heads)| heads.is_multiple_of(*kv_heads)) {
        Some((heads, kv_heads)) => {
            let kv_head_of = (0..heads).map(|head| (head / (heads / kv_heads)) as u32).collect();
            LayerShape { heads, kv_heads, channels, kv_head_of }
        }
        None => LayerShape { channels, ..whole },
    }
}

/// A visitor of every tensor that a config requires or rules out.
pub(super) trait Visitor {
    /// The embedding, and the head, whose names and shape these are.
    fn embedding_and_head(&mut self, embedding: &str, head: &str, shape: [Size; 2]) -> Result<()>;
    /// A tensor of this shape.
    fn need(&mut self, name: &str, sizes: &[Size]) -> Result<()>;
    /// A bias that must not be there, going by a key of config.json.
    fn absent(&mut self, bias: &str, key: &str) -> Result<()>;
    /// A tensor of this shape, if it is there.
    fn may_have(&mut self, name: &str, sizes: &[Size]) -> Result<()>;
}

/// Shows `visitor` every tensor of a model of `config` whose layers have these shapes.
pub(super) fn visit(config: &ModelConfig, shapes: &[LayerShape], visitor: &mut impl Visitor) -> Result<()> {
    let mut walk = Walk { config, shapes, visitor };
    match config.family {
        Family::Llama => walk.llama(),
        Family::Opt => walk.opt(),
    }
}

struct Walk<'a, V> {
    config: &'a ModelConfig,
    shapes: &'a [LayerShape],
    visitor: &'a mut V,
}

impl<V: Visitor> Walk<'_, V> {
    fn llama(&mut self) -> Result<()> {
        let config = self.config;
        let hidden = ("hidden_size", config.hidden_size);
        self.embedding_and_head("model.embed_tokens.weight", hidden)?;
        for (layer, shape) in self.shapes.iter().enumerate() {
            let channels = ("intermediate_size", shape.channels);
            let queries = ("num_attention_heads × head_dim", shape.heads * config.head_dim);
            let keys = ("num_key_value_heads × head_dim", shape.kv_heads * config.head_dim);
            let name = |rest: &str| format!("model.layers.{layer}.{rest}");
            self.need(&name("input_layernorm.weight"), &[hidden])?;
            self.need(&name("post_attention_layernorm.weight"), &[hidden])?;
            let bias = config.attention_bias;
            self.linear(&name("self_attn.q_proj"), queries, hidden, bias.qkv, "attention_bias")?;
            self.linear(&name("self_attn.k_proj"), keys, hidden, bias.qkv, "attention_bias")?;
            self.linear(&name("self_attn.v_proj"), keys, hidden, bias.qkv, "attention_bias")?;
            self.last(&name("self_attn.o_proj"), hidden, queries, bias.output, "attention_bias")?;
            self.linear(&name("mlp.gate_proj"), channels, hidden, config.mlp_bias, "mlp_bias")?;
            self.linear(&name("mlp.up_proj"), channels, hidden, config.mlp_bias, "mlp_bias")?;
            self.last(&name("mlp.down_proj"), hidden, channels, config.mlp_bias, "mlp_bias")?;
        }
        self.need("model.norm.weight", &[hidden])
    }

    fn opt(&mut self) -> Result<()> {
        let config = self.config;
        let hidden = ("hidden_size", config.hidden_size);
        let embedding = ("word_embed_proj_dim", config.word_embed_proj_dim);
        // Rows 0 and 1 are never used: positions begin at 2.
        let positions = ("max_position_embeddings + 2", config.max_position_embeddings + 2);
        self.embedding_and_head("model.decoder.embed_tokens.weight", embedding)?;
        self.need("model.decoder.embed_positions.weight", &[positions, hidden])?;
        if embedding.1 != hidden.1 {
            self.need("model.decoder.project_in.weight", &[hidden, embedding])?;
            self.need("model.decoder.project_out.weight", &[embedding, hidden])?;
        }
        for (layer, shape) in self.shapes.iter().enumerate() {
            let channels = ("ffn_dim", shape.channels);
            let heads = ("num_attention_heads × head_dim", shape.heads * config.head_dim);
            let keys = ("num_attention_heads × head_dim", shape.kv_heads * config.head_dim);
            let name = |rest: &str| format!("model.decoder.layers.{layer}.{rest}");
            let bias = config.attention_bias.output;
            for (projection, outputs) in [("q_proj", heads), ("k_proj", keys), ("v_proj", keys)] {
                self.linear(&name(&format!("self_attn.{projection}")), outputs, hidden, bias, "enable_bias")?;
            }
            self.last(&name("self_attn.out_proj"), hidden, heads, bias, "enable_bias")?;
            self.layer_norm(&name("self_attn_layer_norm"), hidden)?;
            self.linear(&name("fc1"), channels, hidden, config.mlp_bias, "enable_bias")?;
            self.last(&name("fc2"), hidden, channels, config.mlp_bias, "enable_bias")?;
            self.layer_norm(&name("final_layer_norm"), hidden)?;
        }
        if config.final_norm { self.layer_norm("model.decoder.final_layer_norm", hidden) } else { Ok(()) }
    }

    fn embedding_and_head(&mut self, embedding: &str, width: Size) -> Result<()> {
        let shape = [("vocab_size", self.config.vocab_size), width];
        self.visitor.embedding_and_head(embedding, "lm_head.weight", shape)
    }

    fn need(&mut self, name: &str, sizes: &[Size]) -> Result<()> {
        self.visitor.need(name, sizes)
    }

    /// A projection's weight, (outputs, inputs), and its bias, (outputs), which is there exactly when `biased`.
    fn linear(&mut self, name: &str, outputs: Size, inputs: Size, biased: bool, key: &str) -> Result<()> {
        self.need(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = format!("{name}.bias");
        if biased {
            return self.need(&bias, &[outputs]);
        }
        self.visitor.absent(&bias, key)
    }

    /// A block's last projection. That of a folded block has a bias, whatever the config says.
    fn last(&mut self, name: &str, outputs: Size, inputs: Size, biased: bool, key: &str) -> Result<()> {
        if biased || self.config.layer_shapes.is_none() {
            return self.linear(name, outputs, inputs, biased, key);
        }
        self.need(&format!("{name}.weight"), &[outputs, inputs])?;
        self.visitor.may_have(&format!("{name}.bias"), &[outputs])
    }

    fn layer_norm(&mut self, name: &str, width: Size) -> Result<()> {
        if !self.config.norm_affine {
            return Ok(());
        }
        self.need(&format!("{name}.weight"), &[width])?;
        self.need(&format!("{name}.bias"), &[width])
    }
}

struct Check<'a> {
    config: &'a ModelConfig,
    checkpoint: &'a Checkpoint,
}

impl Visitor for Check<'_> {
    /// When tied, either of the two may be the only one there; when not, both must be.
    fn embedding_and_head(&mut self, embedding: &str, head: &str, shape: [Size; 2]) -> Result<()> {
        let has = |name: &str| self.checkpoint.find(name).is_some();
        if !self.config.tie_word_embeddings && !has(head) && has(embedding) {
            if self.checkpoint.stale(head).is_some() {
                return self.need(head, &shape);
            }
            return Err(Error::file(
                self.checkpoint.path(),
                format!("tensor {}", printable(head)),
                "the head, since tie_word_embeddings is false",
                "no such tensor",
                "Set tie_word_embeddings to true in config.json if the model shares its embedding, or download all weights.",
            ));
        }
        if has(head) {
            self.need(head, &shape)?;
        }
        if has(head) && !has(embedding) && self.config.tie_word_embeddings {
            return Ok(());
        }
        self.need(embedding, &shape)
    }

    fn need(&mut self, name: &str, sizes: &[Size]) -> Result<()> {
        let found = self.checkpoint.required_shape(name)?;
        if found.iter().eq(sizes.iter().map(|(_, size)| size)) {
            return Ok(());
        }
        let shape: Vec<_> = sizes.iter().map(|(_, size)| *size).collect();
        let keys: Vec<_> = sizes.iter().map(|(key, _)| *key).collect();
        Err(Error::file(
            self.checkpoint.path(),
            format!("shape of tensor {}", printable(name)),
            format!("{shape:?} ({} of config.json)", keys.join(", ")),
            format!("{found:?}"),
            "Take config.json and the weights from the same place.",
        ))
    }

    fn may_have(&mut self, name: &str, sizes: &[Size]) -> Result<()> {
        if self.checkpoint.find(name).is_some() { self.need(name, sizes) } else { Ok(()) }
    }

    fn absent(&mut self, bias: &str, key: &str) -> Result<()> {
        if self.checkpoint.find(bias).is_none() {
            return Ok(());
        }
        Err(Error::file(
            self.checkpoint.path(),
            format!("tensor {}", printable(bias)),
            format!("no bias here, going by {key} and model_type in config.json"),
            "one",
            "Take config.json and the weights from the same place.",
        ))
    }
}
