//! The interpreter.
//!
//! A warp runs in lock-step as long as its lanes agree; lanes that disagree form fragments, each with its own program
//! counter, which join again when they meet. Blocks run one after another.

mod atomic;
mod barrier;
mod block;
mod convert;
mod copy;
mod exchange;
mod float;
mod int;
pub(crate) mod launch;
mod machine;
mod matrix;
mod mbarrier;
mod memory;
mod regs;
mod report;
mod run;
mod step;
mod tma;
mod wgmma;
