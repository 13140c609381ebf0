//! Executing one instruction.

use super::{
    convert,
    float::{directed, double, float, half, pack},
    int::{alu32, alu64, count64, extract, insert, shift64},
    machine::{Block, Machine, Step, Warp},
    regs::FULL,
    report::{Checked, Who},
};
use crate::{
    fault::FaultKind,
    half::to_tf32,
    isa::{Op, alu::PredFn},
};

impl Machine<'_> {
    /// Executes the instruction at `pc` for the lanes of `mask`. `resumed`: it had to wait, and the wait is over.
    #[inline]
    pub(crate) fn step(
        &mut self,
        b: &mut Block,
        w: &mut Warp,
        pc: u32,
        mask: u32,
        resumed: bool,
    ) -> Checked<Step> {
        let kernel = self.kernel;
        let inst = &kernel.insts[pc as usize];
        self.counters.issue(inst.class, mask.count_ones());
        let regs = &mut w.regs;
        match &inst.op {
            Op::Alu32 { f, d, s } => {
                let row = alu32(*f, s.map(|i| &regs.r[i as usize]));
                regs.put(*d, &row, mask);
            }
            Op::Wide { signed, d, a, b, c } => {
                let (x, y) = (&regs.r[*a as usize], &regs.r[*b as usize]);
                let mut row: [u64; 32] = if *signed {
                    std::array::from_fn(|i| (i64::from(x[i] as i32) * i64::from(y[i] as i32)) as u64)
                } else {
                    std::array::from_fn(|i| u64::from(x[i]) * u64::from(y[i]))
                };
                if let Some(c) = c {
                    let c = &regs.d[*c as usize];
                    row.iter_mut().zip(c).for_each(|(r, c)| *r = r.wrapping_add(*c));
                }
                regs.put64(*d, &row, mask);
            }
            Op::Alu64 { f, d, s } => {
                let row = alu64(*f, s.map(|i| &regs.d[i as usize]));
                regs.put64(*d, &row, mask);
            }
            Op::Shift64 { f, d, a, n } => {
                let row = shift64(*f, &regs.d[*a as usize], &regs.r[*n as usize]);
                regs.put64(*d, &row, mask);
            }
            Op::Count64 { f, d, a } => {
                let row = count64(*f, &regs.d[*a as usize]);
                regs.put(*d, &row, mask);
            }
            Op::Field64 { signed, d, a, into, pos, len } => {
                let (a, pos, len) = (&regs.d[*a as usize], &regs.r[*pos as usize], &regs.r[*len as usize]);
                let row = std::array::from_fn(|i| match into {
                    Some(b) => insert(a[i], regs.d[*b as usize][i], pos[i], len[i], 64),
                    None => extract(a[i], pos[i], len[i], *signed, 64),
                });
                regs.put64(*d, &row, mask);
            }
            Op::Float { f, d, s, ftz, sat } => {
                let row = float(*f, s.map(|i| &regs.r[i as usize]), *ftz, *sat);
                regs.put(*d, &row, mask);
            }
            Op::Directed { f, round, d, s, ftz } => {
                let row = directed(*f, *round, s.map(|i| &regs.r[i as usize]), *ftz);
                regs.put(*d, &row, mask);
            }
            Op::Double { f, d, s } => {
                let row = double(*f, s.map(|i| &regs.d[i as usize]));
                regs.put64(*d, &row, mask);
            }
            Op::Half { f, bf16, packed, d, s } => {
                let row = half(*f, *bf16, *packed, s.map(|i| &regs.r[i as usize]));
                regs.put(*d, &row, mask);
            }
            Op::Cvt { d, a, from, to, round, ftz, sat } => {
                let row = convert::cvt(*from, *to, *round, *ftz, *sat, &regs.any(*a));
                regs.put_any(*d, &row, mask);
            }
            Op::CvtPack { bf16, relu, d, hi, lo } => {
                let row = pack(*bf16, *relu, &regs.r[*hi as usize], &regs.r[*lo as usize]);
                regs.put(*d, &row, mask);
            }
            Op::Tf32 { d, a } => {
                let row = regs.r[*a as usize].map(|v| to_tf32(f32::from_bits(v)).to_bits());
                regs.put(*d, &row, mask);
            }
            Op::Set { cmp, kind, a, b, d, e, combine, ftz } => {
                let hit = convert::set(regs, *cmp, *kind, *a, *b, *ftz);
                let with = |hit: u32| match combine {
                    None => hit,
                    Some((f, p, not)) => {
                        let other = regs.p[*p as usize] ^ if *not { FULL } else { 0 };
                        logic(*f, hit, other)
                    }
                };
                let (first, second) = (with(hit), with(!hit));
                regs.put_pred(*d, first, mask);
                if let Some(e) = e {
                    regs.put_pred(*e, second, mask);
                }
            }
            Op::SetValue { cmp, kind, a, b, d, yes, ftz } => {
                let hit = convert::set(regs, *cmp, *kind, *a, *b, *ftz);
                let row = std::array::from_fn(|l| if hit >> l & 1 == 1 { *yes } else { 0 });
                regs.put(*d, &row, mask);
            }
            Op::Select32 { d, a, b, p } => {
                let (x, y, p) = (&regs.r[*a as usize], &regs.r[*b as usize], regs.p[*p as usize]);
                let row = std::array::from_fn(|i| if p >> i & 1 == 1 { x[i] } else { y[i] });
                regs.put(*d, &row, mask);
            }
            Op::Select64 { d, a, b, p } => {
                let (x, y, p) = (&regs.d[*a as usize], &regs.d[*b as usize], regs.p[*p as usize]);
                let row = std::array::from_fn(|i| if p >> i & 1 == 1 { x[i] } else { y[i] });
                regs.put64(*d, &row, mask);
            }
            Op::Pred { f, d, a, b, not_a } => {
                let a = regs.p[*a as usize] ^ if *not_a { FULL } else { 0 };
                regs.put_pred(*d, logic(*f, a, regs.p[*b as usize]), mask);
            }
            Op::Pack32 { d, lo, hi } => {
                let (lo, hi) = (&regs.r[*lo as usize], &regs.r[*hi as usize]);
                let row = std::array::from_fn(|i| (lo[i] & 0xffff) | hi[i] << 16);
                regs.put(*d, &row, mask);
            }
            Op::Unpack32 { lo, hi, a } => {
                let a = regs.r[*a as usize];
                regs.put(*lo, &a.map(|v| v & 0xffff), mask);
                regs.put(*hi, &a.map(|v| v >> 16), mask);
            }
            Op::Pack64 { d, lo, hi } => {
                let (lo, hi) = (&regs.r[*lo as usize], &regs.r[*hi as usize]);
                let row = std::array::from_fn(|i| u64::from(lo[i]) | u64::from(hi[i]) << 32);
                regs.put64(*d, &row, mask);
            }
            Op::Unpack64 { lo, hi, a } => {
                let a = regs.d[*a as usize];
                regs.put(*lo, &a.map(|v| v as u32), mask);
                regs.put(*hi, &a.map(|v| (v >> 32) as u32), mask);
            }
            Op::Pack64x4 { d, s } => {
                let s = s.map(|i| &regs.r[i as usize]);
                let row = std::array::from_fn(|i| {
                    (0..4).fold(0, |v, j| v | (u64::from(s[j][i] & 0xffff)) << (16 * j))
                });
                regs.put64(*d, &row, mask);
            }
            Op::Unpack64x4 { d, a } => {
                let a = regs.d[*a as usize];
                for (j, d) in d.iter().enumerate() {
                    regs.put(*d, &a.map(|v| (v >> (16 * j)) as u32 & 0xffff), mask);
                }
            }
            Op::Window { d, a, base, to } => {
                let row = regs.d[*a as usize]
                    .map(|v| if *to { v.wrapping_sub(*base) } else { v.wrapping_add(*base) });
                regs.put64(*d, &row, mask);
            }
            Op::Bra { target } => {
                let frag = w.frags.iter().find(|f| f.mask & mask != 0).map_or(mask, |f| f.mask);
                return Ok(if mask == frag {
                    Step::Jump(*target)
                } else {
                    Step::Split { target: *target, taken: mask }
                });
            }
            Op::Exit => {
                let in_flight = w.cp.iter().any(|c| mask >> c.lane & 1 == 1 && c.src_bytes > 0);
                let storing = w.stores.iter().any(|s| mask >> s.lane & 1 == 1);
                if in_flight || storing {
                    let what = if storing { "a bulk store" } else { "a cp.async" };
                    let who = Who { warp: w.id, lane: None, pc };
                    return Err(self.fault(
                        FaultKind::AsyncLeak,
                        b,
                        who,
                        format!("returns without waiting for {what}"),
                    ));
                }
                return Ok(Step::Exit);
            }
            Op::Trap => {
                let who = Who { warp: w.id, lane: Some(mask.trailing_zeros() as usize), pc };
                return Err(self.fault(FaultKind::Undefined, b, who, "trap"));
            }
            Op::ActiveMask => {
                let who = Who { warp: w.id, lane: None, pc };
                let why = "activemask depends on how lanes happen to converge: pass an explicit mask";
                return Err(self.fault(FaultKind::Convergence, b, who, why));
            }
            Op::Nop => {}
            Op::Ld(m) => self.load(b, w, m, pc, mask)?,
            Op::St(m) => self.store(b, w, m, pc, mask)?,
            Op::Atomic(a) => self.atomic(b, w, a, pc, mask)?,
            Op::Exchange { what, mask: members } => return self.exchange(b, w, what, *members, pc, mask),
            Op::Barrier(bar) => return self.barrier(b, w, bar, pc, mask, resumed),
            Op::Matrix(m) => return self.matrix(b, w, m, pc, mask),
            Op::Mma(m) => return self.mma(b, w, m, pc, mask),
            Op::Fence { scope } => self.fence(b, w, *scope, mask),
            Op::FenceProxyAsync => {
                if let Some(c) = &mut b.clocks {
                    c.proxy_fence(w.id, mask);
                }
            }
            Op::CpAsync(c) => self.cp_async(b, w, c, pc, mask)?,
            Op::CpCommit => add_one(&mut w.cp_groups, mask),
            Op::CpWait(n) => self.cp_wait(b, w, *n, mask),
            Op::CpWaitAll => {
                add_one(&mut w.cp_groups, mask);
                self.cp_wait(b, w, 0, mask);
            }
            Op::CpArrive { addr, noinc } => self.cp_arrive(b, w, *addr, *noinc, pc, mask)?,
            Op::MbarInit { addr, count } => self.mbar_init(b, w, *addr, *count, pc, mask)?,
            Op::MbarInval { addr } => self.mbar_inval(b, w, *addr, pc, mask)?,
            Op::MbarArrive { addr, count, tx, state } => {
                self.mbar_arrive(b, w, *addr, (*count, *tx, *state), pc, mask)?
            }
            Op::MbarExpect { addr, tx } => self.mbar_expect(b, w, *addr, *tx, pc, mask)?,
            Op::MbarWait(wait) => return self.mbar_wait(b, w, wait, pc, mask),
            Op::BulkTensor(t) => self.bulk(b, w, t, pc, mask)?,
            Op::BulkCommit => add_one(&mut w.bulk_groups, mask),
            Op::BulkWait(n) => self.bulk_wait(b, w, *n, mask),
            Op::WgmmaFence => return self.wgmma_fence(b, w, pc, mask),
            Op::Wgmma(g) => return self.wgmma(b, w, g, pc, mask),
            Op::WgmmaCommit => return self.wgmma_commit(b, w, pc, mask),
            Op::WgmmaWait(n) => return self.wgmma_wait(b, w, *n, pc, mask, resumed),
            Op::Carve { addr, bytes } => self.carve(b, w, *addr, *bytes, pc, mask)?,
        }
        Ok(Step::Next)
    }
}

fn logic(f: PredFn, a: u32, b: u32) -> u32 {
    match f {
        PredFn::Mov => a,
        PredFn::And => a & b,
        PredFn::Or => a | b,
        PredFn::Xor => a ^ b,
    }
}

/// Adds 1 in the lanes of a mask.
fn add_one(row: &mut [u32; 32], mask: u32) {
    row.iter_mut().enumerate().for_each(|(l, v)| *v += mask >> l & 1);
}
