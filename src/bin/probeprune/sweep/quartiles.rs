//! Quartiles of measurements, here and in the benchmarks of the CPU.

/// The values at a quarter, a half and three quarters of the sorted list, interpolated between neighbours.
pub(super) fn quartiles(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    [0.25, 0.5, 0.75].map(|at| {
        let place = at * (sorted.len() - 1) as f64;
        let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
        low + (high - low) * place.fract()
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn quartiles_are_interpolated_between_neighbours() {
        assert_eq!(super::quartiles(&[4.0, 1.0, 3.0, 2.0]), [1.75, 2.5, 3.25]);
        assert_eq!(super::quartiles(&[7.0]), [7.0; 3]);
    }
}
