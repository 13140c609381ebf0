//! Weight matrices in the checkpoint's memory, and which of their rows and columns take part in a product.

use std::ops::Range;

use super::{Buffer, math};
use crate::{
    backend::KeptSet,
    checkpoint::{Dtype, Tensor},
};

/// A weight matrix (rows, columns) in the checkpoint's memory.
#[derive(Clone, Debug)]
pub struct Matrix {
    pub(super) tensor: Tensor,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl Matrix {
    /// A matrix (rows, columns) in memory of another owner.
    ///
    /// # Safety
    /// As [`Tensor::borrow`].
    pub unsafe fn borrow(start: *const u8, dtype: Dtype, [rows, columns]: [usize; 2]) -> Self {
        // SAFETY: the caller promises what `Tensor::borrow` requires, for rows × columns elements.
        Self { tensor: unsafe { Tensor::borrow(start, dtype, vec![rows, columns]) }, rows, columns }
    }

    /// Converts the columns of row `index` from column `from` on, as many as `out` holds.
    #[inline(always)]
    pub(super) fn row_to_f32(&self, index: usize, from: usize, out: &mut [f32]) {
        #[inline(always)]
        fn copy<T: bytemuck::Pod>(
            bytes: &[u8],
            row: Range<usize>,
            out: &mut [f32],
            convert: impl Fn(T) -> f32,
        ) {
            for (to, &value) in out.iter_mut().zip(&bytemuck::cast_slice::<u8, T>(bytes)[row]) {
                *to = convert(value);
            }
        }
        let (bytes, first) = (self.tensor.bytes(), index * self.columns + from);
        let row = first..first + out.len();
        match self.tensor.dtype() {
            Dtype::F32 => copy(bytes, row, out, |x: f32| x),
            Dtype::BF16 => copy(bytes, row, out, math::bf16),
            Dtype::F16 => copy(bytes, row, out, math::f16),
        }
    }
}

/// Which rows or columns of a weight take part.
#[derive(Clone, Copy)]
pub(super) enum Pick<'a> {
    All(usize),
    /// Blocks of `block_width` consecutive ones; a block of `u32::MAX` is skipped.
    Blocks {
        indices: &'a [u32],
        block_width: usize,
    },
}

impl Pick<'_> {
    pub(super) fn len(&self) -> usize {
        match *self {
            Pick::All(len) => len,
            Pick::Blocks { indices, block_width } => indices.len() * block_width,
        }
    }

    /// The weight's index of the i-th picked one.
    #[inline(always)]
    pub(super) fn index(&self, i: usize) -> Option<usize> {
        match *self {
            Pick::All(_) => Some(i),
            Pick::Blocks { indices, block_width } => match indices[i / block_width] {
                u32::MAX => None,
                block => Some(block as usize * block_width + i % block_width),
            },
        }
    }

    /// Calls `f(first picked, first in the weight, length)` for the runs of consecutive indices in `from..to`.
    #[inline(always)]
    pub(super) fn runs(&self, from: usize, to: usize, mut f: impl FnMut(usize, usize, usize)) {
        match *self {
            Pick::All(_) => f(from, from, to - from),
            Pick::Blocks { indices, block_width } => {
                let mut i = from;
                while i < to {
                    let length = (block_width - i % block_width).min(to - i);
                    f(i, indices[i / block_width] as usize * block_width + i % block_width, length);
                    i += length;
                }
            }
        }
    }
}

/// The kept rows or columns of `all`.
pub(super) fn picked(kept: Option<&KeptSet<Buffer<u32>>>, all: usize) -> Pick<'_> {
    let Some(kept) = kept else { return Pick::All(all) };
    let indices = &kept.indices[..kept.len];
    let fits = |&block: &u32| (block as usize) < all / kept.block_width;
    assert!(indices.iter().all(fits), "kept indices lie in the weight");
    Pick::Blocks { indices, block_width: kept.block_width }
}

/// The kept rows, where `u32::MAX` stands for a key/value head that is skipped.
pub(super) fn picked_rows(kept: Option<&KeptSet<Buffer<u32>>>, all: usize) -> Pick<'_> {
    match kept {
        Some(kept) => Pick::Blocks { indices: &kept.indices[..kept.len], block_width: kept.block_width },
        None => Pick::All(all),
    }
}

/// The picked entries of a bias; 0 for a skipped block.
pub(super) fn picked_bias(bias: Option<&Buffer<f32>>, pick: Pick<'_>) -> Option<Vec<f32>> {
    let at = |i: usize, bias: &[f32]| pick.index(i).map_or(0.0, |index| bias[index]);
    bias.map(|bias| (0..pick.len()).map(|i| at(i, bias)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of 8 of 20 rows: there are two.
    #[test]
    fn kept_indices_lie_in_the_weight() {
        let picked_of = |block: u32| {
            let kept = KeptSet { indices: vec![block].into(), len: 1, of: 2, block_width: 8 };
            std::panic::catch_unwind(|| picked(Some(&kept), 20).len())
        };
        assert_eq!(picked_of(1).unwrap(), 8);
        assert!(picked_of(2).is_err() && picked_of(u32::MAX).is_err());
    }
}
