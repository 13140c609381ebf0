//! Atomics, ordered accesses and fences.

use super::{
    convert::extend,
    machine::{Block, Machine, Warp},
    memory::{Place, addresses, little, location},
    report::{Checked, Who},
};
use crate::{
    check::{clock::lanes, shadow::Kind},
    fault::FaultKind,
    isa::{Atomic, AtomicFn, Scope},
    ptx::types::Ty,
};

impl Machine<'_> {
    /// What an atomic or ordered access acquires and releases.
    pub(super) fn order(
        &mut self,
        b: &mut Block,
        place: Place,
        who: Who,
        rw: (bool, bool),
        ar: (bool, bool),
        scope: Scope,
    ) {
        let Some(clocks) = &mut b.clocks else { return };
        let thread = who.warp * 32 + who.lane.unwrap_or(0);
        let gpu = scope == Scope::Gpu;
        let Some(at) = location(place) else { return };
        let released = if at.0 { &mut b.released } else { &mut self.released };
        clocks.atomic(released, at, thread, rw, ar, gpu);
    }

    pub(crate) fn atomic(
        &mut self,
        b: &mut Block,
        w: &mut Warp,
        a: &Atomic,
        pc: u32,
        mask: u32,
    ) -> Checked<()> {
        let at = addresses(&w.regs, a.addr);
        let len = a.ty.size();
        let (x, y) = (w.regs.any(a.a), a.b.map(|b| w.regs.any(b)));
        let mut old = [0u64; 32];
        for l in lanes(mask) {
            let who = Who { warp: w.id, lane: Some(l), pc };
            let place = self.place(b, a.space, at[l], len, len, who)?;
            if matches!(place, Place::Param(_) | Place::Local(_)) {
                return Err(self.fault(
                    FaultKind::OutOfBounds,
                    b,
                    who,
                    "an atomic outside global and shared memory",
                ));
            }
            if b.clocks.is_some() {
                self.check(b, who, place, len, Kind::Atomic)?;
                self.order(b, place, who, (true, true), (a.order.acquires(), a.order.releases()), a.scope);
            }
            self.counters.global_atomics += u64::from(matches!(place, Place::Global(..)));
            old[l] = little(self.bytes(b, w, place, len));
            let new = combine(a.f, a.ty, old[l], x[l], y.map_or(0, |y| y[l]));
            self.put_bytes(b, w, place, &new.to_le_bytes()[..len]);
        }
        if let Some(d) = a.dst {
            w.regs.put_any(d, &old, mask);
        }
        Ok(())
    }

    pub(crate) fn fence(&mut self, b: &mut Block, w: &Warp, scope: Scope, mask: u32) {
        if let Some(c) = &mut b.clocks {
            c.fence(w.id, mask, scope == Scope::Gpu);
        }
    }
}

/// The value an atomic leaves behind.
fn combine(f: AtomicFn, ty: Ty, old: u64, a: u64, b: u64) -> u64 {
    let (so, sa) = (extend(ty, old) as i64, extend(ty, a) as i64);
    let (uo, ua) = (extend(ty, old), extend(ty, a));
    match (f, ty) {
        (AtomicFn::Add, Ty::F32) => {
            u64::from((f32::from_bits(old as u32) + f32::from_bits(a as u32)).to_bits())
        }
        (AtomicFn::Add, Ty::F64) => (f64::from_bits(old) + f64::from_bits(a)).to_bits(),
        (AtomicFn::Add, _) => old.wrapping_add(a),
        (AtomicFn::Min, t) if t.is_signed() => so.min(sa) as u64,
        (AtomicFn::Max, t) if t.is_signed() => so.max(sa) as u64,
        (AtomicFn::Min, _) => uo.min(ua),
        (AtomicFn::Max, _) => uo.max(ua),
        (AtomicFn::And, _) => old & a,
        (AtomicFn::Or, _) => old | a,
        (AtomicFn::Xor, _) => old ^ a,
        (AtomicFn::Exch, _) => a,
        (AtomicFn::Cas, _) => {
            if uo == ua {
                b
            } else {
                old
            }
        }
        (AtomicFn::Inc, _) => {
            if uo >= ua {
                0
            } else {
                uo + 1
            }
        }
        (AtomicFn::Dec, _) => {
            if uo == 0 || uo > ua {
                ua
            } else {
                uo - 1
            }
        }
    }
}
