//! `wgmma`: each warp of a warpgroup multiplies its own 16 rows; completion is for the group as a whole.

use super::{
    machine::{Block, Machine, Step, Wait, Warp},
    matrix::widen,
    report::{Checked, Who},
};
use crate::{
    check::{
        clock::Agent,
        shadow::{Access, Kind},
        vc::{Vc, raise},
    },
    fault::FaultKind,
    isa::{Op, Wgmma, WgmmaA},
    ptx::ast::Space,
    tensor_map::Swizzle,
};

/// A multiplication that is not known to be complete.
#[derive(Debug, Clone)]
struct WgOp {
    pc: u32,
    group: u32,
    done: bool,
    a: Descriptor,
    b: Descriptor,
    accumulate: bool,
    /// A fragments as they were at issue.
    registers: Vec<[u32; 32]>,
}

/// One warp's part.
#[derive(Debug, Default)]
struct WarpState {
    fenced: bool,
    groups: u32,
    /// Operations and waits so far.
    issued: usize,
    waits: u64,
    ops: Vec<WgOp>,
}

/// A warpgroup.
#[derive(Debug, Default)]
pub(crate) struct WgmmaState {
    warps: [WarpState; 4],
    /// What each operation was, by the first warp that issued it: the others have to issue the same.
    log: Vec<(u32, u64, u64)>,
}

impl WgmmaState {
    /// Whether all warps have come to their wait of that number.
    pub(crate) fn everybody_waits(&self, number: u64) -> bool {
        self.warps.iter().all(|w| w.waits >= number)
    }
}

/// A matrix descriptor, decoded.
#[derive(Debug, Clone, Copy)]
struct Descriptor {
    start: u64,
    leading: u64,
    stride: u64,
    swizzle: Swizzle,
    mn_major: bool,
}

impl Descriptor {
    fn decode(bits: u64, mn_major: bool) -> Result<Self, String> {
        let field = |shift: u32| (bits >> shift & 0x3fff) << 4;
        let swizzle = [Swizzle::None, Swizzle::B128, Swizzle::B64, Swizzle::B32][(bits >> 62) as usize];
        let d = Self { start: field(0), leading: field(16), stride: field(32), swizzle, mn_major };
        if bits >> 49 & 7 != 0 {
            return Err("a base offset, which is not implemented".to_owned());
        }
        let reserved = 3 << 14 | 3 << 30 | 7 << 46 | 0x3ff << 52;
        if bits & reserved != 0 {
            return Err(format!("reserved bits {:#x} set", bits & reserved));
        }
        if swizzle != Swizzle::None {
            let span = swizzle.span() as u64;
            if d.start % (8 * span) >= span {
                return Err(format!(
                    "a start at shared address {}, which is not in the first row of an atom of 8 rows of {span} bytes",
                    d.start
                ));
            }
        }
        Ok(d)
    }

    /// Shared address of the 16 bytes that hold element `k` of line `mn`, and its byte in them.
    fn element(&self, mn: u64, k: u64) -> (u64, u64) {
        let span = if self.swizzle == Swizzle::None { 16 } else { self.swizzle.span() as u64 };
        let (linear, byte) = match (self.swizzle, self.mn_major) {
            (Swizzle::None, false) => (mn / 8 * self.stride + k / 8 * self.leading + mn % 8 * 16, k % 8 * 2),
            (_, false) => (mn / 8 * self.stride + mn % 8 * span + k / 8 * 16, k % 8 * 2),
            (Swizzle::None, true) => (mn / 8 * self.stride + k / 8 * self.leading + k % 8 * 16, mn % 8 * 2),
            (_, true) => {
                let per_span = span / 2;
                (
                    mn / per_span * self.leading
                        + mn % per_span / 8 * 16
                        + k % 8 * span
                        + k / 8 * self.stride,
                    mn % 8 * 2,
                )
            }
        };
        (self.swizzle.apply(self.start + linear), byte)
    }
}

impl Machine<'_> {
    /// The warp's state in its warpgroup, once the warp is known to be whole and in a whole warpgroup.
    fn wg<'b>(&self, b: &'b mut Block, w: &Warp, pc: u32) -> Checked<&'b mut WarpState> {
        self.whole_warp(b, w, pc)?;
        if w.id / 4 * 4 + 4 > b.warps.len() {
            let message = "wgmma needs warpgroups of four warps, and this one is not complete";
            return Err(self.fault(FaultKind::Convergence, b, Who { warp: w.id, lane: None, pc }, message));
        }
        Ok(&mut b.wgmma[w.id / 4].warps[w.id % 4])
    }

    pub(crate) fn wgmma_fence(&mut self, b: &mut Block, w: &mut Warp, pc: u32, exec: u32) -> Checked<Step> {
        if !self.align(w, pc, exec) {
            return Ok(Step::Regroup);
        }
        self.wg(b, w, pc)?.fenced = true;
        Ok(Step::Next)
    }

    pub(crate) fn wgmma_commit(&mut self, b: &mut Block, w: &mut Warp, pc: u32, exec: u32) -> Checked<Step> {
        if !self.align(w, pc, exec) {
            return Ok(Step::Regroup);
        }
        self.wg(b, w, pc)?.groups += 1;
        Ok(Step::Next)
    }

    pub(crate) fn wgmma(
        &mut self,
        b: &mut Block,
        w: &mut Warp,
        g: &Wgmma,
        pc: u32,
        exec: u32,
    ) -> Checked<Step> {
        if !self.align(w, pc, exec) {
            return Ok(Step::Regroup);
        }
        let who = Who { warp: w.id, lane: None, pc };
        if !self.wg(b, w, pc)?.fenced {
            let message = "wgmma without wgmma.fence since its registers were last written";
            return Err(self.fault(FaultKind::WgmmaOrder, b, who, message));
        }
        let uniform = |row: &[u64; 32]| row.iter().all(|v| *v == row[0]).then_some(row[0]);
        let descriptor = |m: &Self, b: &Block, bits: Option<u64>, mn: bool| match bits {
            None => Err(m.fault(FaultKind::Descriptor, b, who, "lanes give different descriptors")),
            Some(v) => match Descriptor::decode(v, mn) {
                Ok(d) => Ok((d, v)),
                Err(why) => Err(m.fault(FaultKind::Descriptor, b, who, format!("a descriptor with {why}"))),
            },
        };
        let (db, bits_b) = descriptor(self, b, uniform(&w.regs.d[g.b as usize]), g.b_mn_major)?;
        let (da, bits_a, registers) = match &g.a {
            WgmmaA::Shared { desc, mn_major } => {
                let (d, bits) = descriptor(self, b, uniform(&w.regs.d[*desc as usize]), *mn_major)?;
                (d, bits, Vec::new())
            }
            WgmmaA::Regs(r) => (db, 0, r.iter().map(|&r| w.regs.r[r as usize]).collect()),
        };
        // All four warps have to issue the same operations.
        let group = &mut b.wgmma[w.id / 4];
        let state = &mut group.warps[w.id % 4];
        let (number, this, groups) = (state.issued, (pc, bits_a, bits_b), state.groups);
        state.issued += 1;
        match group.log.get(number) {
            None => group.log.push(this),
            Some(other) if *other == this => {}
            Some(_) => {
                let message =
                    "the warps of the warpgroup issue different wgmma, or with different descriptors";
                return Err(self.fault(FaultKind::Descriptor, b, who, message));
            }
        }
        let row0 = 16 * (w.id as u64 % 4);
        let from_shared = registers.is_empty();
        self.check_operand(b, w, &db, 0..g.n as u64, groups, who)?;
        if from_shared {
            self.check_operand(b, w, &da, row0..row0 + 16, groups, who)?;
        }
        self.counters.tensor_flops += 2 * 16 * g.n as u64 * 16;
        let accumulate = w.regs.p[g.scale_d as usize] & 1 == 1;
        let mut op = WgOp { pc, group: groups, done: false, a: da, b: db, accumulate, registers };
        // Earlier operations come first: they may use the same accumulators.
        let pending = b.wgmma[w.id / 4].warps[w.id % 4].ops.iter().any(|o| !o.done);
        if !pending && self.eager() {
            self.multiply(b, w, &op);
            op.done = true;
        }
        b.wgmma[w.id / 4].warps[w.id % 4].ops.push(op);
        Ok(Step::Next)
    }

    /// Bounds, layout and shadow of everything the warp will read of an operand.
    fn check_operand(
        &mut self,
        b: &mut Block,
        w: &Warp,
        d: &Descriptor,
        lines: std::ops::Range<u64>,
        group: u32,
        who: Who,
    ) -> Checked<()> {
        // One visit per 16 bytes: along k for k-major operands, along the lines for the others.
        let (line_step, k_step) = if d.mn_major { (8, 1) } else { (1, 8) };
        for mn in lines.step_by(line_step) {
            for k in (0..16).step_by(k_step) {
                let at = d.element(mn, k).0;
                let place = self.place(b, Space::Shared, at, 16, 16, who)?;
                let mode = b.shared.swizzle[at as usize / 16];
                if mode != 0 && mode != d.swizzle as u8 + 1 {
                    let wrote = Swizzle::from_index(mode - 1).unwrap_or(Swizzle::None);
                    let message = format!(
                        "a descriptor with swizzle {:?} for shared address {at}, which a bulk copy wrote with {wrote:?}",
                        d.swizzle
                    );
                    return Err(self.fault(FaultKind::Descriptor, b, who, message));
                }
                if let Some(c) = &b.clocks {
                    let unit = c.unit(w.id, Agent::Wgmma);
                    let a = Access {
                        thread: w.id * 32,
                        unit,
                        lane: 0,
                        time: group + 1,
                        pc: who.pc,
                        kind: Kind::Read,
                        proxy: true,
                        observed: false,
                    };
                    self.check_as(b, who, place, 16, &a)?;
                }
            }
        }
        Ok(())
    }

    /// Multiplies the warp's rows.
    fn multiply(&mut self, b: &Block, w: &mut Warp, op: &WgOp) {
        let kernel = self.kernel;
        let Op::Wgmma(g) = &kernel.insts[op.pc as usize].op else { return };
        let sign = |negate: bool| if negate { -1.0f32 } else { 1.0 };
        let data = &b.shared.data;
        let get = |d: &Descriptor, mn: usize, k: usize| {
            let (at, byte) = d.element(mn as u64, k as u64);
            let at = (at + byte) as usize;
            widen(g.input, u16::from_le_bytes([data[at], data[at + 1]]))
        };
        let row0 = 16 * (w.id % 4);
        let mut a = [[0f32; 16]; 16];
        for (r, row) in a.iter_mut().enumerate() {
            for (k, v) in row.iter_mut().enumerate() {
                *v = if op.registers.is_empty() {
                    get(&op.a, row0 + r, k)
                } else {
                    let bits = op.registers[r / 8 + 2 * (k / 8)][r % 8 * 4 + k % 8 / 2];
                    widen(g.input, (bits >> (16 * (k % 2))) as u16)
                };
                *v *= sign(g.negate_a);
            }
        }
        let n = g.n;
        let mut bt = vec![0f32; 16 * n];
        for k in 0..16 {
            for (j, v) in bt[k * n..(k + 1) * n].iter_mut().enumerate() {
                *v = get(&op.b, j, k) * sign(g.negate_b);
            }
        }
        let mut acc = vec![0f32; n];
        for (r, row) in a.iter().enumerate() {
            // Lane and register that hold element (r, c): see the layout of D in the header of the kernel tests.
            let at = |c: usize| (g.d[c / 8 * 4 + c % 2 + 2 * (r / 8)] as usize, r % 8 * 4 + c % 8 / 2);
            for (c, v) in acc.iter_mut().enumerate() {
                let (reg, lane) = at(c);
                *v = if op.accumulate { f32::from_bits(w.regs.r[reg][lane]) } else { 0.0 };
            }
            for (k, &x) in row.iter().enumerate() {
                acc.iter_mut().zip(&bt[k * n..(k + 1) * n]).for_each(|(s, y)| *s += x * y);
            }
            for (c, v) in acc.iter().enumerate() {
                let (reg, lane) = at(c);
                w.regs.r[reg][lane] = v.to_bits();
            }
        }
    }

    pub(crate) fn wgmma_wait(
        &mut self,
        b: &mut Block,
        w: &mut Warp,
        n: u32,
        pc: u32,
        exec: u32,
        resumed: bool,
    ) -> Checked<Step> {
        if !self.align(w, pc, exec) {
            return Ok(Step::Regroup);
        }
        let state = self.wg(b, w, pc)?;
        if !resumed {
            state.waits += 1;
            let number = state.waits;
            if !b.wgmma[w.id / 4].everybody_waits(number) {
                return Ok(Step::Retry(Wait::Wgmma { number }));
            }
        }
        let state = &mut b.wgmma[w.id / 4].warps[w.id % 4];
        let groups = state.groups;
        let due = |op: &WgOp| op.group.saturating_add(n) < groups;
        let (now, later) = std::mem::take(&mut state.ops).into_iter().partition::<Vec<_>, _>(due);
        state.ops = later;
        for op in now.iter().filter(|op| !op.done) {
            self.multiply(b, w, op);
        }
        if let Some(c) = &mut b.clocks {
            let mut vc = Vc::default();
            for warp in w.id / 4 * 4..w.id / 4 * 4 + 4 {
                let slot = c.unit(warp, Agent::Wgmma) as usize * 32;
                raise(&mut vc.plain, slot, groups.saturating_sub(n));
            }
            c.acquire(w.id, exec, &vc);
        }
        Ok(Step::Next)
    }

    /// An ordinary instruction touches registers that some wgmma uses.
    pub(crate) fn check_wgmma_registers(&mut self, b: &mut Block, w: &Warp, pc: u32) -> Checked<()> {
        let kernel = self.kernel;
        let (Some((rows, writes)), Some(group)) = (kernel.wgmma_touch.get(&pc), b.wgmma.get_mut(w.id / 4))
        else {
            return Ok(());
        };
        let state = &mut group.warps[w.id % 4];
        let holds = |op: &WgOp| match &kernel.insts[op.pc as usize].op {
            Op::Wgmma(g) => g.held().any(|r| rows.contains(&r)),
            _ => false,
        };
        if state.ops.iter().any(holds) {
            let message = "a register that a wgmma still uses: wgmma.wait_group has to come first";
            return Err(self.fault(FaultKind::WgmmaOrder, b, Who { warp: w.id, lane: None, pc }, message));
        }
        if *writes {
            state.fenced = false;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_refused_with_a_reason() {
        let bits = |start: u64, swizzle: u64| start >> 4 | 64 << 32 | swizzle << 62;
        assert!(Descriptor::decode(bits(1024, 1), false).is_ok());
        assert!(Descriptor::decode(bits(1024 + 96, 1), false).is_ok());
        assert!(Descriptor::decode(bits(1024 + 128, 1), false).unwrap_err().contains("first row"));
        assert!(Descriptor::decode(bits(1024, 1) | 1 << 49, false).unwrap_err().contains("base offset"));
        assert!(Descriptor::decode(bits(1024, 1) | 1 << 15, false).unwrap_err().contains("reserved"));
    }
}
