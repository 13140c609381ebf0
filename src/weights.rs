//! A checkpoint's tensors as the projections and norms of decoder blocks, under the checkpoint's own key names.

use std::sync::Arc;

use crate::{
    backend::{Backend, Linear, Norm, NormKind, WeightUse},
    checkpoint::{Tensor, Tensors},
    config::{Family, LayerShape, ModelConfig},
    error::{Proceed, Result},
    prune::Block,
};

/// The attention block of a layer.
#[derive(Debug)]
pub struct Attention<B: Backend> {
    /// Before the block (`norm_first`), or after its residual add.
    pub norm: Norm<B>,
    /// (N·D, H).
    pub q_proj: Linear<B>,
    /// (K·D, H).
    pub k_proj: Linear<B>,
    /// (K·D, H).
    pub v_proj: Linear<B>,
    /// (H, N·D); OPT's `out_proj`.
    pub o_proj: Linear<B>,
    /// The key/value head of every query head (N).
    pub kv_head_of: B::Indices,
    /// A token sees itself and this many minus one tokens before it; `None`: all before it.
    pub window: Option<usize>,
}

/// The MLP block of a layer.
#[derive(Debug)]
pub struct Mlp<B: Backend> {
    /// Before the block (`norm_first`), or after its residual add.
    pub norm: Norm<B>,
    /// The projections before the intermediate states.
    pub first: MlpFirst<B>,
    /// (H, I): `down_proj` or OPT's `fc2`.
    pub down_proj: Linear<B>,
}

/// The first projections of an MLP block.
#[derive(Debug)]
pub enum MlpFirst<B: Backend> {
    /// activation(gate) · up (LLaMA).
    Gated {
        /// (I, H).
        gate_proj: Linear<B>,
        /// (I, H).
        up_proj: Linear<B>,
    },
    /// activation(fc1) (OPT): (I, H).
    Plain(Linear<B>),
}

/// One decoder layer.
#[derive(Debug)]
pub struct Layer<B: Backend> {
    /// Its heads and channels.
    pub shape: LayerShape,
    /// Self-attention.
    pub attention: Attention<B>,
    /// Feed-forward.
    pub mlp: Mlp<B>,
}

impl<B: Backend> Layer<B> {
    /// The norm of a block.
    pub fn norm(&self, block: Block) -> &Norm<B> {
        match block {
            Block::Attention => &self.attention.norm,
            Block::Mlp => &self.mlp.norm,
        }
    }

    /// The last projection of a block, whose columns are pruned: `o_proj` or `down_proj`.
    pub fn last(&self, block: Block) -> &Linear<B> {
        match block {
            Block::Attention => &self.attention.o_proj,
            Block::Mlp => &self.mlp.down_proj,
        }
    }
}

/// Every weight of a model, on a backend.
#[derive(Debug)]
pub struct Weights<B: Backend> {
    /// (V, E), E = `word_embed_proj_dim`.
    pub embed_tokens: B::Weight,
    /// OPT's learned positions (max + 2, H).
    pub embed_positions: Option<B::Weight>,
    /// OPT-350m: (H, E).
    pub project_in: Option<Linear<B>>,
    /// Decoder layers in order.
    pub layers: Vec<Layer<B>>,
    /// Before the head; none for OPT-350m.
    pub final_norm: Option<Norm<B>>,
    /// OPT-350m: (E, H).
    pub project_out: Option<Linear<B>>,
    /// (V, E); often the embedding itself.
    pub lm_head: Linear<B>,
}

/// Names of a layer's modules, after `layers.N.`. Those of q, k and v are the same everywhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerNames {
    pub(crate) attention_norm: &'static str,
    pub(crate) o_proj: &'static str,
    pub(crate) mlp_norm: &'static str,
    /// gate and up, or fc1.
    pub(crate) mlp_first: &'static [&'static str],
    pub(crate) down_proj: &'static str,
}

impl LayerNames {
    pub(crate) fn of(family: Family) -> Self {
        match family {
            Family::Llama => Self {
                attention_norm: "input_layernorm",
                o_proj: "self_attn.o_proj",
                mlp_norm: "post_attention_layernorm",
                mlp_first: &["mlp.gate_proj", "mlp.up_proj"],
                down_proj: "mlp.down_proj",
            },
            Family::Opt => Self {
                attention_norm: "self_attn_layer_norm",
                o_proj: "self_attn.out_proj",
                mlp_norm: "final_layer_norm",
                mlp_first: &["fc1"],
                down_proj: "fc2",
            },
        }
    }
}

/// What the names of a decoder's tensors begin with.
pub(crate) fn prefix(family: Family) -> &'static str {
    match family {
        Family::Llama => "model.",
        // Old OPT files leave out `model.`; the checkpoint finds them all the same.
        Family::Opt => "model.decoder.",
    }
}

/// The name of the last norm, after [`prefix`].
pub(crate) fn final_norm(family: Family) -> &'static str {
    if family == Family::Opt { "final_layer_norm" } else { "norm" }
}

/// Looks tensors up and puts them on the backend.
struct Loader<'a, B: Backend> {
    checkpoint: &'a dyn Tensors,
    config: &'a ModelConfig,
    backend: &'a Arc<B>,
    prefix: &'static str,
    /// Per layer, which of the checkpoint's MLP channels stands at each place.
    order: Option<&'a [Vec<u32>]>,
    /// Heads and channels of every layer; `None` for the config's.
    shapes: Option<&'a [LayerShape]>,
}

impl<B: Backend> Loader<'_, B> {
    fn vector(&self, name: &str) -> Result<Option<B::Statistics>> {
        self.vector_in_order(name, None)
    }

    fn vector_in_order(&self, name: &str, order: Option<&[u32]>) -> Result<Option<B::Statistics>> {
        self.checkpoint
            .tensor(name)?
            .map(|tensor| {
                let tensor = order.map_or_else(|| tensor.clone(), |order| tensor.reordered_rows(order));
                let values = tensor.to_f32();
                let mut out = self.backend.statistics(values.len())?;
                self.backend.upload_statistics(&values, &mut out);
                Ok(out)
            })
            .transpose()
    }

    fn linear_of(&self, tensor: &Tensor, bias: Option<B::Statistics>, usage: WeightUse) -> Result<Linear<B>> {
        let &[out_features, in_features] = tensor.shape() else { unreachable!("shapes were checked") };
        Ok(Linear { weight: self.backend.weight(tensor, usage)?, bias, out_features, in_features })
    }

    /// `name.weight` and, where the file has it, `name.bias`.
    fn projection(&self, name: &str, usage: WeightUse) -> Result<Linear<B>> {
        let tensor = self.checkpoint.require(&format!("{}{name}.weight", self.prefix))?;
        self.linear_of(&tensor, self.vector(&format!("{}{name}.bias", self.prefix))?, usage)
    }

    /// A projection whose rows are pruned, if anything.
    fn linear(&self, name: &str) -> Result<Linear<B>> {
        self.projection(name, WeightUse::Rows)
    }

    /// A projection whose columns are pruned: see [`Backend::project`].
    fn last(&self, name: &str) -> Result<Linear<B>> {
        self.projection(name, WeightUse::Columns)
    }

    /// A first projection of the MLP of layer `index`: its rows are the channels.
    fn channel_rows(&self, index: usize, part: &str) -> Result<Linear<B>> {
        let name = format!("{}layers.{index}.{part}", self.prefix);
        let order = self.order.map(|order| &order[index][..]);
        let tensor = self.checkpoint.require(&format!("{name}.weight"))?;
        let tensor = order.map_or_else(|| tensor.clone(), |order| tensor.reordered_rows(order));
        self.linear_of(&tensor, self.vector_in_order(&format!("{name}.bias"), order)?, WeightUse::Rows)
    }

    /// The last projection of the MLP of layer `index`: its columns are the channels.
    fn channel_columns(&self, index: usize, part: &str) -> Result<Linear<B>> {
        let name = format!("{}layers.{index}.{part}", self.prefix);
        let tensor = self.checkpoint.require(&format!("{name}.weight"))?;
        let tensor =
            self.order.map_or_else(|| tensor.clone(), |order| tensor.reordered_columns(&order[index]));
        self.linear_of(&tensor, self.vector(&format!("{name}.bias"))?, WeightUse::Columns)
    }

    fn norm(&self, name: &str) -> Result<Norm<B>> {
        Ok(Norm {
            kind: if self.config.family == Family::Llama { NormKind::Rms } else { NormKind::Layer },
            weight: self.vector(&format!("{}{name}.weight", self.prefix))?,
            bias: self.vector(&format!("{}{name}.bias", self.prefix))?,
            eps: self.config.norm_eps,
        })
    }

    fn layer(&self, index: usize) -> Result<Layer<B>> {
        let name = |part: &str| format!("layers.{index}.{part}");
        let names = LayerNames::of(self.config.family);
        let shape = self.shapes.map_or_else(|| LayerShape::of(self.config), |shapes| shapes[index].clone());
        let mut kv_head_of = self.backend.indices(shape.heads)?;
        self.backend.upload_indices(&shape.kv_head_of, &mut kv_head_of);
        Ok(Layer {
            shape,
            attention: Attention {
                norm: self.norm(&name(names.attention_norm))?,
                q_proj: self.linear(&name("self_attn.q_proj"))?,
                k_proj: self.linear(&name("self_attn.k_proj"))?,
                v_proj: self.linear(&name("self_attn.v_proj"))?,
                o_proj: self.last(&name(names.o_proj))?,
                kv_head_of,
                window: self.config.window(index),
            },
            mlp: Mlp {
                norm: self.norm(&name(names.mlp_norm))?,
                first: match names.mlp_first {
                    [fc1] => MlpFirst::Plain(self.channel_rows(index, fc1)?),
                    names => MlpFirst::Gated {
                        gate_proj: self.channel_rows(index, names[0])?,
                        up_proj: self.channel_rows(index, names[1])?,
                    },
                },
                down_proj: self.channel_columns(index, names.down_proj)?,
            },
        })
    }
}

impl<B: Backend> Weights<B> {
    /// Puts the weights on the backend; shapes must have been checked against `config`. `order` holds, per layer, which
    /// MLP channel of the checkpoint stands at each place, and `shapes` its heads and channels where they are not the
    /// config's; `on_layer` is called after each layer with the number loaded.
    ///
    /// # Errors
    /// A missing tensor, no room on the device, or what `on_layer` ends with.
    pub fn load<P: Proceed>(
        checkpoint: &dyn Tensors,
        config: &ModelConfig,
        backend: &Arc<B>,
        order: Option<&[Vec<u32>]>,
        shapes: Option<&[LayerShape]>,
        mut on_layer: impl FnMut(usize) -> P,
    ) -> Result<Self> {
        let opt = config.family == Family::Opt;
        let prefix = prefix(config.family);
        let loader = Loader { checkpoint, config, backend, prefix, order, shapes };
        // Tied models may hold either of the two.
        let embedding = checkpoint.tensor(&format!("{prefix}embed_tokens.weight"))?;
        let head = checkpoint
            .tensor("lm_head.weight")?
            .filter(|_| !config.tie_word_embeddings || embedding.is_none());
        let embed = match (&embedding, &head) {
            (Some(tensor), _) | (None, Some(tensor)) => tensor.clone(),
            (None, None) => checkpoint.require(&format!("{prefix}embed_tokens.weight"))?,
        };
        let embed_tokens = backend.weight(&embed, WeightUse::Rows)?;
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for index in 0..config.num_hidden_layers {
            layers.push(loader.layer(index)?);
            on_layer(index + 1).proceed()?;
        }
        let projected = opt && config.word_embed_proj_dim != config.hidden_size;
        Ok(Self {
            embed_positions: if opt {
                Some(backend.weight(
                    &checkpoint.require(&format!("{prefix}embed_positions.weight"))?,
                    WeightUse::Rows,
                )?)
            } else {
                None
            },
            project_in: if projected { Some(loader.last("project_in")?) } else { None },
            final_norm: if config.final_norm { Some(loader.norm(final_norm(config.family))?) } else { None },
            project_out: if projected { Some(loader.linear("project_out")?) } else { None },
            lm_head: match &head {
                Some(head) => loader.linear_of(head, None, WeightUse::Rows)?,
                None => {
                    let &[out_features, in_features] = embed.shape() else {
                        unreachable!("shapes were checked")
                    };
                    Linear { weight: embed_tokens.clone(), bias: None, out_features, in_features }
                }
            },
            embed_tokens,
            layers,
        })
    }
}
