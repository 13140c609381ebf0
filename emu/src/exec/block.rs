//! Running one block: which warp goes next, and what to do when none can.

use super::{
    barrier::BarrierState,
    machine::{Block, Frag, Machine, Stop, Wait, Warp},
    regs::{FULL, Regs},
    report::{Checked, Who},
    wgmma::WgmmaState,
};
use crate::{
    Completion, Policy,
    check::clock::{Clocks, lanes},
    fault::FaultKind,
    isa::{Init, Special, kernel::Relation},
    mem::shared::Shared,
};

/// Turns in a row that only polled before the block counts as stuck.
const POLLS: u32 = 10_000;
/// Instructions a warp may run before another one gets a turn, under the policies that do not draw a number.
const TURN: u64 = 200_000;

impl Machine<'_> {
    /// Runs the block of that number.
    pub(crate) fn block(&mut self, linear: u32) -> Checked<()> {
        let mut b = self.new_block(linear);
        let n = b.warps.len();
        let mut priority: Vec<u64> = (0..n).map(|_| self.rng.next() >> 1).collect();
        // Moments at which the running warp's priority drops, in turns of up to `TURN / 100` instructions.
        let mut drops: Vec<u64> = match self.settings.policy {
            Policy::Pct { depth, .. } => (0..depth).map(|_| self.rng.next() % 4000).collect(),
            _ => Vec::new(),
        };
        let (mut polls, start) = (0, self.steps);
        let mut polled = vec![false; n];
        loop {
            let ready: Vec<usize> = (0..n).filter(|&w| self.can_run(&b, w)).collect();
            // A warp that polls in vain lets the others go first.
            let fresh: Vec<usize> = ready.iter().copied().filter(|&w| !polled[w]).collect();
            let from = if fresh.is_empty() { &ready } else { &fresh };
            if from.is_empty() || (fresh.is_empty() && polls > n as u32) {
                if self.land_something(&mut b)? {
                    polls = 0;
                    continue;
                }
                if from.is_empty() {
                    break;
                }
                if polls > POLLS {
                    return Err(self.deadlock(&b, "threads poll for something that never happens"));
                }
            }
            if fresh.is_empty() {
                polled.fill(false);
            }
            let (w, turn) = match self.settings.policy {
                Policy::Forward => (from[0], TURN),
                Policy::Reverse => (from[from.len() - 1], TURN),
                Policy::Random(_) => (from[self.rng.below(from.len())], 1 + self.rng.next() % 64),
                Policy::Pct { .. } => {
                    let w = *from.iter().max_by_key(|&&w| priority[w]).unwrap_or(&from[0]);
                    drops.retain(|d| {
                        let now = self.steps - start >= *d;
                        if now {
                            priority[w] = *d;
                        }
                        !now
                    });
                    (w, 200)
                }
            };
            if matches!(self.settings.completion, Completion::Random(_))
                && self.async_rng.next().is_multiple_of(4)
            {
                self.land_something(&mut b)?;
            }
            let mut warp = std::mem::take(&mut b.warps[w]);
            let stop = self.run(&mut b, &mut warp, turn);
            b.warps[w] = warp;
            let stop = stop?;
            polled[w] = stop == Stop::Polling;
            polls = if polled[w] { polls + 1 } else { 0 };
            if self.steps > self.settings.step_limit {
                let message = format!("the launch ran {} warp instructions", self.steps);
                return Err(self.fault(FaultKind::StepLimit, &b, self.somewhere(&b), message));
            }
        }
        if b.warps.iter().any(|w| !w.frags.is_empty()) {
            return Err(self.deadlock(&b, "no thread can go on"));
        }
        self.check_leaks(&b)
    }

    fn new_block(&mut self, linear: u32) -> Block {
        let [x, y, _] = self.grid;
        let index = [linear % x, linear / x % y, linear / x / y];
        let threads = self.dims.iter().product::<u32>();
        let n = threads.div_ceil(32) as usize;
        let k = self.kernel;
        Block {
            index,
            shared: Shared::new(&k.shared_vars, k.shared, self.dynamic_shared as usize),
            warps: (0..n).map(|w| self.new_warp(index, w, threads)).collect(),
            barriers: (0..16).map(|_| BarrierState::default()).collect(),
            mbars: Vec::new(),
            loads: Vec::new(),
            wgmma: (0..n.div_ceil(4)).map(|_| WgmmaState::default()).collect(),
            clocks: self.settings.check.then(|| Clocks::new(linear, n)),
            released: Default::default(),
            alive: threads,
        }
    }

    fn new_warp(&self, block: [u32; 3], id: usize, threads: u32) -> Warp {
        let k = self.kernel;
        let first = id as u32 * 32;
        let live = if threads - first >= 32 { FULL } else { (1 << (threads - first)) - 1 };
        let mut regs = Regs { r: vec![[0; 32]; k.rows32], d: vec![[0; 32]; k.rows64], p: vec![0; k.preds] };
        for &(row, init) in &k.init32 {
            regs.r[row as usize] = self.constants(init, block, first).map(|x| x as u32);
        }
        for &(row, init) in &k.init64 {
            regs.d[row as usize] = self.constants(init, block, first);
        }
        let frags = vec![Frag { pc: 0, mask: live, wait: Wait::None }];
        Warp { id, regs, live, frags, local: vec![0xff; k.local_bytes * 32], ..Warp::default() }
    }

    /// Of every lane of the warp that begins with thread `first`: most are the same in all of them.
    fn constants(&self, init: Init, block: [u32; 3], first: u32) -> [u64; 32] {
        match init {
            Init::Bits(_) | Init::Global(..) => [self.constant(init, block, first); 32],
            Init::Special(_) => std::array::from_fn(|lane| self.constant(init, block, first + lane as u32)),
        }
    }

    fn constant(&self, init: Init, block: [u32; 3], thread: u32) -> u64 {
        let [x, y, _] = self.dims;
        let special = match init {
            Init::Bits(v) => return v,
            Init::Global(i, offset) => return self.globals[i].wrapping_add(offset as u64),
            Init::Special(s) => s,
        };
        let lane = thread % 32;
        let tid = [thread % x, thread / x % y, thread / x / y];
        u64::from(match special {
            Special::Tid(a) => tid[a as usize],
            Special::Ntid(a) => self.dims[a as usize],
            Special::Ctaid(a) => block[a as usize],
            Special::Nctaid(a) => self.grid[a as usize],
            Special::LaneId => lane,
            Special::WarpId => thread / 32,
            Special::DynamicShared => self.dynamic_shared,
            Special::LaneMask(r) => {
                let bit = 1u32 << lane;
                match r {
                    Relation::Eq => bit,
                    Relation::Lt => bit - 1,
                    Relation::Le => bit | (bit - 1),
                    Relation::Gt => !(bit | (bit - 1)),
                    Relation::Ge => !(bit - 1),
                }
            }
        })
    }

    /// Whether a fragment's wait is over.
    pub(crate) fn is_over(&self, b: &Block, warp: usize, wait: Wait) -> bool {
        match wait {
            Wait::None => true,
            Wait::Exchange(_) | Wait::Aligned => false,
            Wait::Barrier { id, phase } | Wait::Reduction { id, phase } => b.barriers[id].phase != phase,
            Wait::Mbar { index, phase } => b.mbars[index].phase != phase,
            Wait::Wgmma { number } => b.wgmma[warp / 4].everybody_waits(number),
        }
    }

    fn can_run(&self, b: &Block, w: usize) -> bool {
        b.warps[w].frags.iter().any(|f| self.is_over(b, w, f.wait))
    }

    fn somewhere(&self, b: &Block) -> Who {
        let frag = b.warps.iter().find_map(|w| w.frags.first().map(|f| (w.id, f)));
        frag.map_or(Who { warp: 0, lane: None, pc: 0 }, |(warp, f)| Who {
            warp,
            lane: Some(f.mask.trailing_zeros() as usize),
            pc: f.pc,
        })
    }

    /// A report that lists every place where threads wait.
    fn deadlock(&self, b: &Block, what: &str) -> Box<crate::fault::Fault> {
        let mut f = self.fault(FaultKind::Deadlock, b, self.somewhere(b), what);
        let mut places: Vec<(String, u32, Who)> = Vec::new();
        for w in &b.warps {
            for frag in &w.frags {
                let why = self.waiting_for(b, w, frag);
                let first = Who {
                    warp: w.id,
                    lane: Some(frag.mask.trailing_zeros() as usize),
                    pc: Self::waits_at(frag),
                };
                match places.iter_mut().find(|p| p.0 == why && p.2.pc == first.pc) {
                    Some(p) => p.1 += frag.mask.count_ones(),
                    None => places.push((why, frag.mask.count_ones(), first)),
                }
            }
        }
        f.at = places.first().map_or(f.at, |p| self.site(b.index, p.2));
        f.others = places
            .into_iter()
            .map(|(why, n, who)| (format!("{n} threads wait for {why}"), self.site(b.index, who)))
            .collect();
        f
    }

    /// The instruction a fragment waits at: barriers have already stepped past theirs.
    fn waits_at(frag: &Frag) -> u32 {
        match frag.wait {
            Wait::Barrier { .. } => frag.pc.saturating_sub(1),
            _ => frag.pc,
        }
    }

    fn waiting_for(&self, b: &Block, w: &Warp, frag: &Frag) -> String {
        match frag.wait {
            Wait::None => "nothing, they poll".to_owned(),
            Wait::Exchange(mask) => {
                let missing: Vec<usize> = lanes(mask & !frag.mask).collect();
                format!("lanes {missing:?} of the mask {mask:#010x}")
            }
            Wait::Aligned => {
                let missing: Vec<usize> = lanes(w.live & !frag.mask).collect();
                format!("lanes {missing:?} of their warp, which have to execute the same instruction")
            }
            Wait::Barrier { id, .. } | Wait::Reduction { id, .. } => {
                let s = &b.barriers[id];
                format!("barrier {id}: {} of {} threads arrived", s.arrived, s.expected(b.alive))
            }
            Wait::Mbar { index, .. } => {
                let m = &b.mbars[index];
                format!(
                    "the mbarrier at shared address {}: phase {}, {} of {} arrivals missing, {} bytes outstanding",
                    m.at, m.phase, m.pending, m.count, m.tx
                )
            }
            Wait::Wgmma { .. } => "the other warps of the warpgroup".to_owned(),
        }
    }
}
