//! Warp exchanges: they wait for every lane of their mask, wherever those lanes are.

use super::{
    machine::{Block, Frag, Machine, Step, Wait, Warp},
    report::{Checked, Who},
};
use crate::{
    check::clock::lanes,
    fault::FaultKind,
    isa::{
        Op,
        exchange::{Exchange, Redux, Shuffle, Vote},
    },
};

impl Machine<'_> {
    pub(crate) fn exchange(
        &mut self,
        b: &mut Block,
        w: &mut Warp,
        what: &Exchange,
        members: u32,
        pc: u32,
        exec: u32,
    ) -> Checked<Step> {
        let masks = w.regs.r[members as usize];
        let first = exec.trailing_zeros() as usize;
        if masks[first] == exec && lanes(exec).all(|l| masks[l] == exec) {
            self.perform(b, w, what, pc, exec)?;
            return Ok(Step::Next);
        }
        // Lanes may name different masks in one instruction: each group waits for its own.
        let Some(at) = w.frags.iter().position(|f| f.pc == pc && f.mask == exec) else {
            return Ok(Step::Next);
        };
        w.frags.swap_remove(at);
        let mut rest = exec;
        while rest != 0 {
            let mask = masks[rest.trailing_zeros() as usize];
            let group = lanes(rest).filter(|&l| masks[l] == mask).fold(0, |g, l| g | 1 << l);
            rest &= !group;
            let stray = group & !mask;
            if stray != 0 {
                let who = Who { warp: w.id, lane: Some(stray.trailing_zeros() as usize), pc };
                let message = format!("the executing lane is not in the mask {mask:#010x}");
                return Err(self.fault(FaultKind::Convergence, b, who, message));
            }
            if mask & !w.live != 0 {
                let who = Who { warp: w.id, lane: Some(group.trailing_zeros() as usize), pc };
                let gone: Vec<usize> = lanes(mask & !w.live).collect();
                let message = format!(
                    "the mask {mask:#010x} names lanes {gone:?}, which have returned or never existed"
                );
                return Err(self.fault(FaultKind::Convergence, b, who, message));
            }
            w.frags.push(Frag { pc, mask: group, wait: Wait::Exchange(mask) });
            self.meet(b, w, what, pc, mask)?;
        }
        Ok(Step::Regroup)
    }

    /// Performs the exchange if all lanes of the mask are there.
    fn meet(&mut self, b: &mut Block, w: &mut Warp, what: &Exchange, pc: u32, mask: u32) -> Checked<()> {
        let sync = matches!(what, Exchange::SyncWarp);
        let kernel = self.kernel;
        // __syncwarp in one branch may meet __syncwarp in another; exchanges have to be the same instruction.
        let fits = |f: &Frag| {
            let syncs = || matches!(&kernel.insts[f.pc as usize].op, Op::Exchange { what, .. } if matches!(**what, Exchange::SyncWarp));
            f.wait == Wait::Exchange(mask) && (f.pc == pc || sync && syncs())
        };
        let there = w.frags.iter().filter(|f| fits(f)).fold(0, |m, f| m | f.mask);
        if there != mask {
            return Ok(());
        }
        self.perform(b, w, what, pc, mask)?;
        self.counters.issue(kernel.insts[pc as usize].class, mask.count_ones());
        for f in w.frags.iter_mut().filter(|f| fits(f)) {
            *f = Frag { pc: f.pc + 1, mask: f.mask, wait: Wait::None };
        }
        Ok(())
    }

    fn perform(&mut self, b: &mut Block, w: &mut Warp, what: &Exchange, pc: u32, mask: u32) -> Checked<()> {
        let regs = &mut w.regs;
        match what {
            Exchange::SyncWarp => {
                if let Some(c) = &mut b.clocks {
                    c.sync_warp(w.id, mask);
                }
            }
            Exchange::Shuffle { mode, d, p, a, b: amount, c } => {
                let (a, n, c) = (regs.r[*a as usize], regs.r[*amount as usize], regs.r[*c as usize]);
                let (mut row, mut inside) = ([0; 32], 0u32);
                for l in 0..32 {
                    let (clamp, segment) = (c[l] & 31, (c[l] >> 8) & 31);
                    let top = (l as u32 & segment) | (clamp & !segment);
                    let bottom = l as u32 & segment;
                    let n = n[l] & 31;
                    let (j, ok) = match mode {
                        Shuffle::Up => (l as i64 - i64::from(n), l as i64 - i64::from(n) >= i64::from(top)),
                        Shuffle::Down => ((l as u32 + n) as i64, l as u32 + n <= top),
                        Shuffle::Bfly => ((l as u32 ^ n) as i64, l as u32 ^ n <= top),
                        Shuffle::Idx => {
                            let j = bottom | (n & !segment);
                            (j as i64, j <= top)
                        }
                    };
                    let source = if ok { j as usize & 31 } else { l };
                    if mask >> l & 1 == 1 && mask >> source & 1 == 0 {
                        let who = Who { warp: w.id, lane: Some(l), pc };
                        let message =
                            format!("shuffle from lane {source}, which is not in the mask {mask:#010x}");
                        return Err(self.fault(FaultKind::Undefined, b, who, message));
                    }
                    row[l] = a[source];
                    inside |= u32::from(ok) << l;
                }
                regs.put(*d, &row, mask);
                if let Some(p) = p {
                    regs.put_pred(*p, inside, mask);
                }
            }
            Exchange::Vote { mode, d, a, negate } => {
                let votes = (regs.p[*a as usize] ^ if *negate { u32::MAX } else { 0 }) & mask;
                let yes = match mode {
                    Vote::Ballot => {
                        regs.put(*d, &[votes; 32], mask);
                        return Ok(());
                    }
                    Vote::All => votes == mask,
                    Vote::Any => votes != 0,
                    Vote::Uni => votes == mask || votes == 0,
                };
                regs.put_pred(*d, if yes { u32::MAX } else { 0 }, mask);
            }
            Exchange::MatchAny { d, a } => {
                let a = regs.any(*a);
                let row =
                    std::array::from_fn(|l| lanes(mask).filter(|&o| a[o] == a[l]).fold(0, |m, o| m | 1 << o));
                regs.put(*d, &row, mask);
            }
            Exchange::MatchAll { d, p, a } => {
                let a = regs.any(*a);
                let first = a[mask.trailing_zeros() as usize & 31];
                let same = lanes(mask).all(|l| a[l] == first);
                regs.put(*d, &[if same { mask } else { 0 }; 32], mask);
                if let Some(p) = p {
                    regs.put_pred(*p, if same { u32::MAX } else { 0 }, mask);
                }
            }
            Exchange::Redux { f, d, a } => {
                let a = regs.r[*a as usize];
                let all = lanes(mask).map(|l| a[l]);
                let v = all.reduce(|x, y| match f {
                    Redux::Add => x.wrapping_add(y),
                    Redux::MinU => x.min(y),
                    Redux::MaxU => x.max(y),
                    Redux::MinS => (x as i32).min(y as i32) as u32,
                    Redux::MaxS => (x as i32).max(y as i32) as u32,
                    Redux::And => x & y,
                    Redux::Or => x | y,
                    Redux::Xor => x ^ y,
                });
                regs.put(*d, &[v.unwrap_or(0); 32], mask);
            }
            Exchange::Elect { d, p } => {
                let leader = mask.trailing_zeros();
                regs.put(*d, &[leader; 32], mask);
                regs.put_pred(*p, 1 << leader, mask);
            }
        }
        Ok(())
    }

    /// Whether all live lanes of the warp execute an `.aligned` instruction together; if not, they wait for it.
    pub(crate) fn align(&mut self, w: &mut Warp, pc: u32, exec: u32) -> bool {
        if exec == w.live {
            return true;
        }
        let mine = |f: &Frag| f.pc == pc && (f.mask == exec || f.wait == Wait::Aligned);
        let there = w.frags.iter().filter(|f| mine(f)).fold(0, |m, f| m | f.mask);
        w.frags.retain(|f| !mine(f));
        // Together they execute the instruction again, as one fragment.
        let wait = if there == w.live { Wait::None } else { Wait::Aligned };
        w.frags.push(Frag { pc, mask: there, wait });
        false
    }

    /// A report that an instruction of whole warps is executed by less.
    pub(crate) fn whole_warp(&self, b: &Block, w: &Warp, pc: u32) -> Checked<()> {
        if w.live == u32::MAX {
            return Ok(());
        }
        let gone = lanes(!w.live).collect::<Vec<_>>();
        let who = Who { warp: w.id, lane: None, pc };
        let message = format!("lanes {gone:?} have returned or never existed, and all 32 are needed");
        Err(self.fault(FaultKind::Convergence, b, who, message))
    }
}
