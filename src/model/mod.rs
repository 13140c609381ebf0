//! The arithmetic of LLaMA and OPT decoders, written against [`crate::backend::Backend`] alone.
//!
//! [`block`] is where the method happens: the probe, the choice, and the whole batch on the kept channels.
//! [`timeline`] says where the time goes. [`attention`] and [`mlp`] lead from a block's input to its intermediate states.

pub mod adapt;
pub mod attention;
pub mod block;
pub mod collect;
pub mod compensation;
pub mod context;
pub mod fault;
pub mod fold;
pub mod forward;
pub mod kept;
pub mod mlp;
pub mod prompt;
pub mod scratch;
pub mod selection;
mod tensors;
pub mod timeline;

use std::sync::Arc;

use crate::{
    backend::Backend,
    checkpoint::{Checkpoint, RandomTensors, check_shapes},
    config::{LayerShape, ModelConfig},
    error::{Error, Proceed, Result},
    source::ModelSource,
    weights::Weights,
};

/// A checkpoint on a backend. Immutable: any number of sessions can share it.
#[derive(Debug)]
pub struct Model<B: Backend> {
    /// Its shape and rules.
    pub config: ModelConfig,
    /// Where it lives.
    pub backend: Arc<B>,
    /// Its parameters.
    pub weights: Weights<B>,
    /// Identifies the weights, so that a history of another model is refused.
    pub fingerprint: String,
    /// Per layer, which MLP channel of the checkpoint stands at each place; `None` for the checkpoint's own order.
    pub channel_order: Option<Vec<Vec<u32>>>,
}

impl<B: Backend> Model<B> {
    /// Loads config and weights; `mmap` maps the weight files instead of reading them. `on_layer` is called with the
    /// number of layers loaded so far.
    ///
    /// # Errors
    /// Whatever is wrong with the files, see [`crate::checkpoint`] and [`crate::config`], or what `on_layer` ends with.
    pub fn load<P: Proceed>(
        source: &ModelSource,
        mmap: bool,
        backend: Arc<B>,
        on_layer: impl FnMut(usize) -> P,
    ) -> Result<Self> {
        Self::load_ordered(source, mmap, backend, None, on_layer)
    }

    /// As [`Model::load`], with the MLP channels of each layer in another order, as groups of channels need them
    /// ([`crate::prune::calibration::Calibration::channel_order`]). The model computes the same; its MLP weights are
    /// copied instead of mapped.
    ///
    /// # Errors
    /// As [`Model::load`]; an order that is not one of this model's channels.
    pub fn load_ordered<P: Proceed>(
        source: &ModelSource,
        mmap: bool,
        backend: Arc<B>,
        channel_order: Option<Vec<Vec<u32>>>,
        on_layer: impl FnMut(usize) -> P,
    ) -> Result<Self> {
        let config = ModelConfig::load(source)?;
        Self::of_checkpoint(config, &Checkpoint::open(source, mmap)?, backend, channel_order, on_layer)
    }

    /// As [`Model::load_ordered`], from a checkpoint that is open.
    ///
    /// # Errors
    /// As [`Model::load_ordered`].
    pub fn of_checkpoint<P: Proceed>(
        mut config: ModelConfig,
        checkpoint: &Checkpoint,
        backend: Arc<B>,
        channel_order: Option<Vec<Vec<u32>>>,
        on_layer: impl FnMut(usize) -> P,
    ) -> Result<Self> {
        backend.check_model(&config)?;
        if let Some(order) = &channel_order {
            check_order(order, &config)?;
        }
        let shapes = check_shapes(&mut config, checkpoint)?;
        let narrower = shapes.iter().find(|shape| **shape != LayerShape::of(&config));
        if let Some(shape) = narrower.filter(|_| channel_order.is_some()) {
            return Err(Error::argument(
                "channel order",
                format!("a model with all of its {} channels in every layer", config.intermediate_size),
                format!("a layer with {}", shape.channels),
                "Channels of a model that was pruned for good cannot be sorted.",
            ));
        }
        let order = channel_order.as_deref();
        let weights = Weights::load(checkpoint, &config, &backend, order, Some(&shapes), on_layer)?;
        Ok(Self { fingerprint: checkpoint.fingerprint(), config, backend, weights, channel_order })
    }

    /// A model of `config` with random weights: its output is meaningless, but it takes the time of a real one.
    /// `channel_order` is as for [`Model::load_ordered`]; `on_layer` is called with the number of layers made so far.
    ///
    /// # Errors
    /// A device without room for it, or without operations for it; an order that is not one of its channels; or
    /// what `on_layer` ends with.
    pub fn random<P: Proceed>(
        config: ModelConfig,
        tensors: &RandomTensors,
        backend: Arc<B>,
        channel_order: Option<Vec<Vec<u32>>>,
        on_layer: impl FnMut(usize) -> P,
    ) -> Result<Self> {
        backend.check_model(&config)?;
        if let Some(order) = &channel_order {
            check_order(order, &config)?;
        }
        let (order, shapes) = (channel_order.as_deref(), config.layer_shapes.as_deref());
        let weights = Weights::load(tensors, &config, &backend, order, shapes, on_layer)?;
        Ok(Self { fingerprint: tensors.fingerprint(), config, backend, weights, channel_order })
    }
}

impl<B: Backend> Model<B> {
    /// Whether every layer has all heads and channels of the config; not so in a model that was pruned for good.
    pub fn is_whole(&self) -> bool {
        let whole = LayerShape::of(&self.config);
        self.weights.layers.iter().all(|layer| layer.shape == whole)
    }
}

/// Every layer's order has to hold each channel once.
fn check_order(order: &[Vec<u32>], config: &ModelConfig) -> Result<()> {
    let is_permutation = |order: &Vec<u32>| {
        let mut seen = vec![false; config.intermediate_size];
        order
            .iter()
            .for_each(|&channel| seen.get_mut(channel as usize).into_iter().for_each(|seen| *seen = true));
        order.len() == seen.len() && seen.into_iter().all(|seen| seen)
    };
    if order.len() == config.num_hidden_layers && order.iter().all(is_permutation) {
        return Ok(());
    }
    Err(Error::argument(
        "channel order",
        format!("each of {} channels once in {} layers", config.intermediate_size, config.num_hidden_layers),
        format!("{} layers, or a channel twice", order.len()),
        "Take it from a calibration of this model.",
    ))
}
