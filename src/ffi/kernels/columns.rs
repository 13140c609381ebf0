//! Products with the kept columns of weights, and statistics of columns.

use std::ptr::null;

use super::{
    Operation,
    lend::{Lend, transpose},
    operands::{Access, Operands, Workspace},
    operation,
    probe::optional,
    products::Blocks,
};
use crate::{
    backend::{KeptBlocks, Linear, WeightUse},
    ffi::{
        dlpack::{DLTensor, Tensor, refused},
        status::Outcome,
        structs::{choice, versioned},
    },
    prune::settings::Metric,
};

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
            backend.project(&a, self.rows, &linear, kept, bias.as_ref(), None, residual.as_ref(), &mut out);
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
