//! How each block decides which heads or channels it keeps.

use crate::{
    backend::{Backend, History, Linear},
    model::{adapt::Adapted, compensation::Compensation, kept::Kept},
};

/// How one block chooses its kept heads or channels.
#[derive(Debug)]
pub enum Selection<B: Backend> {
    /// Everything.
    Dense,
    /// The same for every batch.
    Fixed {
        /// The kept heads or channels.
        kept: Kept<B>,
        /// FLAP's compensation added to the projection's own bias (H).
        bias: Option<B::Statistics>,
    },
    /// The same for every batch, with a last projection (H, kept channels) that stands for the others too.
    Folded {
        /// The kept heads or channels.
        kept: Kept<B>,
        /// Refitted, with its bias.
        last: Linear<B>,
    },
    /// Chosen by a probe.
    Probed(Probed<B>),
    /// All of a folded block, whose last projection a probe corrects.
    Adapted(Box<Adapted<B>>),
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
    /// Compensation of the pruned channels.
    pub compensation: Option<Compensation<B>>,
    /// The choice was pinned by the caller and stays.
    pub pinned: bool,
}

/// Energies gathered for re-probing since the last choice (docs/method.md, section 9).
#[derive(Debug)]
pub struct Recent<B: Backend> {
    /// (n, C) in float32; 0 where a channel was not computed.
    pub energy: History<B>,
    /// The slot of each token (n).
    pub slots: B::Indices,
}

impl<B: Backend> Selection<B> {
    /// The kept set; `None` for a dense block.
    pub fn kept(&self) -> Option<&Kept<B>> {
        match self {
            Self::Dense | Self::Adapted(_) => None,
            Self::Fixed { kept, .. } | Self::Folded { kept, .. } => Some(kept),
            Self::Probed(probed) => Some(&probed.kept),
        }
    }
}
