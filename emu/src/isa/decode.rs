//! Syntax tree to [`Kernel`]: operand kinds and modifiers are checked here, once.

use std::collections::HashMap;

use super::{
    kernel::{Init, Kernel, Relation, SharedLayout, Special},
    mods::Mods,
    op::{Addr, Inst, Op, P, Reg},
};
use crate::{
    error::{Error, Result},
    mem::space::{LOCAL_BASE, PARAM_BASE, SHARED_START},
    ptx::{
        ast::{Function, Instr, Module, Operand, RegId, Space},
        types::Ty,
    },
};

/// Reason why an instruction cannot be decoded.
pub(crate) type Why = String;

/// Which file of registers a type lives in.
#[derive(Clone, Copy, PartialEq)]
enum File {
    Pred,
    Row32,
    Row64,
}

fn file(ty: Ty) -> File {
    match ty {
        Ty::Pred => File::Pred,
        _ if ty.size() == 8 => File::Row64,
        _ => File::Row32,
    }
}

/// State while one kernel is decoded.
pub(crate) struct Decoder<'a> {
    module: &'a Module,
    f: &'a Function,
    /// Index of each register in its file.
    index: Vec<u32>,
    rows: [u32; 3],
    consts32: HashMap<Init, u32>,
    consts64: HashMap<Init, u32>,
    sinks: [Option<u32>; 3],
    symbols: HashMap<&'a str, (Space, usize)>,
}

/// Decodes one kernel.
pub(crate) fn decode(module: &Module, f: &Function) -> Result<Kernel> {
    let mut rows = [0u32; 3];
    let mut index = Vec::with_capacity(f.regs.len());
    for &ty in &f.regs {
        let r = &mut rows[file(ty) as usize];
        index.push(*r);
        *r += 1;
    }
    let (mut shared, mut local, mut dynamic_align) = (SHARED_START, 0usize, 16);
    let (mut shared_vars, mut symbols) = (Vec::new(), HashMap::new());
    let used = used_symbols(f);
    for var in f.vars.iter().chain(&module.globals) {
        match (var.space, var.size) {
            // Shared variables of other kernels of the module take no room in this one.
            (Space::Shared, Some(size)) if used.contains(var.name.as_str()) => {
                shared = shared.next_multiple_of(var.align);
                symbols.insert(var.name.as_str(), (Space::Shared, shared));
                shared_vars.push((shared, shared + size));
                shared += size;
            }
            (Space::Shared, None) if used.contains(var.name.as_str()) => {
                dynamic_align = dynamic_align.max(var.align);
            }
            (Space::Local, Some(size)) => {
                local = local.next_multiple_of(var.align);
                symbols.insert(var.name.as_str(), (Space::Local, local));
                local += size;
            }
            _ => {}
        }
    }
    let unfit = |what: &str| {
        Err(Error::Unsupported {
            line: f.line,
            kernel: f.name.clone(),
            instruction: what.to_owned(),
            reason: "more than any GPU has".to_owned(),
        })
    };
    if shared > (1 << 18) {
        return unfit(".shared");
    }
    if local > (1 << 19) {
        return unfit(".local");
    }
    let dynamic = shared.next_multiple_of(dynamic_align);
    for (i, var) in module.globals.iter().enumerate() {
        match (var.space, var.size) {
            (Space::Shared, None) => {
                symbols.insert(var.name.as_str(), (Space::Shared, dynamic));
            }
            (Space::Global | Space::Const, _) => {
                symbols.insert(var.name.as_str(), (var.space, i));
            }
            _ => {}
        }
    }
    for p in &f.params {
        symbols.insert(p.name.as_str(), (Space::Param, p.offset));
    }
    let mut d = Decoder {
        module,
        f,
        index,
        rows,
        consts32: HashMap::new(),
        consts64: HashMap::new(),
        sinks: [None; 3],
        symbols,
    };
    let mut insts = Vec::with_capacity(f.instrs.len() + 1);
    for i in &f.instrs {
        let fail = |reason: String| Error::Unsupported {
            line: i.line,
            kernel: f.name.clone(),
            instruction: i.op.clone(),
            reason,
        };
        let op = d.op(i).map_err(fail)?;
        let guard = match i.guard {
            Some((r, not)) => Some((d.pred(&Operand::Reg(r)).map_err(fail)?, not)),
            None => None,
        };
        insts.push(Inst { class: op.class(), op, guard, wgmma_regs: false, line: i.line, loc: i.loc });
    }
    // A body that ends without `ret` returns.
    let last = f.instrs.last();
    insts.push(Inst {
        op: Op::Exit,
        guard: None,
        class: Op::Exit.class(),
        wgmma_regs: false,
        line: last.map_or(f.line, |i| i.line),
        loc: last.and_then(|i| i.loc),
    });
    let wgmma_touch = mark_wgmma_registers(&d, &mut insts);
    let sorted = |m: HashMap<Init, u32>| {
        let mut v: Vec<(u32, Init)> = m.into_iter().map(|(k, v)| (v, k)).collect();
        v.sort_by_key(|e| e.0);
        v
    };
    let param_bytes = f.params.last().map_or(0, |p| p.offset + p.size);
    Ok(Kernel {
        name: f.name.clone(),
        params: f.params.clone(),
        param_bytes,
        text: f.instrs.iter().map(|i| i.op.clone()).chain(["ret".to_owned()]).collect(),
        insts,
        locs: f.locs.clone(),
        preds: d.rows[0] as usize,
        rows32: d.rows[1] as usize,
        rows64: d.rows[2] as usize,
        init32: sorted(d.consts32),
        init64: sorted(d.consts64),
        shared_vars,
        shared: SharedLayout { static_end: shared, dynamic },
        local_bytes: local,
        max_threads: f.max_threads,
        req_threads: f.req_threads,
        wgmma_touch,
    })
}

fn used_symbols(f: &Function) -> std::collections::HashSet<&str> {
    fn visit<'a>(o: &'a Operand, out: &mut std::collections::HashSet<&'a str>) {
        match o {
            Operand::Symbol(s, _) => {
                out.insert(s);
            }
            Operand::Memory(b, _) => visit(b, out),
            Operand::Tensor(b, c) => {
                visit(b, out);
                c.iter().for_each(|o| visit(o, out));
            }
            Operand::Vector(v) => v.iter().for_each(|o| visit(o, out)),
            _ => {}
        }
    }
    let mut out = Default::default();
    f.instrs.iter().flat_map(|i| &i.operands).for_each(|o| visit(o, &mut out));
    out
}

/// Flags every instruction that touches a register which some wgmma of the kernel holds while in flight, and returns
/// what each touches, and whether it writes one.
fn mark_wgmma_registers(d: &Decoder<'_>, insts: &mut [Inst]) -> HashMap<u32, (Vec<u32>, bool)> {
    let mut held = vec![false; d.rows[1] as usize];
    for i in insts.iter() {
        if let Op::Wgmma(w) = &i.op {
            w.held().for_each(|r| held[r as usize] = true);
        }
    }
    let row = |o: &Operand| match o {
        Operand::Reg(r) if file(d.f.regs[*r as usize]) == File::Row32 => Some(d.index[*r as usize]),
        _ => None,
    };
    let mut touch = HashMap::new();
    for (at, (i, ast)) in insts.iter_mut().zip(&d.f.instrs).enumerate() {
        if matches!(i.op, Op::Wgmma(_)) {
            continue;
        }
        let rows_of = |o: &Operand| -> Vec<u32> {
            let items = match o {
                Operand::Vector(v) => &v[..],
                o => std::slice::from_ref(o),
            };
            items.iter().filter_map(row).filter(|r| held[*r as usize]).collect()
        };
        let rows: Vec<u32> = ast.operands.iter().flat_map(rows_of).collect();
        let stores = matches!(i.op, Op::St(_));
        let writes = !stores && ast.operands.first().is_some_and(|o| !rows_of(o).is_empty());
        i.wgmma_regs = !rows.is_empty();
        if i.wgmma_regs {
            touch.insert(at as u32, (rows, writes));
        }
    }
    touch
}

impl Decoder<'_> {
    fn op(&mut self, i: &Instr) -> Result<Op, Why> {
        let mut m = Mods::new(&i.op);
        let name =
            if i.op == crate::ptx::lexer::CARVE { &i.op } else { i.op.split('.').next().unwrap_or("") };
        let o = &i.operands[..];
        let decoded = match self.decode_alu(name, &mut m, o) {
            Some(r) => Some(r),
            None => match self.decode_memory(name, &mut m, o) {
                Some(r) => Some(r),
                None => match self.decode_sync(name, &mut m, o) {
                    Some(r) => Some(r),
                    None => self.decode_async(name, &mut m, o),
                },
            },
        };
        let op = decoded.unwrap_or_else(|| Err("unknown instruction".to_owned()))?;
        match m.unclaimed() {
            Some(part) if name != crate::ptx::lexer::CARVE => {
                Err(format!("modifier `.{part}` is not implemented"))
            }
            _ => Ok(op),
        }
    }

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
