//! Floating-point rows.
//!
//! The `.approx` functions are evaluated in f64 and rounded once, so they are more exact than a GPU's, which are off by
//! up to 2 ulp (`ex2`, `rcp`, `rsqrt`, `sqrt`, `div`), 2^-22 absolute (`lg2`), 2^-20.9 absolute (`sin`, `cos`) or
//! 2^-11 relative (`tanh`). Tests that compare with a GPU have to allow for that.

use super::regs::{Row, Row64};
use crate::{
    half::{from_bf16, from_f16, to_bf16, to_f16},
    isa::alu::{Cmp, Float, HalfFn, Round},
};

#[inline]
fn f(v: u32) -> f32 {
    f32::from_bits(v)
}

#[inline]
fn map1(a: &Row, g: impl Fn(f32) -> f32) -> Row {
    std::array::from_fn(|i| canonical(g(f(a[i]))))
}

#[inline]
fn map2(a: &Row, b: &Row, g: impl Fn(f32, f32) -> f32) -> Row {
    std::array::from_fn(|i| canonical(g(f(a[i]), f(b[i]))))
}

/// Arithmetic yields the one NaN that GPUs yield, so that results do not depend on the host.
#[inline]
fn canonical(v: f32) -> u32 {
    if v.is_nan() { 0x7fff_ffff } else { v.to_bits() }
}

/// Fused multiply-add, rounded once. Exact products fit in f64; only when the f64 sum lies halfway between two f32
/// (or the result is subnormal) can rounding twice differ from rounding once.
#[inline]
fn fma(a: f32, b: f32, c: f32) -> f32 {
    let s = f64::from(a) * f64::from(b) + f64::from(c);
    let low = s.to_bits() & 0x1fff_ffff;
    if low == 0x1000_0000 || (s.abs() < f64::from(f32::MIN_POSITIVE) && s != 0.0) {
        a.mul_add(b, c)
    } else {
        s as f32
    }
}

/// Minimum that prefers numbers over NaN and -0 over +0; `max` alike.
fn pick(a: f32, b: f32, nan: bool, max: bool) -> f32 {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => f32::NAN,
        (true, false) | (false, true) if nan => f32::NAN,
        (true, false) => b,
        (false, true) => a,
        (false, false) => {
            if a == b {
                if a.is_sign_negative() != max { a } else { b }
            } else if (a < b) != max {
                a
            } else {
                b
            }
        }
    }
}

fn flush(row: &Row) -> Row {
    std::array::from_fn(|i| if f(row[i]).is_subnormal() { row[i] & 0x8000_0000 } else { row[i] })
}

/// Evaluates an f32 function for all lanes.
#[inline]
pub(crate) fn float(g: Float, [a, b, c]: [&Row; 3], ftz: bool, sat: bool) -> Row {
    if !ftz && !sat {
        return plain(g, a, b, c);
    }
    let mut out = if ftz { flush(&plain(g, &flush(a), &flush(b), &flush(c))) } else { plain(g, a, b, c) };
    if sat {
        // NaN saturates to zero.
        out =
            std::array::from_fn(|i| if f(out[i]).is_nan() { 0 } else { f(out[i]).clamp(0.0, 1.0).to_bits() });
    }
    out
}

/// The four exact operations with directed rounding.
pub(crate) fn directed(g: Float, round: Round, s: [&Row; 3], ftz: bool) -> Row {
    let [a, b, c] = if ftz { s.map(flush) } else { s.map(|r| *r) };
    let out = std::array::from_fn(|i| {
        let (a, b, c) = (f64::from(f(a[i])), f64::from(f(b[i])), f64::from(f(c[i])));
        // Products of f32 are exact in f64, so every case is an exact product plus a number.
        let (p, c) = match g {
            Float::Add => (a, b),
            Float::Sub => (a, -b),
            Float::Mul => (a * b, 0.0),
            _ => (a * b, c),
        };
        let s = p + c;
        let nearest = s as f32;
        if !s.is_finite() {
            return canonical(nearest);
        }
        // What is missing from `nearest`: exactly what rounding to f64 lost, and what rounding to f32 lost.
        let lost = (p - (s - (s - p))) + (c - (s - p));
        let rest = if nearest.is_infinite() { -f64::from(nearest) } else { (s - f64::from(nearest)) + lost };
        let (below, above) = (nearest.next_down(), nearest.next_up());
        canonical(match round {
            Round::Down if rest < 0.0 => below,
            Round::Up if rest > 0.0 => above,
            Round::Zero if s > 0.0 && rest < 0.0 => below,
            Round::Zero if s < 0.0 && rest > 0.0 => above,
            // An exact zero from a difference is negative when rounding down.
            Round::Down if s == 0.0 && p != 0.0 && p == -c => -0.0,
            _ => nearest,
        })
    });
    if ftz { flush(&out) } else { out }
}

#[inline]
fn plain(g: Float, a: &Row, b: &Row, c: &Row) -> Row {
    let wide = |g: fn(f64) -> f64| map1(a, |a| g(f64::from(a)) as f32);
    match g {
        Float::Add => map2(a, b, |a, b| a + b),
        Float::Sub => map2(a, b, |a, b| a - b),
        Float::Mul => map2(a, b, |a, b| a * b),
        Float::Fma => std::array::from_fn(|i| canonical(fma(f(a[i]), f(b[i]), f(c[i])))),
        Float::Div => map2(a, b, |a, b| a / b),
        Float::Min => map2(a, b, |a, b| pick(a, b, false, false)),
        Float::Max => map2(a, b, |a, b| pick(a, b, false, true)),
        Float::MinNan => map2(a, b, |a, b| pick(a, b, true, false)),
        Float::MaxNan => map2(a, b, |a, b| pick(a, b, true, true)),
        // Sign operations keep NaN payloads.
        Float::Abs => std::array::from_fn(|i| a[i] & 0x7fff_ffff),
        Float::Neg => std::array::from_fn(|i| a[i] ^ 0x8000_0000),
        Float::CopySign => std::array::from_fn(|i| (b[i] & 0x7fff_ffff) | (a[i] & 0x8000_0000)),
        Float::Sqrt => map1(a, f32::sqrt),
        Float::Rcp => map1(a, |a| 1.0 / a),
        Float::Rsqrt => wide(|a| 1.0 / a.sqrt()),
        Float::Ex2 => wide(f64::exp2),
        Float::Lg2 => wide(f64::log2),
        Float::Sin => wide(f64::sin),
        Float::Cos => wide(f64::cos),
        Float::Tanh => wide(f64::tanh),
    }
}

/// Evaluates an f64 function for all lanes.
pub(crate) fn double(g: Float, [a, b, c]: [&Row64; 3]) -> Row64 {
    std::array::from_fn(|i| {
        let (x, y, z) = (f64::from_bits(a[i]), f64::from_bits(b[i]), f64::from_bits(c[i]));
        let v = match g {
            Float::Add => x + y,
            Float::Sub => x - y,
            Float::Mul => x * y,
            Float::Fma => x.mul_add(y, z),
            Float::Div => x / y,
            Float::Min | Float::MinNan => x.min(y),
            Float::Max | Float::MaxNan => x.max(y),
            Float::Abs => x.abs(),
            Float::Neg => -x,
            Float::CopySign => y.copysign(x),
            Float::Sqrt => x.sqrt(),
            Float::Rcp => 1.0 / x,
            Float::Rsqrt => 1.0 / x.sqrt(),
            Float::Ex2 => x.exp2(),
            Float::Lg2 => x.log2(),
            Float::Sin => x.sin(),
            Float::Cos => x.cos(),
            Float::Tanh => x.tanh(),
        };
        v.to_bits()
    })
}

/// Evaluates a function of f16 or bf16, one per register or two.
pub(crate) fn half(g: HalfFn, bf16: bool, packed: bool, [a, b, c]: [&Row; 3]) -> Row {
    let one = |x: u16, y: u16, z: u16| -> u16 {
        let up = |v: u16| if bf16 { from_bf16(v) } else { from_f16(v) };
        let down = |v: f32| if bf16 { to_bf16(v) } else { to_f16(v) };
        let (fx, fy, fz) = (up(x), up(y), up(z));
        // Products and sums of halves are exact in f64, and f32 holds enough of them to round once more safely
        // except for fma, which goes through f64 with a sticky bit.
        let fused = || sticky(f64::from(fx) * f64::from(fy), f64::from(fz));
        match g {
            HalfFn::Add => down(fx + fy),
            HalfFn::Sub => down(fx - fy),
            HalfFn::Mul => down(fx * fy),
            HalfFn::Fma => down(fused()),
            HalfFn::FmaRelu => down(pick(fused(), 0.0, true, true)),
            HalfFn::Min => down(pick(fx, fy, false, false)),
            HalfFn::Max => down(pick(fx, fy, false, true)),
            HalfFn::Abs => x & 0x7fff,
            HalfFn::Neg => x ^ 0x8000,
            HalfFn::Ex2 => down(f64::from(fx).exp2() as f32),
            HalfFn::Tanh => down(f64::from(fx).tanh() as f32),
        }
    };
    std::array::from_fn(|i| {
        let lo = u32::from(one(a[i] as u16, b[i] as u16, c[i] as u16));
        let top = |v: u32| (v >> 16) as u16;
        if packed { lo | u32::from(one(top(a[i]), top(b[i]), top(c[i]))) << 16 } else { lo }
    })
}

/// `p + c` as an f32 that rounds to any half type as the exact sum does: truncated, with a sticky last bit.
fn sticky(p: f64, c: f64) -> f32 {
    let s = p + c;
    let t = s as f32;
    // What rounding to f64 lost is below what f32 loses, so it matters only for the sign of the remainder.
    let lost = if t.is_finite() { (s - f64::from(t)) + (p - (s - (s - p)) + (c - (s - p))) } else { 0.0 };
    if lost == 0.0 || t.to_bits() & 1 == 1 {
        return t;
    }
    let away = (lost > 0.0) == (t > 0.0 || t == 0.0 && lost > 0.0);
    f32::from_bits(if away { t.to_bits() + 1 } else { t.to_bits().wrapping_sub(1) })
}

/// Compares two values of a floating-point type.
#[inline]
pub(crate) fn compare(cmp: Cmp, a: f64, b: f64) -> bool {
    let nan = a.is_nan() || b.is_nan();
    match cmp {
        Cmp::Eq => a == b,
        Cmp::Ne => !nan && a != b,
        Cmp::Lt => a < b,
        Cmp::Le => a <= b,
        Cmp::Gt => a > b,
        Cmp::Ge => a >= b,
        Cmp::Equ => nan || a == b,
        Cmp::Neu => a != b,
        Cmp::Ltu => nan || a < b,
        Cmp::Leu => nan || a <= b,
        Cmp::Gtu => nan || a > b,
        Cmp::Geu => nan || a >= b,
        Cmp::Num => !nan,
        Cmp::Nan => nan,
    }
}

/// `cvt.rn.*x2.f32`.
pub(crate) fn pack(bf16: bool, relu: bool, hi: &Row, lo: &Row) -> Row {
    std::array::from_fn(|i| {
        let one = |v: u32| {
            let v = if relu { pick(f(v), 0.0, true, true) } else { f(v) };
            u32::from(if bf16 { to_bf16(v) } else { to_f16(v) })
        };
        one(lo[i]) | one(hi[i]) << 16
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Directed results enclose the exact one as tightly as f32 can.
    #[test]
    fn directed_rounding_encloses() {
        let mut seed = 1u32;
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Exponents from 2^-15 to 2^15, so that sums lose bits and stay exact in i128 fixed point.
            f32::from_bits(seed & 0x807f_ffff | (112 + (seed >> 16 & 31)) << 23)
        };
        // In units of 2^-80, which every product of two such numbers is a multiple of.
        let exact = |v: f32| (f64::from(v) * 2f64.powi(40)) as i128;
        for _ in 0..20_000 {
            let (a, b, c) = (next(), next(), next());
            let want = exact(a) * exact(b) + (exact(c) << 40);
            let go = |round| {
                f(directed(
                    Float::Fma,
                    round,
                    [&[a.to_bits(); 32], &[b.to_bits(); 32], &[c.to_bits(); 32]],
                    false,
                )[0])
            };
            let (down, up, zero) = (go(Round::Down), go(Round::Up), go(Round::Zero));
            let at = |v: f32| (f64::from(v) * 2f64.powi(80)) as i128;
            assert!(at(down) <= want && want <= at(up), "{a} * {b} + {c}: {down} {up}");
            assert!(down == up || down.next_up() == up, "{a} * {b} + {c}: {down} {up}");
            assert_eq!(zero, if want < 0 { up } else { down });
        }
    }
}
