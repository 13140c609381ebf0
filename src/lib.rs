//! LLaMA and OPT inference with Probe Pruning (ICLR 2025, arXiv 2502.15618).

pub mod checkpoint;
pub mod config;
pub mod error;
pub mod source;
pub mod tokenizer;

pub use error::{Error, Result};
