//! `embed`: rows of a token table, with or without positions.

use probeprune::{
    Result,
    backend::{Backend, WeightUse},
    checkpoint::Tensor,
    gpu::{Driver, Gpu, GpuDtype},
};
use rand::RngExt;

use crate::case::{
    Case, DTYPES, Expected, Output, Put, check, check_once, check_traffic, elements, rng, unit_roundoff,
};

#[derive(Debug, Clone)]
struct EmbedCase {
    dtype: GpuDtype,
    entries: usize,
    /// Entries of the position table.
    positions: Option<usize>,
    rows: usize,
    width: usize,
}

struct Input {
    table: Vec<f32>,
    position_table: Vec<f32>,
    tokens: Vec<u32>,
    positions: Vec<u32>,
}

impl EmbedCase {
    fn input(&self) -> Input {
        let mut rng = rng(1);
        let count = self.positions.unwrap_or(1);
        Input {
            table: elements(&mut rng, self.dtype, self.entries * self.width),
            position_table: elements(&mut rng, self.dtype, count * self.width),
            // The last row is the table's last.
            tokens: (0..self.rows)
                .map(
                    |t| if t + 1 == self.rows { self.entries - 1 } else { rng.random_range(0..self.entries) },
                )
                .map(|token| token as u32)
                .collect(),
            positions: (0..self.rows).map(|t| ((count - 1).saturating_sub(t / 2)) as u32).collect(),
        }
    }
}

impl Case for EmbedCase {
    fn run<D: Driver>(&self, gpu: &Gpu<D>) -> Result<Vec<Output>> {
        let input = self.input();
        let put = |values: &[f32]| {
            let rows = values.len() / self.width;
            gpu.weight(&Tensor::from_f32(vec![rows, self.width], values.to_vec()), WeightUse::Rows).unwrap()
        };
        let (table, position_table) = (put(&input.table), put(&input.position_table));
        let (tokens, positions) = (gpu.put_indices(&input.tokens), gpu.put_indices(&input.positions));
        let len = self.rows * self.width;
        let mut out = gpu.activations(len)?;
        let place = self.positions.map(|_| (&position_table, &positions));
        gpu.embed(&table, &tokens, place, self.rows, &mut out);
        Ok(vec![Output::Floats(gpu.download_activations(&out, len)?)])
    }

    fn expected(&self) -> Vec<Expected> {
        let input = self.input();
        let mut values = Vec::new();
        for t in 0..self.rows {
            for c in 0..self.width {
                let token = f64::from(input.table[input.tokens[t] as usize * self.width + c]);
                let place = f64::from(input.position_table[input.positions[t] as usize * self.width + c]);
                values.push(token + if self.positions.is_some() { place } else { 0.0 });
            }
        }
        // Copies are exact; sums are rounded once, and are at most 2.5 rms (more with a handful of values).
        let tolerance = if self.positions.is_some() { 6.0 * unit_roundoff(self.dtype) } else { 0.0 };
        vec![Expected::Floats { values, tolerance }]
    }

    fn dtype(&self) -> GpuDtype {
        self.dtype
    }
}

#[test]
fn embed() {
    for dtype in DTYPES {
        for positions in [None, Some(9)] {
            for (entries, rows, width) in
                [(1, 1, 8), (5, 3, 7), (20, 4, 33), (7, 33, 1), (11, 5, 256), (6, 2, 1000)]
            {
                check(&EmbedCase { dtype, entries, positions, rows, width });
            }
            check_once(&EmbedCase { dtype, entries: 9, positions, rows: 3, width: 8192 });
        }
    }
}

#[test]
fn embed_moves_what_its_header_says() {
    for positions in [None, Some(8)] {
        let case = EmbedCase { dtype: GpuDtype::Bf16, entries: 50, positions, rows: 6, width: 4096 };
        let (t, h) = (case.rows, case.width);
        let tables = if positions.is_some() { 2 } else { 1 };
        check_traffic(&case, "embed", tables * (2 * t * h + 256 * t), 2 * t * h);
    }
}
