//! What calibration leaves behind (spec sections 6 and 7), and the history file that keeps it.
//!
//! The file is a safetensors file: `layers.N.attention.energy` and `layers.N.mlp.energy` (S, C) in f32, for FLAP also
//! `….fluctuation` and `….baseline` (C), and metadata naming the model (fingerprint), the sequence length and the
//! number of samples.

use std::{collections::HashMap, path::Path};

use crate::{
    checkpoint::open_file,
    error::{Error, Result},
    model::Block,
    output::{OutTensor, write_safetensors},
};

const FORMAT: &str = "probeprune-history";
const VERSION: &str = "1";

/// Moments of one block's intermediate states over the calibration samples.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockMoments {
    /// h (S, C): mean over samples of a².
    pub energy: Vec<f32>,
    /// What FLAP needs on top.
    pub flap: Option<FlapMoments>,
}

/// FLAP's moments, reduced over the S slots.
#[derive(Clone, Debug, PartialEq)]
pub struct FlapMoments {
    /// Σ_s φ (C).
    pub fluctuation: Vec<f32>,
    /// mean_s β (C).
    pub baseline: Vec<f32>,
}

/// The result of a calibration run.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// Fingerprint of the model it belongs to.
    pub fingerprint: String,
    /// S of the calibration samples.
    pub seq_len: usize,
    /// Samples seen.
    pub samples: usize,
    /// Per layer: attention, MLP.
    pub layers: Vec<[BlockMoments; 2]>,
}

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
                if let Some(flap) = &moments.flap {
                    tensors.push((name("fluctuation"), OutTensor::f32(&[width], &flap.fluctuation)));
                    tensors.push((name("baseline"), OutTensor::f32(&[width], &flap.baseline)));
                }
            }
        }
        let metadata = [
            ("format", FORMAT.to_string()),
            ("format_version", VERSION.to_string()),
            ("model_fingerprint", self.fingerprint.clone()),
            ("seq_len", self.seq_len.to_string()),
            ("samples", self.samples.to_string()),
        ];
        let metadata: HashMap<_, _> = metadata.map(|(key, value)| (key.to_string(), value)).into();
        write_safetensors(path, &tensors, Some(metadata))
    }

    /// Reads a history file that has to belong to the model with this fingerprint, `channels` naming its widths
    /// (attention, MLP) and `layers` their number.
    ///
    /// # Errors
    /// If the file is damaged, is no history file, or belongs to another model.
    pub fn load(path: &Path, fingerprint: &str, layers: usize, channels: [usize; 2]) -> Result<Self> {
        const HELP: &str = "Make one for this model with `probeprune calibrate --model ... --out FILE`.";
        let file = open_file(path)?;
        let field = |key: &str| {
            file.metadata().get(key).cloned().ok_or_else(|| {
                Error::file(path, format!("metadata {key:?}"), "a history file's field", "none", HELP)
            })
        };
        let check = |what: &str, expected: &str, got: &str| {
            if expected == got {
                Ok(())
            } else {
                Err(Error::file(path, what, expected, format!("{got:?}"), HELP))
            }
        };
        check("metadata \"format\"", FORMAT, &field("format")?)?;
        check("metadata \"format_version\"", VERSION, &field("format_version")?)?;
        check("model fingerprint", fingerprint, &field("model_fingerprint")?)?;
        let number = |key: &str| -> Result<usize> {
            let text = field(key)?;
            text.parse().ok().filter(|&n| n > 0).ok_or_else(|| {
                Error::file(path, format!("metadata {key:?}"), "a number above 0", format!("{text:?}"), HELP)
            })
        };
        let (seq_len, samples) = (number("seq_len")?, number("samples")?);
        let read = |name: &str, shape: &[usize]| -> Result<Vec<f32>> {
            let what = format!("tensor {name:?}");
            let tensor =
                file.tensor(name).ok_or_else(|| Error::file(path, &what, "in the file", "none", HELP))?;
            if tensor.shape() != shape {
                return Err(Error::file(
                    path,
                    what,
                    format!("shape {shape:?}"),
                    format!("{:?}", tensor.shape()),
                    HELP,
                ));
            }
            let values = tensor.to_f32();
            if values.iter().any(|x| !x.is_finite()) {
                return Err(Error::file(path, what, "finite values", "NaN or infinity", HELP));
            }
            Ok(values)
        };
        let block = |layer: usize, block: Block, width: usize| -> Result<BlockMoments> {
            let name = |part: &str| format!("layers.{layer}.{}.{part}", block.name());
            let flap = if file.names().any(|have| *have == name("fluctuation")) {
                Some(FlapMoments {
                    fluctuation: read(&name("fluctuation"), &[width])?,
                    baseline: read(&name("baseline"), &[width])?,
                })
            } else {
                None
            };
            Ok(BlockMoments { energy: read(&name("energy"), &[seq_len, width])?, flap })
        };
        let layers = (0..layers)
            .map(|layer| {
                Ok([block(layer, Block::Attention, channels[0])?, block(layer, Block::Mlp, channels[1])?])
            })
            .collect::<Result<_>>()?;
        Ok(Self { fingerprint: fingerprint.to_string(), seq_len, samples, layers })
    }
}
