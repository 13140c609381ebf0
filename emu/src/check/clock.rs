//! The clocks of a block.
//!
//! A *slot* is anything that acts on its own: each thread, and for each thread the unit that carries out its
//! `cp.async`, its bulk stores, and its warp's wgmma; then one per mbarrier for the bulk copies that complete on it.
//! Slots come in groups of 32 called units, so that what a whole warp did is one record with a lane mask.
//!
//! Time is counted per warp and advances at every release. A thread's own slots are not in its `Vc`, which is why all
//! threads that left a barrier together can share one.

use std::{collections::HashMap, rc::Rc};

use super::vc::{Vc, raise};

/// Slot groups of a warp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Agent {
    Thread = 0,
    CpAsync = 1,
    Bulk = 2,
    Wgmma = 3,
}

/// What one thread knows.
#[derive(Debug, Clone)]
struct Lane {
    vc: Rc<Vc>,
    /// Latest own `cp.async` and bulk operations known to be complete.
    cp: u32,
    bulk: u32,
    /// Own time, and own `cp.async` time, at the last `fence.proxy.async`.
    proxy: u32,
    proxy_cp: u32,
    /// What a later relaxed atomic releases, because a fence came before it; with gpu scope or only block scope.
    fenced: Option<(Rc<Vc>, bool)>,
    /// What a later fence acquires, because an atomic read it.
    read: Vec<(Location, Rc<Vc>)>,
    /// Locations whose releases the thread has acquired by its own atomics: every atomic before its own came earlier.
    observed: Vec<Location>,
}

/// Clocks of all threads of a block.
#[derive(Debug)]
pub(crate) struct Clocks {
    pub block: u32,
    warps: usize,
    lanes: Vec<Lane>,
    /// Time of each warp.
    time: Vec<u32>,
}

/// An atomic variable: whether in shared memory, and where.
pub(crate) type Location = (bool, u64);

/// What the releases to a memory location, by atomics, carry: per block.
pub(crate) type Released = HashMap<Location, Rc<Vc>>;

impl Clocks {
    pub(crate) fn new(block: u32, warps: usize) -> Self {
        let empty = Rc::new(Vc::default());
        let lane = Lane {
            vc: empty,
            cp: 0,
            bulk: 0,
            proxy: 0,
            proxy_cp: 0,
            fenced: None,
            read: Vec::new(),
            observed: Vec::new(),
        };
        Self { block, warps, lanes: vec![lane; warps * 32], time: vec![1; warps] }
    }

    /// Unit of a warp's agent.
    #[inline]
    pub(crate) fn unit(&self, warp: usize, agent: Agent) -> u32 {
        (agent as usize * self.warps + warp) as u32
    }

    /// Unit of the bulk copies that complete on an mbarrier.
    pub(crate) fn mbar_unit(&self, index: usize) -> u32 {
        (4 * self.warps + index) as u32
    }

    /// Warp and agent of a unit, for reports.
    pub(crate) fn owner(&self, unit: u32) -> (Option<u32>, &'static str) {
        let names = [
            "",
            "its cp.async unit, not waited for",
            "its bulk store, not waited for",
            "its wgmma, not waited for",
        ];
        match names.get(unit as usize / self.warps) {
            Some(name) => (Some(unit % self.warps as u32), name),
            None => (None, "a bulk copy, whose mbarrier was not waited for"),
        }
    }

    /// Current time of a warp.
    #[inline]
    pub(crate) fn now(&self, warp: usize) -> u32 {
        self.time[warp]
    }

    /// Whether a thread knows that a slot's action is over.
    #[inline]
    pub(crate) fn knows(&self, thread: usize, block: u32, slot: usize, time: u32) -> bool {
        let lane = &self.lanes[thread];
        if block != self.block {
            return lane.vc.foreign.get(&block).is_some_and(|v| v.get(slot).copied().unwrap_or(0) >= time);
        }
        if slot == thread {
            return true;
        }
        if lane.vc.at(slot) >= time {
            return true;
        }
        let n = self.lanes.len();
        (slot == thread + n && lane.cp >= time) || (slot == thread + 2 * n && lane.bulk >= time)
    }

    /// Whether the atomics on a location came before what the thread does now, because it acquired from them.
    #[inline]
    pub(crate) fn has_observed(&self, thread: usize, at: Location) -> bool {
        self.lanes[thread].observed.contains(&at)
    }

    /// Whether a thread knows that an ordinary write is visible to asynchronous units.
    pub(crate) fn knows_proxied(&self, thread: usize, slot: usize, time: u32) -> bool {
        let lane = &self.lanes[thread];
        let n = self.lanes.len();
        lane.vc.proxy.get(slot).copied().unwrap_or(0) >= time
            || (slot == thread && lane.proxy >= time)
            || (slot == thread + n && lane.proxy_cp >= time)
    }

    /// Adds what a thread's own slots have done.
    fn add_own(&self, thread: usize, vc: &mut Vc) {
        let (lane, n) = (&self.lanes[thread], self.lanes.len());
        raise(&mut vc.plain, thread, self.time[thread / 32]);
        raise(&mut vc.proxy, thread, lane.proxy);
        if lane.cp > 0 {
            raise(&mut vc.plain, thread + n, lane.cp);
            raise(&mut vc.proxy, thread + n, lane.proxy_cp);
        }
        if lane.bulk > 0 {
            raise(&mut vc.plain, thread + 2 * n, lane.bulk);
        }
    }

    /// Joins what the threads of a warp's mask know into a clock, and lets the warp's time advance.
    pub(crate) fn release(&mut self, warp: usize, mask: u32, into: &mut Vc) {
        let mut last: Option<&Rc<Vc>> = None;
        for lane in lanes(mask) {
            let thread = warp * 32 + lane;
            let vc = &self.lanes[thread].vc;
            if !last.is_some_and(|l| Rc::ptr_eq(l, vc)) {
                into.join(vc);
                last = Some(vc);
            }
        }
        for lane in lanes(mask) {
            self.add_own(warp * 32 + lane, into);
        }
        self.time[warp] += 1;
    }

    /// Lets the threads of a mask know a clock, which already holds all they knew.
    pub(crate) fn set(&mut self, warp: usize, mask: u32, vc: &Rc<Vc>) {
        for lane in lanes(mask) {
            self.lanes[warp * 32 + lane].vc = vc.clone();
        }
    }

    /// Lets the threads of a mask know a clock besides what they know.
    pub(crate) fn acquire(&mut self, warp: usize, mask: u32, vc: &Vc) {
        let mut done: Option<(Rc<Vc>, Rc<Vc>)> = None;
        for lane in lanes(mask) {
            let mine = &mut self.lanes[warp * 32 + lane].vc;
            match &done {
                Some((before, after)) if Rc::ptr_eq(before, mine) => *mine = after.clone(),
                _ => {
                    let mut joined = (**mine).clone();
                    joined.join(vc);
                    let after = Rc::new(joined);
                    done = Some((mine.clone(), after.clone()));
                    *mine = after;
                }
            }
        }
    }

    /// `__syncwarp`: everybody in the mask knows what anybody knew.
    pub(crate) fn sync_warp(&mut self, warp: usize, mask: u32) {
        let mut vc = Vc::default();
        self.release(warp, mask, &mut vc);
        self.set(warp, mask, &Rc::new(vc));
    }

    /// The thread's `cp.async` operations up to a time are complete.
    pub(crate) fn cp_done(&mut self, thread: usize, time: u32) {
        let lane = &mut self.lanes[thread];
        lane.cp = lane.cp.max(time);
    }

    /// The thread's bulk stores up to a time are complete.
    pub(crate) fn bulk_done(&mut self, thread: usize, time: u32) {
        let lane = &mut self.lanes[thread];
        lane.bulk = lane.bulk.max(time);
    }

    /// `fence.proxy.async`: what the threads know so far becomes visible to asynchronous units.
    pub(crate) fn proxy_fence(&mut self, warp: usize, mask: u32) {
        let mut done: Option<(Rc<Vc>, Rc<Vc>)> = None;
        let time = self.time[warp];
        for l in lanes(mask) {
            let lane = &mut self.lanes[warp * 32 + l];
            lane.proxy = time;
            lane.proxy_cp = lane.cp;
            match &done {
                Some((before, after)) if Rc::ptr_eq(before, &lane.vc) => lane.vc = after.clone(),
                _ => {
                    let mut vc = (*lane.vc).clone();
                    let plain = std::mem::take(&mut vc.plain);
                    super::vc::join(&mut vc.proxy, &plain);
                    vc.plain = plain;
                    let after = Rc::new(vc);
                    done = Some((lane.vc.clone(), after.clone()));
                    lane.vc = after;
                }
            }
        }
        self.time[warp] += 1;
    }

    /// A memory fence: acquires what earlier atomics read, and arms later atomics with what is known now.
    pub(crate) fn fence(&mut self, warp: usize, mask: u32, gpu: bool) {
        for l in lanes(mask) {
            let thread = warp * 32 + l;
            let mut vc = (*self.lanes[thread].vc).clone();
            for (at, read) in std::mem::take(&mut self.lanes[thread].read) {
                self.absorb(&mut vc, &read, gpu);
                self.lanes[thread].observed.push(at);
            }
            self.lanes[thread].vc = Rc::new(vc.clone());
            self.add_own(thread, &mut vc);
            self.lanes[thread].fenced = Some((Rc::new(vc), gpu));
        }
        self.time[warp] += 1;
    }

    /// Joins a released clock, whose `foreign` part names every block, ours included.
    fn absorb(&self, vc: &mut Vc, released: &Vc, gpu: bool) {
        for (&block, times) in &released.foreign {
            if block == self.block {
                super::vc::join(&mut vc.plain, times);
            } else if gpu {
                vc.join_foreign(block, times);
            }
        }
    }

    /// The clock in the form that other blocks can absorb.
    fn exported(&self, vc: &Vc, gpu: bool) -> Vc {
        let mut out = Vc::default();
        if gpu {
            out.foreign.clone_from(&vc.foreign);
        }
        out.foreign.insert(self.block, Rc::new(vc.plain.clone()));
        out
    }

    /// An atomic (or `volatile`, or ordered) access to a location by one thread.
    pub(crate) fn atomic(
        &mut self,
        released: &mut Released,
        at: Location,
        thread: usize,
        (reads, writes): (bool, bool),
        (acquires, releases): (bool, bool),
        gpu: bool,
    ) {
        let seen = if reads { released.get(&at).cloned() } else { None };
        if writes {
            let carried = if releases {
                let mut vc = (*self.lanes[thread].vc).clone();
                self.add_own(thread, &mut vc);
                self.time[thread / 32] += 1;
                Some((Rc::new(vc), gpu))
            } else {
                self.lanes[thread].fenced.clone()
            };
            if let Some((vc, wide)) = carried {
                let exported = self.exported(&vc, wide && gpu);
                // A block-scope release means nothing to other blocks, which only ever look at their own entry.
                let visible = wide && gpu || at.0;
                if visible {
                    let merged = released.entry(at).or_default();
                    Rc::make_mut(merged).join(&exported);
                }
            }
        }
        if let Some(seen) = seen {
            if acquires {
                let mut vc = (*self.lanes[thread].vc).clone();
                self.absorb(&mut vc, &seen, gpu);
                self.lanes[thread].vc = Rc::new(vc);
                self.lanes[thread].observed.push(at);
            } else {
                self.lanes[thread].read.push((at, seen));
            }
        }
    }
}

/// Lanes of a mask.
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut m = mask;
    std::iter::from_fn(move || {
        let l = m.trailing_zeros() as usize;
        m &= m.wrapping_sub(1);
        (l < 32).then_some(l)
    })
}
