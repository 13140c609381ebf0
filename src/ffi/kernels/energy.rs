//! Energies of intermediate states.

use std::ptr::null;

use super::{
    Operation,
    lend::Lend,
    operands::{Access, Operands, Workspace},
    operation,
    probe::optional,
};
use crate::{
    backend::EnergyOperands,
    ffi::{
        dlpack::{DLTensor, Tensor},
        status::Outcome,
        structs::versioned,
    },
    prune::BatchShape,
};

/// `probeprune_energy_args`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct EnergyArguments {
    pub(in crate::ffi) struct_size: u32,
    pub(in crate::ffi) reserved: u32,
    pub(in crate::ffi) a: *const DLTensor,
    pub(in crate::ffi) mask: *const DLTensor,
    pub(in crate::ffi) out: *const DLTensor,
}

versioned!(EnergyArguments, "probeprune_energy_args", probeprune_energy_args_init, reserved: [reserved], Self {
    struct_size: 0,
    reserved: 0,
    a: null(),
    mask: null(),
    out: null(),
});

#[derive(Debug)]
struct Energy<'a> {
    shape: BatchShape,
    channels: usize,
    a: Tensor<'a>,
    mask: Option<Tensor<'a>>,
    out: Tensor<'a>,
}

impl<'a> Operation<'a> for Energy<'a> {
    type Arguments = EnergyArguments;

    unsafe fn read(arguments: &EnergyArguments, operands: &mut Operands) -> Outcome<Self> {
        // SAFETY: the caller promises that each tensor of the arguments is null or valid; `Operands` refuses null for
        // required ones.
        unsafe {
            let a = operands.states(arguments.a, "a", Access::Read)?;
            let [samples, tokens, channels] = a.sizes()?;
            operands.check_product("a", "B × S", [samples, tokens])?;
            let shape = BatchShape { samples, tokens };
            let mask = optional!(operands.indices(arguments.mask, "mask", Read));
            let mask = mask.map(|mask| mask.with_entries(shape.rows(), "(B, S)")).transpose()?;
            let out = operands.floats(arguments.out, "out", Access::Write)?;
            Ok(Self { shape, channels, a, mask, out: out.with_entries(tokens * channels, "(S, C)")? })
        }
    }

    unsafe fn run<B: Lend>(self, backend: &B, _workspace: Workspace) -> Outcome {
        // SAFETY: `read` checked types and sizes against (B, S, C); the caller lends the memory until the operation
        // is over.
        unsafe {
            let (a, mut out) = (backend.states(&self.a)?, backend.floats(&self.out)?);
            let mask = backend.optional_indices(self.mask.as_ref())?;
            backend.energy(EnergyOperands {
                a: &a,
                shape: self.shape,
                channels: self.channels,
                mask: mask.as_ref(),
                out: &mut out,
                sums: None,
            });
        }
        Ok(())
    }
}

operation!(Energy, EnergyArguments, probeprune_energy, probeprune_energy_workspace_size);
