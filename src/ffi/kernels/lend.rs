//! Callers' memory as operands of a backend.

use std::{ffi::c_void, slice};

use super::score::HistoryOperand;
use crate::{
    backend::{Backend, History, KeptSet, Linear, WeightUse},
    checkpoint::Dtype,
    cpu::{Buffer, Cpu, Matrix},
    error::Result,
    ffi::dlpack::{DLDataType, Tensor},
    gpu::{Gpu, OnStream},
    prune::{history::HistoryLayout, settings::HistoryDtype},
};

/// A backend that borrows callers' memory.
///
/// # Safety
/// For all methods: the memory holds as many entries as the arguments say, and may be used until the operation on it is
/// over.
#[allow(clippy::missing_safety_doc, reason = "stated once, on the trait")]
pub(super) trait Lend: Backend {
    unsafe fn states_at(&self, at: *mut c_void, len: usize) -> Result<Self::Activations>;
    unsafe fn floats_at(&self, at: *mut c_void, len: usize) -> Result<Self::Statistics>;
    unsafe fn indices_at(&self, at: *mut c_void, len: usize) -> Result<Self::Indices>;
    /// A matrix in place: row by row, or column by column for [`WeightUse::Columns`] on a GPU.
    unsafe fn matrix_at(
        &self,
        at: *mut c_void,
        dtype: DLDataType,
        shape: [usize; 2],
        usage: WeightUse,
    ) -> Result<Self::Weight>;

    unsafe fn states(&self, tensor: &Tensor<'_>) -> Result<Self::Activations> {
        // SAFETY: a tensor holds `entries()` entries, which the caller lends until the operation is over.
        unsafe { self.states_at(tensor.data, tensor.entries()) }
    }

    unsafe fn floats(&self, tensor: &Tensor<'_>) -> Result<Self::Statistics> {
        // SAFETY: a tensor holds `entries()` entries, which the caller lends until the operation is over.
        unsafe { self.floats_at(tensor.data, tensor.entries()) }
    }

    unsafe fn optional_floats(&self, tensor: Option<&Tensor<'_>>) -> Result<Option<Self::Statistics>> {
        // SAFETY: the caller lends the tensor's memory, if there is one, until the operation is over.
        tensor.map(|tensor| unsafe { self.floats(tensor) }).transpose()
    }

    unsafe fn indices_of(&self, tensor: &Tensor<'_>) -> Result<Self::Indices> {
        // SAFETY: a tensor holds `entries()` entries, which the caller lends until the operation is over.
        unsafe { self.indices_at(tensor.data, tensor.entries()) }
    }

    unsafe fn optional_indices(&self, tensor: Option<&Tensor<'_>>) -> Result<Option<Self::Indices>> {
        // SAFETY: the caller lends the tensor's memory, if there is one, until the operation is over.
        tensor.map(|tensor| unsafe { self.indices_of(tensor) }).transpose()
    }

    unsafe fn kept(&self, kept: &KeptSet<Tensor<'_>>) -> Result<KeptSet<Self::Indices>> {
        let KeptSet { ref indices, len, of, block_width } = *kept;
        // SAFETY: the caller lends the memory of the indices until the operation is over.
        Ok(KeptSet { indices: unsafe { self.indices_of(indices) }?, len, of, block_width })
    }

    unsafe fn optional_kept(
        &self,
        kept: Option<&KeptSet<Tensor<'_>>>,
    ) -> Result<Option<KeptSet<Self::Indices>>> {
        // SAFETY: the caller lends the memory of the indices, if there are any, until the operation is over.
        kept.map(|kept| unsafe { self.kept(kept) }).transpose()
    }

    unsafe fn linear_of(
        &self,
        weight: &Tensor<'_>,
        bias: Option<&Tensor<'_>>,
        [out_features, in_features]: [usize; 2],
    ) -> Result<Linear<Self>> {
        // SAFETY: the caller lends both tensors, of which the weight has out_features × in_features entries.
        unsafe {
            let shape = [out_features, in_features];
            Ok(Linear {
                weight: self.matrix_at(weight.data, weight.dtype, shape, WeightUse::Rows)?,
                bias: self.optional_floats(bias)?,
                out_features,
                in_features,
            })
        }
    }

    unsafe fn history_of(&self, history: &HistoryOperand<'_>) -> Result<History<Self>> {
        let HistoryOperand { ref tensor, slots, channels, bucket } = *history;
        let dtype = if tensor.dtype == DLDataType::FLOAT16 { HistoryDtype::F16 } else { HistoryDtype::F32 };
        let words = tensor.entries() * tensor.dtype.bytes() / 4;
        // SAFETY: the caller lends the tensor's memory, which is a whole number of 4-byte words:
        // `HistoryOperand::read` refuses an odd number of float16 entries.
        let values = unsafe { self.floats_at(tensor.data, words) }?;
        Ok(History { values, slots, channels, layout: HistoryLayout { dtype, bucket } })
    }
}

impl Lend for Cpu {
    unsafe fn states_at(&self, at: *mut c_void, len: usize) -> Result<Buffer<f32>> {
        // SAFETY: the caller lends `len` entries until the operation is over, and the buffer is dropped by then.
        Ok(unsafe { Buffer::borrow(at.cast(), len) })
    }

    unsafe fn floats_at(&self, at: *mut c_void, len: usize) -> Result<Buffer<f32>> {
        // SAFETY: the caller lends `len` entries until the operation is over, and the buffer is dropped by then.
        Ok(unsafe { Buffer::borrow(at.cast(), len) })
    }

    unsafe fn indices_at(&self, at: *mut c_void, len: usize) -> Result<Buffer<u32>> {
        // SAFETY: the caller lends `len` entries until the operation is over, and the buffer is dropped by then.
        Ok(unsafe { Buffer::borrow(at.cast(), len) })
    }

    unsafe fn matrix_at(
        &self,
        at: *mut c_void,
        dtype: DLDataType,
        shape: [usize; 2],
        _usage: WeightUse,
    ) -> Result<Matrix> {
        let dtype = match dtype {
            DLDataType::FLOAT16 => Dtype::F16,
            DLDataType::BFLOAT16 => Dtype::BF16,
            _ => Dtype::F32,
        };
        // SAFETY: the caller lends a matrix of this type and shape until the operation is over, and the result is
        // dropped by then.
        Ok(unsafe { Matrix::borrow(at.cast_const().cast(), dtype, shape) })
    }
}

impl Lend for Gpu<OnStream> {
    unsafe fn states_at(&self, at: *mut c_void, len: usize) -> Result<Self::Activations> {
        // SAFETY: the caller keeps `len` entries allocated on the device until the stream's work on them is done.
        unsafe { self.borrow_activations(at.expose_provenance() as u64, len) }
    }

    unsafe fn floats_at(&self, at: *mut c_void, len: usize) -> Result<Self::Statistics> {
        // SAFETY: the caller keeps `len` entries allocated on the device until the stream's work on them is done.
        unsafe { self.borrow_statistics(at.expose_provenance() as u64, len) }
    }

    unsafe fn indices_at(&self, at: *mut c_void, len: usize) -> Result<Self::Indices> {
        // SAFETY: the caller keeps `len` entries allocated on the device until the stream's work on them is done.
        unsafe { self.borrow_indices(at.expose_provenance() as u64, len) }
    }

    unsafe fn matrix_at(
        &self,
        at: *mut c_void,
        _dtype: DLDataType,
        shape: [usize; 2],
        usage: WeightUse,
    ) -> Result<Self::Weight> {
        // SAFETY: the caller keeps a matrix of this shape allocated on the device until the stream's work on it is
        // done.
        unsafe { self.borrow_weight(at.expose_provenance() as u64, shape, usage) }
    }
}

/// Writes the transpose of a (rows, columns) matrix with entries of `bytes` bytes.
///
/// # Safety
/// `from` is readable and `to` writable for rows × columns entries; both are aligned.
pub(super) unsafe fn transpose(
    from: *const c_void,
    to: *mut c_void,
    [rows, columns]: [usize; 2],
    bytes: usize,
) {
    /// # Safety
    /// As [`transpose`].
    unsafe fn entries<T: Copy>(from: *const T, to: *mut T, rows: usize, columns: usize) {
        // SAFETY: `transpose` was promised rows × columns aligned entries, readable at `from` and writable at `to`.
        let (from, to) = unsafe {
            (slice::from_raw_parts(from, rows * columns), slice::from_raw_parts_mut(to, rows * columns))
        };
        for (column, to) in to.chunks_exact_mut(rows).enumerate() {
            for (to, from) in to.iter_mut().zip(from[column..].iter().step_by(columns)) {
                *to = *from;
            }
        }
    }
    if rows * columns == 0 {
        return;
    }
    // SAFETY: the caller promises rows × columns aligned entries of `bytes` bytes, readable at `from` and writable at
    // `to`.
    unsafe {
        match bytes {
            2 => entries::<u16>(from.cast(), to.cast(), rows, columns),
            _ => entries::<u32>(from.cast(), to.cast(), rows, columns),
        }
    }
}
