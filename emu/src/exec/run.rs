//! Running one warp: fragments, divergence and reconvergence.

use super::{
    machine::{Block, Frag, Machine, Step, Stop, Wait, Warp},
    report::Checked,
};
use crate::{Policy, isa::Op};

impl Machine<'_> {
    /// Runs a warp for at most that many instructions.
    pub(crate) fn run(&mut self, b: &mut Block, w: &mut Warp, turn: u64) -> Checked<Stop> {
        let end = self.steps + turn;
        loop {
            if w.frags.is_empty() {
                return Ok(Stop::Done);
            }
            let Some((at, limit)) = self.choose(b, w) else { return Ok(Stop::Blocked) };
            let mut frag = w.frags[at];
            let resumed = std::mem::replace(&mut frag.wait, Wait::None);
            // A wait that is over matters to the instruction that is executed again, and to no other.
            let mut resumed = resumed != Wait::None && !matches!(resumed, Wait::Barrier { .. });
            loop {
                if self.steps >= end {
                    w.frags[at] = frag;
                    return Ok(Stop::Turn);
                }
                let kernel = self.kernel;
                let inst = &kernel.insts[frag.pc as usize];
                let exec = match inst.guard {
                    None => frag.mask,
                    Some((p, false)) => frag.mask & w.regs.p[p as usize],
                    Some((p, true)) => frag.mask & !w.regs.p[p as usize],
                };
                self.steps += 1;
                if exec == 0 {
                    self.counters.issue(inst.class, 0);
                    frag.pc += 1;
                } else {
                    if exec != frag.mask && blocks(&inst.op) {
                        // The lanes that do not take part go on by themselves.
                        w.frags.push(Frag { pc: frag.pc + 1, mask: frag.mask & !exec, wait: Wait::None });
                        w.frags[at] = Frag { mask: exec, ..frag };
                        self.steps -= 1;
                        break;
                    }
                    w.frags[at] = frag;
                    if inst.wgmma_regs {
                        self.check_wgmma_registers(b, w, frag.pc)?;
                    }
                    match self.step(b, w, frag.pc, exec, std::mem::take(&mut resumed))? {
                        Step::Next => frag.pc += 1,
                        Step::Jump(target) => frag.pc = target,
                        Step::Split { target, taken } => {
                            self.counters.divergent_branches += 1;
                            w.frags[at] =
                                Frag { pc: frag.pc + 1, mask: frag.mask & !taken, wait: Wait::None };
                            w.frags.push(Frag { pc: target, mask: taken, wait: Wait::None });
                            w.ahead = match self.settings.policy {
                                Policy::Forward => false,
                                Policy::Reverse => true,
                                _ => self.rng.coin(),
                            };
                            break;
                        }
                        Step::Retry(wait) => {
                            w.frags[at] = Frag { wait, ..frag };
                            self.uncount(frag.pc, exec);
                            break;
                        }
                        Step::Then(wait) => {
                            w.frags[at] = Frag { pc: frag.pc + 1, wait, ..frag };
                            break;
                        }
                        Step::Regroup => {
                            self.uncount(frag.pc, exec);
                            break;
                        }
                        Step::Yield => {
                            w.frags[at] = Frag { pc: frag.pc + 1, ..frag };
                            return Ok(Stop::Polling);
                        }
                        Step::Exit => {
                            self.exit(b, w, exec);
                            if frag.mask == exec {
                                w.frags.swap_remove(at);
                                break;
                            }
                            frag = Frag { pc: frag.pc + 1, mask: frag.mask & !exec, wait: Wait::None };
                            w.frags[at] = frag;
                        }
                    }
                }
                if frag.pc >= limit {
                    w.frags[at] = frag;
                    break;
                }
            }
            join(w);
        }
    }

    /// An instruction that has to be executed again counts once, when it succeeds.
    fn uncount(&mut self, pc: u32, exec: u32) {
        let class = self.kernel.insts[pc as usize].class;
        self.counters.take_back(class, exec.count_ones());
    }

    /// The fragment to run, and the place of the next one, where the two may join.
    fn choose(&mut self, b: &Block, w: &Warp) -> Option<(usize, u32)> {
        if let [only] = &w.frags[..] {
            return self.is_over(b, w.id, only.wait).then_some((0, u32::MAX));
        }
        let ready = || w.frags.iter().enumerate().filter(|(_, f)| self.is_over(b, w.id, f.wait));
        if w.ahead {
            return ready().max_by_key(|(_, f)| f.pc).map(|(i, _)| (i, u32::MAX));
        }
        let (at, frag) = ready().min_by_key(|(_, f)| f.pc)?;
        // Running up to the next fragment in program order makes structured code reconverge where it should.
        let next = w.frags.iter().filter(|f| f.pc > frag.pc).map(|f| f.pc).min();
        Some((at, next.unwrap_or(u32::MAX)))
    }

    fn exit(&mut self, b: &mut Block, w: &mut Warp, mask: u32) {
        w.live &= !mask;
        b.alive -= mask.count_ones();
        self.recheck_barriers(b);
    }
}

/// Joins fragments that are at the same place and wait for nothing.
fn join(w: &mut Warp) {
    if w.frags.len() < 2 {
        return;
    }
    let mut i = 0;
    while i < w.frags.len() {
        let f = w.frags[i];
        if f.wait == Wait::None
            && let Some(j) =
                (i + 1..w.frags.len()).find(|&j| w.frags[j].pc == f.pc && w.frags[j].wait == Wait::None)
        {
            w.frags[i].mask |= w.frags[j].mask;
            w.frags.swap_remove(j);
        } else {
            i += 1;
        }
    }
}

/// Whether the instruction can stop the fragment, so that its lanes must all execute it.
fn blocks(op: &Op) -> bool {
    matches!(
        op,
        Op::Exchange { .. }
            | Op::Barrier(_)
            | Op::Matrix(_)
            | Op::Mma(_)
            | Op::Wgmma(_)
            | Op::WgmmaFence
            | Op::WgmmaCommit
            | Op::WgmmaWait(_)
            | Op::MbarWait { .. }
    )
}
