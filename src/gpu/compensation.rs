//! What compensation of pruned channels needs beside the products.

use super::{
    Activations, Driver, Geometry, Gpu, Indices, Kernel, PerDtype, Statistics,
    args::{AccumulateProductArgs, CentreEnergyArgs, GatherPrunedArgs},
    per_dtype,
};
use crate::backend::{Grid, KeptBlocks, KeptSet};

const CENTRE_ENERGY: Kernel = Kernel { module: "centre_energy", name: "centre_energy" };
const GATHER_PRUNED: PerDtype = per_dtype!("gather_pruned");
const ACCUMULATE_PRODUCT: PerDtype = per_dtype!("accumulate_product");

const THREADS: u32 = 256;

impl<D: Driver> Gpu<D> {
    pub(super) fn centre_energy_kernel(
        &self,
        energy: &Statistics<D>,
        sums: &Statistics<D>,
        grid: Grid,
        width: usize,
        mask: Option<&Indices<D>>,
        prior: Option<(&Statistics<D>, f32)>,
        mean: &Statistics<D>,
    ) {
        let arguments = CentreEnergyArgs {
            energy: self.floats(energy),
            sums: self.floats(sums),
            mask: self.optional_words(mask),
            prior: self.optional_floats(prior.map(|(prior, _)| prior)),
            mean: self.floats(mean),
            batch: grid.samples as i32,
            tokens: grid.tokens as i32,
            width: width as i32,
            weight: prior.map_or(1.0, |(_, weight)| weight),
        };
        let geometry = Geometry { grid: [width.div_ceil(32) as u32, 1, 1], threads: THREADS, shared: 0 };
        self.launch(CENTRE_ENERGY, geometry, &arguments);
    }

    pub(super) fn gather_pruned_kernel(
        &self,
        kept: KeptBlocks<'_, Indices<D>>,
        rows: Option<(&Statistics<D>, usize)>,
        last: &Statistics<D>,
        pruned: &KeptSet<Indices<D>>,
        out: &Activations<D>,
    ) {
        debug_assert_eq!(pruned.len + kept.set.len, kept.set.of, "a unit is kept or pruned");
        let channels = kept.set.of * kept.width;
        let arguments = GatherPrunedArgs {
            kept: self.words(&kept.set.indices),
            rows: self.optional_floats(rows.map(|(rows, _)| rows)),
            last: self.floats(last),
            pruned: self.words(&pruned.indices),
            out: self.elements(out),
            count: kept.set.len as i32,
            width: kept.width as i32,
            channels: channels as i32,
            rank: rows.map_or(0, |(_, rank)| rank as i32),
        };
        let blocks = channels.div_ceil(THREADS as usize) as u32;
        let geometry = Geometry { grid: [blocks, 1, 1], threads: THREADS, shared: 0 };
        self.launch(self.of_dtype(GATHER_PRUNED), geometry, &arguments);
    }

    pub(super) fn accumulate_product_kernel(
        &self,
        a: &Activations<D>,
        b: &Activations<D>,
        rows: usize,
        [m, n]: [usize; 2],
        out: &Statistics<D>,
    ) {
        const TILE: usize = 64;
        let arguments = AccumulateProductArgs {
            a: self.elements(a),
            b: self.elements(b),
            out: self.floats(out),
            rows: rows as i32,
            m: m as i32,
            n: n as i32,
            reserved: 0,
        };
        let grid = [n.div_ceil(TILE) as u32, m.div_ceil(TILE) as u32, 1];
        self.launch(
            self.of_dtype(ACCUMULATE_PRODUCT),
            Geometry { grid, threads: THREADS, shared: 0 },
            &arguments,
        );
    }
}
