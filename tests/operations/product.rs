//! Shared by the cases of products: kept rows, and the product.

use probeprune::config::Activation;

use super::{
    near::{Near, UNIT},
    source::{Stream, wide},
};

/// The rows or columns of a weight that a case keeps.
#[derive(Clone, Debug)]
pub enum Keep {
    /// All, without a list.
    Dense,
    /// `len` blocks of `block_width`.
    Blocks { len: usize, block_width: usize },
    /// The same, of which the last `skipped` are `u32::MAX`, as unused key/value heads are.
    Skipping { len: usize, block_width: usize, skipped: usize },
}

/// Indices of kept blocks.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Ascending; `u32::MAX` is skipped.
    pub indices: Vec<u32>,
    pub block_width: usize,
}

impl Keep {
    /// Blocks of one channel.
    pub fn channels(len: usize) -> Self {
        Self::Blocks { len, block_width: 1 }
    }

    /// Kept blocks of `all` rows.
    pub fn kept(&self, stream: &mut Stream<'_>, all: usize) -> Option<Kept> {
        let (len, block_width, skipped) = match *self {
            Self::Dense => return None,
            Self::Blocks { len, block_width } => (len, block_width, 0),
            Self::Skipping { len, block_width, skipped } => (len, block_width, skipped),
        };
        let mut indices = stream.kept(all / block_width, len);
        indices[len - skipped..].fill(u32::MAX);
        Some(Kept { indices, block_width })
    }

    /// How many of `all` rows are kept, skipped ones included.
    pub fn len(&self, all: usize) -> usize {
        match *self {
            Self::Dense => all,
            Self::Blocks { len, block_width } | Self::Skipping { len, block_width, .. } => len * block_width,
        }
    }
}

/// The row of each output; `None` for a skipped one.
pub fn picked(kept: Option<&Kept>, all: usize) -> Vec<Option<usize>> {
    let Some(Kept { indices, block_width }) = kept else { return (0..all).map(Some).collect() };
    let of = |&block: &u32| {
        (0..*block_width).map(move |i| (block != u32::MAX).then_some(block as usize * block_width + i))
    };
    indices.iter().flat_map(of).collect()
}

/// Whether each of `all` rows is kept.
pub fn used(kept: Option<&Kept>, all: usize) -> Vec<bool> {
    let mut used = vec![false; all];
    picked(kept, all).into_iter().flatten().for_each(|row| used[row] = true);
    used
}

/// An activation in float32.
pub fn activate(x: Near, activation: Option<Activation>) -> Near {
    let Some(activation) = activation else { return x };
    // Approximations may be 4 units in the last place off, and an exponential by its argument's rounding, which is the larger
    // the larger the argument. Where 1 + erf or 1 + tanh cancels, what remains has the roundings of 1; and results that are
    // nearly subnormal may be 0.
    let size = x.magnitude().min(100.0);
    let f = |x: f64| match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        // Not `max`, which would make 0 of NaN.
        Activation::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
        Activation::Gelu => 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt())),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
    };
    match activation {
        Activation::Relu => x.map(f, 0.0),
        Activation::Silu => x.map(f, 8.0 + size).give(1e-36),
        Activation::Gelu | Activation::GeluTanh => x.map(f, 8.0 + size).give(1e-36 + 4.0 * UNIT * size),
    }
}

/// x (rows, k) · wᵀ for the picked rows of w (all, k) in float32; 0 for skipped ones.
pub fn product(x: &[f32], w: &[f32], k: usize, picked: &[Option<usize>]) -> Vec<Near> {
    let (x, w) = (wide(x), wide(w));
    let dot = |x: &[f64], w: &[f64]| Near::dot(x.iter().copied().zip(w.iter().copied()));
    x.chunks_exact(k)
        .flat_map(|x| picked.iter().map(|row| row.map_or(Near::from(0.0), |row| dot(x, &w[row * k..][..k]))))
        .collect()
}
