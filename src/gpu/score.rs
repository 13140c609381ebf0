//! Scores, kept sets, history and calibration moments.

use super::{Activations, Driver, Gpu, Indices, Statistics};
use crate::{
    backend::{Fusion, Grid, History, KeptBlocks, KeptSet, Moments},
    prune::settings::Metric,
};

impl<D: Driver> Gpu<D> {
    pub(super) fn channel_score_kernel(
        &self,
        _p: &Statistics<D>,
        _tokens: usize,
        _width: usize,
        _fusion: Fusion<'_, Self>,
        _metric: Metric,
        _statistic: &Statistics<D>,
        _head_dim: Option<usize>,
        _out: &Statistics<D>,
    ) {
        todo!()
    }

    pub(super) fn top_k_keep_kernel(
        &self,
        _scores: &Statistics<D>,
        _kept: &KeptSet<Indices<D>>,
        _tag: u32,
        _fault: &Indices<D>,
    ) {
        todo!()
    }

    pub(super) fn check_finite_kernel(
        &self,
        _values: &Statistics<D>,
        _len: usize,
        _tag: u32,
        _fault: &Indices<D>,
    ) {
        todo!()
    }

    pub(super) fn keep_kv_heads_kernel(
        &self,
        _heads: &KeptSet<Indices<D>>,
        _group: usize,
        _kv_kept: &KeptSet<Indices<D>>,
        _kv_slots: &Indices<D>,
    ) {
        todo!()
    }

    pub(super) fn history_update_kernel(
        &self,
        _p: &Statistics<D>,
        _tokens: usize,
        _at: usize,
        _kept: KeptBlocks<'_, Indices<D>>,
        _momentum: f64,
        _history: &History<Self>,
    ) {
        todo!()
    }

    pub(super) fn accumulate_moments_kernel(
        &self,
        _a: &Activations<D>,
        _grid: Grid,
        _width: usize,
        _seen: usize,
        _moments: &Moments<Self>,
    ) {
        todo!()
    }
}
