//! Norms with residual importance, choosing the probe, gathering its rows, energies.

use std::{ffi::c_void, ptr::null};

use super::{
    Operation,
    lend::Lend,
    operands::{Access, Operands, Workspace},
    operation,
};
use crate::{
    backend::{Grid, Norm, NormKind, Probe},
    ffi::{
        dlpack::{DLTensor, Tensor, refused},
        status::{Failure, Outcome},
        structs::{choice, versioned},
    },
    prune::{counts::LEADING_SLOT_LIMIT, settings::ProbeOrder},
};

/// An operand that may be left out.
macro_rules! optional {
    ($operands:ident.$kind:ident($pointer:expr, $name:literal, $access:ident)) => {
        if $pointer.is_null() { None } else { Some($operands.$kind($pointer, $name, Access::$access)?) }
    };
}
pub(super) use optional;

/// B × S of a (B, S) tensor.
pub(super) fn grid(tensor: &Tensor<'_>) -> Outcome<Grid> {
    let [samples, tokens] = tensor.sizes()?;
    Ok(Grid { samples, tokens })
}

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
    shape: [usize; 2],
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
        // SAFETY: the caller's to keep.
        unsafe {
            let x = operands.states(arguments.x, "x", Access::Read)?;
            let [rows, width] = x.rows()?;
            let of_width = |tensor: Tensor<'a>| tensor.with_entries(width, "(H)");
            Ok(Self {
                kind,
                eps: arguments.eps,
                shape: [rows, width],
                weight: optional!(operands.floats(arguments.weight, "weight", Read))
                    .map(of_width)
                    .transpose()?,
                bias: optional!(operands.floats(arguments.bias, "bias", Read)).map(of_width).transpose()?,
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
        let [rows, width] = self.shape;
        // SAFETY: the caller's to keep.
        unsafe {
            let weight = backend.optional_floats(self.weight.as_ref())?;
            let bias = backend.optional_floats(self.bias.as_ref())?;
            let norm = self.kind.map(|kind| Norm { kind, weight, bias, eps: self.eps });
            let (mut out, mut sum_squares) = (backend.states(&self.out)?, backend.floats(&self.sum_squares)?);
            backend.norm(&backend.states(&self.x)?, norm.as_ref(), rows, width, &mut out, &mut sum_squares);
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
    grid: Grid,
    probe: Grid,
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
        // SAFETY: the caller's to keep.
        unsafe {
            let sum_squares = operands.floats(arguments.sum_squares, "sum_squares", Access::Read)?;
            let grid = grid(&sum_squares)?;
            let of_rows = |tensor: Tensor<'a>| tensor.with_entries(grid.rows(), "(B, S)");
            let samples = operands.indices(arguments.samples, "samples", Access::Write)?;
            let slots = operands.indices(arguments.slots, "slots", Access::Write)?;
            let probe = Grid { samples: samples.entries(), tokens: slots.entries() };
            let exact = [order == ProbeOrder::Tokens, order == ProbeOrder::Samples];
            for (tensor, kept, all, exact) in [
                (&samples, probe.samples, grid.samples, exact[0]),
                (&slots, probe.tokens, grid.tokens, exact[1]),
            ] {
                if kept > all || exact && kept != all {
                    let expected = format!("{}{all} entries", if exact { "" } else { "at most " });
                    return Err(refused(tensor.name, "shape", expected, kept));
                }
            }
            let of_probe = |tensor: Tensor<'a>| tensor.with_entries(probe.rows(), "(B_p, S_p)");
            let positions = optional!(operands.indices(arguments.positions, "positions", Read));
            let probe_positions =
                optional!(operands.indices(arguments.probe_positions, "probe_positions", Write));
            if positions.is_none() && probe_positions.is_some() {
                let help = "Without positions of the batch there are none of the probe.";
                return Err(Failure::argument("positions", "a tensor", "NULL", help));
            }
            Ok(Self {
                order,
                leading_slot_limit: arguments.leading_slot_limit as usize,
                grid,
                probe,
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
        missing * Workspace::part(4 * self.probe.rows())
    }

    unsafe fn run<B: Lend>(self, backend: &B, mut workspace: Workspace) -> Outcome {
        let rows = self.probe.rows();
        // SAFETY: the caller's to keep; the workspace has a part for what is not asked for.
        unsafe {
            let mut out = |tensor: Option<Tensor<'_>>| {
                let at: *mut c_void = tensor.map_or_else(|| workspace.take(4 * rows), |tensor| tensor.data);
                backend.indices_at(at, rows)
            };
            let (positions_out, mask_out) = (out(self.probe_positions)?, out(self.probe_mask)?);
            let sum_squares = backend.floats(&self.sum_squares)?;
            // Nobody reads the probe's positions then: whatever has as many entries will do for the batch's.
            let positions = self.positions.unwrap_or(self.sum_squares);
            let positions = backend.indices_of(&positions)?;
            let mask = backend.optional_indices(self.mask.as_ref())?;
            let mut probe = Probe {
                grid: self.probe,
                samples: backend.indices_of(&self.samples)?,
                slots: backend.indices_of(&self.slots)?,
                positions: positions_out,
                mask: mask_out,
            };
            let limit = self.leading_slot_limit;
            backend.probe_select(
                &sum_squares,
                self.grid,
                self.order,
                &positions,
                mask.as_ref(),
                limit,
                &mut probe,
            );
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
    shape: [usize; 3],
    x: Tensor<'a>,
    samples: Tensor<'a>,
    slots: Tensor<'a>,
    out: Tensor<'a>,
}

impl<'a> Operation<'a> for Gather<'a> {
    type Arguments = GatherArguments;

    unsafe fn read(arguments: &GatherArguments, operands: &mut Operands) -> Outcome<Self> {
        // SAFETY: the caller's to keep.
        unsafe {
            let x = operands.states(arguments.x, "x", Access::Read)?;
            let shape: [usize; 3] = x.sizes()?;
            let samples = operands.indices(arguments.samples, "samples", Access::Read)?;
            let slots = operands.indices(arguments.slots, "slots", Access::Read)?;
            operands.check_ascending(&samples)?;
            operands.check_below(&samples, shape[0])?;
            operands.check_ascending(&slots)?;
            operands.check_below(&slots, shape[1])?;
            let entries = samples.entries() * slots.entries() * shape[2];
            let out = operands.states(arguments.out, "out", Access::Write)?;
            Ok(Self { shape, x, samples, slots, out: out.with_entries(entries, "(B_p, S_p, H)")? })
        }
    }

    unsafe fn run<B: Lend>(self, backend: &B, _workspace: Workspace) -> Outcome {
        let [samples, tokens, width] = self.shape;
        // SAFETY: the caller's to keep; gathering looks at neither positions nor mask.
        unsafe {
            let probe = Probe {
                grid: Grid { samples: self.samples.entries(), tokens: self.slots.entries() },
                samples: backend.indices_of(&self.samples)?,
                slots: backend.indices_of(&self.slots)?,
                positions: backend.indices_of(&self.slots)?,
                mask: backend.indices_of(&self.slots)?,
            };
            let mut out = backend.states(&self.out)?;
            let grid = Grid { samples, tokens };
            backend.probe_gather(&backend.states(&self.x)?, grid, width, &probe, &mut out);
        }
        Ok(())
    }
}

operation!(Gather, GatherArguments, probeprune_probe_gather, probeprune_probe_gather_workspace_size);

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
    shape: [usize; 3],
    a: Tensor<'a>,
    mask: Option<Tensor<'a>>,
    out: Tensor<'a>,
}

impl<'a> Operation<'a> for Energy<'a> {
    type Arguments = EnergyArguments;

    unsafe fn read(arguments: &EnergyArguments, operands: &mut Operands) -> Outcome<Self> {
        // SAFETY: the caller's to keep.
        unsafe {
            let a = operands.states(arguments.a, "a", Access::Read)?;
            let shape: [usize; 3] = a.sizes()?;
            let mask = optional!(operands.indices(arguments.mask, "mask", Read));
            let mask = mask.map(|mask| mask.with_entries(shape[0] * shape[1], "(B, S)")).transpose()?;
            let out = operands.floats(arguments.out, "out", Access::Write)?;
            Ok(Self { shape, a, mask, out: out.with_entries(shape[1] * shape[2], "(S, C)")? })
        }
    }

    unsafe fn run<B: Lend>(self, backend: &B, _workspace: Workspace) -> Outcome {
        let [samples, tokens, width] = self.shape;
        // SAFETY: the caller's to keep.
        unsafe {
            let (a, mut out) = (backend.states(&self.a)?, backend.floats(&self.out)?);
            let mask = backend.optional_indices(self.mask.as_ref())?;
            backend.energy(&a, Grid { samples, tokens }, width, mask.as_ref(), &mut out, None);
        }
        Ok(())
    }
}

operation!(Energy, EnergyArguments, probeprune_energy, probeprune_energy_workspace_size);
