//! wgmma with every layout of its shared operands.

use super::{Case, tensor::chunk};

const K: usize = 16;
const N: usize = 16;

fn a(m: usize, k: usize) -> i32 {
    (m as i32 * 5 + k as i32 * 3) % 13 - 6
}

fn b(k: usize, n: usize) -> i32 {
    (k as i32 * 7 + n as i32 * 2) % 9 - 4
}

fn bf16(v: i32) -> u16 {
    ((v as f32).to_bits() >> 16) as u16
}

fn f16(v: i32) -> u16 {
    let Some(e) = v.unsigned_abs().checked_ilog2() else { return 0 };
    u16::from(v < 0) << 15 | ((15 + e) << 10) as u16 | ((v.unsigned_abs() << (10 - e)) & 0x3ff) as u16
}

/// An operand in shared memory: its image, and what its descriptor has to say.
struct Image {
    bytes: Vec<u8>,
    leading: u32,
    stride: u32,
    /// Code of the descriptor's bits 62 and 63.
    swizzle: u32,
}

/// Lays out `lines` (rows of A, columns of B) of 16 elements along k. `span` is the swizzle's, 0 for none.
fn image(lines: usize, span: usize, mn_major: bool, value: &dyn Fn(usize, usize) -> u16) -> Image {
    let swizzle = [(0, 0), (128, 1), (64, 2), (32, 3)].into_iter().find(|s| s.0 == span).map_or(0, |s| s.1);
    let mut bytes = vec![0u8; 16 * 1024];
    let mut put = |at: usize, v: u16| bytes[at..at + 2].copy_from_slice(&v.to_le_bytes());
    let (mut leading, mut stride) = (16, 0);
    for line in 0..lines {
        for k in 0..K {
            let v = value(line, k);
            // Which of the two is contiguous in memory, and which steps from row to row of the image.
            let (along, across) = if mn_major { (line, k) } else { (k, line) };
            let at = if span == 0 {
                // Core matrices of 8 rows of 16 bytes, each 128 bytes in one piece. Here those next to each other along
                // the lines follow at once, and those next to each other along k after all of them.
                let core = (line / 8) * 128 + (k / 8) * (lines / 8 * 128);
                (leading, stride) = (lines as u32 / 8 * 128, 128);
                core + across % 8 * 16 + along % 8 * 2
            } else {
                // Atoms of 8 rows of `span` bytes, chunks permuted by row.
                let per_row = span / 2;
                let atom = if mn_major {
                    // The two atoms along k follow each other; then those along the lines.
                    (leading, stride) = (2 * 8 * span as u32, 8 * span as u32);
                    across / 8 + along / per_row * 2
                } else {
                    stride = 8 * span as u32;
                    across / 8
                };
                let (row, column) = (across % 8, along % per_row);
                atom * 8 * span + row * span + chunk(span, row, column / 8) * 16 + column % 8 * 2
            };
            put(at, v);
        }
    }
    Image { bytes, leading, stride, swizzle }
}

fn case(kernel: &'static str, ia: Image, ib: Image, registers: &[u32]) -> Case {
    let header = [ia.leading, ia.stride, ia.swizzle, ib.leading, ib.stride, ib.swizzle];
    let mut input = header.to_vec();
    input.extend([ia.bytes.len() as u32, (ia.bytes.len() + ib.bytes.len()) as u32]);
    input.resize(16, 0);
    let words = |v: &[u8]| {
        v.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect::<Vec<_>>()
    };
    input.extend(words(&ia.bytes));
    input.extend(words(&ib.bytes));
    input.extend(registers);
    // Figure of D: warp w of the four has rows 16 w and on; d_i lies in row lane / 4 (+ 8 if i mod 4 >= 2), column
    // 8 (i / 4) + 2 (lane mod 4) + i mod 2. The accumulators start at 1.
    let mut expected = Vec::new();
    for i in 0..N / 2 {
        for thread in 0..128 {
            let (warp, lane) = (thread / 32, thread % 32);
            let row = 16 * warp + lane / 4 + if i % 4 >= 2 { 8 } else { 0 };
            let column = 8 * (i / 4) + 2 * (lane % 4) + i % 2;
            let sum: i32 = (0..K).map(|k| a(row, k) * b(k, column)).sum();
            expected.push((1.0 + sum as f32).to_bits());
        }
    }
    let shared = (ia.bytes.len() + ib.bytes.len()) as u32;
    Case { shared, ..Case::new("conformance_sm90", kernel, 128, input, expected) }
}

pub fn cases() -> Vec<Case> {
    let mut out = Vec::new();
    let (ga, gb) = (|m: usize, k: usize| bf16(a(m, k)), |n: usize, k: usize| bf16(b(k, n)));
    for span in [0, 32, 64, 128] {
        out.push(case("wgmma_k_major", image(64, span, false, &ga), image(N, span, false, &gb), &[]));
        // A box of B is 16 columns, 32 bytes: wider spans would be half empty, which is allowed.
        out.push(case("wgmma_mn_major", image(64, span, true, &ga), image(N, span, true, &gb), &[]));
    }
    let (ha, hb) = (|m: usize, k: usize| f16(a(m, k)), |n: usize, k: usize| f16(b(k, n)));
    out.push(case("wgmma_f16", image(64, 128, false, &ha), image(N, 64, true, &hb), &[]));
    // Figure of A in registers: a_i in row lane / 4 (+ 8 for registers 1 and 3), columns 2 (lane mod 4) and the next
    // (+ 8 for registers 2 and 3).
    let mut registers = Vec::new();
    for reg in 0..4 {
        for thread in 0..128 {
            let (warp, lane) = (thread / 32, thread % 32);
            let row = 16 * warp + lane / 4 + if reg == 1 || reg == 3 { 8 } else { 0 };
            let column = 2 * (lane % 4) + if reg >= 2 { 8 } else { 0 };
            registers.push(u32::from(bf16(a(row, column))) | u32::from(bf16(a(row, column + 1))) << 16);
        }
    }
    out.push(case("wgmma_registers", image(64, 128, false, &ga), image(N, 128, false, &gb), &registers));
    out
}
