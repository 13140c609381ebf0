//! The attention block: from its norm's output to its intermediate states.

use super::{Model, kept::Kept, scratch::AttentionScratch};
use crate::{
    backend::{
        AttentionOperands, AttentionShape, Backend, CacheSlots, LinearOperands, ProbeGatherOperands,
        RopeCacheOperands,
    },
    config::Family,
    kv_cache::{LayerCache, Past},
    prune::BatchShape,
    weights::Attention,
};

/// Rows of a batch or a probe that run through a block together.
#[derive(Debug)]
pub struct Rows<'a, B: Backend> {
    /// The block's normed input (T, H).
    pub x: &'a B::Activations,
    /// Samples × new tokens.
    pub shape: BatchShape,
    /// Position of every row.
    pub positions: &'a B::Indices,
    /// (B, S): 0 for pads.
    pub mask: Option<&'a B::Indices>,
    /// The slots of a probe's tokens (S_p).
    pub slots: Option<&'a B::Indices>,
}

/// a (T, kept heads · D) = causal attention of the rows and of those before them.
pub fn intermediate<B: Backend>(
    model: &Model<B>,
    attention: &Attention<B>,
    rows: Rows<'_, B>,
    kept: Option<&Kept<B>>,
    past: Option<Past<'_, B>>,
    scratch: &mut AttentionScratch<B>,
    a: &mut B::Activations,
) {
    let (backend, config) = (&*model.backend, &model.config);
    let AttentionScratch { q, k, v, rope_table } = scratch;
    let Rows { x, shape, positions, mask, slots } = rows;
    let (t, head_dim) = (shape.rows(), config.head_dim);
    let kv_kept = kept.and_then(|kept| kept.kv_heads.as_ref());
    let heads = kept.map_or(attention.o_proj.in_features / head_dim, |kept| kept.set.len);
    let kv_heads = kv_kept.map_or(attention.k_proj.out_features / head_dim, |kv_kept| kv_kept.len);

    // OPT scales q, bias included, before attention; LLaMA scales the products.
    let scale = (head_dim as f32).powf(-0.5);
    let (q_scale, product_scale) = if config.family == Family::Opt { (scale, 1.0) } else { (1.0, scale) };
    backend.linear(LinearOperands {
        kept: kept.map(|kept| &kept.set),
        scale: q_scale,
        ..LinearOperands::new(x, t, &attention.q_proj, q)
    });
    backend.linear(LinearOperands { kept: kv_kept, ..LinearOperands::new(x, t, &attention.k_proj, k) });
    backend.linear(LinearOperands { kept: kv_kept, ..LinearOperands::new(x, t, &attention.v_proj, v) });

    let rotary = config.rope.as_ref().map(|_| (&*rope_table, positions));
    let mut rope_cache = |k: &mut B::Activations, v: &B::Activations, cache: Option<CacheSlots<'_, B>>| {
        let q = &mut *q;
        backend.rope_cache(RopeCacheOperands { q, k, v, shape, heads, kv_heads, head_dim, rotary, cache });
    };
    let (keys, values, mask, key_capacity, valid_keys) = match past {
        None => {
            rope_cache(k, v, None);
            (&*k, &*v, mask, shape.tokens, shape.tokens)
        }
        Some(Past { cache: LayerCache { keys, values, .. }, mask, capacity, len }) => {
            rope_cache(k, v, Some(CacheSlots { keys: &mut *keys, values: &mut *values, capacity, at: len }));
            (&*keys, &*values, Some(mask), capacity, len + shape.tokens)
        }
    };
    backend.attention(AttentionOperands {
        q,
        k: keys,
        v: values,
        shape: AttentionShape {
            queries: shape,
            keys: valid_keys,
            key_capacity,
            heads,
            kv_heads,
            head_dim,
            scale: product_scale,
            window: attention.window,
        },
        kv_head_of: kept.map_or(&attention.kv_head_of, |kept| &kept.kv_head_of),
        mask,
        slots,
        out: a,
    });
}

/// After [`intermediate`] of the whole `model` without a cache: the keys and values of the heads that a fold keeps go into the
/// fold's cache. The scratch is free for them, since attention has read it.
pub fn keep<B: Backend>(
    model: &Model<B>,
    shape: BatchShape,
    past: Past<'_, B>,
    scratch: &mut AttentionScratch<B>,
) {
    let (backend, config) = (&*model.backend, &model.config);
    let Past { cache: LayerCache { keys, values, of_dense }, capacity, len, .. } = past;
    let heads = of_dense.as_mut().expect("a cache that is filled by the dense model");
    heads.shape.samples = shape.rows();
    let (kv_heads, head_dim) = (heads.shape.tokens, config.head_dim);
    let AttentionScratch { q, k, v, .. } = scratch;
    let gather = |x: &B::Activations, out: &mut B::Activations| {
        // The rows are those of single heads.
        let shape = BatchShape { samples: shape.rows(), tokens: config.num_key_value_heads };
        backend.probe_gather(ProbeGatherOperands { x, shape, hidden_size: head_dim, probe: heads, out });
    };
    gather(k, q);
    gather(v, k);
    let (kept_keys, kept_values, queries) = (q, k, v);
    backend.rope_cache(RopeCacheOperands {
        q: queries,
        k: kept_keys,
        v: kept_values,
        shape,
        heads: kv_heads,
        kv_heads,
        head_dim,
        // The keys are rotated.
        rotary: None,
        cache: Some(CacheSlots { keys, values, capacity, at: len }),
    });
}
