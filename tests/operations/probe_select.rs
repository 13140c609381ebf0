//! `probe_select`: every order, padding, ties, few and many tokens and samples.

use probeprune::{
    Result,
    backend::{Backend, Probe, ProbeSelectOperands},
    prune::{
        BatchShape,
        counts::{LEADING_SLOT_LIMIT, probe_shape},
        settings::{ProbeOrder, ProbeTokens, Settings},
    },
};
use rand::RngExt;

use super::{Case, ElementBytes, Expected, Put, Ready, Traffic, near::Stored, outputs, source::Source};

/// What Σr² looks like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Squares {
    /// Squares of small integers: sums are exact and ties are many.
    Exact,
    /// Any floats: the last bit depends on the order of the sum.
    Rough,
    /// A few numbers that differ in their last bits alone: roots make ties of some of them.
    Near,
    /// All 0.
    Zero,
    /// The first sample's, turned by one token more in each sample: samples differ in the last bits of their sums alone.
    Turned,
}

/// Which cells are pads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Padding {
    None,
    /// At the left, fewer in every sample; slot 0 is a pad in all of them.
    Left,
    /// All but the last three slots.
    Long,
    /// Anywhere; sample 0 is nothing but pads.
    Anywhere,
}

#[derive(Clone, Debug)]
pub struct SelectCase {
    pub shape: BatchShape,
    pub probe: BatchShape,
    pub order: ProbeOrder,
    pub padding: Padding,
    pub squares: Squares,
}

const UNTOUCHED: u32 = 123_456;

impl SelectCase {
    /// Shares of tokens and samples as settings have them.
    pub fn with_shares(
        shape: BatchShape,
        (probe_tokens, probe_samples): (f64, f64),
        order: ProbeOrder,
        padding: Padding,
        squares: Squares,
    ) -> Self {
        let probe_tokens = ProbeTokens::Share(probe_tokens);
        let settings = Settings { probe_tokens, probe_samples, probe_order: order, ..Settings::default() };
        Self { shape, probe: probe_shape(&settings, shape), order, padding, squares }
    }

    /// Σr², positions, mask.
    fn input(&self, source: Source<'_>) -> (Vec<f32>, Vec<u32>, Vec<u32>) {
        let BatchShape { samples, tokens } = self.shape;
        let rng = &mut source.stream((samples * tokens) as u64).rng;
        let mut value = || match self.squares {
            Squares::Exact => (rng.random_range(0..6u32).pow(2)) as f32,
            Squares::Near => f32::from_bits(1.7f32.to_bits() + rng.random_range(0..24)),
            Squares::Zero => 0.0,
            Squares::Rough | Squares::Turned => 10f32.powf(rng.random_range(-1.0..2.0)),
        };
        let mut squares: Vec<f32> = (0..self.shape.rows()).map(|_| value()).collect();
        if self.squares == Squares::Turned {
            let (first, rest) = squares.split_at_mut(tokens);
            for (b, row) in rest.chunks_exact_mut(tokens).enumerate() {
                row.copy_from_slice(first);
                row.rotate_left(b + 1);
            }
        }
        let mut real = |row: usize| match self.padding {
            Padding::None => true,
            Padding::Left => row % tokens > (samples - 1 - row / tokens) * 2 % tokens.max(2),
            Padding::Long => row % tokens + 3 >= tokens,
            Padding::Anywhere => row / tokens > 0 && rng.random_range(0..3) > 0,
        };
        let mask = (0..self.shape.rows()).map(|row| u32::from(real(row))).collect();
        (squares, (0..self.shape.rows() as u32).map(|row| 3 * row + 1).collect(), mask)
    }
}

/// The k largest, ascending; a stable sort leaves ties in order of index.
fn largest(values: &[Option<f64>], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].partial_cmp(&values[a]).unwrap());
    order.truncate(k);
    order.sort_unstable();
    order
}

impl Case for SelectCase {
    fn prepare<B: Backend>(&self, backend: &B, source: Source<'_>) -> Result<Ready<B>> {
        let (squares, positions, mask) = self.input(source);
        let Self { shape, order, probe: BatchShape { samples, tokens }, .. } = *self;
        let rows = samples * tokens;
        // One more entry than is to be written.
        let room = |len: usize| backend.put_indices(&vec![UNTOUCHED; len + 1]);
        let mut probe: Probe<B> = Probe {
            shape: self.probe,
            samples: room(samples)?,
            slots: room(tokens)?,
            positions: room(rows)?,
            mask: room(rows)?,
        };
        let mask = (self.padding != Padding::None).then(|| backend.put_indices(&mask)).transpose()?;
        let sum_squares = backend.put_statistics(shape.rows(), &squares)?;
        let positions = backend.put_indices(&positions)?;
        Ok(Box::new(move |backend, read| {
            backend.probe_select(ProbeSelectOperands {
                sum_squares: &sum_squares,
                shape,
                order,
                positions: &positions,
                mask: mask.as_ref(),
                leading_slot_limit: LEADING_SLOT_LIMIT,
                probe: &mut probe,
            });
            outputs(read, || {
                [
                    (&probe.samples, samples),
                    (&probe.slots, tokens),
                    (&probe.positions, rows),
                    (&probe.mask, rows),
                ]
                .into_iter()
                .map(|(indices, len)| backend.read_indices(indices, len + 1))
                .collect()
            })
        }))
    }

    fn expected(&self, source: Source<'_>, _stored: Stored) -> Vec<Expected> {
        let (squares, positions, mask) = self.input(source);
        let at = |b: usize, s: usize| b * self.shape.tokens + s;
        let mut samples: Vec<usize> = (0..self.shape.samples).collect();
        let mut tokens: Vec<usize> = (0..self.shape.tokens).collect();
        // `None`, for pads only, sorts below every norm. As published, a norm is the rounded root of rounded roots' squares.
        let sum = |cells: Vec<usize>| -> Option<f64> {
            let real: Vec<usize> = cells.into_iter().filter(|&i| mask[i] != 0).collect();
            let norm = |squares: &mut dyn Iterator<Item = f32>| {
                squares.map(|x| x.sqrt().powi(2)).sum::<f32>().sqrt()
            };
            let value = |cells: &[usize]| match self.squares {
                Squares::Near => f64::from(norm(&mut cells.iter().map(|&i| squares[i]))),
                _ => cells.iter().map(|&i| f64::from(squares[i])).sum(),
            };
            (!real.is_empty()).then(|| value(&real))
        };
        for stage in self.order.name().split(',') {
            if stage == "tokens" {
                let t: Vec<_> =
                    tokens.iter().map(|&s| sum(samples.iter().map(|&b| at(b, s)).collect())).collect();
                tokens = largest(&t, self.probe.tokens);
                if tokens.len() <= LEADING_SLOT_LIMIT {
                    tokens[0] = tokens[0].min(t.iter().position(Option::is_some).unwrap_or(0));
                }
            } else {
                let m: Vec<_> =
                    samples.iter().map(|&b| sum(tokens.iter().map(|&s| at(b, s)).collect())).collect();
                samples = largest(&m, self.probe.samples);
            }
        }
        let rows: Vec<usize> = samples.iter().flat_map(|&b| tokens.iter().map(move |&s| at(b, s))).collect();
        let output = |values: Vec<u32>| Expected::Indices([values, vec![UNTOUCHED]].concat());
        let indices = |values: Vec<usize>| output(values.into_iter().map(|i| i as u32).collect());
        vec![
            indices(samples),
            indices(tokens),
            output(rows.iter().map(|&row| positions[row]).collect()),
            output(rows.iter().map(|&row| mask[row]).collect()),
        ]
    }

    fn bytes(&self, _element: ElementBytes) -> usize {
        4 * (2 * self.shape.rows() + self.probe.rows())
    }

    fn traffic(&self) -> Traffic {
        let (s, rows) = (self.shape.tokens, self.probe.rows());
        // Norms and the list of slots for each sample; for each of the probe's rows its slot and position, and the sample,
        // which a warp's rows share.
        Traffic::new("probe_select", 8 * self.shape.rows() + 9 * rows, 4 * s + 8 * rows)
    }
}
