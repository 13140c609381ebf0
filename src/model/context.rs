//! The context that the blocks of a forward share, and that of the running block.

use super::{Model, scratch::Batch};
use crate::{
    backend::{Backend, Linear, Norm},
    prune::{Block, settings::Settings},
    weights::Layer,
};

/// How a forward treats selections and history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Choose kept sets by the probe.
    Batch {
        /// Keep the energies for [`super::block::update_history`]; off for a warm-up batch.
        update_history: bool,
    },
    /// Keep the choice; gather the energies of the MLP's channels in row `recent` for re-probing.
    Decode {
        /// Tokens since the last choice; `None` without re-probing.
        recent: Option<usize>,
    },
    /// A prompt that the dense model runs, for decoding with the folded one (docs/method.md, section 13).
    Prompt {
        /// Correct the fold by the prompt's probe.
        corrects: bool,
    },
}

/// Shared by all blocks of a forward.
#[derive(Debug)]
pub struct Context<'a, B: Backend> {
    /// The model.
    pub model: &'a Model<B>,
    /// The method's settings.
    pub settings: &'a Settings,
    /// The batch.
    pub batch: &'a Batch<B>,
    /// How selections and history are treated.
    pub mode: Mode,
    /// The model that `model` was folded from, if it runs the batch's probe or all of a prompt.
    pub dense: Option<&'a Model<B>>,
}

impl<'a, B: Backend> Context<'a, B> {
    /// One of the blocks of layer `index`.
    pub fn block(&'a self, index: usize, block: Block) -> BlockContext<'a, B> {
        BlockContext { forward: self, model: self.model, index, block }
    }
}

/// A block of a layer in a forward.
#[derive(Debug)]
pub struct BlockContext<'a, B: Backend> {
    /// The forward.
    pub forward: &'a Context<'a, B>,
    /// The model whose block this is.
    pub model: &'a Model<B>,
    /// The layer.
    pub index: usize,
    /// Which of its blocks.
    pub block: Block,
}

impl<B: Backend> Clone for BlockContext<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Backend> Copy for BlockContext<'_, B> {}

impl<'a, B: Backend> BlockContext<'a, B> {
    /// The same block of the dense model, if the batch or its probe runs it.
    pub fn of_dense(self) -> Option<Self> {
        self.forward.dense.map(|model| Self { model, ..self })
    }

    /// The device.
    pub fn backend(&self) -> &'a B {
        &self.forward.model.backend
    }

    /// The layer's parameters.
    pub fn layer(&self) -> &'a Layer<B> {
        &self.model.weights.layers[self.index]
    }

    /// The norm, where it comes before the block; OPT-350m's comes after.
    pub fn norm_first(&self) -> Option<&'a Norm<B>> {
        self.forward.model.config.norm_first.then_some(self.layer().norm(self.block))
    }

    /// The norm, where it comes after the block.
    pub fn norm_last(&self) -> Option<&'a Norm<B>> {
        (!self.forward.model.config.norm_first).then_some(self.layer().norm(self.block))
    }

    /// `o_proj` or `down_proj`.
    pub fn last(&self) -> &'a Linear<B> {
        self.layer().last(self.block)
    }

    /// C.
    pub fn channels(&self) -> usize {
        self.last().in_features
    }
}
