//! Operands of the barrier, matrix and asynchronous instructions.

use super::op::{Addr, D, P, R};

/// `bar` / `barrier`.
#[derive(Debug, Clone)]
pub(crate) struct Barrier {
    pub id: R,
    /// Threads expected; all of the block if absent.
    pub count: Option<R>,
    /// `arrive` does not wait.
    pub waits: bool,
    /// `bar.red`: what to make of the predicates of all threads, and where to put it.
    pub reduce: Option<(BarrierReduce, u32, P, bool)>,
    /// `.aligned`: the whole warp must execute it together.
    pub aligned: bool,
}

/// Functions of `bar.red`; the destination is a row for the count and a predicate for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BarrierReduce {
    Count,
    And,
    Or,
}

/// Non-bulk `cp.async`.
#[derive(Debug, Clone)]
pub(crate) struct CpAsync {
    pub dst: Addr,
    pub src: Addr,
    pub bytes: u32,
    /// Bytes really read; the rest is zero-filled.
    pub src_bytes: Option<R>,
    /// Predicate by which the source is ignored.
    pub ignore: Option<(P, bool)>,
}

/// `mbarrier.test_wait` or (blocking) `try_wait`.
#[derive(Debug, Clone)]
pub(crate) struct MbarWait {
    pub addr: Addr,
    pub p: P,
    pub phase: MbarPhase,
    pub blocking: bool,
}

/// The phase whose end is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum MbarPhase {
    Parity(R),
    State(D),
}

/// `ldmatrix` and `stmatrix`.
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    pub store: bool,
    pub transposed: bool,
    pub regs: Vec<R>,
    pub addr: Addr,
}

/// Element type of a tensor-core operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MmaInput {
    F16,
    Bf16,
    Tf32,
}

/// `mma.sync`, M = 16 and N = 8.
#[derive(Debug, Clone)]
pub(crate) struct Mma {
    pub k: usize,
    pub input: MmaInput,
    /// Accumulators of f16 pairs instead of f32.
    pub half_acc: bool,
    pub d: Vec<R>,
    pub a: Vec<R>,
    pub b: Vec<R>,
    pub c: Vec<R>,
}

/// A operand of wgmma.
#[derive(Debug, Clone)]
pub(crate) enum WgmmaA {
    Shared { desc: D, mn_major: bool },
    Regs(Vec<R>),
}

/// `wgmma.mma_async`, M = 64 per warpgroup, K = 16.
#[derive(Debug, Clone)]
pub(crate) struct Wgmma {
    pub n: usize,
    pub input: MmaInput,
    /// Accumulators: f32.
    pub d: Vec<R>,
    pub a: WgmmaA,
    pub b: D,
    pub b_mn_major: bool,
    /// Accumulate (true) or overwrite (false).
    pub scale_d: P,
    pub negate_a: bool,
    pub negate_b: bool,
}

/// `cp.async.bulk` and `cp.async.bulk.tensor`.
#[derive(Debug, Clone)]
pub(crate) struct BulkTensor {
    /// Global to shared, or shared to global.
    pub load: bool,
    /// Shared address.
    pub shared: Addr,
    /// Tensor map (tensor form) or global address (flat form).
    pub global: Addr,
    /// Coordinates, innermost first; empty for the flat form.
    pub coords: Vec<R>,
    /// Bytes of the flat form.
    pub bytes: Option<R>,
    /// mbarrier of a load.
    pub mbar: Option<Addr>,
}

impl Wgmma {
    /// Registers that the instruction uses after it is issued.
    pub(crate) fn held(&self) -> impl Iterator<Item = R> + '_ {
        let a: &[R] = match &self.a {
            WgmmaA::Regs(r) => r,
            WgmmaA::Shared { .. } => &[],
        };
        self.d.iter().chain(a).copied()
    }
}
