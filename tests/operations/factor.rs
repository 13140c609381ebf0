//! Xᵀ·S⁻¹·Y by the Cholesky factor of S in f64, with what float32 may be off by.

use super::near::Near;

/// (i, j) of a matrix, row by row.
pub fn pairs(rows: usize, columns: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows * columns).map(move |at| (at / columns, at % columns))
}

/// Without signs.
fn absolute(x: &[f64]) -> Vec<f64> {
    x.iter().map(|x| x.abs()).collect()
}

/// aᵀ·b for a (t, m) and b (t, n).
fn transposed_product(a: &[f64], b: &[f64], t: usize) -> Vec<f64> {
    let (m, n) = (a.len() / t, b.len() / t);
    let mut out = vec![0.0; m * n];
    for (a, b) in a.chunks_exact(m).zip(b.chunks_exact(n)) {
        for (out, a) in out.chunks_exact_mut(n).zip(a) {
            out.iter_mut().zip(b).for_each(|(out, b)| *out += a * b);
        }
    }
    out
}

fn centres(x: &[Near]) -> Vec<f64> {
    x.iter().map(|x| x.value()).collect()
}

fn radii(x: &[Near]) -> Vec<f64> {
    x.iter().map(|x| x.width() / 2.0).collect()
}

/// L of S = L·Lᵀ.
pub struct Factor {
    t: usize,
    /// (t, t), lower.
    lower: Vec<f64>,
    /// How far off the S may be that a factor in float32 belongs to (t, t).
    off: Vec<f64>,
    /// The largest row sum of |S⁻¹| times that: each order of what it does to S⁻¹ is this much smaller than the one before.
    pub growth: f64,
}

/// X (t, n) with L⁻¹·X and S⁻¹·X.
pub struct Solved {
    half: Vec<f64>,
    whole: Vec<f64>,
    radii: Vec<f64>,
}

impl Factor {
    /// Of S (t, t), which is at least I. Beside S's own intervals, the factor and what is solved with it are those of an S
    /// that is off by at most `gamma`·|L|·|Lᵀ|.
    pub fn of(s: &[Near], gamma: f64) -> Self {
        let t = s.len().isqrt();
        let mut lower = vec![0.0; t * t];
        for (i, j) in pairs(t, t).filter(|(i, j)| j <= i) {
            let sum: f64 = (0..j).map(|k| lower[i * t + k] * lower[j * t + k]).sum();
            let rest = s[i * t + j].value() - sum;
            lower[i * t + j] = if i == j { rest.max(1.0).sqrt() } else { rest / lower[j * t + j] };
        }
        // |L|·|Lᵀ| is the product of |Lᵀ|, transposed, with itself.
        let upper: Vec<f64> = pairs(t, t).map(|(i, j)| lower[j * t + i].abs()).collect();
        let size = transposed_product(&upper, &upper, t);
        let off = radii(s).iter().zip(size).map(|(radius, size)| radius + gamma * size).collect();
        let mut this = Self { t, lower, off, growth: 0.0 };
        let identity = pairs(t, t).map(|(i, j)| f64::from(u8::from(i == j))).collect();
        // S⁻¹ is its own transposed.
        let inverse = absolute(&this.backward(this.forward(identity)));
        let moved = transposed_product(&inverse, &this.off, t);
        this.growth = moved.chunks_exact(t).map(|row| row.iter().sum()).fold(0.0, f64::max);
        this
    }

    /// L⁻¹·X and S⁻¹·X for X (t, n).
    pub fn solve(&self, x: &[Near]) -> Solved {
        let half = self.forward(centres(x));
        let whole = self.backward(half.clone());
        Solved { half, whole, radii: radii(x) }
    }

    fn forward(&self, mut x: Vec<f64>) -> Vec<f64> {
        let n = x.len() / self.t;
        for i in 0..self.t {
            let (done, rest) = x.split_at_mut(i * n);
            for (known, l) in done.chunks_exact(n).zip(&self.lower[i * self.t..]) {
                rest.iter_mut().zip(known).for_each(|(x, y)| *x -= l * y);
            }
            rest[..n].iter_mut().for_each(|x| *x /= self.lower[i * self.t + i]);
        }
        x
    }

    fn backward(&self, mut x: Vec<f64>) -> Vec<f64> {
        let n = x.len() / self.t;
        for i in (0..self.t).rev() {
            let (rest, done) = x.split_at_mut((i + 1) * n);
            let row = &mut rest[i * n..];
            for (j, known) in done.chunks_exact(n).enumerate() {
                let l = self.lower[(i + 1 + j) * self.t + i];
                row.iter_mut().zip(known).for_each(|(x, y)| *x -= l * y);
            }
            row.iter_mut().for_each(|x| *x /= self.lower[i * self.t + i]);
        }
        x
    }

    /// Xᵀ·S⁻¹·Y, as float32 computes it from L⁻¹·X and L⁻¹·Y with `gamma` for sums of t terms.
    pub fn product(&self, x: &Solved, y: &Solved, gamma: f64) -> Vec<Near> {
        let t = self.t;
        let value = transposed_product(&x.half, &y.half, t);
        let [x_half, x_whole, y_half, y_whole] = [&x.half, &x.whole, &y.half, &y.whole].map(|z| absolute(z));
        // Δ·|S⁻¹·Y|: Δ is symmetric but for rounding, and either half may be read.
        let mut moved = transposed_product(&self.off, &y_whole, t);
        moved.iter_mut().zip(&y.radii).for_each(|(moved, radius)| *moved += radius);
        let orders = 1.0 / (1.0 - self.growth);
        let parts = [
            transposed_product(&x_whole, &moved, t).iter().map(|x| orders * x).collect(),
            transposed_product(&x.radii, &y_whole, t),
            transposed_product(&x_half, &y_half, t).iter().map(|x| gamma * x).collect(),
        ];
        let [of_s, of_x, of_sum] = &parts;
        value
            .iter()
            .enumerate()
            .map(|(i, &value)| Near::from(value).give(of_s[i] + of_x[i] + of_sum[i]))
            .collect()
    }
}
