//! `cross_entropy`: losses without logits in memory.

use probeprune::{
    Result,
    backend::{Backend, CrossEntropyOperands, WeightUse},
    checkpoint::Tensor,
};

use super::{
    Case, ElementBytes, Expected, Put, Ready, Traffic,
    near::{Near, Stored, UNIT},
    outputs,
    product::product,
    source::Source,
};

#[derive(Clone, Debug)]
pub struct CrossEntropyCase {
    pub rows: usize,
    pub vocab_size: usize,
    pub embedding_dim: usize,
    /// Factor on the weights: logits far apart.
    pub scale: f32,
    /// The last token's logits are hundreds above or below all others.
    pub outlier: bool,
    /// All logits are so far below 0 that a column beyond the vocabulary, of 0, would be the only one that counts.
    pub low: bool,
}

impl CrossEntropyCase {
    pub fn new(rows: usize, vocab_size: usize, embedding_dim: usize) -> Self {
        Self { rows, vocab_size, embedding_dim, scale: 1.0, outlier: false, low: false }
    }

    /// x, weight, targets.
    fn input(&self, source: Source<'_>) -> (Vec<f32>, Vec<f32>, Vec<u32>) {
        let mut stream = source.stream(9);
        let mut x = stream.elements(self.rows * self.embedding_dim);
        let mut weight = stream.scaled(self.vocab_size, self.embedding_dim);
        weight.iter_mut().for_each(|w| *w = stream.rounded(*w * self.scale));
        if self.outlier {
            let last = weight.len() - self.embedding_dim;
            weight[last..].iter_mut().for_each(|w| *w = stream.rounded(*w * 1000.0));
        }
        if self.low {
            x.iter_mut().step_by(self.embedding_dim).for_each(|x| *x = 1.0);
            weight.iter_mut().step_by(self.embedding_dim).for_each(|w| *w = -256.0);
        }
        let target = |row: usize| if row % 4 == 3 { u32::MAX } else { (row * 37 % self.vocab_size) as u32 };
        (x, weight, (0..self.rows).map(target).collect())
    }
}

/// log Σ exp(logits) − the target's logit; 0 without a target.
fn loss(logits: &[Near], target: u32) -> Near {
    let Some(target) = logits.get(target as usize) else { return 0.0.into() };
    let values = || logits.iter().map(|logit| logit.value());
    let most = values().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = values().map(|x| (x - most).exp()).sum();
    let loss = most + sum.ln() - target.value();
    if values().any(|x| !x.is_finite()) {
        return f64::NAN.into();
    }
    // The logits' errors move the loss by their mean, weighted as softmax does, and the target's. An exponential is off by
    // its argument's rounding and 2 units, their sum by some √n roundings, and the rest by one each.
    let weighted = |f: &dyn Fn(&Near) -> f64| -> f64 {
        logits.iter().map(|x| (x.value() - most).exp() / sum * f(x)).sum()
    };
    let inputs = weighted(&|x| x.width()) + target.width();
    let exponents = weighted(&|x| 2.0 * (most - x.value())) + 4.0 + 4.0 * (logits.len() as f64).sqrt();
    let rest = 2.0 * (most.abs() + target.magnitude() + loss.abs() + sum.ln());
    Near::from(loss).give(inputs + UNIT * (exponents + rest))
}

impl Case for CrossEntropyCase {
    fn prepare<B: Backend>(&self, backend: &B, source: Source<'_>) -> Result<Ready<B>> {
        let (x, weight, targets) = self.input(source);
        let rows = self.rows;
        let weight = Tensor::from_f32(vec![self.vocab_size, self.embedding_dim], weight);
        let head = backend.put_linear(&weight, None, WeightUse::Rows)?;
        let mut scratch = backend.statistics(backend.cross_entropy_scratch(rows, self.vocab_size))?;
        let (x, targets) =
            (backend.put_activations(rows * self.embedding_dim, &x)?, backend.put_indices(&targets)?);
        let mut out = backend.statistics(rows)?;
        Ok(Box::new(move |backend, read| {
            backend.cross_entropy(CrossEntropyOperands {
                x: &x,
                rows,
                head: &head,
                targets: &targets,
                scratch: &mut scratch,
                out: &mut out,
            });
            outputs(read, || Ok(vec![backend.read_statistics(&out, rows)?]))
        }))
    }

    fn expected(&self, source: Source<'_>, _stored: Stored) -> Vec<Expected> {
        let (x, weight, targets) = self.input(source);
        let all: Vec<Option<usize>> = (0..self.vocab_size).map(Some).collect();
        let logits = product(&x, &weight, self.embedding_dim, &all);
        let losses = logits.chunks_exact(self.vocab_size).zip(&targets);
        vec![Expected::Floats(losses.map(|(row, &target)| loss(row, target)).collect())]
    }

    fn bytes(&self, element: ElementBytes) -> usize {
        let (t, v, h) = (self.rows, self.vocab_size, self.embedding_dim);
        element.activation * t * h + element.weight * v * h + 8 * t
    }

    fn traffic(&self) -> Traffic {
        let (t, v, h) = (self.rows, self.vocab_size, self.embedding_dim);
        // Targets that a tile has are a sector more, for three rows of four.
        let read = v / 128 * (2 * t * h + 4 * t) + t / 128 * 2 * v * h;
        Traffic::new("cross_entropy", read, 8 * t * v / 128 + 32 * t * 3 / 4)
    }

    fn product(&self) -> Option<[usize; 3]> {
        Some([self.rows, self.vocab_size, self.embedding_dim])
    }
}
