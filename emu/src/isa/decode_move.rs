//! Decoding of moves, conversions, comparisons and selections.

use super::{
    alu::{Alu32, Alu64, Cmp, PredFn, Round},
    decode::{Decoder, Why},
    mods::Mods,
    op::{Op, Reg},
};
use crate::{
    mem::space::SHARED_BASE,
    ptx::{ast::Operand, types::Ty},
};

impl Decoder<'_> {
    pub(super) fn mov(&mut self, m: &mut Mods<'_>, o: &[Operand]) -> Result<Op, Why> {
        let ty = m.ty().ok_or("no type")?;
        let (d, a) = (self.nth(o, 0)?, self.nth(o, 1)?);
        match (d, a, ty.size()) {
            (d, Operand::Vector(v), 4) if v.len() == 2 => {
                Ok(Op::Pack32 { d: self.dst_r(d)?, lo: self.r16(&v[0])?, hi: self.r16(&v[1])? })
            }
            (Operand::Vector(v), a, 4) if v.len() == 2 => {
                Ok(Op::Unpack32 { lo: self.dst_r(&v[0])?, hi: self.dst_r(&v[1])?, a: self.r(a)? })
            }
            (d, Operand::Vector(v), 8) if v.len() == 2 => {
                Ok(Op::Pack64 { d: self.dst_d(d)?, lo: self.r(&v[0])?, hi: self.r(&v[1])? })
            }
            (Operand::Vector(v), a, 8) if v.len() == 2 => {
                Ok(Op::Unpack64 { lo: self.dst_r(&v[0])?, hi: self.dst_r(&v[1])?, a: self.d(a)? })
            }
            (d, Operand::Vector(v), 8) if v.len() == 4 => {
                let s = [self.r16(&v[0])?, self.r16(&v[1])?, self.r16(&v[2])?, self.r16(&v[3])?];
                Ok(Op::Pack64x4 { d: self.dst_d(d)?, s })
            }
            (Operand::Vector(v), a, 8) if v.len() == 4 => {
                let d = [self.dst_r(&v[0])?, self.dst_r(&v[1])?, self.dst_r(&v[2])?, self.dst_r(&v[3])?];
                Ok(Op::Unpack64x4 { d, a: self.d(a)? })
            }
            (Operand::Vector(_), ..) | (_, Operand::Vector(_), _) => {
                Err("this packing is not implemented".to_owned())
            }
            (d, a, 1) => {
                let d = self.dst_p(d)?;
                let a = match a {
                    // `mov.pred p, 0`: a predicate xor itself, negated for 1.
                    Operand::Int(v) => return Ok(Op::Pred { f: PredFn::Xor, d, a: d, b: d, not_a: *v != 0 }),
                    a => self.pred(a)?,
                };
                Ok(Op::Pred { f: PredFn::Mov, d, a, b: a, not_a: false })
            }
            (d, a, 8) => {
                let d = self.dst_d(d)?;
                let a = self.d(a)?;
                Ok(Op::Alu64 { f: Alu64::Mov, d, s: [a; 3] })
            }
            (d, a, size) => {
                let d = self.dst_r(d)?;
                let a = if size == 2 { self.r16(a)? } else { self.r(a)? };
                Ok(Op::Alu32 { f: Alu32::Mov, d, s: [a; 4] })
            }
        }
    }

    pub(super) fn cvta(&mut self, m: &mut Mods<'_>, o: &[Operand]) -> Result<Op, Why> {
        let to = m.take("to");
        let base = m
            .one_of(&[
                ("global", 0),
                ("const", 0),
                ("param", 0),
                ("shared::cta", SHARED_BASE),
                ("shared", SHARED_BASE),
                ("local", Self::LOCAL),
            ])
            .ok_or("no state space")?;
        if m.ty() != Some(Ty::U64) {
            return Err("only 64-bit addresses are implemented".to_owned());
        }
        Ok(Op::Window { d: self.dst_d(self.nth(o, 0)?)?, a: self.d(self.nth(o, 1)?)?, base, to })
    }

    pub(super) fn cvt(&mut self, m: &mut Mods<'_>, o: &[Operand]) -> Result<Op, Why> {
        let round = m
            .one_of(&[
                ("rni", Round::IntNearest),
                ("rzi", Round::IntZero),
                ("rmi", Round::IntDown),
                ("rpi", Round::IntUp),
                ("rna", Round::Nearest),
                ("rn", Round::Nearest),
                ("rz", Round::Zero),
                ("rm", Round::Down),
                ("rp", Round::Up),
            ])
            .unwrap_or(Round::None);
        let (ftz, sat, relu) = (m.take("ftz"), m.take("sat"), m.take("relu"));
        if m.take("tf32") {
            m.take("satfinite");
            m.ty();
            return Ok(Op::Tf32 { d: self.dst_r(self.nth(o, 0)?)?, a: self.r(self.nth(o, 1)?)? });
        }
        let (to, from) = (m.ty().ok_or("no destination type")?, m.ty().ok_or("no source type")?);
        if matches!(to, Ty::Bf16x2 | Ty::F16x2) {
            if from != Ty::F32 || round != Round::Nearest || ftz || sat {
                return Err("only `.rn` packing of two f32 is implemented".to_owned());
            }
            let (d, hi, lo) =
                (self.dst_r(self.nth(o, 0)?)?, self.r(self.nth(o, 1)?)?, self.r(self.nth(o, 2)?)?);
            return Ok(Op::CvtPack { bf16: to == Ty::Bf16x2, relu, d, hi, lo });
        }
        if relu {
            return Err("`.relu` is implemented for packing only".to_owned());
        }
        if to.is_float()
            && matches!(round, Round::Zero | Round::Down | Round::Up)
            && !(from == Ty::F32 && to == Ty::Bf16)
        {
            return Err("directed rounding to a floating-point type is not implemented".to_owned());
        }
        // Registers may be wider than the types: the source is cut, the destination extended.
        let d = self.dst_of(self.nth(o, 0)?)?;
        let a = match self.nth(o, 1)? {
            Operand::Reg(_) => self.dst_of(self.nth(o, 1)?)?,
            a => self.src_of(from, a)?,
        };
        let fits = |r: Reg, t: Ty| matches!(r, Reg::D(_)) || t.size() < 8;
        if !fits(d, to) || !fits(a, from) {
            return Err("a register is narrower than its type".to_owned());
        }
        Ok(Op::Cvt { d, a, from, to, round, ftz, sat })
    }

    pub(super) fn setp(&mut self, m: &mut Mods<'_>, o: &[Operand]) -> Result<Op, Why> {
        let cmp = comparison(m)?;
        let bool_op = m.one_of(&[("and", PredFn::And), ("or", PredFn::Or), ("xor", PredFn::Xor)]);
        let ftz = m.take("ftz");
        let kind = m.ty().ok_or("no type")?;
        if matches!(kind, Ty::F16x2 | Ty::Bf16x2 | Ty::Pred) || kind.size() == 1 {
            return Err(format!("comparison of {kind:?} is not implemented"));
        }
        let (d, e) = match self.nth(o, 0)? {
            Operand::Pair(p, q) => {
                let p = p.map_or(Operand::Sink, Operand::Reg);
                (self.dst_p(&p)?, Some(self.pred(&Operand::Reg(*q))?))
            }
            p => (self.dst_p(p)?, None),
        };
        let source = |s: &mut Self, o: &Operand| match kind.size() {
            2 => Ok(Reg::R(s.r16(o)?)),
            _ => s.src_of(kind, o),
        };
        let (a, b) = (source(self, self.nth(o, 1)?)?, source(self, self.nth(o, 2)?)?);
        let combine = match bool_op {
            Some(f) => {
                let (p, not) = self.pred_not(self.nth(o, 3)?)?;
                Some((f, p, not))
            }
            None => None,
        };
        Ok(Op::Set { cmp, kind, a, b, d, e, combine, ftz })
    }

    /// `set.gt.f32.f32 d, a, b`: 1.0, or all ones for an integer destination.
    pub(super) fn set(&mut self, m: &mut Mods<'_>, o: &[Operand]) -> Result<Op, Why> {
        let cmp = comparison(m)?;
        let ftz = m.take("ftz");
        let (to, kind) = (m.ty().ok_or("no destination type")?, m.ty().ok_or("no source type")?);
        let yes = match to {
            Ty::F32 => 1f32.to_bits(),
            Ty::U32 | Ty::S32 => u32::MAX,
            _ => return Err(format!("`set` to {to:?} is not implemented")),
        };
        if !matches!(kind, Ty::F32 | Ty::B32 | Ty::U32 | Ty::S32) || o.len() != 3 {
            return Err(format!("this `set` of {kind:?} is not implemented"));
        }
        let (a, b) = (self.src_of(kind, &o[1])?, self.src_of(kind, &o[2])?);
        Ok(Op::SetValue { cmp, kind, a, b, d: self.dst_r(&o[0])?, yes, ftz })
    }

    pub(super) fn selp(&mut self, m: &mut Mods<'_>, o: &[Operand]) -> Result<Op, Why> {
        let ty = m.ty().ok_or("no type")?;
        let (d, a, b) = (self.nth(o, 0)?, self.nth(o, 1)?, self.nth(o, 2)?);
        let p = self.pred(self.nth(o, 3)?)?;
        Ok(match ty.size() {
            8 => Op::Select64 { d: self.dst_d(d)?, a: self.d(a)?, b: self.d(b)?, p },
            2 => Op::Select32 { d: self.dst_r(d)?, a: self.r16(a)?, b: self.r16(b)?, p },
            _ => Op::Select32 { d: self.dst_r(d)?, a: self.r(a)?, b: self.r(b)?, p },
        })
    }
}

/// The comparison of `setp` and `set`.
fn comparison(m: &mut Mods<'_>) -> Result<Cmp, Why> {
    m.one_of(&[
        ("equ", Cmp::Equ),
        ("neu", Cmp::Neu),
        ("ltu", Cmp::Ltu),
        ("leu", Cmp::Leu),
        ("gtu", Cmp::Gtu),
        ("geu", Cmp::Geu),
        ("eq", Cmp::Eq),
        ("ne", Cmp::Ne),
        ("lt", Cmp::Lt),
        ("le", Cmp::Le),
        ("gt", Cmp::Gt),
        ("ge", Cmp::Ge),
        ("lo", Cmp::Lt),
        ("ls", Cmp::Le),
        ("hi", Cmp::Gt),
        ("hs", Cmp::Ge),
        ("num", Cmp::Num),
        ("nan", Cmp::Nan),
    ])
    .ok_or_else(|| "no comparison".to_owned())
}
