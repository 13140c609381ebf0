//! The registers of a warp: one row of 32 lanes per virtual register, predicates as one bit per lane.

use crate::isa::Reg;

/// 32 lanes of 32 bits.
pub(crate) type Row = [u32; 32];
/// 32 lanes of 64 bits.
pub(crate) type Row64 = [u64; 32];

/// Every lane.
pub(crate) const FULL: u32 = u32::MAX;

/// Register file.
#[derive(Debug, Default)]
pub(crate) struct Regs {
    pub r: Vec<Row>,
    pub d: Vec<Row64>,
    pub p: Vec<u32>,
}

#[inline]
fn put_lanes<T: Copy>(dst: &mut [T; 32], row: &[T; 32], mask: u32) {
    if mask == FULL {
        *dst = *row;
    } else {
        for l in 0..32 {
            if mask >> l & 1 == 1 {
                dst[l] = row[l];
            }
        }
    }
}

impl Regs {
    /// Writes the lanes of a mask.
    #[inline]
    pub(crate) fn put(&mut self, at: u32, row: &Row, mask: u32) {
        put_lanes(&mut self.r[at as usize], row, mask);
    }

    /// Writes the lanes of a mask.
    #[inline]
    pub(crate) fn put64(&mut self, at: u32, row: &Row64, mask: u32) {
        put_lanes(&mut self.d[at as usize], row, mask);
    }

    /// Writes the lanes of a mask of a predicate.
    #[inline]
    pub(crate) fn put_pred(&mut self, at: u32, bits: u32, mask: u32) {
        let p = &mut self.p[at as usize];
        *p = (*p & !mask) | (bits & mask);
    }

    /// Writes the low bits to a register of either width.
    pub(crate) fn put_any(&mut self, at: Reg, row: &Row64, mask: u32) {
        match at {
            Reg::D(d) => self.put64(d, row, mask),
            Reg::R(r) => self.put(r, &std::array::from_fn(|i| row[i] as u32), mask),
        }
    }

    /// A register of either width, zero-extended.
    #[inline]
    pub(crate) fn any(&self, at: Reg) -> Row64 {
        match at {
            Reg::D(d) => self.d[d as usize],
            Reg::R(r) => self.r[r as usize].map(u64::from),
        }
    }
}
