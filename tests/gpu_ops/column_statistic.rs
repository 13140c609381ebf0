//! `column_statistic`: Σ |w|, Σ w², sqrt(Σ w⁴) over a last projection's columns.

use probeprune::{
    Result,
    backend::{Backend, WeightUse},
    gpu::{Driver, Gpu, GpuDtype},
    prune::settings::Metric,
};

use crate::case::{Case, DTYPES, Expected, Output, Put, check, check_traffic, elements, rng};

#[derive(Debug, Clone)]
struct StatisticCase {
    dtype: GpuDtype,
    metric: Metric,
    channels: usize,
    width: usize,
    /// Factor on the weights.
    scale: f32,
}

impl StatisticCase {
    /// (width, channels), as a checkpoint has it. The factor is a power of two: values stay what the dtype can hold.
    fn weight(&self) -> Vec<f32> {
        let weight = elements(&mut rng(1), self.dtype, self.channels * self.width);
        weight.iter().map(|w| w * self.scale).collect()
    }
}

impl Case for StatisticCase {
    fn run<D: Driver>(&self, gpu: &Gpu<D>) -> Result<Vec<Output>> {
        let last = gpu.put_linear(&self.weight(), self.width, self.channels, None, WeightUse::Columns);
        let mut out = gpu.statistics(self.channels)?;
        gpu.column_statistic(&last, self.metric, &mut out);
        Ok(vec![Output::Floats(gpu.download_statistics(&out, self.channels)?)])
    }

    fn expected(&self) -> Vec<Expected> {
        let weight = self.weight();
        let values = (0..self.channels)
            .map(|c| {
                let column = (0..self.width).map(|o| f64::from(weight[o * self.channels + c]));
                match self.metric {
                    Metric::WandaSp => column.map(f64::abs).sum(),
                    Metric::Flap => column.map(|w| w * w).sum(),
                    Metric::Ppsp => column.map(|w| w.powi(4)).sum::<f64>().sqrt(),
                }
            })
            .collect();
        // Sums in f64, rounded once to f32; a value is at most 4 rms.
        vec![Expected::Floats { values, tolerance: 4.0 * 2f64.powi(-24) }]
    }

    fn dtype(&self) -> GpuDtype {
        self.dtype
    }
}

#[test]
fn column_statistic() {
    for dtype in DTYPES {
        for metric in [Metric::Ppsp, Metric::WandaSp, Metric::Flap] {
            for (channels, width) in [(1, 1), (9, 7), (8, 8), (33, 31), (17, 264), (5, 1000)] {
                check(&StatisticCase { dtype, metric, channels, width, scale: 1.0 });
            }
        }
    }
}

#[test]
fn fourth_powers_beyond_f32_are_summed() {
    // w⁴ is about 2^-160, and 2^160.
    for scale in [2f32.powi(-40), 2f32.powi(40)] {
        let (dtype, metric) = (GpuDtype::Bf16, Metric::Ppsp);
        check(&StatisticCase { dtype, metric, channels: 3, width: 64, scale });
    }
}

#[test]
fn column_statistic_moves_what_its_header_says() {
    let (channels, width) = (64, 4096);
    let case = StatisticCase { dtype: GpuDtype::F16, metric: Metric::Flap, channels, width, scale: 1.0 };
    check_traffic(&case, "column_statistic", 2 * channels * width, 32 * channels);
}
