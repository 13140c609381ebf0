//! The arithmetic of LLaMA and OPT decoders, written against [`crate::backend::Backend`] alone.
//!
//! [`block`] is where the method happens: probe, energies, scores, and the whole batch on what was kept.
//! [`attention`] and [`mlp`] lead from a block's input to its intermediate states.

pub mod attention;
pub mod block;
pub mod forward;
pub mod mlp;
pub mod scratch;
pub mod selection;

use std::sync::Arc;

use crate::{
    backend::Backend,
    checkpoint::{Checkpoint, check_shapes},
    config::ModelConfig,
    error::{Proceed, Result},
    source::ModelSource,
    weights::Weights,
};

/// The two kinds of block in a decoder layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Block {
    /// Self-attention; its units of pruning are heads.
    Attention,
    /// Feed-forward; its units of pruning are channels.
    Mlp,
}

impl Block {
    /// Both, in the order they run.
    pub const ALL: [Self; 2] = [Self::Attention, Self::Mlp];

    /// "attention" or "mlp".
    pub fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::Mlp => "mlp",
        }
    }

    /// C: N·D or I.
    pub fn channels(self, config: &ModelConfig) -> usize {
        match self {
            Self::Attention => config.num_attention_heads * config.head_dim,
            Self::Mlp => config.intermediate_size,
        }
    }

    /// Channels per unit of pruning: D or 1.
    pub fn unit(self, config: &ModelConfig) -> usize {
        match self {
            Self::Attention => config.head_dim,
            Self::Mlp => 1,
        }
    }
}

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
        let config = ModelConfig::load(source)?;
        backend.check_model(&config)?;
        let checkpoint = Checkpoint::open(source, mmap)?;
        check_shapes(&config, &checkpoint)?;
        let weights = Weights::load(&checkpoint, &config, &backend, on_layer)?;
        Ok(Self { fingerprint: checkpoint.fingerprint(), config, backend, weights })
    }
}
