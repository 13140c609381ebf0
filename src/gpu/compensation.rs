//! Compensation of pruned channels, except its products.

use super::{
    Driver, Geometry, Gpu, Kernel, PerDtype,
    args::{AccumulateProductArgs, CentreEnergyArgs, GatherPrunedArgs},
    per_dtype,
};
use crate::backend::{AccumulateProductOperands, CentreEnergyOperands, GatherPrunedOperands};

const CENTRE_ENERGY: Kernel = Kernel { module: "centre_energy", name: "centre_energy" };
const GATHER_PRUNED: PerDtype = per_dtype!("gather_pruned");
const ACCUMULATE_PRODUCT: PerDtype = per_dtype!("accumulate_product");

const THREADS: u32 = 256;

impl<D: Driver> Gpu<D> {
    pub(super) fn centre_energy_kernel(&self, operands: CentreEnergyOperands<'_, Self>) {
        let CentreEnergyOperands { energy, sums, shape, channels, mask, prior, share, mean } = operands;
        let arguments = CentreEnergyArgs {
            energy: self.floats(energy),
            sums: self.floats(sums),
            mask: self.optional_words(mask),
            prior: self.optional_floats(prior.map(|(prior, _)| prior)),
            mean: self.floats(mean),
            samples: shape.samples as i32,
            tokens: shape.tokens as i32,
            channels: channels as i32,
            weight: prior.map_or(1.0, |(_, weight)| weight),
            share,
            reserved: 0,
        };
        let geometry = Geometry { grid: [channels.div_ceil(32) as u32, 1, 1], threads: THREADS, shared: 0 };
        self.launch(CENTRE_ENERGY, geometry, &arguments);
    }

    pub(super) fn gather_pruned_kernel(&self, operands: GatherPrunedOperands<'_, Self>) {
        let GatherPrunedOperands { kept, coefficients, mean, pruned, out } = operands;
        debug_assert_eq!(pruned.len + kept.len, kept.of, "a block is kept or pruned");
        let channels = kept.of * kept.block_width;
        let arguments = GatherPrunedArgs {
            kept: self.words(&kept.indices),
            coefficients: self.optional_floats(coefficients.map(|(coefficients, _)| coefficients)),
            mean: self.floats(mean),
            pruned: self.words(&pruned.indices),
            out: self.elements(out),
            count: kept.len as i32,
            block_width: kept.block_width as i32,
            channels: channels as i32,
            rank: coefficients.map_or(0, |(_, rank)| rank as i32),
        };
        let blocks = channels.div_ceil(THREADS as usize) as u32;
        let geometry = Geometry { grid: [blocks, 1, 1], threads: THREADS, shared: 0 };
        self.launch(self.of_dtype(GATHER_PRUNED), geometry, &arguments);
    }

    pub(super) fn accumulate_product_kernel(&self, operands: AccumulateProductOperands<'_, Self>) {
        const TILE: usize = 64;
        let AccumulateProductOperands { a, b, rows, columns: [m, n], out } = operands;
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
