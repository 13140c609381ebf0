//! `embed`: rows of a token table, with or without positions.

use probeprune::{
    Result,
    backend::{Backend, EmbedOperands, WeightUse},
    checkpoint::Tensor,
};
use rand::RngExt;

use super::{
    Case, ElementBytes, Expected, Put, Ready, Traffic,
    near::{Near, Stored},
    outputs,
    source::Source,
};

#[derive(Clone, Debug)]
pub struct EmbedCase {
    pub entries: usize,
    /// Entries of the position table.
    pub positions: Option<usize>,
    pub rows: usize,
    pub embedding_dim: usize,
}

struct Input {
    table: Vec<f32>,
    position_table: Vec<f32>,
    tokens: Vec<u32>,
    positions: Vec<u32>,
}

impl EmbedCase {
    fn input(&self, source: Source<'_>) -> Input {
        let mut stream = source.stream(1);
        let count = self.positions.unwrap_or(1);
        let (table, position_table) =
            (stream.elements(self.entries * self.embedding_dim), stream.elements(count * self.embedding_dim));
        // The last row is the table's last.
        let mut token = |t: usize| {
            if t + 1 == self.rows { self.entries - 1 } else { stream.rng.random_range(0..self.entries) }
        };
        Input {
            table,
            position_table,
            tokens: (0..self.rows).map(|t| token(t) as u32).collect(),
            positions: (0..self.rows).map(|t| ((count - 1).saturating_sub(t / 2)) as u32).collect(),
        }
    }

    fn tables(&self) -> usize {
        if self.positions.is_some() { 2 } else { 1 }
    }
}

impl Case for EmbedCase {
    fn prepare<B: Backend>(&self, backend: &B, source: Source<'_>) -> Result<Ready<B>> {
        let input = self.input(source);
        let put = |values: Vec<f32>| {
            let shape = vec![values.len() / self.embedding_dim, self.embedding_dim];
            backend.weight(&Tensor::from_f32(shape, values), WeightUse::Rows)
        };
        let (table, position_table) = (put(input.table)?, put(input.position_table)?);
        let (tokens, positions) =
            (backend.put_indices(&input.tokens)?, backend.put_indices(&input.positions)?);
        let (rows, len, placed) = (self.rows, self.rows * self.embedding_dim, self.positions.is_some());
        let mut out = backend.activations(len)?;
        Ok(Box::new(move |backend, read| {
            backend.embed(EmbedOperands {
                table: &table,
                tokens: &tokens,
                position_table: placed.then_some((&position_table, &positions)),
                rows,
                out: &mut out,
            });
            outputs(read, || Ok(vec![backend.read_activations(&out, len)?]))
        }))
    }

    fn expected(&self, source: Source<'_>, stored: Stored) -> Vec<Expected> {
        let input = self.input(source);
        let mut values = Vec::new();
        for t in 0..self.rows {
            for c in 0..self.embedding_dim {
                let token = Near::from(input.table[input.tokens[t] as usize * self.embedding_dim + c]);
                let position = input.positions[t] as usize * self.embedding_dim + c;
                values.push(if self.positions.is_some() {
                    (token + input.position_table[position].into()).stored(stored)
                } else {
                    token
                });
            }
        }
        vec![Expected::Floats(values)]
    }

    fn bytes(&self, element: ElementBytes) -> usize {
        let entries = self.rows * self.embedding_dim;
        entries * (self.tables() * element.weight + element.activation)
    }

    fn traffic(&self) -> Traffic {
        let (t, h) = (self.rows, self.embedding_dim);
        Traffic::new("embed", self.tables() * (2 * t * h + 256 * t), 2 * t * h)
    }
}
