//! Products with the kept columns of weights, and statistics of columns.

use std::ptr::null;

use super::{
    Operation,
    lend::{Lend, transpose},
    operands::{Access, Operands, Workspace},
    operation,
    probe::optional,
};
use crate::{
    backend::{ColumnStatisticOperands, KeptSet, Linear, ProjectOperands, WeightUse},
    ffi::{
        dlpack::{DLTensor, Tensor, refused},
        status::Outcome,
        structs::{choice, versioned},
    },
    prune::settings::Metric,
};

/// A weight of which columns are kept: (out_features, in_features), stored column by column on a GPU.
#[derive(Debug)]
struct Columns<'a> {
    weight: Tensor<'a>,
    shape: [usize; 2],
    /// Stored column by column on the CPU, which needs rows: transposed in the workspace.
    transposed: bool,
}

impl<'a> Columns<'a> {
    /// # Safety
    /// As [`Operation::read`].
    unsafe fn read(weight: *const DLTensor, operands: &mut Operands) -> Outcome<Self> {
        // SAFETY: the caller promises that `weight` is null or a valid DLTensor.
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
        Ok(Self { weight, shape, transposed: operands.is_cpu() && by_columns })
    }

    fn workspace(&self) -> usize {
        let bytes = self.weight.entries() * self.weight.dtype.bytes();
        if self.transposed { Workspace::part(bytes) } else { 0 }
    }

    /// # Safety
    /// As [`Operation::run`].
    unsafe fn linear<B: Lend>(&self, backend: &B, workspace: &mut Workspace) -> Outcome<Linear<B>> {
        let [out_features, in_features] = self.shape;
        let mut at = self.weight.data;
        if self.transposed {
            at = workspace.take(self.workspace());
            // SAFETY: the workspace has room for the weight's entries, as `Operands::workspace` checked; the caller
            // lends both until the operation is over.
            unsafe {
                transpose(self.weight.data, at, [in_features, out_features], self.weight.dtype.bytes())
            };
        }
        // SAFETY: `at` is the caller's weight or its copy in the caller's workspace; both are lent until the
        // operation is over.
        let weight = unsafe { backend.matrix_at(at, self.weight.dtype, self.shape, WeightUse::Columns) }?;
        Ok(Linear { weight, bias: None, out_features, in_features })
    }
}

/// `probeprune_gemm_sparse_columns_args`.
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
    kept: Option<KeptSet<Tensor<'a>>>,
    a: Tensor<'a>,
    weight: Columns<'a>,
    bias: Option<Tensor<'a>>,
    residual: Option<Tensor<'a>>,
    out: Tensor<'a>,
}

impl<'a> Operation<'a> for Project<'a> {
    type Arguments = ColumnsArguments;

    unsafe fn read(arguments: &ColumnsArguments, operands: &mut Operands) -> Outcome<Self> {
        // SAFETY: the caller promises that each tensor of the arguments is null or valid; `Operands` refuses null for
        // required ones.
        unsafe {
            let a = operands.states(arguments.a, "a", Access::Read)?;
            let weight = Columns::read(arguments.weight, operands)?;
            let [outputs, inputs] = weight.shape;
            let kept = operands.optional_kept(arguments.kept, arguments.block_width, inputs)?;
            let channels = kept.as_ref().map_or(inputs, KeptSet::channels);
            let [rows, of_a] = operands.rows(&a)?;
            if of_a != channels {
                let expected = format!("(T, {channels}), the kept columns");
                return Err(refused("a", "shape", expected, format!("{:?}", a.shape)));
            }
            let bias = optional!(operands.floats(arguments.bias, "bias", Read));
            let residual = optional!(operands.states(arguments.residual, "residual", Read));
            let of_out = |tensor: Tensor<'a>| tensor.with_entries(rows * outputs, "(T, H)");
            Ok(Self {
                rows,
                kept,
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
        // SAFETY: `read` checked types and sizes against (T, kept columns), (H, C) and (T, H); the caller lends the
        // memory until the operation is over.
        unsafe {
            let projection = self.weight.linear(backend, &mut workspace)?;
            let kept = backend.optional_kept(self.kept.as_ref())?;
            let bias = backend.optional_floats(self.bias.as_ref())?;
            let residual = self.residual.map(|residual| backend.states(&residual)).transpose()?;
            let (a, mut out) = (backend.states(&self.a)?, backend.states(&self.out)?);
            backend.project(ProjectOperands {
                kept: kept.as_ref(),
                bias: bias.as_ref(),
                residual: residual.as_ref(),
                ..ProjectOperands::new(&a, self.rows, &projection, &mut out)
            });
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
        // SAFETY: the caller promises that each tensor of the arguments is null or valid; `Operands` refuses null for
        // required ones.
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
        // SAFETY: `read` checked types and sizes against (H, C) and (C); the caller lends the memory until the
        // operation is over.
        unsafe {
            let projection = self.weight.linear(backend, &mut workspace)?;
            let mut out = backend.floats(&self.out)?;
            backend.column_statistic(ColumnStatisticOperands {
                projection: &projection,
                metric: self.metric,
                out: &mut out,
            });
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
