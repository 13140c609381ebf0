//! Row-wise operations: embedding, norms, gathering rows, rotary positions and the key/value cache.

use super::{
    Activations, Driver, Geometry, Gpu, Indices, PerDtype, Statistics, Weight, args::NormArgs, per_dtype,
};
use crate::backend::{Grid, Norm, NormKind, Probe};

const NORM: PerDtype = per_dtype!("norm");

impl<D: Driver> Gpu<D> {
    pub(super) fn norm_kernel(
        &self,
        x: &Activations<D>,
        norm: Option<&Norm<Self>>,
        rows: usize,
        width: usize,
        out: &Activations<D>,
        sum_squares: &Statistics<D>,
    ) {
        let arguments = NormArgs {
            x: self.elements(x),
            weight: self.optional_floats(norm.and_then(|norm| norm.weight.as_ref())),
            bias: self.optional_floats(norm.and_then(|norm| norm.bias.as_ref())),
            out: self.elements(out),
            sum_squares: self.floats(sum_squares),
            rows: rows as i32,
            width: width as i32,
            kind: match norm.map(|norm| norm.kind) {
                None => 0,
                Some(NormKind::Rms) => 1,
                Some(NormKind::Layer) => 2,
            },
            eps: norm.map_or(0.0, |norm| norm.eps),
        };
        let geometry = Geometry { grid: [rows as u32, 1, 1], threads: 256, shared: 0 };
        self.launch(self.of_dtype(NORM), geometry, &arguments);
    }

    pub(super) fn embed_kernel(
        &self,
        _table: &Weight<D>,
        _tokens: &Indices<D>,
        _position_table: Option<(&Weight<D>, &Indices<D>)>,
        _rows: usize,
        _out: &Activations<D>,
    ) {
        todo!()
    }

    pub(super) fn probe_gather_kernel(
        &self,
        _x: &Activations<D>,
        _grid: Grid,
        _width: usize,
        _probe: &Probe<Self>,
        _out: &Activations<D>,
    ) {
        todo!()
    }
}
