//! Arithmetic.

use super::{Case, Judge};

const A: [u32; 8] = [0, 1, 0x8000_0000, 0xffff_ffff, 0x1234_5678, 0x00f0_0000, 77, 0x7fff_ffff];
const B: [u32; 8] = [5, 0xffff_ffff, 31, 0xffff_ffff, 4, 40, 0x8000_0001, 2];
const C: [u32; 8] = [9, 3, 0xdead_beef, 0, 8, 32, 0xffff_0000, 1];

fn table(functions: &[&dyn Fn(u32, u32, u32) -> u32], a: &[u32], b: &[u32], c: &[u32]) -> Vec<u32> {
    functions.iter().flat_map(|f| (0..a.len()).map(|i| f(a[i], b[i], c[i])).collect::<Vec<_>>()).collect()
}

fn case(kernel: &'static str, inputs: [&[u32]; 3], functions: &[&dyn Fn(u32, u32, u32) -> u32]) -> Case {
    let n = inputs[0].len() as u32;
    Case::new(
        "conformance_sm80",
        kernel,
        n,
        inputs.concat(),
        table(functions, inputs[0], inputs[1], inputs[2]),
    )
}

fn s(v: u32) -> i64 {
    i64::from(v as i32)
}

fn bit(v: u32, i: u32) -> u32 {
    if i < 32 { v >> i & 1 } else { 0 }
}

/// Highest bit that differs from the sign (or from zero), by looking at each.
fn highest(v: u32, than: u32) -> u32 {
    (0..32).rev().find(|&i| bit(v, i) != than).unwrap_or(u32::MAX)
}

fn integer() -> Case {
    case(
        "integer",
        [&A, &B, &C],
        &[
            &|a, b, _| (s(a) + s(b)) as u32,
            &|a, b, _| (s(a) - s(b)) as u32,
            &|a, b, _| (i128::from(s(a)) * i128::from(s(b))) as u32,
            &|a, b, _| ((u64::from(a) * u64::from(b)) >> 32) as u32,
            &|a, b, _| ((s(a) * s(b)) >> 32) as u32,
            &|a, b, c| (i128::from(s(a)) * i128::from(s(b)) + i128::from(s(c))) as u32,
            &|a, b, _| if s(a) < s(b) { a } else { b },
            &|a, b, _| if a > b { a } else { b },
            &|a, _, _| if a >> 31 == 1 { (!a).wrapping_add(1) } else { a },
            &|a, _, _| (!a).wrapping_add(1),
            &|a, b, _| (0..32).map(|i| if i >= b { bit(a, i - b) << i } else { 0 }).sum(),
            &|a, b, _| (0..32).map(|i| bit(a, b.saturating_add(i)) << i).sum(),
            &|a, b, _| (0..32).map(|i| (if b < 32 - i { bit(a, i + b) } else { bit(a, 31) }) << i).sum(),
            &|a, _, _| (0..32).map(|i| bit(a, i)).sum(),
            &|a, _, _| (0..32).take_while(|i| bit(a, 31 - i) == 0).count() as u32,
            &|a, _, _| (0..32).map(|i| bit(a, i) << (31 - i)).sum(),
            &|a, _, _| highest(a, 0),
            &|a, _, _| highest(a, bit(a, 31)),
            &|a, _, _| match highest(a, 0) {
                u32::MAX => u32::MAX,
                top => 31 - top,
            },
            // 0xe8 is the majority of three.
            &|a, b, c| (0..32).map(|i| u32::from(bit(a, i) + bit(b, i) + bit(c, i) >= 2) << i).sum(),
            &|a, b, c| (s(c) + (s(a) - s(b)).abs()) as u32,
        ],
    )
}

fn bitfield() -> Case {
    let values =
        [0x1234_5678, 0xf000_000f, 0x8000_0000, 0xffff_ffff, 0x8000_0000, 0xabcd_ef01, 1, 0x8765_4321];
    let positions = [4, 0, 28, 31, 31, 40, 0, 16];
    let lengths = [8, 4, 8, 1, 0, 4, 32, 40];
    // The manual's loop: bits past the top are copies of the sign, or zero; no length, no bits.
    fn extract(a: u32, pos: u32, len: u32, signed: bool) -> u32 {
        let sign = match (signed, len) {
            (false, _) | (_, 0) => 0,
            _ => bit(a, (pos + len - 1).min(31)),
        };
        (0..32).map(|i| (if i < len && pos + i <= 31 { bit(a, pos + i) } else { sign }) << i).sum()
    }
    case(
        "bitfield",
        [&values, &positions, &lengths],
        &[&|a, p, n| extract(a, p, n, false), &|a, p, n| extract(a, p, n, true), &|a, p, n| {
            let inside = |i: u32| i >= p && i < p + n;
            (0..32).map(|i| (if inside(i) { bit(a, i - p) } else { bit(0x1111_1111, i) }) << i).sum()
        }],
    )
}

fn permute() -> Case {
    let selectors = [0x3210, 0x7654, 0x0246, 0x8c91, 33, 0x1357, 63, 4];
    let byte = |v: u64, i: u32| (v >> (8 * i)) as u32 & 255;
    let both = |lo: u32, hi: u32| u64::from(hi) << 32 | u64::from(lo);
    case(
        "permute",
        [&A, &B, &selectors],
        &[
            &|a, b, c| {
                let pick = |i: u32| {
                    let nibble = c >> (4 * i) & 15;
                    let v = byte(both(a, b), nibble & 7);
                    if nibble < 8 {
                        v
                    } else if v >= 128 {
                        255
                    } else {
                        0
                    }
                };
                pick(0) + (pick(1) << 8) + (pick(2) << 16) + (pick(3) << 24)
            },
            &|a, b, c| (both(a, b) << (c % 32) >> 32) as u32,
            &|a, b, c| (both(a, b) >> (c % 32)) as u32,
            &|a, b, c| if c >= 32 { a } else { (both(a, b) << c >> 32) as u32 },
            &|a, b, c| if c >= 32 { b } else { (both(a, b) >> c) as u32 },
        ],
    )
}

fn wide() -> Case {
    let mut expected = Vec::new();
    let x = |a: u32, b: u32| u64::from(a) << 32 | u64::from(b);
    let functions: [&dyn Fn(u32, u32) -> u64; 6] = [
        &|a, b| u64::from(a) * u64::from(b),
        &|a, b| (s(a) * s(b)) as u64,
        &|a, b| (u64::from(a) * u64::from(b)).wrapping_add(x(a, b)),
        &|a, b| (i128::from(x(a, b) as i64) >> (b & 127)) as u64,
        &|a, b| if b & 127 > 63 { 0 } else { x(a, b) << (b & 127) },
        &|a, b| ((u128::from(x(a, b)) * u128::from(!x(a, b))) >> 64) as u64,
    ];
    for f in functions {
        expected.extend((0..8).map(|i| f(A[i], B[i]) as u32));
        expected.extend((0..8).map(|i| (f(A[i], B[i]) >> 32) as u32));
    }
    Case::new("conformance_sm80", "wide", 8, [A, B].concat(), expected)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn single() -> Case {
    let tiny = f32::from_bits(1);
    let a = [1.5, -0.0, 3e38, f32::NAN, tiny, 0.1, -7.0, 1.0 + f32::EPSILON];
    let b = [2.5, 0.0, 3e38, 1.0, 2.0, 0.2, f32::INFINITY, 1.0 - f32::EPSILON];
    let c = [0.25, 1.0, f32::NEG_INFINITY, 0.0, 1.0, -0.02, 1.0, -1.0];
    let nan = 0x7fff_ffff;
    let mut expected = bits(&[4.0, 0.0, f32::INFINITY, 0.0, 2.0, 0.1 + 0.2, f32::INFINITY, 2.0]);
    expected[3] = nan;
    expected.extend(bits(&[
        3.75,
        -0.0,
        f32::INFINITY,
        0.0,
        f32::from_bits(2),
        0.1 * 0.2,
        f32::NEG_INFINITY,
        1.0,
    ]));
    // (1 + e)(1 - e) = 1 - e^2, which only a fused operation tells from 1; and 3e38^2 - inf is exact before it overflows.
    expected.extend(bits(&[
        4.0,
        1.0,
        f32::NEG_INFINITY,
        0.0,
        1.0,
        0.0,
        f32::NEG_INFINITY,
        -f32::EPSILON * f32::EPSILON,
    ]));
    // 0.1f * 0.2f - 0.02f, rounded once, from the exact values of the three floats.
    expected[16 + 5] = ((f64::from(0.1f32) * f64::from(0.2f32) - f64::from(0.02f32)) as f32).to_bits();
    expected.extend(bits(&[1.5, -0.0, 3e38, 1.0, tiny, 0.1, -7.0, 1.0 - f32::EPSILON]));
    expected.extend(bits(&[2.5, 0.0, 3e38, 1.0, 2.0, 0.2, f32::INFINITY, 1.0 + f32::EPSILON]));
    expected.extend(bits(&[0.6, 0.0, 1.0, 0.0, 0.0, 0.5, -0.0, 1.0 + 3.0 * f32::EPSILON]));
    for (slot, i) in [(1, 1), (1, 3), (2, 3), (5, 1), (5, 3)] {
        if (slot, i) != (1, 1) {
            expected[8 * slot + i] = nan;
        }
    }
    // Half of the smallest number rounds to even, to zero.
    expected[8 * 5 + 4] = 0;
    // (1 + e) / (1 - e) with e = 2^-23 is 1 + 2e + 2e^2 + ...: the nearest float is 1 + 2e.
    expected[8 * 5 + 7] = (1.0 + 2.0 * f32::EPSILON).to_bits();
    expected.extend(bits(&[
        1.5f32.sqrt(),
        -0.0,
        3e38f32.sqrt(),
        0.0,
        2f32.powi(-75) * 2f32.sqrt(),
        0.1f32.sqrt(),
        0.0,
        1.0,
    ]));
    for i in [3, 6] {
        expected[8 * 6 + i] = nan;
    }
    // The root of 2^-149, and of 1 + e, which is just below 1 + e/2, a tie that is not one.
    expected[8 * 6 + 4] = ((2f64.powi(-149)).sqrt() as f32).to_bits();
    expected.extend(bits(&[1.0, 0.0, 1.0, 0.0, tiny, 0.1, 0.0, 1.0]));
    expected.extend(bits(&[1.5, 0.0, 3e38, 0.0, 0.0, 0.1, -7.0, 1.0 + f32::EPSILON]));
    expected[8 * 8 + 3] = nan;
    Case::new("conformance_sm80", "single", 8, [bits(&a), bits(&b), bits(&c)].concat(), expected)
}

/// The manual's bounds on the errors of the `.approx` functions.
fn approximate() -> Case {
    let x = [0.25f32, 0.5, 1.0, 1.5, 2.0, 3.0, 0.1, 0.9];
    let functions: [fn(f64) -> f64; 8] =
        [f64::exp2, f64::log2, |v| 1.0 / v.sqrt(), |v| 1.0 / v, f64::sqrt, f64::sin, f64::cos, f64::tanh];
    let expected = functions.iter().flat_map(|f| x.map(|v| (f(f64::from(v)) as f32).to_bits())).collect();
    let tolerance = |i: usize, want: f32| match i / 8 {
        1 => 2f32.powi(-21),
        5 | 6 => 2f32.powi(-20),
        7 => want.abs() * 2f32.powi(-10),
        _ => want.abs() * 2f32.powi(-21),
    };
    Case {
        judge: Judge::Within(tolerance),
        ..Case::new("conformance_sm80", "approximate", 8, bits(&x), expected)
    }
}

fn convert() -> Case {
    let x = [2.5f32, -2.5, 3.5, 1e10, -1e10, f32::NAN, 0.7, 65520.0];
    let int = |v: [i64; 8]| v.map(|v| v as u32);
    let mut expected = Vec::new();
    let (most, least) = (i64::from(i32::MAX), i64::from(i32::MIN));
    expected.extend(int([2, -2, 4, most, least, 0, 1, 65520]));
    expected.extend(int([2, -2, 3, most, least, 0, 0, 65520]));
    expected.extend(int([2, -3, 3, most, least, 0, 0, 65520]));
    expected.extend(int([3, -2, 4, most, least, 0, 1, 65520]));
    expected.extend(int([2, 0, 3, i64::from(u32::MAX), 0, 0, 0, 65520]));
    // tf32 keeps 10 bits, ties away from zero: 65520 = (2 - 2^-11) * 2^15 is such a tie.
    let tf32 = |v: f64, scale: f64| ((v / scale * 1024.0).round() / 1024.0 * scale) as f32;
    let rounded = [
        2.5,
        -2.5,
        3.5,
        tf32(1e10, 2f64.powi(33)),
        tf32(-1e10, 2f64.powi(33)),
        f32::NAN,
        tf32(f64::from(0.7f32), 0.5),
        65536.0,
    ];
    expected.extend(rounded.map(f32::to_bits));
    expected[5 * 8 + 5] = f32::NAN.to_bits();
    // f16: 2.5 = 1.25 * 2, exponent 16; 65520 is the first value that rounds to infinity.
    let f16 = [0x4100, 0xc100, 0x4300, 0x7c00, 0xfc00, 0x7fff, 0x399a, 0x7c00];
    // bf16: the upper half, rounded: 1e10 = 0x501502f9, 0.7 = 0x3f333333, 65520 = 0x477ff000.
    let bf16 = [0x4020, 0xc020, 0x4060, 0x5015, 0xd015, 0x7fff, 0x3f33, 0x4780];
    expected.extend(f16);
    expected.extend(bf16);
    expected.extend(bf16.map(|v| v << 16 | 0x3f80));
    expected.extend(f16.map(|v| v | 0x3c00 << 16));
    Case::new("conformance_sm80", "convert", 8, bits(&x), expected)
}

fn packed_half() -> Case {
    // Pairs (low, high); bf16: 1 = 3f80, 1.5 = 3fc0, 2 = 4000, 3 = 4040, -1 = bf80; f16: 1 = 3c00, 2 = 4000, 3 = 4200, ...
    let a = vec![0x4000_3f80, 0x3c00_4000];
    let b = vec![0x4040_3fc0, 0x4200_c000];
    let c = vec![0xbf80_3f80, 0x3800_3c00];
    let mut expected = vec![0; 12];
    // bf16: 1 * 1.5 + 1 = 2.5 = 4020; 2 * 3 - 1 = 5 = 40a0.
    expected[0] = 0x40a0_4020;
    // Low: 2 * -2 + 2^-7 = -3.9921875 = -1.99609375 * 2: eight bits after the point round to -4 (tie to even).
    // High: 2^-7 * 32 = 0.25, + 2^-15 (3800 = 1 * 2^-15): 0.25 * (1 + 2^-13) rounds to 0.25 = 3e80.
    expected[1] = 0x3e80_c080;
    // f16: low 3f80 = 1.875, 3fc0 = 1.9375, c 1.875: 1.875 * 1.9375 + 1.875 = 5.5078125 = 1.376953125 * 4, exponent 17,
    // mantissa 386 = 0x182. High: 4000 * 4040 + bf80 = 2 * 2.125 - 1.875 = 2.375 = 40c0.
    expected[2] = 0x40c0_4582;
    // Low: 2 * -2 + 1 = -3 = c200. High: 1 * 3 + 0.5 = 3.5 = 4300.
    expected[3] = 0x4300_c200;
    // f16 sums: 1.875 + 1.9375 = 3.8125 = 43a0; 2 + 2.125 = 4.125 = 4420; 2 - 2 = 0; 1 + 3 = 4 = 4400.
    expected[4] = 0x4420_43a0;
    expected[5] = 0x4400_0000;
    // f16 products: 1.875 * 1.9375 = 3.6328125 = 1.81640625 * 2, mantissa 836 = 0x344: 4344; 2 * 2.125 = 4.25 = 4440;
    // 2 * -2 = -4 = c400; 1 * 3 = 3 = 4200.
    expected[6] = 0x4440_4344;
    expected[7] = 0x4200_c400;
    // bf16 maxima.
    expected[8] = 0x4040_3fc0;
    expected[9] = 0x4200_4000;
    expected[10] = 0xc000_bf80;
    expected[11] = 0xbc00_c000;
    Case::new("conformance_sm80", "packed_half", 2, [a, b, c].concat(), expected)
}

fn compare() -> Case {
    let a = [1.0, 2.0, -0.0, f32::NAN];
    let b = [2.0, 1.0, 0.0, 1.0];
    // Bits: eq ne lt le gt ge equ neu ltu geu num nan.
    let less = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 7 | 1 << 8 | 1 << 10;
    let more = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 9 | 1 << 10;
    let same = 1 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10;
    let unordered = 1 << 6 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 11;
    Case::new(
        "conformance_sm80",
        "compare",
        4,
        [bits(&a), bits(&b)].concat(),
        vec![less, more, same, unordered],
    )
}

pub fn cases() -> Vec<Case> {
    vec![
        integer(),
        bitfield(),
        permute(),
        wide(),
        single(),
        approximate(),
        convert(),
        packed_half(),
        compare(),
    ]
}
