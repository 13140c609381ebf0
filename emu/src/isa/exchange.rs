//! Operands of the warp exchanges.

use super::op::{P, R, Reg};

/// How `shfl` picks its source lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shuffle {
    Up,
    Down,
    Bfly,
    Idx,
}

/// `vote` modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vote {
    All,
    Any,
    Uni,
    Ballot,
}

/// `redux` functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Redux {
    Add,
    MinU,
    MinS,
    MaxU,
    MaxS,
    And,
    Or,
    Xor,
}

/// Warp-wide exchanges, which wait for every lane of their mask.
#[derive(Debug, Clone)]
pub(crate) enum Exchange {
    Shuffle {
        mode: Shuffle,
        d: R,
        p: Option<P>,
        a: R,
        b: R,
        c: R,
    },
    /// `d` is a row for `ballot`, a predicate otherwise.
    Vote {
        mode: Vote,
        d: u32,
        a: P,
        negate: bool,
    },
    MatchAny {
        d: R,
        a: Reg,
    },
    MatchAll {
        d: R,
        p: Option<P>,
        a: Reg,
    },
    Redux {
        f: Redux,
        d: R,
        a: R,
    },
    Elect {
        d: R,
        p: P,
    },
    SyncWarp,
}
