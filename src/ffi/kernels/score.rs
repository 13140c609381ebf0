//! Scores, kept sets, history.

use std::{ffi::c_void, ptr::null};

use super::{
    Operation,
    lend::Lend,
    operands::{Access, Operands, Workspace},
    operation,
    probe::optional,
};
use crate::{
    backend::{ChannelScoreOperands, Fusion, HistoryUpdateOperands, KeptSet, TopKKeepOperands},
    ffi::{
        dlpack::{DLDataType, DLTensor, Tensor, refused},
        status::{Failure, Outcome},
        structs::{choice, versioned},
    },
    prune::{Unit, settings::Metric},
};

/// A history and its layout.
#[derive(Debug)]
pub(super) struct HistoryOperand<'a> {
    pub(super) tensor: Tensor<'a>,
    pub(super) slots: usize,
    pub(super) channels: usize,
    pub(super) bucket: usize,
}

impl<'a> HistoryOperand<'a> {
    /// # Safety
    /// As [`Operation::read`].
    unsafe fn read(
        tensor: *const DLTensor,
        slots: u64,
        bucket: u32,
        access: Access,
        operands: &mut Operands,
    ) -> Outcome<Self> {
        let bucket = bucket as usize;
        // SAFETY: the caller promises that `tensor` is null or a valid DLTensor.
        let tensor = unsafe { operands.history(tensor, "history", access) }?;
        let [rows, channels] = tensor.sizes()?;
        if !(1..=operands.largest_size()).contains(&bucket) {
            let expected = format!("1 to {}", operands.largest_size());
            return Err(Failure::argument("bucket", expected, bucket, "1 keeps every slot."));
        }
        let most = rows.saturating_mul(bucket).min(operands.largest_size());
        let slots = if slots == 0 { most } else { usize::try_from(slots).unwrap_or(usize::MAX) };
        if slots > most {
            let help = "A row holds a bucket of slots; 0 selects all that fit.";
            return Err(Failure::argument("history_slots", format!("at most {most}"), slots, help));
        }
        if tensor.dtype == DLDataType::FLOAT16 && !tensor.entries().is_multiple_of(2) {
            let expected = "an even number of float16 entries";
            return Err(refused("history", "shape", expected, format!("{:?}", tensor.shape)));
        }
        Ok(Self { tensor, slots, channels, bucket })
    }
}

/// `probeprune_channel_score_args`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ScoreArguments {
    pub(in crate::ffi) struct_size: u32,
    pub(in crate::ffi) metric: i32,
    pub(in crate::ffi) head_dim: u32,
    pub(in crate::ffi) bucket: u32,
    pub(in crate::ffi) history_slots: u64,
    pub(in crate::ffi) fixed_probe_weight: f64,
    pub(in crate::ffi) p: *const DLTensor,
    pub(in crate::ffi) statistic: *const DLTensor,
    pub(in crate::ffi) history: *const DLTensor,
    pub(in crate::ffi) slots: *const DLTensor,
    pub(in crate::ffi) out: *const DLTensor,
    pub(in crate::ffi) channel_group: u32,
    pub(in crate::ffi) reserved: u32,
}

versioned!(ScoreArguments, "probeprune_channel_score_args", probeprune_channel_score_args_init, reserved: [reserved], Self {
    struct_size: 0,
    metric: 0,
    head_dim: 0,
    bucket: 1,
    history_slots: 0,
    fixed_probe_weight: -1.0,
    p: null(),
    statistic: null(),
    history: null(),
    slots: null(),
    out: null(),
    channel_group: 0,
    reserved: 0,
});

#[derive(Debug)]
struct Score<'a> {
    metric: Metric,
    unit: Unit,
    fixed_weight: Option<f32>,
    tokens: usize,
    channels: usize,
    p: Tensor<'a>,
    statistic: Tensor<'a>,
    history: Option<(HistoryOperand<'a>, Tensor<'a>)>,
    out: Tensor<'a>,
}

impl<'a> Operation<'a> for Score<'a> {
    type Arguments = ScoreArguments;

    unsafe fn read(arguments: &ScoreArguments, operands: &mut Operands) -> Outcome<Self> {
        // SAFETY: the caller promises that each tensor of the arguments is null or valid; `Operands` refuses null for
        // required ones.
        unsafe {
            let p = operands.floats(arguments.p, "p", Access::Read)?;
            let [tokens, channels] = p.sizes()?;
            let ScoreArguments { head_dim, channel_group, .. } = *arguments;
            let (unit, field) = match (head_dim as usize, channel_group as usize) {
                (0, 0 | 1) => (Unit::Channel, "channel_group"),
                (0, group @ (8 | 16)) => (Unit::Group(group), "channel_group"),
                (head_dim, 0 | 1) => (Unit::Head(head_dim), "head_dim"),
                (_, group) => {
                    let help = "Heads are not grouped: with head_dim, leave it at 0.";
                    return Err(Failure::argument("channel_group", "0, 1, 8 or 16", group, help));
                }
            };
            if !channels.is_multiple_of(unit.block_width()) {
                let help = "0 scores single channels.";
                let expected = format!("a divisor of {channels}, the channels");
                return Err(Failure::argument(field, expected, unit.block_width(), help));
            }
            let weight = arguments.fixed_probe_weight;
            if weight != -1.0 && !(0.0..=1.0).contains(&weight) {
                let help = "-1 selects importance-scaled fusion.";
                return Err(Failure::argument("fixed_probe_weight", "0 to 1, or -1", weight, help));
            }
            let statistic = operands.floats(arguments.statistic, "statistic", Access::Read)?;
            let history = if arguments.history.is_null() {
                None
            } else {
                let (slots, bucket) = (arguments.history_slots, arguments.bucket);
                let history = HistoryOperand::read(arguments.history, slots, bucket, Access::Read, operands)?;
                if history.channels != channels {
                    let got = format!("{:?}", history.tensor.shape);
                    return Err(refused("history", "shape", format!("(rows, {channels}) as p has it"), got));
                }
                let slots = operands.indices(arguments.slots, "slots", Access::Read)?;
                Some((history, slots.with_entries(tokens, "(S_p)")?))
            };
            Ok(Self {
                metric: choice(arguments.metric, Metric::ALL, "metric")?,
                unit,
                fixed_weight: (weight != -1.0).then_some(weight as f32),
                tokens,
                channels,
                p,
                statistic: statistic.with_entries(channels, "(C)")?,
                history,
                out: operands
                    .floats(arguments.out, "out", Access::Write)?
                    .with_entries(channels / unit.block_width(), "one per unit")?,
            })
        }
    }

    unsafe fn run<B: Lend>(self, backend: &B, _workspace: Workspace) -> Outcome {
        // SAFETY: `read` checked types and sizes against (S_p, C), the history's rows and the units; the caller lends
        // the memory until the operation is over.
        unsafe {
            let (p, statistic) = (backend.floats(&self.p)?, backend.floats(&self.statistic)?);
            let mut out = backend.floats(&self.out)?;
            let lent = match &self.history {
                None => None,
                Some((history, slots)) => Some((backend.history_of(history)?, backend.indices_of(slots)?)),
            };
            let fusion = match &lent {
                None => Fusion::ProbeOnly,
                Some((history, slots)) => Fusion::History { history, slots, fixed_weight: self.fixed_weight },
            };
            backend.channel_score(ChannelScoreOperands {
                p: &p,
                tokens: self.tokens,
                channels: self.channels,
                fusion,
                metric: self.metric,
                statistic: &statistic,
                unit: self.unit,
                out: &mut out,
            });
        }
        Ok(())
    }
}

operation!(Score, ScoreArguments, probeprune_channel_score, probeprune_channel_score_workspace_size);

/// `probeprune_topk_keep_args`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KeepArguments {
    pub(in crate::ffi) struct_size: u32,
    pub(in crate::ffi) fault_tag: u32,
    pub(in crate::ffi) scores: *const DLTensor,
    pub(in crate::ffi) kept: *const DLTensor,
    pub(in crate::ffi) fault: *const DLTensor,
}

versioned!(KeepArguments, "probeprune_topk_keep_args", probeprune_topk_keep_args_init, reserved: [], Self {
    struct_size: 0,
    fault_tag: 1,
    scores: null(),
    kept: null(),
    fault: null(),
});

#[derive(Debug)]
struct Keep<'a> {
    tag: u32,
    scores: Tensor<'a>,
    kept: KeptSet<Tensor<'a>>,
    fault: Option<Tensor<'a>>,
}

impl<'a> Operation<'a> for Keep<'a> {
    type Arguments = KeepArguments;

    unsafe fn read(arguments: &KeepArguments, operands: &mut Operands) -> Outcome<Self> {
        if arguments.fault_tag == 0 {
            let help = "0 in fault means no fault.";
            return Err(Failure::argument("fault_tag", "a number other than 0", 0, help));
        }
        // SAFETY: the caller promises that each tensor of the arguments is null or valid; `Operands` refuses null for
        // required ones.
        unsafe {
            let scores = operands.floats(arguments.scores, "scores", Access::Read)?;
            let kept = operands.indices(arguments.kept, "kept", Access::Write)?;
            if kept.entries() > scores.entries() {
                let expected = format!("at most {} entries, one per score", scores.entries());
                return Err(refused("kept", "shape", expected, kept.entries()));
            }
            let fault = optional!(operands.indices(arguments.fault, "fault", Write));
            let fault = fault.map(|fault| fault.with_entries(1, "(1)")).transpose()?;
            let (len, of) = (kept.entries(), scores.entries());
            let kept = KeptSet { indices: kept, len, of, block_width: 1 };
            Ok(Self { tag: arguments.fault_tag, scores, kept, fault })
        }
    }

    fn workspace(&self) -> usize {
        if self.fault.is_none() { Workspace::part(4) } else { 0 }
    }

    unsafe fn run<B: Lend>(self, backend: &B, mut workspace: Workspace) -> Outcome {
        // SAFETY: `read` checked types and sizes, and the workspace has room for the fault unless it is an operand;
        // the caller lends the memory until the operation is over.
        unsafe {
            let scores = backend.floats(&self.scores)?;
            let mut kept = backend.kept(&self.kept)?;
            let fault: *mut c_void = self.fault.map_or_else(|| workspace.take(4), |fault| fault.data);
            let mut fault = backend.indices_at(fault, 1)?;
            backend.top_k_keep(TopKKeepOperands {
                scores: &scores,
                kept: &mut kept,
                tag: self.tag,
                fault: &mut fault,
            });
        }
        Ok(())
    }
}

operation!(Keep, KeepArguments, probeprune_topk_keep, probeprune_topk_keep_workspace_size);

/// `probeprune_history_update_args`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct UpdateArguments {
    pub(in crate::ffi) struct_size: u32,
    pub(in crate::ffi) block_width: u32,
    pub(in crate::ffi) bucket: u32,
    pub(in crate::ffi) reserved: u32,
    pub(in crate::ffi) history_slots: u64,
    pub(in crate::ffi) at: u64,
    pub(in crate::ffi) momentum: f64,
    pub(in crate::ffi) p: *const DLTensor,
    pub(in crate::ffi) kept: *const DLTensor,
    pub(in crate::ffi) history: *const DLTensor,
}

versioned!(UpdateArguments, "probeprune_history_update_args", probeprune_history_update_args_init, reserved: [reserved], Self {
    struct_size: 0,
    block_width: 1,
    bucket: 1,
    reserved: 0,
    history_slots: 0,
    at: 0,
    momentum: 0.99,
    p: null(),
    kept: null(),
    history: null(),
});

#[derive(Debug)]
struct Update<'a> {
    tokens: usize,
    at: usize,
    momentum: f64,
    p: Tensor<'a>,
    kept: KeptSet<Tensor<'a>>,
    history: HistoryOperand<'a>,
}

impl<'a> Operation<'a> for Update<'a> {
    type Arguments = UpdateArguments;

    unsafe fn read(arguments: &UpdateArguments, operands: &mut Operands) -> Outcome<Self> {
        if !(0.0..=1.0).contains(&arguments.momentum) {
            let help = "The paper uses 0.99.";
            return Err(Failure::argument("momentum", "a number from 0 to 1", arguments.momentum, help));
        }
        // SAFETY: the caller promises that each tensor of the arguments is null or valid; `Operands` refuses null for
        // required ones.
        unsafe {
            let p = operands.floats(arguments.p, "p", Access::Read)?;
            let [tokens, channels] = p.sizes()?;
            let (slots, bucket) = (arguments.history_slots, arguments.bucket);
            let history = HistoryOperand::read(arguments.history, slots, bucket, Access::Write, operands)?;
            let kept = operands.kept(arguments.kept, arguments.block_width, history.channels)?;
            if kept.channels() != channels {
                let expected = format!("(S, {}), the kept channels", kept.channels());
                return Err(refused("p", "shape", expected, format!("{:?}", p.shape)));
            }
            let at = usize::try_from(arguments.at).unwrap_or(usize::MAX);
            if at > operands.largest_size() - tokens {
                let help = "Slots are counted from 0.";
                return Err(Failure::argument("at", "a slot", at, help));
            }
            let momentum = arguments.momentum;
            Ok(Self { tokens, at, momentum, p, kept, history })
        }
    }

    unsafe fn run<B: Lend>(self, backend: &B, _workspace: Workspace) -> Outcome {
        // SAFETY: `read` checked types and sizes against the kept channels and the history's rows; the caller lends
        // the memory until the operation is over.
        unsafe {
            let mut history = backend.history_of(&self.history)?;
            let kept = backend.kept(&self.kept)?;
            backend.history_update(HistoryUpdateOperands {
                p: &backend.floats(&self.p)?,
                tokens: self.tokens,
                at: self.at,
                kept: &kept,
                momentum: self.momentum,
                history: &mut history,
            });
        }
        Ok(())
    }
}

operation!(Update, UpdateArguments, probeprune_history_update, probeprune_history_update_workspace_size);
