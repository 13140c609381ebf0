//! `norm`: RMSNorm, LayerNorm, copy.

use probeprune::{
    Result,
    backend::{Backend, Norm, NormKind, NormOperands},
};

use super::{
    Case, ElementBytes, Expected, Put, Ready, Traffic,
    near::{Near, Stored},
    outputs,
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
    /// Factor on x, a power of two.
    pub scale: f32,
    pub eps: f32,
}

impl NormCase {
    /// With weights and biases, of values in −1..1.
    pub fn new(kind: Option<NormKind>, rows: usize, hidden_size: usize) -> Self {
        Self { kind, affine: true, rows, hidden_size, mean: 0.0, scale: 1.0, eps: 1e-5 }
    }

    /// x, weight, bias.
    fn input(&self, source: Source<'_>) -> [Vec<f32>; 3] {
        let mut stream = source.stream(1);
        let mut x = stream.elements(self.rows * self.hidden_size);
        x.iter_mut().for_each(|x| *x = stream.rounded(*x * self.scale + self.mean));
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
                eps: self.eps,
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

    fn expected(&self, source: Source<'_>, stored: Stored) -> Vec<Expected> {
        let [x, weight, bias] = self.input(source).map(|values| wide(&values));
        let (mut out, mut sums) = (Vec::new(), Vec::new());
        for row in x.chunks_exact(self.hidden_size) {
            let row: Vec<Near> = row.iter().map(|&x| Near::from(x)).collect();
            let n = Near::from(row.len() as f64);
            let squares: Near = row.iter().map(|x| x.square()).sum();
            sums.push(squares.stored(Stored::Float32));
            let Some(kind) = self.kind else {
                out.extend(row);
                continue;
            };
            let (mean, variance) = match kind {
                NormKind::Rms => (None, squares / n),
                NormKind::Layer => {
                    let mean = row.iter().copied().sum::<Near>() / n;
                    let variance = row.iter().map(|&x| (x - mean).square()).sum::<Near>() / n;
                    (Some(mean), variance)
                }
            };
            let scale = Near::from(1.0) / (variance + self.eps.into()).sqrt();
            out.extend(row.iter().enumerate().map(|(c, &x)| {
                let mut value = mean.map_or(x, |mean| x - mean) * scale;
                if self.affine {
                    value = value * weight[c].into();
                }
                if self.affine && kind == NormKind::Layer {
                    value = value + bias[c].into();
                }
                value.stored(stored)
            }));
        }
        vec![Expected::Floats(out), Expected::Floats(sums)]
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
