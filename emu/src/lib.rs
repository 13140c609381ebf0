#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod args;
mod check;
mod counters;
mod error;
mod exec;
mod fault;
mod half;
mod isa;
mod mem;
mod module;
mod ptx;
mod schedule;
mod tensor_map;

pub use args::{Args, Struct};
pub use counters::Counters;
pub use error::{Error, Result};
pub use exec::launch::Launch;
pub use fault::{Fault, FaultKind, Site};
pub use mem::{device::Device, plain::Plain};
pub use module::Module;
pub use schedule::{Completion, Policy, Settings};
pub use tensor_map::{Swizzle, TensorMap};
