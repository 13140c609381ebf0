//! Activations on their way to tiles: each f32 as a sum of one, two or three bf16 terms.
//!
//! Three terms are exact, since 24 bits are three times 8. Two leave at most 2⁻¹⁷ of a value, one leaves 2⁻⁸. AMX takes
//! subnormal terms for 0, by which a value can lose about 2⁻¹²⁶ more: three terms are exact from 2⁻¹⁰³ on, where the last
//! bit is not subnormal, and subnormal values are as good as 0.

use super::tiles::{TILE_COLUMNS, TILE_ROWS, Tile};
use crate::cpu::math::{self, split_bf16};

/// Activations (t, k) as tiles (tiles of tokens, steps of 32 columns, terms).
#[derive(Clone, Copy)]
pub(in crate::cpu::product) struct Packed<'a> {
    tiles: &'a [Tile],
    pub(super) t: usize,
    pub(super) k: usize,
    pub(super) terms: usize,
}

/// Tiles of 16 packed tokens of `k` values.
pub(in crate::cpu::product) const fn tiles_of_16(k: usize, terms: usize) -> usize {
    k.div_ceil(TILE_COLUMNS) * terms
}

impl<'a> Packed<'a> {
    /// What [`pack`] has made of x (t, k).
    pub(in crate::cpu::product) fn new(tiles: &'a [Tile], [t, k]: [usize; 2], terms: usize) -> Self {
        let len = t.div_ceil(TILE_ROWS) * tiles_of_16(k, terms);
        Self { tiles: &tiles[..len], t, k, terms }
    }

    /// The tiles of tokens 16·`index`.. from column `from` on, a multiple of 32.
    pub(super) fn from(&self, index: usize, from: usize) -> *const Tile {
        let at = index * tiles_of_16(self.k, self.terms) + from / TILE_COLUMNS * self.terms;
        self.tiles[at..].as_ptr()
    }
}

/// x (t, k; row stride `stride`) as tiles (⌈t/16⌉, ⌈k/32⌉, terms), padded with zeros. Threads may share the work, 16
/// tokens each into their own [`tiles_of_16`].
#[inline(always)]
pub(in crate::cpu::product) fn pack(
    x: &[f32],
    stride: usize,
    [t, k]: [usize; 2],
    terms: usize,
    to: &mut [Tile],
) {
    assert!((1..=3).contains(&terms), "one to three terms");
    for first in (0..t).step_by(TILE_ROWS) {
        let tokens = TILE_ROWS.min(t - first);
        let to = &mut to[first / TILE_ROWS * tiles_of_16(k, terms)..][..tiles_of_16(k, terms)];
        for (step, to) in to.chunks_exact_mut(terms).enumerate() {
            let from = step * TILE_COLUMNS;
            let columns = TILE_COLUMNS.min(k - from);
            let mut rows = [[0u16; 512]; 3];
            for token in 0..tokens {
                let mut rest = [0.0; TILE_COLUMNS];
                rest[..columns].copy_from_slice(&x[(first + token) * stride + from..][..columns]);
                for rows in &mut rows[..terms] {
                    let row = &mut rows[token * TILE_COLUMNS..][..TILE_COLUMNS];
                    for (rest, term) in rest.iter_mut().zip(row) {
                        (*term, *rest) = split_bf16(*rest);
                    }
                }
            }
            // A tile's row has one pair of columns for each token: pairs, of 32 bits each, are transposed.
            for (rows, Tile(to)) in rows.iter().zip(to) {
                let (rows, to) = (bytemuck::cast_slice(rows), bytemuck::cast_slice_mut(to));
                math::transpose(rows, TILE_ROWS, [TILE_ROWS; 2], to, TILE_ROWS);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::product::amx::tests::Random;

    /// The sum of three terms is the value, unless its last bits are too small for bf16.
    #[test]
    fn three_terms_are_exact() {
        let mut random = Random(3);
        let extremes =
            [f32::MAX, f32::from_bits(0x7f7f_7fff), f32::from_bits(0x7f7f_8000), 2f32.powi(-103), 0.0, -0.0];
        for x in (0..2_000_000).map(|_| f32::from_bits(random.bits())).chain(extremes) {
            let (first, rest) = split_bf16(x);
            let (second, rest) = split_bf16(rest);
            let (third, rest) = split_bf16(rest);
            let terms = [first, second, third].map(math::bf16);
            if !x.is_finite() {
                assert!(terms[0].to_bits() == x.to_bits() || terms[0].is_nan() && x.is_nan(), "{x}");
                assert!(terms[1..] == [0.0; 2], "{x} leaves {terms:?}");
                continue;
            }
            assert!(terms.iter().all(|term| term.is_finite()), "{x}: {terms:?}");
            let normal = terms.map(|term| if term.is_subnormal() { 0.0 } else { f64::from(term) });
            let lost = (normal.iter().sum::<f64>() - f64::from(x)).abs();
            if x.abs() >= 2f32.powi(-103) || x == 0.0 {
                assert!(lost == 0.0 && rest == 0.0, "{x:e} loses {lost:e}");
            }
            assert!(lost < 1.01 * 2f64.powi(-126), "{x:e} loses {lost:e}");
            // Cut off instead of rounded, a value near the largest leaves twice as much.
            let (one, two) = if x.abs().to_bits() < 0x7f7f_8000 { (-8, -17) } else { (-7, -16) };
            let size = f64::from(x.abs()) + 2f64.powi(-100);
            assert!((normal[0] - f64::from(x)).abs() <= 2f64.powi(one) * size, "{x:e}");
            assert!((normal[0] + normal[1] - f64::from(x)).abs() <= 2f64.powi(two) * size, "{x:e}");
        }
    }

    /// Each value is where the tiles want it, and 0 where there is none.
    #[test]
    fn tiles_hold_pairs_of_columns() {
        let (t, k, stride, terms) = (21, 45, 50, 2);
        let x: Vec<f32> = (0..t * stride).map(|i| 1.0 + i as f32 / 4096.0).collect();
        let mut tiles = vec![Tile([7; 512]); 2 * tiles_of_16(k, terms)];
        pack(&x, stride, [t, k], terms, &mut tiles);
        for (i, Tile(tile)) in tiles.iter().enumerate() {
            let (term, step, block) = (i % 2, i / 2 % 2, i / 4);
            for (at, &got) in tile.iter().enumerate() {
                let (token, column) = (block * 16 + at % 32 / 2, step * 32 + at / 32 * 2 + at % 2);
                let value = if token < t && column < k { x[token * stride + column] } else { 0.0 };
                let (first, rest) = split_bf16(value);
                let want = if term == 0 { first } else { split_bf16(rest).0 };
                assert_eq!(got, want, "token {token}, column {column}, term {term}");
            }
        }
    }
}
