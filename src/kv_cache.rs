//! Keys and values of the tokens so far. Under a selection it holds the kept key/value heads only.

use crate::{
    backend::{Backend, Probe},
    error::Result,
    prune::BatchShape,
};

/// Keys and values of one layer: (B, capacity, key/value heads, D) each.
#[derive(Debug)]
pub struct LayerCache<B: Backend> {
    /// Keys, after rotary positions.
    pub keys: B::Activations,
    /// Values.
    pub values: B::Activations,
    /// If a model with more heads runs the prompts: their rows (as `samples`) and, of the heads in each, those held here (as
    /// `slots`).
    pub of_dense: Option<Probe<B>>,
}

/// The cache of a generation: all samples have the same number of slots, left pads included.
#[derive(Debug)]
pub struct KvCache<B: Backend> {
    /// One per decoder layer.
    pub layers: Vec<LayerCache<B>>,
    /// 0 for left pads, 1 elsewhere (B, capacity).
    pub mask: B::Indices,
    /// Slots per sample.
    pub capacity: usize,
    /// Slots filled so far.
    pub len: usize,
}

/// A layer's cache before the running tokens.
#[derive(Debug)]
pub struct Past<'a, B: Backend> {
    /// The layer's keys and values.
    pub cache: &'a mut LayerCache<B>,
    /// 0 for left pads, 1 elsewhere (B, capacity).
    pub mask: &'a B::Indices,
    /// Slots per sample.
    pub capacity: usize,
    /// Slots filled so far.
    pub len: usize,
}

impl<B: Backend> KvCache<B> {
    /// A cache for `samples` × `capacity` slots; `kv_heads[l]` key/value heads are held in layer l.
    ///
    /// # Errors
    /// If the device has no room for it.
    pub fn new(
        backend: &B,
        samples: usize,
        capacity: usize,
        kv_heads: &[usize],
        head_dim: usize,
    ) -> Result<Self> {
        let rows = samples * capacity;
        let layers = kv_heads.iter().map(|heads| {
            Ok(LayerCache {
                keys: backend.activations(rows * heads * head_dim)?,
                values: backend.activations(rows * heads * head_dim)?,
                of_dense: None,
            })
        });
        Ok(Self { layers: layers.collect::<Result<_>>()?, mask: backend.indices(rows)?, capacity, len: 0 })
    }

    /// Lets a model with more heads run prompts of up to `rows` rows: layer l holds its key/value heads `kept[l]`, ascending.
    ///
    /// # Errors
    /// If the device has no room for what it has to know.
    pub fn take_from_dense(&mut self, backend: &B, rows: usize, kept: &[Vec<u32>]) -> Result<()> {
        let indices = |values: &[u32]| -> Result<B::Indices> {
            let mut indices = backend.indices(values.len())?;
            backend.upload_indices(values, &mut indices);
            Ok(indices)
        };
        let all: Vec<u32> = (0..rows as u32).collect();
        for (layer, kept) in self.layers.iter_mut().zip(kept) {
            layer.of_dense = Some(Probe {
                shape: BatchShape { samples: rows, tokens: kept.len() },
                samples: indices(&all)?,
                slots: indices(kept)?,
                positions: backend.indices(0)?,
                mask: backend.indices(0)?,
            });
        }
        Ok(())
    }

    /// The part of layer `index`.
    pub fn past(&mut self, index: usize) -> Past<'_, B> {
        Past { cache: &mut self.layers[index], mask: &self.mask, capacity: self.capacity, len: self.len }
    }
}
