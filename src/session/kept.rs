//! What a session keeps now: reading it, the scores that it was chosen by, and pinning it.

use super::{Session, selections};
use crate::{
    backend::Backend,
    error::Result,
    model::{Block, forward::Selections},
};

impl<B: Backend> Session<B> {
    /// Heads that layer `layer` keeps now; `None` if it is dense.
    ///
    /// # Errors
    /// A device that failed.
    pub fn kept_heads(&self, layer: usize) -> Result<Option<Vec<u32>>> {
        self.kept(layer, Block::Attention)
    }

    /// Channels that layer `layer` keeps now; `None` if it is dense.
    ///
    /// # Errors
    /// A device that failed.
    pub fn kept_channels(&self, layer: usize) -> Result<Option<Vec<u32>>> {
        self.kept(layer, Block::Mlp)
    }

    /// What the latest batch ran on.
    fn selections(&self) -> &Selections<B> {
        self.dense.as_ref().filter(|_| self.fell_back).unwrap_or(&self.selections)
    }

    /// Heads, or channels as the checkpoint numbers them, ascending.
    fn kept(&self, layer: usize, block: Block) -> Result<Option<Vec<u32>>> {
        let Some(kept) = self.selections()[layer][block as usize].kept() else {
            return Ok(None);
        };
        let mut units = self.model.backend.download_indices(&kept.set.indices, kept.set.len)?;
        if block == Block::Mlp {
            let width = kept.width as u32;
            units = units.into_iter().flat_map(|unit| unit * width..(unit + 1) * width).collect();
            if let Some(order) = &self.model.channel_order {
                units.iter_mut().for_each(|channel| *channel = order[layer][*channel as usize]);
                units.sort_unstable();
            }
        }
        Ok(Some(units))
    }

    /// The scores that `block` of layer `layer` was chosen by last: of its heads (N) or its channels or groups of
    /// channels (I / group), under `random` their ranks. `None` if the block is dense, in the latest batch at least, or pinned.
    ///
    /// # Errors
    /// A device that failed.
    pub fn scores(&self, layer: usize, block: Block) -> Result<Option<Vec<f32>>> {
        let scored = self.selections()[layer][block as usize].kept().filter(|_| !self.pinned);
        let scores = &self.scratch.scores[layer][block as usize];
        scored.map(|kept| self.model.backend.download_statistics(scores, kept.set.of)).transpose()
    }

    /// Keeps the given heads and channels from now on instead of choosing them: `kept[l]` holds layer l's heads and its
    /// channels, ascending, as many as [`Session::layer_counts`] says; `None` for a dense block. Another session's
    /// choice can be repeated so, on another device for instance. Without a choice there is no history to update.
    ///
    /// # Errors
    /// Another number of layers, heads or channels, or indices that are not ascending or not there.
    pub fn pin(&mut self, kept: &[[Option<Vec<u32>>; 2]]) -> Result<()> {
        // What a generation has cached are the heads that were kept before.
        (self.steps, self.predicted) = (None, None);
        selections::pin(&self.model, kept, &mut self.selections)?;
        self.pinned = true;
        Ok(())
    }
}
