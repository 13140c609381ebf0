//! Syntax tree to [`Kernel`]: operand kinds and modifiers are checked here, once.

use std::collections::HashMap;

use super::{
    kernel::{Init, Kernel, SharedLayout},
    mods::Mods,
    op::{Inst, Op},
};
use crate::{
    error::{Error, Result},
    mem::space::SHARED_START,
    ptx::{
        ast::{Function, Instr, Module, Operand, Space},
        types::Ty,
    },
};

/// Reason why an instruction cannot be decoded.
pub(crate) type Why = String;

/// Which file of registers a type lives in.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum File {
    Pred,
    Row32,
    Row64,
}

pub(super) fn file(ty: Ty) -> File {
    match ty {
        Ty::Pred => File::Pred,
        _ if ty.size() == 8 => File::Row64,
        _ => File::Row32,
    }
}

/// State while one kernel is decoded.
pub(crate) struct Decoder<'a> {
    pub(super) module: &'a Module,
    pub(super) f: &'a Function,
    /// Index of each register in its file.
    pub(super) index: Vec<u32>,
    pub(super) rows: [u32; 3],
    pub(super) consts32: HashMap<Init, u32>,
    pub(super) consts64: HashMap<Init, u32>,
    pub(super) sinks: [Option<u32>; 3],
    pub(super) symbols: HashMap<&'a str, (Space, usize)>,
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
    if f.params.last().is_some_and(|p| p.offset + p.size > 32_764) {
        return unfit(".param");
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
}
