//! Calibration's collectors: moments of a block's intermediate states, and for linear compensation their products with
//! its input.

use super::{context::BlockContext, scratch::Scratch};
use crate::{
    backend::{
        AccumulateMomentsOperands, AccumulateProductOperands, Backend, Linear, LinearOperands, Moments,
    },
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
        /// Σ a·aᵀ (C, C), for folds.
        second: Option<B::Statistics>,
    },
    /// Σ a·aᵀ (C, C) only.
    Second(B::Statistics),
    /// Nothing of this block in this pass.
    Nothing,
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
    /// Nothing seen yet, for batches of at most `rows` tokens and `channels` channels.
    ///
    /// # Errors
    /// If the device has no room for it.
    pub fn new(backend: &B, directions: Linear<B>, rows: usize, channels: usize) -> Result<Self> {
        let rank = directions.out_features;
        let (z, product) = (backend.activations(rows * rank)?, backend.statistics(rank * channels)?);
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
    /// Moments of `channels` channels at `seq_len` slots, none seen yet.
    ///
    /// # Errors
    /// If the device has no room for them.
    pub fn moments(
        backend: &B,
        seq_len: usize,
        channels: usize,
        flap: bool,
        inputs: Option<Inputs<B>>,
        second: Option<B::Statistics>,
    ) -> Result<Self> {
        Ok(Self::Moments { moments: moments(backend, seq_len * channels, flap)?, inputs, second })
    }

    /// Adds the batch whose input and intermediate states are in `scratch`, after `seen` samples.
    pub(super) fn add(&mut self, this: BlockContext<'_, B>, seen: usize, scratch: &Scratch<B>) {
        let (backend, shape, channels) = (this.backend(), this.forward.batch.shape, this.channels());
        let (h, rows, Scratch { a, x, .. }) = (this.forward.model.config.hidden_size, shape.rows(), scratch);
        let add_second = |out: &mut B::Statistics| {
            let columns = [channels, channels];
            backend.accumulate_product(AccumulateProductOperands { a, b: a, rows, columns, out });
        };
        match self {
            Self::Moments { moments, inputs, second } => {
                backend.accumulate_moments(AccumulateMomentsOperands { a, shape, channels, seen, moments });
                if let Some(Inputs { moments, second }) = inputs {
                    let of_x = AccumulateMomentsOperands { a: x, shape, channels: h, seen, moments };
                    backend.accumulate_moments(of_x);
                    let of_x = AccumulateProductOperands { a: x, b: x, rows, columns: [h, h], out: second };
                    backend.accumulate_product(of_x);
                }
                if let Some(second) = second {
                    add_second(second);
                }
            }
            Self::Second(second) => add_second(second),
            Self::Nothing => {}
            Self::Products(Products { directions, z, product }) => {
                backend.linear(LinearOperands::new(x, rows, directions, z));
                let columns = [directions.out_features, channels];
                backend.accumulate_product(AccumulateProductOperands {
                    a: z,
                    b: a,
                    rows,
                    columns,
                    out: product,
                });
            }
        }
    }
}
