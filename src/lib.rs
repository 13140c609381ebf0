//! LLaMA and OPT inference with Probe Pruning (ICLR 2025, arXiv 2502.15618).

pub mod corpus;
pub mod error;

pub use error::{Error, Result};
