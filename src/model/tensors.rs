//! A model's tensors under their names in a checkpoint.

use super::Model;
use crate::{
    backend::{Backend, Linear, Norm},
    checkpoint::{Tensor, Tensors},
    error::{Error, Result},
    weights::{Layer, LayerNames, MlpFirst, final_norm, prefix},
};

/// A tensor on the device.
enum Parameter<'a, B: Backend> {
    Matrix(&'a B::Weight),
    /// With its length.
    Vector(&'a B::Statistics, usize),
}

/// Parameters by name.
struct Named<'a, B: Backend>(Vec<(String, Parameter<'a, B>)>);

impl<'a, B: Backend> Named<'a, B> {
    fn linear(&mut self, name: &str, linear: &'a Linear<B>) {
        self.0.push((format!("{name}.weight"), Parameter::Matrix(&linear.weight)));
        if let Some(bias) = &linear.bias {
            self.0.push((format!("{name}.bias"), Parameter::Vector(bias, linear.out_features)));
        }
    }

    fn norm(&mut self, name: &str, norm: &'a Norm<B>, hidden_size: usize) {
        for (part, values) in [("weight", &norm.weight), ("bias", &norm.bias)] {
            if let Some(values) = values {
                self.0.push((format!("{name}.{part}"), Parameter::Vector(values, hidden_size)));
            }
        }
    }

    fn layer(&mut self, prefix: &str, names: LayerNames, layer: &'a Layer<B>, hidden_size: usize) {
        let Layer { attention, mlp, .. } = layer;
        self.norm(&format!("{prefix}{}", names.attention_norm), &attention.norm, hidden_size);
        for (name, linear) in [
            ("self_attn.q_proj", &attention.q_proj),
            ("self_attn.k_proj", &attention.k_proj),
            ("self_attn.v_proj", &attention.v_proj),
            (names.o_proj, &attention.o_proj),
            (names.down_proj, &mlp.down_proj),
        ] {
            self.linear(&format!("{prefix}{name}"), linear);
        }
        self.norm(&format!("{prefix}{}", names.mlp_norm), &mlp.norm, hidden_size);
        let first = match &mlp.first {
            MlpFirst::Gated { gate_proj, up_proj } => vec![gate_proj, up_proj],
            MlpFirst::Plain(fc1) => vec![fc1],
        };
        for (name, linear) in names.mlp_first.iter().zip(first) {
            self.linear(&format!("{prefix}{name}"), linear);
        }
    }
}

impl<B: Backend> Model<B> {
    fn named(&self) -> Vec<(String, Parameter<'_, B>)> {
        let (config, weights) = (&self.config, &self.weights);
        let (family, h) = (config.family, config.hidden_size);
        let prefix = prefix(family);
        let mut named = Named(Vec::new());
        named.0.push((format!("{prefix}embed_tokens.weight"), Parameter::Matrix(&weights.embed_tokens)));
        if let Some(positions) = &weights.embed_positions {
            named.0.push((format!("{prefix}embed_positions.weight"), Parameter::Matrix(positions)));
        }
        for (name, projection) in [("project_in", &weights.project_in), ("project_out", &weights.project_out)]
        {
            if let Some(projection) = projection {
                named.linear(&format!("{prefix}{name}"), projection);
            }
        }
        for (index, layer) in weights.layers.iter().enumerate() {
            named.layer(&format!("{prefix}layers.{index}."), LayerNames::of(family), layer, h);
        }
        if let Some(norm) = &weights.final_norm {
            named.norm(&format!("{prefix}{}", final_norm(family)), norm, h);
        }
        if !config.tie_word_embeddings {
            named.linear("lm_head", &weights.lm_head);
        }
        named.0
    }

    /// The names of its tensors, as in a checkpoint.
    pub fn tensor_names(&self) -> Vec<String> {
        self.named().into_iter().map(|(name, _)| name).collect()
    }
}

impl<B: Backend> Tensors for Model<B> {
    fn tensor(&self, name: &str) -> Result<Option<Tensor>> {
        let found = self.named().into_iter().find(|(known, _)| known == name);
        let Some((_, parameter)) = found else { return Ok(None) };
        Ok(Some(match parameter {
            Parameter::Matrix(weight) => self.backend.download_weight(weight)?,
            Parameter::Vector(values, len) => {
                Tensor::from_f32(vec![len], self.backend.download_statistics(values, len)?)
            }
        }))
    }

    fn require(&self, name: &str) -> Result<Tensor> {
        self.tensor(name)?.ok_or_else(|| {
            let help = "`Model::tensor_names` lists them.";
            Error::argument(format!("tensor {name:?}"), "a tensor of this model", "none of this name", help)
        })
    }
}
