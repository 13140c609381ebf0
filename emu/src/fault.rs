//! What a kernel did wrong, and where.

use std::fmt;

/// Kinds of fault, one per diagnostic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// Two accesses to the same bytes, at least one a write, with nothing ordering them.
    Race,
    /// Ordinary writes read by the async proxy (bulk copy, wgmma) without `fence.proxy.async` between.
    MissingProxyFence,
    /// A read of memory that nothing has written.
    Uninitialised,
    /// An access outside every allocation, or outside every carved sub-array.
    OutOfBounds,
    /// An address that is not a multiple of what the instruction demands.
    Misaligned,
    /// No thread can go on: a barrier, a `.sync` mask or an mbarrier that is never satisfied.
    Deadlock,
    /// Misuse of a barrier or mbarrier: too many arrivals, not initialised, wrong counts.
    Barrier,
    /// A block ended, or reused memory, with asynchronous copies in flight.
    AsyncLeak,
    /// A bulk tensor copy that contradicts its tensor map.
    TensorMap,
    /// A wgmma matrix descriptor that cannot be right.
    Descriptor,
    /// A wgmma register touched before `wgmma.wait_group`, or wgmma without `wgmma.fence`.
    WgmmaOrder,
    /// A `.aligned` instruction executed by part of a warp, or a `.sync` mask without the executing lane.
    Convergence,
    /// The launch ran longer than [`crate::Settings::step_limit`].
    StepLimit,
    /// A value that makes an instruction undefined.
    Undefined,
}

/// Where an access or a wait happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Site {
    /// Source file, as the compiler was given it; empty without line information.
    pub file: String,
    /// Source line; 0 without line information.
    pub line: u32,
    /// Where the line was inlined: file and line of each call, innermost first.
    pub inlined_at: Vec<(String, u32)>,
    /// Line of the PTX text.
    pub ptx_line: u32,
    /// Opcode.
    pub instruction: String,
    /// Block index.
    pub block: [u32; 3],
    /// Warp in the block.
    pub warp: u32,
    /// Lane in the warp; `None` when the whole warp or an asynchronous unit acted.
    pub lane: Option<u32>,
}

impl Site {
    /// Whether the site is in this file and line, directly or through inlining.
    pub fn is_at(&self, file: &str, line: u32) -> bool {
        let hit = |f: &str, l: u32| f.ends_with(file) && l == line;
        hit(&self.file, self.line) || self.inlined_at.iter().any(|(f, l)| hit(f, *l))
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.instruction)?;
        if self.line > 0 {
            write!(f, " at {}:{}", self.file, self.line)?;
        }
        for (file, line) in &self.inlined_at {
            write!(f, " (inlined at {file}:{line})")?;
        }
        let [x, y, z] = self.block;
        write!(f, " [PTX line {}] by block ({x},{y},{z}) warp {}", self.ptx_line, self.warp)?;
        if let Some(lane) = self.lane {
            write!(f, " lane {lane}")?;
        }
        Ok(())
    }
}

/// A fault report. Its `Display` is one paragraph that names the kernel and both accesses.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Which diagnostic.
    pub kind: FaultKind,
    /// The kernel.
    pub kernel: String,
    /// What happened.
    pub message: String,
    /// Where it was noticed.
    pub at: Site,
    /// The other access of a race, or the other waits of a deadlock.
    pub others: Vec<(String, Site)>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in kernel {}: {}: {}", self.kind, self.kernel, self.message, self.at)?;
        for (what, site) in &self.others {
            write!(f, "; {what}: {site}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}
