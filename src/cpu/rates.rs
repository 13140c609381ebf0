//! What the CPU backend's work costs, by instruction set.

use super::{Tier, product::MOST_ROWS};
use crate::backend::Rates;

impl Tier {
    /// Measured on an Intel Xeon (Emerald Rapids), one thread, by `cargo bench --bench rates`. NEON is taken to be like AVX2; it
    /// was not measured, nor was AMX.
    pub(super) fn rates(self) -> Rates {
        let measured =
            |weights: [f64; 2], attention, [entry, update]: [f64; 2], [operation, choice]: [f64; 2]| Rates {
                weight: weights[0],
                kept_channel: weights[1],
                few_rows: (MOST_ROWS, 0.5),
                overlaps: false,
                least_outputs: 0.0,
                attention,
                entry,
                update,
                operation,
                choice,
                // Pruned batches of SmolLM2-135M took up to a tenth of the dense batch's time longer than these add up to.
                doubt: 0.1,
            };
        match self {
            // Products are taken to be four times as fast as with AVX-512, by the tile instructions' peak and three terms for an
            // activation; all else is as there.
            Self::Amx | Self::AmxEmulated => measured([144.0, 280.0], 6.4, [300.0, 500.0], [2e6, 8e6]),
            Self::Avx512 => measured([36.0, 70.0], 1.6, [75.0, 124.0], [5e5, 2e6]),
            Self::Avx2 | Self::Neon => measured([18.0, 80.0], 1.5, [43.0, 70.0], [3e5, 1.2e6]),
            Self::Portable => measured([5.0, 21.0], 1.3, [7.0, 10.0], [1e5, 2e5]),
        }
    }
}
