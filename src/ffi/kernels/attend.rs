//! Attention over kept heads, and the key/value heads that they need.

use std::ptr::null;

use super::{
    Operation,
    lend::Lend,
    operands::{Access, Operands, Workspace},
    operation,
    probe::optional,
};
use crate::{
    backend::{AttentionShape, Grid},
    ffi::{
        dlpack::{DLTensor, Tensor, refused},
        status::{Failure, Outcome},
        structs::versioned,
    },
    gpu::attention::WIDEST_HEAD,
};

/// Widest head that the CPU has buffers for.
const WIDEST_HEAD_ON_CPU: usize = 4096;

/// `probeprune_keep_kv_heads_args`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct HeadsArguments {
    pub(in crate::ffi) struct_size: u32,
    pub(in crate::ffi) group: u32,
    pub(in crate::ffi) heads: *const DLTensor,
    pub(in crate::ffi) kv_kept: *const DLTensor,
    pub(in crate::ffi) kv_slots: *const DLTensor,
}

versioned!(HeadsArguments, "probeprune_keep_kv_heads_args", probeprune_keep_kv_heads_args_init, reserved: [], Self {
    struct_size: 0,
    group: 1,
    heads: null(),
    kv_kept: null(),
    kv_slots: null(),
});

#[derive(Debug)]
struct Heads<'a> {
    group: usize,
    heads: Tensor<'a>,
    kv_kept: Tensor<'a>,
    kv_slots: Tensor<'a>,
}

impl<'a> Operation<'a> for Heads<'a> {
    type Arguments = HeadsArguments;

    unsafe fn read(arguments: &HeadsArguments, operands: &mut Operands) -> Outcome<Self> {
        let group = arguments.group as usize;
        if group == 0 {
            let help = "Query heads per key/value head: 1 without grouped-query attention.";
            return Err(Failure::argument("group", "at least 1", 0, help));
        }
        // SAFETY: the caller's to keep.
        unsafe {
            let heads = operands.indices(arguments.heads, "heads", Access::Read)?;
            let kv_kept = operands.indices(arguments.kv_kept, "kv_kept", Access::Write)?;
            operands.check_ascending(&heads)?;
            let values = operands.values(&heads)?.unwrap_or_default();
            let groups = values.chunk_by(|&a, &b| a / arguments.group == b / arguments.group).count();
            if groups > kv_kept.entries() {
                let expected = format!("at least {groups} entries, one per key/value head");
                return Err(refused("kv_kept", "shape", expected, kv_kept.entries()));
            }
            let kv_slots = operands.indices(arguments.kv_slots, "kv_slots", Access::Write)?;
            let kv_slots = kv_slots.with_entries(heads.entries(), "one per head")?;
            Ok(Self { group, heads, kv_kept, kv_slots })
        }
    }

    unsafe fn run<B: Lend>(self, backend: &B, _workspace: Workspace) -> Outcome {
        // SAFETY: the caller's to keep.
        unsafe {
            let heads = backend.kept(&self.heads, self.heads.entries())?;
            let mut kv_kept = backend.kept(&self.kv_kept, self.kv_kept.entries())?;
            let mut kv_slots = backend.indices_of(&self.kv_slots)?;
            backend.keep_kv_heads(&heads, self.group, &mut kv_kept, &mut kv_slots);
        }
        Ok(())
    }
}

operation!(Heads, HeadsArguments, probeprune_keep_kv_heads, probeprune_keep_kv_heads_workspace_size);

/// `probeprune_attention_args`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct AttentionArguments {
    pub(in crate::ffi) struct_size: u32,
    pub(in crate::ffi) keys: u32,
    pub(in crate::ffi) window: u32,
    pub(in crate::ffi) scale: f32,
    pub(in crate::ffi) q: *const DLTensor,
    pub(in crate::ffi) k: *const DLTensor,
    pub(in crate::ffi) v: *const DLTensor,
    pub(in crate::ffi) kv_slots: *const DLTensor,
    pub(in crate::ffi) mask: *const DLTensor,
    pub(in crate::ffi) slots: *const DLTensor,
    pub(in crate::ffi) out: *const DLTensor,
}

versioned!(AttentionArguments, "probeprune_attention_args", probeprune_attention_args_init, reserved: [], Self {
    struct_size: 0,
    keys: 0,
    window: 0,
    scale: 0.0,
    q: null(),
    k: null(),
    v: null(),
    kv_slots: null(),
    mask: null(),
    slots: null(),
    out: null(),
});

#[derive(Debug)]
struct Attention<'a> {
    shape: AttentionShape,
    q: Tensor<'a>,
    k: Tensor<'a>,
    v: Tensor<'a>,
    kv_slots: Tensor<'a>,
    mask: Option<Tensor<'a>>,
    slots: Option<Tensor<'a>>,
    out: Tensor<'a>,
}

impl<'a> Operation<'a> for Attention<'a> {
    type Arguments = AttentionArguments;

    unsafe fn read(arguments: &AttentionArguments, operands: &mut Operands) -> Outcome<Self> {
        // SAFETY: the caller's to keep.
        unsafe {
            let q = operands.states(arguments.q, "q", Access::Read)?;
            let [samples, tokens, heads, head_dim] = q.sizes()?;
            let k = operands.states(arguments.k, "k", Access::Read)?;
            let [key_samples, key_capacity, kv_heads, key_dim] = k.sizes()?;
            if key_samples != samples || key_dim != head_dim {
                let expected = format!("({samples}, keys, heads, {head_dim}) as q has it");
                return Err(refused("k", "shape", expected, format!("{:?}", k.shape)));
            }
            let v = operands.states(arguments.v, "v", Access::Read)?;
            if v.shape != k.shape {
                return Err(refused("v", "shape", format!("{:?} as k", k.shape), format!("{:?}", v.shape)));
            }
            let widest = if operands.is_cpu() { WIDEST_HEAD_ON_CPU } else { WIDEST_HEAD };
            if head_dim > widest {
                return Err(refused("q", "shape", format!("heads of at most {widest}"), head_dim));
            }
            let keys = if arguments.keys == 0 { key_capacity } else { arguments.keys as usize };
            if !(tokens..=key_capacity).contains(&keys) {
                let help = "The last of the keys are the queries' own.";
                let expected = format!("{tokens} to {key_capacity}, or 0 for all");
                return Err(Failure::argument("keys", expected, keys, help));
            }
            let kv_slots = operands.indices(arguments.kv_slots, "kv_slots", Access::Read)?;
            let kv_slots = kv_slots.with_entries(heads, "one per head")?;
            operands.check_below(&kv_slots, kv_heads)?;
            let mask = optional!(operands.indices(arguments.mask, "mask", Read));
            let slots = optional!(operands.indices(arguments.slots, "slots", Read));
            if let Some(slots) = &slots {
                operands.check_ascending(slots)?;
            }
            let out = operands.states(arguments.out, "out", Access::Write)?;
            let default_scale = (head_dim as f32).powf(-0.5);
            Ok(Self {
                shape: AttentionShape {
                    queries: Grid { samples, tokens },
                    keys,
                    key_capacity,
                    heads,
                    kv_heads,
                    head_dim,
                    scale: if arguments.scale == 0.0 { default_scale } else { arguments.scale },
                    window: (arguments.window > 0).then_some(arguments.window as usize),
                },
                mask: mask
                    .map(|mask| mask.with_entries(samples * key_capacity, "(B, capacity)"))
                    .transpose()?,
                slots: slots.map(|slots| slots.with_entries(keys, "(keys)")).transpose()?,
                out: out.with_entries(q.entries(), "as q")?,
                q,
                k,
                v,
                kv_slots,
            })
        }
    }

    unsafe fn run<B: Lend>(self, backend: &B, _workspace: Workspace) -> Outcome {
        // SAFETY: the caller's to keep.
        unsafe {
            let [q, k, v] = [&self.q, &self.k, &self.v].map(|tensor| backend.states(tensor));
            let mut out = backend.states(&self.out)?;
            let kv_slots = backend.indices_of(&self.kv_slots)?;
            let mask = backend.optional_indices(self.mask.as_ref())?;
            let slots = backend.optional_indices(self.slots.as_ref())?;
            let (q, k, v) = (q?, k?, v?);
            backend.attention(&q, &k, &v, self.shape, &kv_slots, mask.as_ref(), slots.as_ref(), &mut out);
        }
        Ok(())
    }
}

operation!(Attention, AttentionArguments, probeprune_attention, probeprune_attention_workspace_size);
