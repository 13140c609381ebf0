//! Compensation of the channels that a probed block prunes (this project's addition; docs/method.md, section 10).
//!
//! A pruned channel c is not 0: over the batch it is about m\[c\] (`probe-mean`), or about B\[c\]·z + b'\[c\] for z = P·x, x the
//! block's normed input (`linear`). m and b' are the probe's mean of a and of a − B·z, drawn towards calibration's mean: a
//! probe of few tokens is a poor estimate of a batch. Energies are taken around a share of these means.
//!
//! So the last projection adds Σ_{c pruned} W\[:,c\]·m\[c\], a vector, and for `linear` the product of z with
//! Σ_{c pruned} W\[:,c\]·B\[c\], a matrix of r columns. Both come from one product of r + 1 rows with the pruned columns of W,
//! computed for every batch because the probe decides which channels are pruned and what m is.

use super::{
    context::BlockContext,
    kept::Kept,
    scratch::{CompensationScratch, Scratch},
};
use crate::{
    backend::{
        Backend, CentreEnergyOperands, EnergyOperands, GatherPrunedOperands, KeptSet, Linear, LinearOperands,
        LowRank, ProjectOperands,
    },
    config::ModelConfig,
    error::Result,
    prune::settings::Compensation as Kind,
};

/// A probed block's compensation.
#[derive(Debug)]
pub struct Compensation<B: Backend> {
    /// The pruned blocks.
    pub pruned: KeptSet<B::Indices>,
    /// m or b' (C): the value of a pruned channel, beside its part of z.
    pub mean: B::Statistics,
    /// (r + 1, H): see [`LowRank`].
    pub weight: B::Activations,
    /// Calibration's mean (C), towards which the probe's is drawn; `None` without calibration.
    pub prior: Option<B::Statistics>,
    /// `linear` only.
    pub map: Option<LinearMap<B>>,
}

/// a ≈ B·z + b with z = P·x + p0, fitted by calibration.
#[derive(Debug)]
pub struct LinearMap<B: Backend> {
    /// P (r, H) with p0 as its bias.
    pub directions: Linear<B>,
    /// −B (C, r): added to a, it leaves the part that z does not explain.
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
        let KeptSet { len, of, block_width, .. } = kept.set;
        Ok(Self {
            pruned: KeptSet { indices: backend.indices(of)?, len: of - len, of, block_width },
            mean: backend.statistics(of * block_width)?,
            weight: backend.activations((rank(&map) + 1) * config.hidden_size)?,
            prior,
            map,
        })
    }

    /// r: 0 without a linear map.
    pub fn rank(&self) -> usize {
        rank(&self.map)
    }

    /// After the choice: the product that the last projection adds for the pruned channels.
    pub fn prepare(
        &mut self,
        backend: &B,
        last: &Linear<B>,
        kept: &Kept<B>,
        scratch: &mut CompensationScratch<B>,
    ) {
        let rank = self.rank();
        backend.gather_pruned(GatherPrunedOperands {
            kept: &kept.set,
            coefficients: self.map.as_ref().map(|map| (&map.coefficients, rank)),
            mean: &self.mean,
            pruned: &mut self.pruned,
            out: &mut scratch.gathered,
        });
        backend.project(ProjectOperands {
            kept: Some(&self.pruned),
            ..ProjectOperands::new(&scratch.gathered, rank + 1, last, &mut self.weight)
        });
    }

    /// z of the whole batch, and the product that the last projection adds.
    pub fn low_rank<'a>(
        &'a self,
        backend: &B,
        x: &B::Activations,
        rows: usize,
        z: &'a mut B::Activations,
    ) -> LowRank<'a, B> {
        if let Some(map) = &self.map {
            backend.linear(LinearOperands::new(x, rows, &map.directions, z));
        }
        LowRank { z, rank: self.rank(), weight: &self.weight }
    }
}

/// The probe's energies around its mean, from its intermediate states in `scratch.a`: of these themselves, or of the part
/// that a linear map does not explain. The mean goes to `compensation`.
pub(super) fn centred_energies<B: Backend>(
    this: BlockContext<'_, B>,
    compensation: &mut Compensation<B>,
    scratch: &mut Scratch<B>,
) {
    let (backend, context) = (this.backend(), this.forward);
    let Scratch { a, p, probe, probe_x, compensation: own, .. } = scratch;
    let CompensationScratch { sums, z, remainder, .. } = own;
    let (shape, channels) = (probe.shape, this.channels());
    let mask = context.batch.padded.then_some(&probe.mask);
    let states = match &compensation.map {
        None => &*a,
        Some(map) => {
            let rows = shape.rows();
            backend.linear(LinearOperands::new(probe_x, rows, &map.directions, z));
            backend.project(ProjectOperands {
                residual: Some(a),
                ..ProjectOperands::new(z, rows, &map.negated, remainder)
            });
            &*remainder
        }
    };
    let sums = &mut *sums;
    backend.energy(EnergyOperands { a: states, shape, channels, mask, out: p, sums: Some(&mut *sums) });
    let Compensation { prior, mean, .. } = compensation;
    let tokens = shape.rows() as f32;
    let weight = tokens / (tokens + context.settings.prior_tokens as f32);
    let prior = prior.as_ref().map(|prior| (prior, weight));
    backend.centre_energy(CentreEnergyOperands {
        energy: p,
        sums,
        shape,
        channels,
        mask,
        prior,
        share: Kind::CENTRED_SHARE,
        mean,
    });
}
