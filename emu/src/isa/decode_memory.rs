//! Decoding of loads, stores, atomics and matrix loads.

use super::{
    asynch::Matrix,
    decode::{Decoder, Why},
    mods::Mods,
    op::{Addr, Atomic, AtomicFn, Mem, Op, Order, Reg, Scope},
};
use crate::ptx::{
    ast::{Operand, Space},
    types::Ty,
};

type Decoded = Option<Result<Op, Why>>;

const SPACES: &[(&str, Space)] = &[
    ("global", Space::Global),
    ("shared::cta", Space::Shared),
    ("shared", Space::Shared),
    ("local", Space::Local),
    ("param", Space::Param),
    ("const", Space::Const),
];

impl Decoder<'_> {
    /// Decodes the instruction if it is one of this file's.
    pub(crate) fn decode_memory(&mut self, name: &str, m: &mut Mods<'_>, o: &[Operand]) -> Decoded {
        Some(match name {
            "ld" | "ldu" => self.load_store(true, m, o),
            "st" => self.load_store(false, m, o),
            "atom" => self.atomic(true, m, o),
            "red" => self.atomic(false, m, o),
            "ldmatrix" | "stmatrix" => self.matrix(name == "stmatrix", m, o),
            "prefetch" | "prefetchu" | "discard" | "applypriority" => {
                ["global", "L1", "L2", "tensormap", "const", "param"].iter().for_each(|p| {
                    m.take(p);
                });
                m.drop_prefixed("L2::");
                Ok(Op::Nop)
            }
            _ => return None,
        })
    }

    fn order(&self, m: &mut Mods<'_>, default: Order) -> (Order, Scope) {
        let order = m
            .one_of(&[
                ("weak", Order::Weak),
                ("volatile", Order::Relaxed),
                ("relaxed", Order::Relaxed),
                ("acquire", Order::Acquire),
                ("release", Order::Release),
                ("acq_rel", Order::AcqRel),
            ])
            .unwrap_or(default);
        let scopes = [("cta", Scope::Cta), ("cluster", Scope::Cta), ("gpu", Scope::Gpu), ("sys", Scope::Gpu)];
        (order, m.one_of(&scopes).unwrap_or(Scope::Gpu))
    }

    fn load_store(&mut self, load: bool, m: &mut Mods<'_>, o: &[Operand]) -> Result<Op, Why> {
        let (order, scope) = self.order(m, Order::Weak);
        let space = m.one_of(SPACES).unwrap_or(Space::Generic);
        for hint in ["nc", "ca", "cg", "cs", "lu", "cv", "wb", "wt", "L1::no_allocate", "L1::evict_first"] {
            m.take(hint);
        }
        m.drop_prefixed("L1::");
        m.drop_prefixed("L2::");
        let n = m.one_of(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1);
        let ty = m.ty().ok_or("no type")?;
        if ty == Ty::Pred || matches!(ty, Ty::F16x2 | Ty::Bf16x2) {
            return Err(format!("{ty:?} cannot be loaded or stored"));
        }
        let (value, address) = if load { (0, 1) } else { (1, 0) };
        let items = self.items(self.nth(o, value)?);
        if items.len() != n || n * ty.size() > 32 {
            return Err(format!("a vector of {} elements of {ty:?} does not fit the modifier", items.len()));
        }
        let mut regs = Vec::with_capacity(n);
        for item in items {
            let reg = match (load, item) {
                (true, item) => self.dst_of(item)?,
                (false, Operand::Reg(_)) => self.dst_of(item)?,
                (false, item) => self.src_of(ty, item)?,
            };
            if ty.size() == 8 && matches!(reg, Reg::R(_)) {
                return Err("a register is narrower than its type".to_owned());
            }
            regs.push(reg);
        }
        let addr = self.addr(self.nth(o, address)?)?;
        let mem = Box::new(Mem { space, ty, regs, addr, order, scope });
        Ok(if load { Op::Ld(mem) } else { Op::St(mem) })
    }

    fn atomic(&mut self, returns: bool, m: &mut Mods<'_>, o: &[Operand]) -> Result<Op, Why> {
        let (order, scope) = self.order(m, Order::Relaxed);
        let space = m.one_of(SPACES).unwrap_or(Space::Generic);
        m.drop_prefixed("L2::");
        m.take("noftz");
        let f = m
            .one_of(&[
                ("add", AtomicFn::Add),
                ("min", AtomicFn::Min),
                ("max", AtomicFn::Max),
                ("and", AtomicFn::And),
                ("or", AtomicFn::Or),
                ("xor", AtomicFn::Xor),
                ("exch", AtomicFn::Exch),
                ("cas", AtomicFn::Cas),
                ("inc", AtomicFn::Inc),
                ("dec", AtomicFn::Dec),
            ])
            .ok_or("no function")?;
        let ty = m.ty().ok_or("no type")?;
        if !matches!(ty.size(), 4 | 8)
            || (ty.is_float() && f != AtomicFn::Add)
            || matches!(ty, Ty::F16x2 | Ty::Bf16x2)
        {
            return Err(format!("atomic {f:?} of {ty:?} is not implemented"));
        }
        if !matches!(space, Space::Generic | Space::Global | Space::Shared) {
            return Err("atomics work on global and shared memory".to_owned());
        }
        let first = usize::from(returns);
        let dst = match (returns, o.first()) {
            (true, Some(Operand::Sink)) | (false, _) => None,
            (true, Some(d)) => {
                let d = self.dst_of(d)?;
                if matches!(d, Reg::R(_)) && ty.size() == 8 {
                    return Err("a register is narrower than its type".to_owned());
                }
                Some(d)
            }
            (true, None) => return Err("operand 1 is missing".to_owned()),
        };
        let addr = self.addr(self.nth(o, first)?)?;
        let a = self.src_of(ty, self.nth(o, first + 1)?)?;
        let b = match f {
            AtomicFn::Cas => Some(self.src_of(ty, self.nth(o, first + 2)?)?),
            _ => None,
        };
        Ok(Op::Atomic(Box::new(Atomic { space, f, ty, dst, addr, a, b, order, scope })))
    }

    fn matrix(&mut self, store: bool, m: &mut Mods<'_>, o: &[Operand]) -> Result<Op, Why> {
        for part in ["sync", "aligned", "m8n8", "shared::cta", "shared", "b16"] {
            m.take(part);
        }
        let n = m.one_of(&[("x1", 1), ("x2", 2), ("x4", 4)]).ok_or("no number of matrices")?;
        let transposed = m.take("trans");
        let (value, address) = if store { (1, 0) } else { (0, 1) };
        let items = self.items(self.nth(o, value)?);
        if items.len() != n {
            return Err(format!("expected {n} registers, got {}", items.len()));
        }
        let regs = items.iter().map(|i| self.dst_r(i)).collect::<Result<_, _>>()?;
        Ok(Op::Matrix(Box::new(Matrix { store, transposed, regs, addr: self.addr(self.nth(o, address)?)? })))
    }

    /// A source operand that may be a register or missing.
    pub(crate) fn optional_r(&mut self, o: Option<&Operand>) -> Result<Option<u32>, Why> {
        match o {
            Some(o) => Ok(Some(self.r(o)?)),
            None => Ok(None),
        }
    }

    /// `[base]` with a zero offset, from a bare register inside a tensor operand.
    pub(crate) fn bare_addr(&mut self, o: &Operand) -> Result<Addr, Why> {
        Ok(Addr { base: self.addr_base(o)?, offset: 0 })
    }
}
