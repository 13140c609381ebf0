//! `ldmatrix`, `stmatrix` and `mma.sync`.

use super::{
    machine::{Block, Machine, Step, Warp},
    memory::{Place, addresses},
    regs::{FULL, Regs, Row},
    report::{Checked, Who},
};
use crate::{
    check::shadow::Kind,
    half::{from_bf16, from_f16, to_f16},
    isa::{Matrix, Mma, MmaInput},
    ptx::ast::Space,
};

/// A 16-bit value as f32.
#[inline]
pub(crate) fn widen(input: MmaInput, bits: u16) -> f32 {
    if input == MmaInput::F16 { from_f16(bits) } else { from_bf16(bits) }
}

impl Machine<'_> {
    pub(crate) fn matrix(
        &mut self,
        b: &mut Block,
        w: &mut Warp,
        m: &Matrix,
        pc: u32,
        exec: u32,
    ) -> Checked<Step> {
        if !self.align(w, pc, exec) {
            return Ok(Step::Regroup);
        }
        self.whole_warp(b, w, pc)?;
        let n = m.regs.len();
        let at = addresses(&w.regs, m.addr);
        // Lane 8·i + r gives the address of row r of matrix i.
        let mut rows = [0usize; 32];
        for l in 0..8 * n {
            let who = Who { warp: w.id, lane: Some(l), pc };
            let space = if at[l] >> 40 == 0 { Space::Shared } else { Space::Generic };
            let place = self.place(b, space, at[l], 16, 16, who)?;
            let Place::Shared(row) = place else {
                let message = "a matrix row that is not in shared memory";
                return Err(self.fault(crate::fault::FaultKind::OutOfBounds, b, who, message));
            };
            if b.clocks.is_some() {
                if m.store {
                    b.shared.mark(row, 16, 0);
                }
                self.check(b, who, place, 16, if m.store { Kind::Write } else { Kind::Read })?;
            }
            rows[l] = row;
        }
        let mut flat = [0u64; 32];
        flat.iter_mut().zip(&rows).for_each(|(f, r)| *f = *r as u64);
        let lanes = if n == 4 { FULL } else { (1u32 << (8 * n)) - 1 };
        self.counters.shared(&flat, lanes, 16);
        // Thread l holds elements 2·(l % 4) and the next one of row l / 4, or of column l / 4 if transposed.
        for (i, &reg) in m.regs.iter().enumerate() {
            let element = |l: usize, half: usize| {
                let (line, at) = (l / 4, 2 * (l % 4) + half);
                let (row, column) = if m.transposed { (at, line) } else { (line, at) };
                rows[8 * i + row] + 2 * column
            };
            if m.store {
                let v = w.regs.r[reg as usize];
                for l in 0..32 {
                    for half in 0..2 {
                        let to = element(l, half);
                        b.shared.data[to..to + 2]
                            .copy_from_slice(&((v[l] >> (16 * half)) as u16).to_le_bytes());
                    }
                }
            } else {
                let data = &b.shared.data;
                let get = |at: usize| u32::from(u16::from_le_bytes([data[at], data[at + 1]]));
                let row = std::array::from_fn(|l| get(element(l, 0)) | get(element(l, 1)) << 16);
                w.regs.put(reg, &row, FULL);
            }
        }
        Ok(Step::Next)
    }

    pub(crate) fn mma(&mut self, b: &mut Block, w: &mut Warp, m: &Mma, pc: u32, exec: u32) -> Checked<Step> {
        if !self.align(w, pc, exec) {
            return Ok(Step::Regroup);
        }
        self.whole_warp(b, w, pc)?;
        self.counters.tensor_flops += 2 * 16 * 8 * m.k as u64;
        let (a, bm) = (a_fragment(&w.regs, m), b_fragment(&w.regs, m));
        let mut acc = accumulators(&w.regs, m);
        for (row, out) in acc.iter_mut().enumerate() {
            for k in 0..m.k {
                let x = a[row][k];
                // Eight columns at once: products of two halves are exact in f32.
                for n in 0..8 {
                    out[n] += x * bm[k][n];
                }
            }
        }
        store(&mut w.regs, m, &acc);
        Ok(Step::Next)
    }
}

/// Row and first column of the C and D elements that register `i` of a lane holds.
#[inline]
fn c_at(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + 8 * i, 2 * (lane % 4))
}

fn a_fragment(regs: &Regs, m: &Mma) -> [[f32; 16]; 16] {
    let mut a = [[0.0; 16]; 16];
    for (i, &r) in m.a.iter().enumerate() {
        let row: &Row = &regs.r[r as usize];
        for l in 0..32 {
            // Registers alternate between the upper and the lower eight rows, then go on to the next columns.
            let at = l / 4 + 8 * (i % 2);
            if m.input == MmaInput::Tf32 {
                a[at][l % 4 + 4 * (i / 2)] = f32::from_bits(row[l] & !0x1fff);
            } else {
                let k = 2 * (l % 4) + 8 * (i / 2);
                a[at][k] = widen(m.input, row[l] as u16);
                a[at][k + 1] = widen(m.input, (row[l] >> 16) as u16);
            }
        }
    }
    a
}

fn b_fragment(regs: &Regs, m: &Mma) -> [[f32; 8]; 16] {
    let mut b = [[0.0; 8]; 16];
    for (i, &r) in m.b.iter().enumerate() {
        let row: &Row = &regs.r[r as usize];
        for l in 0..32 {
            if m.input == MmaInput::Tf32 {
                b[l % 4 + 4 * i][l / 4] = f32::from_bits(row[l] & !0x1fff);
            } else {
                let k = 2 * (l % 4) + 8 * i;
                b[k][l / 4] = widen(m.input, row[l] as u16);
                b[k + 1][l / 4] = widen(m.input, (row[l] >> 16) as u16);
            }
        }
    }
    b
}

fn accumulators(regs: &Regs, m: &Mma) -> [[f32; 8]; 16] {
    let mut c = [[0.0; 8]; 16];
    for l in 0..32 {
        for i in 0..2 {
            let (row, column) = c_at(l, i);
            if m.half_acc {
                let v = regs.r[m.c[i] as usize][l];
                c[row][column] = from_f16(v as u16);
                c[row][column + 1] = from_f16((v >> 16) as u16);
            } else {
                c[row][column] = f32::from_bits(regs.r[m.c[2 * i] as usize][l]);
                c[row][column + 1] = f32::from_bits(regs.r[m.c[2 * i + 1] as usize][l]);
            }
        }
    }
    c
}

fn store(regs: &mut Regs, m: &Mma, d: &[[f32; 8]; 16]) {
    for l in 0..32 {
        for i in 0..2 {
            let (row, column) = c_at(l, i);
            let (x, y) = (d[row][column], d[row][column + 1]);
            if m.half_acc {
                regs.r[m.d[i] as usize][l] = u32::from(to_f16(x)) | u32::from(to_f16(y)) << 16;
            } else {
                regs.r[m.d[2 * i] as usize][l] = x.to_bits();
                regs.r[m.d[2 * i + 1] as usize][l] = y.to_bits();
            }
        }
    }
}
