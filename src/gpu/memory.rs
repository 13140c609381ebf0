//! Typed views of device memory, and weights in the kernels' layout.

use std::sync::Arc;

use half::{bf16, f16};
use rayon::prelude::*;

use super::{Driver, Gpu, GpuDtype};
use crate::{
    backend::WeightUse,
    checkpoint::{self, Checkpoint, Tensor},
    config::ModelConfig,
    error::Result,
};

/// Device memory for `len` entries of some size.
#[derive(Debug)]
pub struct Buffer<D: Driver> {
    pub(super) memory: D::Memory,
    pub(super) len: usize,
}

/// Entries of the compute dtype: hidden states, q, k, v, intermediate states.
#[derive(Debug)]
pub struct Activations<D: Driver>(pub(super) Buffer<D>);

/// float32 entries.
#[derive(Debug)]
pub struct Statistics<D: Driver>(pub(super) Buffer<D>);

/// u32 entries.
#[derive(Debug)]
pub struct Indices<D: Driver>(pub(super) Buffer<D>);

impl<D: Driver> Statistics<D> {
    /// Their address on `gpu`'s device.
    pub fn address(&self, gpu: &Gpu<D>) -> u64 {
        gpu.floats(self)
    }
}

impl<D: Driver> Indices<D> {
    /// Their address on `gpu`'s device.
    pub fn address(&self, gpu: &Gpu<D>) -> u64 {
        gpu.words(self)
    }
}

/// A weight (rows, columns) in the compute dtype; stored as (columns, rows) for [`WeightUse::Columns`].
/// Clones share the memory.
#[derive(Debug)]
pub struct Weight<D: Driver> {
    pub(super) buffer: Arc<Buffer<D>>,
    /// In the checkpoint's orientation.
    pub(super) columns: usize,
    pub(super) usage: WeightUse,
}

impl<D: Driver> Clone for Weight<D> {
    fn clone(&self) -> Self {
        Self { buffer: Arc::clone(&self.buffer), ..*self }
    }
}

impl<D: Driver> Gpu<D> {
    pub(super) fn buffer(&self, len: usize, entry_bytes: usize) -> Result<Buffer<D>> {
        Ok(Buffer { memory: self.driver.alloc(len.saturating_mul(entry_bytes))?, len })
    }

    /// The address of a buffer.
    pub(super) fn address(&self, buffer: &Buffer<D>) -> u64 {
        self.driver.address(&buffer.memory)
    }

    /// The address of elements.
    pub(super) fn elements(&self, x: &Activations<D>) -> u64 {
        self.address(&x.0)
    }

    /// The address of optional elements; 0 for `None`.
    pub(super) fn optional_elements(&self, x: Option<&Activations<D>>) -> u64 {
        x.map_or(0, |x| self.elements(x))
    }

    /// The address of floats.
    pub(super) fn floats(&self, x: &Statistics<D>) -> u64 {
        self.address(&x.0)
    }

    /// The address of optional floats; 0 for `None`.
    pub(super) fn optional_floats(&self, x: Option<&Statistics<D>>) -> u64 {
        x.map_or(0, |x| self.floats(x))
    }

    /// The address of indices.
    pub(super) fn words(&self, x: &Indices<D>) -> u64 {
        self.address(&x.0)
    }

    /// The address of optional indices; 0 for `None`.
    pub(super) fn optional_words(&self, x: Option<&Indices<D>>) -> u64 {
        x.map_or(0, |x| self.words(x))
    }

    /// Values rounded to the compute dtype, as bytes.
    pub(super) fn to_elements(&self, values: &[f32]) -> Vec<u8> {
        let bits: Vec<u16> = match self.dtype {
            GpuDtype::Bf16 => values.iter().map(|&x| bf16::from_f32(x).to_bits()).collect(),
            GpuDtype::F16 => values.iter().map(|&x| f16::from_f32(x).to_bits()).collect(),
        };
        bytemuck::cast_slice(&bits).to_vec()
    }

    pub(super) fn values_of(&self, bytes: &[u8]) -> Vec<f32> {
        let words = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        match self.dtype {
            GpuDtype::Bf16 => words.map(|bits| bf16::from_bits(bits).to_f32()).collect(),
            GpuDtype::F16 => words.map(|bits| f16::from_bits(bits).to_f32()).collect(),
        }
    }

    /// Uploads a weight in pieces of whole stored rows: the host needs little memory beside the checkpoint's mapping, and
    /// the device copies one piece while the next is converted.
    pub(super) fn upload_weight(&self, tensor: &Tensor, usage: WeightUse) -> Result<Weight<D>> {
        let &[rows, columns] = tensor.shape() else { unreachable!("weights were checked to be matrices") };
        let buffer = self.buffer(rows * columns, 2)?;
        let address = self.address(&buffer);
        let bytes = tensor.bytes();
        type Stored = checkpoint::Dtype;
        match (tensor.dtype(), self.dtype) {
            (Stored::BF16, GpuDtype::Bf16) | (Stored::F16, GpuDtype::F16) if usage == WeightUse::Rows => {
                if !bytes.is_empty() {
                    self.driver.write(address, bytes)?;
                }
            }
            (Stored::BF16, GpuDtype::Bf16) | (Stored::F16, GpuDtype::F16) => {
                self.upload_as::<u16>(address, bytes, columns, usage, |bits| bits)?;
            }
            (Stored::F32, GpuDtype::Bf16) => {
                self.upload_as(address, bytes, columns, usage, |x| bf16::from_f32(x).to_bits())?;
            }
            (Stored::F32, GpuDtype::F16) => {
                self.upload_as(address, bytes, columns, usage, |x| f16::from_f32(x).to_bits())?;
            }
            (Stored::F16, GpuDtype::Bf16) => {
                self.upload_as(address, bytes, columns, usage, |x: f16| bf16::from_f32(x.into()).to_bits())?;
            }
            (Stored::BF16, GpuDtype::F16) => {
                self.upload_as(address, bytes, columns, usage, |x: bf16| f16::from_f32(x.into()).to_bits())?;
            }
        }
        Ok(Weight { buffer: Arc::new(buffer), columns, usage })
    }

    /// A weight in the checkpoint's orientation.
    pub(super) fn weight_as_tensor(&self, weight: &Weight<D>) -> Result<Tensor> {
        let Weight { buffer, columns, usage } = weight;
        let bytes = self.download(buffer, buffer.len, 2)?;
        let rows = buffer.len.checked_div(*columns).unwrap_or(0);
        let dtype = match self.dtype {
            GpuDtype::Bf16 => checkpoint::Dtype::BF16,
            GpuDtype::F16 => checkpoint::Dtype::F16,
        };
        let shape = vec![rows, *columns];
        if *usage == WeightUse::Rows || bytes.is_empty() {
            return Ok(Tensor::from_bytes(dtype, shape, &bytes));
        }
        let stored: Vec<u16> = bytemuck::pod_collect_to_vec(&bytes);
        let mut values = vec![0u16; stored.len()];
        transpose(&stored, rows, 0, &mut values, &|bits| bits);
        Ok(Tensor::from_bytes(dtype, shape, bytemuck::cast_slice(&values)))
    }

    /// Uploads a matrix of `S`; `convert` gives the bits of an entry in the compute dtype.
    fn upload_as<S: bytemuck::Pod + Sync>(
        &self,
        address: u64,
        bytes: &[u8],
        columns: usize,
        usage: WeightUse,
        convert: impl Fn(S) -> u16 + Sync,
    ) -> Result<()> {
        let values: &[S] = bytemuck::cast_slice(bytes);
        if values.is_empty() {
            return Ok(());
        }
        let rows = values.len() / columns;
        let (stored_rows, stored_columns) = match usage {
            WeightUse::Rows => (rows, columns),
            WeightUse::Columns => (columns, rows),
        };
        let piece = (PIECE / stored_columns).clamp(1, stored_rows);
        let mut stored = vec![0u16; piece * stored_columns];
        for first in (0..stored_rows).step_by(piece) {
            let count = piece.min(stored_rows - first);
            let stored = &mut stored[..count * stored_columns];
            match usage {
                WeightUse::Rows => {
                    let values = &values[first * columns..][..stored.len()];
                    stored.par_chunks_mut(1 << 16).zip(values.par_chunks(1 << 16)).for_each(
                        |(stored, values)| {
                            stored.iter_mut().zip(values).for_each(|(bits, &value)| *bits = convert(value));
                        },
                    );
                }
                WeightUse::Columns => transpose(values, columns, first, stored, &convert),
            }
            let at = address + (first * stored_columns * 2) as u64;
            self.driver.write(at, bytemuck::cast_slice(stored))?;
        }
        Ok(())
    }
}

/// Bytes of a checkpoint's weights on a GPU: two per entry of a matrix, four of a vector. A tied head counts once.
pub fn weights_on_gpu(config: &ModelConfig, checkpoint: &Checkpoint) -> u64 {
    let bytes = |name| {
        let shape = checkpoint.describe(name).map_or(&[][..], |(_, shape)| shape);
        shape.iter().product::<usize>() as u64 * if shape.len() < 2 { 4 } else { 2 }
    };
    // The embedding may be missing instead.
    let both = checkpoint.names().any(|name| name.ends_with("embed_tokens.weight"));
    let tied = |name: &str| config.tie_word_embeddings && both && name == "lm_head.weight";
    // Every layer has the key/value head of each query head beside its tensors.
    let heads = 4 * (config.num_hidden_layers * config.num_attention_heads) as u64;
    heads + checkpoint.names().filter(|name| !tied(name)).map(bytes).sum::<u64>()
}

/// Entries of a weight that are converted at a time.
const PIECE: usize = 1 << 24;

/// Edge of the squares that are transposed one after another: both sides of a square stay in the L1 cache.
const TILE: usize = 64;

/// Columns `first ..` of `values`, converted, as rows of `out`.
fn transpose<S: Copy + Sync>(
    values: &[S],
    columns: usize,
    first: usize,
    out: &mut [u16],
    convert: &(impl Fn(S) -> u16 + Sync),
) {
    let rows = values.len() / columns;
    out.par_chunks_mut(TILE * rows).enumerate().for_each(|(band, out)| {
        let (first, count) = (first + band * TILE, out.len() / rows);
        // Through a square of its own: rows of `out` are often a power of two apart, and would share a cache set.
        let mut tile = [0; TILE * TILE];
        for top in (0..rows).step_by(TILE) {
            let height = TILE.min(rows - top);
            for row in 0..height {
                let values = &values[(top + row) * columns + first..][..count];
                for (column, &value) in values.iter().enumerate() {
                    tile[column * TILE + row] = convert(value);
                }
            }
            for column in 0..count {
                out[column * rows + top..][..height].copy_from_slice(&tile[column * TILE..][..height]);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_is_exact_at_every_edge() {
        for (rows, columns, first, count) in
            [(1, 1, 0, 1), (65, 130, 0, 130), (64, 200, 3, 129), (7, 64, 63, 1)]
        {
            let values: Vec<u32> = (0..rows * columns).map(|i| i as u32).collect();
            let mut out = vec![0; rows * count];
            transpose(&values, columns, first, &mut out, &|x| x as u16);
            for (i, &bits) in out.iter().enumerate() {
                assert_eq!(usize::from(bits), i % rows * columns + first + i / rows, "{rows} × {columns}");
            }
        }
    }
}
