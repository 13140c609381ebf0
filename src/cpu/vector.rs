//! Powers, sums and maxima over slices of any length, by vectors: loops over a few dozen values are too short for what the
//! compiler makes of them.

use pulp::{Simd, WithSimd};

/// The values of a slice shorter than a vector; −∞ in the lanes after it.
#[inline(always)]
fn partial<S: Simd>(simd: S, values: &[f32]) -> S::f32s {
    let there = simd.mask_between_m32s(0, values.len() as u32).mask();
    simd.select_f32s(there, simd.partial_load_f32s(values), simd.splat_f32s(f32::NEG_INFINITY))
}

/// The largest element, −∞ for none. NaN may be ignored, it shows in the sum that follows.
#[inline(always)]
pub(super) fn max<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let (x, tail) = S::as_simd_f32s(x);
    let never = simd.splat_f32s(f32::NEG_INFINITY);
    let mut best = [partial(simd, tail), never, never, never];
    let (fours, rest) = pulp::as_arrays::<4, _>(x);
    for x in fours {
        for i in 0..4 {
            best[i] = simd.max_f32s(x[i], best[i]);
        }
    }
    for &x in rest {
        best[0] = simd.max_f32s(x, best[0]);
    }
    let best = [simd.max_f32s(best[0], best[1]), simd.max_f32s(best[2], best[3])];
    simd.reduce_max_f32s(simd.max_f32s(best[0], best[1]))
}

/// x becomes 2^(x − base); their sum.
#[inline(always)]
pub(super) fn weigh<S: Simd>(simd: S, x: &mut [f32], base: f32) -> f32 {
    let base = simd.splat_f32s(base);
    let (x, tail) = S::as_mut_simd_f32s(x);
    let mut sum = simd.splat_f32s(0.0);
    for x in x {
        *x = exp2(simd, simd.sub_f32s(*x, base));
        sum = simd.add_f32s(sum, *x);
    }
    if !tail.is_empty() {
        let weights = exp2(simd, simd.sub_f32s(partial(simd, tail), base));
        simd.partial_store_f32s(tail, weights);
        sum = simd.add_f32s(sum, weights);
    }
    simd.reduce_sum_f32s(sum)
}

/// 2ˣ for x ≤ 0 or NaN.
#[inline(always)]
pub(super) fn power<S: Simd>(simd: S, x: f32) -> f32 {
    let mut power = [0.0];
    simd.partial_store_f32s(&mut power, exp2(simd, simd.splat_f32s(x)));
    power[0]
}

/// 2ˣ to about 1 ulp for x ≤ 0; less than the smallest normal number gives 0, NaN stays NaN.
#[inline(always)]
fn exp2<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // 1.5·2²³ + 127: adding it leaves the exponent's bits of 2ⁿ, n being the nearest integer, in the low bits.
    let round = simd.splat_f32s(12_583_039.0);
    let shifted = simd.add_f32s(x, round);
    let r = simd.sub_f32s(x, simd.sub_f32s(shifted, round));
    let p = simd.splat_f32s(1.535_336_2e-4);
    let p = simd.mul_add_e_f32s(p, r, simd.splat_f32s(1.339_887_4e-3));
    let p = simd.mul_add_e_f32s(p, r, simd.splat_f32s(9.618_437e-3));
    let p = simd.mul_add_e_f32s(p, r, simd.splat_f32s(5.550_332_4e-2));
    let p = simd.mul_add_e_f32s(p, r, simd.splat_f32s(2.402_264_8e-1));
    let p = simd.mul_add_e_f32s(p, r, simd.splat_f32s(std::f32::consts::LN_2));
    let p = simd.mul_add_e_f32s(p, r, simd.splat_f32s(1.0));
    let bits = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    let power = simd.mul_f32s(p, simd.transmute_f32s_u32s(bits));
    // False for NaN.
    let small = simd.less_than_f32s(x, simd.splat_f32s(-126.0));
    simd.select_f32s(small, simd.splat_f32s(0.0), power)
}

/// eˣ to about 1 ulp; 0 below the smallest normal number and infinity from 2¹²⁷·√2 on, NaN stays NaN.
#[inline(always)]
fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let [lowest, highest] = [simd.splat_f32s(-87.3), simd.splat_f32s(88.8)];
    let clamped = simd.select_f32s(simd.greater_than_f32s(x, highest), highest, x);
    let clamped = simd.select_f32s(simd.less_than_f32s(x, lowest), lowest, clamped);
    // As in `exp2`.
    let round = simd.splat_f32s(12_583_039.0);
    let shifted = simd.mul_add_e_f32s(clamped, simd.splat_f32s(std::f32::consts::LOG2_E), round);
    let n = simd.sub_f32s(shifted, round);
    // ln 2 in two parts, so that n·ln 2 is exact to more than f32.
    let r = simd.mul_add_e_f32s(n, simd.splat_f32s(-0.693_359_4), clamped);
    let r = simd.mul_add_e_f32s(n, simd.splat_f32s(2.121_944_4e-4), r);
    let p = simd.splat_f32s(1.987_569_1e-4);
    let p = simd.mul_add_e_f32s(p, r, simd.splat_f32s(1.398_199_9e-3));
    let p = simd.mul_add_e_f32s(p, r, simd.splat_f32s(8.333_452e-3));
    let p = simd.mul_add_e_f32s(p, r, simd.splat_f32s(4.166_579_6e-2));
    let p = simd.mul_add_e_f32s(p, r, simd.splat_f32s(1.666_666_5e-1));
    let p = simd.mul_add_e_f32s(p, r, simd.splat_f32s(0.5));
    let p = simd.add_f32s(simd.mul_add_e_f32s(simd.mul_f32s(p, r), r, r), simd.splat_f32s(1.0));
    let bits = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    let power = simd.mul_f32s(p, simd.transmute_f32s_u32s(bits));
    simd.select_f32s(simd.less_than_f32s(x, lowest), simd.splat_f32s(0.0), power)
}

/// a += b\[..a.len()\].
pub(super) struct Add<'a>(pub(super) &'a mut [f32], pub(super) &'a [f32]);

impl WithSimd for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        combine(
            simd,
            self.0,
            self.1,
            #[inline(always)]
            |a, b| simd.add_f32s(a, b),
        );
    }
}

/// a *= b\[..a.len()\].
pub(super) struct Multiply<'a>(pub(super) &'a mut [f32], pub(super) &'a [f32]);

impl WithSimd for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        combine(
            simd,
            self.0,
            self.1,
            #[inline(always)]
            |a, b| simd.mul_f32s(a, b),
        );
    }
}

/// a = f(a, b\[..a.len()\]).
#[inline(always)]
fn combine<S: Simd>(simd: S, a: &mut [f32], b: &[f32], f: impl Fn(S::f32s, S::f32s) -> S::f32s) {
    let b = &b[..a.len()];
    let ((a, a_tail), (b, b_tail)) = (S::as_mut_simd_f32s(a), S::as_simd_f32s(b));
    for i in 0..a.len() {
        a[i] = f(a[i], b[i]);
    }
    if !a_tail.is_empty() {
        let last = f(simd.partial_load_f32s(a_tail), simd.partial_load_f32s(b_tail));
        simd.partial_store_f32s(a_tail, last);
    }
}

/// x·sigmoid(x).
#[inline(always)]
fn silu<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    simd.div_f32s(x, simd.add_f32s(simd.splat_f32s(1.0), exp(simd, simd.neg_f32s(x))))
}

/// x becomes x·sigmoid(x).
pub(super) struct Silu<'a>(pub(super) &'a mut [f32]);

impl WithSimd for Silu<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (x, tail) = S::as_mut_simd_f32s(self.0);
        for x in x {
            *x = silu(simd, *x);
        }
        if !tail.is_empty() {
            let x = simd.partial_load_f32s(tail);
            simd.partial_store_f32s(tail, silu(simd, x));
        }
    }
}

/// The largest value and Σ eˣ relative to it, which is NaN if a value is not finite. The slice is overwritten.
pub(super) struct LogSumExp<'a>(pub(super) &'a mut [f32]);

impl WithSimd for LogSumExp<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> (f32, f32) {
        let largest = max(simd, self.0);
        let (scale, base) = (simd.splat_f32s(std::f32::consts::LOG2_E), simd.splat_f32s(largest));
        let (x, tail) = S::as_mut_simd_f32s(self.0);
        // 0·x is 0, or else NaN.
        let mut fault = simd.splat_f32s(0.0);
        for x in x {
            fault = simd.mul_add_e_f32s(*x, simd.splat_f32s(0.0), fault);
            *x = simd.mul_f32s(simd.sub_f32s(*x, base), scale);
        }
        let mut fault = simd.reduce_sum_f32s(fault);
        for x in tail {
            fault += *x * 0.0;
            *x = (*x - largest) * std::f32::consts::LOG2_E;
        }
        (largest, weigh(simd, self.0, 0.0) + fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Powers by exp2 in place of exponents.
    struct Powers<'a>(&'a mut [f32]);

    impl WithSimd for Powers<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            self.0.iter_mut().for_each(
                #[inline(always)]
                |x| *x = power(simd, *x),
            );
        }
    }

    #[test]
    fn powers_of_two_are_close_over_the_whole_range() {
        for arch in [pulp::Arch::new(), pulp::Arch::Scalar] {
            let exponents: Vec<f32> = (-1_260_000..=0).map(|i| i as f32 * 1e-4).collect();
            let mut powers = exponents.clone();
            arch.dispatch(Powers(&mut powers));
            let errors = exponents.iter().zip(&powers);
            let errors = errors.map(|(&x, &power)| (f64::from(power) / f64::from(x).exp2() - 1.0).abs());
            let worst = errors.fold(0.0, f64::max);
            assert!(worst < 1.5e-7, "relative error {worst:e}");
            let mut powers = [0.0, -1.0, -126.0, -126.5, -1e30, f32::NEG_INFINITY, f32::NAN];
            arch.dispatch(Powers(&mut powers));
            assert_eq!(powers[..6], [1.0, 0.5, f32::MIN_POSITIVE, 0.0, 0.0, 0.0]);
            assert!(powers[6].is_nan());
        }
    }

    /// Of every length up to two vectors and a few.
    #[test]
    fn silu_is_close_over_the_whole_range() {
        for arch in [pulp::Arch::new(), pulp::Arch::Scalar] {
            let x: Vec<f32> = (-950_000..=950_000).map(|i| i as f32 * 1e-4).collect();
            let mut got = x.clone();
            got.chunks_mut(37).for_each(|part| arch.dispatch(Silu(part)));
            for (&x, &got) in x.iter().zip(&got) {
                let want = f64::from(x) / (1.0 + (-f64::from(x)).exp());
                let error = (f64::from(got) - want).abs();
                assert!(error <= 3e-7 * want.abs() + 1e-36, "silu({x}) is {got}, expected {want}");
            }
            let mut got = [f32::INFINITY, -1e30, 0.0, f32::NAN, f32::NEG_INFINITY];
            arch.dispatch(Silu(&mut got));
            assert_eq!(got[..3], [f32::INFINITY, 0.0, 0.0]);
            assert!(got[3].is_nan() && got[4].is_nan());
        }
    }

    #[test]
    fn slices_of_every_length_are_combined() {
        for arch in [pulp::Arch::new(), pulp::Arch::Scalar] {
            for len in 0..70 {
                let a: Vec<f32> = (0..len).map(|i| i as f32 - 9.0).collect();
                let b: Vec<f32> = (0..len + 3).map(|i| (i * 7 % 11) as f32).collect();
                let (mut sum, mut product) = (a.clone(), a.clone());
                arch.dispatch(Add(&mut sum, &b));
                arch.dispatch(Multiply(&mut product, &b));
                for i in 0..len {
                    assert_eq!((sum[i], product[i]), (a[i] + b[i], a[i] * b[i]), "{i} of {len}");
                }
            }
        }
    }

    #[test]
    fn sums_of_exponentials_are_close_at_every_length() {
        for arch in [pulp::Arch::new(), pulp::Arch::Scalar] {
            for len in 1..70 {
                let x: Vec<f32> = (0..len).map(|i| ((i * 37 + len) % 41) as f32 - 15.5).collect();
                let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let want: f64 = x.iter().map(|&x| f64::from(x - most).exp()).sum();
                let (largest, sum) = arch.dispatch(LogSumExp(&mut x.clone()));
                assert_eq!(largest, most);
                assert!((f64::from(sum) / want - 1.0).abs() < 1e-6, "{len}: {sum}, expected {want}");
                for fault in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut x = x.clone();
                    x[len / 2] = fault;
                    assert!(arch.dispatch(LogSumExp(&mut x)).1.is_nan(), "{len}: {fault}");
                }
            }
        }
    }
}
