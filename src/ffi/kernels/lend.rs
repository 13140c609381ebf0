//! Callers' memory as what a backend's operations take.

use std::{ffi::c_void, slice};

use crate::{
    backend::{Backend, History, KeptSet, Linear, WeightUse},
    checkpoint::Dtype,
    cpu::{Buffer, Cpu, Matrix},
    error::Result,
    ffi::dlpack::{DLDataType, Tensor},
    gpu::{Gpu, OnStream},
    prune::settings::{HistoryDtype, HistoryLayout},
};

/// A backend that works in memory that belongs to somebody else.
///
/// # Safety
/// For all methods: the memory holds that many entries, and may be used until the operation on it is over.
#[allow(clippy::missing_safety_doc, reason = "said once above")]
pub(super) trait Lend: Backend {
    unsafe fn states_at(&self, at: *mut c_void, len: usize) -> Result<Self::Activations>;
    unsafe fn floats_at(&self, at: *mut c_void, len: usize) -> Result<Self::Statistics>;
    unsafe fn indices_at(&self, at: *mut c_void, len: usize) -> Result<Self::Indices>;
    /// A matrix as it lies there: row by row, or column by column for [`WeightUse::Columns`] on a GPU.
    unsafe fn matrix_at(
        &self,
        at: *mut c_void,
        dtype: DLDataType,
        shape: [usize; 2],
        usage: WeightUse,
    ) -> Result<Self::Weight>;

    unsafe fn states(&self, tensor: &Tensor<'_>) -> Result<Self::Activations> {
        // SAFETY: the caller's to keep.
        unsafe { self.states_at(tensor.data, tensor.entries()) }
    }

    unsafe fn floats(&self, tensor: &Tensor<'_>) -> Result<Self::Statistics> {
        // SAFETY: the caller's to keep.
        unsafe { self.floats_at(tensor.data, tensor.entries()) }
    }

    unsafe fn optional_floats(&self, tensor: Option<&Tensor<'_>>) -> Result<Option<Self::Statistics>> {
        // SAFETY: the caller's to keep.
        tensor.map(|tensor| unsafe { self.floats(tensor) }).transpose()
    }

    unsafe fn indices_of(&self, tensor: &Tensor<'_>) -> Result<Self::Indices> {
        // SAFETY: the caller's to keep.
        unsafe { self.indices_at(tensor.data, tensor.entries()) }
    }

    unsafe fn optional_indices(&self, tensor: Option<&Tensor<'_>>) -> Result<Option<Self::Indices>> {
        // SAFETY: the caller's to keep.
        tensor.map(|tensor| unsafe { self.indices_of(tensor) }).transpose()
    }

    /// All of `tensor` as what is kept of `of`.
    unsafe fn kept(&self, tensor: &Tensor<'_>, of: usize) -> Result<KeptSet<Self::Indices>> {
        // SAFETY: the caller's to keep.
        Ok(KeptSet { indices: unsafe { self.indices_of(tensor) }?, len: tensor.entries(), of })
    }

    unsafe fn linear_of(
        &self,
        weight: &Tensor<'_>,
        bias: Option<&Tensor<'_>>,
        [out_features, in_features]: [usize; 2],
    ) -> Result<Linear<Self>> {
        // SAFETY: the caller's to keep.
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

    unsafe fn history_of(
        &self,
        tensor: &Tensor<'_>,
        slots: usize,
        width: usize,
        bucket: usize,
    ) -> Result<History<Self>> {
        let dtype = if tensor.dtype == DLDataType::FLOAT16 { HistoryDtype::F16 } else { HistoryDtype::F32 };
        let words = tensor.entries() * tensor.dtype.bytes() / 4;
        // SAFETY: the caller's to keep; the number of entries is even.
        let values = unsafe { self.floats_at(tensor.data, words) }?;
        Ok(History { values, slots, width, layout: HistoryLayout { dtype, bucket } })
    }
}

impl Lend for Cpu {
    unsafe fn states_at(&self, at: *mut c_void, len: usize) -> Result<Buffer<f32>> {
        // SAFETY: the caller's to keep.
        Ok(unsafe { Buffer::borrow(at.cast(), len) })
    }

    unsafe fn floats_at(&self, at: *mut c_void, len: usize) -> Result<Buffer<f32>> {
        // SAFETY: the caller's to keep.
        Ok(unsafe { Buffer::borrow(at.cast(), len) })
    }

    unsafe fn indices_at(&self, at: *mut c_void, len: usize) -> Result<Buffer<u32>> {
        // SAFETY: the caller's to keep.
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
        // SAFETY: the caller's to keep.
        Ok(unsafe { Matrix::borrow(at.cast_const().cast(), dtype, shape) })
    }
}

impl Lend for Gpu<OnStream> {
    unsafe fn states_at(&self, at: *mut c_void, len: usize) -> Result<Self::Activations> {
        // SAFETY: the caller's to keep.
        unsafe { self.borrow_activations(at.expose_provenance() as u64, len) }
    }

    unsafe fn floats_at(&self, at: *mut c_void, len: usize) -> Result<Self::Statistics> {
        // SAFETY: the caller's to keep.
        unsafe { self.borrow_statistics(at.expose_provenance() as u64, len) }
    }

    unsafe fn indices_at(&self, at: *mut c_void, len: usize) -> Result<Self::Indices> {
        // SAFETY: the caller's to keep.
        unsafe { self.borrow_indices(at.expose_provenance() as u64, len) }
    }

    unsafe fn matrix_at(
        &self,
        at: *mut c_void,
        _dtype: DLDataType,
        shape: [usize; 2],
        usage: WeightUse,
    ) -> Result<Self::Weight> {
        // SAFETY: the caller's to keep.
        unsafe { self.borrow_weight(at.expose_provenance() as u64, shape, usage) }
    }
}

/// Writes the transpose of a (rows, columns) matrix of entries of so many bytes.
///
/// # Safety
/// `from` is valid for reading all of it and `to` for writing it; both are aligned.
pub(super) unsafe fn transpose(
    from: *const c_void,
    to: *mut c_void,
    [rows, columns]: [usize; 2],
    bytes: usize,
) {
    /// # Safety
    /// As [`transpose`].
    unsafe fn entries<T: Copy>(from: *const T, to: *mut T, rows: usize, columns: usize) {
        // SAFETY: the caller's to keep.
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
    // SAFETY: the caller's to keep.
    unsafe {
        match bytes {
            2 => entries::<u16>(from.cast(), to.cast(), rows, columns),
            _ => entries::<u32>(from.cast(), to.cast(), rows, columns),
        }
    }
}
