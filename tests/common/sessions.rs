//! What tests of sessions on two backends compare, and tokens for them.

// Every test program compiles this module but uses only a part of it, and nothing outside it can reach it.
#![allow(dead_code, unreachable_pub)]

use probeprune::{backend::Backend, session::Session};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Kept heads and channels of every layer; none where the block is dense.
pub type Kept = Vec<[Option<Vec<u32>>; 2]>;

pub fn kept<B: Backend>(session: &Session<B>) -> Kept {
    (0..session.model().config.num_hidden_layers)
        .map(|layer| [session.kept_heads(layer).unwrap(), session.kept_channels(layer).unwrap()])
        .collect()
}

/// Σ (got − want)² / Σ want²; infinite where something is not finite.
pub fn nmse(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error: f64 = got.iter().zip(want).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
    let error = error / want.iter().map(|&b| f64::from(b).powi(2)).sum::<f64>();
    if error.is_finite() { error } else { f64::INFINITY }
}

pub fn random_tokens(seed: u64, vocab_size: usize, n: usize) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(0..vocab_size as u32)).collect()
}
