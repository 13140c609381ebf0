//! A session's kept heads and channels: reading them, the scores they were chosen by, and pinning them.

use super::Session;
use crate::{
    backend::Backend,
    error::{Error, Result},
    model::{Model, forward::Selections, kept::Kept, selection::Selection},
    prune::Block,
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

    /// The selections of the latest batch.
    fn selections(&self) -> &Selections<B> {
        self.fallback.selections.as_ref().filter(|_| self.fallback.active).unwrap_or(&self.selections)
    }

    /// Heads, or channels as the checkpoint numbers them, ascending.
    fn kept(&self, layer: usize, block: Block) -> Result<Option<Vec<u32>>> {
        if let Some(fold) = &self.fold {
            return Ok(fold.kept[layer][block as usize].clone());
        }
        let Some(kept) = self.selections()[layer][block as usize].kept() else {
            return Ok(None);
        };
        let mut units = self.model.backend.download_indices(&kept.set.indices, kept.set.len)?;
        if block == Block::Mlp {
            let width = kept.set.block_width as u32;
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
    /// channels, ascending, in the numbers of [`Session::layer_counts`]; `None` for a dense block. This repeats another
    /// session's choice, on another device for instance. Without a choice there is no history to update.
    ///
    /// # Errors
    /// Another number of layers, heads or channels, or indices that are not ascending or not there; a folded model.
    pub fn pin(&mut self, kept: &[[Option<Vec<u32>>; 2]]) -> Result<()> {
        if self.fold.is_some() {
            let help = "It keeps what it was folded to.";
            return Err(Error::argument("kept", "a model that is not folded", "a folded one", help));
        }
        // A generation has cached the heads that were kept before.
        (self.steps, self.next.predicted) = (None, None);
        pin(&self.model, kept, &mut self.selections)?;
        self.pinned = true;
        Ok(())
    }
}

/// See [`Session::pin`].
fn pin<B: Backend>(
    model: &Model<B>,
    kept: &[[Option<Vec<u32>>; 2]],
    selections: &mut Selections<B>,
) -> Result<()> {
    let (backend, config) = (&*model.backend, &model.config);
    let help = "Take them from a session with the same model and settings.";
    if kept.len() != selections.len() {
        let expected = format!("{} layers", selections.len());
        return Err(Error::argument("kept", expected, format!("{} layers", kept.len()), help));
    }
    for (layer, (pair, selections)) in kept.iter().zip(&mut *selections).enumerate() {
        for ((block, indices), selection) in Block::ALL.into_iter().zip(pair).zip(selections) {
            let (len, of) = selection.kept().map_or((0, 0), |kept| (kept.set.len, kept.set.of));
            let name = || format!("kept of layer {layer}, {}", block.name());
            let Some(indices) = indices.as_ref().filter(|_| len > 0) else {
                if indices.is_some() || len > 0 {
                    let what = |some: bool| if some { "a kept set" } else { "nothing: the block is dense" };
                    return Err(Error::argument(name(), what(len > 0), what(indices.is_some()), help));
                }
                continue;
            };
            let width = selection.kept().map_or(1, |kept| kept.set.block_width);
            let group = if block == Block::Mlp { width } else { 1 };
            let units = match block {
                Block::Attention => Some(indices.clone()),
                Block::Mlp => {
                    units(indices, model.channel_order.as_ref().map(|order| &order[layer][..]), width)
                }
            };
            let ascending = |units: &Vec<u32>| units.windows(2).all(|pair| pair[0] < pair[1]);
            let fits = |units: &Vec<u32>| {
                units.len() == len && units.last().is_some_and(|&last| (last as usize) < of)
            };
            let Some(units) = units.filter(|units| ascending(units) && fits(units)) else {
                let expected = format!("{} ascending indices below {}", len * group, of * group);
                let expected =
                    if group > 1 { format!("{expected}, in whole groups of {group}") } else { expected };
                return Err(Error::argument(name(), expected, format!("{} indices", indices.len()), help));
            };
            let mut kept = Kept::new(backend, config, block, width, len)?;
            backend.upload_indices(&units, &mut kept.set.indices);
            kept.follow_kv_heads(backend, config);
            match selection {
                // Its compensation still needs the mean over the probe.
                Selection::Probed(probed) if probed.compensation.is_some() => {
                    (probed.kept, probed.pinned, probed.pending) = (kept, true, None);
                }
                _ => *selection = Selection::Fixed { kept, bias: None },
            }
        }
    }
    Ok(())
}

/// Groups of `width` channels from the channels that are in them, as the checkpoint numbers these; `None` if some are
/// not whole.
fn units(channels: &[u32], order: Option<&[u32]>, width: usize) -> Option<Vec<u32>> {
    let mut places = channels.to_vec();
    if let Some(order) = order {
        let mut place_of = vec![0; order.len()];
        order.iter().zip(0..).for_each(|(&channel, place)| place_of[channel as usize] = place);
        places =
            channels.iter().map(|&channel| place_of.get(channel as usize).copied()).collect::<Option<_>>()?;
        places.sort_unstable();
    }
    let is_group = |group: &[u32]| {
        (group[0] as usize).is_multiple_of(width) && group.iter().zip(group[0]..).all(|(a, b)| *a == b)
    };
    let mut groups = places.chunks_exact(width);
    groups.by_ref().all(is_group).then_some(())?;
    places
        .len()
        .is_multiple_of(width)
        .then(|| places.iter().step_by(width).map(|place| place / width as u32).collect())
}
