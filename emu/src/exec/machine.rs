//! The state of a launch, a block and a warp.

use super::{barrier::BarrierState, copy::CpOp, mbarrier::Mbar, regs::Regs, tma::BulkOp, wgmma::WgmmaState};
use crate::{
    Counters, Device, Settings,
    check::clock::{Clocks, Released},
    isa::Kernel,
    mem::shared::Shared,
    schedule::Rng,
};

/// A launch.
pub(crate) struct Machine<'a> {
    pub kernel: &'a Kernel,
    pub files: &'a [(u32, String)],
    pub device: &'a mut Device,
    pub settings: &'a Settings,
    pub counters: Counters,
    /// Choices of the schedule.
    pub rng: Rng,
    /// Choices of completion, apart so that the two seeds do not mix.
    pub async_rng: Rng,
    pub params: Vec<u8>,
    /// Addresses of module-level variables.
    pub globals: Vec<u64>,
    pub grid: [u32; 3],
    pub dims: [u32; 3],
    pub dynamic_shared: u32,
    /// Number of the launch, which tells live shadow pages from stale ones.
    pub launch: u32,
    pub steps: u64,
    /// What atomics on global memory have released.
    pub released: Released,
}

/// A block while it runs.
pub(crate) struct Block {
    pub index: [u32; 3],
    pub shared: Shared,
    pub warps: Vec<Warp>,
    pub barriers: Vec<BarrierState>,
    pub mbars: Vec<Mbar>,
    /// Bulk loads that have not landed yet.
    pub loads: Vec<BulkOp>,
    pub wgmma: Vec<WgmmaState>,
    /// Present when the checker is on.
    pub clocks: Option<Clocks>,
    /// What atomics on shared memory have released.
    pub released: Released,
    /// Threads that have not returned.
    pub alive: u32,
}

/// What a fragment waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    None,
    /// The other lanes of a `.sync` mask, at a warp exchange.
    Exchange(u32),
    /// The other lanes of the warp, at an `.aligned` instruction.
    Aligned,
    /// The end of a barrier's phase.
    Barrier {
        id: usize,
        phase: u64,
    },
    /// The same, at a `bar.red`, which is executed again for its result.
    Reduction {
        id: usize,
        phase: u64,
    },
    /// The end of an mbarrier's phase: index and number of the phase.
    Mbar {
        index: usize,
        phase: u64,
    },
    /// The other warps of the warpgroup, at their wait of that number.
    Wgmma {
        number: u64,
    },
}

/// Lanes of a warp that are at the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frag {
    pub pc: u32,
    pub mask: u32,
    pub wait: Wait,
}

/// A warp.
#[derive(Default)]
pub(crate) struct Warp {
    pub id: usize,
    pub regs: Regs,
    /// Lanes that have not returned.
    pub live: u32,
    pub frags: Vec<Frag>,
    /// Local memory, lane after lane.
    pub local: Vec<u8>,
    /// `cp.async` operations that have not landed yet, and groups committed by each lane.
    pub cp: Vec<CpOp>,
    pub cp_groups: [u32; 32],
    /// Bulk stores that have not landed yet, and groups committed by each lane.
    pub stores: Vec<BulkOp>,
    pub bulk_groups: [u32; 32],
    /// Of diverged lanes, those ahead run first.
    pub ahead: bool,
}

/// What happens after an instruction.
pub(crate) enum Step {
    Next,
    /// All lanes of the fragment go there.
    Jump(u32),
    /// Some lanes go there, the others on.
    Split {
        target: u32,
        taken: u32,
    },
    /// Execute the instruction again once the wait is over.
    Retry(Wait),
    /// Go on behind the instruction once the wait is over.
    Then(Wait),
    /// The fragment has been replaced by others.
    Regroup,
    /// Nothing came of it for now: let others run.
    Yield,
    /// The executing lanes are done.
    Exit,
}

/// Why a warp stopped running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Done,
    Blocked,
    /// Its turn is over.
    Turn,
    /// It polls something that others have to change.
    Polling,
}
