//! Products with weights: rows of first projections, columns of last ones, dense or restricted to what is kept.
//! Few rows go to the matrix-vector kernels of [`super::gemv`].

use super::{Activations, Driver, Gpu, Indices, Statistics};
use crate::{
    backend::{EnergyOf, KeptBlocks, Linear},
    config::Activation,
};

impl<D: Driver> Gpu<D> {
    pub(super) fn linear_kernel(
        &self,
        _x: &Activations<D>,
        _rows: usize,
        _projection: &Linear<Self>,
        _kept: Option<KeptBlocks<'_, Indices<D>>>,
        _activation: Option<Activation>,
        _scale: f32,
        _energy: Option<EnergyOf<'_, Self>>,
        _out: &Activations<D>,
    ) {
        todo!()
    }

    pub(super) fn gated_linear_kernel(
        &self,
        _x: &Activations<D>,
        _rows: usize,
        _gate: &Linear<Self>,
        _up: &Linear<Self>,
        _kept: Option<KeptBlocks<'_, Indices<D>>>,
        _activation: Activation,
        _energy: Option<EnergyOf<'_, Self>>,
        _out: &Activations<D>,
    ) {
        todo!()
    }

    pub(super) fn logits_kernel(
        &self,
        _x: &Activations<D>,
        _rows: usize,
        _head: &Linear<Self>,
        _out: &Statistics<D>,
    ) {
        todo!()
    }

    pub(super) fn project_kernel(
        &self,
        _a: &Activations<D>,
        _rows: usize,
        _projection: &Linear<Self>,
        _kept: Option<KeptBlocks<'_, Indices<D>>>,
        _bias: Option<&Statistics<D>>,
        _residual: Option<&Activations<D>>,
        _out: &Activations<D>,
    ) {
        todo!()
    }
}
