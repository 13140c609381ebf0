//! Shadow memory: for every piece of memory the last write and all reads since that nothing orders.
//!
//! The grain starts at 16 bytes, which is what tiles are moved in, and gets finer per page when narrower accesses come.

use super::clock::Clocks;

const PAGE_BITS: usize = 9;
const PAGE: usize = 1 << PAGE_BITS;
const COARSE: u8 = 4;

/// How memory is touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    /// Atomics, and reads and writes that are `volatile`, `relaxed` or stronger: they never race with each other.
    Atomic,
    AtomicRead,
}

/// Flags beside the instruction index of a record.
const ATOMIC: u32 = 1 << 31;
/// A write by the async proxy: no proxy fence is needed to read it there.
const PROXY: u32 = 1 << 30;
const PC: u32 = PROXY - 1;

/// An access to check and record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access {
    /// Thread whose knowledge counts: the one that executes or issues.
    pub thread: usize,
    /// Who acts: see [`super::clock`].
    pub unit: u32,
    pub lane: u32,
    pub time: u32,
    pub pc: u32,
    pub kind: Kind,
    /// The access is made by the async proxy.
    pub proxy: bool,
    /// The thread has acquired from the atomics on this location.
    pub observed: bool,
}

/// Lanes of a unit that accessed at one time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Record {
    unit: u32,
    block: u32,
    time: u32,
    mask: u32,
    pc: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    /// Last plain write; `time` 0 if none.
    write: Record,
    /// A read or atomic since; `mask` 0 if none.
    access: Record,
    /// Index + 1 of further ones in [`Page::more`].
    more: u32,
}

#[derive(Debug, Default)]
struct Page {
    launch: u32,
    grain: u8,
    cells: Vec<Cell>,
    more: Vec<Vec<Record>>,
}

/// The other access of a conflict.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conflict {
    pub block: u32,
    pub unit: u32,
    pub lane: u32,
    pub pc: u32,
    pub was_write: bool,
    /// The accesses are ordered, but only for ordinary instructions.
    pub proxy_only: bool,
}

/// Shadow of one allocation.
#[derive(Debug, Default)]
pub(crate) struct Shadow {
    pages: Vec<Option<Box<Page>>>,
}

impl Shadow {
    /// Checks an access to `len` bytes against all before it, and records it.
    #[inline]
    pub(crate) fn access(
        &mut self,
        clocks: &Clocks,
        launch: u32,
        at: usize,
        len: usize,
        a: &Access,
    ) -> Result<(), Conflict> {
        let (mut at, end) = (at, at + len);
        while at < end {
            let page = at >> PAGE_BITS;
            let stop = end.min((page + 1) << PAGE_BITS);
            if page >= self.pages.len() {
                self.pages.resize_with(page + 1, || None);
            }
            let p = self.pages[page].get_or_insert_with(Box::default);
            p.prepare(launch, at & (PAGE - 1), stop - at);
            let grain = p.grain;
            let (first, last) = ((at & (PAGE - 1)) >> grain, ((stop - 1) & (PAGE - 1)) >> grain);
            for i in first..=last {
                p.touch(i, clocks, a)?;
            }
            at = stop;
        }
        Ok(())
    }
}

impl Page {
    /// Makes the page current and fine enough for an access.
    #[inline]
    fn prepare(&mut self, launch: u32, at: usize, len: usize) {
        let fits = ((at | len) | 1 << COARSE).trailing_zeros() as u8;
        if self.launch != launch {
            self.launch = launch;
            self.grain = fits;
            self.cells.clear();
            self.cells.resize(PAGE >> fits, Cell::default());
            self.more.clear();
        } else if fits < self.grain {
            let times = 1usize << (self.grain - fits);
            let mut finer = Vec::with_capacity(self.cells.len() * times);
            for cell in &self.cells {
                for _ in 0..times {
                    let mut copy = *cell;
                    if cell.more > 0 {
                        let list = self.more[cell.more as usize - 1].clone();
                        self.more.push(list);
                        copy.more = self.more.len() as u32;
                    }
                    finer.push(copy);
                }
            }
            self.cells = finer;
            self.grain = fits;
        }
    }

    #[inline]
    fn touch(&mut self, i: usize, clocks: &Clocks, a: &Access) -> Result<(), Conflict> {
        let cell = &mut self.cells[i];
        let (writes, atomic) = match a.kind {
            Kind::Read => (false, false),
            Kind::Write => (true, false),
            Kind::Atomic => (true, true),
            Kind::AtomicRead => (false, true),
        };
        if cell.write.time > 0 {
            check_write(&cell.write, clocks, a)?;
        }
        // Reads conflict with atomics only, writes with everything, atomics with plain reads only.
        let conflicts = |r: &Record| {
            let other_atomic = r.pc & ATOMIC != 0;
            if atomic {
                writes && !other_atomic
            } else {
                (writes || other_atomic) && !(a.observed && other_atomic)
            }
        };
        if cell.access.mask != 0 && conflicts(&cell.access) {
            check_record(&cell.access, clocks, a)?;
        }
        if cell.more > 0 {
            for r in &self.more[cell.more as usize - 1] {
                if conflicts(r) {
                    check_record(r, clocks, a)?;
                }
            }
        }
        let pc = a.pc | if atomic && writes { ATOMIC } else { 0 } | if a.proxy { PROXY } else { 0 };
        let new = Record { unit: a.unit, block: clocks.block, time: a.time, mask: 1 << a.lane, pc };
        if writes && !atomic {
            cell.write = new;
            cell.access.mask = 0;
            cell.more = 0;
            return Ok(());
        }
        if cell.access.mask == 0 || merge(&mut cell.access, &new, clocks, a.thread) {
            if cell.access.mask == 0 {
                cell.access = new;
            }
            return Ok(());
        }
        if cell.more == 0 {
            self.more.push(Vec::new());
            cell.more = self.more.len() as u32;
        }
        let list = &mut self.more[cell.more as usize - 1];
        if !list.iter_mut().any(|r| merge(r, &new, clocks, a.thread)) {
            list.push(new);
        }
        Ok(())
    }
}

/// Puts the new record in the place of one that it makes redundant, or beside lanes of the same time.
#[inline]
fn merge(old: &mut Record, new: &Record, clocks: &Clocks, thread: usize) -> bool {
    if (old.pc & ATOMIC) > (new.pc & ATOMIC) {
        return false;
    }
    let same = old.unit == new.unit && old.block == new.block && (old.pc ^ new.pc) & ATOMIC == 0;
    if same && old.time == new.time {
        old.mask |= new.mask;
        old.pc = new.pc;
        return true;
    }
    if same {
        // Program order: the lane's earlier record says nothing more.
        old.mask &= !new.mask;
    }
    if unknown_lane(old, clocks, thread).is_some() {
        return false;
    }
    *old = *new;
    true
}

/// A lane of the record that the thread does not know to be done.
#[inline]
fn unknown_lane(r: &Record, clocks: &Clocks, thread: usize) -> Option<u32> {
    let mut mask = r.mask;
    while mask != 0 {
        let lane = mask.trailing_zeros();
        if !clocks.knows(thread, r.block, (r.unit * 32 + lane) as usize, r.time) {
            return Some(lane);
        }
        mask &= mask - 1;
    }
    None
}

#[inline]
fn check_record(r: &Record, clocks: &Clocks, a: &Access) -> Result<(), Conflict> {
    match unknown_lane(r, clocks, a.thread) {
        None => Ok(()),
        Some(lane) => Err(conflict(r, lane, r.pc & ATOMIC != 0, false)),
    }
}

#[inline]
fn check_write(w: &Record, clocks: &Clocks, a: &Access) -> Result<(), Conflict> {
    let lane = w.mask.trailing_zeros();
    let slot = (w.unit * 32 + lane) as usize;
    if !clocks.knows(a.thread, w.block, slot, w.time) {
        return Err(conflict(w, lane, true, false));
    }
    // Writes by ordinary instructions reach asynchronous units only through a proxy fence.
    if a.proxy
        && w.pc & PROXY == 0
        && w.block == clocks.block
        && !clocks.knows_proxied(a.thread, slot, w.time)
    {
        return Err(conflict(w, lane, true, true));
    }
    Ok(())
}

fn conflict(r: &Record, lane: u32, was_write: bool, proxy_only: bool) -> Conflict {
    Conflict { block: r.block, unit: r.unit, lane, pc: r.pc & PC, was_write, proxy_only }
}
