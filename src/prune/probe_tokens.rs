//! How many tokens of a sample a probe takes (docs/method.md, section 1).

use std::{fmt, str::FromStr};

use super::BatchShape;
use crate::error::{Error, Result};

/// S_p: the probe's tokens of each of its samples. There are at least 2, or all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ProbeTokens {
    /// ρ_seq in (0, 1]: ceil(ρ_seq·S).
    Share(f64),
    /// At most half of them, and of all samples together at most a 20th of the batch's tokens, so that the probe of a small
    /// batch costs no more than that of a large one: min(ceil(S / 2), floor(ceil(B·S / 20) / B_p)). Not in the paper.
    Auto,
}

impl ProbeTokens {
    /// The paper's.
    pub const PAPER: Self = Self::Share(0.5);

    /// Of all samples together: the most tokens that `auto` takes of a batch.
    pub(super) fn most(batch: BatchShape) -> usize {
        batch.rows().div_ceil(20)
    }

    /// S_p for B_p = `samples`, before it is made 2 at least.
    pub(super) fn of_each(self, batch: BatchShape, samples: usize) -> usize {
        match self {
            Self::Share(share) => (share * batch.tokens as f64).ceil() as usize,
            Self::Auto => batch.tokens.div_ceil(2).min(Self::most(batch) / samples),
        }
    }
}

impl FromStr for ProbeTokens {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        text.parse().map(Self::Share).map_err(|_| {
            let expected = "a number above 0 and at most 1, or auto";
            Error::argument("probe_tokens", expected, format!("{text:?}"), "The paper uses 0.5.")
        })
    }
}

impl fmt::Display for ProbeTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share(share) => share.fmt(f),
            Self::Auto => f.write_str("auto"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_they_are_written() {
        for tokens in
            [ProbeTokens::PAPER, ProbeTokens::Share(0.3), ProbeTokens::Share(1.0), ProbeTokens::Auto]
        {
            assert_eq!(tokens.to_string().parse::<ProbeTokens>().unwrap(), tokens);
        }
        assert_eq!(ProbeTokens::PAPER.to_string(), "0.5");
        for text in ["", "Auto", "auto ", "half", "0.5x"] {
            let error = text.parse::<ProbeTokens>().unwrap_err().to_string();
            assert!(error.contains("probe_tokens") && error.contains("or auto"), "{error}");
        }
    }
}
