//! The content of cases' buffers: exact random values for tests, a benchmark's own for benchmarks.

use std::{cell::Cell, ops::Range};

use half::{bf16, f16};
use probeprune::{checkpoint::Tensor, gpu::GpuDtype};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A benchmark's content.
pub trait Content {
    /// `len` values of a range, or none at all where only sizes matter.
    fn values(&self, len: usize, range: Range<f32>, seed: u64) -> Vec<f32>;

    /// A weight of this shape.
    fn matrix(&self, shape: [usize; 2], seed: u64) -> Tensor;
}

/// Where a case's content comes from.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// Random values that this dtype holds exactly, the same every time; NaN in place of unused weights.
    Exact(GpuDtype),
    /// As exact, with one value that is unlike the others.
    Planted(GpuDtype, &'a Plant),
    /// A benchmark's; every seed has others.
    Content(&'a dyn Content, u64),
}

impl<'a> Source<'a> {
    /// The values of one case. `seed` tells the cases of [`Source::Exact`] apart.
    pub fn stream(self, seed: u64) -> Stream<'a> {
        let next = match self {
            Self::Exact(_) | Self::Planted(..) => 0,
            Self::Content(_, seed) => 100 * seed,
        };
        Stream { source: self, rng: ChaCha8Rng::seed_from_u64(seed), next, buffer: 0 }
    }
}

/// Values, one buffer after another.
pub struct Stream<'a> {
    source: Source<'a>,
    /// For lists of indices, which need no exact values.
    pub rng: ChaCha8Rng,
    /// The seed of a benchmark's next buffer.
    next: u64,
    /// Buffers of values so far.
    buffer: usize,
}

impl Stream<'_> {
    /// A benchmark's values, or those that `exact` makes; as elements, or as float32.
    fn values(
        &mut self,
        len: usize,
        range: Range<f32>,
        elements: bool,
        exact: impl FnOnce(&mut ChaCha8Rng, GpuDtype) -> Vec<f32>,
    ) -> Vec<f32> {
        self.next += 1;
        match self.source {
            Source::Exact(dtype) => exact(&mut self.rng, dtype),
            Source::Planted(dtype, plant) => {
                let mut values = exact(&mut self.rng, dtype);
                plant.put(&mut values, self.buffer, &range, elements.then_some(dtype));
                self.buffer += 1;
                values
            }
            Source::Content(content, _) => content.values(len, range, self.next),
        }
    }

    /// Whether values are those of tests.
    pub fn is_exact(&self) -> bool {
        !matches!(self.source, Source::Content(..))
    }

    /// Values in −1..1 as the compute dtype rounds them.
    pub fn elements(&mut self, len: usize) -> Vec<f32> {
        self.values(len, -1.0..1.0, true, |rng, dtype| {
            (0..len).map(|_| rounded(dtype, rng.random_range(-1.0f32..1.0))).collect()
        })
    }

    /// Values whose products with a row of as many values in −1..1 have a variance near 1, rounded.
    pub fn scaled(&mut self, rows: usize, columns: usize) -> Vec<f32> {
        let scale = (2.0 / columns as f32).sqrt();
        let len = rows * columns;
        self.values(len, -scale..scale, true, |rng, dtype| {
            (0..len).map(|_| rounded(dtype, rng.random_range(-1.0f32..1.0) * scale)).collect()
        })
    }

    /// Float32 values in `range`.
    pub fn floats(&mut self, range: Range<f32>, len: usize) -> Vec<f32> {
        self.values(len, range.clone(), false, |rng, _| {
            (0..len).map(|_| rng.random_range(range.clone())).collect()
        })
    }

    /// Energies over six decades, some of them 0.
    pub fn energies(&mut self, len: usize) -> Vec<f32> {
        self.values(len, 0.0..1.0, false, |rng, _| {
            let mut value =
                || if rng.random_range(0..8) == 0 { 0.0 } else { 10f32.powf(rng.random_range(-4.0..2.0)) };
            (0..len).map(|_| value()).collect()
        })
    }

    /// Values that are overwritten, or must not be read: NaN.
    pub fn nans(&self, len: usize) -> Vec<f32> {
        if self.is_exact() { vec![f32::NAN; len] } else { Vec::new() }
    }

    /// A weight whose products with values in −1..1 have a variance near 1. `used` says which entries (row, column) are
    /// read.
    pub fn weight(&mut self, [rows, columns]: [usize; 2], used: impl Fn(usize, usize) -> bool) -> Tensor {
        if let Source::Content(content, _) = self.source {
            self.next += 1;
            return content.matrix([rows, columns], self.next);
        }
        let mut values = self.scaled(rows, columns);
        for (i, value) in values.iter_mut().enumerate() {
            if !used(i / columns, i % columns) {
                *value = f32::NAN;
            }
        }
        Tensor::from_f32(vec![rows, columns], values)
    }

    /// `len` of `of` indices, ascending: chosen at random for tests, evenly spread for benchmarks.
    pub fn kept(&mut self, of: usize, len: usize) -> Vec<u32> {
        if self.is_exact() {
            return subset(&mut self.rng, of, len);
        }
        self.next += 1;
        let start = self.next as usize * 7919 % of;
        let mut kept: Vec<u32> = (0..len).map(|i| ((start + i * of / len) % of) as u32).collect();
        kept.sort_unstable();
        kept
    }

    /// A value as the compute dtype rounds it.
    pub fn rounded(&self, x: f32) -> f32 {
        match self.source {
            Source::Exact(dtype) | Source::Planted(dtype, _) => rounded(dtype, x),
            Source::Content(..) => x,
        }
    }
}

/// A value that bites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    Nan,
    Infinity,
    NegativeInfinity,
    NegativeZero,
    /// The smallest number above 0.
    Subnormal,
    /// The largest number.
    Largest,
}

impl Special {
    pub const ALL: [Self; 6] = [
        Self::Nan,
        Self::Infinity,
        Self::NegativeInfinity,
        Self::NegativeZero,
        Self::Subnormal,
        Self::Largest,
    ];

    /// As an element, or as a float32 (`None`).
    fn value(self, dtype: Option<GpuDtype>) -> f32 {
        match (self, dtype) {
            (Self::Subnormal, None) => f32::from_bits(1),
            (Self::Subnormal, Some(GpuDtype::Bf16)) => bf16::MIN_POSITIVE_SUBNORMAL.to_f32(),
            (Self::Subnormal, Some(GpuDtype::F16)) => f16::MIN_POSITIVE_SUBNORMAL.to_f32(),
            (Self::Largest, None) => f32::MAX,
            (Self::Largest, Some(GpuDtype::Bf16)) => bf16::MAX.to_f32(),
            (Self::Largest, Some(GpuDtype::F16)) => f16::MAX.to_f32(),
            (Self::Nan, _) => f32::NAN,
            (Self::Infinity, _) => f32::INFINITY,
            (Self::NegativeInfinity, _) => f32::NEG_INFINITY,
            (Self::NegativeZero, _) => -0.0,
        }
    }
}

/// A special value in one buffer of a case.
#[derive(Debug)]
pub struct Plant {
    /// Which of the buffers of values that a stream makes, in order.
    buffer: usize,
    /// The first, a middle or the last entry: 0, 1 or 2.
    third: usize,
    special: Special,
    planted: Cell<bool>,
}

impl Plant {
    pub fn new(buffer: usize, third: usize, special: Special) -> Self {
        Self { buffer, third, special, planted: Cell::new(false) }
    }

    /// Whether there was such a buffer.
    pub fn planted(&self) -> bool {
        self.planted.get()
    }

    fn put(&self, values: &mut [f32], buffer: usize, range: &Range<f32>, dtype: Option<GpuDtype>) {
        if buffer == self.buffer && !values.is_empty() {
            let value = self.special.value(dtype);
            // What is never negative, as an energy, stays so.
            values[(values.len() - 1) * self.third / 2] = if range.start < 0.0 { value } else { value.abs() };
            self.planted.set(true);
        }
    }
}

/// A value as the compute dtype rounds it.
pub fn rounded(dtype: GpuDtype, x: f32) -> f32 {
    match dtype {
        GpuDtype::Bf16 => bf16::from_f32(x).to_f32(),
        GpuDtype::F16 => f16::from_f32(x).to_f32(),
    }
}

/// `len` of `of` indices, ascending.
pub fn subset(rng: &mut ChaCha8Rng, of: usize, len: usize) -> Vec<u32> {
    let mut all: Vec<u32> = (0..of as u32).collect();
    while all.len() > len {
        all.remove(rng.random_range(0..all.len()));
    }
    all
}

/// As f64.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}
