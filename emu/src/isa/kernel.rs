//! A decoded kernel.

use std::collections::HashMap;

use super::op::Inst;
use crate::ptx::ast::{Loc, Param};

/// Read-only registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    LaneMask(Relation),
    DynamicShared,
}

/// Which lanes a `%lanemask_*` holds, relative to the reading one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Relation {
    Eq,
    Lt,
    Le,
    Gt,
    Ge,
}

/// What fills a constant row when a warp starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Init {
    Bits(u64),
    Special(Special),
    /// Address of a module-level variable (index) plus bytes.
    Global(usize, i64),
}

/// Where dynamic shared memory starts, and how it was declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SharedLayout {
    /// First address after the statically declared variables.
    pub static_end: usize,
    /// Start of dynamic shared memory.
    pub dynamic: usize,
}

/// A kernel ready to run.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub name: String,
    pub params: Vec<Param>,
    pub param_bytes: usize,
    pub insts: Vec<Inst>,
    pub locs: Vec<Loc>,
    /// Opcode text of each instruction, for reports.
    pub text: Vec<String>,
    /// Rows of 32 and of 64 bits, constants included, and predicates.
    pub rows32: usize,
    pub rows64: usize,
    pub preds: usize,
    pub init32: Vec<(u32, Init)>,
    pub init64: Vec<(u32, Init)>,
    /// `.shared` variables: first and one-past-last address.
    pub shared_vars: Vec<(usize, usize)>,
    pub shared: SharedLayout,
    pub local_bytes: usize,
    pub max_threads: Option<u64>,
    pub req_threads: Option<[u32; 3]>,
    /// For each instruction flagged so: which wgmma registers it touches, and whether it writes one.
    pub wgmma_touch: HashMap<u32, (Vec<u32>, bool)>,
}
