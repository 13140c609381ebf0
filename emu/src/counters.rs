//! What a launch did, counted exactly.

use crate::isa::class::Class;

/// Counts of one launch. Under [`Policy::Forward`](crate::Policy::Forward) diverged lanes meet again as soon as the code
/// lets them, and every count is a function of the kernel, its data and the launch: tests can hold a kernel to a formula.
/// The other policies may run diverged lanes apart for longer, which takes more warp instructions (and more, smaller
/// memory accesses) for the same thread instructions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Warp instructions issued, of all classes.
    pub instructions: u64,
    /// The same, times the lanes that executed them.
    pub thread_instructions: u64,
    /// `mma` and `wgmma` (per warp).
    pub tensor: u64,
    /// Floating-point arithmetic.
    pub float: u64,
    /// Integer arithmetic, moves, conversions, comparisons, shuffles, votes.
    pub integer: u64,
    /// Loads, stores, atomics, matrix loads, asynchronous copies.
    pub memory: u64,
    /// Barriers, fences, waits.
    pub barrier: u64,
    /// Branches, returns and hints.
    pub control: u64,
    /// Branches at which a warp split.
    pub divergent_branches: u64,
    /// 32-byte sectors that global reads touched, per warp instruction, copies included.
    pub global_read_sectors: u64,
    /// The fewest sectors that could hold the distinct bytes each of those instructions read.
    pub global_read_sectors_min: u64,
    /// 32-byte sectors that global writes touched.
    pub global_write_sectors: u64,
    /// The fewest sectors that could hold them.
    pub global_write_sectors_min: u64,
    /// Distinct bytes that global reads used, per warp instruction.
    pub global_read_bytes: u64,
    /// Distinct bytes that global writes wrote, per warp instruction.
    pub global_write_bytes: u64,
    /// Global atomics, per lane.
    pub global_atomics: u64,
    /// Passes over the 32 banks of shared memory. A full warp needs 1 for up to 4 bytes per lane, 2 for 8, 4 for 16; a
    /// matrix load needs 1 per 8x8 matrix.
    pub shared_wavefronts: u64,
    /// Passes beyond those needed: bank conflicts.
    pub shared_conflicts: u64,
    /// Bytes that `cp.async` moved (zero-fill excluded).
    pub cp_async_bytes: u64,
    /// Bytes that bulk copies moved, in both directions, out-of-bounds fill included.
    pub bulk_bytes: u64,
    /// Floating-point operations of `mma` and `wgmma`: 2·M·N·K each.
    pub tensor_flops: u64,
}

impl Counters {
    fn class(&mut self, class: Class) -> &mut u64 {
        match class {
            Class::Tensor => &mut self.tensor,
            Class::Float => &mut self.float,
            Class::Integer => &mut self.integer,
            Class::Memory => &mut self.memory,
            Class::Barrier => &mut self.barrier,
            Class::Control => &mut self.control,
        }
    }

    #[inline]
    pub(crate) fn issue(&mut self, class: Class, lanes: u32) {
        self.instructions += 1;
        self.thread_instructions += u64::from(lanes);
        *self.class(class) += 1;
    }

    /// Undoes [`Self::issue`] for an instruction that will be issued again.
    pub(crate) fn take_back(&mut self, class: Class, lanes: u32) {
        self.instructions -= 1;
        self.thread_instructions -= u64::from(lanes);
        *self.class(class) -= 1;
    }

    /// A global access by one warp instruction: `len` bytes at each address. Sorts the addresses.
    pub(crate) fn global(&mut self, write: bool, addresses: &mut [u64], len: u64) {
        if !addresses.is_sorted() {
            addresses.sort_unstable();
        }
        let (mut sectors, mut bytes, mut next_sector, mut next_byte) = (0, 0, 0, 0);
        for &a in addresses.iter() {
            let (first, last) = (a / 32, (a + len - 1) / 32);
            let first_new = first.max(next_sector);
            if last + 1 > first_new {
                sectors += last + 1 - first_new;
                next_sector = last + 1;
            }
            let from = a.max(next_byte);
            if a + len > from {
                bytes += a + len - from;
                next_byte = a + len;
            }
        }
        let min = bytes.div_ceil(32);
        if write {
            self.global_write_sectors += sectors;
            self.global_write_sectors_min += min;
            self.global_write_bytes += bytes;
        } else {
            self.global_read_sectors += sectors;
            self.global_read_sectors_min += min;
            self.global_read_bytes += bytes;
        }
    }

    /// A shared access by one warp instruction: `len` bytes at the address of each lane of the mask. The lanes are
    /// served in groups that together move at most 128 bytes.
    pub(crate) fn shared(&mut self, addresses: &[u64; 32], mask: u32, len: usize) {
        let lanes = 32.min(128 / len.max(4));
        for group in 0..32 / lanes {
            let part = (mask >> (group * lanes)) as u64 & ((1u64 << lanes) - 1);
            if part == 0 {
                continue;
            }
            let passes = wavefronts(&addresses[group * lanes..(group + 1) * lanes], part as u32, len);
            self.shared_wavefronts += passes;
            self.shared_conflicts += passes - 1;
        }
    }
}

/// Most distinct 4-byte words that any bank has to give.
fn wavefronts(addresses: &[u64], mask: u32, len: usize) -> u64 {
    let words = len.div_ceil(4);
    // Lanes side by side, or all at one place, never conflict.
    let first = addresses[0] / 4;
    if mask.count_ones() as usize == addresses.len() && len >= 4 {
        let run = |step: u64| addresses.iter().enumerate().all(|(i, a)| a / 4 == first + step * i as u64);
        if run(words as u64) || run(0) {
            return 1;
        }
    }
    let mut seen = [[u64::MAX; 32]; 32];
    let mut count = [0usize; 32];
    for (i, a) in addresses.iter().enumerate() {
        if mask >> i & 1 == 0 {
            continue;
        }
        for w in 0..words as u64 {
            let word = a / 4 + w;
            let bank = (word % 32) as usize;
            if !seen[bank][..count[bank]].contains(&word) {
                seen[bank][count[bank]] = word;
                count[bank] += 1;
            }
        }
    }
    count.into_iter().max().unwrap_or(1).max(1) as u64
}
