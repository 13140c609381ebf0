//! Keys and values of the tokens so far. Under a selection it holds the kept key/value heads only.

use crate::{backend::Backend, error::Result};

/// Keys and values of one layer: (B, capacity, key/value heads, D) each.
#[derive(Debug)]
pub struct LayerCache<B: Backend> {
    /// Keys, after rotary positions.
    pub keys: B::Activations,
    /// Values.
    pub values: B::Activations,
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
            })
        });
        Ok(Self { layers: layers.collect::<Result<_>>()?, mask: backend.indices(rows)?, capacity, len: 0 })
    }

    /// The part of layer `index`.
    pub fn past(&mut self, index: usize) -> Past<'_, B> {
        Past { cache: &mut self.layers[index], mask: &self.mask, capacity: self.capacity, len: self.len }
    }
}
