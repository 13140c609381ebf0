//! Statistics of repetitions.

/// Mean, spread, median and least of some values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) mean: f64,
    /// Of the sample (n − 1); 0 for one value.
    pub(crate) standard_deviation: f64,
    pub(crate) median: f64,
    pub(crate) min: f64,
}

impl Summary {
    /// Of at least one value.
    pub(crate) fn of(values: &[f64]) -> Self {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        let standard_deviation = if values.len() > 1 { (squares / (count - 1.0)).sqrt() } else { 0.0 };
        Self { mean, standard_deviation, median, min: sorted[0] }
    }
}

/// The median.
pub(crate) fn median(values: &[f64]) -> f64 {
    Summary::of(values).median
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_that_of_the_sample() {
        let summary = Summary::of(&[4.0, 1.0, 3.0, 8.0]);
        assert_eq!((summary.mean, summary.median, summary.min), (4.0, 3.5, 1.0));
        assert!((summary.standard_deviation - (26.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(Summary::of(&[2.0]).standard_deviation, 0.0);
    }
}
