//! Integer rows.

use super::regs::{Row, Row64};
use crate::isa::alu::{Alu32, Alu64, Narrow, Shift64};

#[inline]
fn map2(a: &Row, b: &Row, f: impl Fn(u32, u32) -> u32) -> Row {
    std::array::from_fn(|i| f(a[i], b[i]))
}

#[inline]
fn map1(a: &Row, f: impl Fn(u32) -> u32) -> Row {
    std::array::from_fn(|i| f(a[i]))
}

#[inline]
fn map3(a: &Row, b: &Row, c: &Row, f: impl Fn(u32, u32, u32) -> u32) -> Row {
    std::array::from_fn(|i| f(a[i], b[i], c[i]))
}

/// Evaluates a 32-bit function for all lanes.
#[inline]
pub(crate) fn alu32(f: Alu32, [a, b, c, e]: [&Row; 4]) -> Row {
    match f {
        Alu32::Mov => *a,
        Alu32::Add => map2(a, b, u32::wrapping_add),
        Alu32::Sub => map2(a, b, u32::wrapping_sub),
        Alu32::MulLo => map2(a, b, u32::wrapping_mul),
        Alu32::MulHiU => map2(a, b, hi_u),
        Alu32::MulHiS => map2(a, b, hi_s),
        Alu32::MadLo => map3(a, b, c, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        Alu32::MadHiU => map3(a, b, c, |a, b, c| hi_u(a, b).wrapping_add(c)),
        Alu32::MadHiS => map3(a, b, c, |a, b, c| hi_s(a, b).wrapping_add(c)),
        Alu32::DivU => map2(a, b, |a, b| a.checked_div(b).unwrap_or(u32::MAX)),
        Alu32::DivS => {
            map2(a, b, |a, b| if b == 0 { u32::MAX } else { (a as i32).wrapping_div(b as i32) as u32 })
        }
        Alu32::RemU => map2(a, b, |a, b| a.checked_rem(b).unwrap_or(a)),
        Alu32::RemS => map2(a, b, |a, b| if b == 0 { a } else { (a as i32).wrapping_rem(b as i32) as u32 }),
        Alu32::MinU => map2(a, b, u32::min),
        Alu32::MinS => map2(a, b, |a, b| (a as i32).min(b as i32) as u32),
        Alu32::MaxU => map2(a, b, u32::max),
        Alu32::MaxS => map2(a, b, |a, b| (a as i32).max(b as i32) as u32),
        Alu32::Abs => map1(a, |a| (a as i32).wrapping_abs() as u32),
        Alu32::Neg => map1(a, u32::wrapping_neg),
        Alu32::And => map2(a, b, |a, b| a & b),
        Alu32::Or => map2(a, b, |a, b| a | b),
        Alu32::Xor => map2(a, b, |a, b| a ^ b),
        Alu32::Not => map1(a, |a| !a),
        Alu32::Cnot => map1(a, |a| u32::from(a == 0)),
        Alu32::Shl => map2(a, b, |a, b| if b > 31 { 0 } else { a << b }),
        Alu32::ShrU => map2(a, b, |a, b| if b > 31 { 0 } else { a >> b }),
        Alu32::ShrS => map2(a, b, |a, b| ((a as i32) >> b.min(31)) as u32),
        Alu32::Lop3(t) => map3(a, b, c, |a, b, c| lop3(t, a, b, c)),
        Alu32::Popc => map1(a, u32::count_ones),
        Alu32::Clz => map1(a, u32::leading_zeros),
        Alu32::Brev => map1(a, u32::reverse_bits),
        Alu32::BfindU(shift) => map1(a, |a| bfind(u64::from(a), 32, shift)),
        Alu32::BfindS(shift) => map1(a, |a| bfind(u64::from(if a >> 31 == 1 { !a } else { a }), 32, shift)),
        Alu32::BfeU => map3(a, b, c, |a, p, n| extract(u64::from(a), p, n, false, 32) as u32),
        Alu32::BfeS => map3(a, b, c, |a, p, n| extract(u64::from(a), p, n, true, 32) as u32),
        Alu32::Bfi => {
            std::array::from_fn(|i| insert(u64::from(a[i]), u64::from(b[i]), c[i], e[i], 32) as u32)
        }
        Alu32::Prmt => map3(a, b, c, prmt),
        Alu32::Shf { left, wrap } => map3(a, b, c, |lo, hi, n| shf(lo, hi, n, left, wrap)),
        Alu32::SadU => map3(a, b, c, |a, b, c| c.wrapping_add(a.abs_diff(b))),
        Alu32::SadS => map3(a, b, c, |a, b, c| c.wrapping_add((a as i32).abs_diff(b as i32))),
        Alu32::Dp4aU => map3(a, b, c, |a, b, c| {
            (0..4).fold(c, |s, i| s.wrapping_add((a >> (8 * i) & 255) * (b >> (8 * i) & 255)))
        }),
        Alu32::Dp4aS => map3(a, b, c, |a, b, c| {
            let byte = |v: u32, i: u32| i32::from((v >> (8 * i)) as i8);
            (0..4).fold(c, |s, i| s.wrapping_add((byte(a, i) * byte(b, i)) as u32))
        }),
        Alu32::Narrow(f) => map3(a, b, c, |a, b, c| narrow(f, a, b, c)),
    }
}

fn hi_u(a: u32, b: u32) -> u32 {
    ((u64::from(a) * u64::from(b)) >> 32) as u32
}

fn hi_s(a: u32, b: u32) -> u32 {
    ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32
}

fn lop3(table: u8, a: u32, b: u32, c: u32) -> u32 {
    (0..8).filter(|i| table >> i & 1 == 1).fold(0, |out, i| {
        let pick = |v: u32, bit: u32| if i >> bit & 1 == 1 { v } else { !v };
        out | pick(a, 2) & pick(b, 1) & pick(c, 0)
    })
}

/// Position of the highest set bit, or how far to shift left to bring it to the top; all ones for zero.
pub(crate) fn bfind(a: u64, bits: u32, shift: bool) -> u32 {
    if a == 0 {
        return u32::MAX;
    }
    let top = 63 - a.leading_zeros();
    if shift { bits - 1 - top } else { top }
}

/// Bits `pos` to `pos + len` of a value of 32 or 64 bits; past its top they are copies of the sign, or zero.
pub(crate) fn extract(a: u64, pos: u32, len: u32, signed: bool, bits: u32) -> u64 {
    let (pos, len) = (pos & 255, len & 255);
    if len == 0 {
        return 0;
    }
    let wide = if signed && bits == 32 {
        i128::from(a as i32)
    } else if signed {
        i128::from(a as i64)
    } else {
        i128::from(a)
    };
    let field = wide >> pos.min(bits);
    // Sign-extend from the field's top bit, or from the value's where the field reaches past it.
    let kept = len.min(127);
    (if signed { field << (128 - kept) >> (128 - kept) } else { field & ((1 << kept) - 1) }) as u64
}

/// Puts the low `len` bits of `a` into `b` at `pos`; what does not fit is dropped.
pub(crate) fn insert(a: u64, b: u64, pos: u32, len: u32, bits: u32) -> u64 {
    let (pos, len) = (pos & 255, len & 255);
    if pos >= bits || len == 0 {
        return b;
    }
    let mask = (((1u128 << len.min(bits)) - 1) << pos) as u64;
    (b & !mask) | (a << pos & mask)
}

fn prmt(a: u32, b: u32, select: u32) -> u32 {
    let bytes = u64::from(a) | u64::from(b) << 32;
    (0..4).fold(0, |out, i| {
        let s = select >> (4 * i) & 15;
        let byte = (bytes >> (8 * (s & 7))) as u32 & 255;
        let byte = if s & 8 == 0 { byte } else { (byte >> 7) * 255 };
        out | byte << (8 * i)
    })
}

fn shf(lo: u32, hi: u32, n: u32, left: bool, wrap: bool) -> u32 {
    let n = if wrap { n & 31 } else { n.min(32) };
    let both = u64::from(lo) | u64::from(hi) << 32;
    if left { ((both << n) >> 32) as u32 } else { (both >> n) as u32 }
}

fn narrow(f: Narrow, a: u32, b: u32, c: u32) -> u32 {
    let (sa, sb) = (i32::from(a as i16), i32::from(b as i16));
    let (ua, ub) = (a & 0xffff, b & 0xffff);
    let full = match f {
        Narrow::WideU => return ua * ub,
        Narrow::WideS => return (sa * sb) as u32,
        Narrow::Add => a.wrapping_add(b),
        Narrow::Sub => a.wrapping_sub(b),
        Narrow::MulLo => ua * ub,
        Narrow::MadLo => (ua * ub).wrapping_add(c),
        Narrow::MinU => ua.min(ub),
        Narrow::MaxU => ua.max(ub),
        Narrow::MinS => sa.min(sb) as u32,
        Narrow::MaxS => sa.max(sb) as u32,
        Narrow::DivU => ua.checked_div(ub).unwrap_or(0xffff),
        Narrow::DivS => sa.checked_div(sb).unwrap_or(-1) as u32,
        Narrow::RemU => ua.checked_rem(ub).unwrap_or(ua),
        Narrow::RemS => sa.checked_rem(sb).unwrap_or(sa) as u32,
        Narrow::Neg => (-sa) as u32,
        Narrow::Abs => sa.unsigned_abs(),
        Narrow::Not => !a,
        Narrow::Shl => {
            if b > 15 {
                0
            } else {
                ua << b
            }
        }
        Narrow::ShrU => {
            if b > 15 {
                0
            } else {
                ua >> b
            }
        }
        Narrow::ShrS => (sa >> b.min(15)) as u32,
    };
    full & 0xffff
}

/// Evaluates a 64-bit function for all lanes.
#[inline]
pub(crate) fn alu64(f: Alu64, [a, b, c]: [&Row64; 3]) -> Row64 {
    let map = |f: &dyn Fn(u64, u64) -> u64| -> Row64 { std::array::from_fn(|i| f(a[i], b[i])) };
    match f {
        Alu64::Mov => *a,
        Alu64::Add => std::array::from_fn(|i| a[i].wrapping_add(b[i])),
        Alu64::Sub => std::array::from_fn(|i| a[i].wrapping_sub(b[i])),
        Alu64::MulLo => std::array::from_fn(|i| a[i].wrapping_mul(b[i])),
        Alu64::MulHiU => map(&|a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64),
        Alu64::MulHiS => map(&|a, b| ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64),
        Alu64::MadLo => std::array::from_fn(|i| a[i].wrapping_mul(b[i]).wrapping_add(c[i])),
        Alu64::DivU => map(&|a, b| a.checked_div(b).unwrap_or(u64::MAX)),
        Alu64::DivS => map(&|a, b| if b == 0 { u64::MAX } else { (a as i64).wrapping_div(b as i64) as u64 }),
        Alu64::RemU => map(&|a, b| a.checked_rem(b).unwrap_or(a)),
        Alu64::RemS => map(&|a, b| if b == 0 { a } else { (a as i64).wrapping_rem(b as i64) as u64 }),
        Alu64::MinU => map(&|a, b| a.min(b)),
        Alu64::MinS => map(&|a, b| (a as i64).min(b as i64) as u64),
        Alu64::MaxU => map(&|a, b| a.max(b)),
        Alu64::MaxS => map(&|a, b| (a as i64).max(b as i64) as u64),
        Alu64::Abs => map(&|a, _| (a as i64).wrapping_abs() as u64),
        Alu64::Neg => map(&|a, _| a.wrapping_neg()),
        Alu64::And => std::array::from_fn(|i| a[i] & b[i]),
        Alu64::Or => std::array::from_fn(|i| a[i] | b[i]),
        Alu64::Xor => std::array::from_fn(|i| a[i] ^ b[i]),
        Alu64::Not => map(&|a, _| !a),
        Alu64::Brev => map(&|a, _| a.reverse_bits()),
    }
}

/// Shifts 64-bit rows.
#[inline]
pub(crate) fn shift64(f: Shift64, a: &Row64, n: &Row) -> Row64 {
    std::array::from_fn(|i| match f {
        Shift64::Left => a[i].checked_shl(n[i]).unwrap_or(0),
        Shift64::RightU => a[i].checked_shr(n[i]).unwrap_or(0),
        Shift64::RightS => ((a[i] as i64) >> n[i].min(63)) as u64,
    })
}

/// Functions from 64 bits to 32.
pub(crate) fn count64(f: Alu32, a: &Row64) -> Row {
    std::array::from_fn(|i| match f {
        Alu32::Popc => a[i].count_ones(),
        Alu32::BfindU(shift) => bfind(a[i], 64, shift),
        _ => a[i].leading_zeros(),
    })
}
