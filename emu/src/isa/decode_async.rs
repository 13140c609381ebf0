//! Decoding of asynchronous copies and tensor-core instructions.

use super::{
    asynch::{BulkTensor, CpAsync, Mma, MmaInput, Wgmma, WgmmaA},
    decode::{Decoder, Why},
    mods::Mods,
    op::Op,
};
use crate::ptx::ast::Operand;

type Decoded = Option<Result<Op, Why>>;

impl Decoder<'_> {
    /// Decodes the instruction if it is one of this file's.
    pub(crate) fn decode_async(&mut self, name: &str, m: &mut Mods<'_>, o: &[Operand]) -> Decoded {
        Some(match name {
            "cp" => self.cp_async(m, o),
            "mma" => self.mma(m, o),
            "wgmma" => self.wgmma(m, o),
            _ => return None,
        })
    }

    fn group_count(&self, o: &[Operand]) -> Result<u32, Why> {
        u32::try_from(self.int(self.nth(o, 0)?)?).map_err(|_| "a negative number of groups".to_owned())
    }

    fn cp_async(&mut self, m: &mut Mods<'_>, o: &[Operand]) -> Result<Op, Why> {
        if !m.take("async") {
            return Err("unknown instruction".to_owned());
        }
        if m.take("bulk") {
            return self.bulk(m, o);
        }
        if m.take("commit_group") {
            return Ok(Op::CpCommit);
        }
        if m.take("wait_group") {
            return Ok(Op::CpWait(self.group_count(o)?));
        }
        if m.take("wait_all") {
            return Ok(Op::CpWaitAll);
        }
        if m.take("mbarrier") {
            if !m.take("arrive") {
                return Err("expected `.arrive`".to_owned());
            }
            let noinc = m.take("noinc");
            ["shared::cta", "shared", "b64"].iter().for_each(|p| {
                m.take(p);
            });
            return Ok(Op::CpArrive { addr: self.addr(self.nth(o, 0)?)?, noinc });
        }
        let cg = m.take("cg");
        if cg == m.take("ca") {
            return Err("expected `.ca` or `.cg`".to_owned());
        }
        for part in ["shared::cta", "shared", "global"] {
            m.take(part);
        }
        m.drop_prefixed("L2::");
        let bytes = self.int(self.nth(o, 2)?)?;
        if !(matches!(bytes, 4 | 8) && !cg || bytes == 16) {
            return Err(format!("{bytes} bytes cannot be copied by this form"));
        }
        let (src_bytes, ignore) = match o.get(3) {
            None => (None, None),
            Some(Operand::Not(_)) => (None, Some(self.pred_not(&o[3])?)),
            Some(p @ Operand::Reg(_)) => match self.pred(p) {
                Ok(p) => (None, Some((p, false))),
                Err(_) => (Some(self.r(p)?), None),
            },
            Some(n) => (Some(self.r(n)?), None),
        };
        let (dst, src) = (self.addr(self.nth(o, 0)?)?, self.addr(self.nth(o, 1)?)?);
        Ok(Op::CpAsync(Box::new(CpAsync { dst, src, bytes: bytes as u32, src_bytes, ignore })))
    }

    fn bulk(&mut self, m: &mut Mods<'_>, o: &[Operand]) -> Result<Op, Why> {
        if m.take("commit_group") {
            return Ok(Op::BulkCommit);
        }
        if m.take("wait_group") {
            m.take("read");
            return Ok(Op::BulkWait(self.group_count(o)?));
        }
        if m.take("prefetch") {
            ["tensor", "L2", "global", "tile"].iter().for_each(|p| {
                m.take(p);
            });
            (1..=5).for_each(|d| {
                m.take(&format!("{d}d"));
            });
            return Ok(Op::Nop);
        }
        let tensor = m.take("tensor");
        let rank = m.one_of(&[("1d", 1), ("2d", 2), ("3d", 3), ("4d", 4), ("5d", 5)]);
        m.take("tile");
        if m.take("multicast::cluster") {
            return Err("multicast over a cluster is not implemented".to_owned());
        }
        m.take("L2::cache_hint");
        let load = m.take("shared::cluster") || m.take("shared::cta") && self.to_shared(o);
        m.take("shared::cta");
        if !m.take("global") {
            return Err("only copies between global and shared memory are implemented".to_owned());
        }
        let complete = m.take("mbarrier::complete_tx::bytes");
        let group = m.take("bulk_group");
        if complete != load || group == load {
            return Err("loads complete on an mbarrier, stores in a bulk group".to_owned());
        }
        let (shared_at, global_at) = if load { (0, 1) } else { (1, 0) };
        let shared = self.addr(self.nth(o, shared_at)?)?;
        let (global, coords, bytes, next) = match (tensor, self.nth(o, global_at)?) {
            (true, Operand::Tensor(base, coords)) => {
                if rank != Some(coords.len()) {
                    return Err(format!("{} coordinates do not fit the modifier", coords.len()));
                }
                let coords = coords.iter().map(|c| self.r(c)).collect::<Result<Vec<_>, _>>()?;
                (self.bare_addr(base)?, coords, None, 2)
            }
            (false, address @ Operand::Memory(..)) => {
                (self.addr(address)?, Vec::new(), Some(self.r(self.nth(o, 2)?)?), 3)
            }
            _ => return Err("the global operand does not fit the form".to_owned()),
        };
        let mbar = if load { Some(self.addr(self.nth(o, next)?)?) } else { None };
        Ok(Op::BulkTensor(Box::new(BulkTensor { load, shared, global, coords, bytes, mbar })))
    }

    /// With `.shared::cta` on either side: a load has its mbarrier as a further address.
    fn to_shared(&self, o: &[Operand]) -> bool {
        o.iter().filter(|o| matches!(o, Operand::Memory(..) | Operand::Tensor(..))).count() == 3
    }

    fn regs(&mut self, o: &Operand, n: usize) -> Result<Vec<u32>, Why> {
        let items = self.items(o);
        if items.len() != n {
            return Err(format!("expected {n} registers, got {}", items.len()));
        }
        items.iter().map(|i| self.r(i)).collect()
    }

    fn mma(&mut self, m: &mut Mods<'_>, o: &[Operand]) -> Result<Op, Why> {
        m.take("sync");
        m.take("aligned");
        if !(m.take("row") && m.take("col")) {
            return Err("only `.row.col` is implemented".to_owned());
        }
        let k = m
            .one_of(&[("m16n8k16", 16), ("m16n8k8", 8), ("m16n8k4", 4)])
            .ok_or("this shape is not implemented")?;
        let (dt, input) = (m.ty(), if m.take("tf32") { Some(MmaInput::Tf32) } else { input(m) });
        if input == Some(MmaInput::Tf32) {
            m.take("tf32");
        } else if self::input(m) != input {
            return Err("A and B of different types are not implemented".to_owned());
        }
        let input = input.ok_or("these operand types are not implemented")?;
        let ct = m.ty();
        use crate::ptx::types::Ty;
        let half_acc = match (dt, ct) {
            (Some(Ty::F32), Some(Ty::F32)) => false,
            (Some(Ty::F16), Some(Ty::F16)) if input == MmaInput::F16 => true,
            _ => return Err("these accumulator types are not implemented".to_owned()),
        };
        let width = if input == MmaInput::Tf32 { 1 } else { 2 };
        if !matches!((input, k), (MmaInput::Tf32, 4 | 8) | (MmaInput::F16 | MmaInput::Bf16, 8 | 16)) {
            return Err("this shape is not implemented for these types".to_owned());
        }
        let acc = if half_acc { 2 } else { 4 };
        let a = 16 * k / 32 / width;
        let b = 8 * k / 32 / width;
        let d = self.items(self.nth(o, 0)?).iter().map(|i| self.dst_r(i)).collect::<Result<Vec<_>, _>>()?;
        if d.len() != acc {
            return Err(format!("expected {acc} result registers, got {}", d.len()));
        }
        let (a, b, c) = (
            self.regs(self.nth(o, 1)?, a)?,
            self.regs(self.nth(o, 2)?, b)?,
            self.regs(self.nth(o, 3)?, acc)?,
        );
        Ok(Op::Mma(Box::new(Mma { k, input, half_acc, d, a, b, c })))
    }

    fn wgmma(&mut self, m: &mut Mods<'_>, o: &[Operand]) -> Result<Op, Why> {
        let what = ["fence", "commit_group", "wait_group", "mma_async"].into_iter().find(|w| m.take(w));
        m.take("sync");
        m.take("aligned");
        match what.ok_or("unknown wgmma operation")? {
            "fence" => return Ok(Op::WgmmaFence),
            "commit_group" => return Ok(Op::WgmmaCommit),
            "wait_group" => return Ok(Op::WgmmaWait(self.group_count(o)?)),
            _ => {}
        }
        if !self.target().ends_with('a') {
            return Err(format!(
                "wgmma needs an architecture-specific target, the module says {}",
                self.target()
            ));
        }
        let n: usize =
            m.strip("m64n").and_then(|s| s.strip_suffix("k16")).and_then(|s| s.parse().ok()).unwrap_or(0);
        if !(8..=256).contains(&n) || !n.is_multiple_of(8) {
            return Err("this shape is not implemented".to_owned());
        }
        if m.ty() != Some(crate::ptx::types::Ty::F32) {
            return Err("only f32 accumulators are implemented".to_owned());
        }
        let input = input(m).ok_or("these operand types are not implemented")?;
        if self::input(m) != Some(input) {
            return Err("A and B of different types are not implemented".to_owned());
        }
        let d = self.items(self.nth(o, 0)?).iter().map(|i| self.dst_r(i)).collect::<Result<Vec<_>, _>>()?;
        if d.len() != n / 2 {
            return Err(format!("expected {} accumulators, got {}", n / 2, d.len()));
        }
        let in_registers = matches!(self.nth(o, 1)?, Operand::Vector(_));
        let (b, scale_d) = (self.d(self.nth(o, 2)?)?, self.pred(self.nth(o, 3)?)?);
        let scale = |s: &Self, n: usize| match s.int(s.nth(o, n)?)? {
            1 => Ok(false),
            -1 => Ok(true),
            v => Err(format!("a scale of {v}: expected 1 or -1")),
        };
        let flag = |s: &Self, n: usize| match s.int(s.nth(o, n)?)? {
            0 => Ok(false),
            1 => Ok(true),
            v => Err(format!("a transposition flag of {v}: expected 0 or 1")),
        };
        let (negate_a, negate_b) = (scale(self, 4)?, scale(self, 5)?);
        let (a, b_mn_major) = if in_registers {
            (WgmmaA::Regs(self.regs(&o[1], 4)?), flag(self, 6)?)
        } else {
            (WgmmaA::Shared { desc: self.d(&o[1])?, mn_major: flag(self, 6)? }, flag(self, 7)?)
        };
        Ok(Op::Wgmma(Box::new(Wgmma { n, input, d, a, b, b_mn_major, scale_d, negate_a, negate_b })))
    }
}

fn input(m: &mut Mods<'_>) -> Option<MmaInput> {
    m.one_of(&[("f16", MmaInput::F16), ("bf16", MmaInput::Bf16)])
}
