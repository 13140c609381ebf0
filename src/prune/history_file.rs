//! The history file, which stores a [`Calibration`]: a safetensors file. For each block, `layers.N.attention` and `layers.N.mlp`, it has in f32
//!
//! - `.energy` and `.mean` (S, C);
//! - for FLAP `.fluctuation` and `.baseline` (C);
//! - for linear compensation `.linear.directions` (r, H), `.linear.offsets` (r), `.linear.coefficients` (r, C),
//!   `.linear.bias` and `.linear.variance` (C);
//! - for folds `.second` (C·(C + 1)/2);
//! - for folds that were corrected, `.correction.weight` (H, n), `.correction.bias` (H) and `.correction.precision`;
//! - for groups of channels `layers.N.mlp.order` (I) in i32;
//! - for allocations by measured losses of METHOD `.losses.METHOD` (n), and `.kept.METHOD` (n) in i32;
//!
//! and metadata naming the model (fingerprint), the sequence length, the number of samples and the corrected fold.

use std::{fmt::Display, path::Path};

use super::{
    Block,
    adapt::{BlockCorrection, Corrections},
    allocation::{BlockLosses, Losses},
    calibration::{BlockMoments, Calibration, FlapMoments},
    linear_fit::LinearFit,
    second_moments::SecondMoments,
    settings::Method,
};
use crate::{
    checkpoint::{Dtype, Tensor, TensorFile, map_file, open_file},
    config::ModelConfig,
    error::{Error, Result},
    output::{OutTensor, write_safetensors},
};

const FORMAT: &str = "probeprune-history";
const VERSION: &str = "2";

impl Calibration {
    /// Writes the history file.
    ///
    /// # Errors
    /// If `path` cannot be written; then nothing is.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut tensors = Vec::new();
        for (layer, blocks) in self.layers.iter().enumerate() {
            for (block, moments) in Block::ALL.into_iter().zip(blocks) {
                let name = |part: &str| format!("layers.{layer}.{}.{part}", block.name());
                let width = moments.energy.len() / self.seq_len;
                tensors.push((name("energy"), OutTensor::f32(&[self.seq_len, width], &moments.energy)));
                tensors.push((name("mean"), OutTensor::f32(&[self.seq_len, width], &moments.mean)));
                if let Some(flap) = &moments.flap {
                    tensors.push((name("fluctuation"), OutTensor::f32(&[width], &flap.fluctuation)));
                    tensors.push((name("baseline"), OutTensor::f32(&[width], &flap.baseline)));
                }
                if let Some(second) = &moments.second {
                    tensors.push((name("second"), OutTensor::of(second.triangle())));
                }
                if let Some(fit) = &moments.linear {
                    let rank = fit.rank();
                    let parts: [(_, &[usize], _); 5] = [
                        ("directions", &[rank, fit.directions.len() / rank], &fit.directions),
                        ("offsets", &[rank], &fit.offsets),
                        ("coefficients", &[rank, width], &fit.coefficients),
                        ("bias", &[width], &fit.bias),
                        ("variance", &[width], &fit.variance),
                    ];
                    for (part, shape, values) in parts {
                        tensors.push((name(&format!("linear.{part}")), OutTensor::f32(shape, values)));
                    }
                }
            }
            tensors.push((format!("layers.{layer}.mlp.order"), OutTensor::i32(&self.channel_order[layer])));
        }
        self.add_corrections(&mut tensors);
        self.add_losses(&mut tensors);
        let fold = self.corrections.iter().map(|corrections| ("fold_fingerprint", corrections.fold.clone()));
        let metadata = [
            ("format", FORMAT.to_string()),
            ("format_version", VERSION.to_string()),
            ("model_fingerprint", self.fingerprint.clone()),
            ("seq_len", self.seq_len.to_string()),
            ("samples", self.samples.to_string()),
        ];
        let metadata = metadata.into_iter().chain(fold).map(|(key, value)| (key.to_string(), value));
        write_safetensors(path, &tensors, Some(metadata.collect()))
    }

    fn add_corrections(&self, tensors: &mut Vec<(String, OutTensor)>) {
        let Some(corrections) = &self.corrections else { return };
        for (layer, blocks) in corrections.blocks.iter().enumerate() {
            for (block, correction) in Block::ALL.into_iter().zip(blocks) {
                let Some(BlockCorrection { weight, bias, precision }) = correction else { continue };
                let (n, h) = (weight.len() / bias.len(), bias.len());
                let of_precision = if precision.len() == n { vec![n] } else { vec![n, n] };
                for (part, shape, values) in [
                    ("weight", vec![h, n], weight),
                    ("bias", vec![h], bias),
                    ("precision", of_precision, precision),
                ] {
                    let name = format!("layers.{layer}.{}.correction.{part}", block.name());
                    tensors.push((name, OutTensor::f32(&shape, values)));
                }
            }
        }
    }

    fn add_losses(&self, tensors: &mut Vec<(String, OutTensor)>) {
        for of_method in &self.losses {
            for (layer, blocks) in of_method.layers.iter().enumerate() {
                for (block, BlockLosses { kept, losses }) in Block::ALL.into_iter().zip(blocks) {
                    let name =
                        |part: &str| format!("layers.{layer}.{}.{part}.{}", block.name(), of_method.method);
                    let kept: Vec<u32> = kept.iter().map(|&kept| kept as u32).collect();
                    tensors.push((name("kept"), OutTensor::i32(&kept)));
                    tensors.push((name("losses"), OutTensor::f32(&[losses.len()], losses)));
                }
            }
        }
    }

    /// Reads a history file, which must belong to the model with this fingerprint and config.
    ///
    /// Second moments stay in the file, which must not be shortened while they are in use.
    ///
    /// # Errors
    /// If the file is damaged, is no history file, or belongs to another model.
    pub fn load(path: &Path, fingerprint: &str, config: &ModelConfig) -> Result<Self> {
        Self::of_file(HistoryFile { path, file: map_file(path)? }, fingerprint, config)
    }

    /// As [`Calibration::load`], but reads the whole file into memory.
    ///
    /// # Errors
    /// As [`Calibration::load`].
    pub fn read(path: &Path, fingerprint: &str, config: &ModelConfig) -> Result<Self> {
        Self::of_file(HistoryFile { path, file: open_file(path)? }, fingerprint, config)
    }

    fn of_file(file: HistoryFile<'_>, fingerprint: &str, config: &ModelConfig) -> Result<Self> {
        file.check("metadata \"format\"", FORMAT, &file.field("format")?)?;
        file.check("metadata \"format_version\"", VERSION, &file.field("format_version")?)?;
        file.check("model fingerprint", fingerprint, &file.field("model_fingerprint")?)?;
        let (seq_len, samples) = (file.number("seq_len")?, file.number("samples")?);
        let (mut layers, mut channel_order) = (Vec::new(), Vec::new());
        for layer in 0..config.num_hidden_layers {
            let moments = |block| file.moments(layer, block, config, seq_len);
            layers.push([moments(Block::Attention)?, moments(Block::Mlp)?]);
            let (_, order) = file.file.integers(&format!("layers.{layer}.mlp.order"))?;
            // An invalid index becomes one that is no channel; loading the model in this order reports it.
            channel_order
                .push(order.into_iter().map(|channel| channel.try_into().unwrap_or(u32::MAX)).collect());
        }
        let corrections = match file.file.metadata().get("fold_fingerprint") {
            Some(fold) => Some(Corrections { fold: fold.clone(), blocks: file.corrections(config)? }),
            None => None,
        };
        let losses = [Method::ProbePruning, Method::Fold].map(|method| file.losses(method, config));
        let losses = losses.into_iter().filter_map(Result::transpose).collect::<Result<_>>()?;
        let fingerprint = fingerprint.to_string();
        Ok(Self { fingerprint, seq_len, samples, layers, channel_order, corrections, losses })
    }
}

/// A history file that is being read.
struct HistoryFile<'a> {
    path: &'a Path,
    file: TensorFile,
}

impl HistoryFile<'_> {
    fn refuse(&self, what: impl Display, expected: impl Display, got: impl Display) -> Error {
        Error::file(self.path, what, expected, got, "Make one for this model with `probeprune calibrate`.")
    }

    fn check(&self, what: &str, expected: &str, got: &str) -> Result<()> {
        if expected == got { Ok(()) } else { Err(self.refuse(what, expected, format!("{got:?}"))) }
    }

    /// A field of the metadata.
    fn field(&self, key: &str) -> Result<String> {
        let missing = || self.refuse(format!("metadata {key:?}"), "a history file's field", "none");
        self.file.metadata().get(key).cloned().ok_or_else(missing)
    }

    fn number(&self, key: &str) -> Result<usize> {
        let text = self.field(key)?;
        let wrong = || self.refuse(format!("metadata {key:?}"), "a number above 0", format!("{text:?}"));
        text.parse().ok().filter(|&n| n > 0).ok_or_else(wrong)
    }

    /// A tensor of this shape.
    fn shaped(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let what = format!("tensor {name:?}");
        let tensor = self.file.tensor(name).ok_or_else(|| self.refuse(&what, "in the file", "none"))?;
        if tensor.shape() == shape {
            return Ok(tensor);
        }
        Err(self.refuse(what, format!("shape {shape:?}"), format!("{:?}", tensor.shape())))
    }

    /// The finite values of a tensor of this shape.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let values = self.shaped(name, shape)?.to_f32();
        if values.iter().any(|x| !x.is_finite()) {
            return Err(self.refuse(format!("tensor {name:?}"), "finite values", "NaN or infinity"));
        }
        Ok(values)
    }

    /// Second moments, if the file has them. Whether they are finite shows when they are used: they may be larger than
    /// memory.
    fn second(&self, name: &str, channels: usize) -> Result<Option<SecondMoments>> {
        if !self.file.names().any(|have| have == name) {
            return Ok(None);
        }
        let triangle = self.shaped(name, &[SecondMoments::entries(channels)])?;
        if triangle.dtype() == Dtype::F32 {
            return Ok(Some(SecondMoments::of(triangle)));
        }
        Err(self.refuse(format!("dtype of tensor {name:?}"), "F32", triangle.dtype().name()))
    }

    fn corrections(&self, config: &ModelConfig) -> Result<Vec<[Option<BlockCorrection>; 2]>> {
        let of_block = |layer: usize, block: Block| {
            let name = |part: &str| format!("layers.{layer}.{}.correction.{part}", block.name());
            let (weight, h) = (name("weight"), config.hidden_size);
            let Some(found) = self.file.tensor(&weight) else { return Ok(None) };
            let most = block.channels(config);
            let n = found.shape().last().copied().filter(|n| (1..=most).contains(n));
            let n = n.ok_or_else(|| {
                let (expected, got) = (format!("1 to {most} columns"), format!("{:?}", found.shape()));
                self.refuse(format!("tensor {weight:?}"), expected, got)
            })?;
            let precision = name("precision");
            let is_diagonal = self.file.tensor(&precision).is_some_and(|found| found.shape().len() == 1);
            let of_precision = if is_diagonal { vec![n] } else { vec![n, n] };
            Result::Ok(Some(BlockCorrection {
                weight: self.tensor(&weight, &[h, n])?,
                bias: self.tensor(&name("bias"), &[h])?,
                precision: self.tensor(&precision, &of_precision)?,
            }))
        };
        let layer = |layer| Ok([of_block(layer, Block::Attention)?, of_block(layer, Block::Mlp)?]);
        (0..config.num_hidden_layers).map(layer).collect()
    }

    /// What blocks lose under a method, if the file has it.
    fn losses(&self, method: Method, config: &ModelConfig) -> Result<Option<Losses>> {
        let of_block = |layer: usize, block: Block| {
            let name = |part: &str| format!("layers.{layer}.{}.{part}.{method}", block.name());
            let (_, kept) = self.file.integers(&name("kept"))?;
            let most = block.channels(config) / block.unit(config, 1).block_width();
            let kept: Vec<usize> = kept.into_iter().map(|kept| kept.try_into().unwrap_or(0)).collect();
            let rises = kept.windows(2).all(|pair| pair[0] < pair[1]);
            if !rises || !kept.iter().all(|kept| (1..most).contains(kept)) {
                let expected = format!("rising counts from 1 to below {most}");
                return Err(self.refuse(format!("tensor {:?}", name("kept")), expected, format!("{kept:?}")));
            }
            let losses = self.tensor(&name("losses"), &[kept.len()])?;
            Ok(BlockLosses { kept, losses })
        };
        if self.file.tensor(&format!("layers.0.attention.losses.{method}")).is_none() {
            return Ok(None);
        }
        let layer = |layer| Ok([of_block(layer, Block::Attention)?, of_block(layer, Block::Mlp)?]);
        let layers = (0..config.num_hidden_layers).map(layer).collect::<Result<_>>()?;
        Ok(Some(Losses { method, layers }))
    }

    fn moments(
        &self,
        layer: usize,
        block: Block,
        config: &ModelConfig,
        seq_len: usize,
    ) -> Result<BlockMoments> {
        let channels = block.channels(config);
        let name = |part: &str| format!("layers.{layer}.{}.{part}", block.name());
        let flap = if self.file.names().any(|have| *have == name("fluctuation")) {
            Some(FlapMoments {
                fluctuation: self.tensor(&name("fluctuation"), &[channels])?,
                baseline: self.tensor(&name("baseline"), &[channels])?,
            })
        } else {
            None
        };
        let directions = name("linear.directions");
        let rank = self.file.tensor(&directions).and_then(|tensor| tensor.shape().first().copied());
        let fit = |rank: usize| {
            let part = |part: &str, shape: &[usize]| self.tensor(&name(&format!("linear.{part}")), shape);
            Result::Ok(LinearFit {
                directions: part("directions", &[rank, config.hidden_size])?,
                offsets: part("offsets", &[rank])?,
                coefficients: part("coefficients", &[rank, channels])?,
                bias: part("bias", &[channels])?,
                variance: part("variance", &[channels])?,
            })
        };
        Ok(BlockMoments {
            energy: self.tensor(&name("energy"), &[seq_len, channels])?,
            mean: self.tensor(&name("mean"), &[seq_len, channels])?,
            flap,
            linear: rank.map(fit).transpose()?,
            second: self.second(&name("second"), channels)?,
        })
    }
}
