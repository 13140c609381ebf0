//! One step of the online softmax on a row of scores, in units of log₂: 2ˣ takes fewer operations than eˣ.

use pulp::Simd;

/// The state of an online softmax.
pub(super) struct Softmax<'a> {
    /// Largest score so far, −∞ without any.
    pub(super) largest: &'a mut f32,
    /// Sum of the weights so far, relative to `largest`.
    pub(super) total: &'a mut f32,
}

impl Softmax<'_> {
    /// Turns scores into weights relative to the largest score so far. The factor that earlier weights shrink by is
    /// returned.
    #[inline(always)]
    pub(super) fn step<S: Simd>(self, simd: S, scores: &mut [f32], mask: Option<&[u32]>) -> f32 {
        if let Some(mask) = mask {
            hide(simd, scores, mask);
        }
        let best = max(simd, scores);
        let best = if best > *self.largest { best } else { *self.largest };
        // Where no key has been seen, weights are 0; those of NaN have to stay NaN.
        let base = if best == f32::NEG_INFINITY { 0.0 } else { best };
        let shrink = power(simd, *self.largest - base);
        *self.total = *self.total * shrink + weigh(simd, scores, base);
        *self.largest = best;
        shrink
    }
}

/// Scores of masked keys become −∞.
#[inline(always)]
fn hide<S: Simd>(simd: S, scores: &mut [f32], mask: &[u32]) {
    let never = simd.splat_f32s(f32::NEG_INFINITY);
    let zero = simd.splat_u32s(0);
    let ((scores, tail), (mask, mask_tail)) = (S::as_mut_simd_f32s(scores), S::as_simd_u32s(mask));
    for (score, &mask) in scores.iter_mut().zip(mask) {
        *score = simd.select_f32s(simd.equal_u32s(mask, zero), never, *score);
    }
    for (score, &mask) in tail.iter_mut().zip(mask_tail) {
        *score = if mask == 0 { f32::NEG_INFINITY } else { *score };
    }
}

/// The values of a slice shorter than a vector; −∞ in the lanes after it.
#[inline(always)]
fn partial<S: Simd>(simd: S, values: &[f32]) -> S::f32s {
    let there = simd.mask_between_m32s(0, values.len() as u32).mask();
    simd.select_f32s(there, simd.partial_load_f32s(values), simd.splat_f32s(f32::NEG_INFINITY))
}

/// The largest element, −∞ for none. NaN may be ignored, it shows in the sum that follows.
#[inline(always)]
fn max<S: Simd>(simd: S, x: &[f32]) -> f32 {
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
fn weigh<S: Simd>(simd: S, x: &mut [f32], base: f32) -> f32 {
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

#[cfg(test)]
mod tests {
    use pulp::WithSimd;

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
}
