//! Choosing the probe, and energies.

use super::{
    Driver, Geometry, Gpu, Kernel, PerDtype,
    args::{EnergyArgs, ProbeSelectArgs},
    per_dtype,
};
use crate::{
    backend::{EnergyOperands, ProbeSelectOperands},
    prune::{BatchShape, settings::ProbeOrder},
};

const PROBE_SELECT: Kernel = Kernel { module: "probe_select", name: "probe_select" };
const PROBE_SELECT_LARGE: Kernel = Kernel { module: "probe_select", name: "probe_select_large" };
const ENERGY: PerDtype = per_dtype!("energy");

/// Most tokens or samples whose keys are held in shared memory.
const STAGED: usize = 8192;

impl<D: Driver> Gpu<D> {
    pub(super) fn probe_select_kernel(&self, operands: ProbeSelectOperands<'_, Self>) {
        let ProbeSelectOperands { sum_squares, shape, order, positions, mask, leading_slot_limit, probe } =
            operands;
        let BatchShape { samples, tokens } = probe.shape;
        debug_assert!(
            order != ProbeOrder::Tokens || samples == shape.samples,
            "every sample is in the probe"
        );
        debug_assert!(order != ProbeOrder::Samples || tokens == shape.tokens, "every token is in the probe");
        if probe.shape.rows() == 0 {
            return;
        }
        let arguments = ProbeSelectArgs {
            sum_squares: self.floats(sum_squares),
            positions: self.words(positions),
            mask: self.optional_words(mask),
            probe_samples: self.words(&probe.samples),
            probe_slots: self.words(&probe.slots),
            probe_positions: self.words(&probe.positions),
            probe_mask: self.words(&probe.mask),
            samples: shape.samples as i32,
            tokens: shape.tokens as i32,
            kept_samples: samples as i32,
            kept_tokens: tokens as i32,
            tokens_first: matches!(order, ProbeOrder::TokensSamples | ProbeOrder::Tokens).into(),
            keep_leading_slot: (tokens <= leading_slot_limit).into(),
        };
        let keys = shape.samples.max(shape.tokens);
        let (kernel, shared) = if keys <= STAGED {
            (PROBE_SELECT, 4 * keys.next_multiple_of(4) as u32 + 16)
        } else {
            (PROBE_SELECT_LARGE, 0)
        };
        self.launch(kernel, Geometry { grid: [1; 3], threads: 1024, shared }, &arguments);
    }

    pub(super) fn energy_kernel(&self, operands: EnergyOperands<'_, Self>) {
        const THREADS: usize = 128;
        let EnergyOperands { a, shape, channels, mask, out, sums } = operands;
        let arguments = EnergyArgs {
            a: self.elements(a),
            mask: self.optional_words(mask),
            out: self.floats(out),
            sums: self.optional_floats(sums.as_deref()),
            samples: shape.samples as i32,
            tokens: shape.tokens as i32,
            channels: channels as i32,
            reserved: 0,
        };
        let energies = shape.tokens * channels;
        let threads = if channels.is_multiple_of(8) { energies / 8 } else { energies };
        let blocks = threads.div_ceil(THREADS) as u32;
        let geometry = Geometry { grid: [blocks, 1, 1], threads: THREADS as u32, shared: 0 };
        self.launch(self.of_dtype(ENERGY), geometry, &arguments);
    }
}
