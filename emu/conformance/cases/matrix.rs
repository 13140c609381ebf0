//! ldmatrix, stmatrix and mma: fragments placed by the formulas of the manual's figures.

use super::Case;

/// A small integer per element, exact in every type and in every sum.
fn element(matrix: u32, row: usize, column: usize) -> i32 {
    (row as i32 * 7 + column as i32 * 3 + matrix as i32 * 5) % 11 - 5
}

fn f16(v: i32) -> u32 {
    // Integers up to 2048 are exact: shift until the leading bit is bit 10.
    if v == 0 {
        return 0;
    }
    let (sign, a) = (u32::from(v < 0) << 15, v.unsigned_abs());
    let e = 31 - a.leading_zeros();
    sign | (15 + e) << 10 | (a << (10 - e)) & 0x3ff
}

fn bf16(v: i32) -> u32 {
    (v as f32).to_bits() >> 16
}

/// Figure of ldmatrix: thread t holds row t / 4, elements 2 (t mod 4) and the next, of matrix i in register i.
fn ldmatrix(kernel: &'static str, transposed: bool) -> Case {
    // Matrix i, row r, is the 16 bytes at 128 i + 16 r.
    let value = |i: usize, r: usize, c: usize| (i * 1000 + r * 16 + c) as u32;
    let mut input = Vec::new();
    for i in 0..4 {
        for r in 0..8 {
            input.extend((0..4).map(|w| value(i, r, 2 * w) | value(i, r, 2 * w + 1) << 16));
        }
    }
    let mut expected = Vec::new();
    for i in 0..4 {
        for t in 0..32 {
            let (r, c) = (t / 4, t % 4 * 2);
            let (x, y) = if transposed {
                (value(i, c, r), value(i, c + 1, r))
            } else {
                (value(i, r, c), value(i, r, c + 1))
            };
            expected.push(x | y << 16);
        }
    }
    Case::new("conformance_sm80", kernel, 32, input, expected)
}

fn stmatrix() -> Case {
    let load = ldmatrix("stmatrix", false);
    // The inverse: registers in, rows out.
    Case {
        module: "conformance_sm90",
        input: load.expected,
        expected: load.input,
        ..Case::new("", "stmatrix", 32, vec![], vec![])
    }
}

struct Shape {
    kernel: &'static str,
    k: usize,
    /// Elements per 32-bit register of A and B.
    per: usize,
    encode: fn(i32) -> u32,
    half_acc: bool,
}

fn mma(s: &Shape) -> Case {
    let (a, b, c) = (|r, k| element(1, r, k), |k, n| element(2, k, n), |r, n| element(3, r, n));
    let width = 32 / s.per;
    let pack = |v: &[i32]| v.iter().enumerate().fold(0, |w, (i, &v)| w | (s.encode)(v) << (i * width));
    let mut input = Vec::new();
    // Figures of m16n8k16, m16n8k8: groupID = lane / 4, threadID_in_group = lane mod 4. Element a_i lies in row groupID for
    // even register numbers and groupID + 8 for odd ones; in column threadID * per + i mod per, + 4 per from register 2 on.
    for reg in 0..16 * s.k / 32 / s.per {
        for lane in 0..32 {
            let row = lane / 4 + if reg % 2 == 1 { 8 } else { 0 };
            let column = lane % 4 * s.per + if reg >= 2 { 4 * s.per } else { 0 };
            input.push(pack(&(0..s.per).map(|i| a(row, column + i)).collect::<Vec<_>>()));
        }
    }
    // Element b_i: row threadID * per + i mod per (+ 4 per in the second register), column groupID.
    for reg in 0..8 * s.k / 32 / s.per {
        for lane in 0..32 {
            let row = lane % 4 * s.per + 4 * s.per * reg;
            input.push(pack(&(0..s.per).map(|i| b(row + i, lane / 4)).collect::<Vec<_>>()));
        }
    }
    // Element c_i: row groupID for i < 2 and groupID + 8 for i >= 2, column 2 threadID + i mod 2.
    let at = |lane: usize, i: usize| (lane / 4 + if i < 2 { 0 } else { 8 }, lane % 4 * 2 + i % 2);
    let product = |r: usize, n: usize| (0..s.k).map(|k| a(r, k) * b(k, n)).sum::<i32>() + c(r, n);
    let mut expected = Vec::new();
    if s.half_acc {
        for reg in 0..2 {
            let both = |f: &dyn Fn(usize, usize) -> i32| -> Vec<u32> {
                (0..32)
                    .map(|l| {
                        let ((r, n), (q, m)) = (at(l, 2 * reg), at(l, 2 * reg + 1));
                        f16(f(r, n)) | f16(f(q, m)) << 16
                    })
                    .collect()
            };
            input.extend(both(&c));
            expected.extend(both(&product));
        }
    } else {
        for i in 0..4 {
            input.extend((0..32).map(|l| (c(at(l, i).0, at(l, i).1) as f32).to_bits()));
            expected.extend((0..32).map(|l| (product(at(l, i).0, at(l, i).1) as f32).to_bits()));
        }
    }
    Case::new("conformance_sm80", s.kernel, 32, input, expected)
}

pub fn cases() -> Vec<Case> {
    let tf32: fn(i32) -> u32 = |v| (v as f32).to_bits();
    let shapes = [
        Shape { kernel: "mma_bf16_k16", k: 16, per: 2, encode: bf16, half_acc: false },
        Shape { kernel: "mma_f16_k16", k: 16, per: 2, encode: f16, half_acc: false },
        Shape { kernel: "mma_bf16_k8", k: 8, per: 2, encode: bf16, half_acc: false },
        Shape { kernel: "mma_f16_k8", k: 8, per: 2, encode: f16, half_acc: false },
        Shape { kernel: "mma_tf32_k8", k: 8, per: 1, encode: tf32, half_acc: false },
        Shape { kernel: "mma_f16_accumulators", k: 16, per: 2, encode: f16, half_acc: true },
    ];
    let mut out = vec![ldmatrix("ldmatrix", false), ldmatrix("ldmatrix_trans", true), stmatrix()];
    out.extend(shapes.iter().map(mma));
    out
}
