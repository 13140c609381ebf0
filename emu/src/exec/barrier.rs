//! The 16 barriers of a block.

use std::rc::Rc;

use super::{
    machine::{Block, Machine, Step, Wait, Warp},
    report::{Checked, Who},
};
use crate::{
    check::vc::Vc,
    fault::FaultKind,
    isa::{Barrier, BarrierReduce},
};

/// One barrier.
#[derive(Debug, Default)]
pub(crate) struct BarrierState {
    /// Threads that arrived in this phase.
    pub arrived: u32,
    /// Threads needed; `None` for all that have not returned.
    count: Option<u32>,
    /// Number of the phase.
    pub phase: u64,
    /// What the arrivals of this phase know.
    vc: Vc,
    waiting: Vec<(usize, u32)>,
    /// Threads of this phase that came with a true predicate, and in all; then those of the phase before.
    votes: (u32, u32),
    result: (u32, u32),
}

impl BarrierState {
    /// Threads needed.
    pub(crate) fn expected(&self, alive: u32) -> u32 {
        self.count.unwrap_or(alive)
    }
}

impl Machine<'_> {
    pub(crate) fn barrier(
        &mut self,
        b: &mut Block,
        w: &mut Warp,
        bar: &Barrier,
        pc: u32,
        exec: u32,
        resumed: bool,
    ) -> Checked<Step> {
        if bar.aligned && !self.align(w, pc, exec) {
            return Ok(Step::Regroup);
        }
        let lane = exec.trailing_zeros() as usize;
        let who = Who { warp: w.id, lane: Some(lane), pc };
        let id = w.regs.r[bar.id as usize][lane] as usize;
        if resumed && let Some(reduce) = bar.reduce {
            put_result(&b.barriers[id], w, reduce, exec);
            return Ok(Step::Next);
        }
        let count = bar.count.map(|c| w.regs.r[c as usize][lane]);
        if id >= 16 {
            return Err(self.fault(FaultKind::Barrier, b, who, format!("barrier {id}: there are 16")));
        }
        if let Some(n) = count
            && (n == 0 || n % 32 != 0 || n > 1024)
        {
            return Err(self.fault(
                FaultKind::Barrier,
                b,
                who,
                format!("a count of {n} threads: expected a multiple of 32"),
            ));
        }
        let alive = b.alive;
        let s = &mut b.barriers[id];
        if s.arrived > 0 && s.count != count {
            let (had, now) = (s.expected(alive), count.unwrap_or(alive));
            let message = format!("barrier {id} is in use for {had} threads, and this one expects {now}");
            return Err(self.fault(FaultKind::Barrier, b, who, message));
        }
        s.count = count;
        // With a count, warps are counted whole, whatever lanes they have.
        s.arrived += if count.is_some() { 32 } else { exec.count_ones() };
        if s.arrived > s.expected(alive) {
            let message = format!("more than {} threads arrive at barrier {id}", s.expected(alive));
            return Err(self.fault(FaultKind::Barrier, b, who, message));
        }
        if let Some(c) = &mut b.clocks {
            c.release(w.id, exec, &mut s.vc);
        }
        if let Some((_, _, p, not)) = bar.reduce {
            let bits = w.regs.p[p as usize] ^ if not { u32::MAX } else { 0 };
            s.votes.0 += (bits & exec).count_ones();
            s.votes.1 += exec.count_ones();
        }
        let phase = s.phase;
        if bar.waits {
            s.waiting.push((w.id, exec));
        }
        if s.arrived == s.expected(alive) {
            complete(b, id);
            if let Some(reduce) = bar.reduce {
                put_result(&b.barriers[id], w, reduce, exec);
            }
            return Ok(Step::Next);
        }
        if bar.reduce.is_some() {
            return Ok(Step::Retry(Wait::Reduction { id, phase }));
        }
        Ok(if bar.waits { Step::Then(Wait::Barrier { id, phase }) } else { Step::Next })
    }

    /// Threads that return no longer count.
    pub(crate) fn recheck_barriers(&mut self, b: &mut Block) {
        for id in 0..b.barriers.len() {
            let s = &b.barriers[id];
            if s.count.is_none() && s.arrived > 0 && s.arrived == b.alive {
                complete(b, id);
            }
        }
    }
}

fn complete(b: &mut Block, id: usize) {
    let s = &mut b.barriers[id];
    s.phase += 1;
    s.result = std::mem::take(&mut s.votes);
    s.arrived = 0;
    let vc = Rc::new(std::mem::take(&mut s.vc));
    for (warp, mask) in std::mem::take(&mut s.waiting) {
        if let Some(c) = &mut b.clocks {
            c.set(warp, mask, &vc);
        }
    }
}

/// Writes what `bar.red` gives to the lanes of a warp.
fn put_result(s: &BarrierState, w: &mut Warp, (f, d, ..): (BarrierReduce, u32, u32, bool), mask: u32) {
    let (yes, all) = s.result;
    let bits = |hit: bool| if hit { u32::MAX } else { 0 };
    match f {
        BarrierReduce::Count => w.regs.put(d, &[yes; 32], mask),
        BarrierReduce::And => w.regs.put_pred(d, bits(yes == all), mask),
        BarrierReduce::Or => w.regs.put_pred(d, bits(yes > 0), mask),
    }
}
