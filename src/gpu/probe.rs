//! Choosing the probe, and energies.

use super::{Activations, Driver, Gpu, Indices, Statistics};
use crate::{
    backend::{Grid, Probe},
    prune::settings::ProbeOrder,
};

impl<D: Driver> Gpu<D> {
    pub(super) fn probe_select_kernel(
        &self,
        _sum_squares: &Statistics<D>,
        _grid: Grid,
        _order: ProbeOrder,
        _positions: &Indices<D>,
        _mask: Option<&Indices<D>>,
        _leading_slot_limit: usize,
        _probe: &Probe<Self>,
    ) {
        todo!()
    }

    pub(super) fn energy_kernel(
        &self,
        _a: &Activations<D>,
        _grid: Grid,
        _width: usize,
        _mask: Option<&Indices<D>>,
        _out: &Statistics<D>,
    ) {
        todo!()
    }
}
