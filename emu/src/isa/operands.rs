//! Operands of an instruction: registers by file, constants, addresses, labels.

use super::{
    decode::{Decoder, File, Why, file},
    kernel::{Init, Relation, Special},
    op::{Addr, P, Reg},
};
use crate::{
    mem::space::{LOCAL_BASE, PARAM_BASE},
    ptx::{
        ast::{Operand, RegId, Space},
        types::Ty,
    },
};

impl Decoder<'_> {
    /// The operand at a position.
    pub(crate) fn nth<'o>(&self, o: &'o [Operand], n: usize) -> Result<&'o Operand, Why> {
        o.get(n).ok_or_else(|| format!("operand {} is missing", n + 1))
    }

    fn lookup(&self, r: RegId, want: File) -> Result<u32, Why> {
        let ty = self.f.regs[r as usize];
        if file(ty) == want {
            Ok(self.index[r as usize])
        } else {
            Err(format!("a register of type {ty:?} does not fit here"))
        }
    }

    fn constant(&mut self, init: Init, wide: bool) -> u32 {
        let (map, row) = match wide {
            false => (&mut self.consts32, &mut self.rows[1]),
            true => (&mut self.consts64, &mut self.rows[2]),
        };
        *map.entry(init).or_insert_with(|| {
            *row += 1;
            *row - 1
        })
    }

    /// A 32-bit constant.
    pub(crate) fn imm(&mut self, v: u32) -> u32 {
        self.constant(Init::Bits(u64::from(v)), false)
    }

    fn symbol(&self, name: &str, offset: i64) -> Result<Init, Why> {
        let &(space, at) = self.symbols.get(name).ok_or_else(|| format!("`{name}` has no address here"))?;
        let fixed = |base: u64| Ok(Init::Bits(base.wrapping_add(at as u64).wrapping_add(offset as u64)));
        match space {
            Space::Shared => fixed(0),
            Space::Local => fixed(0),
            Space::Param => fixed(PARAM_BASE),
            _ => Ok(Init::Global(at, offset)),
        }
    }

    fn special(&self, name: &str) -> Result<Special, Why> {
        let axis = |s: &str| match s {
            "x" => Some(0),
            "y" => Some(1),
            "z" => Some(2),
            _ => None,
        };
        let (stem, tail) = name.split_once('.').unwrap_or((name, ""));
        Ok(match (stem, axis(tail)) {
            ("%tid", Some(a)) => Special::Tid(a),
            ("%ntid", Some(a)) => Special::Ntid(a),
            ("%ctaid", Some(a)) => Special::Ctaid(a),
            ("%nctaid", Some(a)) => Special::Nctaid(a),
            ("%laneid", _) => Special::LaneId,
            ("%warpid", _) => Special::WarpId,
            ("%lanemask_eq", _) => Special::LaneMask(Relation::Eq),
            ("%lanemask_lt", _) => Special::LaneMask(Relation::Lt),
            ("%lanemask_le", _) => Special::LaneMask(Relation::Le),
            ("%lanemask_gt", _) => Special::LaneMask(Relation::Gt),
            ("%lanemask_ge", _) => Special::LaneMask(Relation::Ge),
            ("%dynamic_smem_size", _) => Special::DynamicShared,
            _ => return Err(format!("special register `{name}` is not implemented")),
        })
    }

    /// A 32-bit (or narrower) source.
    pub(crate) fn r(&mut self, o: &Operand) -> Result<u32, Why> {
        let init = match o {
            Operand::Reg(r) => return self.lookup(*r, File::Row32),
            Operand::Int(v) => Init::Bits(u64::from(*v as u32)),
            Operand::F32(b) => Init::Bits(u64::from(*b)),
            Operand::F64(b) => Init::Bits(u64::from((f64::from_bits(*b) as f32).to_bits())),
            Operand::Special(s) => Init::Special(self.special(s)?),
            Operand::Symbol(s, off) => self.symbol(s, *off)?,
            _ => return Err("expected a 32-bit register or a constant".to_owned()),
        };
        Ok(self.constant(init, false))
    }

    /// A 16-bit source: constants are cut to 16 bits, because registers hold them zero-extended.
    pub(crate) fn r16(&mut self, o: &Operand) -> Result<u32, Why> {
        match o {
            Operand::Int(v) => Ok(self.imm(u32::from(*v as u16))),
            o => self.r(o),
        }
    }

    /// A 64-bit source.
    pub(crate) fn d(&mut self, o: &Operand) -> Result<u32, Why> {
        let init = match o {
            Operand::Reg(r) => return self.lookup(*r, File::Row64),
            Operand::Int(v) => Init::Bits(*v as u64),
            Operand::F64(b) => Init::Bits(*b),
            Operand::Symbol(s, off) => self.symbol(s, *off)?,
            _ => return Err("expected a 64-bit register or a constant".to_owned()),
        };
        Ok(self.constant(init, true))
    }

    /// A predicate source without negation.
    pub(crate) fn pred(&mut self, o: &Operand) -> Result<P, Why> {
        match o {
            Operand::Reg(r) => self.lookup(*r, File::Pred),
            _ => Err("expected a predicate".to_owned()),
        }
    }

    /// A predicate source that may be negated.
    pub(crate) fn pred_not(&mut self, o: &Operand) -> Result<(P, bool), Why> {
        match o {
            Operand::Not(r) => Ok((self.lookup(*r, File::Pred)?, true)),
            o => Ok((self.pred(o)?, false)),
        }
    }

    fn dst(&mut self, o: &Operand, want: File) -> Result<u32, Why> {
        match o {
            Operand::Reg(r) => self.lookup(*r, want),
            Operand::Sink => {
                let (sink, row) = (&mut self.sinks[want as usize], &mut self.rows[want as usize]);
                Ok(*sink.get_or_insert_with(|| {
                    *row += 1;
                    *row - 1
                }))
            }
            _ => Err("expected a register to write".to_owned()),
        }
    }

    /// A 32-bit destination.
    pub(crate) fn dst_r(&mut self, o: &Operand) -> Result<u32, Why> {
        self.dst(o, File::Row32)
    }

    /// A 64-bit destination.
    pub(crate) fn dst_d(&mut self, o: &Operand) -> Result<u32, Why> {
        self.dst(o, File::Row64)
    }

    /// A predicate destination.
    pub(crate) fn dst_p(&mut self, o: &Operand) -> Result<P, Why> {
        self.dst(o, File::Pred)
    }

    /// Destination and optional predicate of `d|p`.
    pub(crate) fn dst_pair(&mut self, o: &Operand) -> Result<(u32, Option<P>), Why> {
        match o {
            Operand::Pair(d, p) => {
                let d = d.map_or(Operand::Sink, Operand::Reg);
                Ok((self.dst_r(&d)?, Some(self.lookup(*p, File::Pred)?)))
            }
            o => Ok((self.dst_r(o)?, None)),
        }
    }

    /// A source of a given type.
    pub(crate) fn src_of(&mut self, ty: Ty, o: &Operand) -> Result<Reg, Why> {
        Ok(match ty.size() {
            8 => Reg::D(self.d(o)?),
            _ => Reg::R(self.r(o)?),
        })
    }

    /// A destination for a given type; memory instructions may use a wider register than the type.
    pub(crate) fn dst_of(&mut self, o: &Operand) -> Result<Reg, Why> {
        match o {
            Operand::Reg(r) if file(self.f.regs[*r as usize]) == File::Row64 => Ok(Reg::D(self.dst_d(o)?)),
            o => Ok(Reg::R(self.dst_r(o)?)),
        }
    }

    /// Elements of a vector operand, or the single operand itself.
    pub(crate) fn items<'o>(&self, o: &'o Operand) -> &'o [Operand] {
        match o {
            Operand::Vector(v) => v,
            o => std::slice::from_ref(o),
        }
    }

    /// `[base + offset]`.
    pub(crate) fn addr(&mut self, o: &Operand) -> Result<Addr, Why> {
        let Operand::Memory(base, offset) = o else {
            return Err("expected an address in brackets".to_owned());
        };
        Ok(Addr { base: self.addr_base(base)?, offset: *offset })
    }

    /// The register an address starts from.
    pub(crate) fn addr_base(&mut self, o: &Operand) -> Result<Reg, Why> {
        match o {
            Operand::Reg(r) if file(self.f.regs[*r as usize]) == File::Row32 => Ok(Reg::R(self.r(o)?)),
            o => Ok(Reg::D(self.d(o)?)),
        }
    }

    /// A constant operand.
    pub(crate) fn int(&self, o: &Operand) -> Result<i64, Why> {
        match o {
            Operand::Int(v) => Ok(*v),
            _ => Err("expected a constant".to_owned()),
        }
    }

    /// Instruction index of a label.
    pub(crate) fn label(&self, o: &Operand) -> Result<u32, Why> {
        match o {
            Operand::Label(l) => Ok(self.f.labels[*l as usize] as u32),
            _ => Err("expected a label".to_owned()),
        }
    }

    /// The `.target` of the module.
    pub(crate) fn target(&self) -> &str {
        &self.module.target
    }

    /// Generic base of local memory.
    pub(crate) const LOCAL: u64 = LOCAL_BASE;
}
