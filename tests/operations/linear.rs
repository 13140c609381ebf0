//! `linear`, `gated_linear` and `logits`: products with rows of a weight.

use probeprune::{
    Result,
    backend::{Backend, EnergyOutput, GatedLinearOperands, LinearOperands, LogitsOperands, WeightUse},
    checkpoint::Tensor,
    config::Activation,
    prune::BatchShape,
};

use super::{
    Case, ElementBytes, Expected, Put, Ready, Traffic,
    energy::mean,
    near::{Near, Stored},
    outputs,
    product::{Keep, Kept, activate, picked, product, used},
    source::Source,
};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Linear,
    Gated,
    Logits,
}

#[derive(Clone, Debug)]
pub struct LinearCase {
    pub kind: Kind,
    pub shape: BatchShape,
    /// Rows of the weight, before any are left out.
    pub out_features: usize,
    pub in_features: usize,
    pub keep: Keep,
    /// Of the weight, or of gate and of up.
    pub biases: [bool; 2],
    pub activation: Option<Activation>,
    pub scale: f32,
    /// Energies of the output; `Some(true)`: of the product nothing else is wanted.
    pub energy: Option<bool>,
    /// Pads, which energies leave out.
    pub mask: bool,
}

struct Input {
    x: Vec<f32>,
    kept: Option<Kept>,
    /// Gate and up; the second is empty without a gate.
    weights: Vec<Tensor>,
    biases: [Vec<f32>; 2],
    mask: Vec<u32>,
}

impl LinearCase {
    /// All rows of the weight, without anything added.
    pub fn new(kind: Kind, rows: usize, [out_features, in_features]: [usize; 2]) -> Self {
        Self {
            kind,
            shape: BatchShape { samples: 1, tokens: rows },
            out_features,
            in_features,
            keep: Keep::Dense,
            biases: [false; 2],
            activation: (kind == Kind::Gated).then_some(Activation::Silu),
            scale: 1.0,
            energy: None,
            mask: false,
        }
    }

    pub fn keep(self, keep: Keep) -> Self {
        Self { keep, ..self }
    }

    pub fn with_bias(self) -> Self {
        Self { biases: [true; 2], ..self }
    }

    pub fn with(self, activation: Activation, scale: f32) -> Self {
        Self { activation: Some(activation), scale, ..self }
    }

    fn input(&self, source: Source<'_>) -> Input {
        let mut stream = source.stream(7);
        let (all, k) = (self.out_features, self.in_features);
        let x = stream.elements(self.shape.rows() * k);
        let kept = self.keep.kept(&mut stream, all);
        let used = used(kept.as_ref(), all);
        let weights = if self.kind == Kind::Gated { 2 } else { 1 };
        let weights = (0..weights).map(|_| stream.weight([all, k], |row, _| used[row])).collect();
        let biases = self.biases.map(|bias| stream.floats(-1.0..1.0, if bias { all } else { 0 }));
        let mask = (0..self.shape.rows()).map(|i| u32::from(i * 7 % 5 != 0)).collect();
        Input { x, kept, weights, biases, mask }
    }

    /// Columns of the output.
    fn columns(&self) -> usize {
        self.keep.len(self.out_features)
    }

    /// Weights that are multiplied with.
    fn weights(&self) -> usize {
        if self.kind == Kind::Gated { 2 } else { 1 }
    }

    /// Bytes of all energies.
    fn energy_bytes(&self) -> usize {
        if self.energy.is_some() { 4 * self.shape.tokens * self.columns() } else { 0 }
    }
}

impl Case for LinearCase {
    fn prepare<B: Backend>(&self, backend: &B, source: Source<'_>) -> Result<Ready<B>> {
        let input = self.input(source);
        let Self { kind, shape, activation, scale, energy, .. } = *self;
        let rows = shape.rows();
        let (len, energies_len) = (rows * self.columns(), shape.tokens * self.columns());
        let x = backend.put_activations(rows * self.in_features, &input.x)?;
        let mut projections = Vec::new();
        for ((weight, bias), has_bias) in input.weights.iter().zip(&input.biases).zip(self.biases) {
            projections.push(backend.put_linear(weight, has_bias.then_some(bias), WeightUse::Rows)?);
        }
        let first = projections.remove(0);
        if kind == Kind::Logits {
            let mut out = backend.statistics(len)?;
            return Ok(Box::new(move |backend, read| {
                backend.logits(LogitsOperands { x: &x, rows, head: &first, out: &mut out });
                outputs(read, || Ok(vec![backend.read_statistics(&out, len)?]))
            }));
        }
        let up = projections.pop();
        let kept = input.kept.map(|kept| backend.put_kept(&kept, self.out_features)).transpose()?;
        let mask = self.mask.then(|| backend.put_indices(&input.mask)).transpose()?;
        let mut energies = backend.statistics(if energy.is_some() { energies_len } else { 0 })?;
        let mut out = backend.activations(len)?;
        Ok(Box::new(move |backend, read| {
            let kept = kept.as_ref();
            let energy_output = energy.map(|energy_only| EnergyOutput {
                shape,
                mask: mask.as_ref(),
                out: &mut energies,
                energy_only,
            });
            match &up {
                Some(up) => backend.gated_linear(GatedLinearOperands {
                    x: &x,
                    rows,
                    gate: &first,
                    up,
                    kept,
                    activation: activation.expect("a gate has one"),
                    energy: energy_output,
                    out: &mut out,
                }),
                None => backend.linear(LinearOperands {
                    kept,
                    activation,
                    scale,
                    energy: energy_output,
                    ..LinearOperands::new(&x, rows, &first, &mut out)
                }),
            }
            outputs(read, || {
                let mut all = Vec::new();
                if energy != Some(true) {
                    all.push(backend.read_activations(&out, len)?);
                }
                if energy.is_some() {
                    all.push(backend.read_statistics(&energies, energies_len)?);
                }
                Ok(all)
            })
        }))
    }

    fn expected(&self, source: Source<'_>, stored: Stored) -> Vec<Expected> {
        let input = self.input(source);
        let picked = picked(input.kept.as_ref(), self.out_features);
        let with_bias = |which: usize| -> Vec<Near> {
            let mut values = product(&input.x, &input.weights[which].to_f32(), self.in_features, &picked);
            if self.biases[which] {
                for (i, value) in values.iter_mut().enumerate() {
                    if let Some(row) = picked[i % picked.len()] {
                        *value = *value + input.biases[which][row].into();
                    }
                }
            }
            values
        };
        let mut out = with_bias(0);
        out.iter_mut().for_each(|x| *x = activate(*x, self.activation));
        if self.scale != 1.0 {
            out.iter_mut().for_each(|x| *x = *x * self.scale.into());
        }
        if self.kind == Kind::Gated {
            out.iter_mut().zip(with_bias(1)).for_each(|(x, up)| *x = *x * up);
        }
        let kept_as = if self.kind == Kind::Logits { Stored::Float32 } else { stored };
        out.iter_mut().for_each(|x| *x = x.stored(kept_as));
        let BatchShape { samples, tokens } = self.shape;
        let width = picked.len();
        // Of the outputs as they are stored.
        let energy = |i: usize| {
            let (s, c) = (i / width, i % width);
            let real = |b: &usize| !self.mask || input.mask[b * tokens + s] != 0;
            let squares = (0..samples).filter(real).map(|b| out[(b * tokens + s) * width + c].square());
            mean(squares.sum(), (0..samples).filter(real).count(), self.mask)
        };
        let energies = || Expected::Floats((0..tokens * width).map(energy).collect());
        match self.energy {
            None => vec![Expected::Floats(out)],
            Some(false) => vec![Expected::Floats(out.clone()), energies()],
            Some(true) => vec![energies()],
        }
    }

    fn bytes(&self, element: ElementBytes) -> usize {
        let (t, k, f) = (self.shape.rows(), self.in_features, self.columns());
        let out = if self.kind == Kind::Logits { 4 } else { element.activation };
        element.activation * t * k
            + out * t * f
            + self.weights() * element.weight * f * k
            + self.energy_bytes()
    }

    fn traffic(&self) -> Traffic {
        let (t, h, f, weights) = (self.shape.rows(), self.in_features, self.columns(), self.weights());
        let name = match self.kind {
            Kind::Linear => "linear",
            Kind::Gated => "gated_linear",
            Kind::Logits => "logits",
        };
        let written = if self.kind == Kind::Logits { 4 } else { 2 } * t * f + self.energy_bytes();
        if t <= 16 {
            let name = if self.kind == Kind::Logits { "linear" } else { name };
            let kernel = format!("{name}_gemv_{}", if t > 8 { 16 } else { 8 });
            let read = weights * 2 * f * h + 2 * t * h * (f * weights).div_ceil(32);
            return Traffic::new(&kernel, read, written);
        }
        let list = if matches!(self.keep, Keep::Dense) { 0 } else { weights * 4 * f };
        let read = f / (128 / weights) * 2 * t * h + t / 128 * (weights * 2 * f * h + list);
        Traffic::new(name, read, written)
    }

    fn product(&self) -> Option<[usize; 3]> {
        Some([self.shape.rows(), self.columns(), self.in_features])
    }

    fn flops(&self) -> Option<f64> {
        let sizes = self.product()?;
        Some(sizes.iter().fold(2.0 * self.weights() as f64, |flops, &size| flops * size as f64))
    }
}
