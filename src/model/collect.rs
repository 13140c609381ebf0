//! What calibration gathers while batches run: moments of a block's intermediate states, and for linear compensation how
//! they go together with its input.

use super::{Block, block::Context, scratch::Scratch};
use crate::{
    backend::{Backend, Linear, Moments},
    error::Result,
};

/// One block's collection.
#[derive(Debug)]
pub enum Collected<B: Backend> {
    /// First pass: moments of the intermediate states a, and of the block's input for linear maps.
    Moments {
        /// Of a.
        moments: Moments<B>,
        /// Of x.
        inputs: Option<Inputs<B>>,
    },
    /// Second pass: how a goes together with a low-rank image of x.
    Products(Products<B>),
}

/// Moments of a block's normed input x (T, H).
#[derive(Debug)]
pub struct Inputs<B: Backend> {
    /// Means per slot (S, H).
    pub moments: Moments<B>,
    /// Σ x·xᵀ (H, H).
    pub second: B::Statistics,
}

/// Sums of products of z = P·x + p0 with a.
#[derive(Debug)]
pub struct Products<B: Backend> {
    directions: Linear<B>,
    z: B::Activations,
    /// Σ z·aᵀ (r, C).
    pub product: B::Statistics,
}

impl<B: Backend> Inputs<B> {
    /// Nothing seen yet.
    ///
    /// # Errors
    /// If the device has no room for it.
    pub fn new(backend: &B, hidden_size: usize, seq_len: usize) -> Result<Self> {
        let moments = moments(backend, seq_len * hidden_size, false)?;
        Ok(Self { moments, second: backend.statistics(hidden_size * hidden_size)? })
    }
}

impl<B: Backend> Products<B> {
    /// Nothing seen yet, for batches of at most `rows` tokens and `width` channels.
    ///
    /// # Errors
    /// If the device has no room for it.
    pub fn new(backend: &B, directions: Linear<B>, rows: usize, width: usize) -> Result<Self> {
        let rank = directions.out_features;
        let (z, product) = (backend.activations(rows * rank)?, backend.statistics(rank * width)?);
        Ok(Self { directions, z, product })
    }
}

fn moments<B: Backend>(backend: &B, len: usize, flap: bool) -> Result<Moments<B>> {
    let optional = || backend.statistics(if flap { len } else { 0 });
    Ok(Moments {
        energy: backend.statistics(len)?,
        mean: backend.statistics(len)?,
        baseline: optional()?,
        fluctuation: optional()?,
    })
}

impl<B: Backend> Collected<B> {
    /// Moments of `width` channels at `seq_len` slots, none seen yet.
    ///
    /// # Errors
    /// If the device has no room for them.
    pub fn moments(
        backend: &B,
        seq_len: usize,
        width: usize,
        flap: bool,
        inputs: Option<Inputs<B>>,
    ) -> Result<Self> {
        Ok(Self::Moments { moments: moments(backend, seq_len * width, flap)?, inputs })
    }

    /// Adds the batch whose input and intermediate states are in `scratch`, after `seen` samples.
    pub fn add(&mut self, context: &Context<'_, B>, block: Block, seen: usize, scratch: &Scratch<B>) {
        let (backend, config) = (&*context.model.backend, &context.model.config);
        let (grid, h, width) = (context.batch.grid, config.hidden_size, block.channels(config));
        let rows = grid.rows();
        match self {
            Self::Moments { moments, inputs } => {
                backend.accumulate_moments(&scratch.a, grid, width, seen, moments);
                if let Some(Inputs { moments, second }) = inputs {
                    backend.accumulate_moments(&scratch.x, grid, h, seen, moments);
                    backend.accumulate_product(&scratch.x, &scratch.x, rows, [h, h], second);
                }
            }
            Self::Products(Products { directions, z, product }) => {
                backend.linear(&scratch.x, rows, directions, None, None, 1.0, None, z);
                let rank = directions.out_features;
                backend.accumulate_product(z, &scratch.a, rows, [rank, width], product);
            }
        }
    }
}
