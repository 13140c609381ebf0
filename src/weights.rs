//! A checkpoint's tensors as the projections and norms of decoder blocks, under the checkpoint's own key names.

use std::sync::Arc;

use crate::{
    backend::{Backend, Linear, Norm, NormKind, WeightUse},
    checkpoint::{Tensor, Tensors},
    config::{Family, ModelConfig},
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

/// Looks tensors up and puts them on the backend.
struct Loader<'a, B: Backend> {
    checkpoint: &'a dyn Tensors,
    config: &'a ModelConfig,
    backend: &'a Arc<B>,
    prefix: &'static str,
    /// Per layer, which of the checkpoint's MLP channels stands at each place.
    order: Option<&'a [Vec<u32>]>,
}

impl<B: Backend> Loader<'_, B> {
    fn vector(&self, name: &str) -> Result<Option<B::Statistics>> {
        self.vector_in_order(name, None)
    }

    fn vector_in_order(&self, name: &str, order: Option<&[u32]>) -> Result<Option<B::Statistics>> {
        self.checkpoint
            .tensor(name)
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
        let llama = self.config.family == Family::Llama;
        let [attention_norm, o_proj, mlp_norm, down_proj] = if llama {
            ["input_layernorm", "self_attn.o_proj", "post_attention_layernorm", "mlp.down_proj"]
        } else {
            ["self_attn_layer_norm", "self_attn.out_proj", "final_layer_norm", "fc2"]
        };
        Ok(Layer {
            attention: Attention {
                norm: self.norm(&name(attention_norm))?,
                q_proj: self.linear(&name("self_attn.q_proj"))?,
                k_proj: self.linear(&name("self_attn.k_proj"))?,
                v_proj: self.linear(&name("self_attn.v_proj"))?,
                o_proj: self.last(&name(o_proj))?,
            },
            mlp: Mlp {
                norm: self.norm(&name(mlp_norm))?,
                first: if llama {
                    MlpFirst::Gated {
                        gate_proj: self.channel_rows(index, "mlp.gate_proj")?,
                        up_proj: self.channel_rows(index, "mlp.up_proj")?,
                    }
                } else {
                    MlpFirst::Plain(self.channel_rows(index, "fc1")?)
                },
                down_proj: self.channel_columns(index, down_proj)?,
            },
        })
    }
}

impl<B: Backend> Weights<B> {
    /// Puts the weights on the backend; shapes must have been checked against `config`. `order` holds, per layer, which
    /// MLP channel of the checkpoint stands at each place; `on_layer` is called after each layer with the number loaded.
    ///
    /// # Errors
    /// A missing tensor, no room on the device, or what `on_layer` ends with.
    pub fn load<P: Proceed>(
        checkpoint: &dyn Tensors,
        config: &ModelConfig,
        backend: &Arc<B>,
        order: Option<&[Vec<u32>]>,
        mut on_layer: impl FnMut(usize) -> P,
    ) -> Result<Self> {
        let opt = config.family == Family::Opt;
        // Old OPT files leave out `model.`; the checkpoint finds them all the same.
        let prefix = if opt { "model.decoder." } else { "model." };
        let loader = Loader { checkpoint, config, backend, prefix, order };
        // Tied models may hold either of the two.
        let embedding = checkpoint.tensor(&format!("{prefix}embed_tokens.weight"));
        let head = checkpoint
            .tensor("lm_head.weight")
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
        let final_norm = if opt { "final_layer_norm" } else { "norm" };
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
            final_norm: if config.final_norm { Some(loader.norm(final_norm)?) } else { None },
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
