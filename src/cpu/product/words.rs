//! Transposing blocks of 32-bit words: one f32 weight each, or two neighbouring 16-bit ones.
//!
//! Loops instead of methods of arrays, which are not inlined everywhere.

use crate::cpu::math;

/// Vector instructions that transpose a block of L × L words.
pub(super) trait Words<const L: usize>: Copy {
    /// to\[j\]\[i\] = word j of row i.
    ///
    /// # Safety
    /// Every row is valid for L words, at any alignment.
    unsafe fn transpose(self, rows: [*const u8; L], to: &mut [[u32; L]; L]);
}

/// Four words at a time, by instructions that every processor has.
#[derive(Clone, Copy)]
pub(super) struct Portable;

impl Words<4> for Portable {
    #[inline(always)]
    unsafe fn transpose(self, rows: [*const u8; 4], to: &mut [[u32; 4]; 4]) {
        let mut words = [[0.0f32; 4]; 4];
        for i in 0..4 {
            // SAFETY: the caller promises four words in each row.
            words[i] = unsafe { rows[i].cast::<[f32; 4]>().read_unaligned() };
        }
        *to = bytemuck::cast(math::transpose4(words));
    }
}

#[cfg(target_arch = "x86_64")]
impl Words<8> for pulp::x86::V3 {
    #[inline(always)]
    unsafe fn transpose(self, rows: [*const u8; 8], to: &mut [[u32; 8]; 8]) {
        let (avx, avx2) = (self.avx, self.avx2);
        let mut words = [avx._mm256_setzero_si256(); 8];
        for i in 0..8 {
            // SAFETY: the caller promises eight words in each row.
            words[i] = unsafe { avx._mm256_loadu_si256(rows[i].cast()) };
        }
        let mut pairs = words;
        for i in (0..8).step_by(2) {
            pairs[i] = avx2._mm256_unpacklo_epi32(words[i], words[i + 1]);
            pairs[i + 1] = avx2._mm256_unpackhi_epi32(words[i], words[i + 1]);
        }
        // fours[4·g + c]: in half h column 4·h + c of rows 4·g to 4·g + 3.
        let mut fours = pairs;
        for i in (0..8).step_by(4) {
            for half in 0..2 {
                let (a, b) = (pairs[i + half], pairs[i + 2 + half]);
                fours[i + 2 * half] = avx2._mm256_unpacklo_epi64(a, b);
                fours[i + 2 * half + 1] = avx2._mm256_unpackhi_epi64(a, b);
            }
        }
        for c in 0..4 {
            let (a, b) = (fours[c], fours[4 + c]);
            let columns = [
                (c, avx2._mm256_permute2x128_si256::<0x20>(a, b)),
                (4 + c, avx2._mm256_permute2x128_si256::<0x31>(a, b)),
            ];
            for (column, words) in columns {
                // SAFETY: a row of `to` is eight words.
                unsafe { avx._mm256_storeu_si256(to[column].as_mut_ptr().cast(), words) };
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Words<16> for pulp::x86::V4 {
    #[inline(always)]
    unsafe fn transpose(self, rows: [*const u8; 16], to: &mut [[u32; 16]; 16]) {
        let avx = self.avx512f;
        let mut words = [avx._mm512_setzero_si512(); 16];
        for i in 0..16 {
            // SAFETY: the caller promises sixteen words in each row.
            words[i] = unsafe { avx._mm512_loadu_si512(rows[i].cast()) };
        }
        let mut pairs = words;
        for i in (0..16).step_by(2) {
            pairs[i] = avx._mm512_unpacklo_epi32(words[i], words[i + 1]);
            pairs[i + 1] = avx._mm512_unpackhi_epi32(words[i], words[i + 1]);
        }
        // fours[4·g + c]: in quarter q column 4·q + c of rows 4·g to 4·g + 3.
        let mut fours = pairs;
        for i in (0..16).step_by(4) {
            for half in 0..2 {
                let (a, b) = (pairs[i + half], pairs[i + 2 + half]);
                fours[i + 2 * half] = avx._mm512_unpacklo_epi64(a, b);
                fours[i + 2 * half + 1] = avx._mm512_unpackhi_epi64(a, b);
            }
        }
        for c in 0..4 {
            let (a, b, e, f) = (fours[c], fours[4 + c], fours[8 + c], fours[12 + c]);
            // Columns c and 4 + c, then 8 + c and 12 + c.
            let low = [avx._mm512_shuffle_i32x4::<0x44>(a, b), avx._mm512_shuffle_i32x4::<0x44>(e, f)];
            let high = [avx._mm512_shuffle_i32x4::<0xee>(a, b), avx._mm512_shuffle_i32x4::<0xee>(e, f)];
            let columns = [
                (c, avx._mm512_shuffle_i32x4::<0x88>(low[0], low[1])),
                (4 + c, avx._mm512_shuffle_i32x4::<0xdd>(low[0], low[1])),
                (8 + c, avx._mm512_shuffle_i32x4::<0x88>(high[0], high[1])),
                (12 + c, avx._mm512_shuffle_i32x4::<0xdd>(high[0], high[1])),
            ];
            for (column, words) in columns {
                // SAFETY: a row of `to` is sixteen words.
                unsafe { avx._mm512_storeu_si512(to[column].as_mut_ptr().cast(), words) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At an odd address.
    fn check<const L: usize>(words: impl Words<L>) {
        let mut bytes = vec![0u8];
        bytes.extend((0..L * L).flat_map(|at| (at as u32 * 0x0101_0101).to_le_bytes()));
        let mut to = [[0; L]; L];
        // SAFETY: row i is L words from byte 1 + 4·L·i on.
        unsafe { words.transpose(std::array::from_fn(|i| bytes[1 + 4 * L * i..].as_ptr()), &mut to) };
        for (j, column) in to.iter().enumerate() {
            for (i, &word) in column.iter().enumerate() {
                assert_eq!(word, (i * L + j) as u32 * 0x0101_0101, "row {i}, column {j} of {L}");
            }
        }
    }

    #[test]
    fn blocks_are_transposed() {
        check(Portable);
        #[cfg(target_arch = "x86_64")]
        {
            pulp::x86::V3::try_new().into_iter().for_each(check);
            pulp::x86::V4::try_new().into_iter().for_each(check);
        }
    }
}
