//! What stands in for the channels that a probed block prunes (ours; spec compensation).
//!
//! A pruned channel c is not 0: over the batch it is about m\[c\] (`probe-mean`), or about B\[c\]·z + b'\[c\] for z = P·x, x the
//! block's normed input (`linear`). m and b' are the probe's mean of a and of a − B·z, drawn towards calibration's mean: a
//! probe of few tokens is a poor estimate of a batch. Energies are what is left around a share of them.
//!
//! So the last projection adds Σ_{c pruned} W\[:,c\]·m\[c\], a vector, and for `linear` the product of z with
//! Σ_{c pruned} W\[:,c\]·B\[c\], a matrix of r columns. Both come from one product of r + 1 rows with the pruned columns of W,
//! made anew for every batch because the probe decides what is pruned and what m is.

use super::{
    Block,
    block::Context,
    scratch::{CompensationScratch, Scratch},
    selection::Kept,
};
use crate::{
    backend::{Addition, Backend, KeptBlocks, KeptSet, Linear},
    config::ModelConfig,
    error::Result,
    prune::settings::Compensation as Kind,
};

/// A probed block's compensation.
#[derive(Debug)]
pub struct Compensation<B: Backend> {
    /// What is not kept.
    pub pruned: KeptSet<B::Indices>,
    /// m or b' (C): what a pruned channel is taken to be, beside its part of z.
    pub mean: B::Statistics,
    /// (r + 1, H): see [`Addition`].
    pub weight: B::Activations,
    /// What it was over calibration (C), towards which the probe's mean is drawn; `None` without calibration.
    pub prior: Option<B::Statistics>,
    /// `linear` only.
    pub map: Option<LinearMap<B>>,
}

/// a ≈ B·z + b with z = P·x + p0, fitted by calibration.
#[derive(Debug)]
pub struct LinearMap<B: Backend> {
    /// P (r, H) with p0 as its bias.
    pub directions: Linear<B>,
    /// −B (C, r): what it adds to a leaves what z does not explain.
    pub negated: Linear<B>,
    /// Bᵀ (r, C).
    pub coefficients: B::Statistics,
}

fn rank<B: Backend>(map: &Option<LinearMap<B>>) -> usize {
    map.as_ref().map_or(0, |map| map.directions.out_features)
}

impl<B: Backend> Compensation<B> {
    /// Room for the compensation of a block of `channels` that keeps `kept`.
    ///
    /// # Errors
    /// If the device has none.
    pub fn new(
        backend: &B,
        config: &ModelConfig,
        kept: &Kept<B>,
        prior: Option<B::Statistics>,
        map: Option<LinearMap<B>>,
    ) -> Result<Self> {
        let of = kept.set.of;
        Ok(Self {
            pruned: KeptSet { indices: backend.indices(of)?, len: of - kept.set.len, of },
            mean: backend.statistics(of * kept.width)?,
            weight: backend.activations((rank(&map) + 1) * config.hidden_size)?,
            prior,
            map,
        })
    }

    /// r: 0 without a linear map.
    pub fn rank(&self) -> usize {
        rank(&self.map)
    }

    /// After the choice: what the last projection has to add for `pruned`.
    pub fn prepare(
        &mut self,
        backend: &B,
        last: &Linear<B>,
        kept: &Kept<B>,
        scratch: &mut CompensationScratch<B>,
    ) {
        let rank = self.rank();
        let coefficients = self.map.as_ref().map(|map| (&map.coefficients, rank));
        let gathered = &mut scratch.gathered;
        backend.gather_pruned(kept.blocks(), coefficients, &self.mean, &mut self.pruned, gathered);
        let pruned = KeptBlocks { set: &self.pruned, width: kept.width };
        backend.project(gathered, rank + 1, last, Some(pruned), None, None, None, &mut self.weight);
    }

    /// z of the whole batch, and what the last projection adds.
    pub fn addition<'a>(
        &'a self,
        backend: &B,
        x: &B::Activations,
        rows: usize,
        z: &'a mut B::Activations,
    ) -> Addition<'a, B> {
        if let Some(map) = &self.map {
            backend.linear(x, rows, &map.directions, None, None, 1.0, None, z);
        }
        Addition { z, rank: self.rank(), weight: &self.weight }
    }
}

/// The probe's energies around its mean, from its intermediate states in `scratch.a`: of these themselves, or of what a
/// linear map leaves of them. The mean goes to `compensation`.
pub fn centred_energies<B: Backend>(
    context: &Context<'_, B>,
    block: Block,
    compensation: &mut Compensation<B>,
    scratch: &mut Scratch<B>,
) {
    let backend = &*context.model.backend;
    let Scratch { a, p, probe, probe_x, compensation: own, .. } = scratch;
    let CompensationScratch { sums, z, remainder, .. } = own;
    let (grid, width) = (probe.grid, block.channels(&context.model.config));
    let mask = context.batch.padded.then_some(&probe.mask);
    let states = match &compensation.map {
        None => &*a,
        Some(map) => {
            let rows = grid.rows();
            backend.linear(probe_x, rows, &map.directions, None, None, 1.0, None, z);
            backend.project(z, rows, &map.negated, None, None, None, Some(a), remainder);
            &*remainder
        }
    };
    backend.energy(states, grid, width, mask, p, Some(sums));
    let Compensation { prior, mean, .. } = compensation;
    let tokens = grid.rows() as f32;
    let weight = tokens / (tokens + context.settings.prior_tokens as f32);
    let prior = prior.as_ref().map(|prior| (prior, weight));
    backend.centre_energy(p, sums, grid, width, mask, prior, Kind::CENTRED_SHARE, mean);
}
