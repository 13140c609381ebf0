//! `accumulate_product`: second moments.

use probeprune::{
    Result,
    backend::{AccumulateProductOperands, Backend},
};

use super::{
    Case, ElementBytes, Expected, Put, Ready, Traffic,
    near::{Near, Stored},
    outputs,
    source::{Source, wide},
};

#[derive(Clone, Debug)]
pub struct ProductCase {
    pub rows: usize,
    pub m: usize,
    /// `None`: b is a.
    pub n: Option<usize>,
}

impl ProductCase {
    /// a, b, the output before.
    fn input(&self, source: Source<'_>) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let mut stream = source.stream(4);
        let a = stream.elements(self.rows * self.m);
        let b = self.n.map_or_else(Vec::new, |n| stream.elements(self.rows * n));
        (a, b, stream.floats(-1.0..1.0, self.m * self.columns()))
    }

    fn columns(&self) -> usize {
        self.n.unwrap_or(self.m)
    }
}

impl Case for ProductCase {
    fn prepare<B: Backend>(&self, backend: &B, source: Source<'_>) -> Result<Ready<B>> {
        let (a, b, before) = self.input(source);
        let (rows, m, n) = (self.rows, self.m, self.columns());
        let mut out = backend.put_statistics(m * n, &before)?;
        let a = backend.put_activations(rows * m, &a)?;
        let b = self.n.map(|n| backend.put_activations(rows * n, &b)).transpose()?;
        Ok(Box::new(move |backend, read| {
            let b = b.as_ref().unwrap_or(&a);
            backend.accumulate_product(AccumulateProductOperands {
                a: &a,
                b,
                rows,
                columns: [m, n],
                out: &mut out,
            });
            outputs(read, || Ok(vec![backend.read_statistics(&out, m * n)?]))
        }))
    }

    fn expected(&self, source: Source<'_>, _stored: Stored) -> Vec<Expected> {
        let (a, b, before) = self.input(source);
        let (a, b) = (wide(&a), wide(if self.n.is_some() { &b } else { &a }));
        let (m, n) = (self.m, self.columns());
        let values = (0..m * n).map(|i| {
            let product = Near::dot((0..self.rows).map(|t| (a[t * m + i / n], b[t * n + i % n])));
            (product + before[i].into()).stored(Stored::Float32)
        });
        vec![Expected::Floats(values.collect())]
    }

    fn bytes(&self, element: ElementBytes) -> usize {
        element.activation * self.rows * (self.m + self.n.unwrap_or(0)) + 8 * self.m * self.columns()
    }

    fn traffic(&self) -> Traffic {
        let (rows, m, n) = (self.rows, self.m, self.columns());
        let read = n / 64 * 2 * rows * m + m / 64 * 2 * rows * n + 4 * m * n;
        Traffic::new("accumulate_product", read, 4 * m * n)
    }

    fn product(&self) -> Option<[usize; 3]> {
        Some([self.m, self.columns(), self.rows])
    }
}
