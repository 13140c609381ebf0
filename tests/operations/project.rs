//! `project`: products with columns of a weight.

use probeprune::{
    Result,
    backend::{Backend, LowRank, ProjectOperands, WeightUse},
    checkpoint::Tensor,
};

use super::{
    Case, ElementBytes, Expected, Put, Ready, Traffic,
    near::{Near, Stored},
    outputs,
    product::{Keep, Kept, picked, used},
    source::{Source, wide},
};

#[derive(Clone, Debug)]
pub struct ProjectCase {
    pub rows: usize,
    pub out_features: usize,
    /// Columns of the weight, before any are left out.
    pub in_features: usize,
    pub keep: Keep,
    pub bias: bool,
    pub residual: bool,
    /// r of a low-rank product.
    pub low_rank: Option<usize>,
}

struct Input {
    a: Vec<f32>,
    kept: Option<Kept>,
    weight: Tensor,
    bias: Vec<f32>,
    residual: Vec<f32>,
    z: Vec<f32>,
    low_rank: Vec<f32>,
}

impl ProjectCase {
    /// All columns of the weight, and nothing added.
    pub fn new(rows: usize, [out_features, in_features]: [usize; 2]) -> Self {
        let keep = Keep::Dense;
        Self { rows, out_features, in_features, keep, bias: false, residual: false, low_rank: None }
    }

    pub fn keep(self, keep: Keep) -> Self {
        Self { keep, ..self }
    }

    pub fn with_bias(self) -> Self {
        Self { bias: true, ..self }
    }

    pub fn with_residual(self) -> Self {
        Self { residual: true, ..self }
    }

    /// Kept columns.
    fn columns(&self) -> usize {
        self.keep.len(self.in_features)
    }

    fn rank(&self) -> usize {
        self.low_rank.unwrap_or(0)
    }

    /// Rows of the low-rank weight.
    fn low_rank_rows(&self) -> usize {
        self.low_rank.map_or(0, |rank| rank + 1)
    }

    fn input(&self, source: Source<'_>) -> Input {
        let mut stream = source.stream(8);
        let (h, c) = (self.out_features, self.in_features);
        let kept = self.keep.kept(&mut stream, c);
        let a = stream.elements(self.rows * self.columns());
        let used = used(kept.as_ref(), c);
        let weight = stream.weight([h, c], |_, column| used[column]);
        let bias = stream.floats(-1.0..1.0, if self.bias { h } else { 0 });
        let residual = stream.elements(if self.residual { self.rows * h } else { 0 });
        let z = stream.elements(self.rows * self.rank());
        Input { a, kept, weight, bias, residual, z, low_rank: stream.scaled(self.low_rank_rows(), h) }
    }
}

impl Case for ProjectCase {
    fn prepare<B: Backend>(&self, backend: &B, source: Source<'_>) -> Result<Ready<B>> {
        let input = self.input(source);
        let (rows, h, low_rank) = (self.rows, self.out_features, self.low_rank);
        let len = rows * h;
        let projection = backend.put_linear(&input.weight, None, WeightUse::Columns)?;
        let kept = input.kept.map(|kept| backend.put_kept(&kept, self.in_features)).transpose()?;
        let a = backend.put_activations(rows * self.columns(), &input.a)?;
        let bias = self.bias.then(|| backend.put_statistics(h, &input.bias)).transpose()?;
        let residual = self.residual.then(|| backend.put_activations(len, &input.residual)).transpose()?;
        let z = backend.put_activations(rows * self.rank(), &input.z)?;
        let weight = backend.put_activations(self.low_rank_rows() * h, &input.low_rank)?;
        let mut out = backend.activations(len)?;
        Ok(Box::new(move |backend, read| {
            backend.project(ProjectOperands {
                kept: kept.as_ref(),
                bias: bias.as_ref(),
                low_rank: low_rank.map(|rank| LowRank { z: &z, rank, weight: &weight }),
                residual: residual.as_ref(),
                ..ProjectOperands::new(&a, rows, &projection, &mut out)
            });
            outputs(read, || Ok(vec![backend.read_activations(&out, len)?]))
        }))
    }

    fn expected(&self, source: Source<'_>, stored: Stored) -> Vec<Expected> {
        let input = self.input(source);
        let (h, c) = (self.out_features, self.in_features);
        let picked: Vec<usize> = picked(input.kept.as_ref(), c).into_iter().flatten().collect();
        let (a, weight) = (wide(&input.a), wide(&input.weight.to_f32()));
        let (z, low_rank) = (wide(&input.z), wide(&input.low_rank));
        let values = (0..self.rows * h).map(|i| {
            let (t, o) = (i / h, i % h);
            let a = &a[t * picked.len()..][..picked.len()];
            let main = a.iter().zip(&picked).map(|(&a, &channel)| (a, weight[o * c + channel]));
            let mut sum = match self.low_rank {
                None => Near::dot(main),
                Some(rank) => {
                    let added = (0..rank).map(|l| (z[t * rank + l], low_rank[l * h + o]));
                    Near::dot(main.chain(added)) + low_rank[rank * h + o].into()
                }
            };
            if self.bias {
                sum = sum + input.bias[o].into();
            }
            if self.residual {
                sum = sum + input.residual[i].into();
            }
            sum.stored(stored)
        });
        vec![Expected::Floats(values.collect())]
    }

    fn bytes(&self, element: ElementBytes) -> usize {
        let (t, h, c) = (self.rows, self.out_features, self.columns());
        let residual = if self.residual { t * h } else { 0 };
        let low_rank = t * self.rank() + self.low_rank_rows() * h;
        element.activation * (t * c + t * h + residual + low_rank) + element.weight * c * h
    }

    fn traffic(&self) -> Traffic {
        let (t, h, c) = (self.rows, self.out_features, self.columns());
        let residual = if self.residual { 2 * t * h } else { 0 };
        let list = if matches!(self.keep, Keep::Dense) { 0 } else { 1 };
        if t <= 16 {
            let kernel = format!("project_gemv_{}", if t > 8 { 16 } else { 8 });
            let read = 2 * c * h + (2 * t + 4 * list) * c * h.div_ceil(32) + residual;
            return Traffic::new(&kernel, read, 2 * t * h);
        }
        let (rows, columns) = (t / 128, h / 128);
        // The 16 threads of a row of the tile read the same index: a sector of 8 indices for each 2 rows of a warp.
        let kept = list * rows * columns * 16 * c;
        let bias = if self.bias { 4 * h } else { 0 };
        let low_rank = columns * 2 * t * self.rank() + rows * 2 * self.low_rank_rows() * h;
        let read = columns * 2 * t * c + rows * (2 * c * h + bias) + kept + residual + low_rank;
        Traffic::new("project", read, 2 * t * h)
    }

    fn product(&self) -> Option<[usize; 3]> {
        Some([self.rows, self.out_features, self.columns() + self.rank()])
    }
}
