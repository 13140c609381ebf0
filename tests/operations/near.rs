//! What a result may be: f64 arithmetic that carries along how far float32 arithmetic may be off.

use std::{
    iter::Sum,
    ops::{Add, Div, Mul, Neg, Sub},
};

use half::{bf16, f16};
use probeprune::gpu::GpuDtype;

/// Rounding to float32 moves a value by at most this share of it.
pub const UNIT: f64 = 1.0 / (1 << 24) as f64;

/// Half the distance of float32's smallest numbers: rounding moves no value by less.
const SMALLEST: f64 = f32::MIN_POSITIVE as f64 * UNIT;

/// How a backend stores activations. Statistics are float32 on all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The CPU backend.
    Float32,
    /// A GPU.
    Element(GpuDtype),
}

impl Stored {
    /// The nearest value of the type, even ones at a tie.
    fn round(self, x: f64) -> f64 {
        match self {
            Self::Float32 => f64::from(x as f32),
            Self::Element(GpuDtype::Bf16) => round(x, 8, -126, bf16::MAX.to_f64()),
            Self::Element(GpuDtype::F16) => round(x, 11, -14, f16::MAX.to_f64()),
        }
    }

    /// Rounding moves a value by at most this share of it.
    pub fn unit(self) -> f64 {
        match self {
            Self::Float32 => UNIT,
            Self::Element(GpuDtype::Bf16) => 2f64.powi(-8),
            Self::Element(GpuDtype::F16) => 2f64.powi(-11),
        }
    }

    /// Half the distance of the smallest numbers, by which rounding moves those near 0.
    pub fn least(self) -> f64 {
        match self {
            Self::Float32 | Self::Element(GpuDtype::Bf16) => SMALLEST,
            Self::Element(GpuDtype::F16) => 2f64.powi(-25),
        }
    }
}

/// The nearest number of `digits` binary digits, even ones at a tie. (half's conversion of f64 drops digits before it
/// rounds.)
fn round(x: f64, digits: i32, least_exponent: i32, largest: f64) -> f64 {
    if !x.is_finite() || x == 0.0 {
        return x;
    }
    let exponent = ((x.to_bits() >> 52 & 0x7ff) as i32 - 1023).max(least_exponent);
    let unit = 2f64.powi(exponent - digits + 1);
    let rounded = (x / unit).round_ties_even() * unit;
    if rounded.abs() > largest { f64::INFINITY.copysign(x) } else { rounded }
}

/// Every value from `low` to `high`; both are NaN for a result that has to be NaN.
///
/// Each operation widens the interval by one rounding to float32; [`Near::sum`] by those of a sum in any order. A result
/// that float32 cannot hold is infinite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Near {
    low: f64,
    high: f64,
}

impl Near {
    /// From `low` to `high`, in either order.
    fn between(a: f64, b: f64) -> Self {
        if a.is_nan() || b.is_nan() {
            return Self { low: f64::NAN, high: f64::NAN };
        }
        Self { low: a.min(b), high: a.max(b) }
    }

    /// The smallest interval around several values of a function, NaN where all are.
    fn around(values: impl IntoIterator<Item = f64>) -> Self {
        let hull = |a: Self, b: f64| Self { low: a.low.min(b), high: a.high.max(b) };
        // `min` and `max` ignore NaN.
        values.into_iter().fold(Self { low: f64::NAN, high: f64::NAN }, hull)
    }

    /// A product or quotient, which is largest and smallest at ends of the factors.
    fn ends(self, other: Self, f: impl Fn(f64, f64) -> f64) -> Self {
        if self.low.is_nan() || other.low.is_nan() {
            return Self::from(f64::NAN);
        }
        let (a, b) = ([self.low, self.high], [other.low, other.high]);
        Self::around(a.into_iter().flat_map(|a| b.map(|b| f(a, b)))).overflowed().rounded(1.0)
    }

    /// Float32's range ends at its largest number.
    fn overflowed(self) -> Self {
        let clip = |x: f64| if (x as f32).is_infinite() { f64::INFINITY.copysign(x) } else { x };
        Self { low: clip(self.low), high: clip(self.high) }
    }

    /// Anything.
    pub const ANY: Self = Self { low: f64::NEG_INFINITY, high: f64::NAN };

    /// Some more to both sides.
    pub fn give(self, more: f64) -> Self {
        self.widened(|_| more)
    }

    /// Some roundings to float32; an exact 0 needs none.
    pub fn rounded(self, times: f64) -> Self {
        if self.magnitude() == 0.0 {
            return self;
        }
        self.widened(|end| times * (UNIT * end.abs() + SMALLEST))
    }

    /// More to each side, by its end. Infinity stays what it is.
    fn widened(self, more: impl Fn(f64) -> f64) -> Self {
        let end = |x: f64, sign: f64| if x.is_finite() { x + sign * more(x) } else { x };
        Self { low: end(self.low, -1.0), high: end(self.high, 1.0) }.overflowed()
    }

    /// Rounded to what a backend stores: both ends, as rounding keeps the order.
    pub fn stored(self, stored: Stored) -> Self {
        Self { low: stored.round(self.low), high: stored.round(self.high) }
    }

    /// Whether a result is right.
    pub fn holds(self, got: f32) -> bool {
        let got = f64::from(got);
        match (self.low.is_nan(), self.high.is_nan()) {
            (true, _) => got.is_nan(),
            (false, true) => true,
            (false, false) => self.low <= got && got <= self.high,
        }
    }

    /// The largest absolute value.
    pub fn magnitude(self) -> f64 {
        self.low.abs().max(self.high.abs())
    }

    /// From one end to the other.
    pub fn width(self) -> f64 {
        self.high - self.low
    }

    /// The middle, or the finite end where the other may overflow.
    pub fn value(self) -> f64 {
        match (self.low.is_finite(), self.high.is_finite()) {
            (false, true) => self.high,
            (true, false) => self.low,
            _ if self.low == self.high => self.low,
            _ => (self.low + self.high) / 2.0,
        }
    }

    /// A function that rises or falls throughout, or nearly does between the ends, evaluated with `roundings` roundings
    /// to float32.
    pub fn map(self, f: impl Fn(f64) -> f64, roundings: f64) -> Self {
        if self.low.is_nan() {
            return self;
        }
        Self::around([self.low, self.value(), self.high].map(f)).overflowed().rounded(roundings)
    }

    /// The square root, correctly rounded.
    pub fn sqrt(self) -> Self {
        // A rounding error may have made a number below 0 of a 0.
        Self { low: if self.high >= 0.0 { self.low.max(0.0) } else { self.low }, high: self.high }
            .map(f64::sqrt, 1.0)
    }

    /// The square.
    pub fn square(self) -> Self {
        let mut square = self.map(|x| x * x, 1.0);
        if self.low < 0.0 && self.high > 0.0 {
            square.low = 0.0;
        }
        square
    }

    /// At least 0.
    pub fn non_negative(self) -> Self {
        Self { low: if self.low < 0.0 { 0.0 } else { self.low }, ..self }
    }

    /// A sum of products in float32, in any order.
    pub fn dot(factors: impl IntoIterator<Item = (f64, f64)>) -> Self {
        factors.into_iter().map(|(a, b)| Self::from(a * b)).sum()
    }
}

impl From<f64> for Near {
    fn from(x: f64) -> Self {
        Self { low: x, high: x }
    }
}

impl From<f32> for Near {
    fn from(x: f32) -> Self {
        Self::from(f64::from(x))
    }
}

impl Add for Near {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self::between(self.low + other.low, self.high + other.high).overflowed().rounded(1.0)
    }
}

impl Neg for Near {
    type Output = Self;

    fn neg(self) -> Self {
        Self { low: -self.high, high: -self.low }
    }
}

impl Sub for Near {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl Mul for Near {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        self.ends(other, |a, b| a * b)
    }
}

impl Div for Near {
    type Output = Self;

    fn div(self, other: Self) -> Self {
        self.ends(other, |a, b| a / b)
    }
}

impl Sum for Near {
    /// In any order. Rounding errors of n terms are as likely up as down: they add up to some √n of one, not n (Higham and
    /// Mary, A new approach to probabilistic rounding error analysis, 2019); 4 is their λ.
    fn sum<I: Iterator<Item = Self>>(terms: I) -> Self {
        let (mut low, mut high, mut magnitude, mut count) = (0.0, 0.0, 0.0, 0usize);
        for term in terms {
            low += term.low;
            high += term.high;
            let size = term.magnitude();
            // What may overflow leaves the rest as it is where it does not.
            magnitude += if size.is_finite() { size } else { term.value().abs().min(f32::MAX.into()) };
            count += 1;
        }
        let roots = 4.0 * (count as f64).sqrt();
        Self::between(low, high).overflowed().give(roots * (UNIT * magnitude + SMALLEST))
    }
}
