//! Products with weights on what is kept: rows, gated rows, columns; and statistics of columns.

use std::ptr::null;

use super::{
    Operation,
    lend::{Lend, transpose},
    operands::{Access, Operands, Workspace},
    operation,
    probe::optional,
};
use crate::{
    backend::{EnergyOf, Grid, KeptBlocks, Linear, WeightUse},
    config::Activation,
    ffi::{
        dlpack::{DLTensor, Tensor, refused},
        status::{Failure, Outcome},
        structs::{choice, versioned},
    },
    prune::settings::Metric,
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
struct Blocks<'a> {
    kept: Option<Tensor<'a>>,
    width: usize,
    /// Blocks in all.
    of: usize,
    /// Channels that take part.
    channels: usize,
}

impl<'a> Blocks<'a> {
    /// # Safety
    /// As [`Operation::read`].
    unsafe fn read(kept: *const DLTensor, width: u32, all: usize, operands: &mut Operands) -> Outcome<Self> {
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
    unsafe fn set<B: Lend>(&self, backend: &B) -> Outcome<Option<crate::backend::KeptSet<B::Indices>>> {
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

/// A weight whose columns take part: (out, in), stored column by column where a GPU has it.
#[derive(Debug)]
struct Columns<'a> {
    weight: Tensor<'a>,
    shape: [usize; 2],
    /// Stored column by column where the CPU wants rows: it is turned around in the workspace.
    turned: bool,
}

impl<'a> Columns<'a> {
    /// # Safety
    /// As [`Operation::read`].
    unsafe fn read(weight: *const DLTensor, operands: &mut Operands) -> Outcome<Self> {
        // SAFETY: the caller's to keep.
        let weight = unsafe { operands.weight(weight, "weight") }?;
        let shape = weight.sizes()?;
        let by_columns = weight.is_column_major();
        if operands.is_cpu() {
            if !by_columns {
                weight.compact()?;
            }
        } else if !by_columns && shape[0] > 1 && shape[1] > 1 {
            let expected =
                format!("those of a ({}, {}) weight stored column by column, 1 and {0}", shape[0], shape[1]);
            return Err(refused("weight", "strides", expected, "others"));
        }
        Ok(Self { weight, shape, turned: operands.is_cpu() && by_columns })
    }

    fn workspace(&self) -> usize {
        let bytes = self.weight.entries() * self.weight.dtype.bytes();
        if self.turned { Workspace::part(bytes) } else { 0 }
    }

    /// # Safety
    /// As [`Operation::run`].
    unsafe fn linear<B: Lend>(&self, backend: &B, workspace: &mut Workspace) -> Outcome<Linear<B>> {
        let [out_features, in_features] = self.shape;
        let mut at = self.weight.data;
        if self.turned {
            at = workspace.take(self.workspace());
            // SAFETY: the workspace has as many bytes.
            unsafe {
                transpose(self.weight.data, at, [in_features, out_features], self.weight.dtype.bytes())
            };
        }
        // SAFETY: the caller's to keep.
        let weight = unsafe { backend.matrix_at(at, self.weight.dtype, self.shape, WeightUse::Columns) }?;
        Ok(Linear { weight, bias: None, out_features, in_features })
    }
}

/// `probeprune_gemm_columns_args`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ColumnsArguments {
    pub(in crate::ffi) struct_size: u32,
    pub(in crate::ffi) block_width: u32,
    pub(in crate::ffi) a: *const DLTensor,
    pub(in crate::ffi) weight: *const DLTensor,
    pub(in crate::ffi) kept: *const DLTensor,
    pub(in crate::ffi) bias: *const DLTensor,
    pub(in crate::ffi) residual: *const DLTensor,
    pub(in crate::ffi) out: *const DLTensor,
}

versioned!(ColumnsArguments, "probeprune_gemm_sparse_columns_args", probeprune_gemm_sparse_columns_args_init, reserved: [], Self {
    struct_size: 0,
    block_width: 1,
    a: null(),
    weight: null(),
    kept: null(),
    bias: null(),
    residual: null(),
    out: null(),
});

#[derive(Debug)]
struct Project<'a> {
    rows: usize,
    blocks: Blocks<'a>,
    a: Tensor<'a>,
    weight: Columns<'a>,
    bias: Option<Tensor<'a>>,
    residual: Option<Tensor<'a>>,
    out: Tensor<'a>,
}

impl<'a> Operation<'a> for Project<'a> {
    type Arguments = ColumnsArguments;

    unsafe fn read(arguments: &ColumnsArguments, operands: &mut Operands) -> Outcome<Self> {
        // SAFETY: the caller's to keep.
        unsafe {
            let a = operands.states(arguments.a, "a", Access::Read)?;
            let weight = Columns::read(arguments.weight, operands)?;
            let [outputs, inputs] = weight.shape;
            let blocks = Blocks::read(arguments.kept, arguments.block_width, inputs, operands)?;
            let [rows, channels] = a.rows()?;
            if channels != blocks.channels {
                let expected = format!("(T, {}), the kept columns", blocks.channels);
                return Err(refused("a", "shape", expected, format!("{:?}", a.shape)));
            }
            let bias = optional!(operands.floats(arguments.bias, "bias", Read));
            let residual = optional!(operands.states(arguments.residual, "residual", Read));
            let of_out = |tensor: Tensor<'a>| tensor.with_entries(rows * outputs, "(T, H)");
            Ok(Self {
                rows,
                blocks,
                a,
                weight,
                bias: bias.map(|bias| bias.with_entries(outputs, "(H)")).transpose()?,
                residual: residual.map(of_out).transpose()?,
                out: of_out(operands.states(arguments.out, "out", Access::Write)?)?,
            })
        }
    }

    fn workspace(&self) -> usize {
        self.weight.workspace()
    }

    unsafe fn run<B: Lend>(self, backend: &B, mut workspace: Workspace) -> Outcome {
        // SAFETY: the caller's to keep.
        unsafe {
            let linear = self.weight.linear(backend, &mut workspace)?;
            let set = self.blocks.set(backend)?;
            let kept = set.as_ref().map(|set| KeptBlocks { set, width: self.blocks.width });
            let bias = backend.optional_floats(self.bias.as_ref())?;
            let residual = self.residual.map(|residual| backend.states(&residual)).transpose()?;
            let (a, mut out) = (backend.states(&self.a)?, backend.states(&self.out)?);
            backend.project(&a, self.rows, &linear, kept, bias.as_ref(), residual.as_ref(), &mut out);
        }
        Ok(())
    }
}

operation!(
    Project,
    ColumnsArguments,
    probeprune_gemm_sparse_columns,
    probeprune_gemm_sparse_columns_workspace_size
);

/// `probeprune_column_statistic_args`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct StatisticArguments {
    pub(in crate::ffi) struct_size: u32,
    pub(in crate::ffi) metric: i32,
    pub(in crate::ffi) weight: *const DLTensor,
    pub(in crate::ffi) out: *const DLTensor,
}

versioned!(StatisticArguments, "probeprune_column_statistic_args", probeprune_column_statistic_args_init, reserved: [], Self {
    struct_size: 0,
    metric: 0,
    weight: null(),
    out: null(),
});

#[derive(Debug)]
struct Statistic<'a> {
    metric: Metric,
    weight: Columns<'a>,
    out: Tensor<'a>,
}

impl<'a> Operation<'a> for Statistic<'a> {
    type Arguments = StatisticArguments;

    unsafe fn read(arguments: &StatisticArguments, operands: &mut Operands) -> Outcome<Self> {
        let metric = choice(arguments.metric, Metric::ALL, "metric")?;
        // SAFETY: the caller's to keep.
        unsafe {
            let weight = Columns::read(arguments.weight, operands)?;
            let out = operands.floats(arguments.out, "out", Access::Write)?;
            Ok(Self { metric, out: out.with_entries(weight.shape[1], "(C)")?, weight })
        }
    }

    fn workspace(&self) -> usize {
        self.weight.workspace()
    }

    unsafe fn run<B: Lend>(self, backend: &B, mut workspace: Workspace) -> Outcome {
        // SAFETY: the caller's to keep.
        unsafe {
            let linear = self.weight.linear(backend, &mut workspace)?;
            backend.column_statistic(&linear, self.metric, &mut backend.floats(&self.out)?);
        }
        Ok(())
    }
}

operation!(
    Statistic,
    StatisticArguments,
    probeprune_column_statistic,
    probeprune_column_statistic_workspace_size
);
