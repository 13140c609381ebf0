//! `norm`: RMSNorm, LayerNorm, copy.

use probeprune::{
    Result,
    backend::{Backend, Norm, NormKind, NormOperands},
};

use super::{
    Case, ElementBytes, Expected, Put, Ready, Traffic, outputs,
    source::{Source, wide},
};

#[derive(Clone, Debug)]
pub struct NormCase {
    /// `None` copies.
    pub kind: Option<NormKind>,
    pub affine: bool,
    pub rows: usize,
    pub hidden_size: usize,
    /// Added to x.
    pub mean: f32,
}

const EPS: f32 = 1e-5;

impl NormCase {
    /// x, weight, bias.
    fn input(&self, source: Source<'_>) -> [Vec<f32>; 3] {
        let mut stream = source.stream(1);
        let mut x = stream.elements(self.rows * self.hidden_size);
        x.iter_mut().for_each(|x| *x = stream.rounded(*x + self.mean));
        [x, stream.floats(0.5..1.5, self.hidden_size), stream.floats(-1.0..1.0, self.hidden_size)]
    }

    /// Vectors that the norm multiplies with or adds.
    fn tables(&self) -> usize {
        match self.kind {
            Some(NormKind::Rms) if self.affine => 1,
            Some(NormKind::Layer) if self.affine => 2,
            _ => 0,
        }
    }
}

impl Case for NormCase {
    fn prepare<B: Backend>(&self, backend: &B, source: Source<'_>) -> Result<Ready<B>> {
        let [x, weight, bias] = self.input(source);
        let Self { rows, hidden_size, .. } = *self;
        let table = |there: bool, values: &[f32]| {
            there.then(|| backend.put_statistics(hidden_size, values)).transpose()
        };
        let norm = match self.kind {
            None => None,
            Some(kind) => Some(Norm {
                kind,
                weight: table(self.affine, &weight)?,
                bias: table(self.affine && kind == NormKind::Layer, &bias)?,
                eps: EPS,
            }),
        };
        let len = rows * hidden_size;
        let (x, mut out) = (backend.put_activations(len, &x)?, backend.activations(len)?);
        let mut sum_squares = backend.statistics(rows)?;
        Ok(Box::new(move |backend, read| {
            backend.norm(NormOperands {
                x: &x,
                norm: norm.as_ref(),
                rows,
                hidden_size,
                out: &mut out,
                sum_squares: &mut sum_squares,
            });
            outputs(read, || {
                Ok(vec![backend.read_activations(&out, len)?, backend.read_statistics(&sum_squares, rows)?])
            })
        }))
    }

    fn expected(&self, source: Source<'_>) -> Vec<Expected> {
        let [x, weight, bias] = self.input(source).map(|values| wide(&values));
        let (mut out, mut sums) = (Vec::new(), Vec::new());
        for row in x.chunks_exact(self.hidden_size) {
            let n = row.len() as f64;
            let squares: f64 = row.iter().map(|x| x * x).sum();
            let mean = match self.kind {
                Some(NormKind::Layer) => row.iter().sum::<f64>() / n,
                _ => 0.0,
            };
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            let scale = if self.kind.is_some() { 1.0 / (variance + f64::from(EPS)).sqrt() } else { 1.0 };
            out.extend(row.iter().enumerate().map(|(c, x)| {
                let affine = self.affine && self.kind.is_some();
                let weight = if affine { weight[c] } else { 1.0 };
                let bias = if affine && self.kind == Some(NormKind::Layer) { bias[c] } else { 0.0 };
                (x - mean) * scale * weight + bias
            }));
            sums.push(squares);
        }
        // One rounding to the dtype of values up to about 4 rms; f32 sums.
        vec![Expected::rounded(out, 0.0, 5.0), Expected::floats(sums, 1e-6)]
    }

    fn bytes(&self, element: ElementBytes) -> usize {
        let (t, h) = (self.rows, self.hidden_size);
        element.activation * 2 * t * h + 4 * (t + self.tables() * h)
    }

    fn traffic(&self) -> Traffic {
        let (t, h) = (self.rows, self.hidden_size);
        Traffic::new("norm", 2 * t * h + 8 * t * h * self.tables(), 2 * t * h + 4 * t)
    }
}
