//! The two classes in which programs are compared: by what they compute in.

use std::sync::Arc;

use clap::ValueEnum;
use probeprune::cpu::{Cpu, CpuDtype};

/// A class, with its letter in the results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Class {
    /// Results as accurate as float32.
    A,
    /// bfloat16 weights and activations.
    B,
}

impl Class {
    /// As peers are asked for it.
    pub fn dtype(self) -> &'static str {
        match self {
            Self::A => "float32",
            Self::B => "bfloat16",
        }
    }

    /// This program's side.
    pub fn backend(self, threads: usize) -> Arc<Cpu> {
        let dtype = match self {
            Self::A => CpuDtype::F32,
            Self::B => CpuDtype::Bf16,
        };
        Arc::new(Cpu::new(threads).expect("threads").with_dtype(dtype))
    }
}
