//! One step of the online softmax on a row of scores, in units of log₂: 2ˣ takes fewer operations than eˣ.

use pulp::Simd;

use crate::cpu::vector::{max, power, weigh};

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
