//! Loads, stores and atomics: addresses, bounds, alignment, shadow, counters.

use super::{
    convert::extend,
    machine::{Block, Machine, Warp},
    regs::{Regs, Row64},
    report::{Checked, Who},
};
use crate::{
    check::{
        clock::{Agent, Location, lanes},
        shadow::{Access, Kind},
    },
    fault::FaultKind,
    isa::{Addr, Mem, Order, Reg},
    mem::space::{Window, window},
    ptx::ast::Space,
};

/// Where bytes are, once an address is resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Shared(usize),
    /// Buffer slot and offset.
    Global(usize, usize),
    Local(usize),
    Param(usize),
}

/// Addresses of all lanes.
#[inline]
pub(crate) fn addresses(regs: &Regs, a: Addr) -> Row64 {
    match a.base {
        Reg::D(d) => regs.d[d as usize].map(|v| v.wrapping_add(a.offset as u64)),
        // 32-bit addresses wrap in 32 bits.
        Reg::R(r) => regs.r[r as usize].map(|v| u64::from(v.wrapping_add(a.offset as u32))),
    }
}

impl Machine<'_> {
    /// Resolves an address of a state space and checks bounds and alignment.
    #[inline]
    pub(crate) fn place(
        &self,
        b: &Block,
        space: Space,
        address: u64,
        len: usize,
        align: usize,
        who: Who,
    ) -> Checked<Place> {
        if !address.is_multiple_of(align as u64) {
            let message = format!("{len} bytes at {address:#x}, which is not a multiple of {align}");
            return Err(self.fault(FaultKind::Misaligned, b, who, message));
        }
        let (space, at) = match space {
            Space::Generic => match window(address) {
                (Window::Shared, a) => (Space::Shared, a),
                (Window::Local, a) => (Space::Local, a),
                (Window::Param, a) => (Space::Param, a),
                (Window::Global, a) => (Space::Global, a),
            },
            // Explicit accesses may use the address of a parameter or a bare offset.
            Space::Param => (Space::Param, window(address).1),
            s => (s, address),
        };
        let outside =
            |what: String| Err(self.fault(FaultKind::OutOfBounds, b, who, format!("{len} bytes at {what}")));
        match space {
            Space::Shared => {
                let at = at as usize;
                if b.shared.probe(at, len).0 { Ok(Place::Shared(at)) } else { outside(b.shared.describe(at)) }
            }
            Space::Local => match (at as usize).checked_add(len) {
                Some(end) if end <= self.kernel.local_bytes => {
                    Ok(Place::Local(at as usize + who.lane.unwrap_or(0) * self.kernel.local_bytes))
                }
                _ => outside(format!(
                    "byte {at} of local memory, of which there are {}",
                    self.kernel.local_bytes
                )),
            },
            Space::Param => match (at as usize).checked_add(len) {
                Some(end) if end <= self.params.len() => Ok(Place::Param(at as usize)),
                _ => {
                    outside(format!("byte {at} of the parameters, of which there are {}", self.params.len()))
                }
            },
            _ => match self.device.locate(at) {
                Some((slot, offset)) if self.device.size(slot) >= offset + len => {
                    Ok(Place::Global(slot, offset))
                }
                _ => outside(self.device.describe(at)),
            },
        }
    }

    /// Checks one lane's access against everything before it, and records it.
    #[inline]
    pub(crate) fn check(
        &mut self,
        b: &mut Block,
        who: Who,
        place: Place,
        len: usize,
        kind: Kind,
    ) -> Checked<()> {
        let Some(clocks) = &b.clocks else { return Ok(()) };
        let lane = who.lane.unwrap_or(0);
        let observed = location(place).is_some_and(|at| clocks.has_observed(who.warp * 32 + lane, at));
        let access = Access {
            thread: who.warp * 32 + lane,
            unit: clocks.unit(who.warp, Agent::Thread),
            lane: lane as u32,
            time: clocks.now(who.warp),
            pc: who.pc,
            kind,
            proxy: false,
            observed,
        };
        self.check_as(b, who, place, len, &access)
    }

    /// The same for any acting unit.
    pub(crate) fn check_as(
        &mut self,
        b: &mut Block,
        who: Who,
        place: Place,
        len: usize,
        a: &Access,
    ) -> Checked<()> {
        let Some(clocks) = &b.clocks else { return Ok(()) };
        let reads = matches!(a.kind, Kind::Read | Kind::AtomicRead | Kind::Atomic);
        let (conflict, name) = match place {
            Place::Shared(at) => {
                if reads && !b.shared.probe(at, len).1 {
                    let message =
                        format!("read of {len} bytes at shared address {at} that nothing has written");
                    return Err(self.fault(FaultKind::Uninitialised, b, who, message));
                }
                match b.shared.shadow.access(clocks, self.launch, at, len, a) {
                    Ok(()) => return Ok(()),
                    Err(c) => (c, format!("shared address {at}")),
                }
            }
            Place::Global(slot, at) => {
                let Some(buffer) = self.device.buffer(slot) else { return Ok(()) };
                if let (true, Some(byte)) = (reads, buffer.unwritten(at, len)) {
                    let message =
                        format!("read of byte {byte} of buffer {:?} that nothing has written", buffer.name);
                    return Err(self.fault(FaultKind::Uninitialised, b, who, message));
                }
                match buffer.shadow.access(clocks, self.launch, at, len, a) {
                    Ok(()) => return Ok(()),
                    Err(c) => (c, format!("byte {at} of buffer {:?}", buffer.name)),
                }
            }
            Place::Local(_) | Place::Param(_) => return Ok(()),
        };
        Err(self.conflict(b, who, a.kind, &name, conflict))
    }

    /// The bytes at a place.
    #[inline]
    pub(crate) fn bytes<'m>(&'m mut self, b: &'m Block, w: &'m Warp, place: Place, len: usize) -> &'m [u8] {
        match place {
            Place::Shared(at) => &b.shared.data[at..at + len],
            Place::Local(at) => &w.local[at..at + len],
            Place::Param(at) => &self.params[at..at + len],
            Place::Global(slot, at) => self.device.buffer(slot).map_or(&[], |m| &m.data[at..at + len]),
        }
    }

    /// Writes bytes to a place, as ordinary instructions do.
    #[inline]
    pub(crate) fn put_bytes(&mut self, b: &mut Block, w: &mut Warp, place: Place, bytes: &[u8]) {
        match place {
            Place::Shared(at) => {
                b.shared.data[at..at + bytes.len()].copy_from_slice(bytes);
                b.shared.mark(at, bytes.len(), 0);
            }
            Place::Local(at) => w.local[at..at + bytes.len()].copy_from_slice(bytes),
            Place::Param(_) => {}
            Place::Global(slot, at) => {
                let track = b.clocks.is_some();
                if let Some(m) = self.device.buffer(slot) {
                    m.data[at..at + bytes.len()].copy_from_slice(bytes);
                    if track { m.mark(at, bytes.len()) } else { m.mark_all() }
                }
            }
        }
    }

    /// Counts the traffic of one warp instruction.
    pub(crate) fn count(&mut self, places: &[Option<Place>; 32], len: usize, write: bool) {
        let mut global = [0u64; 32];
        let (mut n, mut shared, mut mask) = (0, [0u64; 32], 0u32);
        for (l, place) in places.iter().enumerate() {
            match *place {
                Some(Place::Global(slot, at)) => {
                    // Slots are far apart, and buffers start on 256-byte boundaries.
                    global[n] = ((slot as u64) << 40) + at as u64;
                    n += 1;
                }
                Some(Place::Shared(at)) => {
                    shared[l] = at as u64;
                    mask |= 1 << l;
                }
                _ => {}
            }
        }
        if n > 0 {
            self.counters.global(write, &mut global[..n], len as u64);
        }
        if mask != 0 {
            self.counters.shared(&shared, mask, len);
        }
    }

    pub(crate) fn load(&mut self, b: &mut Block, w: &mut Warp, m: &Mem, pc: u32, mask: u32) -> Checked<()> {
        let at = addresses(&w.regs, m.addr);
        let (size, n) = (m.ty.size(), m.regs.len());
        let len = size * n;
        let kind = if m.order == Order::Weak { Kind::Read } else { Kind::AtomicRead };
        let mut places = [None; 32];
        let mut values = [[0u64; 32]; 8];
        for l in lanes(mask) {
            let who = Who { warp: w.id, lane: Some(l), pc };
            let place = self.place(b, m.space, at[l], len, len, who)?;
            if b.clocks.is_some() {
                self.check(b, who, place, len, kind)?;
                if m.order != Order::Weak {
                    self.order(b, place, who, (true, false), (m.order.acquires(), false), m.scope);
                }
            }
            places[l] = Some(place);
            let bytes = self.bytes(b, w, place, len);
            for (value, chunk) in values.iter_mut().zip(bytes.chunks_exact(size)) {
                value[l] = little(chunk);
            }
        }
        self.count(&places, len, false);
        for (value, reg) in values.iter().zip(&m.regs) {
            if m.ty.is_signed() && size < 8 {
                w.regs.put_any(*reg, &value.map(|v| extend(m.ty, v)), mask);
            } else {
                w.regs.put_any(*reg, value, mask);
            }
        }
        Ok(())
    }

    pub(crate) fn store(&mut self, b: &mut Block, w: &mut Warp, m: &Mem, pc: u32, mask: u32) -> Checked<()> {
        let at = addresses(&w.regs, m.addr);
        let (size, n) = (m.ty.size(), m.regs.len());
        let len = size * n;
        let kind = if m.order == Order::Weak { Kind::Write } else { Kind::Atomic };
        let mut places = [None; 32];
        let mut values = [[0u64; 32]; 8];
        for (value, reg) in values.iter_mut().zip(&m.regs) {
            *value = w.regs.any(*reg);
        }
        for l in lanes(mask) {
            let who = Who { warp: w.id, lane: Some(l), pc };
            let place = self.place(b, m.space, at[l], len, len, who)?;
            if matches!(place, Place::Param(_)) {
                return Err(self.fault(
                    FaultKind::OutOfBounds,
                    b,
                    who,
                    "a store to the parameters, which are constant",
                ));
            }
            let mut bytes = [0u8; 32];
            for (value, chunk) in values.iter().zip(bytes[..len].chunks_exact_mut(size)) {
                chunk.copy_from_slice(&value[l].to_le_bytes()[..size]);
            }
            if b.clocks.is_some() {
                if m.order != Order::Weak {
                    // Written before it is checked as a read-modify-write would be.
                    self.order(b, place, who, (false, true), (false, m.order.releases()), m.scope);
                }
                self.put_bytes(b, w, place, &bytes[..len]);
                self.check(b, who, place, len, kind)?;
            } else {
                self.put_bytes(b, w, place, &bytes[..len]);
            }
            places[l] = Some(place);
        }
        self.count(&places, len, true);
        Ok(())
    }

    /// The carving comment.
    pub(crate) fn carve(
        &mut self,
        b: &mut Block,
        w: &Warp,
        addr: Reg,
        bytes: u32,
        pc: u32,
        mask: u32,
    ) -> Checked<()> {
        let lane = mask.trailing_zeros() as usize;
        let at = w.regs.any(addr)[lane];
        let len = w.regs.r[bytes as usize][lane] as usize;
        let at = match window(at) {
            (Window::Shared, a) => a,
            _ => at,
        };
        b.shared
            .carve(at as usize, len)
            .map_err(|m| self.fault(FaultKind::OutOfBounds, b, Who { warp: w.id, lane: Some(lane), pc }, m))
    }
}

/// A place that atomics can synchronise on.
#[inline]
pub(super) fn location(place: Place) -> Option<Location> {
    match place {
        Place::Shared(at) => Some((true, at as u64)),
        Place::Global(slot, at) => Some((false, (slot as u64) << 40 | at as u64)),
        _ => None,
    }
}

#[inline]
pub(super) fn little(bytes: &[u8]) -> u64 {
    match *bytes {
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        [a, b] => u64::from(u16::from_le_bytes([a, b])),
        _ => bytes.iter().rev().fold(0, |v, &b| v << 8 | u64::from(b)),
    }
}
