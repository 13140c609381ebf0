//! One product by the processor's tiles and by emulated ones: what the processor does with them is taken on trust nowhere.

use super::{Buffers, Packed, Tile, Tiles, pack, product, tiles_of_16};
use crate::{
    checkpoint::Dtype,
    cpu::{
        matrix::{Matrix, Pick},
        product::Factors,
    },
};

/// Whether both give the same bits, for whole tiles, parts of them and half ones.
pub(super) fn agree(one: &mut impl Tiles, other: &mut impl Tiles) -> bool {
    let blocks = [0, 2, 3];
    let picks = [Pick::All(35), Pick::Blocks { indices: &blocks, block_width: 8 }];
    picks.into_iter().all(|rows| result(one, rows) == result(other, rows))
}

/// x (19, 70) · W\[rows\]ᵀ in three terms, as bits.
fn result(tiles: &mut impl Tiles, rows: Pick<'_>) -> Vec<u32> {
    const SIZE: [usize; 3] = [19, 35, 70];
    let [t, n, k] = SIZE;
    // Values of either sign whose sums are rounded.
    let value = |i: usize| (i * 7919 % 2003) as f32 / 1001.5 - 1.0;
    let x: Vec<f32> = (0..t * k).map(value).collect();
    let weights: Vec<u16> = (0..n * k).map(|i| (value(i + 1).to_bits() >> 16) as u16).collect();
    let mut packed: Vec<Tile> = bytemuck::zeroed_vec(t.div_ceil(16) * tiles_of_16(k, 3));
    pack(&x, k, [t, k], 3, &mut packed);
    let x = Packed::new(&packed, [t, k], 3);
    // SAFETY: the weights outlive the matrix and are not written.
    let weight = unsafe { Matrix::borrow(weights.as_ptr().cast(), Dtype::BF16, [n, k]) };
    let features = rows.len();
    let factors = Factors { x, t, weight: &weight, rows, columns: Pick::All(k) };
    let mut out = vec![0.0f32; t * features];
    // SAFETY: `out` has t rows of these features.
    unsafe { product(tiles, &mut Buffers::new(), factors, 0..features, out.as_mut_ptr(), features) };
    out.iter().map(|x| x.to_bits()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::product::amx::emulated::Emulated;

    /// Emulated tiles that lose what they should add.
    struct Forgetful(Emulated);

    impl Tiles for Forgetful {
        fn configure(&mut self, rows: usize) {
            self.0.configure(rows);
        }

        fn zero<const D: usize>(&mut self) {
            self.0.zero::<D>();
        }

        unsafe fn load<const D: usize>(&mut self, from: *const u8, stride: usize) {
            // SAFETY: the caller's promise.
            unsafe { self.0.load::<D>(from, stride) };
        }

        unsafe fn store<const S: usize>(&mut self, to: *mut u8, stride: usize) {
            // SAFETY: the caller's promise.
            unsafe { self.0.store::<S>(to, stride) };
        }

        fn multiply_add<const D: usize, const A: usize, const B: usize>(&mut self) {
            if D != 3 {
                self.0.multiply_add::<D, A, B>();
            }
        }
    }

    #[test]
    fn tiles_that_compute_something_else_are_found() {
        assert!(agree(&mut Emulated::new(), &mut Emulated::new()));
        assert!(!agree(&mut Forgetful(Emulated::new()), &mut Emulated::new()));
    }
}
