//! `cp.async`: copies that each thread issues, groups and waits for.

use super::{
    machine::{Block, Machine, Warp},
    memory::{Place, addresses},
    report::{Checked, Who},
};
use crate::{
    Completion,
    check::{
        clock::{Agent, lanes},
        shadow::{Access, Kind},
    },
    fault::FaultKind,
    isa::{Addr, CpAsync},
    ptx::ast::Space,
};

/// A copy that has not landed yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CpOp {
    pub lane: usize,
    /// Number of the group it will be committed to.
    group: u32,
    dst: usize,
    src: Place,
    bytes: usize,
    /// Bytes that come from the source; the rest is zero.
    pub src_bytes: usize,
}

impl Machine<'_> {
    pub(crate) fn cp_async(
        &mut self,
        b: &mut Block,
        w: &mut Warp,
        c: &CpAsync,
        pc: u32,
        mask: u32,
    ) -> Checked<()> {
        let (dst, src) = (addresses(&w.regs, c.dst), addresses(&w.regs, c.src));
        let bytes = c.bytes as usize;
        let sizes = c.src_bytes.map(|r| w.regs.r[r as usize]);
        let ignored = c.ignore.map_or(0, |(p, not)| w.regs.p[p as usize] ^ if not { u32::MAX } else { 0 });
        let (mut reads, mut writes) = ([None; 32], [None; 32]);
        for l in lanes(mask) {
            let who = Who { warp: w.id, lane: Some(l), pc };
            let src_bytes = if ignored >> l & 1 == 1 { 0 } else { sizes.map_or(bytes, |s| s[l] as usize) };
            if src_bytes > bytes {
                let message = format!("a source of {src_bytes} bytes for a copy of {bytes}");
                return Err(self.fault(FaultKind::Undefined, b, who, message));
            }
            if !src[l].is_multiple_of(bytes as u64) {
                let message = format!("a source at {:#x}, which is not a multiple of {bytes}", src[l]);
                return Err(self.fault(FaultKind::Misaligned, b, who, message));
            }
            let to = self.place(b, Space::Shared, dst[l], bytes, bytes, who)?;
            // A source of which nothing is read may lie anywhere.
            let from = match src_bytes {
                0 => Place::Param(0),
                n => self.place(b, Space::Global, src[l], n, 1, who)?,
            };
            if let Some(clocks) = &b.clocks {
                let group = w.cp_groups[l];
                let unit = clocks.unit(w.id, Agent::CpAsync);
                let thread = w.id * 32 + l;
                let a = Access {
                    thread,
                    unit,
                    lane: l as u32,
                    time: group + 1,
                    pc,
                    kind: Kind::Read,
                    proxy: false,
                    observed: false,
                };
                if src_bytes > 0 {
                    self.check_as(b, who, from, src_bytes, &a)?;
                }
                self.check_as(b, who, to, bytes, &Access { kind: Kind::Write, ..a })?;
            }
            if src_bytes > 0 {
                reads[l] = Some(from);
            }
            writes[l] = Some(to);
            self.counters.cp_async_bytes += src_bytes as u64;
            let Place::Shared(at) = to else { continue };
            b.shared.mark(at, bytes, 0);
            let op = CpOp { lane: l, group: w.cp_groups[l], dst: at, src: from, bytes, src_bytes };
            if self.eager() { self.land(b, &op) } else { w.cp.push(op) }
        }
        self.count(&reads, bytes, false);
        self.count(&writes, bytes, true);
        Ok(())
    }

    /// Whether an asynchronous operation takes effect as soon as it is issued.
    pub(crate) fn eager(&mut self) -> bool {
        match self.settings.completion {
            Completion::Eager => true,
            Completion::Lazy => false,
            Completion::Random(_) => self.async_rng.coin(),
        }
    }

    fn land(&mut self, b: &mut Block, op: &CpOp) {
        let mut bytes = [0u8; 16];
        if let Place::Global(slot, at) = op.src
            && let Some(m) = self.device.buffer(slot)
        {
            bytes[..op.src_bytes].copy_from_slice(&m.data[at..at + op.src_bytes]);
        }
        b.shared.data[op.dst..op.dst + op.bytes].copy_from_slice(&bytes[..op.bytes]);
    }

    /// Waits until at most the `n` latest groups of each thread are in flight.
    pub(crate) fn cp_wait(&mut self, b: &mut Block, w: &mut Warp, n: u32, mask: u32) {
        let groups = w.cp_groups;
        let due = |op: &CpOp| mask >> op.lane & 1 == 1 && op.group.saturating_add(n) < groups[op.lane];
        for op in w.cp.iter().filter(|op| due(op)) {
            self.land(b, op);
        }
        w.cp.retain(|op| !due(op));
        if let Some(c) = &mut b.clocks {
            for l in lanes(mask) {
                c.cp_done(w.id * 32 + l, groups[l].saturating_sub(n));
            }
        }
    }

    /// `cp.async.mbarrier.arrive`: the copies so far land, and the thread arrives for them.
    pub(crate) fn cp_arrive(
        &mut self,
        b: &mut Block,
        w: &mut Warp,
        addr: Addr,
        noinc: bool,
        pc: u32,
        mask: u32,
    ) -> Checked<()> {
        let at = addresses(&w.regs, addr);
        for l in lanes(mask) {
            let who = Who { warp: w.id, lane: Some(l), pc };
            let i = self.mbar(b, at[l], who)?;
            let mine = |op: &CpOp| op.lane == l;
            for op in w.cp.iter().filter(|op| mine(op)) {
                self.land(b, op);
            }
            w.cp.retain(|op| !mine(op));
            let time = w.cp_groups[l] + 1;
            if let Some(c) = &mut b.clocks {
                // The copies are known to whoever waits for the mbarrier, not to the thread itself.
                let slot = c.unit(w.id, Agent::CpAsync) as usize * 32 + l;
                crate::check::vc::raise(&mut b.mbars[i].vc.plain, slot, time);
            }
            w.cp_groups[l] += 1;
            if !noinc {
                // The arrival is on top of those the mbarrier counts.
                b.mbars[i].pending += 1;
            }
            self.arrive(b, w.id, i, 1, who)?;
        }
        Ok(())
    }
}
