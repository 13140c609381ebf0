//! LLaMA and OPT inference with Probe Pruning (ICLR 2025, arXiv 2502.15618): per batch, a small probe runs ahead
//! through each block, and the whole batch then runs on the heads and channels that matter for it.
//!
//! # Map
//!
//! - [`source`], [`config`], [`checkpoint`], [`tokenizer`]: a Hugging Face folder, checked and mapped.
//! - [`backend`]: the operations of a device; [`cpu`] and [`gpu`] implement them.
//! - [`weights`], [`model`]: the arithmetic of a decoder. [`model::block`] is the method in four steps.
//! - [`prune`]: settings, kept counts, calibration and history, FLAP's global ratios, FLOPs.
//! - [`session`]: a caller's run of a model: evaluate batches, calibrate, generate.
//! - `ffi`, with the feature `capi`: the C ABI of include/probeprune.h.
//! - [`memory`], [`output`]: memory that may not be there, files that appear whole.
//! - [`corpus`]: the synthetic language that the bundled models speak.
//!
//! # Glossary
//!
//! - *probe*: a few tokens of a few samples, chosen by residual norm ([`backend::Probe`]).
//! - *intermediate states*: the input of a block's last projection (`o_proj`, `down_proj`; OPT: `out_proj`, `fc2`).
//! - *energy*: mean over samples of the squared intermediate states, per slot and channel.
//! - *history*: running energies of earlier batches or of calibration, per slot and channel.
//! - *slot*: a token's place in the padded sequence, as opposed to its position id.
//! - *kept*: the heads and channels that the whole batch is computed with ([`backend::KeptSet`]).
//!
//! # Example
//!
//! ```
//! use std::sync::Arc;
//! use probeprune::{
//!     cpu::Cpu, model::Model, prune::settings::{Method, Settings},
//!     session::{Limits, Session}, source::ModelSource,
//! };
//!
//! # fn main() -> probeprune::Result<()> {
//! let source = ModelSource::locate("bundled:tiny-llama")?;
//! let model = Arc::new(Model::load(&source, true, Arc::new(Cpu::new(2)?), |_| ())?);
//! let settings = Settings { method: Method::ProbePruning, prune_ratio: 0.4, ..Settings::default() };
//! let limits = Limits { samples: 2, tokens: 16, capacity: 0 };
//! let mut session = Session::new(model, settings, limits, None)?;
//! let tokens: Vec<u32> = (0..32).collect(); // (2, 16)
//! let loss = session.evaluate(&tokens, 2, None, true)?;
//! println!("cross-entropy {loss:.3} nats, layer 4 keeps heads {:?}", session.kept_heads(4)?);
//! # Ok(())
//! # }
//! ```

pub mod backend;
pub mod checkpoint;
pub mod config;
pub mod corpus;
pub mod cpu;
pub mod error;
pub mod export;
#[cfg(feature = "capi")]
pub mod ffi;
pub mod gpu;
mod json;
pub mod kv_cache;
pub mod memory;
pub mod model;
pub mod output;
pub mod perplexity;
mod products;
pub mod prune;
pub mod session;
pub mod source;
pub mod tokenizer;
pub mod weights;

pub use error::{Error, Proceed, Result};
