//! Tensor maps for bulk tensor copies, with the constraints that `cuTensorMapEncodeTiled` checks.

use crate::error::{Error, Result};

/// Bytes of an encoded map, as of a `CUtensorMap`.
pub(crate) const ENCODED_BYTES: usize = 128;
/// Marks the emulator's own encoding; a real map's layout is not public.
const MAGIC: u64 = 0x7074_782d_656d_7531;

/// How the 16-byte chunks of a box are permuted in shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swizzle {
    /// Not at all.
    None = 0,
    /// Within 32 bytes.
    B32 = 1,
    /// Within 64 bytes.
    B64 = 2,
    /// Within 128 bytes.
    B128 = 3,
}

impl Swizzle {
    const ALL: [Self; 4] = [Self::None, Self::B32, Self::B64, Self::B128];

    /// Bytes of the span that is permuted; the most a row of the box may have.
    pub fn span(self) -> usize {
        [usize::MAX, 32, 64, 128][self as usize]
    }

    /// The address at which the hardware puts what belongs at `address` without swizzling. Address bits 7 and up are
    /// exclusive-ored into the chunk number, bits 4 and up: as many as the span has chunks.
    pub fn apply(self, address: u64) -> u64 {
        let chunks = [0, 1, 3, 7][self as usize];
        address ^ ((address >> 7 & chunks) << 4)
    }

    pub(crate) fn from_index(i: u8) -> Option<Self> {
        Self::ALL.get(i as usize).copied()
    }
}

/// A tiled tensor map: pass it to a launch as a `__grid_constant__` argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorMap {
    pub(crate) element_bytes: usize,
    pub(crate) base: u64,
    pub(crate) size: Vec<u64>,
    pub(crate) stride: Vec<u64>,
    pub(crate) box_size: Vec<u32>,
    pub(crate) swizzle: Swizzle,
}

impl TensorMap {
    /// Describes a tensor of `size` elements per dimension, innermost first, with `stride` bytes between neighbours in
    /// each dimension but the innermost, copied in boxes of `box_size` elements.
    pub fn tiled(
        element_bytes: usize,
        base: u64,
        size: &[u64],
        stride: &[u64],
        box_size: &[u32],
        swizzle: Swizzle,
    ) -> Result<Self> {
        let rank = size.len();
        if !(1..=5).contains(&rank) {
            return Err(Error::tensor_map("rank", "1 to 5 dimensions", rank));
        }
        if stride.len() != rank - 1 || box_size.len() != rank {
            let got = format!("{} strides and {} box sizes", stride.len(), box_size.len());
            return Err(Error::tensor_map(
                "lengths",
                format!("{} strides and {rank} box sizes", rank - 1),
                got,
            ));
        }
        if !matches!(element_bytes, 1 | 2 | 4 | 8) {
            return Err(Error::tensor_map("element size", "1, 2, 4 or 8 bytes", element_bytes));
        }
        if base == 0 || !base.is_multiple_of(16) {
            return Err(Error::tensor_map("base address", "a multiple of 16", format!("{base:#x}")));
        }
        for (d, &n) in size.iter().enumerate() {
            if n == 0 || n > 1 << 32 {
                return Err(Error::tensor_map(format!("size of dimension {d}"), "1 to 2^32", n));
            }
        }
        for (d, &s) in stride.iter().enumerate() {
            if s % 16 != 0 || s >= 1 << 40 {
                let what = format!("stride of dimension {}", d + 1);
                return Err(Error::tensor_map(what, "a multiple of 16 below 2^40", s));
            }
        }
        for (d, &n) in box_size.iter().enumerate() {
            if n == 0 || n > 256 {
                return Err(Error::tensor_map(format!("box size of dimension {d}"), "1 to 256", n));
            }
        }
        let row = box_size[0] as usize * element_bytes;
        if !row.is_multiple_of(16) {
            return Err(Error::tensor_map(
                "innermost box size",
                "a multiple of 16 bytes",
                format!("{row} bytes"),
            ));
        }
        if row > swizzle.span() {
            let expected = format!("at most {} bytes with this swizzle", swizzle.span());
            return Err(Error::tensor_map("innermost box size", expected, format!("{row} bytes")));
        }
        Ok(Self {
            element_bytes,
            base,
            size: size.to_vec(),
            stride: stride.to_vec(),
            box_size: box_size.to_vec(),
            swizzle,
        })
    }

    pub(crate) fn rank(&self) -> usize {
        self.size.len()
    }

    /// Bytes of a box, which is what an mbarrier has to expect for each copy.
    pub fn box_bytes(&self) -> usize {
        self.box_size.iter().map(|&n| n as usize).product::<usize>() * self.element_bytes
    }

    /// The bytes passed to the kernel.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(ENCODED_BYTES);
        out.extend(MAGIC.to_le_bytes());
        out.extend([self.rank() as u8, self.element_bytes as u8, self.swizzle as u8, 0]);
        out.extend((0..5).flat_map(|d| (self.box_size.get(d).copied().unwrap_or(1) as u16).to_le_bytes()));
        out.extend([0; 2]);
        out.extend(self.base.to_le_bytes());
        out.extend((0..5).flat_map(|d| self.size.get(d).copied().unwrap_or(1).to_le_bytes()));
        out.extend((0..4).flat_map(|d| self.stride.get(d).copied().unwrap_or(0).to_le_bytes()));
        out.resize(ENCODED_BYTES, 0);
        out
    }

    /// Reads what [`Self::encode`] wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let u64_at = |i: usize| Some(u64::from_le_bytes(bytes.get(i..i + 8)?.try_into().ok()?));
        if u64_at(0)? != MAGIC {
            return None;
        }
        let (rank, element_bytes) = (usize::from(bytes[8]), usize::from(bytes[9]));
        let swizzle = Swizzle::from_index(bytes[10])?;
        let boxes = |d: usize| u32::from(u16::from_le_bytes([bytes[12 + 2 * d], bytes[13 + 2 * d]]));
        let map = Self::tiled(
            element_bytes,
            u64_at(24)?,
            &(0..rank.min(5)).map(|d| u64_at(32 + 8 * d)).collect::<Option<Vec<_>>>()?,
            &(0..rank.clamp(1, 5) - 1).map(|d| u64_at(72 + 8 * d)).collect::<Option<Vec<_>>>()?,
            &(0..rank.min(5)).map(boxes).collect::<Vec<_>>(),
            swizzle,
        );
        map.ok()
    }
}
