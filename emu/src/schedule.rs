//! Which warp runs next, when asynchronous work completes, and what is checked.

/// Order in which warps and blocks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The lowest warp that can run, until it blocks; blocks in order.
    Forward,
    /// The highest warp; blocks in reverse order; of diverged lanes, those that are ahead.
    Reverse,
    /// Any warp, for a random number of instructions; blocks in random order. The number is the seed.
    Random(u64),
    /// Probabilistic concurrency testing: random priorities, lowered at random moments.
    Pct {
        /// Seed.
        seed: u64,
        /// Number of moments per block at which the running warp's priority drops.
        depth: u32,
    },
}

/// When asynchronous operations take effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// As soon as they are issued.
    Eager,
    /// As late as is legal: at the wait, or when nothing else can run.
    Lazy,
    /// Each by the toss of a coin. The number is the seed.
    Random(u64),
}

/// How to run a launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Look for races, uninitialised reads and missing proxy fences. Bounds, alignment, barriers and convergence are
    /// always checked.
    pub check: bool,
    /// Order of warps and blocks.
    pub policy: Policy,
    /// Completion of asynchronous operations.
    pub completion: Completion,
    /// Warp instructions after which a launch is given up as endless.
    pub step_limit: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { check: true, policy: Policy::Forward, completion: Completion::Lazy, step_limit: 1 << 32 }
    }
}

impl Settings {
    /// Without the checker, for speed.
    pub fn unchecked() -> Self {
        Self { check: false, ..Self::default() }
    }

    /// One of each kind of schedule, with both extremes of completion: what a test should loop over.
    pub fn matrix(seed: u64) -> Vec<Self> {
        let policies =
            [Policy::Forward, Policy::Reverse, Policy::Random(seed), Policy::Pct { seed, depth: 3 }];
        let completions = [Completion::Eager, Completion::Lazy, Completion::Random(seed)];
        let both = |policy| completions.map(|completion| Self { policy, completion, ..Self::default() });
        policies.into_iter().flat_map(both).collect()
    }
}

/// SplitMix64: small, seedable, the same everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}
