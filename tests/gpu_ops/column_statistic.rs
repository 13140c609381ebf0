//! `column_statistic`: Σ |w|, Σ w², sqrt(Σ w⁴) over a last projection's columns.

use probeprune::{gpu::GpuDtype, prune::settings::Metric};

use crate::{
    case::{DTYPES, check, check_traffic},
    operations::StatisticCase,
};

#[test]
fn column_statistic() {
    for dtype in DTYPES {
        for metric in [Metric::Ppsp, Metric::WandaSp, Metric::Flap] {
            for (channels, out_features) in [(1, 1), (9, 7), (8, 8), (33, 31), (17, 264), (5, 1000)] {
                check(&StatisticCase { metric, channels, out_features, scale: 1.0 }, dtype);
            }
        }
    }
}

#[test]
fn fourth_powers_beyond_f32_are_summed() {
    // w⁴ is about 2^-160, and 2^160.
    for scale in [2f32.powi(-40), 2f32.powi(40)] {
        let case = StatisticCase { metric: Metric::Ppsp, channels: 3, out_features: 64, scale };
        check(&case, GpuDtype::Bf16);
    }
}

#[test]
fn column_statistic_moves_what_its_header_says() {
    let case = StatisticCase { metric: Metric::Flap, channels: 64, out_features: 4096, scale: 1.0 };
    check_traffic(&case, GpuDtype::F16);
}
