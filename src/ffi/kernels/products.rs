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
    backend::{EnergyOutput, GatedLinearOperands, KeptSet, LinearOperands},
    config::Activation,
    ffi::{
        dlpack::{DLTensor, Tensor, refused},
        status::{Failure, Outcome},
        structs::{choice, versioned},
    },
    prune::BatchShape,
};

/// In the order of PROBEPRUNE_ACTIVATION_.
const ACTIVATIONS: [Option<Activation>; 5] = [
    None,
    Some(Activation::Silu),
    Some(Activation::Relu),
    Some(Activation::Gelu),
    Some(Activation::GeluTanh),
];

/// Energies of a product's output.
#[derive(Debug)]
struct Energies<'a> {
    shape: BatchShape,
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
        // SAFETY: the caller promises that each pointer is null or a valid DLTensor.
        unsafe {
            let Some(out) = optional!(operands.floats(energy, "energy", Write)) else { return Ok(None) };
            let [tokens, of_out] = out.sizes()?;
            if of_out != channels || !rows.is_multiple_of(tokens) {
                let expected = format!("(S, {channels}) where S divides the {rows} rows");
                return Err(refused("energy", "shape", expected, format!("{:?}", out.shape)));
            }
            let mask = optional!(operands.indices(mask, "energy_mask", Read));
            let mask = mask.map(|mask| mask.with_entries(rows, "(B, S)")).transpose()?;
            Ok(Some(Self { shape: BatchShape { samples: rows / tokens, tokens }, mask, out }))
        }
    }
}

/// `probeprune_gemm_sparse_rows_args`.
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

/// A weight of which rows are kept, stored row by row, and its shape.
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
    kept: Option<KeptSet<Tensor<'a>>>,
    x: Tensor<'a>,
    weight: Tensor<'a>,
    bias: Option<Tensor<'a>>,
    energies: Option<Energies<'a>>,
    out: Tensor<'a>,
}

impl<'a> Operation<'a> for Rows<'a> {
    type Arguments = RowsArguments;

    unsafe fn read(arguments: &RowsArguments, operands: &mut Operands) -> Outcome<Self> {
        // SAFETY: the caller promises that each tensor of the arguments is null or valid; `Operands` refuses null for
        // required ones.
        unsafe {
            let x = operands.states(arguments.x, "x", Access::Read)?;
            let [rows, inputs] = operands.rows(&x)?;
            let (weight, shape) = row_major(operands.weight(arguments.weight, "weight")?, inputs)?;
            let bias = optional!(operands.floats(arguments.bias, "bias", Read));
            let kept = operands.optional_kept(arguments.kept, arguments.block_width, shape[0])?;
            let channels = kept.as_ref().map_or(shape[0], KeptSet::channels);
            let energies = [arguments.energy, arguments.energy_mask];
            Ok(Self {
                activation: choice(arguments.activation, &ACTIVATIONS, "activation")?,
                scale: arguments.scale,
                rows,
                shape,
                x,
                weight,
                bias: bias.map(|bias| bias.with_entries(shape[0], "(N)")).transpose()?,
                energies: Energies::read(energies, rows, channels, operands)?,
                out: operands
                    .states(arguments.out, "out", Access::Write)?
                    .with_entries(rows * channels, "(T, kept)")?,
                kept,
            })
        }
    }

    unsafe fn run<B: Lend>(self, backend: &B, _workspace: Workspace) -> Outcome {
        // SAFETY: `read` checked types and sizes against (T, H), (C, H) and the kept rows; the caller lends the
        // memory until the operation is over.
        unsafe {
            let projection = backend.linear_of(&self.weight, self.bias.as_ref(), self.shape)?;
            let kept = backend.optional_kept(self.kept.as_ref())?;
            let (x, mut out) = (backend.states(&self.x)?, backend.states(&self.out)?);
            with_energies(backend, self.energies.as_ref(), |energy| {
                backend.linear(LinearOperands {
                    kept: kept.as_ref(),
                    activation: self.activation,
                    scale: self.scale,
                    energy,
                    ..LinearOperands::new(&x, self.rows, &projection, &mut out)
                });
            })
        }
    }
}

/// Calls `product` with the destination of its energies.
///
/// # Safety
/// As [`Operation::run`].
unsafe fn with_energies<B: Lend>(
    backend: &B,
    energies: Option<&Energies<'_>>,
    product: impl FnOnce(Option<EnergyOutput<'_, B>>),
) -> Outcome {
    let Some(energies) = energies else {
        product(None);
        return Ok(());
    };
    // SAFETY: `Energies::read` checked mask and output against the rows and kept channels; the caller lends their
    // memory until the operation is over.
    let (mask, mut out) =
        unsafe { (backend.optional_indices(energies.mask.as_ref())?, backend.floats(&energies.out)?) };
    let (shape, mask) = (energies.shape, mask.as_ref());
    product(Some(EnergyOutput { shape, mask, out: &mut out, energy_only: false }));
    Ok(())
}

operation!(Rows, RowsArguments, probeprune_gemm_sparse_rows, probeprune_gemm_sparse_rows_workspace_size);

/// `probeprune_gemm_sparse_swiglu_args`.
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
    kept: Option<KeptSet<Tensor<'a>>>,
    x: Tensor<'a>,
    weights: [Tensor<'a>; 2],
    biases: [Option<Tensor<'a>>; 2],
    energies: Option<Energies<'a>>,
    out: Tensor<'a>,
}

impl<'a> Operation<'a> for Gated<'a> {
    type Arguments = GatedArguments;

    unsafe fn read(arguments: &GatedArguments, operands: &mut Operands) -> Outcome<Self> {
        // SAFETY: the caller promises that each tensor of the arguments is null or valid; `Operands` refuses null for
        // required ones.
        unsafe {
            let x = operands.states(arguments.x, "x", Access::Read)?;
            let [rows, inputs] = operands.rows(&x)?;
            let (gate, shape) = row_major(operands.weight(arguments.gate, "gate")?, inputs)?;
            let (up, other) = row_major(operands.weight(arguments.up, "up")?, inputs)?;
            if other != shape {
                return Err(refused("up", "shape", format!("{shape:?} as gate"), format!("{other:?}")));
            }
            let of_outputs = |bias: Tensor<'a>| bias.with_entries(shape[0], "(N)");
            let gate_bias = optional!(operands.floats(arguments.gate_bias, "gate_bias", Read));
            let up_bias = optional!(operands.floats(arguments.up_bias, "up_bias", Read));
            let kept = operands.optional_kept(arguments.kept, arguments.block_width, shape[0])?;
            let channels = kept.as_ref().map_or(shape[0], KeptSet::channels);
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
                energies: Energies::read(energies, rows, channels, operands)?,
                out: operands
                    .states(arguments.out, "out", Access::Write)?
                    .with_entries(rows * channels, "(T, kept)")?,
                kept,
            })
        }
    }

    unsafe fn run<B: Lend>(self, backend: &B, _workspace: Workspace) -> Outcome {
        // SAFETY: `read` checked types and sizes against (T, H), (I, H) and the kept channels; the caller lends the
        // memory until the operation is over.
        unsafe {
            let linear = |i: usize| backend.linear_of(&self.weights[i], self.biases[i].as_ref(), self.shape);
            let (gate, up) = (linear(0)?, linear(1)?);
            let kept = backend.optional_kept(self.kept.as_ref())?;
            let (x, mut out) = (backend.states(&self.x)?, backend.states(&self.out)?);
            with_energies(backend, self.energies.as_ref(), |energy| {
                backend.gated_linear(GatedLinearOperands {
                    x: &x,
                    rows: self.rows,
                    gate: &gate,
                    up: &up,
                    kept: kept.as_ref(),
                    activation: self.activation,
                    energy,
                    out: &mut out,
                });
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
