//! `top_k_keep`: the highest scores.

use probeprune::{
    Result,
    backend::{Backend, KeptSet, TopKKeepOperands},
};
use rand::RngExt;

use super::{Case, ElementBytes, Expected, Put, Ready, Traffic, near::Stored, outputs, source::Source};

/// What scores look like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scores {
    /// In 0..1.
    Uniform,
    /// Energies over many decades.
    Decades,
    /// Both signs.
    Signed,
    /// Five values only, 0 of both signs among them.
    Ties,
    /// The lowest bits decide.
    Near,
    Equal,
    /// One infinite, two NaN of other bits and one −∞, as far as there is room.
    NotFinite,
    /// As `Signed`, and the last has these bits.
    Last(u32),
}

#[derive(Clone, Debug)]
pub struct TopKCase {
    pub scores: Scores,
    pub of: usize,
    pub k: usize,
    /// Already in the fault when the operation starts.
    pub fault: u32,
}

const TAG: u32 = 77;
const UNTOUCHED: u32 = 123_456;

impl TopKCase {
    pub fn new(scores: Scores, of: usize, k: usize) -> Self {
        Self { scores, of, k, fault: 0 }
    }

    fn scores(&self, source: Source<'_>) -> Vec<f32> {
        let n = self.of;
        let mut stream = source.stream(n as u64);
        if self.scores == Scores::Uniform {
            return stream.floats(0.0..1.0, n);
        }
        let rng = &mut stream.rng;
        let mut value = |_| match self.scores {
            Scores::Decades => 10f32.powf(rng.random_range(-8.0..4.0)),
            Scores::Ties => [0.0, -0.0, 1.0, -1.0, 2.0][rng.random_range(0..5)],
            Scores::Near => f32::from_bits(0x3f80_0000 + rng.random_range(0..64)),
            Scores::Equal => 0.25,
            Scores::Uniform | Scores::Signed | Scores::NotFinite | Scores::Last(_) => {
                rng.random_range(-1.0..1.0)
            }
        };
        let mut scores: Vec<f32> = (0..n).map(&mut value).collect();
        if self.scores == Scores::NotFinite {
            let gpus_nan = f32::from_bits(0x7fff_ffff);
            let bad = [f32::NAN, f32::NEG_INFINITY, gpus_nan, f32::INFINITY];
            for (at, bad) in [n / 2, n / 3, n / 5, n - 1].into_iter().zip(bad) {
                scores[at] = bad;
            }
        }
        if let Scores::Last(bits) = self.scores {
            scores[n - 1] = f32::from_bits(bits);
        }
        scores
    }

    /// A fault that is there already stays.
    fn expected_fault(&self, finite: bool) -> u32 {
        if finite || self.fault != 0 { self.fault } else { TAG }
    }
}

impl Case for TopKCase {
    fn prepare<B: Backend>(&self, backend: &B, source: Source<'_>) -> Result<Ready<B>> {
        let of = self.of;
        let scores = backend.put_statistics(of, &self.scores(source))?;
        let indices = backend.put_indices(&vec![UNTOUCHED; of])?;
        let mut kept = KeptSet { indices, len: self.k, of, block_width: 1 };
        let mut fault = backend.put_indices(&[self.fault])?;
        Ok(Box::new(move |backend, read| {
            backend.top_k_keep(TopKKeepOperands {
                scores: &scores,
                kept: &mut kept,
                tag: TAG,
                fault: &mut fault,
            });
            outputs(read, || {
                Ok(vec![backend.read_indices(&kept.indices, of)?, backend.read_indices(&fault, 1)?])
            })
        }))
    }

    fn expected(&self, source: Source<'_>, _stored: Stored) -> Vec<Expected> {
        let scores = self.scores(source);
        let key = |i: u32| Some(scores[i as usize]).filter(|x| !x.is_nan()).unwrap_or(f32::NEG_INFINITY);
        let mut order: Vec<u32> = (0..self.of as u32).collect();
        // Stable: ties stay in the order of their indices.
        order.sort_by(|&a, &b| key(b).partial_cmp(&key(a)).unwrap());
        order.truncate(self.k);
        order.sort_unstable();
        order.resize(self.of, UNTOUCHED);
        let fault = self.expected_fault(scores.iter().all(|x| x.is_finite()));
        vec![Expected::Indices(order), Expected::Indices(vec![fault])]
    }

    fn bytes(&self, _element: ElementBytes) -> usize {
        4 * (self.of + self.k)
    }

    fn traffic(&self) -> Traffic {
        Traffic::new("top_k_keep", 4 * self.of, 4 * self.k)
    }
}
