//! `argmax`: the most likely token of each row.

use probeprune::{
    Result,
    backend::{ArgmaxOperands, Backend},
};

use super::{Case, ElementBytes, Expected, Put, Ready, Traffic, near::Stored, outputs, source::Source};

#[derive(Clone, Debug)]
pub struct ArgmaxCase {
    /// Logits.
    pub x: Vec<f32>,
    pub rows: usize,
}

impl ArgmaxCase {
    fn vocab_size(&self) -> usize {
        self.x.len() / self.rows
    }
}

impl Case for ArgmaxCase {
    fn prepare<B: Backend>(&self, backend: &B, _source: Source<'_>) -> Result<Ready<B>> {
        let (rows, vocab_size) = (self.rows, self.vocab_size());
        let (x, mut out) = (backend.put_statistics(self.x.len(), &self.x)?, backend.indices(rows)?);
        Ok(Box::new(move |backend, read| {
            backend.argmax(ArgmaxOperands { x: &x, rows, vocab_size, out: &mut out });
            outputs(read, || Ok(vec![backend.read_indices(&out, rows)?]))
        }))
    }

    fn expected(&self, _source: Source<'_>, _stored: Stored) -> Vec<Expected> {
        let best = |row: &[f32]| {
            let mut best = 0;
            for (i, &x) in row.iter().enumerate() {
                best = if x > row[best] { i } else { best };
            }
            if row.iter().all(|x| x.is_finite()) { best as u32 } else { u32::MAX }
        };
        vec![Expected::Indices(self.x.chunks_exact(self.vocab_size()).map(best).collect())]
    }

    fn bytes(&self, _element: ElementBytes) -> usize {
        4 * (self.x.len() + self.rows)
    }

    fn traffic(&self) -> Traffic {
        // Each block writes 4 bytes, of a sector of 32.
        Traffic::new("argmax", 4 * self.x.len(), 32 * self.rows)
    }
}
