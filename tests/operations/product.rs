//! Shared by the cases of products: kept rows, and the product in f64.

use probeprune::config::Activation;

use super::source::Stream;

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
