//! Instructions after decoding: operands are indices of register rows, modifiers are enums, nothing is text any more.

pub(crate) mod alu;
mod asynch;
pub(crate) mod class;
pub(crate) mod decode;
mod decode_alu;
mod decode_async;
mod decode_memory;
mod decode_move;
mod decode_sync;
pub(crate) mod exchange;
pub(crate) mod kernel;
pub(crate) mod mods;
pub(crate) mod op;
mod operands;

pub(crate) use asynch::{
    Barrier, BarrierReduce, BulkTensor, CpAsync, Matrix, MbarPhase, MbarWait, Mma, MmaInput, Wgmma, WgmmaA,
};
pub(crate) use kernel::{Init, Kernel, Special};
pub(crate) use op::{Addr, Atomic, AtomicFn, Mem, Op, Order, Reg, Scope};
