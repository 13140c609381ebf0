//! `cross_entropy`: losses without logits in memory.

use probeprune::{
    Result,
    backend::{Backend, CrossEntropyOperands, WeightUse},
    checkpoint::Tensor,
};

use super::{
    Case, ElementBytes, Expected, Put, Ready, Traffic, outputs,
    product::product,
    source::{Source, wide},
};

#[derive(Clone, Debug)]
pub struct CrossEntropyCase {
    pub rows: usize,
    pub vocab_size: usize,
    pub embedding_dim: usize,
    /// Factor on the weights: logits far apart.
    pub scale: f32,
}

impl CrossEntropyCase {
    /// x, weight, targets.
    fn input(&self, source: Source<'_>) -> (Vec<f32>, Vec<f32>, Vec<u32>) {
        let mut stream = source.stream(9);
        let x = stream.elements(self.rows * self.embedding_dim);
        let mut weight = stream.scaled(self.vocab_size, self.embedding_dim);
        weight.iter_mut().for_each(|w| *w = stream.rounded(*w * self.scale));
        let target = |row: usize| if row % 4 == 3 { u32::MAX } else { (row * 37 % self.vocab_size) as u32 };
        (x, weight, (0..self.rows).map(target).collect())
    }
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

    fn expected(&self, source: Source<'_>) -> Vec<Expected> {
        let (x, weight, targets) = self.input(source);
        let all: Vec<Option<usize>> = (0..self.vocab_size).map(Some).collect();
        let logits = product(&wide(&x), &wide(&weight), self.embedding_dim, &all);
        let loss = |(row, &target): (&[f64], &u32)| {
            let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = row.iter().map(|x| (x - most).exp()).sum();
            row.get(target as usize).map_or(0.0, |logit| most + sum.ln() - logit)
        };
        // f32 sums of logits up to some tens.
        vec![Expected::floats(logits.chunks_exact(self.vocab_size).zip(&targets).map(loss).collect(), 2e-5)]
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
