//! Small numeric kernels, written so that the compiler vectorises them where they are inlined into a dispatched loop.

/// bfloat16 bits to f32, exactly.
#[inline(always)]
pub(super) fn bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The nearest bf16 (even if in doubt), as bits, and what it leaves of x. Finite values too large for that are cut off
/// instead, so that they stay finite, and what is not finite leaves nothing: infinity minus infinity would be NaN.
#[inline(always)]
pub(super) fn split_bf16(x: f32) -> (u16, f32) {
    const INFINITY: u32 = f32::INFINITY.to_bits();
    const ROUNDS_TO_INFINITY: u32 = 0x7f7f_8000;
    const QUIET: u32 = 0x0040_0000;
    let bits = x.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    let cut = if magnitude > INFINITY { bits | QUIET } else { bits };
    let term = if magnitude < ROUNDS_TO_INFINITY { rounded } else { cut } & 0xffff_0000;
    let rest = if magnitude < INFINITY { x - f32::from_bits(term) } else { 0.0 };
    ((term >> 16) as u16, rest)
}

/// x rounded to bf16, as by [`split_bf16`].
#[inline(always)]
pub(super) fn round_to_bf16(x: &mut [f32]) {
    x.iter_mut().for_each(
        #[inline(always)]
        |x| *x = bf16(split_bf16(*x).0),
    );
}

/// IEEE half bits to f32, exactly: the exponent is rebiased by a multiplication, which handles subnormals too.
#[inline(always)]
pub(super) fn f16(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let finite = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let value = if magnitude >= 0x0f80_0000 { magnitude | 0x7f80_0000 } else { finite };
    f32::from_bits(value | u32::from(bits & 0x8000) << 16)
}

/// The transposed block. Without methods of arrays, which are not inlined everywhere.
#[inline(always)]
pub(super) fn transpose4([a, b, c, d]: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
    // The compiler makes 16 scalar moves of the plain loop; SSE is part of every x86-64.
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_mm_movehl_ps, _mm_movelh_ps, _mm_unpackhi_ps, _mm_unpacklo_ps};

        use bytemuck::cast;
        let (a, b, c, d) = (cast(a), cast(b), cast(c), cast(d));
        // SAFETY: x86-64 always has SSE, which is all that these register shuffles need.
        unsafe {
            let (low, high) = (_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
            let (low2, high2) = (_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
            [
                cast(_mm_movelh_ps(low, low2)),
                cast(_mm_movehl_ps(low2, low)),
                cast(_mm_movelh_ps(high, high2)),
                cast(_mm_movehl_ps(high2, high)),
            ]
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let column = |k: usize| [a[k], b[k], c[k], d[k]];
        [column(0), column(1), column(2), column(3)]
    }
}

/// to\[j·to_stride + i\] = from\[i·stride + j\] for i < height, j < width.
#[inline(always)]
pub(super) fn transpose(
    from: &[f32],
    stride: usize,
    [height, width]: [usize; 2],
    to: &mut [f32],
    to_stride: usize,
) {
    let (whole_rows, whole_columns) = (height / 4 * 4, width / 4 * 4);
    assert!(
        width <= stride
            && from.len() + stride >= height * stride + width
            && to.len() + to_stride >= width * to_stride + height
    );
    for j in (0..whole_columns).step_by(4) {
        for i in (0..whole_rows).step_by(4) {
            // SAFETY: i + 3 < height and j + 3 < width, and the assertion says that `from` and `to` reach that far; an array
            // of floats needs no more alignment than a float. Checked slices would cost as much as the moves.
            unsafe {
                let row = |row: usize| from.as_ptr().add((i + row) * stride + j).cast::<[f32; 4]>().read();
                let columns = transpose4([row(0), row(1), row(2), row(3)]);
                for k in 0..4 {
                    to.as_mut_ptr().add((j + k) * to_stride + i).cast::<[f32; 4]>().write(columns[k]);
                }
            }
        }
    }
    for j in 0..width {
        let done = if j < whole_columns { whole_rows } else { 0 };
        for i in done..height {
            to[j * to_stride + i] = from[i * stride + j];
        }
    }
}

/// Σ a·b over equally long slices, in a fixed order.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 64;
    let mut sums = [0.0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..LANES {
            sums[i] = a[i].mul_add(b[i], sums[i]);
        }
    }
    reduce(&mut sums) + tail
}

/// Σ f(x) over a slice, in a fixed order.
#[inline(always)]
pub(super) fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    const LANES: usize = 32;
    let mut sums = [0.0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let tail: f32 = chunks.remainder().iter().map(|&x| f(x)).sum();
    for x in chunks {
        for i in 0..LANES {
            sums[i] += f(x[i]);
        }
    }
    reduce(&mut sums) + tail
}

#[inline(always)]
fn reduce<const N: usize>(sums: &mut [f32; N]) -> f32 {
    let mut half = N / 2;
    while half > 0 {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
        half /= 2;
    }
    sums[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_conversions_are_exact_for_every_bit_pattern() {
        for bits in 0..=u16::MAX {
            let (a, b) = (f16(bits), half::f16::from_bits(bits).to_f32());
            assert!(a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()), "f16 {bits:#x}: {a} {b}");
            let (a, b) = (bf16(bits), half::bf16::from_bits(bits).to_f32());
            assert!(a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()), "bf16 {bits:#x}: {a} {b}");
        }
    }

    #[test]
    fn sums_cover_ragged_lengths() {
        for n in [0, 1, 31, 32, 33, 63, 64, 65, 200] {
            let x: Vec<f32> = (0..n).map(|i| ((i * 37) % 19) as f32 - 9.0).collect();
            let y: Vec<f32> = (0..n).map(|i| ((i * 11) % 7) as f32).collect();
            let exact: f32 = x.iter().zip(&y).map(|(a, b)| a * b).sum();
            assert_eq!(dot(&x, &y), exact, "dot of {n}");
            assert_eq!(sum(&x, |x| x), x.iter().sum::<f32>(), "sum of {n}");
        }
    }

    #[test]
    fn a_transposed_matrix_ends_where_it_should() {
        let stride = 21;
        let from: Vec<f32> = (0..16 * stride).map(|i| i as f32).collect();
        for (height, width) in [(1, 1), (3, 3), (4, 4), (5, 7), (16, 9), (13, 2), (2, 21)] {
            let to_stride = height + 1;
            let mut to = vec![-1.0; width * to_stride + 64];
            transpose(&from, stride, [height, width], &mut to[..width * to_stride], to_stride);
            for (at, &got) in to.iter().enumerate() {
                let (j, i) = (at / to_stride, at % to_stride);
                let want = if i < height && j < width { from[i * stride + j] } else { -1.0 };
                assert_eq!(got, want, "({height}, {width}) at {i}, {j}");
            }
        }
    }
}
