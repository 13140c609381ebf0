//! Attention over kept heads, and their key/value heads.

use std::ptr::null;

use super::{
    Operation,
    lend::Lend,
    operands::{Access, Operands, Workspace},
    operation,
    probe::optional,
};
use crate::{
    backend::{AttentionOperands, AttentionShape, KeepKvHeadsOperands, KeptSet},
    ffi::{
        dlpack::{DLTensor, Tensor, refused},
        status::{Failure, Outcome},
        structs::versioned,
    },
    gpu::attention::WIDEST_HEAD,
    prune::BatchShape,
};

/// Widest head that the CPU has buffers for.
const WIDEST_HEAD_ON_CPU: usize = 4096;

/// `probeprune_keep_kv_heads_args`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct HeadsArguments {
    pub(in crate::ffi) struct_size: u32,
    pub(in crate::ffi) gqa_group: u32,
    pub(in crate::ffi) heads: *const DLTensor,
    pub(in crate::ffi) kv_heads: *const DLTensor,
    pub(in crate::ffi) kv_head_of: *const DLTensor,
}

versioned!(HeadsArguments, "probeprune_keep_kv_heads_args", probeprune_keep_kv_heads_args_init, reserved: [], Self {
    struct_size: 0,
    gqa_group: 1,
    heads: null(),
    kv_heads: null(),
    kv_head_of: null(),
});

#[derive(Debug)]
struct Heads<'a> {
    gqa_group: usize,
    heads: KeptSet<Tensor<'a>>,
    kv_heads: KeptSet<Tensor<'a>>,
    kv_head_of: Tensor<'a>,
}

/// A list of heads; the operation needs neither their width nor their number in all.
fn all_kept(indices: Tensor<'_>) -> KeptSet<Tensor<'_>> {
    KeptSet { indices, len: indices.entries(), of: indices.entries(), block_width: 1 }
}

impl<'a> Operation<'a> for Heads<'a> {
    type Arguments = HeadsArguments;

    unsafe fn read(arguments: &HeadsArguments, operands: &mut Operands) -> Outcome<Self> {
        let gqa_group = arguments.gqa_group as usize;
        if !(1..=operands.largest_size()).contains(&gqa_group) {
            let help = "Query heads per key/value head: 1 without grouped-query attention.";
            let expected = format!("1 to {}", operands.largest_size());
            return Err(Failure::argument("gqa_group", expected, gqa_group, help));
        }
        // SAFETY: the caller promises that each tensor of the arguments is null or valid; `Operands` refuses null for
        // required ones.
        unsafe {
            let heads = operands.indices(arguments.heads, "heads", Access::Read)?;
            let kv_heads = operands.indices(arguments.kv_heads, "kv_heads", Access::Write)?;
            operands.check_ascending(&heads)?;
            let values = operands.values(&heads)?.unwrap_or_default();
            let groups = values.chunk_by(|&a, &b| a / arguments.gqa_group == b / arguments.gqa_group).count();
            if groups > kv_heads.entries() {
                let expected = format!("at least {groups} entries, one per key/value head");
                return Err(refused("kv_heads", "shape", expected, kv_heads.entries()));
            }
            let kv_head_of = operands.indices(arguments.kv_head_of, "kv_head_of", Access::Write)?;
            let kv_head_of = kv_head_of.with_entries(heads.entries(), "one per head")?;
            Ok(Self { gqa_group, heads: all_kept(heads), kv_heads: all_kept(kv_heads), kv_head_of })
        }
    }

    unsafe fn run<B: Lend>(self, backend: &B, _workspace: Workspace) -> Outcome {
        // SAFETY: `read` checked the types and the lengths of the three lists; the caller lends their memory until
        // the operation is over.
        unsafe {
            let heads = backend.kept(&self.heads)?;
            let mut kv_heads = backend.kept(&self.kv_heads)?;
            let mut kv_head_of = backend.indices_of(&self.kv_head_of)?;
            backend.keep_kv_heads(KeepKvHeadsOperands {
                heads: &heads,
                gqa_group: self.gqa_group,
                kv_heads: &mut kv_heads,
                kv_head_of: &mut kv_head_of,
            });
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
    pub(in crate::ffi) kv_head_of: *const DLTensor,
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
    kv_head_of: null(),
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
    kv_head_of: Tensor<'a>,
    mask: Option<Tensor<'a>>,
    slots: Option<Tensor<'a>>,
    out: Tensor<'a>,
}

impl<'a> Operation<'a> for Attention<'a> {
    type Arguments = AttentionArguments;

    unsafe fn read(arguments: &AttentionArguments, operands: &mut Operands) -> Outcome<Self> {
        // SAFETY: the caller promises that each tensor of the arguments is null or valid; `Operands` refuses null for
        // required ones.
        unsafe {
            let q = operands.states(arguments.q, "q", Access::Read)?;
            let [samples, tokens, heads, head_dim] = q.sizes()?;
            let k = operands.states(arguments.k, "k", Access::Read)?;
            let [key_samples, key_capacity, kv_heads, key_dim] = k.sizes()?;
            operands.check_product("q", "B × S", [samples, tokens])?;
            operands.check_product("q", "N × D", [heads, head_dim])?;
            operands.check_product("k", "K × D", [kv_heads, key_dim])?;
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
                let help = "The last keys belong to the queries.";
                let expected = format!("{tokens} to {key_capacity}, or 0 for all");
                return Err(Failure::argument("keys", expected, keys, help));
            }
            let kv_head_of = operands.indices(arguments.kv_head_of, "kv_head_of", Access::Read)?;
            let kv_head_of = kv_head_of.with_entries(heads, "one per head")?;
            operands.check_below(&kv_head_of, kv_heads)?;
            let mask = optional!(operands.indices(arguments.mask, "mask", Read));
            let slots = optional!(operands.indices(arguments.slots, "slots", Read));
            if let Some(slots) = &slots {
                operands.check_ascending(slots)?;
            }
            let out = operands.states(arguments.out, "out", Access::Write)?;
            let default_scale = (head_dim as f32).powf(-0.5);
            Ok(Self {
                shape: AttentionShape {
                    queries: BatchShape { samples, tokens },
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
                kv_head_of,
            })
        }
    }

    unsafe fn run<B: Lend>(self, backend: &B, _workspace: Workspace) -> Outcome {
        // SAFETY: `read` checked types and sizes against `shape`; the caller lends the memory until the operation is
        // over.
        unsafe {
            let [q, k, v] = [&self.q, &self.k, &self.v].map(|tensor| backend.states(tensor));
            let mut out = backend.states(&self.out)?;
            let kv_head_of = backend.indices_of(&self.kv_head_of)?;
            let mask = backend.optional_indices(self.mask.as_ref())?;
            let slots = backend.optional_indices(self.slots.as_ref())?;
            backend.attention(AttentionOperands {
                q: &q?,
                k: &k?,
                v: &v?,
                shape: self.shape,
                kv_head_of: &kv_head_of,
                mask: mask.as_ref(),
                slots: slots.as_ref(),
                out: &mut out,
            });
        }
        Ok(())
    }
}

operation!(Attention, AttentionArguments, probeprune_attention, probeprune_attention_workspace_size);
