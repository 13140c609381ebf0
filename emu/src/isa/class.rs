//! What instructions count as.

use super::{exchange::Exchange, op::Op};

/// Instruction classes counted per launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Tensor,
    Float,
    Integer,
    Memory,
    Barrier,
    Control,
}

impl Op {
    /// What the instruction counts as.
    pub(crate) fn class(&self) -> Class {
        match self {
            Self::Mma(_) | Self::Wgmma(_) => Class::Tensor,
            Self::Float { .. }
            | Self::Directed { .. }
            | Self::Double { .. }
            | Self::Half { .. }
            | Self::CvtPack { .. }
            | Self::Tf32 { .. } => Class::Float,
            Self::Ld(_)
            | Self::St(_)
            | Self::Atomic(_)
            | Self::CpAsync(_)
            | Self::Matrix(_)
            | Self::BulkTensor(_) => Class::Memory,
            Self::Barrier(_)
            | Self::Fence { .. }
            | Self::FenceProxyAsync
            | Self::CpCommit
            | Self::CpWait(_)
            | Self::CpWaitAll
            | Self::CpArrive { .. }
            | Self::MbarInit { .. }
            | Self::MbarInval { .. }
            | Self::MbarArrive { .. }
            | Self::MbarExpect { .. }
            | Self::MbarWait { .. }
            | Self::BulkCommit
            | Self::BulkWait(_)
            | Self::WgmmaFence
            | Self::WgmmaCommit
            | Self::WgmmaWait(_) => Class::Barrier,
            Self::Exchange { what, .. } if matches!(**what, Exchange::SyncWarp) => Class::Barrier,
            Self::Bra { .. } | Self::Exit | Self::Trap | Self::Nop | Self::Carve { .. } => Class::Control,
            _ => Class::Integer,
        }
    }
}
