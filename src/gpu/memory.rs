//! Typed views of device memory, and weights as the kernels want them.

use half::{bf16, f16};

use super::{Driver, Gpu, GpuDtype};
use crate::{
    backend::WeightUse,
    checkpoint::{self, Tensor},
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

/// A weight (rows, columns) in the compute dtype; stored as (columns, rows) for [`WeightUse::Columns`].
#[derive(Debug)]
pub struct Weight<D: Driver> {
    pub(super) buffer: Buffer<D>,
    /// As the checkpoint has it.
    pub(super) rows: usize,
    /// As the checkpoint has it.
    pub(super) columns: usize,
    pub(super) usage: WeightUse,
}

impl<D: Driver> Gpu<D> {
    pub(super) fn buffer(&self, len: usize, entry_bytes: usize) -> Result<Buffer<D>> {
        Ok(Buffer { memory: self.driver.alloc(len * entry_bytes)?, len })
    }

    /// The address of a buffer.
    pub(super) fn address(&self, buffer: &Buffer<D>) -> u64 {
        self.driver.address(&buffer.memory)
    }

    /// The address of elements.
    pub(super) fn elements(&self, x: &Activations<D>) -> u64 {
        self.address(&x.0)
    }

    /// The address of floats.
    pub(super) fn floats(&self, x: &Statistics<D>) -> u64 {
        self.address(&x.0)
    }

    /// The address of floats that may be missing; 0 if they are.
    pub(super) fn optional_floats(&self, x: Option<&Statistics<D>>) -> u64 {
        x.map_or(0, |x| self.floats(x))
    }

    /// The address of indices.
    pub(super) fn words(&self, x: &Indices<D>) -> u64 {
        self.address(&x.0)
    }

    /// The address of indices that may be missing; 0 if they are.
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

    pub(super) fn from_elements(&self, bytes: &[u8]) -> Vec<f32> {
        let words = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        match self.dtype {
            GpuDtype::Bf16 => words.map(|bits| bf16::from_bits(bits).to_f32()).collect(),
            GpuDtype::F16 => words.map(|bits| f16::from_bits(bits).to_f32()).collect(),
        }
    }

    /// Uploads a weight in pieces of whole rows of what is stored, so that the host needs little memory beside the
    /// checkpoint's mapping.
    pub(super) fn upload_weight(&self, tensor: &Tensor, usage: WeightUse) -> Result<Weight<D>> {
        const PIECE: usize = 1 << 22;
        let &[rows, columns] = tensor.shape() else { unreachable!("weights were checked to be matrices") };
        let buffer = self.buffer(rows * columns, 2)?;
        let address = self.address(&buffer);
        let (stored_rows, stored_columns) = match usage {
            WeightUse::Rows => (rows, columns),
            WeightUse::Columns => (columns, rows),
        };
        let piece = (PIECE / stored_columns.max(1)).max(1);
        for first in (0..stored_rows).step_by(piece) {
            let last = (first + piece).min(stored_rows);
            let at = address + (first * stored_columns * 2) as u64;
            self.driver.write(at, &self.stored_rows(tensor, usage, first..last))?;
        }
        Ok(Weight { buffer, rows, columns, usage })
    }

    /// Rows of a weight as they are stored.
    fn stored_rows(&self, tensor: &Tensor, usage: WeightUse, range: std::ops::Range<usize>) -> Vec<u8> {
        let &[rows, columns] = tensor.shape() else { unreachable!("weights were checked to be matrices") };
        let bytes = tensor.bytes();
        let size = bytes.len() / (rows * columns).max(1);
        let same = matches!(
            (tensor.dtype(), self.dtype),
            (checkpoint::Dtype::BF16, GpuDtype::Bf16) | (checkpoint::Dtype::F16, GpuDtype::F16)
        );
        let element = |at: usize| -> u16 {
            let bytes = &bytes[at * size..(at + 1) * size];
            if same {
                return u16::from_le_bytes([bytes[0], bytes[1]]);
            }
            let value = match tensor.dtype() {
                checkpoint::Dtype::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
                checkpoint::Dtype::BF16 => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
                checkpoint::Dtype::F16 => f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            };
            match self.dtype {
                GpuDtype::Bf16 => bf16::from_f32(value).to_bits(),
                GpuDtype::F16 => f16::from_f32(value).to_bits(),
            }
        };
        let bits: Vec<u16> = match usage {
            WeightUse::Rows if same => {
                return bytes[range.start * columns * 2..range.end * columns * 2].to_vec();
            }
            WeightUse::Rows => (range.start * columns..range.end * columns).map(element).collect(),
            WeightUse::Columns => {
                let mut bits = vec![0; range.len() * rows];
                for row in 0..rows {
                    for (i, column) in range.clone().enumerate() {
                        bits[i * rows + row] = element(row * columns + column);
                    }
                }
                bits
            }
        };
        bytemuck::cast_slice(&bits).to_vec()
    }
}
