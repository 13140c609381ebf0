//! A tensor's bytes, shared with the file they came from.

use std::{ops::Range, sync::Arc};

use half::{bf16, f16, slice::HalfFloatSliceExt};
use memmap2::Mmap;

#[cfg(target_endian = "big")]
compile_error!("safetensors data is little-endian and is used in place");

/// Types of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// IEEE 16-bit float.
    F16,
    /// bfloat16.
    BF16,
}

impl Dtype {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// Name as in a safetensors header.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
        }
    }

    /// `None` for what cannot run: integers, F64, 8-bit floats.
    pub(super) const fn from_file(dtype: safetensors::Dtype) -> Option<Self> {
        match dtype {
            safetensors::Dtype::F32 => Some(Self::F32),
            safetensors::Dtype::F16 => Some(Self::F16),
            safetensors::Dtype::BF16 => Some(Self::BF16),
            _ => None,
        }
    }
}

/// Where a file's bytes are.
#[derive(Debug)]
pub(super) enum Storage {
    Mapped(Mmap),
    /// In words, so that the bytes are aligned for every element type; the length is in bytes.
    Owned(Vec<u64>, usize),
    Static(&'static [u8]),
    /// Of another owner, who keeps it alive: see [`Tensor::borrow`].
    Borrowed(*const u8, usize),
}

// SAFETY: the bytes are only read, and the lender promised `Tensor::borrow` that nothing writes them meanwhile.
unsafe impl Send for Storage {}
// SAFETY: as for `Send`.
unsafe impl Sync for Storage {}

impl Storage {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(words, length) => &bytemuck::cast_slice(words)[..*length],
            Self::Static(bytes) => bytes,
            // SAFETY: the lender promised `Tensor::borrow` that these bytes stay readable and unchanged.
            Self::Borrowed(start, length) => unsafe { std::slice::from_raw_parts(*start, *length) },
        }
    }

    /// All of a file. Linux is asked for large pages, which it makes where it has to read the file first: weights in small ones that
    /// lie here and there in memory take several times as long to read.
    ///
    /// # Errors
    /// If it cannot be mapped.
    ///
    /// # Safety
    /// Nothing writes to the file or shortens it while it is mapped.
    pub(super) unsafe fn map(file: &std::fs::File) -> std::io::Result<Self> {
        // SAFETY: the caller's promise.
        let map = unsafe { Mmap::map(file) }?;
        // Only a hint: without large pages the kernel refuses it.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self::Mapped(map))
    }

    /// A copy of `bytes` that is aligned for every element type.
    pub(super) fn copy_of(bytes: &[u8]) -> Self {
        let mut words = vec![0u64; bytes.len().div_ceil(8)];
        bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Self::Owned(words, bytes.len())
    }
}

/// A dense row-major tensor. Cloning shares the bytes.
#[derive(Clone, Debug)]
pub struct Tensor {
    storage: Arc<Storage>,
    range: Range<usize>,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl Tensor {
    /// `range` of `storage` holds exactly `shape`'s elements. Bytes that are not aligned for `dtype` are copied.
    pub(super) fn new(storage: &Arc<Storage>, range: Range<usize>, dtype: Dtype, shape: Vec<usize>) -> Self {
        debug_assert_eq!(range.len(), shape.iter().product::<usize>() * dtype.size());
        let bytes = &storage.bytes()[range.clone()];
        if bytes.as_ptr().addr().is_multiple_of(dtype.size()) {
            return Self { storage: storage.clone(), range, dtype, shape };
        }
        Self { range: 0..bytes.len(), storage: Arc::new(Storage::copy_of(bytes)), dtype, shape }
    }

    /// A tensor of its own, not from a file. `data` is row-major and has as many elements as `shape`.
    pub fn from_f32(shape: Vec<usize>, data: Vec<f32>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "data fills the shape");
        let storage = Storage::copy_of(bytemuck::cast_slice(&data));
        Self { range: 0..data.len() * 4, storage: Arc::new(storage), dtype: Dtype::F32, shape }
    }

    /// All of a file of this library's own, in f32: `shape`'s elements. The file needs no name.
    ///
    /// # Errors
    /// If it cannot be mapped.
    pub(crate) fn mapped(file: &std::fs::File, shape: Vec<usize>) -> std::io::Result<Self> {
        let length = shape.iter().product::<usize>() * 4;
        // SAFETY: the caller's file is a temporary one that nobody else knows, so nothing writes to it or shortens it.
        let storage = unsafe { Storage::map(file) }?;
        assert_eq!(storage.bytes().len(), length, "the file fills the shape");
        Ok(Self { storage: Arc::new(storage), range: 0..length, dtype: Dtype::F32, shape })
    }

    /// A tensor in memory of another owner.
    ///
    /// # Safety
    /// `start` is aligned for `dtype` and readable for the elements of `shape` as long as the result or a clone of it lives,
    /// and nothing writes there meanwhile.
    pub unsafe fn borrow(start: *const u8, dtype: Dtype, shape: Vec<usize>) -> Self {
        let length = shape.iter().product::<usize>() * dtype.size();
        let storage = if length == 0 { Storage::Static(&[]) } else { Storage::Borrowed(start, length) };
        Self { storage: Arc::new(storage), range: 0..length, dtype, shape }
    }

    /// A matrix whose i-th row is row `order[i]` of this one, which may have more rows; also the entries of a vector.
    pub fn reordered_rows(&self, order: &[u32]) -> Self {
        let bytes = self.bytes();
        let row = bytes.len() / self.shape[0].max(1);
        let rows = order.iter().flat_map(|&from| &bytes[from as usize * row..][..row]);
        let mut shape = self.shape.clone();
        shape[0] = order.len();
        Self::from_bytes(self.dtype, shape, &rows.copied().collect::<Vec<_>>())
    }

    /// A matrix whose i-th column is column `order[i]` of this one.
    pub fn reordered_columns(&self, order: &[u32]) -> Self {
        let size = self.dtype.size();
        let rows = self.bytes().chunks_exact(order.len().max(1) * size);
        let columns =
            rows.flat_map(|row| order.iter().flat_map(move |&from| &row[from as usize * size..][..size]));
        Self::from_bytes(self.dtype, self.shape.clone(), &columns.copied().collect::<Vec<_>>())
    }

    /// A tensor of its own with the elements `bytes`, row-major, as many as `shape` has.
    pub fn from_bytes(dtype: Dtype, shape: Vec<usize>, bytes: &[u8]) -> Self {
        assert_eq!(shape.iter().product::<usize>() * dtype.size(), bytes.len(), "data fills the shape");
        Self { storage: Arc::new(Storage::copy_of(bytes)), range: 0..bytes.len(), dtype, shape }
    }

    /// The elements' bytes, to be overwritten; they become the tensor's own if they are shared.
    pub(crate) fn own_bytes(&mut self) -> &mut [u8] {
        let is_own = matches!(Arc::get_mut(&mut self.storage), Some(Storage::Owned(_, length)) if self.range == (0..*length));
        if !is_own {
            *self = Self::from_bytes(self.dtype, self.shape.clone(), self.bytes());
        }
        match Arc::get_mut(&mut self.storage) {
            Some(Storage::Owned(words, _)) => &mut bytemuck::cast_slice_mut(words)[..self.range.end],
            _ => unreachable!("just made so"),
        }
    }

    /// The same values rounded to `dtype`.
    pub fn rounded_to(&self, dtype: Dtype) -> Self {
        if self.dtype == dtype {
            return self.clone();
        }
        let values = self.to_f32();
        let mut rounded = Self::from_bytes(dtype, self.shape.clone(), &vec![0; values.len() * dtype.size()]);
        round_into(dtype, &values, rounded.own_bytes());
        rounded
    }

    /// Type of the elements.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Sizes of the dimensions, outermost first; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements, row-major, little-endian, aligned for [`dtype`](Self::dtype).
    pub fn bytes(&self) -> &[u8] {
        &self.storage.bytes()[self.range.clone()]
    }

    /// The elements as f32, row-major. Exact for every dtype.
    pub fn to_f32(&self) -> Vec<f32> {
        match self.dtype {
            Dtype::F32 => bytemuck::cast_slice(self.bytes()).to_vec(),
            Dtype::F16 => bytemuck::cast_slice::<_, f16>(self.bytes()).iter().map(|x| x.to_f32()).collect(),
            Dtype::BF16 => bytemuck::cast_slice::<_, bf16>(self.bytes()).iter().map(|x| x.to_f32()).collect(),
        }
    }
}

/// Writes values as elements of `dtype`, whose bytes are aligned for it.
#[inline(always)]
pub(crate) fn round_into(dtype: Dtype, values: &[f32], bytes: &mut [u8]) {
    match dtype {
        Dtype::F32 => bytemuck::cast_slice_mut(bytes).copy_from_slice(values),
        Dtype::F16 => bytemuck::cast_slice_mut::<_, f16>(bytes).convert_from_f32_slice(values),
        Dtype::BF16 => {
            let to = bytemuck::cast_slice_mut::<_, u16>(bytes);
            to.iter_mut().zip(values).for_each(|(to, &x)| *to = bf16_bits(x));
        }
    }
}

/// The bits of `bf16::from_f32`, without its branches: loops of it become vector instructions.
#[inline(always)]
fn bf16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    let quiet = bits | 0x0040_0000;
    ((if x.is_nan() { quiet } else { rounded }) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_rounded_as_half_rounds_them() {
        // All upper halves with the lower halves around a tie.
        for high in 0..=u16::MAX {
            for low in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let x = f32::from_bits(u32::from(high) << 16 | low);
                assert_eq!(bf16_bits(x), bf16::from_f32(x).to_bits(), "{:#x}", x.to_bits());
            }
        }
    }
}
