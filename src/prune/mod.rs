//! The method: settings, the counts they imply, calibration and history, the static baselines, and FLOPs.

pub mod adapt;
pub mod allocation;
pub mod calibration;
mod choices;
pub mod cost;
pub mod counts;
mod dense_below;
pub mod flap;
pub mod flops;
pub mod fold;
pub mod history;
mod history_file;
pub mod linear_fit;
mod probe_tokens;
pub mod second_moments;
pub mod settings;
mod shape;

pub use shape::{BatchShape, Block, Unit};
