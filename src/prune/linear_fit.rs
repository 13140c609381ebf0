//! The linear map of `compensate` linear: a ≈ B·z + b with z = P·x + p0 of few dimensions, fitted to a block's normed
//! input x and its intermediate states a (docs/method.md, section 10). All of it follows from second moments, in f64.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// λ of the ridge regression, relative to the variance of z, which is 1.
const RIDGE: f64 = 1e-3;
/// Rounds of orthogonal iteration. Directions that have not converged by then have nearly the same variance, so any of
/// them will do.
const ROUNDS: usize = 50;

/// The map of one block. Its first r' rows are the map of rank r'.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearFit {
    /// P (r, H): the directions in which x varies most, scaled so that z has variance 1 in each and no covariance.
    pub directions: Vec<f32>,
    /// p0 = −P·mean(x) (r).
    pub offsets: Vec<f32>,
    /// Bᵀ (r, C).
    pub coefficients: Vec<f32>,
    /// b (C): the mean of a.
    pub bias: Vec<f32>,
    /// Variance of a − B·z (C): the history of the centred remainder.
    pub variance: Vec<f32>,
}

impl LinearFit {
    /// r.
    pub fn rank(&self) -> usize {
        self.offsets.len()
    }

    /// The map of a rank of at most this one's.
    pub fn truncated(&self, rank: usize) -> Self {
        let rows = |values: &[f32]| values[..values.len() / self.rank() * rank].to_vec();
        let mut variance = self.variance.clone();
        for row in self.coefficients.chunks_exact(variance.len()).skip(rank) {
            // With covariance = coefficient·(1 + λ), this is what `fit` took off.
            variance.iter_mut().zip(row).for_each(|(v, c)| *v += c * c * (1.0 + 2.0 * RIDGE as f32));
        }
        Self {
            directions: rows(&self.directions),
            offsets: rows(&self.offsets),
            coefficients: rows(&self.coefficients),
            bias: self.bias.clone(),
            variance,
        }
    }
}

/// P (rank, H) and p0 (rank) from the mean (H) and the second moment E\[x·xᵀ\] (H, H) of x.
pub fn directions(mean: &[f64], second: &[f32], rank: usize) -> (Vec<f32>, Vec<f32>) {
    let h = mean.len();
    let covariance: Vec<f64> =
        second.iter().enumerate().map(|(i, &x)| f64::from(x) - mean[i / h] * mean[i % h]).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut basis: Vec<Vec<f64>> =
        (0..rank).map(|_| (0..h).map(|_| rng.random_range(-1.0..1.0)).collect()).collect();
    orthonormalise(&mut basis);
    for _ in 0..ROUNDS {
        basis = images(&covariance, &basis);
        orthonormalise(&mut basis);
    }
    // Whitening by Cholesky: with L·Lᵀ = Vᵀ·Cov·V, the covariance of L⁻¹·Vᵀ·x is the identity.
    let images = images(&covariance, &basis);
    let mut lower = vec![vec![0.0; rank]; rank];
    // A direction without variance, which a short calibration may leave, must not be divided by. What rounding leaves of the
    // moments, which are float32, is none.
    let found = (0..rank).map(|i| dot(&basis[i], &images[i])).sum::<f64>() / rank as f64;
    let power = second.iter().step_by(h + 1).map(|&x| f64::from(x)).sum::<f64>() / h as f64;
    let floor = (1e-6 * found).max(f64::from(f32::EPSILON) * power) + f64::MIN_POSITIVE;
    for i in 0..rank {
        for j in 0..=i {
            let rest = dot(&basis[i], &images[j]) - dot(&lower[i][..j], &lower[j][..j]);
            lower[i][j] = if i == j { rest.max(floor).sqrt() } else { rest / lower[j][j] };
        }
    }
    for i in 0..rank {
        let (done, rest) = basis.split_at_mut(i);
        for (j, done) in done.iter().enumerate() {
            rest[0].iter_mut().zip(done).for_each(|(x, y)| *x -= lower[i][j] * y);
        }
        rest[0].iter_mut().for_each(|x| *x /= lower[i][i]);
    }
    let offsets = basis.iter().map(|row| -dot(row, mean) as f32).collect();
    (basis.into_iter().flatten().map(|x| x as f32).collect(), offsets)
}

/// B, b and the variance of the remainder, from moments of z and a over `rows` tokens: `product` (r, C) = Σ z·aᵀ, the means (C) and mean
/// squares (C) of a. z has mean 0 and covariance 1 by construction.
pub fn fit(
    (directions, offsets): (Vec<f32>, Vec<f32>),
    product: &[f32],
    rows: usize,
    means: &[f64],
    squares: &[f64],
) -> LinearFit {
    let (rank, width) = (offsets.len(), means.len());
    let mut variance: Vec<f64> =
        squares.iter().zip(means).map(|(square, mean)| square - mean * mean).collect();
    let mut coefficients = Vec::with_capacity(rank * width);
    for row in product.chunks_exact(width) {
        for (&sum, variance) in row.iter().zip(&mut variance) {
            let covariance = f64::from(sum) / rows as f64;
            let coefficient = covariance / (1.0 + RIDGE);
            *variance += coefficient * (coefficient - 2.0 * covariance);
            coefficients.push(coefficient as f32);
        }
    }
    LinearFit {
        directions,
        offsets,
        coefficients,
        bias: means.iter().map(|&x| x as f32).collect(),
        variance: variance.into_iter().map(|x| x.max(0.0) as f32).collect(),
    }
}

/// Each vector times a symmetric matrix (H, H), which is read once for all of them.
fn images(matrix: &[f64], vectors: &[Vec<f64>]) -> Vec<Vec<f64>> {
    use rayon::prelude::*;
    let (rank, h) = (vectors.len(), vectors[0].len());
    // (H, r), so that the innermost loop goes over independent sums.
    let columns: Vec<f64> = (0..h).flat_map(|i| vectors.iter().map(move |v| v[i])).collect();
    let mut products = vec![0.0; h * rank];
    products.par_chunks_exact_mut(rank).zip(matrix.par_chunks_exact(h)).for_each(|(sums, row)| {
        for (x, column) in row.iter().zip(columns.chunks_exact(rank)) {
            sums.iter_mut().zip(column).for_each(|(sum, y)| *sum += x * y);
        }
    });
    (0..rank).map(|r| products.iter().skip(r).step_by(rank).copied().collect()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Modified Gram–Schmidt. A vector that depends linearly on those before it becomes 0.
fn orthonormalise(basis: &mut [Vec<f64>]) {
    for i in 0..basis.len() {
        let (done, rest) = basis.split_at_mut(i);
        let before = dot(&rest[0], &rest[0]).sqrt();
        for _ in 0..2 {
            for done in &*done {
                let part = dot(&rest[0], done);
                rest[0].iter_mut().zip(done).for_each(|(x, y)| *x -= part * y);
            }
        }
        let norm = dot(&rest[0], &rest[0]).sqrt();
        let scale = if norm > 1e-10 * before { 1.0 / norm } else { 0.0 };
        rest[0].iter_mut().for_each(|x| *x *= scale);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// x of two strong directions and noise, a of three channels that depend on them.
    fn samples(rows: usize) -> (Vec<[f64; 6]>, Vec<[f64; 3]>) {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let mut noise = move |scale: f64| rng.random_range(-1.0..1.0) * scale;
        (0..rows)
            .map(|_| {
                let (u, v) = (noise(3.0), noise(2.0));
                let x = [0.5 + u, -u + noise(0.05), v, 1.0 + v + u, noise(0.05), 2.0];
                (x, [1.0 + 2.0 * u, 0.3 * v - u, 0.25 + noise(0.1)])
            })
            .unzip()
    }

    fn moments(rows: &[[f64; 6]]) -> (Vec<f64>, Vec<f32>) {
        let n = rows.len() as f64;
        let mean: Vec<f64> = (0..6).map(|i| rows.iter().map(|x| x[i]).sum::<f64>() / n).collect();
        let second =
            (0..36).map(|i| (rows.iter().map(|x| x[i / 6] * x[i % 6]).sum::<f64>() / n) as f32).collect();
        (mean, second)
    }

    #[test]
    fn directions_whiten_what_they_see() {
        let (x, _) = samples(2000);
        let (mean, second) = moments(&x);
        let (p, p0) = directions(&mean, &second, 2);
        let z: Vec<[f64; 2]> = x
            .iter()
            .map(|x| {
                [0, 1].map(|r| f64::from(p0[r]) + (0..6).map(|i| f64::from(p[6 * r + i]) * x[i]).sum::<f64>())
            })
            .collect();
        let mean_of = |f: &dyn Fn(&[f64; 2]) -> f64| z.iter().map(f).sum::<f64>() / z.len() as f64;
        for (got, want) in [
            (mean_of(&|z| z[0]), 0.0),
            (mean_of(&|z| z[1]), 0.0),
            (mean_of(&|z| z[0] * z[0]), 1.0),
            (mean_of(&|z| z[1] * z[1]), 1.0),
            (mean_of(&|z| z[0] * z[1]), 0.0),
        ] {
            assert!((got - want).abs() < 1e-4, "{got} for {want}");
        }
    }

    #[test]
    fn a_vector_that_adds_no_direction_becomes_0() {
        // What is left of the second is rounding: 1e-10 of its length or less.
        let first = vec![1.0 / 3.0, 1.0 / 7.0, 1.0 / 11.0];
        let long = first.iter().map(|x| x * 1.3e7).collect();
        let mut basis = vec![first, long, vec![1.0, 2.0, 4.0]];
        orthonormalise(&mut basis);
        assert_eq!(basis[1], [0.0; 3]);
        let products = [(0, 0), (2, 2), (0, 2)].map(|(i, j)| dot(&basis[i], &basis[j]));
        assert!(
            products.iter().zip([1.0, 1.0, 0.0]).all(|(got, want)| (got - want).abs() < 1e-12),
            "{products:?}"
        );
    }

    #[test]
    fn directions_that_have_not_converged_are_whitened_too() {
        // Variances so close to each other that the iteration leaves mixtures of their directions.
        let variance = |i: usize| 4.0 - 0.1 * i as f64;
        let second: Vec<f32> =
            (0..36).map(|i| if i / 6 == i % 6 { variance(i / 6) as f32 } else { 0.0 }).collect();
        let (p, p0) = directions(&[0.0; 6], &second, 3);
        assert_eq!(p0, [0.0; 3]);
        for (r, other) in (0..3).flat_map(|r| (0..3).map(move |other| (r, other))) {
            let covariance: f64 =
                (0..6).map(|i| f64::from(p[6 * r + i] * p[6 * other + i]) * variance(i)).sum();
            assert!((covariance - f64::from(u8::from(r == other))).abs() < 1e-5, "{r} {other}: {covariance}");
        }
    }

    #[test]
    fn the_fit_is_the_ridge_regression_and_its_variance_what_is_left() {
        let (x, a) = samples(2000);
        let n = x.len();
        let (mean, second) = moments(&x);
        let (p, p0) = directions(&mean, &second, 2);
        let z = |x: &[f64; 6], r: usize| {
            f64::from(p0[r]) + (0..6).map(|i| f64::from(p[6 * r + i]) * x[i]).sum::<f64>()
        };
        let product: Vec<f32> = (0..2)
            .flat_map(|r| [0, 1, 2].map(|c| (r, c)))
            .map(|(r, c)| x.iter().zip(&a).map(|(x, a)| z(x, r) * a[c]).sum::<f64>() as f32)
            .collect();
        let means = [0, 1, 2].map(|c| a.iter().map(|a| a[c]).sum::<f64>() / n as f64);
        let squares = [0, 1, 2].map(|c| a.iter().map(|a| a[c] * a[c]).sum::<f64>() / n as f64);
        let fit = super::fit((p.clone(), p0.clone()), &product, n, &means, &squares);
        for c in 0..3 {
            let left = |x: &[f64; 6], a: &[f64; 3]| {
                let explained: f64 = (0..2).map(|r| f64::from(fit.coefficients[3 * r + c]) * z(x, r)).sum();
                a[c] - explained - f64::from(fit.bias[c])
            };
            let variance = x.iter().zip(&a).map(|(x, a)| left(x, a).powi(2)).sum::<f64>() / n as f64;
            assert!((variance - f64::from(fit.variance[c])).abs() < 1e-5, "{variance} {}", fit.variance[c]);
        }
        // The first two channels follow from x, the third does not.
        assert!(fit.variance[0] < 0.01 && fit.variance[1] < 0.01, "{:?}", fit.variance);
        assert!((f64::from(fit.variance[2]) - (squares[2] - means[2].powi(2))).abs() < 1e-3);
        let (truncated, alone) = (
            fit.truncated(1),
            super::fit((p[..6].into(), p0[..1].into()), &product[..3], n, &means, &squares),
        );
        assert_eq!(
            (&truncated.directions, &truncated.coefficients),
            (&alone.directions, &alone.coefficients)
        );
        for (a, b) in truncated.variance.iter().zip(&alone.variance) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }

    #[test]
    fn samples_that_are_all_the_same_do_no_harm() {
        let mean = [0.1, -0.3, 7.0, 1.0 / 3.0, 0.0, 2.0];
        // Rounding leaves variances of either sign.
        for error in [-1e-7, 0.0, 1e-7] {
            let second: Vec<f32> =
                (0..36).map(|i| (mean[i / 6] * mean[i % 6] * (1.0 + error)) as f32).collect();
            for rank in 1..4 {
                let (p, p0) = directions(&mean, &second, rank);
                assert!(p.iter().chain(&p0).all(|x| x.is_finite()), "{error}, {rank}: {p:?}");
            }
        }
    }

    #[test]
    fn fewer_samples_than_directions_do_no_harm() {
        let (x, _) = samples(2);
        let (mean, second) = moments(&x);
        let (p, p0) = directions(&mean, &second, 4);
        assert!(p.iter().chain(&p0).all(|x| x.is_finite()));
    }
}
