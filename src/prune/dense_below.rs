//! Which batches are too small to gain from pruning (docs/method.md, section 6).

use std::{fmt, str::FromStr};

use crate::error::{Error, Result};

/// Batches that run dense and leave history as it is. Not for sessions with a key/value cache, which has room for kept heads
/// only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenseBelow {
    /// Those of fewer rows (samples × tokens); 0 prunes every batch.
    Tokens(usize),
    /// Those that pruning would make no faster, by the [expected cost](super::cost) on the device. Not in the paper.
    Auto,
}

impl DenseBelow {
    /// Every batch is pruned, as in the paper.
    pub const NEVER: Self = Self::Tokens(0);
}

impl FromStr for DenseBelow {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        text.parse().map(Self::Tokens).map_err(|_| {
            let expected = "a number of tokens, or auto";
            Error::argument("dense_below", expected, format!("{text:?}"), "0 prunes every batch.")
        })
    }
}

impl fmt::Display for DenseBelow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tokens(tokens) => tokens.fmt(f),
            Self::Auto => f.write_str("auto"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_they_are_written() {
        for below in [DenseBelow::NEVER, DenseBelow::Tokens(300), DenseBelow::Auto] {
            assert_eq!(below.to_string().parse::<DenseBelow>().unwrap(), below);
        }
        assert_eq!(DenseBelow::NEVER.to_string(), "0");
        for text in ["", "Auto", "-1", "1.5", "many"] {
            let error = text.parse::<DenseBelow>().unwrap_err().to_string();
            assert!(error.contains("dense_below") && error.contains("or auto"), "{error}");
        }
    }
}
