//! `column_statistic`: Σ |w|, Σ w², sqrt(Σ w⁴) over a last projection's columns.

use probeprune::{gpu::GpuDtype, prune::settings::Metric};

use crate::{
    case::{DTYPES, check, check_on_the_cpu, check_once, check_specials, check_traffic, launched_all_of},
    operations::StatisticCase,
    steps::{around, constant, mixed},
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

#[test]
fn rows_end_anywhere() {
    for [channels, out_features, metric, dtype] in
        mixed([&around([8]), &around([8, 32, 256, 512]), &[0, 1, 2], &[0, 1]])
    {
        let case = StatisticCase { metric: Metric::ALL[metric], channels, out_features, scale: 1.0 };
        check_once(&case, DTYPES[dtype]);
    }
    launched_all_of(&["column_statistic"]);
}

#[test]
fn steps_of_the_cpu_backend() {
    for (i, channels) in around([constant!("src/cpu/score.rs", "COLUMN_CHUNK")]).into_iter().enumerate() {
        let case = StatisticCase { metric: Metric::ALL[i % 3], channels, out_features: 9, scale: 1.0 };
        check_on_the_cpu(&case, GpuDtype::Bf16);
    }
}

#[test]
fn special_values() {
    for dtype in DTYPES {
        for metric in [Metric::Ppsp, Metric::WandaSp, Metric::Flap] {
            check_specials(&StatisticCase { metric, channels: 3, out_features: 9, scale: 1.0 }, dtype);
        }
    }
}
