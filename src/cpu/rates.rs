//! What the CPU backend's work costs, by instruction set.

use super::Tier;
use crate::backend::Rates;

impl Tier {
    /// Measured on an Intel Xeon (Sapphire Rapids) by `cargo bench --bench rates`. NEON is taken to be like AVX2; it was not
    /// measured, nor was AMX.
    pub(super) fn rates(self) -> Rates {
        let measured =
            |weights: [f64; 2], attention, [entry, update]: [f64; 2], [operation, choice]: [f64; 2]| Rates {
                weight: weights[0],
                kept_channel: weights[1],
                overlaps: false,
                least_outputs: 0.0,
                attention,
                entry,
                update,
                operation,
                choice,
                doubt: 0.0,
            };
        match self {
            // Products are taken to be four times as fast as with AVX-512, by the tile instructions' peak and three terms for an
            // activation; all else is as there.
            Self::Amx | Self::AmxEmulated => {
                let rates = measured([144.0, 360.0], 6.4, [300.0, 3000.0], [2.4e6, 8e6]);
                Rates { doubt: 0.05, ..rates }
            }
            Self::Avx512 => measured([36.0, 90.0], 1.6, [75.0, 750.0], [6e5, 2e6]),
            Self::Avx2 | Self::Neon => measured([18.0, 82.0], 1.5, [42.0, 360.0], [4e5, 1.2e6]),
            Self::Portable => measured([4.0, 23.0], 1.3, [7.0, 45.0], [1e5, 2e5]),
        }
    }
}
