//! Products of small matrices whose output stays in registers, for operands that are in cache.
//!
//! Every output is one sum in the order of k, whatever the sizes: only the vectors' width decides about its bits.

use pulp::{MemMask, Simd, WithSimd};

/// Rows at a stride.
#[derive(Clone, Copy)]
pub(super) struct Strided<'a> {
    pub(super) values: &'a [f32],
    pub(super) stride: usize,
}

impl Strided<'_> {
    /// Whether `rows` rows of `len` values are there.
    #[inline(always)]
    fn holds(self, rows: usize, len: usize) -> bool {
        rows == 0 || self.values.len() >= (rows - 1) * self.stride + len
    }
}

/// out (t, n) = x (t, k) · panel (k, n), added to `out` if `accumulate`.
pub(super) struct Product<'a> {
    /// t, n and k.
    pub(super) size: [usize; 3],
    pub(super) x: Strided<'a>,
    pub(super) panel: Strided<'a>,
    pub(super) out: &'a mut [f32],
    /// Values from one row of `out` to the next, at least n.
    pub(super) stride: usize,
    pub(super) accumulate: bool,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Product { size: [t, n, k], x, panel, out, stride, accumulate } = self;
        let to = Strided { values: &*out, stride };
        assert!(x.holds(t, k) && panel.holds(k, n) && to.holds(t, n) && stride >= n, "operands are there");
        let (x, panel) = (Source::of(x), Source::of(panel));
        let product = Pointers { t, n, k, x, panel, out: out.as_mut_ptr(), stride, accumulate };
        // SAFETY: the assertion covers every element of the operands, and `out` is borrowed mutably.
        unsafe {
            // As many sums as registers hold beside a row of the panel and a value of x.
            if S::REGISTER_COUNT >= 32 {
                product.columns::<S, 6, 4>(simd);
            } else {
                product.columns::<S, 6, 2>(simd);
            }
        }
    }
}

/// Rows at a stride, by pointer.
#[derive(Clone, Copy)]
struct Source {
    start: *const f32,
    stride: usize,
}

impl Source {
    #[inline(always)]
    fn of(rows: Strided<'_>) -> Self {
        Self { start: rows.values.as_ptr(), stride: rows.stride }
    }

    /// The address of row `i`.
    #[inline(always)]
    fn row(self, i: usize) -> *const f32 {
        self.start.wrapping_add(i * self.stride)
    }
}

/// A [`Product`] whose operands are known to be there.
#[derive(Clone, Copy)]
struct Pointers {
    t: usize,
    n: usize,
    k: usize,
    x: Source,
    panel: Source,
    out: *mut f32,
    stride: usize,
    accumulate: bool,
}

impl Pointers {
    /// By blocks of R rows × V vectors, 2 or 4, and narrower ones for the columns that remain.
    ///
    /// # Safety
    /// The operands are valid for t, n and k, and nothing else uses those of `out` meanwhile.
    #[inline(always)]
    unsafe fn columns<S: Simd, const R: usize, const V: usize>(self, simd: S) {
        let lanes = S::F32_LANES;
        let mask = MemMask::new(simd.mask_between_m32s(0, (self.n % lanes) as u32).mask());
        let mut at = 0;
        // SAFETY: the caller's promise; vectors end at n, the last one by its mask.
        unsafe {
            while self.n - at >= V * lanes {
                self.strip::<S, R, V, false>(simd, at, mask);
                at += V * lanes;
            }
            if V > 2 && self.n - at >= 2 * lanes {
                self.strip::<S, R, 2, false>(simd, at, mask);
                at += 2 * lanes;
            }
            if self.n - at >= lanes {
                self.strip::<S, R, 1, false>(simd, at, mask);
                at += lanes;
            }
            if self.n > at {
                self.strip::<S, R, 1, true>(simd, at, mask);
            }
        }
    }

    /// V vectors of columns from `at` on, which stay in cache from one block of rows to the next. Only lanes of the mask
    /// are there if it is `MASKED`.
    ///
    /// # Safety
    /// As of [`Self::columns`], for these columns.
    #[inline(always)]
    unsafe fn strip<S: Simd, const R: usize, const V: usize, const MASKED: bool>(
        self,
        simd: S,
        at: usize,
        mask: MemMask<S::m32s>,
    ) {
        let Self { t, k, x, panel, accumulate, .. } = self;
        let out = Source { start: self.out.wrapping_add(at), stride: self.stride };
        let panel = Source { start: panel.start.wrapping_add(at), ..panel };
        for first in (0..t).step_by(R) {
            // Rows after the last one are copies of it that are not stored. Their number is known to the compiler this way.
            let last = t - 1;
            let mut from = [x.start; R];
            let mut to = [out.start.cast_mut(); R];
            for i in 0..R {
                from[i] = x.row((first + i).min(last));
                to[i] = out.row((first + i).min(last)).cast_mut();
            }
            let mut sums = [[simd.splat_f32s(0.0); V]; R];
            // SAFETY: the caller's promise: rows end with `last`, and the columns with V vectors or the mask.
            unsafe {
                if accumulate {
                    for i in 0..R {
                        for v in 0..V {
                            sums[i][v] = load::<S, MASKED>(simd, to[i].add(v * S::F32_LANES), mask);
                        }
                    }
                }
                for l in 0..k {
                    let row = panel.row(l);
                    let mut factors = [simd.splat_f32s(0.0); V];
                    for v in 0..V {
                        factors[v] = load::<S, MASKED>(simd, row.add(v * S::F32_LANES), mask);
                    }
                    for i in 0..R {
                        let x = simd.splat_f32s(*from[i].add(l));
                        for v in 0..V {
                            sums[i][v] = simd.mul_add_e_f32s(x, factors[v], sums[i][v]);
                        }
                    }
                }
                for i in 0..R.min(t - first) {
                    for v in 0..V {
                        store::<S, MASKED>(simd, to[i].add(v * S::F32_LANES), sums[i][v], mask);
                    }
                }
            }
        }
    }
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

/// # Safety
/// The vector, or the mask's lanes of it, can be written.
#[inline(always)]
unsafe fn store<S: Simd, const MASKED: bool>(simd: S, to: *mut f32, values: S::f32s, mask: MemMask<S::m32s>) {
    // SAFETY: the caller's promise; the writes need no alignment.
    unsafe {
        if MASKED {
            simd.mask_store_ptr_f32s(mask, to, values);
        } else {
            to.cast::<S::f32s>().write_unaligned(values);
        }
    }
}

/// out (t, n) = x (t, k) · y (n, k)ᵀ by dot products, for few rows of x: y is read once, as it lies.
pub(super) struct DotProducts<'a> {
    /// t, n and k.
    pub(super) size: [usize; 3],
    pub(super) x: Strided<'a>,
    pub(super) y: Strided<'a>,
    pub(super) out: &'a mut [f32],
    /// Values from one row of `out` to the next, at least n.
    pub(super) stride: usize,
}

impl WithSimd for DotProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { size: [t, n, k], x, y, out, stride } = self;
        let to = Strided { values: &*out, stride };
        assert!(x.holds(t, k) && y.holds(n, k) && to.holds(t, n) && stride >= n, "operands are there");
        let (x, y) = (Source::of(x), Source::of(y));
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
    x: Source,
    y: Source,
    k: usize,
) -> [[S::f32s; J]; R] {
    let mut sums = [[simd.splat_f32s(0.0); J]; R];
    let mut from = [x.start; R];
    for i in 0..R {
        from[i] = x.row((first + i).min(last));
    }
    let mut from_y = [y.start; J];
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The widest vectors of this CPU, narrower ones and none.
    fn archs() -> Vec<pulp::Arch> {
        let archs = vec![pulp::Arch::new(), pulp::Arch::Scalar];
        #[cfg(target_arch = "x86_64")]
        let archs = archs.into_iter().chain(pulp::x86::V3::try_new().map(pulp::Arch::V3)).collect();
        archs
    }

    /// Small integers, whose products have exact sums.
    fn integers(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 37 + i / 11 * 5 + seed) % 19) as f32 - 9.0).collect()
    }

    /// Σ over k of x\[i\]\[l\] · y(l, j) in f64.
    fn expected(
        [t, n, k]: [usize; 3],
        x: Strided<'_>,
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
            let (x, panel) =
                (Strided { values: &x, stride: k + 3 }, Strided { values: &panel, stride: n + 5 });
            let stride = n + 2;
            let before = integers(rows(t, n, stride), 3);
            let mut out = before.clone();
            arch.dispatch(Product { size, x, panel, out: &mut out, stride, accumulate });
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
            let (x, y) = (Strided { values: &x, stride: k + 3 }, Strided { values: &y, stride: k + 5 });
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
            arch.dispatch(Product {
                size: [t, n, k],
                x: Strided { values: &x, stride: k },
                panel: Strided { values: &panel, stride: n },
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
