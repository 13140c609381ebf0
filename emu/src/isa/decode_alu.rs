//! Decoding of arithmetic.

use super::{
    alu::{Alu32, Alu64, Float, HalfFn, Narrow, PredFn, Round, Shift64},
    decode::{Decoder, Why},
    mods::Mods,
    op::Op,
};
use crate::ptx::{ast::Operand, types::Ty};

type Decoded = Option<Result<Op, Why>>;

impl Decoder<'_> {
    /// Decodes the instruction if it is one of this file's.
    pub(crate) fn decode_alu(&mut self, name: &str, m: &mut Mods<'_>, o: &[Operand]) -> Decoded {
        Some(match name {
            "mov" => self.mov(m, o),
            "add" | "sub" | "mul" | "mad" | "fma" | "div" | "rem" | "min" | "max" | "abs" | "neg"
            | "sqrt" | "rcp" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" | "copysign" | "and"
            | "or" | "xor" | "not" | "cnot" | "shl" | "shr" | "popc" | "clz" | "brev" | "bfind" | "bfe"
            | "bfi" | "prmt" | "shf" | "lop3" | "sad" | "dp4a" | "mul24" => self.arith(name, m, o),
            "cvt" => self.cvt(m, o),
            "cvta" => self.cvta(m, o),
            "setp" => self.setp(m, o),
            "set" => self.set(m, o),
            "selp" => self.selp(m, o),
            _ => return None,
        })
    }

    fn arith(&mut self, name: &str, m: &mut Mods<'_>, o: &[Operand]) -> Result<Op, Why> {
        let wide = m.take("wide");
        let hi = m.take("hi");
        m.take("lo");
        m.take("approx");
        m.take("full");
        m.take("rn");
        let directed = m.one_of(&[("rz", Round::Zero), ("rm", Round::Down), ("rp", Round::Up)]);
        let (ftz, sat, nan, relu) = (m.take("ftz"), m.take("sat"), m.take("NaN"), m.take("relu"));
        let (wrap, clamp, left, right, shiftamt) =
            (m.take("wrap"), m.take("clamp"), m.take("l"), m.take("r"), m.take("shiftamt"));
        let ty = m.ty().ok_or("no type")?;
        if name == "dp4a" {
            m.ty();
        }
        if directed.is_some() && ty != Ty::F32 {
            return Err(format!("directed rounding of {ty:?} is not implemented"));
        }
        if wide {
            return self.wide(ty, o);
        }
        match ty {
            Ty::Pred => {
                let f = match name {
                    "and" => PredFn::And,
                    "or" => PredFn::Or,
                    "xor" => PredFn::Xor,
                    "not" => PredFn::Mov,
                    _ => return Err(format!("`{name}` does not work on predicates")),
                };
                let (d, a) = (self.dst_p(self.nth(o, 0)?)?, self.pred(self.nth(o, 1)?)?);
                let b = if f == PredFn::Mov { a } else { self.pred(self.nth(o, 2)?)? };
                Ok(Op::Pred { f, d, a, b, not_a: name == "not" })
            }
            Ty::F32 | Ty::F64 => {
                if relu {
                    return Err("`.relu` works on half types only".to_owned());
                }
                let f = float(name, nan)?;
                let n = match f {
                    Float::Fma => 3,
                    Float::Add
                    | Float::Sub
                    | Float::Mul
                    | Float::Div
                    | Float::Min
                    | Float::Max
                    | Float::MinNan
                    | Float::MaxNan
                    | Float::CopySign => 2,
                    _ => 1,
                };
                if ty == Ty::F32 {
                    let d = self.dst_r(self.nth(o, 0)?)?;
                    let mut s = [d; 3];
                    for (i, s) in s.iter_mut().enumerate().take(n) {
                        *s = self.r(self.nth(o, i + 1)?)?;
                    }
                    match (directed, f) {
                        (None, _) => Ok(Op::Float { f, d, s, ftz, sat }),
                        (Some(round), Float::Add | Float::Sub | Float::Mul | Float::Fma) if !sat => {
                            Ok(Op::Directed { f, round, d, s, ftz })
                        }
                        _ => Err(format!("`{name}` with directed rounding is not implemented")),
                    }
                } else {
                    let d = self.dst_d(self.nth(o, 0)?)?;
                    let mut s = [d; 3];
                    for (i, s) in s.iter_mut().enumerate().take(n) {
                        *s = self.d(self.nth(o, i + 1)?)?;
                    }
                    Ok(Op::Double { f, d, s })
                }
            }
            Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2 => {
                if ftz || sat || nan {
                    return Err("half arithmetic with .ftz, .sat or .NaN is not implemented".to_owned());
                }
                let (f, n) = match name {
                    "add" => (HalfFn::Add, 2),
                    "sub" => (HalfFn::Sub, 2),
                    "mul" => (HalfFn::Mul, 2),
                    "fma" if relu => (HalfFn::FmaRelu, 3),
                    "fma" => (HalfFn::Fma, 3),
                    "min" => (HalfFn::Min, 2),
                    "max" => (HalfFn::Max, 2),
                    "abs" => (HalfFn::Abs, 1),
                    "neg" => (HalfFn::Neg, 1),
                    "ex2" => (HalfFn::Ex2, 1),
                    "tanh" => (HalfFn::Tanh, 1),
                    _ => return Err(format!("`{name}` of half types is not implemented")),
                };
                let d = self.dst_r(self.nth(o, 0)?)?;
                let mut s = [d; 3];
                for (i, s) in s.iter_mut().enumerate().take(n) {
                    *s = self.r(self.nth(o, i + 1)?)?;
                }
                let (bf16, packed) =
                    (matches!(ty, Ty::Bf16 | Ty::Bf16x2), matches!(ty, Ty::F16x2 | Ty::Bf16x2));
                Ok(Op::Half { f, bf16, packed, d, s })
            }
            Ty::B64 | Ty::U64 | Ty::S64 => self.int64(name, ty, hi, shiftamt, o),
            Ty::B16 | Ty::U16 | Ty::S16 => self.int16(name, ty, o),
            Ty::B32 | Ty::U32 | Ty::S32 => {
                let s = ty == Ty::S32;
                let f = match (name, s) {
                    ("add", _) => Alu32::Add,
                    ("sub", _) => Alu32::Sub,
                    ("mul", true) if hi => Alu32::MulHiS,
                    ("mul", false) if hi => Alu32::MulHiU,
                    ("mul", _) => Alu32::MulLo,
                    ("mad", true) if hi => Alu32::MadHiS,
                    ("mad", false) if hi => Alu32::MadHiU,
                    ("mad", _) => Alu32::MadLo,
                    ("div", true) => Alu32::DivS,
                    ("div", false) => Alu32::DivU,
                    ("rem", true) => Alu32::RemS,
                    ("rem", false) => Alu32::RemU,
                    ("min", true) => Alu32::MinS,
                    ("min", false) => Alu32::MinU,
                    ("max", true) => Alu32::MaxS,
                    ("max", false) => Alu32::MaxU,
                    ("abs", _) => Alu32::Abs,
                    ("neg", _) => Alu32::Neg,
                    ("and", _) => Alu32::And,
                    ("or", _) => Alu32::Or,
                    ("xor", _) => Alu32::Xor,
                    ("not", _) => Alu32::Not,
                    ("cnot", _) => Alu32::Cnot,
                    ("shl", _) => Alu32::Shl,
                    ("shr", true) => Alu32::ShrS,
                    ("shr", false) => Alu32::ShrU,
                    ("popc", _) => Alu32::Popc,
                    ("clz", _) => Alu32::Clz,
                    ("brev", _) => Alu32::Brev,
                    ("bfind", true) => Alu32::BfindS(shiftamt),
                    ("bfind", false) => Alu32::BfindU(shiftamt),
                    ("bfe", true) => Alu32::BfeS,
                    ("bfe", false) => Alu32::BfeU,
                    ("bfi", _) => Alu32::Bfi,
                    ("prmt", _) => Alu32::Prmt,
                    ("shf", _) if left != right && wrap != clamp => Alu32::Shf { left, wrap },
                    ("lop3", _) => Alu32::Lop3(self.int(self.nth(o, 4)?)? as u8),
                    ("sad", true) => Alu32::SadS,
                    ("sad", false) => Alu32::SadU,
                    ("dp4a", true) => Alu32::Dp4aS,
                    ("dp4a", false) => Alu32::Dp4aU,
                    _ => return Err(format!("`{name}` of {ty:?} is not implemented")),
                };
                if sat {
                    return Err("integer `.sat` is not implemented".to_owned());
                }
                let d = self.dst_r(self.nth(o, 0)?)?;
                let n = o.len().saturating_sub(1).min(if name == "lop3" { 3 } else { 4 });
                self.expect_operands(name, n)?;
                let mut s = [d; 4];
                for i in 0..n {
                    s[i] = self.r(&o[i + 1])?;
                }
                Ok(Op::Alu32 { f, d, s })
            }
            _ => Err(format!("`{name}` of {ty:?} is not implemented")),
        }
    }

    /// Refuses an integer instruction with the wrong number of sources.
    fn expect_operands(&self, name: &str, got: usize) -> Result<(), Why> {
        let want = match name {
            "abs" | "neg" | "not" | "cnot" | "popc" | "clz" | "brev" | "bfind" => 1,
            "mad" | "bfe" | "prmt" | "shf" | "lop3" | "sad" | "dp4a" => 3,
            "bfi" => 4,
            _ => 2,
        };
        if got == want { Ok(()) } else { Err(format!("expected {want} sources, got {got}")) }
    }

    fn wide(&mut self, ty: Ty, o: &[Operand]) -> Result<Op, Why> {
        let signed = ty.is_signed();
        if ty.size() == 2 {
            let f = Alu32::Narrow(if signed { Narrow::WideS } else { Narrow::WideU });
            if o.len() != 3 {
                return Err("`mad.wide` of 16 bits is not implemented".to_owned());
            }
            let d = self.dst_r(&o[0])?;
            return Ok(Op::Alu32 { f, d, s: [self.r16(&o[1])?, self.r16(&o[2])?, d, d] });
        }
        if ty.size() != 4 {
            return Err(format!("`.wide` of {ty:?} does not exist"));
        }
        let (d, a, b) = (self.dst_d(self.nth(o, 0)?)?, self.r(self.nth(o, 1)?)?, self.r(self.nth(o, 2)?)?);
        let c = match o.get(3) {
            Some(c) => Some(self.d(c)?),
            None => None,
        };
        Ok(Op::Wide { signed, d, a, b, c })
    }

    fn int64(&mut self, name: &str, ty: Ty, hi: bool, shiftamt: bool, o: &[Operand]) -> Result<Op, Why> {
        let s = ty == Ty::S64;
        let shift = match (name, s) {
            ("shl", _) => Some(Shift64::Left),
            ("shr", true) => Some(Shift64::RightS),
            ("shr", false) => Some(Shift64::RightU),
            _ => None,
        };
        let (first, second) = (self.nth(o, 0)?, self.nth(o, 1)?);
        if let Some(f) = shift {
            return Ok(Op::Shift64 {
                f,
                d: self.dst_d(first)?,
                a: self.d(second)?,
                n: self.r(self.nth(o, 2)?)?,
            });
        }
        let count = match name {
            "popc" => Some(Alu32::Popc),
            "clz" => Some(Alu32::Clz),
            "bfind" if !s => Some(Alu32::BfindU(shiftamt)),
            _ => None,
        };
        if let Some(f) = count {
            return Ok(Op::Count64 { f, d: self.dst_r(first)?, a: self.d(second)? });
        }
        if matches!(name, "bfi" | "bfe") {
            self.expect_operands(name, o.len() - 1)?;
            let (d, a) = (self.dst_d(first)?, self.d(second)?);
            let into = if name == "bfi" { Some(self.d(&o[2])?) } else { None };
            let (pos, len) = (self.r(&o[o.len() - 2])?, self.r(&o[o.len() - 1])?);
            return Ok(Op::Field64 { signed: s, d, a, into, pos, len });
        }
        let f = match (name, s) {
            ("add", _) => Alu64::Add,
            ("sub", _) => Alu64::Sub,
            ("mul", true) if hi => Alu64::MulHiS,
            ("mul", false) if hi => Alu64::MulHiU,
            ("mul", _) => Alu64::MulLo,
            ("mad", _) if !hi => Alu64::MadLo,
            ("div", true) => Alu64::DivS,
            ("div", false) => Alu64::DivU,
            ("rem", true) => Alu64::RemS,
            ("rem", false) => Alu64::RemU,
            ("min", true) => Alu64::MinS,
            ("min", false) => Alu64::MinU,
            ("max", true) => Alu64::MaxS,
            ("max", false) => Alu64::MaxU,
            ("abs", _) => Alu64::Abs,
            ("neg", _) => Alu64::Neg,
            ("and", _) => Alu64::And,
            ("or", _) => Alu64::Or,
            ("xor", _) => Alu64::Xor,
            ("not", _) => Alu64::Not,
            ("brev", _) => Alu64::Brev,
            _ => return Err(format!("`{name}` of {ty:?} is not implemented")),
        };
        self.expect_operands(name, o.len() - 1)?;
        let d = self.dst_d(first)?;
        let mut src = [d; 3];
        for (s, operand) in src.iter_mut().zip(&o[1..]) {
            *s = self.d(operand)?;
        }
        Ok(Op::Alu64 { f, d, s: src })
    }

    fn int16(&mut self, name: &str, ty: Ty, o: &[Operand]) -> Result<Op, Why> {
        let s = ty == Ty::S16;
        let f = match (name, s) {
            ("add", _) => Alu32::Narrow(Narrow::Add),
            ("sub", _) => Alu32::Narrow(Narrow::Sub),
            ("mul", _) => Alu32::Narrow(Narrow::MulLo),
            ("mad", _) => Alu32::Narrow(Narrow::MadLo),
            ("min", true) => Alu32::Narrow(Narrow::MinS),
            ("min", false) => Alu32::Narrow(Narrow::MinU),
            ("max", true) => Alu32::Narrow(Narrow::MaxS),
            ("max", false) => Alu32::Narrow(Narrow::MaxU),
            ("div", true) => Alu32::Narrow(Narrow::DivS),
            ("div", false) => Alu32::Narrow(Narrow::DivU),
            ("rem", true) => Alu32::Narrow(Narrow::RemS),
            ("rem", false) => Alu32::Narrow(Narrow::RemU),
            ("neg", _) => Alu32::Narrow(Narrow::Neg),
            ("abs", _) => Alu32::Narrow(Narrow::Abs),
            ("not", _) => Alu32::Narrow(Narrow::Not),
            ("shl", _) => Alu32::Narrow(Narrow::Shl),
            ("shr", true) => Alu32::Narrow(Narrow::ShrS),
            ("shr", false) => Alu32::Narrow(Narrow::ShrU),
            ("and", _) => Alu32::And,
            ("or", _) => Alu32::Or,
            ("xor", _) => Alu32::Xor,
            _ => return Err(format!("`{name}` of {ty:?} is not implemented")),
        };
        let d = self.dst_r(self.nth(o, 0)?)?;
        self.expect_operands(name, o.len() - 1)?;
        let mut src = [d; 4];
        for i in 1..o.len() {
            // The amount of a shift is a 32-bit operand.
            src[i - 1] =
                if i == 2 && matches!(name, "shl" | "shr") { self.r(&o[i])? } else { self.r16(&o[i])? };
        }
        Ok(Op::Alu32 { f, d, s: src })
    }
}

fn float(name: &str, nan: bool) -> Result<Float, Why> {
    Ok(match name {
        "add" => Float::Add,
        "sub" => Float::Sub,
        "mul" => Float::Mul,
        "fma" | "mad" => Float::Fma,
        "div" => Float::Div,
        "min" if nan => Float::MinNan,
        "max" if nan => Float::MaxNan,
        "min" => Float::Min,
        "max" => Float::Max,
        "abs" => Float::Abs,
        "neg" => Float::Neg,
        "sqrt" => Float::Sqrt,
        "rcp" => Float::Rcp,
        "rsqrt" => Float::Rsqrt,
        "ex2" => Float::Ex2,
        "lg2" => Float::Lg2,
        "sin" => Float::Sin,
        "cos" => Float::Cos,
        "tanh" => Float::Tanh,
        "copysign" => Float::CopySign,
        _ => return Err(format!("`{name}` of floating-point numbers is not implemented")),
    })
}
