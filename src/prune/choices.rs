//! The values that the method's settings choose from, under the names of the command line and of files.

use std::{fmt, str::FromStr};

use crate::error::{Error, Result};

macro_rules! names {
    ($(#[$doc:meta])* $name:ident, $what:literal: $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// Every value, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name used on the command line and in files.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                Self::ALL.iter().copied().find(|value| value.name() == text).ok_or_else(|| {
                    let all: Vec<_> = Self::ALL.iter().map(|value| value.name()).collect();
                    Error::argument($what, format!("one of {}", all.join(", ")), format!("{text:?}"), "Pick one of them.")
                })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

names! {
    /// How the kept channels are chosen (docs/method.md, sections 1 to 7).
    Method, "method":
    /// Dense: nothing is pruned.
    None = "none",
    /// Probe Pruning.
    ProbePruning = "pp",
    /// The probe is the whole batch: the upper bound of quality.
    FullBatch = "full-batch",
    /// Wanda's metric, structured; fixed after calibration.
    WandaSp = "wanda-sp",
    /// FLAP: fluctuation, global ratios, bias compensation; fixed after calibration.
    Flap = "flap",
    /// L2 norm of the last projection's columns; no data.
    Magnitude = "magnitude",
    /// A seeded permutation per layer and block.
    Random = "random",
    /// Fixed after calibration, with the last projection refitted by least squares (docs/method.md, section 12).
    Fold = "fold",
}

names! {
    /// What the correction of a fold knows of its features: P, the inverse of their second moments, weighed by tokens.
    AdaptMetric, "adapt_metric":
    /// All of P, updated with every probe: C×C floats per block.
    Full = "full",
    /// Calibration's variances only: C floats per block.
    Diagonal = "diagonal",
}

names! {
    /// Which model runs the prompts of a session whose model was folded; the folded one decodes.
    Prefill, "prefill":
    /// The folded one.
    Pruned = "pruned",
    /// The one that was folded. Where a probe corrects the fold, the probe's rows are those of this run.
    Dense = "dense",
}

names! {
    /// How `fold` chooses what it keeps.
    FoldChoice, "fold_choice":
    /// Pivoted Cholesky on the weighted covariance: what explains most of the rest.
    Pivot = "pivot",
    /// The score of `pp`, of calibration's variance.
    Score = "score",
}

names! {
    /// How the blocks share what is kept.
    Allocation, "allocation":
    /// The same share in every layer that is not skipped.
    Uniform = "uniform",
    /// By the losses that calibration measured, at the FLOPs of the uniform shares (docs/method.md, section 14).
    Measured = "measured",
}

names! {
    /// A score is a channel's energy times a static statistic of its column (docs/method.md, section 4).
    Metric, "metric":
    /// E · sqrt(Σ W⁴), heads by L2: the paper's.
    Ppsp = "ppsp",
    /// sqrt(E) · Σ |W|, heads by sum.
    WandaSp = "wanda-sp",
    /// E · Σ W², heads by sum.
    Flap = "flap",
}

names! {
    /// In which order the probe's tokens and samples are chosen, or which of the two is left out (docs/method.md, section 1).
    ProbeOrder, "probe_order":
    /// Tokens over the batch, then samples by their norm at the kept tokens.
    TokensSamples = "tokens,samples",
    /// Samples over all tokens, then tokens over the kept samples.
    SamplesTokens = "samples,tokens",
    /// Tokens only; every sample is in the probe.
    Tokens = "tokens",
    /// Samples only; every token is in the probe.
    Samples = "samples",
}

names! {
    /// Number format of history's entries.
    HistoryDtype, "history_dtype":
    /// Energies in float32.
    F32 = "f32",
    /// Square roots of energies in float16: half the memory, within 0.1 %.
    F16 = "f16",
}

/// Compensation of pruned channels (this project's addition; the paper has none).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compensation {
    /// None: pruned channels count as 0.
    #[default]
    None,
    /// Their mean over the probe (`wanda-sp`: over calibration), and energies are taken around it.
    ProbeMean,
    /// A linear map of this rank of the block's input, fitted by calibration, with the probe's mean of its remainder.
    Linear {
        /// r.
        rank: usize,
    },
}

impl Compensation {
    /// γ: a channel's energy is taken around this share of its compensation, between 0 (no compensation) and 1 (an exact
    /// one). Part of a large mean's energy must count, because a probe knows that mean only roughly.
    pub const CENTRED_SHARE: f32 = 0.7;
    /// r of `linear` where none is given.
    pub const DEFAULT_RANK: usize = 32;

    /// r: 0 without a linear map.
    pub fn rank(self) -> usize {
        match self {
            Self::Linear { rank } => rank,
            Self::None | Self::ProbeMean => 0,
        }
    }
}

impl FromStr for Compensation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            None if text == "none" => Ok(Self::None),
            None if text == "probe-mean" => Ok(Self::ProbeMean),
            None if text == "linear" => Ok(Self::Linear { rank: Self::DEFAULT_RANK }),
            Some(("linear", rank)) => match rank.parse() {
                Ok(rank) if rank > 0 => Ok(Self::Linear { rank }),
                _ => Err(Error::argument(
                    "compensate",
                    "a rank of at least 1 after linear:",
                    rank,
                    "32 is usual.",
                )),
            },
            _ => {
                let expected = "none, probe-mean, linear or linear:RANK";
                Err(Error::argument("compensate", expected, format!("{text:?}"), "Pick one of them."))
            }
        }
    }
}

impl fmt::Display for Compensation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::ProbeMean => f.write_str("probe-mean"),
            Self::Linear { rank } => write!(f, "linear:{rank}"),
        }
    }
}

impl Method {
    /// Whether kept sets are chosen per batch.
    pub fn is_dynamic(self) -> bool {
        matches!(self, Self::ProbePruning | Self::FullBatch)
    }

    /// Whether the method cannot run without calibration.
    pub fn needs_calibration(self) -> bool {
        matches!(self, Self::WandaSp | Self::Flap | Self::Fold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compensations_are_read_as_they_are_written() {
        for compensate in [Compensation::None, Compensation::ProbeMean, Compensation::Linear { rank: 1 }] {
            assert_eq!(compensate.to_string().parse::<Compensation>().unwrap(), compensate);
        }
        let rank = Compensation::DEFAULT_RANK;
        assert_eq!("linear".parse::<Compensation>().unwrap(), Compensation::Linear { rank });
        for (text, expected) in [
            ("", "none, probe-mean, linear or linear:RANK"),
            ("nonesuch", "none, probe-mean, linear or linear:RANK"),
            ("none:1", "none, probe-mean, linear or linear:RANK"),
            ("linear:0", "a rank of at least 1"),
            ("linear:-1", "a rank of at least 1"),
            ("linear:", "a rank of at least 1"),
        ] {
            let error = text.parse::<Compensation>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
