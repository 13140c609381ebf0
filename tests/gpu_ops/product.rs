//! What the cases of products share: inputs, kept rows, and the product in f64.

use probeprune::{config::Activation, gpu::GpuDtype};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::case::{elements, subset, unit_roundoff};

/// Which rows or columns of a weight a case keeps.
#[derive(Clone, Debug)]
pub enum Keep {
    /// All, without a list.
    Dense,
    /// So many blocks of `width`, chosen at random.
    Blocks { len: usize, width: usize },
    /// Blocks of `width`, the last of which are skipped, as unused key/value heads are.
    Skipping { len: usize, width: usize },
}

impl Keep {
    /// Indices of kept blocks of `all` rows; `u32::MAX` is skipped.
    pub fn indices(&self, rng: &mut ChaCha8Rng, all: usize) -> Option<(Vec<u32>, usize)> {
        match *self {
            Keep::Dense => None,
            Keep::Blocks { len, width } => Some((subset(rng, all / width, len), width)),
            Keep::Skipping { len, width } => {
                let mut indices = subset(rng, all / width, len);
                indices[len.div_ceil(2)..].fill(u32::MAX);
                Some((indices, width))
            }
        }
    }
}

/// The row that each output has; `None` for a skipped one.
pub fn picked(kept: &Option<(Vec<u32>, usize)>, all: usize) -> Vec<Option<usize>> {
    match kept {
        None => (0..all).map(Some).collect(),
        Some((indices, width)) => {
            let of = |&block: &u32| {
                (0..*width).map(move |i| (block != u32::MAX).then_some(block as usize * width + i))
            };
            indices.iter().flat_map(of).collect()
        }
    }
}

/// Weights whose products with values in −1..1 have a variance near 1.
pub fn weights(rng: &mut ChaCha8Rng, dtype: GpuDtype, rows: usize, columns: usize) -> Vec<f32> {
    let scale = (2.0 / columns as f32).sqrt();
    let values: Vec<f32> = (0..rows * columns).map(|_| rng.random_range(-1.0f32..1.0) * scale).collect();
    values.into_iter().map(|x| crate::case::rounded(dtype, x)).collect()
}

/// x (rows, width).
pub fn inputs(rng: &mut ChaCha8Rng, dtype: GpuDtype, rows: usize, width: usize) -> Vec<f32> {
    elements(rng, dtype, rows * width)
}

/// An activation in f64.
pub fn activate(x: f64, activation: Option<Activation>) -> f64 {
    match activation {
        None => x,
        Some(Activation::Silu) => x / (1.0 + (-x).exp()),
        Some(Activation::Relu) => x.max(0.0),
        Some(Activation::Gelu) => 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt())),
        Some(Activation::GeluTanh) => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
    }
}

/// x (rows, k) · wᵀ for the picked rows of w (all, k); 0 for skipped ones.
pub fn product(x: &[f64], w: &[f64], k: usize, picked: &[Option<usize>]) -> Vec<f64> {
    x.chunks_exact(k)
        .flat_map(|x| {
            picked.iter().map(|row| {
                row.map_or(0.0, |row| x.iter().zip(&w[row * k..][..k]).map(|(x, w)| x * w).sum::<f64>())
            })
        })
        .collect()
}

/// One rounding of values up to 5 rms, and f32 sums before it.
pub fn tolerance(dtype: GpuDtype) -> f64 {
    5.0 * unit_roundoff(dtype) + 1e-5
}
