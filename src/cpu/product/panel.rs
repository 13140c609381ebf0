//! Panels of a weight: up to 96 output features, converted to f32 and transposed, as the micro-kernel reads them.

use std::{marker::PhantomData, ops::Range};

use super::{
    Factors, GROUP_ROWS,
    microkernel::SUM_STEPS,
    words::{Portable, Words},
};
use crate::{
    checkpoint::Dtype,
    cpu::{Cpu, math, matrix::Matrix},
};

/// Output features of a panel, for which x is read once.
pub(in crate::cpu) const PANEL_FEATURES: usize = 96;
/// Columns of W converted at a time.
pub(super) const PANEL_COLUMNS: usize = 1536;

/// Features and columns of a panel that t rows are multiplied with. The fewer rows, the more of the time goes into filling it: a
/// small one stays in the first-level cache and is multiplied soon, so that the next part of W is always under way.
pub(super) fn shape(t: usize) -> [usize; 2] {
    match t {
        ..=32 => [PANEL_FEATURES / 2, SUM_STEPS],
        33..=GROUP_ROWS => [PANEL_FEATURES, 4 * SUM_STEPS],
        _ => [PANEL_FEATURES, PANEL_COLUMNS],
    }
}

/// Panel = W\[features, inputs\]ᵀ of the picked rows and columns in f32, in groups of `group` features that follow one another,
/// each (inputs, group); skipped rows give 0, and so do features that the last group lacks.
pub(super) fn fill(
    cpu: &Cpu,
    panel: &mut [f32],
    group: usize,
    factors: Factors<'_>,
    features: Range<usize>,
    inputs: Range<usize>,
) {
    let to = Target { panel, group, features, inputs };
    match cpu.arch {
        #[cfg(target_arch = "x86_64")]
        pulp::Arch::V4(simd) => simd.vectorize(Fill { words: simd, to, factors }),
        #[cfg(target_arch = "x86_64")]
        pulp::Arch::V3(simd) => simd.vectorize(Fill { words: simd, to, factors }),
        _ => pulp::NullaryFnOnce::call(Fill { words: Portable, to, factors }),
    }
}

/// A panel to be filled.
struct Target<'a> {
    panel: &'a mut [f32],
    group: usize,
    features: Range<usize>,
    inputs: Range<usize>,
}

struct Fill<'a, W, const L: usize> {
    words: W,
    to: Target<'a>,
    factors: Factors<'a>,
}

impl<W: Words<L>, const L: usize> pulp::NullaryFnOnce for Fill<'_, W, L> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { words, to, factors } = self;
        match factors.weight.tensor.dtype() {
            Dtype::F32 => fill_as::<W, L, 1>(words, to, factors, |word, _| f32::from_bits(word)),
            Dtype::BF16 => fill_as::<W, L, 2>(words, to, factors, |word, half| {
                f32::from_bits(word << (16 - 16 * half) & 0xffff_0000)
            }),
            Dtype::F16 => {
                fill_as::<W, L, 2>(words, to, factors, |word, half| math::f16((word >> (16 * half)) as u16))
            }
        }
    }
}

/// [`fill`] for weights of which a word holds N; `convert` takes a word and which of its weights is meant.
#[inline(always)]
fn fill_as<W: Words<L>, const L: usize, const N: usize>(
    words: W,
    Target { panel, group, features, inputs }: Target<'_>,
    Factors { weight, rows, columns, .. }: Factors<'_>,
    convert: impl Fn(u32, u32) -> f32,
) {
    let depth = inputs.len();
    let groups = features.len().div_ceil(group);
    assert!(group.is_multiple_of(L) && groups * group * depth <= panel.len(), "the panel has room");
    for top in (0..features.len()).step_by(L) {
        let source = WeightRows::<L>::new(weight, |i| {
            (features.start + top + i < features.end).then(|| rows.index(features.start + top + i)).flatten()
        });
        let to = panel[top / group * group * depth + top % group..].as_mut_ptr();
        // SAFETY: input `at` of these L features; the assertion says that the panel has them for every input below `depth`.
        let to = |at: usize| unsafe { &mut *to.add(at * group).cast::<[f32; L]>() };
        let (mut block, mut held) = ([[0; L]; L], usize::MAX);
        columns.runs(
            inputs.start,
            inputs.end,
            #[inline(always)]
            |picked, column, length| {
                assert!(picked + length <= inputs.end, "these are the inputs asked for");
                let mut done = 0;
                while done < length {
                    let (at, first) = (column + done, picked + done - inputs.start);
                    let many = (L * N - at % (L * N)).min(length - done);
                    if many == L * N {
                        // A whole block stays in registers.
                        let mut block = [[0; L]; L];
                        source.transpose(words, at / (L * N), &mut block);
                        for word in 0..L {
                            for part in 0..N {
                                convert_words(&block[word], part, to(first + word * N + part), &convert);
                            }
                        }
                    } else {
                        if at / (L * N) != held {
                            held = at / (L * N);
                            source.transpose(words, held, &mut block);
                        }
                        for i in 0..many {
                            let (word, part) = ((at + i) % (L * N) / N, (at + i) % N);
                            convert_words(&block[word], part, to(first + i), &convert);
                        }
                    }
                    done += many;
                }
            },
        );
    }
}

/// The weights of one column, which are part `part` of these words.
#[inline(always)]
fn convert_words<const L: usize>(
    words: &[u32; L],
    part: usize,
    to: &mut [f32; L],
    convert: &impl Fn(u32, u32) -> f32,
) {
    for i in 0..L {
        to[i] = convert(words[i], part as u32);
    }
}

/// L rows of a weight in memory; rows of 0 where there are none.
struct WeightRows<'a, const L: usize> {
    starts: [*const u8; L],
    /// All bits of a row that is there, none of one that is not: such a row always starts anew.
    present: [usize; L],
    /// Bytes of a row.
    len: usize,
    weight: PhantomData<&'a Matrix>,
}

impl<'a, const L: usize> WeightRows<'a, L> {
    #[inline(always)]
    fn new(weight: &'a Matrix, index: impl Fn(usize) -> Option<usize>) -> Self {
        static ZEROS: [u8; 64] = [0; 64];
        const { assert!(L * size_of::<u32>() <= ZEROS.len()) };
        let (bytes, len) = (weight.tensor.bytes(), weight.columns * weight.tensor.dtype().size());
        let rows: [_; L] = core::array::from_fn(|i| index(i).map(|index| &bytes[index * len..][..len]));
        Self {
            starts: rows.map(|row| row.map_or(ZEROS.as_ptr(), <[u8]>::as_ptr)),
            present: rows.map(|row| if row.is_some() { usize::MAX } else { 0 }),
            len,
            weight: PhantomData,
        }
    }

    /// The block-th L words of every row; 0 after its end.
    #[inline(always)]
    fn transpose(&self, words: impl Words<L>, block: usize, to: &mut [[u32; L]; L]) {
        const BYTES: usize = size_of::<u32>();
        let from = block * L * BYTES;
        assert!(from < self.len, "the block lies in the rows");
        let mut rows = self.starts;
        for i in 0..L {
            rows[i] = rows[i].wrapping_add(from & self.present[i]);
        }
        if from + L * BYTES <= self.len {
            // SAFETY: these words lie in the rows; of a row that is not there, they are `ZEROS`.
            unsafe { words.transpose(rows, to) };
            return;
        }
        let (mut ends, left) = ([[0u32; L]; L], self.len - from);
        for i in 0..L {
            // SAFETY: `left` bytes are left of the row, or at most as many are among `ZEROS`.
            let row = unsafe { std::slice::from_raw_parts(rows[i], left) };
            bytemuck::cast_slice_mut::<u32, u8>(&mut ends[i])[..left].copy_from_slice(row);
            rows[i] = ends[i].as_ptr().cast();
        }
        // SAFETY: rows of L words.
        unsafe { words.transpose(rows, to) };
    }
}
