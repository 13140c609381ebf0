//! How a probe corrects a fold (docs/method.md, section 13). No part of it is in the paper.

use std::{fmt, str::FromStr};

use super::settings::AdaptMetric;
use crate::error::{Error, Result};

/// Whether a probe corrects a fold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Adapt {
    /// The fold stays as calibration made it.
    #[default]
    None,
    /// The fold's error on the probe corrects its last projections by recursive least squares.
    Probe {
        /// Tokens of the probe, over all of its samples; `None` for `probe_tokens` of each.
        tokens: Option<usize>,
    },
}

impl FromStr for Adapt {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            None if text == "none" => Ok(Self::None),
            None if text == "probe" => Ok(Self::Probe { tokens: None }),
            Some(("probe", tokens)) => match tokens.parse() {
                Ok(tokens) if tokens > 0 => Ok(Self::Probe { tokens: Some(tokens) }),
                _ => Err(Error::argument(
                    "adapt",
                    "a number of at least 1 after probe:",
                    tokens,
                    "128 is usual.",
                )),
            },
            _ => Err(Error::argument(
                "adapt",
                "none, probe or probe:TOKENS",
                format!("{text:?}"),
                "Pick one of them.",
            )),
        }
    }
}

impl fmt::Display for Adapt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Probe { tokens: None } => f.write_str("probe"),
            Self::Probe { tokens: Some(tokens) } => write!(f, "probe:{tokens}"),
        }
    }
}

/// Settings of the correction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaptSettings {
    /// Whether there is one.
    pub mode: Adapt,
    /// What P is.
    pub metric: AdaptMetric,
    /// Factor in (0, 1] by which earlier tokens lose weight in every update; 1 forgets nothing. For the full metric.
    pub forgetting: f64,
    /// Tokens that calibration counts as.
    pub prior_tokens: usize,
    /// Every n-th batch is probed while the fold fits; 1 probes all of them.
    pub every: usize,
    /// Excess error of the fold on the probe (see [`crate::session::Session::excess_error`]) above which every batch is
    /// probed.
    pub threshold: f64,
}

impl Default for AdaptSettings {
    fn default() -> Self {
        Self {
            mode: Adapt::None,
            metric: AdaptMetric::Diagonal,
            forgetting: 1.0,
            prior_tokens: 300,
            every: 4,
            threshold: 0.16,
        }
    }
}

impl AdaptSettings {
    /// Tokens that calibration's bias counts as: the gain of the constant feature is one over this.
    pub const BIAS_PRIOR_TOKENS: f32 = 32.0;

    /// Whether a probe corrects the fold.
    pub fn is_on(&self) -> bool {
        self.mode != Adapt::None
    }

    /// Checks every value's range.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the setting, its range and the value.
    pub fn check(&self) -> Result<()> {
        if !(self.forgetting > 0.0 && self.forgetting <= 1.0) {
            let expected = "a number above 0 and at most 1";
            return Err(Error::argument("adapt_forgetting", expected, self.forgetting, "1 forgets nothing."));
        }
        if self.threshold.is_nan() || self.threshold < 0.0 {
            let expected = "a number of at least 0";
            return Err(Error::argument(
                "adapt_threshold",
                expected,
                self.threshold,
                "0 probes every batch.",
            ));
        }
        for (name, value) in [("adapt_prior_tokens", self.prior_tokens), ("adapt_every", self.every)] {
            if value == 0 {
                return Err(Error::argument(name, "at least 1", 0, "Leave it out for the default."));
            }
        }
        Ok(())
    }
}

/// What a session has learned about a fold: the state of its corrections.
#[derive(Clone, Debug, PartialEq)]
pub struct Corrections {
    /// Fingerprint of the folded model.
    pub fold: String,
    /// Per layer: attention, MLP; `None` for a block that was not folded.
    pub blocks: Vec<[Option<BlockCorrection>; 2]>,
}

/// The state of one block's corrections (docs/method.md, section 13).
#[derive(Clone, Debug, PartialEq)]
pub struct BlockCorrection {
    /// W' (H, n).
    pub weight: Vec<f32>,
    /// b' (H).
    pub bias: Vec<f32>,
    /// P (n, n), or its diagonal (n).
    pub precision: Vec<f32>,
}

impl BlockCorrection {
    /// Whether it can take the place of `other`.
    pub(crate) fn has_sizes_of(&self, other: &Self) -> bool {
        let sizes = |of: &Self| [of.weight.len(), of.bias.len(), of.precision.len()];
        sizes(self) == sizes(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_as_they_are_written() {
        for mode in [Adapt::None, Adapt::Probe { tokens: None }, Adapt::Probe { tokens: Some(96) }] {
            assert_eq!(mode.to_string().parse::<Adapt>().unwrap(), mode);
        }
        for text in ["", "probe:0", "probe:", "probe:-1", "none:1", "nonesuch"] {
            assert!(text.parse::<Adapt>().unwrap_err().to_string().contains("adapt"), "{text}");
        }
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        let good = AdaptSettings::default();
        good.check().unwrap();
        let refused = |settings: AdaptSettings, name: &str| {
            assert!(settings.check().unwrap_err().to_string().contains(name), "{name}");
        };
        for forgetting in [0.0, 1.1, f64::NAN] {
            refused(AdaptSettings { forgetting, ..good }, "adapt_forgetting");
        }
        for threshold in [-0.1, f64::NAN] {
            refused(AdaptSettings { threshold, ..good }, "adapt_threshold");
        }
        refused(AdaptSettings { prior_tokens: 0, ..good }, "adapt_prior_tokens");
        refused(AdaptSettings { every: 0, ..good }, "adapt_every");
    }
}
