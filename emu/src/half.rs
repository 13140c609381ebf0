//! f16 and bf16 as bits: conversions, rounding to nearest even.

/// bf16 bits to f32.
#[inline]
pub(crate) fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// f32 to bf16 bits; every NaN becomes the canonical one, as on the GPU.
#[inline]
pub(crate) fn to_bf16(v: f32) -> u16 {
    if v.is_nan() {
        return 0x7fff;
    }
    let b = v.to_bits();
    ((b + 0x7fff + ((b >> 16) & 1)) >> 16) as u16
}

/// f16 bits to f32.
#[inline]
pub(crate) fn from_f16(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff);
    let v = match magnitude >> 10 {
        // Subnormals are exact multiples of 2^-24.
        0 => magnitude as f32 * f32::from_bits(0x3380_0000),
        31 => f32::from_bits(0x7f80_0000 | (magnitude & 0x3ff) << 13),
        _ => f32::from_bits((magnitude << 13) + 0x3800_0000),
    };
    f32::from_bits(v.to_bits() | sign)
}

/// f32 to f16 bits.
#[inline]
pub(crate) fn to_f16(v: f32) -> u16 {
    if v.is_nan() {
        return 0x7fff;
    }
    let sign = ((v.to_bits() >> 16) & 0x8000) as u16;
    let a = v.abs();
    if a >= 65520.0 {
        return sign | 0x7c00;
    }
    if a < f32::from_bits(0x3880_0000) {
        // Below the smallest normal: adding 0.5 rounds to a multiple of 2^-24 in the low bits.
        return sign | ((a + 0.5).to_bits() - 0x3f00_0000) as u16;
    }
    let b = a.to_bits();
    let rounded = b + 0xfff + ((b >> 13) & 1);
    sign | ((rounded - 0x3800_0000) >> 13) as u16
}

/// f32 to tf32: the low 13 bits dropped, to nearest, ties away from zero (`cvt.rna`).
#[inline]
pub(crate) fn to_tf32(v: f32) -> f32 {
    if !v.is_finite() {
        return v;
    }
    f32::from_bits((v.to_bits() + 0x1000) & !0x1fff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_survives_the_round_trip() {
        for bits in 0..=u16::MAX {
            let v = from_f16(bits);
            if !v.is_nan() {
                assert_eq!(to_f16(v), bits, "{bits:#x}");
            }
            let v = from_bf16(bits);
            if !v.is_nan() {
                assert_eq!(to_bf16(v), bits, "{bits:#x}");
            }
        }
    }

    #[test]
    fn ties_go_to_even() {
        // Halfway between 1 and the next f16, and between that and the one after.
        assert_eq!(to_f16(1.0 + 2f32.powi(-11)), 0x3c00);
        assert_eq!(to_f16(1.0 + 3.0 * 2f32.powi(-11)), 0x3c02);
        assert_eq!(to_f16(65519.0), 0x7bff);
        assert_eq!(to_f16(65520.0), 0x7c00);
        assert_eq!(to_f16(2f32.powi(-25)), 0);
        assert_eq!(to_f16(3.0 * 2f32.powi(-26)), 1);
        assert_eq!(to_bf16(1.0 + 2f32.powi(-8)), 0x3f80);
        assert_eq!(to_bf16(1.0 + 3.0 * 2f32.powi(-8)), 0x3f82);
    }
}
