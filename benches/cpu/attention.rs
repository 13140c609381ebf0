//! Causal attention alone, one sequence, against PyTorch's scaled_dot_product_attention.

use std::array;

use probeprune::{
    backend::{AttentionOperands, AttentionShape, Backend},
    cpu::{Buffer, Cpu},
    prune::BatchShape,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::{
    peer::Peers,
    samples::{Samples, run, seconds},
};

/// Those of SmolLM2-135M's queries, each with a key/value head of its own.
const HEADS: usize = 9;
const HEAD_DIM: usize = 64;

/// One length.
pub fn measure(rounds: usize, backend: &Cpu, peers: &Peers, tokens: usize) -> Value {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let len = tokens * HEADS * HEAD_DIM;
    let [q, k, v]: [Buffer<f32>; 3] =
        array::from_fn(|_| (0..len).map(|_| rng.random_range(-1.0..1.0)).collect::<Vec<f32>>().into());
    let mut out = vec![0.0; len].into();
    let kv_head_of = (0..HEADS as u32).collect::<Vec<u32>>().into();
    let shape = AttentionShape {
        queries: BatchShape { samples: 1, tokens },
        keys: tokens,
        key_capacity: tokens,
        heads: HEADS,
        kv_heads: HEADS,
        head_dim: HEAD_DIM,
        scale: (HEAD_DIM as f32).powf(-0.5),
        window: None,
    };
    let mut once = || {
        let operands = AttentionOperands {
            q: &q,
            k: &k,
            v: &v,
            shape,
            kv_head_of: &kv_head_of,
            mask: None,
            slots: None,
            out: &mut out,
        };
        backend.scope(|| backend.attention(operands));
    };
    let asked = format!("sdpa {tokens}");
    let mut runs = vec![run("ours", || seconds(&mut once))];
    let pytorch = peers.pytorch_run("PyTorch", &asked);
    let has_pytorch = pytorch.is_some();
    runs.extend(pytorch);
    let measured = Samples::of_turns(rounds, runs);
    json!({ "seq": tokens, "seconds": measured.median("ours"),
        "speed_over_pytorch": has_pytorch.then(|| measured.ratio("PyTorch", "ours", 1.0)) })
}
