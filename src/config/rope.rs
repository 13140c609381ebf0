//! Rotary position embedding: reading its settings, and the inverse frequencies they mean.

use std::f64::consts::PI;

use super::fields::Fields;
use crate::error::Result;

/// Rotary position embedding of a LLaMA-like model.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies (`rope_theta`).
    pub theta: f64,
    /// How the frequencies are stretched for contexts longer than those trained on.
    pub scaling: RopeScaling,
}

/// `rope_scaling` of config.json; fields are named as there.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// No scaling.
    Default,
    /// Every frequency divided by `factor`.
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// NTK-aware: the base grows once a sequence is longer than `max_position_embeddings`.
    Dynamic {
        /// At least 1.
        factor: f64,
    },
    /// LLaMA 3.1: low frequencies divided by `factor`, high ones kept, those between interpolated.
    Llama3 {
        /// At least 1.
        factor: f64,
        /// Wavelengths above original / this are divided by `factor`.
        low_freq_factor: f64,
        /// Wavelengths below original / this are kept.
        high_freq_factor: f64,
        /// Context length, in positions, that the model was first trained with.
        original_max_position_embeddings: usize,
    },
    /// YaRN.
    Yarn {
        /// At least 1.
        factor: f64,
        /// Multiplies cos and sin; `None`: from `factor` and the two `mscale`s.
        attention_factor: Option<f64>,
        /// Rotations over the original context above which a frequency is kept.
        beta_fast: f64,
        /// Rotations over the original context below which a frequency is divided by `factor`.
        beta_slow: f64,
        /// Numerator's weight in the attention factor.
        mscale: Option<f64>,
        /// Denominator's weight in the attention factor.
        mscale_all_dim: Option<f64>,
        /// Context length, in positions, that the model was first trained with.
        original_max_position_embeddings: usize,
        /// Whether the bounds of the interpolated range are rounded to whole dimensions.
        truncate: bool,
    },
}

impl Rope {
    /// Reads `rope_parameters` (newer) or `rope_theta` and `rope_scaling`, as transformers 5 does. `notes` gets a sentence where
    /// two keys disagree.
    pub(super) fn parse(
        fields: &Fields,
        max_position_embeddings: usize,
        notes: &mut Vec<String>,
    ) -> Result<Self> {
        let newer = fields.object("rope_parameters", "rope_parameters.")?.filter(|place| !place.is_empty());
        let older = fields.object("rope_scaling", "rope_scaling.")?.filter(|place| !place.is_empty());
        if newer.is_some() && older.is_some() && fields.get("rope_parameters") != fields.get("rope_scaling") {
            notes.push(
                "config.json: rope_scaling is used and rope_parameters ignored, as in transformers"
                    .to_string(),
            );
        }
        let is_newer = older.is_none();
        let place = older.or(newer);
        for place in [Some(fields), place.as_ref()].into_iter().flatten() {
            let whole_head = "1 or no such key (rotating only a part of each head is not supported)";
            place.optional_number("partial_rotary_factor", whole_head, |factor| factor == 1.0)?;
        }
        let theta = |place: &Fields| {
            place.number("rope_theta", Some(10_000.0), "a number above 1", |theta| theta > 1.0)
        };
        let of_all = theta(fields)?;
        let theta = match place.as_ref().filter(|place| place.has("rope_theta")) {
            Some(place) => theta(place)?,
            None => of_all,
        };
        let Some(place) = &place else { return Ok(Self { theta, scaling: RopeScaling::Default }) };
        let kind = match (place.string("rope_type")?, place.string("type")?) {
            (Some(kind), Some(older)) if kind != older => {
                return Err(place.wrong("type", format!("{kind}, as rope_type, or no such key")));
            }
            (Some(kind), _) | (None, Some(kind)) => kind,
            // Newer files may leave the default out, but not when they have one set of parameters per kind of layer.
            (None, None) if is_newer && place.has("rope_theta") => "default",
            (None, None) => return Err(unknown_type(place, "rope_type")),
        };
        let scaling = match kind {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor: factor(place)? },
            "dynamic" => RopeScaling::Dynamic { factor: factor(place)? },
            "llama3" => llama3(place, original_positions(fields, place, notes)?)?,
            "yarn" => yarn(place, original_positions(fields, place, notes)?, max_position_embeddings)?,
            _ => {
                let key = if place.has("rope_type") { "rope_type" } else { "type" };
                return Err(unknown_type(place, key));
            }
        };
        Ok(Self { theta, scaling })
    }

    /// The `head_dim / 2` inverse frequencies, in radians per position, and the factor that cos and sin are
    /// multiplied by, as Hugging Face computes them: in f32, except what Python computes in f64 beforehand.
    ///
    /// `seq_len`, in positions, matters for [`RopeScaling::Dynamic`] only, and there only above
    /// `max_position_embeddings`.
    pub fn inverse_frequencies(
        &self,
        head_dim: usize,
        seq_len: usize,
        max_position_embeddings: usize,
    ) -> (Vec<f32>, f32) {
        let dim = head_dim as f64;
        match self.scaling {
            RopeScaling::Default => (inverse_powers(self.theta, head_dim), 1.0),
            RopeScaling::Linear { factor } => {
                let mut frequencies = inverse_powers(self.theta, head_dim);
                frequencies.iter_mut().for_each(|frequency| *frequency /= factor as f32);
                (frequencies, 1.0)
            }
            RopeScaling::Dynamic { factor } => {
                let length = seq_len.max(max_position_embeddings) as f64;
                // Hugging Face's `factor * length / max - (factor - 1)` loses the 1 to rounding when the factor is large.
                let stretch = 1.0 + factor * (length / max_position_embeddings as f64 - 1.0);
                (inverse_powers(self.theta * stretch.powf(dim / (dim - 2.0)), head_dim), 1.0)
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let original = original_max_position_embeddings as f64;
                let mut frequencies = inverse_powers(self.theta, head_dim);
                for frequency in &mut frequencies {
                    let wavelength = (1.0 / *frequency) * (2.0 * PI) as f32;
                    if wavelength > (original / low_freq_factor) as f32 {
                        *frequency /= factor as f32;
                    } else if wavelength >= (original / high_freq_factor) as f32 {
                        let rotations = (1.0 / wavelength) * original as f32;
                        let smooth = (rotations - low_freq_factor as f32)
                            / (high_freq_factor - low_freq_factor) as f32;
                        *frequency = (1.0 - smooth) * *frequency / factor as f32 + smooth * *frequency;
                    }
                }
                (frequencies, 1.0)
            }
            RopeScaling::Yarn {
                factor,
                attention_factor,
                beta_fast,
                beta_slow,
                mscale,
                mscale_all_dim,
                original_max_position_embeddings,
                truncate,
            } => {
                let original = original_max_position_embeddings as f64;
                // The dimension that makes `rotations` turns over the original context.
                let dimension =
                    |rotations: f64| dim * (original / (rotations * 2.0 * PI)).ln() / (2.0 * self.theta.ln());
                let (mut low, mut high) = (dimension(beta_fast), dimension(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(dim - 1.0));
                if low == high {
                    high += 0.001;
                }
                let frequencies = powers(self.theta, head_dim).enumerate().map(|(index, power)| {
                    let ramp = ((index as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                    let kept = 1.0 - ramp;
                    (1.0 / (factor as f32 * power)) * (1.0 - kept) + (1.0 / power) * kept
                });
                let scale = attention_factor.unwrap_or_else(|| yarn_scale(factor, mscale, mscale_all_dim));
                (frequencies.collect(), scale as f32)
            }
        }
    }
}

/// `theta^(2i / head_dim)` for `i` in `0 .. head_dim / 2`.
fn powers(theta: f64, head_dim: usize) -> impl Iterator<Item = f32> {
    // The base is rounded to f32 as PyTorch does; the power itself is taken in f64 so that it rounds correctly
    // whatever the platform's f32 `pow` does.
    let base = f64::from(theta as f32);
    (0..head_dim / 2).map(move |index| {
        let exponent = (2 * index) as f32 / head_dim as f32;
        base.powf(f64::from(exponent)) as f32
    })
}

fn inverse_powers(theta: f64, head_dim: usize) -> Vec<f32> {
    powers(theta, head_dim).map(|power| 1.0 / power).collect()
}

/// YaRN's default attention factor.
fn yarn_scale(factor: f64, mscale: Option<f64>, mscale_all_dim: Option<f64>) -> f64 {
    let scale = |weight: f64| if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 };
    match (mscale, mscale_all_dim) {
        (Some(above), Some(below)) => scale(above) / scale(below),
        _ => scale(1.0),
    }
}

fn unknown_type(place: &Fields, key: &str) -> crate::Error {
    place.wrong_with_help(
        key,
        "default, linear, dynamic, llama3 or yarn",
        "Other kinds of RoPE scaling are not supported: use a model with one of these.",
    )
}

fn factor(place: &Fields) -> Result<f64> {
    place.number("factor", None, "a number of at least 1", |factor| factor >= 1.0)
}

/// `original_max_position_embeddings`: beside the scaling it comes first.
fn original_positions(fields: &Fields, place: &Fields, notes: &mut Vec<String>) -> Result<Option<usize>> {
    const KEY: &str = "original_max_position_embeddings";
    let (outer, inner) = (fields.optional_size(KEY)?, place.optional_size(KEY)?);
    if let (Some(outer), Some(inner)) = (outer, inner)
        && outer != inner
    {
        notes.push(format!(
            "config.json: {KEY} is {outer}, and {inner} in the RoPE's own settings: {outer} is used, as in transformers 5"
        ));
    }
    Ok(outer.or(inner))
}

fn llama3(place: &Fields, original: Option<usize>) -> Result<RopeScaling> {
    let factor = factor(place)?;
    let low_freq_factor = place.number("low_freq_factor", None, "a number above 0", |low| low > 0.0)?;
    let expected = format!("a number above low_freq_factor ({low_freq_factor})");
    let high_freq_factor =
        place.number("high_freq_factor", None, &expected, |high| high > low_freq_factor)?;
    let original_max_position_embeddings = match original {
        Some(original) => original,
        None => place.required_size("original_max_position_embeddings")?,
    };
    Ok(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings })
}

fn yarn(place: &Fields, original: Option<usize>, max_position_embeddings: usize) -> Result<RopeScaling> {
    let original = original.unwrap_or(max_position_embeddings);
    let factor = if place.has("factor") || original == max_position_embeddings {
        factor(place)?
    } else {
        (max_position_embeddings as f64 / original as f64).max(1.0)
    };
    // Hugging Face takes 0 as "not given" here (Python's `or`).
    let given = |key: &str| -> Result<Option<f64>> {
        let expected = "a number from 0 to 1000000";
        let number = place.optional_number(key, expected, |number| (0.0..=1e6).contains(&number))?;
        Ok(number.filter(|number| *number != 0.0))
    };
    let beta_slow = given("beta_slow")?.unwrap_or(1.0);
    let beta_fast = given("beta_fast")?.unwrap_or(32.0);
    if beta_fast <= beta_slow {
        return Err(place.wrong("beta_fast", format!("a number above beta_slow ({beta_slow})")));
    }
    Ok(RopeScaling::Yarn {
        factor,
        attention_factor: place
            .optional_number("attention_factor", "a number above 0", |scale| scale > 0.0)?,
        beta_fast,
        beta_slow,
        mscale: given("mscale")?,
        mscale_all_dim: given("mscale_all_dim")?,
        original_max_position_embeddings: original,
        truncate: place.boolean("truncate", true)?,
    })
}
