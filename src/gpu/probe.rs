//! Choosing the probe, and energies.

use super::{
    Activations, Driver, Geometry, Gpu, Indices, Kernel, PerDtype, Statistics,
    args::{EnergyArgs, ProbeSelectArgs},
    per_dtype,
};
use crate::{
    backend::{Grid, Probe},
    prune::settings::ProbeOrder,
};

const PROBE_SELECT: Kernel = Kernel { module: "probe_select", name: "probe_select" };
const PROBE_SELECT_LARGE: Kernel = Kernel { module: "probe_select", name: "probe_select_large" };
const ENERGY: PerDtype = per_dtype!("energy");

/// Most tokens or samples whose keys are held in shared memory.
const STAGED: usize = 8192;

impl<D: Driver> Gpu<D> {
    pub(super) fn probe_select_kernel(
        &self,
        sum_squares: &Statistics<D>,
        grid: Grid,
        order: ProbeOrder,
        positions: &Indices<D>,
        mask: Option<&Indices<D>>,
        leading_slot_limit: usize,
        probe: &Probe<Self>,
    ) {
        let Grid { samples, tokens } = probe.grid;
        debug_assert!(order != ProbeOrder::Tokens || samples == grid.samples, "every sample is in the probe");
        debug_assert!(order != ProbeOrder::Samples || tokens == grid.tokens, "every token is in the probe");
        if probe.grid.rows() == 0 {
            return;
        }
        let arguments = ProbeSelectArgs {
            sum_squares: self.floats(sum_squares),
            positions: self.words(positions),
            mask: self.optional_words(mask),
            samples: self.words(&probe.samples),
            slots: self.words(&probe.slots),
            probe_positions: self.words(&probe.positions),
            probe_mask: self.words(&probe.mask),
            batch: grid.samples as i32,
            tokens: grid.tokens as i32,
            kept_samples: samples as i32,
            kept_tokens: tokens as i32,
            tokens_first: matches!(order, ProbeOrder::TokensSamples | ProbeOrder::Tokens).into(),
            leading: (tokens <= leading_slot_limit).into(),
        };
        let keys = grid.samples.max(grid.tokens);
        let (kernel, shared) = if keys <= STAGED {
            (PROBE_SELECT, 4 * keys.next_multiple_of(4) as u32 + 16)
        } else {
            (PROBE_SELECT_LARGE, 0)
        };
        self.launch(kernel, Geometry { grid: [1; 3], threads: 1024, shared }, &arguments);
    }

    pub(super) fn energy_kernel(
        &self,
        a: &Activations<D>,
        grid: Grid,
        width: usize,
        mask: Option<&Indices<D>>,
        out: &Statistics<D>,
        sums: Option<&Statistics<D>>,
    ) {
        const THREADS: usize = 128;
        let arguments = EnergyArgs {
            a: self.elements(a),
            mask: self.optional_words(mask),
            out: self.floats(out),
            sums: self.optional_floats(sums),
            batch: grid.samples as i32,
            tokens: grid.tokens as i32,
            width: width as i32,
            reserved: 0,
        };
        let sums = grid.tokens * width;
        let threads = if width.is_multiple_of(8) { sums / 8 } else { sums };
        let blocks = threads.div_ceil(THREADS) as u32;
        let geometry = Geometry { grid: [blocks, 1, 1], threads: THREADS as u32, shared: 0 };
        self.launch(self.of_dtype(ENERGY), geometry, &arguments);
    }
}
