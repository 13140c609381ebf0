//! `column_statistic`: Σ |w|, Σ w², sqrt(Σ w⁴) over a last projection's columns.

use probeprune::{
    Result,
    backend::{Backend, ColumnStatisticOperands, WeightUse},
    checkpoint::Tensor,
    prune::settings::Metric,
};

use super::{
    Case, ElementBytes, Expected, Put, Ready, Traffic,
    near::{Near, Stored},
    outputs,
    source::Source,
};

#[derive(Clone, Debug)]
pub struct StatisticCase {
    pub metric: Metric,
    pub channels: usize,
    pub out_features: usize,
    /// Factor on the weights.
    pub scale: f32,
}

impl StatisticCase {
    /// (out_features, channels), as a checkpoint has it. The factor is a power of two: the dtype holds the values exactly.
    fn weight(&self, source: Source<'_>) -> Vec<f32> {
        let mut weight = source.stream(1).elements(self.channels * self.out_features);
        weight.iter_mut().for_each(|w| *w *= self.scale);
        weight
    }
}

impl Case for StatisticCase {
    fn prepare<B: Backend>(&self, backend: &B, source: Source<'_>) -> Result<Ready<B>> {
        let (channels, metric) = (self.channels, self.metric);
        let weight = Tensor::from_f32(vec![self.out_features, channels], self.weight(source));
        let projection = backend.put_linear(&weight, None, WeightUse::Columns)?;
        let mut out = backend.statistics(channels)?;
        Ok(Box::new(move |backend, read| {
            backend.column_statistic(ColumnStatisticOperands {
                projection: &projection,
                metric,
                out: &mut out,
            });
            outputs(read, || Ok(vec![backend.read_statistics(&out, channels)?]))
        }))
    }

    fn expected(&self, source: Source<'_>, _stored: Stored) -> Vec<Expected> {
        let weight = self.weight(source);
        let values = (0..self.channels)
            .map(|c| {
                let column = (0..self.out_features).map(|o| f64::from(weight[o * self.channels + c]));
                let statistic: f64 = match self.metric {
                    Metric::WandaSp => column.map(f64::abs).sum(),
                    Metric::Flap => column.map(|w| w * w).sum(),
                    Metric::Ppsp => column.map(|w| w.powi(4)).sum::<f64>().sqrt(),
                };
                // Sums are f64, in another order.
                Near::from(statistic).give(1e-12 * statistic).stored(Stored::Float32)
            })
            .collect();
        vec![Expected::Floats(values)]
    }

    fn bytes(&self, element: ElementBytes) -> usize {
        element.weight * self.channels * self.out_features + 4 * self.channels
    }

    fn traffic(&self) -> Traffic {
        Traffic::new("column_statistic", 2 * self.channels * self.out_features, 32 * self.channels)
    }
}
