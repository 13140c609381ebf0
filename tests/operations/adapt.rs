//! `adapt`: corrections of folds.
//!
//! Intervals of results would not survive a Cholesky factor, so what is behind it has f64's value and a bound of its own:
//! first-order perturbation theory, entry by entry. With S = L·Lᵀ as computed off by at most Δ, an entry of Xᵀ·S⁻¹·Y with X
//! off by at most r_X and Y by at most r_Y is off by no more than
//! |S⁻¹X|ᵀ·Δ·|S⁻¹Y| + r_Xᵀ·|S⁻¹Y| + |S⁻¹X|ᵀ·r_Y + γ·|L⁻¹X|ᵀ·|L⁻¹Y|, where Δ is S's own interval and γ·|L|·|Lᵀ| for each of
//! the factor and the two substitutions (Higham, Accuracy and stability of numerical algorithms, 8.5 and 10.3); γ is of a sum
//! of T_p terms as [`Near`] has it.

use probeprune::{
    Result,
    backend::{AdaptOperands, AdaptScratch, Backend, Linear, Precision, WeightUse},
    checkpoint::Tensor,
};
use rand::RngExt;

use super::{
    Case, ElementBytes, Expected, Output, Put, Ready, Traffic,
    factor::{Factor, pairs},
    near::{Near, Stored, UNIT},
    outputs,
    product::Kept,
    source::{Source, wide},
};

#[derive(Clone, Debug)]
pub struct AdaptCase {
    /// T_p.
    pub rows: usize,
    /// Blocks in all, and kept ones.
    pub of: usize,
    pub kept: usize,
    pub block_width: usize,
    /// H.
    pub hidden: usize,
    /// Share of rows that are tokens; `None` without a mask.
    pub tokens: Option<f64>,
    /// All of P, or its diagonal.
    pub full: bool,
    pub forgetting: f32,
    /// P is symmetric but for the last bits of what is above its diagonal, as an inverse may be.
    pub uneven: bool,
}

const GAIN: f32 = 0.25;

/// What a case begins with.
struct Input {
    kept: Vec<u32>,
    mask: Vec<u32>,
    a: Vec<f32>,
    target: Vec<f32>,
    means: Vec<f32>,
    precision: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    last: Tensor,
}

impl AdaptCase {
    /// Channels by themselves, all of P.
    pub fn new(rows: usize, of: usize, kept: usize, hidden: usize) -> Self {
        Self {
            rows,
            of,
            kept,
            block_width: 1,
            hidden,
            tokens: None,
            full: true,
            forgetting: 1.0,
            uneven: false,
        }
    }

    /// Kept channels.
    pub fn n(&self) -> usize {
        self.kept * self.block_width
    }

    fn input(&self, source: Source<'_>) -> Input {
        let mut stream = source.stream(5);
        let (t, n, h) = (self.rows, self.n(), self.hidden);
        let kept = stream.kept(self.of, self.kept);
        let share = self.tokens.unwrap_or(1.0);
        let mask = (0..t).map(|_| u32::from(stream.rng.random_bool(share))).collect();
        let a = stream.elements(t * self.of * self.block_width);
        let target = stream.elements(t * h);
        let means = stream.floats(-0.5..0.5, n);
        // Positive definite and, even ones, symmetric to the bit.
        let diagonal = stream.floats(0.0..0.125, n);
        let precision = if self.full {
            let shared = stream.floats(-0.125..0.125, n);
            let even = |i: usize, j: usize| shared[i] * shared[j] + if i == j { diagonal[i] } else { 0.0 };
            let off = |i: usize, j: usize| if self.uneven && i < j { 1.0 + f32::EPSILON } else { 1.0 };
            pairs(n, n).map(|(i, j)| even(i, j) * off(i, j)).collect()
        } else {
            diagonal
        };
        let weight = stream.floats(-0.5..0.5, n * h);
        let bias = stream.floats(-1.0..1.0, h);
        let last = stream.weight([h, n], |_, _| true);
        Input { kept, mask, a, target, means, precision, weight, bias, last }
    }

    /// F (T_p, n), exact in float32.
    fn features(&self, input: &Input) -> Vec<f64> {
        let width = self.of * self.block_width;
        let channel =
            |c: usize| input.kept[c / self.block_width] as usize * self.block_width + c % self.block_width;
        let feature = |(row, c): (usize, usize)| {
            if input.mask[row] == 0 { 0.0 } else { input.a[row * width + channel(c)] - input.means[c] }
        };
        pairs(self.rows, self.n()).map(|at| f64::from(feature(at))).collect()
    }

    /// The output at the mean (H), E (T_p, H) and E's mean square.
    fn errors(&self, input: &Input, features: &[f64]) -> (Vec<Near>, Vec<Near>, Near) {
        let (n, h) = (self.n(), self.hidden);
        let (weight, means) = (wide(&input.weight), wide(&input.means));
        let at_mean: Vec<Near> = (0..h)
            .map(|column| {
                let terms = (0..n).map(|c| Near::from(means[c] * weight[c * h + column]));
                terms.chain([input.bias[column].into()]).sum()
            })
            .collect();
        let error = |(row, column): (usize, usize)| {
            if input.mask[row] == 0 {
                return Near::from(0.0);
            }
            let explained = (0..n).map(|c| Near::from(-features[row * n + c] * weight[c * h + column]));
            explained.chain([Near::from(input.target[row * h + column]) - at_mean[column]]).sum()
        };
        let errors: Vec<Near> = pairs(self.rows, h).map(error).collect();
        let tokens = input.mask.iter().sum::<u32>().max(1);
        let mean = errors.iter().map(|x| x.square()).sum::<Near>() / Near::from(f64::from(tokens));
        (at_mean, errors, mean)
    }

    /// U (T_p, n) and S (T_p, T_p).
    fn gram(&self, input: &Input, features: &[f64]) -> (Vec<Near>, Vec<Near>) {
        let (t, n) = (self.rows, self.n());
        let p = wide(&input.precision);
        let image = |(row, c): (usize, usize)| {
            if self.full {
                Near::dot((0..n).map(|k| (features[row * n + k], p[k * n + c])))
            } else {
                Near::from(features[row * n + c]) * Near::from(p[c])
            }
        };
        let images: Vec<Near> = pairs(t, n).map(image).collect();
        let entry = |(i, j): (usize, usize)| {
            let constant =
                f64::from(GAIN) * f64::from(input.mask[i] * input.mask[j]) + f64::from(u8::from(i == j));
            let terms = (0..n).map(|c| images[i * n + c] * Near::from(features[j * n + c]));
            terms.chain([Near::from(constant)]).sum()
        };
        let gram = pairs(t, t).map(entry).collect();
        (images, gram)
    }

    /// The corrected weight, bias and P.
    fn corrected(&self, input: &Input, exact: bool, known: Known) -> Corrected {
        let Known { features, at_mean, errors, images, gram } = known;
        let (t, n, h) = (self.rows, self.n(), self.hidden);
        let gamma = 4.0 * ((t + 4) as f64).sqrt() * UNIT;
        let factor = Factor::of(&gram, 3.0 * gamma);
        let growth = factor.growth;
        assert!(!exact || growth < 0.1, "{self:?}: no bound of the first order at {growth}");
        if growth >= 0.1 {
            return Corrected::any(n, h, input.precision.len());
        }
        let [images, errors] = [&images, &errors].map(|x| factor.solve(x));
        let ones: Vec<Near> = input.mask.iter().map(|&x| Near::from(f64::from(x))).collect();
        let ones = factor.solve(&ones);
        let moved = |before: &[f32], by: Vec<Near>, sign: f64| -> Vec<Near> {
            // The old value is one more term of the sum.
            let of = |(&before, by): (&f32, Near)| {
                let (value, rounding) = (f64::from(before), gamma * f64::from(before).abs());
                Near::from(value + sign * by.value()).give(by.width() / 2.0 + rounding).rounded(2.0)
            };
            before.iter().zip(by).map(of).collect()
        };
        let weight = moved(&input.weight, factor.product(&images, &errors, gamma), 1.0);
        let gain = Near::from(GAIN);
        let at_mean =
            factor.product(&ones, &errors, gamma).into_iter().zip(at_mean).map(|(by, at)| at + gain * by);
        let bias = at_mean.enumerate().map(|(column, at)| {
            let terms = (0..n).map(|c| -(Near::from(input.means[c]) * weight[c * h + column]));
            terms.chain([at]).sum()
        });
        let bias = bias.collect();
        let precision = if self.full {
            let shrunk = moved(&input.precision, factor.product(&images, &images, gamma), -1.0);
            // Either half may count.
            let other = |i: usize, j: usize| {
                f64::from(input.precision[i * n + j]) - f64::from(input.precision[j * n + i])
            };
            let new = |((i, j), x): ((usize, usize), Near)| {
                (x.give(other(i, j).abs()) / Near::from(self.forgetting)).rounded(1.0)
            };
            pairs(n, n).zip(shrunk).map(new).collect()
        } else {
            let forgetting = Near::from(self.forgetting);
            let shrunk = |(c, &p): (usize, &f32)| {
                let squares: Near = (0..t).map(|row| Near::from(features[row * n + c]).square()).sum();
                Near::from(p) / (forgetting * (Near::from(1.0) + Near::from(p) * squares))
            };
            input.precision.iter().enumerate().map(shrunk).collect()
        };
        Corrected { weight, bias, precision, last: None }
    }
}

/// What the correction is made from.
struct Known {
    features: Vec<f64>,
    at_mean: Vec<Near>,
    errors: Vec<Near>,
    images: Vec<Near>,
    gram: Vec<Near>,
}

struct Corrected {
    weight: Vec<Near>,
    bias: Vec<Near>,
    precision: Vec<Near>,
    /// As it was, or where it may be: `None` for the rounded weight.
    last: Option<Vec<Near>>,
}

impl Corrected {
    fn any(n: usize, h: usize, precision: usize) -> Self {
        let [weight, bias, precision, last] = [n * h, h, precision, n * h].map(|len| vec![Near::ANY; len]);
        Self { weight, bias, precision, last: Some(last) }
    }

    /// As it was.
    fn not(input: &Input) -> Self {
        let [weight, bias, precision, last] =
            [&input.weight, &input.bias, &input.precision, &input.last.to_f32()]
                .map(|values| values.iter().map(|&x| x.into()).collect::<Vec<_>>());
        Self { weight, bias, precision, last: Some(last) }
    }
}

fn floats(output: &Output) -> &[f32] {
    let Output::Floats(values) = output else { unreachable!("statistics") };
    values
}

/// Places (i, j), i < j, of a square matrix that has other bits at (j, i).
fn asymmetric(output: &Output, n: usize) -> Vec<u32> {
    let p = floats(output);
    let other = |&(i, j): &(usize, usize)| i < j && p[i * n + j].to_bits() != p[j * n + i].to_bits();
    pairs(n, n).filter(other).map(|(i, j)| (i * n + j) as u32).collect()
}

impl Case for AdaptCase {
    fn prepare<B: Backend>(&self, backend: &B, source: Source<'_>) -> Result<Ready<B>> {
        let input = self.input(source);
        let Self { rows: t, of, block_width, hidden: h, tokens, full, forgetting, .. } = *self;
        let n = self.n();
        let kept = backend.put_kept(&Kept { indices: input.kept, block_width }, of * block_width)?;
        let a = backend.put_activations(t * of * block_width, &input.a)?;
        let target = backend.put_activations(t * h, &input.target)?;
        let mask = tokens.map(|_| backend.put_indices(&input.mask)).transpose()?;
        let means = backend.put_statistics(n, &input.means)?;
        let precision_len = input.precision.len();
        let precision = backend.put_statistics(precision_len, &input.precision)?;
        let mut precision = if full { Precision::Full(precision) } else { Precision::Diagonal(precision) };
        // (n, H) here and in what is expected.
        let laid_out = |weight: &[f32], columns: usize| -> Vec<f32> {
            match B::TRANSPOSES_COLUMNS {
                true => weight.to_vec(),
                false => (0..columns).flat_map(|c| weight[c..].iter().step_by(columns).copied()).collect(),
            }
        };
        let mut weight = backend.put_statistics(n * h, &laid_out(&input.weight, h))?;
        let mut bias = backend.put_statistics(h, &input.bias)?;
        let mut last: Linear<B> = backend.put_linear(&input.last, None, WeightUse::Columns)?;
        let nans = |len: usize| backend.put_statistics(len, &source.stream(0).nans(len));
        let mut error = nans(1)?;
        let mut scratch = AdaptScratch {
            features: nans(t * n)?,
            images: nans(t * n)?,
            errors: nans(t * h)?,
            gram: nans(t * (t + 1))?,
            at_mean: nans(h)?,
            fault: backend.put_indices(&[7777])?,
        };
        Ok(Box::new(move |backend, read| {
            backend.adapt(AdaptOperands {
                a: &a,
                target: &target,
                rows: t,
                mask: mask.as_ref(),
                kept: &kept,
                means: &means,
                precision: &mut precision,
                bias_gain: GAIN,
                forgetting,
                weight: &mut weight,
                bias: &mut bias,
                last: &mut last,
                error: &mut error,
                scratch: &mut scratch,
            });
            outputs(read, || {
                let (Precision::Full(p) | Precision::Diagonal(p)) = &precision;
                let p = backend.read_statistics(p, precision_len)?;
                let asymmetric = if full { asymmetric(&p, n) } else { Vec::new() };
                Ok(vec![
                    backend.read_statistics(&error, 1)?,
                    Output::Floats(laid_out(floats(&backend.read_statistics(&weight, n * h)?), n)),
                    backend.read_statistics(&bias, h)?,
                    p,
                    Output::Floats(backend.download_weight(&last.weight)?.to_f32()),
                    Output::Indices(asymmetric),
                ])
            })
        }))
    }

    fn expected(&self, source: Source<'_>, stored: Stored) -> Vec<Expected> {
        let input = self.input(source);
        let (n, h) = (self.n(), self.hidden);
        let features = self.features(&input);
        let (at_mean, errors, error) = self.errors(&input, &features);
        let (images, gram) = self.gram(&input, &features);
        let checked = || gram.iter().chain([&error]);
        let corrected = if checked().all(|x| x.magnitude().is_finite()) {
            let exact = matches!(source, Source::Exact(_));
            self.corrected(&input, exact, Known { features, at_mean, errors, images, gram })
        } else if checked().any(|x| !x.value().is_finite()) {
            Corrected::not(&input)
        } else {
            Corrected::any(n, h, input.precision.len())
        };
        let Corrected { weight, bias, precision, last } = corrected;
        let last =
            last.unwrap_or_else(|| pairs(h, n).map(|(row, c)| weight[c * h + row].stored(stored)).collect());
        vec![
            Expected::Floats(vec![error]),
            Expected::Floats(weight),
            Expected::Floats(bias),
            Expected::Floats(precision),
            Expected::Floats(last),
            Expected::Indices(Vec::new()),
        ]
    }

    fn bytes(&self, element: ElementBytes) -> usize {
        let (t, n, h) = (self.rows, self.n(), self.hidden);
        let precision = if self.full { 8 * n * n } else { 4 * n };
        element.activation * t * (n + h) + precision + (8 + element.weight) * n * h + 8 * h + 4 * n
    }

    /// Of its products.
    fn traffic(&self) -> Traffic {
        let (t, n, h) = (self.rows, self.n(), self.hidden);
        let tiles = |x: usize| x.div_ceil(64);
        let factors = |m: usize, n: usize, k: usize| 4 * k * (tiles(n) * m + tiles(m) * n);
        let mut read = factors(t, h, n) + 4 * t * h;
        let mut written = 4 * t * h;
        if self.full {
            let on_or_below = tiles(n) * (tiles(n) + 1) / 2;
            read += factors(t, n, n) + 512 * t * on_or_below + 8192 * tiles(n).pow(2) + 1024 * tiles(n);
            read += 256 * on_or_below;
            written += 4 * t * n + 4 * n * n + 1024 * tiles(n);
        }
        read += 9216 * tiles(t).pow(2);
        read += factors(t, t, n) + factors(n, h, t) + 4 * n * h + 256 * tiles(n) * tiles(h);
        written += 4 * t * t + 4 * n * h;
        Traffic::new("adapt_product", read, written)
    }

    fn flops(&self) -> Option<f64> {
        let [t, n, h] = [self.rows, self.n(), self.hidden].map(|size| size as f64);
        let precision = if self.full { 3.0 * t * n * n } else { 0.0 };
        Some(precision + t * (4.0 * n * h + 2.0 * t * n + t * (n + h)) + t * t * t / 3.0)
    }
}
