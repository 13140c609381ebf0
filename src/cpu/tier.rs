//! Instruction sets that the CPU backend works with.

use std::{fmt, str::FromStr};

use super::product::amx::{self, Unit};
use crate::error::{Error, Result};

/// The environment variable that forces a [`Tier`].
pub const TIER_VARIABLE: &str = "PROBEPRUNE_CPU_TIER";

/// An instruction set for products, attention and everything else on the CPU. Results differ in rounding from one to the
/// other, and are the same bits on every processor that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// As [`Self::Avx512`], but with bf16 weights by AMX-BF16's tile instructions under Linux: an f32 activation is the exact sum
    /// of three bf16 terms.
    Amx,
    /// x86-64 with AVX-512 F, BW, CD, DQ and VL.
    Avx512,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// 64-bit ARM.
    Neon,
    /// What every processor has.
    Portable,
    /// As [`Self::Amx`], with emulated tile instructions: slow, and never chosen, but testable everywhere.
    AmxEmulated,
}

impl Tier {
    /// Every tier, the fastest first.
    pub const ALL: &[Self] =
        &[Self::Amx, Self::Avx512, Self::Avx2, Self::Neon, Self::Portable, Self::AmxEmulated];

    /// The tiers that this processor has, the fastest first.
    pub fn available() -> Vec<Self> {
        Self::ALL.iter().copied().filter(|tier| tier.arch().is_some()).collect()
    }

    /// The tier that the environment variable [`TIER_VARIABLE`] names, or else the fastest one.
    ///
    /// # Errors
    /// [`Error::Argument`] if the variable names none that this processor has.
    pub fn chosen() -> Result<Self> {
        match std::env::var(TIER_VARIABLE) {
            Ok(name) => name.parse(),
            Err(std::env::VarError::NotPresent) => Ok(Self::available()[0]),
            Err(std::env::VarError::NotUnicode(name)) => Err(refused(name.display())),
        }
    }

    /// The name that [`TIER_VARIABLE`] takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amx => "amx",
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Neon => "neon",
            Self::Portable => "portable",
            Self::AmxEmulated => "amx-emulated",
        }
    }

    /// Why this process may not use the AMX that its processor has, if so.
    pub fn amx_refusal() -> Option<&'static str> {
        amx::refusal()
    }

    /// What carries out its tile instructions.
    pub(super) fn amx(self) -> Option<Unit> {
        match self {
            Self::Amx => Some(Unit::Processor),
            Self::AmxEmulated => Some(Unit::Emulated),
            _ => None,
        }
    }

    /// What the tier is compiled for, if this processor has it.
    pub(super) fn arch(self) -> Option<pulp::Arch> {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx if !amx::available() => None,
            #[cfg(target_arch = "x86_64")]
            Self::Amx | Self::Avx512 => pulp::x86::V4::try_new().map(pulp::Arch::V4),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => pulp::x86::V3::try_new().map(pulp::Arch::V3),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => pulp::aarch64::Neon::try_new().map(pulp::Arch::Neon),
            Self::Portable => Some(pulp::Arch::Scalar),
            Self::AmxEmulated => Some(pulp::Arch::new()),
            #[allow(unreachable_patterns, reason = "those of other processors")]
            _ => None,
        }
    }
}

/// The error of asking for a tier that this processor lacks.
pub(super) fn refused(got: impl fmt::Display) -> Error {
    let names: Vec<_> = Tier::available().into_iter().map(Tier::name).collect();
    let expected = format!("one of {}, which this processor has", names.join(", "));
    Error::argument(TIER_VARIABLE, expected, got, "Unset it for the fastest.")
}

/// Of those that this processor has.
impl FromStr for Tier {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::available()
            .into_iter()
            .find(|tier| tier.name() == text)
            .ok_or_else(|| refused(format!("{text:?}")))
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
