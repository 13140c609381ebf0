//! What a block keeps, and how that is decided.

use crate::{
    backend::{Backend, History, KeptBlocks, KeptSet},
    config::ModelConfig,
    error::Result,
    model::{Block, compensation::Compensation},
};

/// The kept units of a block: heads, channels or groups of channels.
#[derive(Debug)]
pub struct Kept<B: Backend> {
    /// Heads, channels or groups of channels.
    pub set: KeptSet<B::Indices>,
    /// Channels of each: D for heads.
    pub width: usize,
    /// Attention only.
    pub kv: Option<KeptKv<B>>,
}

/// The key/value heads that kept query heads use.
#[derive(Debug)]
pub struct KeptKv<B: Backend> {
    /// At most `len` of them; see [`Backend::keep_kv_heads`].
    pub set: KeptSet<B::Indices>,
    /// Per kept query head, the slot of its key/value head.
    pub slots: B::Indices,
}

impl<B: Backend> Kept<B> {
    /// Room for `len` units of `block`, each `width` channels.
    ///
    /// # Errors
    /// If the device has none.
    pub fn new(backend: &B, config: &ModelConfig, block: Block, width: usize, len: usize) -> Result<Self> {
        let set = |len: usize, of: usize| Ok(KeptSet { indices: backend.indices(of)?, len, of });
        let kv = match block {
            Block::Attention => Some(KeptKv {
                set: set(len.min(config.num_key_value_heads), config.num_key_value_heads)?,
                slots: backend.indices(config.num_attention_heads)?,
            }),
            Block::Mlp => None,
        };
        Ok(Self { set: set(len, block.channels(config) / width)?, width, kv })
    }

    /// The kept set as blocks of channels.
    pub fn blocks(&self) -> KeptBlocks<'_, B::Indices> {
        KeptBlocks { set: &self.set, width: self.width }
    }

    /// After `set` changed: the key/value heads that go with it.
    pub fn follow_kv_heads(&mut self, backend: &B, config: &ModelConfig) {
        if let Some(kv) = &mut self.kv {
            let group = config.num_attention_heads / config.num_key_value_heads;
            backend.keep_kv_heads(&self.set, group, &mut kv.set, &mut kv.slots);
        }
    }
}

/// How one block decides what it keeps.
#[derive(Debug)]
pub enum Selection<B: Backend> {
    /// Everything.
    Dense,
    /// The same for every batch.
    Fixed {
        /// What is kept.
        kept: Kept<B>,
        /// FLAP's compensation added to the projection's own bias (H).
        bias: Option<B::Statistics>,
    },
    /// Chosen by a probe.
    Probed(Probed<B>),
}

/// State of a block that is chosen by a probe.
#[derive(Debug)]
pub struct Probed<B: Backend> {
    /// The latest choice.
    pub kept: Kept<B>,
    /// Static column statistic of the block's last projection (C).
    pub statistic: B::Statistics,
    /// h; `None` for `full-batch`.
    pub history: Option<History<B>>,
    /// Energies (S, kept channels) of the batch that ran last, until [`super::block::update_history`] takes them; `None`
    /// where history stays as it is.
    pub pending: Option<B::Statistics>,
    /// Energies of the last generated tokens (n, C) and their slots, for re-probing.
    pub recent: Option<Recent<B>>,
    /// What stands in for what is pruned.
    pub compensation: Option<Compensation<B>>,
    /// The choice was made elsewhere and stays ([`crate::session::Session::pin`]).
    pub pinned: bool,
}

/// What re-probing has gathered since the last choice (spec section 9).
#[derive(Debug)]
pub struct Recent<B: Backend> {
    /// (n, C) in float32; 0 where a channel was not computed.
    pub energy: History<B>,
    /// The slot of each token (n).
    pub slots: B::Indices,
}

impl<B: Backend> Selection<B> {
    /// What is kept, if not everything.
    pub fn kept(&self) -> Option<&Kept<B>> {
        match self {
            Self::Dense => None,
            Self::Fixed { kept, .. } => Some(kept),
            Self::Probed(probed) => Some(&probed.kept),
        }
    }
}
