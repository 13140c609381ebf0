//! LLaMA and OPT inference with Probe Pruning (ICLR 2025, arXiv 2502.15618).

pub mod backend;
pub mod checkpoint;
pub mod config;
pub mod cpu;
pub mod error;
pub mod kv_cache;
pub mod model;
pub mod output;
pub mod prune;
pub mod session;
pub mod source;
pub mod tokenizer;
pub mod weights;

pub use error::{Error, Result};
