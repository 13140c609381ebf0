//! The heads or channels that a block keeps.

use crate::{
    backend::{Backend, KeepKvHeadsOperands, KeptSet},
    config::ModelConfig,
    error::Result,
    prune::Block,
};

/// A block's kept set, and for attention the key/value heads that go with it.
#[derive(Debug)]
pub struct Kept<B: Backend> {
    /// Heads, channels or groups of channels.
    pub set: KeptSet<B::Indices>,
    /// Attention only: at most `len` key/value heads; see [`Backend::keep_kv_heads`].
    pub kv_heads: Option<KeptSet<B::Indices>>,
    /// Per kept query head, the place of its key/value head in `kv_heads`; empty for the MLP.
    pub kv_head_of: B::Indices,
}

impl<B: Backend> Kept<B> {
    /// Room for `len` blocks of `block_width` channels.
    ///
    /// # Errors
    /// If the device has none.
    pub fn new(
        backend: &B,
        config: &ModelConfig,
        block: Block,
        block_width: usize,
        len: usize,
    ) -> Result<Self> {
        let set = |len: usize, of: usize, block_width: usize| {
            Ok(KeptSet { indices: backend.indices(of)?, len, of, block_width })
        };
        let (kv_heads, query_heads) = match block {
            Block::Attention => {
                let all = config.num_key_value_heads;
                (Some(set(len.min(all), all, config.head_dim)?), config.num_attention_heads)
            }
            Block::Mlp => (None, 0),
        };
        Ok(Self {
            set: set(len, block.channels(config) / block_width, block_width)?,
            kv_heads,
            kv_head_of: backend.indices(query_heads)?,
        })
    }

    /// After `set` changed: the key/value heads that go with it.
    pub fn follow_kv_heads(&mut self, backend: &B, config: &ModelConfig) {
        if let Some(kv_heads) = &mut self.kv_heads {
            backend.keep_kv_heads(KeepKvHeadsOperands {
                heads: &self.set,
                gqa_group: config.gqa_group(),
                kv_heads,
                kv_head_of: &mut self.kv_head_of,
            });
        }
    }
}
