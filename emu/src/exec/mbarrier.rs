//! mbarriers: arrivals, transaction bytes, phases.

use super::{
    machine::{Block, Machine, Step, Wait, Warp},
    memory::{Place, addresses},
    report::{Checked, Who},
};
use crate::{
    check::{clock::lanes, shadow::Kind, vc::Vc},
    fault::FaultKind,
    isa::{Addr, MbarPhase, MbarWait},
    ptx::ast::Space,
};

/// Transaction counts stay within this range on a GPU.
const TX_LIMIT: i64 = (1 << 20) - 1;

/// One mbarrier.
#[derive(Debug, Default)]
pub(crate) struct Mbar {
    /// Shared address.
    pub at: usize,
    pub live: bool,
    /// Arrivals per phase, and those missing in this one.
    pub count: u32,
    pub pending: u32,
    /// Bytes expected and not arrived yet.
    pub tx: i64,
    /// Phases completed.
    pub phase: u64,
    /// Bulk copies issued so far: the time of the unit that carries them out.
    pub issued: u32,
    /// What the arrivals of this phase know, and what those of completed phases knew.
    pub vc: Vc,
    done: Vc,
}

impl Mbar {
    fn turn(&mut self) {
        if self.pending == 0 && self.tx == 0 {
            self.phase += 1;
            self.pending = self.count;
            self.done.join(&std::mem::take(&mut self.vc));
        }
    }

    /// Bytes have arrived.
    pub(crate) fn complete(&mut self, bytes: i64) {
        self.tx -= bytes;
        self.turn();
    }
}

impl Machine<'_> {
    /// Checks an address of an mbarrier; its index, if one is initialised there.
    pub(crate) fn mbar_at(&self, b: &Block, address: u64, who: Who) -> Checked<(Place, Option<usize>)> {
        let address =
            if address >> 40 != 0 { address.wrapping_sub(crate::mem::space::SHARED_BASE) } else { address };
        let place = self.place(b, Space::Shared, address, 8, 8, who)?;
        let Place::Shared(at) = place else { return Ok((place, None)) };
        Ok((place, b.mbars.iter().position(|m| m.live && m.at == at)))
    }

    /// An initialised mbarrier, touched atomically by a thread.
    pub(crate) fn mbar(&mut self, b: &mut Block, address: u64, who: Who) -> Checked<usize> {
        match self.mbar_at(b, address, who)? {
            (place, Some(i)) => {
                self.check(b, who, place, 8, Kind::Atomic)?;
                Ok(i)
            }
            (_, None) => {
                let message = format!("no mbarrier is initialised at shared address {address}");
                Err(self.fault(FaultKind::Barrier, b, who, message))
            }
        }
    }

    pub(crate) fn mbar_init(
        &mut self,
        b: &mut Block,
        w: &mut Warp,
        addr: Addr,
        count: u32,
        pc: u32,
        mask: u32,
    ) -> Checked<()> {
        let (at, counts) = (addresses(&w.regs, addr), w.regs.r[count as usize]);
        for l in lanes(mask) {
            let who = Who { warp: w.id, lane: Some(l), pc };
            let (place, index) = self.mbar_at(b, at[l], who)?;
            let Place::Shared(at) = place else { continue };
            if index.is_some() {
                let message = format!("the mbarrier at shared address {at} is initialised already");
                return Err(self.fault(FaultKind::Barrier, b, who, message));
            }
            if counts[l] == 0 || counts[l] >= 1 << 20 {
                let message = format!("an arrival count of {}: expected 1 to {}", counts[l], (1 << 20) - 1);
                return Err(self.fault(FaultKind::Barrier, b, who, message));
            }
            if b.clocks.is_some() {
                b.shared.mark(at, 8, 0);
                self.check(b, who, place, 8, Kind::Write)?;
            }
            b.mbars.push(Mbar { at, live: true, count: counts[l], pending: counts[l], ..Mbar::default() });
        }
        Ok(())
    }

    pub(crate) fn mbar_inval(
        &mut self,
        b: &mut Block,
        w: &mut Warp,
        addr: Addr,
        pc: u32,
        mask: u32,
    ) -> Checked<()> {
        let at = addresses(&w.regs, addr);
        for l in lanes(mask) {
            let who = Who { warp: w.id, lane: Some(l), pc };
            let i = self.mbar(b, at[l], who)?;
            b.mbars[i].live = false;
        }
        Ok(())
    }

    pub(crate) fn mbar_expect(
        &mut self,
        b: &mut Block,
        w: &mut Warp,
        addr: Addr,
        tx: u32,
        pc: u32,
        mask: u32,
    ) -> Checked<()> {
        let (at, tx) = (addresses(&w.regs, addr), w.regs.r[tx as usize]);
        for l in lanes(mask) {
            let who = Who { warp: w.id, lane: Some(l), pc };
            let i = self.mbar(b, at[l], who)?;
            self.expect(b, i, tx[l], who)?;
        }
        Ok(())
    }

    fn expect(&self, b: &mut Block, i: usize, bytes: u32, who: Who) -> Checked<()> {
        b.mbars[i].tx += i64::from(bytes);
        if b.mbars[i].tx > TX_LIMIT {
            let message = format!("{} bytes outstanding, more than an mbarrier can count", b.mbars[i].tx);
            return Err(self.fault(FaultKind::Barrier, b, who, message));
        }
        Ok(())
    }

    pub(crate) fn mbar_arrive(
        &mut self,
        b: &mut Block,
        w: &mut Warp,
        addr: Addr,
        (count, tx, state): (u32, Option<u32>, Option<u32>),
        pc: u32,
        mask: u32,
    ) -> Checked<()> {
        let (at, counts) = (addresses(&w.regs, addr), w.regs.r[count as usize]);
        let tx = tx.map(|t| w.regs.r[t as usize]);
        let mut phases = [0; 32];
        for l in lanes(mask) {
            let who = Who { warp: w.id, lane: Some(l), pc };
            let i = self.mbar(b, at[l], who)?;
            phases[l] = b.mbars[i].phase;
            if let Some(tx) = tx {
                self.expect(b, i, tx[l], who)?;
            }
            self.arrive(b, w.id, i, counts[l], who)?;
        }
        if let Some(d) = state {
            w.regs.put64(d, &phases, mask);
        }
        Ok(())
    }

    /// Arrivals by one thread, with what it knows.
    pub(crate) fn arrive(&self, b: &mut Block, warp: usize, i: usize, n: u32, who: Who) -> Checked<()> {
        if n == 0 || n > b.mbars[i].pending {
            let (m, had) = (&b.mbars[i], b.mbars[i].pending);
            let message = format!(
                "{n} arrivals at the mbarrier at shared address {}, which misses {had} of {} in phase {}",
                m.at, m.count, m.phase
            );
            return Err(self.fault(FaultKind::Barrier, b, who, message));
        }
        if let Some(c) = &mut b.clocks {
            c.release(warp, 1 << who.lane.unwrap_or(0), &mut b.mbars[i].vc);
        }
        b.mbars[i].pending -= n;
        b.mbars[i].turn();
        Ok(())
    }

    pub(crate) fn mbar_wait(
        &mut self,
        b: &mut Block,
        w: &mut Warp,
        wait: &MbarWait,
        pc: u32,
        mask: u32,
    ) -> Checked<Step> {
        let at = addresses(&w.regs, wait.addr);
        let (mut ready, mut waits) = (0u32, Wait::None);
        for l in lanes(mask) {
            let who = Who { warp: w.id, lane: Some(l), pc };
            let i = self.mbar(b, at[l], who)?;
            let m = &b.mbars[i];
            let over = match wait.phase {
                MbarPhase::Parity(r) => (m.phase & 1) as u32 != w.regs.r[r as usize][l] & 1,
                MbarPhase::State(d) => m.phase != w.regs.d[d as usize][l],
            };
            if over {
                ready |= 1 << l;
            } else if waits == Wait::None {
                waits = Wait::Mbar { index: i, phase: m.phase };
            }
        }
        if ready == 0 && wait.blocking {
            return Ok(Step::Retry(waits));
        }
        if b.clocks.is_some() {
            // Lanes of one mbarrier learn together.
            let mut rest = ready;
            while rest != 0 {
                let first = at[rest.trailing_zeros() as usize];
                let group = lanes(rest).filter(|&l| at[l] == first).fold(0, |g, l| g | 1 << l);
                rest &= !group;
                let who = Who { warp: w.id, lane: Some(group.trailing_zeros() as usize), pc };
                if let ((_, Some(i)), Some(c)) = (self.mbar_at(b, first, who)?, &mut b.clocks) {
                    c.acquire(w.id, group, &b.mbars[i].done);
                }
            }
        }
        w.regs.put_pred(wait.p, ready, mask);
        Ok(if ready == mask { Step::Next } else { Step::Yield })
    }
}
