//! `cvt` and `setp`.

use super::{
    float::compare,
    regs::{Regs, Row64},
};
use crate::{
    half::{from_bf16, from_f16, to_bf16, to_f16},
    isa::{
        Reg,
        alu::{Cmp, CmpKind, Round},
    },
    ptx::types::Ty,
};

/// The low bits of a register as the type's value, sign- or zero-extended.
#[inline]
pub(crate) fn extend(ty: Ty, bits: u64) -> u64 {
    match ty {
        Ty::S8 => bits as i8 as u64,
        Ty::S16 => bits as i16 as u64,
        Ty::S32 => bits as i32 as u64,
        _ => match ty.size() {
            1 => bits & 0xff,
            2 => bits & 0xffff,
            4 => bits & 0xffff_ffff,
            _ => bits,
        },
    }
}

/// A float of any type as f64, exactly.
fn widen(ty: Ty, bits: u64) -> f64 {
    match ty {
        Ty::F32 => f64::from(f32::from_bits(bits as u32)),
        Ty::F16 => f64::from(from_f16(bits as u16)),
        Ty::Bf16 => f64::from(from_bf16(bits as u16)),
        _ => f64::from_bits(bits),
    }
}

/// Converts one row; `narrow` destinations in 32-bit registers are extended to them.
pub(crate) fn cvt(from: Ty, to: Ty, round: Round, ftz: bool, sat: bool, a: &Row64) -> Row64 {
    // The two that address arithmetic is full of.
    match (from, to) {
        (Ty::S32, Ty::S64) => return a.map(|v| v as i32 as u64),
        (Ty::U32, Ty::U64 | Ty::S64) | (Ty::U64 | Ty::S64, Ty::U32) => return a.map(|v| v & 0xffff_ffff),
        _ => {}
    }
    a.map(|v| one(from, to, round, ftz, sat, v))
}

fn one(from: Ty, to: Ty, round: Round, ftz: bool, sat: bool, bits: u64) -> u64 {
    let cut = |v: u64| extend(to, v) & if to.size() == 8 { u64::MAX } else { u64::from(u32::MAX) };
    if !from.is_float() {
        let v = extend(from, bits);
        let wide = if from.is_signed() { i128::from(v as i64) } else { i128::from(v) };
        if !to.is_float() {
            if sat {
                let (lo, hi) = range(to);
                return cut(wide.clamp(lo, hi) as u64);
            }
            return cut(v);
        }
        return match to {
            // Directly from the integer: one rounding.
            Ty::F32 => u64::from((wide as f32).to_bits()),
            Ty::F64 => (wide as f64).to_bits(),
            Ty::F16 => u64::from(to_f16(odd(wide as f64))),
            _ => u64::from(to_bf16(odd(wide as f64))),
        };
    }
    let mut v = widen(from, bits);
    if ftz && from == Ty::F32 && (f32::from_bits(bits as u32)).is_subnormal() {
        v = 0f64.copysign(v);
    }
    if !to.is_float() {
        if v.is_nan() {
            // Integer conversions of NaN give zero, except to 64 bits, where they give the top bit.
            return if to.size() == 8 { 1 << 63 } else { 0 };
        }
        let whole = match round {
            Round::IntNearest => v.round_ties_even(),
            Round::IntDown => v.floor(),
            Round::IntUp => v.ceil(),
            _ => v.trunc(),
        };
        let (lo, hi) = range(to);
        // Casts from f64 saturate, which is what GPUs do as well.
        return cut((whole as i128).clamp(lo, hi) as u64);
    }
    let mut v = match round {
        Round::IntNearest => v.round_ties_even(),
        Round::IntZero => v.trunc(),
        Round::IntDown => v.floor(),
        Round::IntUp => v.ceil(),
        _ => v,
    };
    if sat {
        v = if v.is_nan() { 0.0 } else { v.clamp(0.0, 1.0) };
    }
    match to {
        Ty::F64 => v.to_bits(),
        Ty::F32 => {
            let f = v as f32;
            let f = if ftz && f.is_subnormal() { 0f32.copysign(f) } else { f };
            u64::from(if f.is_nan() { 0x7fff_ffff } else { f.to_bits() })
        }
        Ty::F16 => u64::from(to_f16(odd(v))),
        _ if round == Round::Zero => (v as f32).to_bits() as u64 >> 16,
        _ => u64::from(to_bf16(odd(v))),
    }
}

/// f64 to f32 rounded to odd, so that rounding again to fewer bits gives the right result.
fn odd(v: f64) -> f32 {
    let f = v as f32;
    if f.is_infinite() || f64::from(f) == v || f.is_nan() || f.to_bits() & 1 == 1 {
        return f;
    }
    let up = (f64::from(f).abs()) < v.abs();
    f32::from_bits(if up { f.to_bits() + 1 } else { f.to_bits() - 1 })
}

fn range(ty: Ty) -> (i128, i128) {
    let bits = ty.size() as u32 * 8;
    if ty.is_signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

/// Compares two registers lane by lane.
#[inline]
pub(crate) fn set(regs: &Regs, cmp: Cmp, kind: CmpKind, a: Reg, b: Reg, ftz: bool) -> u32 {
    let mut out = 0u32;
    if let (Reg::R(a), Reg::R(b), 4) = (a, b, kind.size()) {
        let (a, b) = (&regs.r[a as usize], &regs.r[b as usize]);
        let mut each = |f: &dyn Fn(u32, u32) -> bool| {
            for l in 0..32 {
                out |= u32::from(f(a[l], b[l])) << l;
            }
        };
        let float = |v: u32| {
            let f = f32::from_bits(v);
            f64::from(if ftz && f.is_subnormal() { 0.0 } else { f })
        };
        match (kind, cmp) {
            (Ty::F32, cmp) => each(&|a, b| compare(cmp, float(a), float(b))),
            (_, Cmp::Eq) => each(&|a, b| a == b),
            (_, Cmp::Ne) => each(&|a, b| a != b),
            (Ty::S32, cmp) => each(&|a, b| ordered(cmp, a as i32, b as i32)),
            (_, cmp) => each(&|a, b| ordered(cmp, a, b)),
        }
        return out;
    }
    let (a, b) = (regs.any(a), regs.any(b));
    for l in 0..32 {
        let (x, y) = (extend(kind, a[l]), extend(kind, b[l]));
        let hit = if kind.is_float() {
            compare(cmp, widen(kind, a[l]), widen(kind, b[l]))
        } else if kind.is_signed() {
            ordered(cmp, x as i64, y as i64)
        } else {
            ordered(cmp, x, y)
        };
        out |= u32::from(hit) << l;
    }
    out
}

fn ordered<T: PartialOrd>(cmp: Cmp, a: T, b: T) -> bool {
    match cmp {
        Cmp::Eq | Cmp::Equ => a == b,
        Cmp::Ne | Cmp::Neu => a != b,
        Cmp::Lt | Cmp::Ltu => a < b,
        Cmp::Le | Cmp::Leu => a <= b,
        Cmp::Gt | Cmp::Gtu => a > b,
        Cmp::Ge | Cmp::Geu => a >= b,
        Cmp::Num => true,
        Cmp::Nan => false,
    }
}
