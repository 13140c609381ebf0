//! The decoded instruction set.

use super::{
    alu::{Alu32, Alu64, Cmp, CmpKind, Float, HalfFn, PredFn, Shift64},
    asynch::{Barrier, BulkTensor, CpAsync, Matrix, MbarWait, Mma, Wgmma},
    class::Class,
    exchange::Exchange,
};
use crate::ptx::{ast::Space, types::Ty};

/// Row of a 32-bit (or narrower) register.
pub(crate) type R = u32;
/// Row of a 64-bit register.
pub(crate) type D = u32;
/// Index of a predicate, kept as one bit per lane.
pub(crate) type P = u32;

/// A register of either width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reg {
    R(R),
    D(D),
}

/// An address operand: register plus constant.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addr {
    pub base: Reg,
    pub offset: i64,
}

/// Memory order of an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Weak,
    /// Also `volatile`.
    Relaxed,
    Acquire,
    Release,
    AcqRel,
}

impl Order {
    pub(crate) fn acquires(self) -> bool {
        matches!(self, Self::Acquire | Self::AcqRel)
    }

    pub(crate) fn releases(self) -> bool {
        matches!(self, Self::Release | Self::AcqRel)
    }
}

/// Scope of an ordering: clusters are not modelled, so `Cta` or wider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    Cta,
    Gpu,
}

/// `ld` and `st`.
#[derive(Debug, Clone)]
pub(crate) struct Mem {
    pub space: Space,
    pub ty: Ty,
    /// Registers of the vector; constants for `st`.
    pub regs: Vec<Reg>,
    pub addr: Addr,
    pub order: Order,
    pub scope: Scope,
}

/// `atom` and `red`.
#[derive(Debug, Clone)]
pub(crate) struct Atomic {
    pub space: Space,
    pub f: AtomicFn,
    pub ty: Ty,
    /// Old value, if wanted.
    pub dst: Option<Reg>,
    pub addr: Addr,
    pub a: Reg,
    /// Second operand of `cas`.
    pub b: Option<Reg>,
    pub order: Order,
    pub scope: Scope,
}

/// Read-modify-write functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtomicFn {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
}

/// A decoded operation.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Alu32 {
        f: Alu32,
        d: R,
        s: [R; 4],
    },
    /// `mul.wide` and `mad.wide`.
    Wide {
        signed: bool,
        d: D,
        a: R,
        b: R,
        c: Option<D>,
    },
    Alu64 {
        f: Alu64,
        d: D,
        s: [D; 3],
    },
    Shift64 {
        f: Shift64,
        d: D,
        a: D,
        n: R,
    },
    /// `popc.b64`, `clz.b64`, `bfind.u64`: 64 bits in, 32 out.
    Count64 {
        f: Alu32,
        d: R,
        a: D,
    },
    /// `bfe.u64`, `bfe.s64`, and with `into` `bfi.b64`.
    Field64 {
        signed: bool,
        d: D,
        a: D,
        into: Option<D>,
        pos: R,
        len: R,
    },
    Float {
        f: Float,
        d: R,
        s: [R; 3],
        ftz: bool,
        sat: bool,
    },
    /// `add`, `sub`, `mul` and `fma` of f32 with `.rz`, `.rm` or `.rp`.
    Directed {
        f: Float,
        round: super::alu::Round,
        d: R,
        s: [R; 3],
        ftz: bool,
    },
    Double {
        f: Float,
        d: D,
        s: [D; 3],
    },
    Half {
        f: HalfFn,
        bf16: bool,
        packed: bool,
        d: R,
        s: [R; 3],
    },
    Cvt {
        d: Reg,
        a: Reg,
        from: Ty,
        to: Ty,
        round: super::alu::Round,
        ftz: bool,
        sat: bool,
    },
    /// `cvt.rn.bf16x2.f32 d, hi, lo` and f16x2.
    CvtPack {
        bf16: bool,
        relu: bool,
        d: R,
        hi: R,
        lo: R,
    },
    Tf32 {
        d: R,
        a: R,
    },
    Set {
        cmp: Cmp,
        kind: CmpKind,
        a: Reg,
        b: Reg,
        d: P,
        e: Option<P>,
        combine: Option<(PredFn, P, bool)>,
        ftz: bool,
    },
    /// `set`: a number instead of a predicate, `yes` or zero.
    SetValue {
        cmp: Cmp,
        kind: CmpKind,
        a: Reg,
        b: Reg,
        d: R,
        yes: u32,
        ftz: bool,
    },
    Select32 {
        d: R,
        a: R,
        b: R,
        p: P,
    },
    Select64 {
        d: D,
        a: D,
        b: D,
        p: P,
    },
    Pred {
        f: PredFn,
        d: P,
        a: P,
        b: P,
        not_a: bool,
    },
    /// `mov.b32 d, {lo, hi}`, and the 16-bit halves of it.
    Pack32 {
        d: R,
        lo: R,
        hi: R,
    },
    Unpack32 {
        lo: R,
        hi: R,
        a: R,
    },
    Pack64 {
        d: D,
        lo: R,
        hi: R,
    },
    Unpack64 {
        lo: R,
        hi: R,
        a: D,
    },
    Pack64x4 {
        d: D,
        s: [R; 4],
    },
    Unpack64x4 {
        d: [R; 4],
        a: D,
    },
    /// `cvta.shared` (to generic) and `cvta.to.shared` (from generic), and the same for local.
    Window {
        d: D,
        a: D,
        base: u64,
        to: bool,
    },
    Ld(Box<Mem>),
    St(Box<Mem>),
    Atomic(Box<Atomic>),
    Bra {
        target: u32,
    },
    Exit,
    Trap,
    Exchange {
        what: Box<Exchange>,
        mask: R,
    },
    ActiveMask,
    Barrier(Box<Barrier>),
    Fence {
        scope: Scope,
    },
    FenceProxyAsync,
    CpAsync(Box<CpAsync>),
    CpCommit,
    /// `cp.async.wait_group n`.
    CpWait(u32),
    /// `cp.async.wait_all`: committed or not.
    CpWaitAll,
    /// `cp.async.mbarrier.arrive`; whether `.noinc`.
    CpArrive {
        addr: Addr,
        noinc: bool,
    },
    Matrix(Box<Matrix>),
    Mma(Box<Mma>),
    MbarInit {
        addr: Addr,
        count: R,
    },
    MbarInval {
        addr: Addr,
    },
    MbarArrive {
        addr: Addr,
        count: R,
        tx: Option<R>,
        state: Option<D>,
    },
    MbarExpect {
        addr: Addr,
        tx: R,
    },
    MbarWait(Box<MbarWait>),
    BulkTensor(Box<BulkTensor>),
    BulkCommit,
    /// `cp.async.bulk.wait_group n`, with or without `.read`.
    BulkWait(u32),
    WgmmaFence,
    Wgmma(Box<Wgmma>),
    WgmmaCommit,
    WgmmaWait(u32),
    /// The carving comment: address and bytes of a sub-array of shared memory.
    Carve {
        addr: Reg,
        bytes: R,
    },
    /// Hints without effect on results.
    Nop,
}

/// An instruction: operation, guard, and where it came from.
#[derive(Debug, Clone)]
pub(crate) struct Inst {
    pub op: Op,
    /// Guard predicate and whether it is negated.
    pub guard: Option<(P, bool)>,
    pub class: Class,
    /// Reads or writes a register that some wgmma of the kernel uses as accumulator or A fragment.
    pub wgmma_regs: bool,
    pub line: u32,
    pub loc: Option<u32>,
}
