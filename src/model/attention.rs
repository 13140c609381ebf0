//! The attention block: from its norm's output to its intermediate states.

use crate::{
    backend::{AttentionShape, Backend, CacheSlots, Grid, Placement},
    config::{Family, ModelConfig},
    kv_cache::LayerCache,
    model::selection::Kept,
    weights::Attention,
};

/// Rows that attend to each other.
#[derive(Debug)]
pub struct Rows<'a, B: Backend> {
    /// Samples × new tokens.
    pub grid: Grid,
    /// Position of every row.
    pub positions: &'a B::Indices,
    /// 0 hides a key: (B, S), or (B, capacity) with a cache.
    pub mask: Option<&'a B::Indices>,
    /// The slots of a probe's tokens (S_p).
    pub slots: Option<&'a B::Indices>,
}

/// Buffers for q, k and v of those rows.
#[derive(Debug)]
pub struct Qkv<'a, B: Backend> {
    /// (T, N·D).
    pub q: &'a mut B::Activations,
    /// (T, K·D).
    pub k: &'a mut B::Activations,
    /// (T, K·D).
    pub v: &'a mut B::Activations,
    /// The key/value head of every query head when nothing is pruned.
    pub dense_kv_slots: &'a B::Indices,
    /// Rotary table.
    pub rope_table: &'a B::Statistics,
}

/// Where keys and values of earlier tokens are: the layer's cache, its capacity, and the slots filled before.
pub type Past<'a, B> = Option<(&'a mut LayerCache<B>, usize, usize)>;

/// a (T, kept heads · D) = causal attention of x (T, H).
pub fn intermediate<B: Backend>(
    backend: &B,
    config: &ModelConfig,
    attention: &Attention<B>,
    x: &B::Activations,
    rows: Rows<'_, B>,
    kept: Option<&Kept<B>>,
    qkv: Qkv<'_, B>,
    past: Past<'_, B>,
    a: &mut B::Activations,
) {
    let Qkv { q, k, v, dense_kv_slots, rope_table } = qkv;
    let (t, d) = (rows.grid.rows(), config.head_dim);
    let kv = kept.and_then(|kept| kept.kv.as_ref());
    let heads = kept.map_or(config.num_attention_heads, |kept| kept.set.len);
    let kv_heads = kv.map_or(config.num_key_value_heads, |kv| kv.set.len);
    let kv_blocks = kv.map(|kv| crate::backend::KeptBlocks { set: &kv.set, width: d });

    // OPT scales q, bias included, before attention; LLaMA scales the products.
    let scale = (d as f32).powf(-0.5);
    let (q_scale, product_scale) = if config.family == Family::Opt { (scale, 1.0) } else { (1.0, scale) };
    backend.linear(x, t, &attention.q_proj, kept.map(Kept::blocks), None, q_scale, None, q);
    backend.linear(x, t, &attention.k_proj, kv_blocks, None, 1.0, None, k);
    backend.linear(x, t, &attention.v_proj, kv_blocks, None, 1.0, None, v);

    let mut shape = AttentionShape {
        queries: rows.grid,
        keys: rows.grid.tokens,
        key_capacity: rows.grid.tokens,
        heads,
        kv_heads,
        head_dim: d,
        scale: product_scale,
        window: config.sliding_window,
    };
    if let Some((_, capacity, len)) = &past {
        shape.keys = len + rows.grid.tokens;
        shape.key_capacity = *capacity;
    }
    let (rotary, grid) = (config.rope.as_ref().map(|_| (rope_table, rows.positions)), rows.grid);
    let place = |q: &mut _, k: &mut _, v: &_, cache| {
        let placement = Placement { grid, heads, kv_heads, head_dim: d, rotary, cache };
        backend.place_qkv(q, k, v, placement);
    };
    let (keys, values) = match past {
        None => {
            place(q, k, v, None);
            (&*k, &*v)
        }
        Some((LayerCache { keys, values }, capacity, at)) => {
            place(q, k, v, Some(CacheSlots { keys: &mut *keys, values: &mut *values, capacity, at }));
            (&*keys, &*values)
        }
    };
    let kv_slots = kv.map_or(dense_kv_slots, |kv| &kv.slots);
    backend.attention(q, keys, values, shape, kv_slots, rows.mask, rows.slots, a);
}
