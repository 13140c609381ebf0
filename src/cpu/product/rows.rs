//! Products of rows in slices, which are checked to hold them.

use pulp::{MemMask, Simd, WithSimd};

use super::microkernel::{self, Product, Strided};
use crate::cpu::math;

/// Rows at a stride.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Rows<'a> {
    pub(in crate::cpu) values: &'a [f32],
    pub(in crate::cpu) stride: usize,
}

impl Rows<'_> {
    /// Whether `rows` rows of `len` values are there.
    #[inline(always)]
    fn holds(self, rows: usize, len: usize) -> bool {
        rows == 0 || self.values.len() >= (rows - 1) * self.stride + len
    }

    /// These (rows, len) values rounded to bf16, in `to`.
    #[inline(always)]
    pub(in crate::cpu) fn rounded<'a>(&self, [rows, len]: [usize; 2], to: &'a mut [f32]) -> Rows<'a> {
        for (row, to) in to.chunks_exact_mut(len).take(rows).enumerate() {
            to.copy_from_slice(&self.values[row * self.stride..][..len]);
            math::round_to_bf16(to);
        }
        Rows { values: to, stride: len }
    }

    /// The address of row `i`.
    #[inline(always)]
    fn row(self, i: usize) -> *const f32 {
        self.values.as_ptr().wrapping_add(i * self.stride)
    }
}

/// out (t, n) = x (t, k) · panel (k, n), added to `out` if `accumulate`.
pub(in crate::cpu) struct RowsProduct<'a> {
    /// t, n and k.
    pub(in crate::cpu) size: [usize; 3],
    pub(in crate::cpu) x: Rows<'a>,
    pub(in crate::cpu) panel: Rows<'a>,
    pub(in crate::cpu) out: &'a mut [f32],
    /// Values from one row of `out` to the next, at least n.
    pub(in crate::cpu) stride: usize,
    pub(in crate::cpu) accumulate: bool,
}

impl WithSimd for RowsProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { size: [t, n, k], x, panel, out, stride, accumulate } = self;
        let to = Rows { values: &*out, stride };
        assert!(x.holds(t, k) && panel.holds(k, n) && to.holds(t, n) && stride >= n, "operands are there");
        let product = Product {
            shape: [t, n, k],
            x: Strided { start: x.values.as_ptr(), row: x.stride, column: 1 },
            panel: (panel.values.as_ptr(), panel.stride),
            out: (out.as_mut_ptr(), stride),
            accumulate,
        };
        // SAFETY: the assertion covers every entry of the operands, and `out` is borrowed mutably.
        unsafe { microkernel::run(simd, product) };
    }
}

/// out (t, n) = x (t, k) · y (n, k)ᵀ by dot products, for few rows of x: y is read once, as it lies.
pub(in crate::cpu) struct DotProducts<'a> {
    /// t, n and k.
    pub(in crate::cpu) size: [usize; 3],
    pub(in crate::cpu) x: Rows<'a>,
    pub(in crate::cpu) y: Rows<'a>,
    pub(in crate::cpu) out: &'a mut [f32],
    /// Values from one row of `out` to the next, at least n.
    pub(in crate::cpu) stride: usize,
}

impl WithSimd for DotProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { size: [t, n, k], x, y, out, stride } = self;
        let to = Rows { values: &*out, stride };
        assert!(x.holds(t, k) && y.holds(n, k) && to.holds(t, n) && stride >= n, "operands are there");
        for j in (0..n).step_by(4) {
            for i in (0..t).step_by(3) {
                // SAFETY: the assertion covers rows i.. before t and j.. before n, the only ones that are read.
                let sums = unsafe { dots::<S, 3, 4>(simd, [i, t - 1], [j, n - 1], x, y, k) };
                for (i, sums) in (i..t).zip(sums) {
                    for (j, sum) in (j..n).zip(sums) {
                        out[i * stride + j] = simd.reduce_sum_f32s(sum);
                    }
                }
            }
        }
    }
}

/// Sums by lane of the products of R rows of x and J of y, both from a first one on. Rows after the last one are copies of
/// it.
///
/// # Safety
/// These rows hold k values.
#[inline(always)]
unsafe fn dots<S: Simd, const R: usize, const J: usize>(
    simd: S,
    [first, last]: [usize; 2],
    [first_y, last_y]: [usize; 2],
    x: Rows<'_>,
    y: Rows<'_>,
    k: usize,
) -> [[S::f32s; J]; R] {
    let mut sums = [[simd.splat_f32s(0.0); J]; R];
    let mut from = [x.row(0); R];
    for i in 0..R {
        from[i] = x.row((first + i).min(last));
    }
    let mut from_y = [y.row(0); J];
    for j in 0..J {
        from_y[j] = y.row((first_y + j).min(last_y));
    }
    let whole = k / S::F32_LANES * S::F32_LANES;
    let mask = MemMask::new(simd.mask_between_m32s(0, (k - whole) as u32).mask());
    macro_rules! step {
        ($at:expr, $masked:literal) => {
            let mut factors = [simd.splat_f32s(0.0); J];
            for j in 0..J {
                factors[j] = load::<S, $masked>(simd, from_y[j].add($at), mask);
            }
            for i in 0..R {
                let x = load::<S, $masked>(simd, from[i].add($at), mask);
                for j in 0..J {
                    sums[i][j] = simd.mul_add_e_f32s(x, factors[j], sums[i][j]);
                }
            }
        };
    }
    // SAFETY: the caller's promise; vectors end at k, the last one by its mask.
    unsafe {
        for at in (0..whole).step_by(S::F32_LANES) {
            step!(at, false);
        }
        if whole < k {
            step!(whole, true);
        }
    }
    sums
}

/// # Safety
/// The vector, or the mask's lanes of it, can be read.
#[inline(always)]
unsafe fn load<S: Simd, const MASKED: bool>(simd: S, from: *const f32, mask: MemMask<S::m32s>) -> S::f32s {
    // SAFETY: the caller's promise; the reads need no alignment.
    unsafe {
        if MASKED { simd.mask_load_ptr_f32s(mask, from) } else { from.cast::<S::f32s>().read_unaligned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Tier;

    /// What each tier of this processor is compiled for.
    fn archs() -> Vec<pulp::Arch> {
        Tier::available().into_iter().filter_map(Tier::arch).collect()
    }

    /// Small integers, whose products have exact sums.
    fn integers(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 37 + i / 11 * 5 + seed) % 19) as f32 - 9.0).collect()
    }

    /// Σ over k of x\[i\]\[l\] · y(l, j) in f64.
    fn expected(
        [t, n, k]: [usize; 3],
        x: Rows<'_>,
        y: impl Fn(usize, usize) -> f32,
    ) -> impl Fn(usize, usize) -> f64 {
        let sums: Vec<f64> = (0..t * n)
            .map(|at| (at / n, at % n))
            .map(|(i, j)| (0..k).map(|l| f64::from(x.values[i * x.stride + l]) * f64::from(y(l, j))).sum())
            .collect();
        move |i, j| sums[i * n + j]
    }

    /// Rows end exactly where the last one does: an access beyond is one beyond the slice.
    fn rows(rows: usize, len: usize, stride: usize) -> usize {
        if rows == 0 { 0 } else { (rows - 1) * stride + len }
    }

    const SIZES: [[usize; 3]; 12] = [
        [1, 1, 1],
        [1, 64, 300],
        [2, 7, 5],
        [3, 16, 0],
        [5, 17, 33],
        [6, 80, 16],
        [7, 63, 64],
        [12, 65, 20],
        [13, 130, 9],
        [24, 31, 128],
        [25, 256, 3],
        [6, 0, 4],
    ];

    #[test]
    fn products_of_integers_are_exact_at_ragged_sizes() {
        for (arch, size, accumulate) in
            archs().into_iter().flat_map(|a| SIZES.map(|s| [(a, s, false), (a, s, true)])).flatten()
        {
            let [t, n, k] = size;
            let (x, panel) = (integers(rows(t, k, k + 3), 1), integers(rows(k, n, n + 5), 2));
            let (x, panel) = (Rows { values: &x, stride: k + 3 }, Rows { values: &panel, stride: n + 5 });
            let stride = n + 2;
            let before = integers(rows(t, n, stride), 3);
            let mut out = before.clone();
            arch.dispatch(RowsProduct { size, x, panel, out: &mut out, stride, accumulate });
            let sums = expected(size, x, |l, j| panel.values[l * panel.stride + j]);
            for (at, (&got, &before)) in out.iter().zip(&before).enumerate() {
                let (i, j) = (at / stride, at % stride);
                let want = match j < n {
                    true => sums(i, j) + if accumulate { f64::from(before) } else { 0.0 },
                    false => f64::from(before),
                };
                assert_eq!(f64::from(got), want, "{size:?} {arch:?} {accumulate}: {i}, {j}");
            }
        }
    }

    #[test]
    fn dot_products_of_integers_are_exact_at_ragged_sizes() {
        for (arch, size) in archs().into_iter().flat_map(|arch| SIZES.map(|size| (arch, size))) {
            let [t, n, k] = size;
            let (x, y) = (integers(rows(t, k, k + 3), 1), integers(rows(n, k, k + 5), 2));
            let (x, y) = (Rows { values: &x, stride: k + 3 }, Rows { values: &y, stride: k + 5 });
            let stride = n + 2;
            let mut out = vec![0.5; rows(t, n, stride)];
            arch.dispatch(DotProducts { size, x, y, out: &mut out, stride });
            let sums = expected(size, x, |l, j| y.values[j * y.stride + l]);
            for (at, &got) in out.iter().enumerate() {
                let (i, j) = (at / stride, at % stride);
                let want = if j < n { sums(i, j) } else { 0.5 };
                assert_eq!(f64::from(got), want, "{size:?} {arch:?}: {i}, {j}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_reaches_the_sums_it_is_in() {
        let [t, n, k] = [7, 21, 5];
        for arch in archs() {
            let (mut x, mut panel) = (vec![1.0; t * k], vec![1.0; k * n]);
            x[2 * k + 4] = f32::NAN;
            x[6 * k] = f32::INFINITY;
            panel[20] = 0.0;
            panel[3 * n + 8] = f32::NEG_INFINITY;
            let mut out = vec![0.0; t * n];
            arch.dispatch(RowsProduct {
                size: [t, n, k],
                x: Rows { values: &x, stride: k },
                panel: Rows { values: &panel, stride: n },
                out: &mut out,
                stride: n,
                accumulate: false,
            });
            for (at, &got) in out.iter().enumerate() {
                let want = match (at / n, at % n) {
                    // 0 · ∞, and ∞ − ∞.
                    (2, _) | (6, 20 | 8) => f32::NAN,
                    (6, _) => f32::INFINITY,
                    (_, 8) => f32::NEG_INFINITY,
                    (_, 20) => 4.0,
                    _ => 5.0,
                };
                assert!(got == want || got.is_nan() && want.is_nan(), "{at}: {got}, {want}");
            }
        }
    }
}
