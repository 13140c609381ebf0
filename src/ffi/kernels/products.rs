//! Products with the kept rows of weights, plain and gated.

use std::ptr::null;

use super::{
    Operation,
    lend::Lend,
    operands::{Access, Operands, Workspace},
    operation,
    probe::optional,
};
use crate::{
    backend::{EnergyOf, Grid, KeptBlocks},
    config::Activation,
    ffi::{
        dlpack::{DLTensor, Tensor, refused},
        status::{Failure, Outcome},
        structs::{choice, versioned},
    },
};

/// In the order of PROBEPRUNE_ACTIVATION_.
const ACTIVATIONS: [Option<Activation>; 5] = [
    None,
    Some(Activation::Silu),
    Some(Activation::Relu),
    Some(Activation::Gelu),
    Some(Activation::GeluTanh),
];

/// Blocks of rows or columns of a weight that take part.
#[derive(Debug)]
pub(super) struct Blocks<'a> {
    kept: Option<Tensor<'a>>,
    pub(super) width: usize,
    /// Blocks in all.
    of: usize,
    /// Channels that take part.
    pub(super) channels: usize,
}

impl<'a> Blocks<'a> {
    /// # Safety
    /// As [`Operation::read`].
    pub(super) unsafe fn read(
        kept: *const DLTensor,
        width: u32,
        all: usize,
        operands: &mut Operands,
    ) -> Outcome<Self> {
        let width = width as usize;
        if width == 0 || !all.is_multiple_of(width) {
            let expected = format!("a divisor of {all}, the channels");
            let help = "1 for single channels, head_dim for heads.";
            return Err(Failure::argument("block_width", expected, width, help));
        }
        // SAFETY: the caller's to keep.
        let kept = unsafe {
            let kept = optional!(operands.indices(kept, "kept", Read));
            if let Some(kept) = &kept {
                operands.check_ascending(kept)?;
                operands.check_below(kept, all / width)?;
            }
            kept
        };
        let count = kept.map_or(all / width, |kept| kept.entries());
        if count > all / width {
            return Err(refused("kept", "shape", format!("at most {} entries", all / width), count));
        }
        Ok(Self { kept, width, of: all / width, channels: count * width })
    }

    /// # Safety
    /// As [`Operation::run`].
    pub(super) unsafe fn set<B: Lend>(
        &self,
        backend: &B,
    ) -> Outcome<Option<crate::backend::KeptSet<B::Indices>>> {
        // SAFETY: the caller's to keep.
        Ok(self.kept.map(|kept| unsafe { backend.kept(&kept, self.of) }).transpose()?)
    }
}

/// Where energies of a product go.
#[derive(Debug)]
struct Energies<'a> {
    grid: Grid,
    mask: Option<Tensor<'a>>,
    out: Tensor<'a>,
}

impl<'a> Energies<'a> {
    /// # Safety
    /// As [`Operation::read`].
    unsafe fn read(
        [energy, mask]: [*const DLTensor; 2],
        rows: usize,
        channels: usize,
        operands: &mut Operands,
    ) -> Outcome<Option<Self>> {
        // SAFETY: the caller's to keep.
        unsafe {
            let Some(out) = optional!(operands.floats(energy, "energy", Write)) else { return Ok(None) };
            let [tokens, width] = out.sizes()?;
            if width != channels || !rows.is_multiple_of(tokens) {
                let expected = format!("(S, {channels}) where S divides the {rows} rows");
                return Err(refused("energy", "shape", expected, format!("{:?}", out.shape)));
            }
            let mask = optional!(operands.indices(mask, "energy_mask", Read));
            let mask = mask.map(|mask| mask.with_entries(rows, "(B, S)")).transpose()?;
            Ok(Some(Self { grid: Grid { samples: rows / tokens, tokens }, mask, out }))
        }
    }
}

/// `probeprune_gemm_rows_args`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RowsArguments {
    pub(in crate::ffi) struct_size: u32,
    pub(in crate::ffi) block_width: u32,
    pub(in crate::ffi) activation: i32,
    pub(in crate::ffi) scale: f32,
    pub(in crate::ffi) x: *const DLTensor,
    pub(in crate::ffi) weight: *const DLTensor,
    pub(in crate::ffi) bias: *const DLTensor,
    pub(in crate::ffi) kept: *const DLTensor,
    pub(in crate::ffi) energy: *const DLTensor,
    pub(in crate::ffi) energy_mask: *const DLTensor,
    pub(in crate::ffi) out: *const DLTensor,
}

versioned!(RowsArguments, "probeprune_gemm_sparse_rows_args", probeprune_gemm_sparse_rows_args_init, reserved: [], Self {
    struct_size: 0,
    block_width: 1,
    activation: 0,
    scale: 1.0,
    x: null(),
    weight: null(),
    bias: null(),
    kept: null(),
    energy: null(),
    energy_mask: null(),
    out: null(),
});

/// A weight whose rows take part, its inputs row by row.
fn row_major<'a>(weight: Tensor<'a>, inputs: usize) -> Outcome<(Tensor<'a>, [usize; 2])> {
    let weight = weight.compact()?;
    let shape: [usize; 2] = weight.sizes()?;
    if shape[1] != inputs {
        return Err(refused(
            weight.name,
            "shape",
            format!("(N, {inputs}) as x has it"),
            format!("{shape:?}"),
        ));
    }
    Ok((weight, shape))
}

#[derive(Debug)]
struct Rows<'a> {
    activation: Option<Activation>,
    scale: f32,
    rows: usize,
    shape: [usize; 2],
    blocks: Blocks<'a>,
    x: Tensor<'a>,
    weight: Tensor<'a>,
    bias: Option<Tensor<'a>>,
    energies: Option<Energies<'a>>,
    out: Tensor<'a>,
}

impl<'a> Operation<'a> for Rows<'a> {
    type Arguments = RowsArguments;

    unsafe fn read(arguments: &RowsArguments, operands: &mut Operands) -> Outcome<Self> {
        // SAFETY: the caller's to keep.
        unsafe {
            let x = operands.states(arguments.x, "x", Access::Read)?;
            let [rows, inputs] = x.rows()?;
            let (weight, shape) = row_major(operands.weight(arguments.weight, "weight")?, inputs)?;
            let bias = optional!(operands.floats(arguments.bias, "bias", Read));
            let blocks = Blocks::read(arguments.kept, arguments.block_width, shape[0], operands)?;
            let energies = [arguments.energy, arguments.energy_mask];
            Ok(Self {
                activation: choice(arguments.activation, &ACTIVATIONS, "activation")?,
                scale: arguments.scale,
                rows,
                shape,
                x,
                weight,
                bias: bias.map(|bias| bias.with_entries(shape[0], "(N)")).transpose()?,
                energies: Energies::read(energies, rows, blocks.channels, operands)?,
                out: operands
                    .states(arguments.out, "out", Access::Write)?
                    .with_entries(rows * blocks.channels, "(T, kept)")?,
                blocks,
            })
        }
    }

    unsafe fn run<B: Lend>(self, backend: &B, _workspace: Workspace) -> Outcome {
        // SAFETY: the caller's to keep.
        unsafe {
            let linear = backend.linear_of(&self.weight, self.bias.as_ref(), self.shape)?;
            let set = self.blocks.set(backend)?;
            let kept = set.as_ref().map(|set| KeptBlocks { set, width: self.blocks.width });
            let (x, mut out) = (backend.states(&self.x)?, backend.states(&self.out)?);
            with_energies(backend, self.energies.as_ref(), |energy| {
                backend.linear(&x, self.rows, &linear, kept, self.activation, self.scale, energy, &mut out);
            })
        }
    }
}

/// Calls `product` with where its energies go.
///
/// # Safety
/// As [`Operation::run`].
unsafe fn with_energies<B: Lend>(
    backend: &B,
    energies: Option<&Energies<'_>>,
    product: impl FnOnce(Option<EnergyOf<'_, B>>),
) -> Outcome {
    let Some(energies) = energies else {
        product(None);
        return Ok(());
    };
    // SAFETY: the caller's to keep.
    let (mask, mut out) =
        unsafe { (backend.optional_indices(energies.mask.as_ref())?, backend.floats(&energies.out)?) };
    product(Some(EnergyOf { grid: energies.grid, mask: mask.as_ref(), out: &mut out, alone: false }));
    Ok(())
}

operation!(Rows, RowsArguments, probeprune_gemm_sparse_rows, probeprune_gemm_sparse_rows_workspace_size);

/// `probeprune_gemm_swiglu_args`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct GatedArguments {
    pub(in crate::ffi) struct_size: u32,
    pub(in crate::ffi) block_width: u32,
    pub(in crate::ffi) activation: i32,
    pub(in crate::ffi) reserved: u32,
    pub(in crate::ffi) x: *const DLTensor,
    pub(in crate::ffi) gate: *const DLTensor,
    pub(in crate::ffi) up: *const DLTensor,
    pub(in crate::ffi) gate_bias: *const DLTensor,
    pub(in crate::ffi) up_bias: *const DLTensor,
    pub(in crate::ffi) kept: *const DLTensor,
    pub(in crate::ffi) energy: *const DLTensor,
    pub(in crate::ffi) energy_mask: *const DLTensor,
    pub(in crate::ffi) out: *const DLTensor,
}

versioned!(GatedArguments, "probeprune_gemm_sparse_swiglu_args", probeprune_gemm_sparse_swiglu_args_init, reserved: [reserved], Self {
    struct_size: 0,
    block_width: 1,
    activation: 1,
    reserved: 0,
    x: null(),
    gate: null(),
    up: null(),
    gate_bias: null(),
    up_bias: null(),
    kept: null(),
    energy: null(),
    energy_mask: null(),
    out: null(),
});

#[derive(Debug)]
struct Gated<'a> {
    activation: Activation,
    rows: usize,
    shape: [usize; 2],
    blocks: Blocks<'a>,
    x: Tensor<'a>,
    weights: [Tensor<'a>; 2],
    biases: [Option<Tensor<'a>>; 2],
    energies: Option<Energies<'a>>,
    out: Tensor<'a>,
}

impl<'a> Operation<'a> for Gated<'a> {
    type Arguments = GatedArguments;

    unsafe fn read(arguments: &GatedArguments, operands: &mut Operands) -> Outcome<Self> {
        // SAFETY: the caller's to keep.
        unsafe {
            let x = operands.states(arguments.x, "x", Access::Read)?;
            let [rows, inputs] = x.rows()?;
            let (gate, shape) = row_major(operands.weight(arguments.gate, "gate")?, inputs)?;
            let (up, other) = row_major(operands.weight(arguments.up, "up")?, inputs)?;
            if other != shape {
                return Err(refused("up", "shape", format!("{shape:?} as gate"), format!("{other:?}")));
            }
            let of_outputs = |bias: Tensor<'a>| bias.with_entries(shape[0], "(N)");
            let gate_bias = optional!(operands.floats(arguments.gate_bias, "gate_bias", Read));
            let up_bias = optional!(operands.floats(arguments.up_bias, "up_bias", Read));
            let blocks = Blocks::read(arguments.kept, arguments.block_width, shape[0], operands)?;
            let activation = choice(arguments.activation, &ACTIVATIONS, "activation")?;
            let activation = activation.ok_or_else(|| {
                let help = "Use two plain products where there is no gate.";
                Failure::argument("activation", "one for the gate", "none", help)
            })?;
            let energies = [arguments.energy, arguments.energy_mask];
            Ok(Self {
                activation,
                rows,
                shape,
                x,
                weights: [gate, up],
                biases: [gate_bias.map(of_outputs).transpose()?, up_bias.map(of_outputs).transpose()?],
                energies: Energies::read(energies, rows, blocks.channels, operands)?,
                out: operands
                    .states(arguments.out, "out", Access::Write)?
                    .with_entries(rows * blocks.channels, "(T, kept)")?,
                blocks,
            })
        }
    }

    unsafe fn run<B: Lend>(self, backend: &B, _workspace: Workspace) -> Outcome {
        // SAFETY: the caller's to keep.
        unsafe {
            let linear = |i: usize| backend.linear_of(&self.weights[i], self.biases[i].as_ref(), self.shape);
            let (gate, up) = (linear(0)?, linear(1)?);
            let set = self.blocks.set(backend)?;
            let kept = set.as_ref().map(|set| KeptBlocks { set, width: self.blocks.width });
            let (x, mut out) = (backend.states(&self.x)?, backend.states(&self.out)?);
            with_energies(backend, self.energies.as_ref(), |energy| {
                backend.gated_linear(&x, self.rows, &gate, &up, kept, self.activation, energy, &mut out);
            })
        }
    }
}

operation!(
    Gated,
    GatedArguments,
    probeprune_gemm_sparse_swiglu,
    probeprune_gemm_sparse_swiglu_workspace_size
);
