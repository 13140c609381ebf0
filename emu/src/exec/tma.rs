//! Bulk copies, flat and by tensor map, in both directions.

use super::{
    machine::{Block, Machine, Warp},
    memory::{Place, addresses},
    report::{Checked, Who},
};
use crate::{
    check::{
        clock::{Agent, lanes},
        shadow::{Access, Kind},
        vc::raise,
    },
    fault::FaultKind,
    isa::BulkTensor,
    mem::space::SHARED_BASE,
    ptx::ast::Space,
    tensor_map::{ENCODED_BYTES, TensorMap},
};

/// A bulk copy that has not landed yet: pieces of contiguous bytes.
#[derive(Debug)]
pub(crate) struct BulkOp {
    pub lane: usize,
    group: u32,
    pieces: Vec<Piece>,
    /// mbarrier that a load completes on.
    mbar: usize,
    bytes: usize,
    time: u32,
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    shared: usize,
    /// Outside the tensor: zeroes on load, nothing on store.
    global: Option<(usize, usize)>,
    len: usize,
}

impl Machine<'_> {
    pub(crate) fn bulk(
        &mut self,
        b: &mut Block,
        w: &mut Warp,
        t: &BulkTensor,
        pc: u32,
        mask: u32,
    ) -> Checked<()> {
        for l in lanes(mask) {
            let who = Who { warp: w.id, lane: Some(l), pc };
            self.bulk_one(b, w, t, who)?;
        }
        Ok(())
    }

    fn bulk_one(&mut self, b: &mut Block, w: &mut Warp, t: &BulkTensor, who: Who) -> Checked<()> {
        let l = who.lane.unwrap_or(0);
        let mut shared = addresses(&w.regs, t.shared)[l];
        if shared >> 40 != 0 {
            shared = shared.wrapping_sub(SHARED_BASE);
        }
        let global = addresses(&w.regs, t.global)[l];
        let (pieces, bytes, swizzle) = match t.bytes {
            Some(r) => {
                let n = w.regs.r[r as usize][l] as usize;
                if n == 0 || !n.is_multiple_of(16) {
                    return Err(self.fault(
                        FaultKind::Misaligned,
                        b,
                        who,
                        format!("{n} bytes: expected a multiple of 16"),
                    ));
                }
                self.place(b, Space::Shared, shared, n, 16, who)?;
                match self.place(b, Space::Global, global, n, 16, who)? {
                    Place::Global(slot, at) => {
                        (vec![Piece { shared: shared as usize, global: Some((slot, at)), len: n }], n, 0)
                    }
                    _ => (Vec::new(), n, 0),
                }
            }
            None => self.tensor_pieces(b, w, t, shared, global, who)?,
        };
        let proxied = Access {
            thread: w.id * 32 + l,
            unit: 0,
            lane: 0,
            time: 0,
            pc: who.pc,
            kind: Kind::Read,
            proxy: true,
            observed: false,
        };
        self.count_bulk(&pieces, bytes, t.load);
        if t.load {
            let Some(mbar) = t.mbar else { return Ok(()) };
            let mbar = self.mbar(b, addresses(&w.regs, mbar)[l], who)?;
            b.mbars[mbar].issued += 1;
            let time = b.mbars[mbar].issued;
            let unit = b.clocks.as_ref().map_or(0, |c| c.mbar_unit(mbar));
            self.check_pieces(b, who, &pieces, true, Access { unit, time, ..proxied })?;
            for p in &pieces {
                b.shared.mark(p.shared, p.len, swizzle);
            }
            let op = BulkOp { lane: l, group: 0, pieces, mbar, bytes, time };
            if self.eager() { self.land_load(b, &op) } else { b.loads.push(op) }
        } else {
            let group = w.bulk_groups[l];
            let unit = b.clocks.as_ref().map_or(0, |c| c.unit(w.id, Agent::Bulk));
            self.check_pieces(
                b,
                who,
                &pieces,
                false,
                Access { unit, lane: l as u32, time: group + 1, ..proxied },
            )?;
            let op = BulkOp { lane: l, group, pieces, mbar: 0, bytes, time: group + 1 };
            if self.eager() {
                self.land_store(b, &op);
                // It still has to be waited for.
                w.stores.push(BulkOp { pieces: Vec::new(), ..op });
            } else {
                w.stores.push(op);
            }
        }
        Ok(())
    }

    fn check_pieces(
        &mut self,
        b: &mut Block,
        who: Who,
        pieces: &[Piece],
        load: bool,
        a: Access,
    ) -> Checked<()> {
        if b.clocks.is_none() {
            return Ok(());
        }
        let (from_shared, from_global) =
            if load { (Kind::Write, Kind::Read) } else { (Kind::Read, Kind::Write) };
        for p in pieces {
            if let Some((slot, at)) = p.global {
                // Global memory is not checked for proxy fences: kernels do not write what they then load in bulk.
                self.check_as(
                    b,
                    who,
                    Place::Global(slot, at),
                    p.len,
                    &Access { kind: from_global, proxy: false, ..a },
                )?;
                if !load && let Some(m) = self.device.buffer(slot) {
                    m.mark(at, p.len);
                }
            }
            self.check_as(b, who, Place::Shared(p.shared), p.len, &Access { kind: from_shared, ..a })?;
        }
        Ok(())
    }

    fn count_bulk(&mut self, pieces: &[Piece], bytes: usize, load: bool) {
        self.counters.bulk_bytes += bytes as u64;
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for p in pieces {
            if let Some((slot, at)) = p.global {
                let at = ((slot as u64) << 40) + at as u64;
                match runs.last_mut() {
                    Some(r) if r.0 + r.1 == at => r.1 += p.len as u64,
                    _ => runs.push((at, p.len as u64)),
                }
            }
        }
        for (at, len) in runs {
            self.counters.global(!load, &mut [at], len);
        }
    }

    /// The box of a tensor copy in pieces of at most 16 bytes, swizzled; its bytes; and the swizzle mode plus 1.
    fn tensor_pieces(
        &mut self,
        b: &Block,
        w: &Warp,
        t: &BulkTensor,
        shared: u64,
        map: u64,
        who: Who,
    ) -> Checked<(Vec<Piece>, usize, u8)> {
        let fail = |m: &Self, message: String| Err(m.fault(FaultKind::TensorMap, b, who, message));
        let l = who.lane.unwrap_or(0);
        let place = self.place(b, Space::Generic, map, ENCODED_BYTES, 64, who)?;
        let Some(m) = TensorMap::decode(self.bytes(b, w, place, ENCODED_BYTES)) else {
            return fail(self, format!("no tensor map at {map:#x}"));
        };
        if m.rank() != t.coords.len() {
            return fail(self, format!("{} coordinates for a map of rank {}", t.coords.len(), m.rank()));
        }
        if !shared.is_multiple_of(128) {
            let message = format!("a box at shared address {shared}, which is not a multiple of 128");
            return Err(self.fault(FaultKind::Misaligned, b, who, message));
        }
        let bytes = m.box_bytes();
        self.place(b, Space::Shared, shared, bytes, 128, who)?;
        let coords: Vec<i64> = t.coords.iter().map(|&r| i64::from(w.regs.r[r as usize][l] as i32)).collect();
        let row = m.box_size[0] as usize * m.element_bytes;
        let chunk = row.min(16);
        let mut pieces = Vec::with_capacity(bytes.div_ceil(chunk));
        let rows: usize = m.box_size[1..].iter().map(|&n| n as usize).product();
        for r in 0..rows {
            let (mut rest, mut inside, mut offset) = (r, true, 0i64);
            for d in 1..m.rank() {
                let i = coords[d] + (rest % m.box_size[d] as usize) as i64;
                rest /= m.box_size[d] as usize;
                inside &= (0..m.size[d] as i64).contains(&i);
                offset = offset.wrapping_add(i.wrapping_mul(m.stride[d - 1] as i64));
            }
            for at in (0..row).step_by(chunk) {
                let first = coords[0] + (at / m.element_bytes) as i64;
                let linear = shared + (r * row + at) as u64;
                let at_shared = m.swizzle.apply(linear) as usize;
                let n = (chunk / m.element_bytes) as i64;
                // The part of the chunk that lies in the tensor, by elements.
                let (lo, hi) =
                    if inside { (first.max(0), (first + n).min(m.size[0] as i64)) } else { (0, 0) };
                let (lo, hi) = if lo < hi { (lo, hi) } else { (first, first) };
                let e = m.element_bytes as i64;
                let parts = [(first, lo, false), (lo, hi, true), (hi, first + n, false)];
                for (from, to, real) in parts.into_iter().filter(|p| p.0 < p.1) {
                    let global = if real {
                        let address = m.base.wrapping_add(offset.wrapping_add(from * e) as u64);
                        match self.place(b, Space::Global, address, ((to - from) * e) as usize, 1, who)? {
                            Place::Global(slot, at) => Some((slot, at)),
                            _ => None,
                        }
                    } else {
                        None
                    };
                    pieces.push(Piece {
                        shared: at_shared + ((from - first) * e) as usize,
                        global,
                        len: ((to - from) * e) as usize,
                    });
                }
            }
        }
        Ok((pieces, bytes, m.swizzle as u8 + 1))
    }

    fn land_load(&mut self, b: &mut Block, op: &BulkOp) {
        for p in &op.pieces {
            let to = &mut b.shared.data[p.shared..p.shared + p.len];
            match p.global.and_then(|(slot, at)| Some((self.device.buffer(slot)?, at))) {
                Some((m, at)) => to.copy_from_slice(&m.data[at..at + p.len]),
                None => to.fill(0),
            }
        }
        if let Some(c) = &b.clocks {
            let slot = c.mbar_unit(op.mbar) as usize * 32;
            raise(&mut b.mbars[op.mbar].vc.plain, slot, op.time);
        }
        b.mbars[op.mbar].complete(op.bytes as i64);
    }

    fn land_store(&mut self, b: &mut Block, op: &BulkOp) {
        for p in &op.pieces {
            if let Some((slot, at)) = p.global
                && let Some(m) = self.device.buffer(slot)
            {
                m.data[at..at + p.len].copy_from_slice(&b.shared.data[p.shared..p.shared + p.len]);
                m.mark(at, p.len);
            }
        }
    }

    pub(crate) fn bulk_wait(&mut self, b: &mut Block, w: &mut Warp, n: u32, mask: u32) {
        let groups = w.bulk_groups;
        let due = |op: &BulkOp| mask >> op.lane & 1 == 1 && op.group.saturating_add(n) < groups[op.lane];
        let (now, later) = std::mem::take(&mut w.stores).into_iter().partition::<Vec<_>, _>(due);
        w.stores = later;
        now.iter().for_each(|op| self.land_store(b, op));
        if let Some(c) = &mut b.clocks {
            for l in lanes(mask) {
                c.bulk_done(w.id * 32 + l, groups[l].saturating_sub(n));
            }
        }
    }

    /// Lets one bulk load land; whether there was one.
    pub(crate) fn land_something(&mut self, b: &mut Block) -> Checked<bool> {
        if b.loads.is_empty() {
            return Ok(false);
        }
        let at = if matches!(self.settings.completion, crate::Completion::Random(_)) {
            self.async_rng.below(b.loads.len())
        } else {
            0
        };
        let op = b.loads.remove(at);
        self.land_load(b, &op);
        Ok(true)
    }

    /// Bytes that were still expected when the block ended.
    pub(crate) fn check_leaks(&self, b: &Block) -> Checked<()> {
        let Some(m) = b.mbars.iter().find(|m| m.live && m.tx != 0) else { return Ok(()) };
        let who = Who { warp: 0, lane: None, pc: self.kernel.insts.len() as u32 - 1 };
        let message = format!(
            "the block ends in phase {} of the mbarrier at shared address {}, with {} bytes outstanding",
            m.phase, m.at, m.tx
        );
        Err(self.fault(FaultKind::AsyncLeak, b, who, message))
    }
}
