//! Norms with residual importance, selection of the probe, its rows.

use std::{ffi::c_void, ptr::null};

use super::{
    Operation,
    lend::Lend,
    operands::{Access, Operands, Workspace},
    operation,
};
use crate::{
    backend::{Norm, NormKind, NormOperands, Probe, ProbeGatherOperands, ProbeSelectOperands},
    ffi::{
        dlpack::{DLTensor, Tensor, refused},
        status::{Failure, Outcome},
        structs::{choice, versioned},
    },
    prune::{BatchShape, counts::LEADING_SLOT_LIMIT, settings::ProbeOrder},
};

/// An optional operand.
macro_rules! optional {
    ($operands:ident.$kind:ident($pointer:expr, $name:literal, $access:ident)) => {
        if $pointer.is_null() { None } else { Some($operands.$kind($pointer, $name, Access::$access)?) }
    };
}
pub(super) use optional;

/// `probeprune_norm_args`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct NormArguments {
    pub(in crate::ffi) struct_size: u32,
    pub(in crate::ffi) kind: i32,
    pub(in crate::ffi) eps: f32,
    pub(in crate::ffi) reserved: u32,
    pub(in crate::ffi) x: *const DLTensor,
    pub(in crate::ffi) weight: *const DLTensor,
    pub(in crate::ffi) bias: *const DLTensor,
    pub(in crate::ffi) out: *const DLTensor,
    pub(in crate::ffi) sum_squares: *const DLTensor,
}

versioned!(NormArguments, "probeprune_norm_args", probeprune_norm_args_init, reserved: [reserved], Self {
    struct_size: 0,
    kind: 0,
    eps: 1e-5,
    reserved: 0,
    x: null(),
    weight: null(),
    bias: null(),
    out: null(),
    sum_squares: null(),
});

#[derive(Debug)]
struct NormOperation<'a> {
    kind: Option<NormKind>,
    eps: f32,
    rows: usize,
    hidden_size: usize,
    x: Tensor<'a>,
    weight: Option<Tensor<'a>>,
    bias: Option<Tensor<'a>>,
    out: Tensor<'a>,
    sum_squares: Tensor<'a>,
}

impl<'a> Operation<'a> for NormOperation<'a> {
    type Arguments = NormArguments;

    unsafe fn read(arguments: &NormArguments, operands: &mut Operands) -> Outcome<Self> {
        let kind = choice(arguments.kind, &[Some(NormKind::Rms), Some(NormKind::Layer), None], "kind")?;
        // SAFETY: the caller promises that each tensor of the arguments is null or valid; `Operands` refuses null for
        // required ones.
        unsafe {
            let x = operands.states(arguments.x, "x", Access::Read)?;
            let [rows, hidden_size] = operands.rows(&x)?;
            let of_columns = |tensor: Tensor<'a>| tensor.with_entries(hidden_size, "(H)");
            Ok(Self {
                kind,
                eps: arguments.eps,
                rows,
                hidden_size,
                weight: optional!(operands.floats(arguments.weight, "weight", Read))
                    .map(of_columns)
                    .transpose()?,
                bias: optional!(operands.floats(arguments.bias, "bias", Read)).map(of_columns).transpose()?,
                out: operands
                    .states(arguments.out, "out", Access::Write)?
                    .with_entries(x.entries(), "as x")?,
                sum_squares: operands
                    .floats(arguments.sum_squares, "sum_squares", Access::Write)?
                    .with_entries(rows, "(T)")?,
                x,
            })
        }
    }

    unsafe fn run<B: Lend>(self, backend: &B, _workspace: Workspace) -> Outcome {
        // SAFETY: `read` checked types and sizes against (T, H); the caller lends the memory until the operation is
        // over.
        unsafe {
            let weight = backend.optional_floats(self.weight.as_ref())?;
            let bias = backend.optional_floats(self.bias.as_ref())?;
            let norm = self.kind.map(|kind| Norm { kind, weight, bias, eps: self.eps });
            let (mut out, mut sum_squares) = (backend.states(&self.out)?, backend.floats(&self.sum_squares)?);
            backend.norm(NormOperands {
                x: &backend.states(&self.x)?,
                norm: norm.as_ref(),
                rows: self.rows,
                hidden_size: self.hidden_size,
                out: &mut out,
                sum_squares: &mut sum_squares,
            });
        }
        Ok(())
    }
}

operation!(NormOperation, NormArguments, probeprune_norm, probeprune_norm_workspace_size);

/// `probeprune_probe_select_args`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SelectArguments {
    pub(in crate::ffi) struct_size: u32,
    pub(in crate::ffi) order: i32,
    pub(in crate::ffi) leading_slot_limit: u32,
    pub(in crate::ffi) reserved: u32,
    pub(in crate::ffi) sum_squares: *const DLTensor,
    pub(in crate::ffi) positions: *const DLTensor,
    pub(in crate::ffi) mask: *const DLTensor,
    pub(in crate::ffi) samples: *const DLTensor,
    pub(in crate::ffi) slots: *const DLTensor,
    pub(in crate::ffi) probe_positions: *const DLTensor,
    pub(in crate::ffi) probe_mask: *const DLTensor,
}

versioned!(SelectArguments, "probeprune_probe_select_args", probeprune_probe_select_args_init, reserved: [reserved], Self {
    struct_size: 0,
    order: 0,
    leading_slot_limit: LEADING_SLOT_LIMIT as u32,
    reserved: 0,
    sum_squares: null(),
    positions: null(),
    mask: null(),
    samples: null(),
    slots: null(),
    probe_positions: null(),
    probe_mask: null(),
});

#[derive(Debug)]
struct Select<'a> {
    order: ProbeOrder,
    leading_slot_limit: usize,
    shape: BatchShape,
    probe_shape: BatchShape,
    sum_squares: Tensor<'a>,
    positions: Option<Tensor<'a>>,
    mask: Option<Tensor<'a>>,
    samples: Tensor<'a>,
    slots: Tensor<'a>,
    probe_positions: Option<Tensor<'a>>,
    probe_mask: Option<Tensor<'a>>,
}

impl<'a> Operation<'a> for Select<'a> {
    type Arguments = SelectArguments;

    unsafe fn read(arguments: &SelectArguments, operands: &mut Operands) -> Outcome<Self> {
        let order = choice(arguments.order, ProbeOrder::ALL, "order")?;
        // SAFETY: the caller promises that each tensor of the arguments is null or valid; `Operands` refuses null for
        // required ones.
        unsafe {
            let sum_squares = operands.floats(arguments.sum_squares, "sum_squares", Access::Read)?;
            let [samples, tokens] = sum_squares.sizes()?;
            operands.check_product("sum_squares", "B × S", [samples, tokens])?;
            let shape = BatchShape { samples, tokens };
            let of_rows = |tensor: Tensor<'a>| tensor.with_entries(shape.rows(), "(B, S)");
            let samples = operands.indices(arguments.samples, "samples", Access::Write)?;
            let slots = operands.indices(arguments.slots, "slots", Access::Write)?;
            let probe_shape = BatchShape { samples: samples.entries(), tokens: slots.entries() };
            let exact = [order == ProbeOrder::Tokens, order == ProbeOrder::Samples];
            for (tensor, kept, all, exact) in [
                (&samples, probe_shape.samples, shape.samples, exact[0]),
                (&slots, probe_shape.tokens, shape.tokens, exact[1]),
            ] {
                if kept > all || exact && kept != all {
                    let expected = format!("{}{all} entries", if exact { "" } else { "at most " });
                    return Err(refused(tensor.name, "shape", expected, kept));
                }
            }
            let of_probe = |tensor: Tensor<'a>| tensor.with_entries(probe_shape.rows(), "(B_p, S_p)");
            let positions = optional!(operands.indices(arguments.positions, "positions", Read));
            let probe_positions =
                optional!(operands.indices(arguments.probe_positions, "probe_positions", Write));
            if positions.is_none() && probe_positions.is_some() {
                let help = "The probe's positions are gathered from the batch's.";
                return Err(Failure::argument("positions", "a tensor", "NULL", help));
            }
            Ok(Self {
                order,
                leading_slot_limit: arguments.leading_slot_limit as usize,
                shape,
                probe_shape,
                sum_squares,
                positions: positions.map(of_rows).transpose()?,
                mask: optional!(operands.indices(arguments.mask, "mask", Read)).map(of_rows).transpose()?,
                samples,
                slots,
                probe_positions: probe_positions.map(of_probe).transpose()?,
                probe_mask: optional!(operands.indices(arguments.probe_mask, "probe_mask", Write))
                    .map(of_probe)
                    .transpose()?,
            })
        }
    }

    fn workspace(&self) -> usize {
        let missing =
            [&self.probe_positions, &self.probe_mask].into_iter().filter(|out| out.is_none()).count();
        missing * Workspace::part(4 * self.probe_shape.rows())
    }

    unsafe fn run<B: Lend>(self, backend: &B, mut workspace: Workspace) -> Outcome {
        let rows = self.probe_shape.rows();
        // SAFETY: `read` checked types and sizes against (B, S) and (B_p, S_p), and the workspace has room for
        // missing outputs; the caller lends the memory until the operation is over.
        unsafe {
            let mut out = |tensor: Option<Tensor<'_>>| {
                let at: *mut c_void = tensor.map_or_else(|| workspace.take(4 * rows), |tensor| tensor.data);
                backend.indices_at(at, rows)
            };
            let (positions_out, mask_out) = (out(self.probe_positions)?, out(self.probe_mask)?);
            let sum_squares = backend.floats(&self.sum_squares)?;
            // Without positions the probe's are not read: any tensor of as many entries serves.
            let positions = self.positions.unwrap_or(self.sum_squares);
            let positions = backend.indices_of(&positions)?;
            let mask = backend.optional_indices(self.mask.as_ref())?;
            let mut probe = Probe {
                shape: self.probe_shape,
                samples: backend.indices_of(&self.samples)?,
                slots: backend.indices_of(&self.slots)?,
                positions: positions_out,
                mask: mask_out,
            };
            backend.probe_select(ProbeSelectOperands {
                sum_squares: &sum_squares,
                shape: self.shape,
                order: self.order,
                positions: &positions,
                mask: mask.as_ref(),
                leading_slot_limit: self.leading_slot_limit,
                probe: &mut probe,
            });
        }
        Ok(())
    }
}

operation!(Select, SelectArguments, probeprune_probe_select, probeprune_probe_select_workspace_size);

/// `probeprune_probe_gather_args`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct GatherArguments {
    pub(in crate::ffi) struct_size: u32,
    pub(in crate::ffi) reserved: u32,
    pub(in crate::ffi) x: *const DLTensor,
    pub(in crate::ffi) samples: *const DLTensor,
    pub(in crate::ffi) slots: *const DLTensor,
    pub(in crate::ffi) out: *const DLTensor,
}

versioned!(GatherArguments, "probeprune_probe_gather_args", probeprune_probe_gather_args_init, reserved: [reserved], Self {
    struct_size: 0,
    reserved: 0,
    x: null(),
    samples: null(),
    slots: null(),
    out: null(),
});

#[derive(Debug)]
struct Gather<'a> {
    shape: BatchShape,
    hidden_size: usize,
    x: Tensor<'a>,
    samples: Tensor<'a>,
    slots: Tensor<'a>,
    out: Tensor<'a>,
}

impl<'a> Operation<'a> for Gather<'a> {
    type Arguments = GatherArguments;

    unsafe fn read(arguments: &GatherArguments, operands: &mut Operands) -> Outcome<Self> {
        // SAFETY: the caller promises that each tensor of the arguments is null or valid; `Operands` refuses null for
        // required ones.
        unsafe {
            let x = operands.states(arguments.x, "x", Access::Read)?;
            let [batch, length, hidden_size] = x.sizes()?;
            operands.check_product("x", "B × S", [batch, length])?;
            let samples = operands.indices(arguments.samples, "samples", Access::Read)?;
            let slots = operands.indices(arguments.slots, "slots", Access::Read)?;
            operands.check_ascending(&samples)?;
            operands.check_below(&samples, batch)?;
            operands.check_ascending(&slots)?;
            operands.check_below(&slots, length)?;
            let entries = samples.entries() * slots.entries() * hidden_size;
            let out = operands.states(arguments.out, "out", Access::Write)?;
            let out = out.with_entries(entries, "(B_p, S_p, H)")?;
            let shape = BatchShape { samples: batch, tokens: length };
            Ok(Self { shape, hidden_size, x, samples, slots, out })
        }
    }

    unsafe fn run<B: Lend>(self, backend: &B, _workspace: Workspace) -> Outcome {
        // SAFETY: `read` checked types and sizes against (B, S, H) and (B_p, S_p, H), and gathering reads neither
        // positions nor mask; the caller lends the memory until the operation is over.
        unsafe {
            let probe = Probe {
                shape: BatchShape { samples: self.samples.entries(), tokens: self.slots.entries() },
                samples: backend.indices_of(&self.samples)?,
                slots: backend.indices_of(&self.slots)?,
                positions: backend.indices_of(&self.slots)?,
                mask: backend.indices_of(&self.slots)?,
            };
            let mut out = backend.states(&self.out)?;
            backend.probe_gather(ProbeGatherOperands {
                x: &backend.states(&self.x)?,
                shape: self.shape,
                hidden_size: self.hidden_size,
                probe: &probe,
                out: &mut out,
            });
        }
        Ok(())
    }
}

operation!(Gather, GatherArguments, probeprune_probe_gather, probeprune_probe_gather_workspace_size);
