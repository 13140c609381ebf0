//! Decoding of control flow, warp exchanges, barriers, fences and mbarriers.

use super::{
    asynch::{Barrier, BarrierReduce, MbarPhase, MbarWait},
    decode::{Decoder, Why},
    exchange::{Exchange, Redux, Shuffle, Vote},
    mods::Mods,
    op::{Op, Scope},
};
use crate::ptx::{ast::Operand, lexer::CARVE, types::Ty};

type Decoded = Option<Result<Op, Why>>;

impl Decoder<'_> {
    /// Decodes the instruction if it is one of this file's.
    pub(crate) fn decode_sync(&mut self, name: &str, m: &mut Mods<'_>, o: &[Operand]) -> Decoded {
        Some(match name {
            "bra" => {
                m.take("uni");
                self.nth(o, 0).and_then(|l| self.label(l)).map(|target| Op::Bra { target })
            }
            "ret" | "exit" => {
                m.take("uni");
                Ok(Op::Exit)
            }
            "trap" => Ok(Op::Trap),
            "nanosleep" => {
                m.ty();
                Ok(Op::Nop)
            }
            "griddepcontrol" => {
                // Launches are serialised here, so a dependent grid never overlaps the one it depends on.
                m.take("wait");
                m.take("launch_dependents");
                Ok(Op::Nop)
            }
            "setmaxnreg" => self.setmaxnreg(m, o),
            "activemask" => {
                m.ty();
                Ok(Op::ActiveMask)
            }
            "shfl" => self.shuffle(m, o),
            "vote" => self.vote(m, o),
            "match" => self.match_(m, o),
            "redux" => self.redux(m, o),
            "elect" => self.elect(m, o),
            "bar" | "barrier" => self.barrier(name, m, o),
            "membar" => {
                let scope = m.one_of(&[
                    ("cta", Scope::Cta),
                    ("gl", Scope::Gpu),
                    ("sys", Scope::Gpu),
                    ("gpu", Scope::Gpu),
                ]);
                scope.map(|scope| Op::Fence { scope }).ok_or_else(|| "no scope".to_owned())
            }
            "fence" => self.fence(m),
            "mbarrier" => self.mbarrier(m, o),
            CARVE => self.carve(o),
            _ => return None,
        })
    }

    fn carve(&mut self, o: &[Operand]) -> Result<Op, Why> {
        let bytes = self.r(self.nth(o, 1)?)?;
        Ok(Op::Carve { addr: self.addr_base(self.nth(o, 0)?)?, bytes })
    }

    fn setmaxnreg(&mut self, m: &mut Mods<'_>, o: &[Operand]) -> Result<Op, Why> {
        m.take("sync");
        m.take("aligned");
        m.ty();
        if !(m.take("inc") || m.take("dec")) {
            return Err("expected `.inc` or `.dec`".to_owned());
        }
        let n = self.int(self.nth(o, 0)?)?;
        if (24..=256).contains(&n) && n % 8 == 0 {
            Ok(Op::Nop)
        } else {
            Err(format!("the register count has to be a multiple of 8 from 24 to 256, got {n}"))
        }
    }

    fn exchange(what: Exchange, mask: u32) -> Op {
        Op::Exchange { what: Box::new(what), mask }
    }

    /// The exchange instructions without `.sync` no longer exist on the architectures modelled.
    fn sync(m: &mut Mods<'_>) -> Result<(), Why> {
        if m.take("sync") { Ok(()) } else { Err("only the `.sync` form is implemented".to_owned()) }
    }

    fn shuffle(&mut self, m: &mut Mods<'_>, o: &[Operand]) -> Result<Op, Why> {
        Self::sync(m)?;
        let modes =
            [("up", Shuffle::Up), ("down", Shuffle::Down), ("bfly", Shuffle::Bfly), ("idx", Shuffle::Idx)];
        let mode = m.one_of(&modes).ok_or("no mode")?;
        m.ty();
        let (d, p) = self.dst_pair(self.nth(o, 0)?)?;
        let (a, b, c) = (self.r(self.nth(o, 1)?)?, self.r(self.nth(o, 2)?)?, self.r(self.nth(o, 3)?)?);
        let mask = self.r(self.nth(o, 4)?)?;
        Ok(Self::exchange(Exchange::Shuffle { mode, d, p, a, b, c }, mask))
    }

    fn vote(&mut self, m: &mut Mods<'_>, o: &[Operand]) -> Result<Op, Why> {
        Self::sync(m)?;
        let modes = [("all", Vote::All), ("any", Vote::Any), ("uni", Vote::Uni), ("ballot", Vote::Ballot)];
        let mode = m.one_of(&modes).ok_or("no mode")?;
        m.ty();
        let d = match mode {
            Vote::Ballot => self.dst_r(self.nth(o, 0)?)?,
            _ => self.dst_p(self.nth(o, 0)?)?,
        };
        let (a, negate) = self.pred_not(self.nth(o, 1)?)?;
        let mask = self.r(self.nth(o, 2)?)?;
        Ok(Self::exchange(Exchange::Vote { mode, d, a, negate }, mask))
    }

    fn match_(&mut self, m: &mut Mods<'_>, o: &[Operand]) -> Result<Op, Why> {
        let (any, all) = (m.take("any"), m.take("all"));
        Self::sync(m)?;
        let ty = m.ty().ok_or("no type")?;
        let a = self.src_of(ty, self.nth(o, 1)?)?;
        let mask = self.r(self.nth(o, 2)?)?;
        let (d, p) = self.dst_pair(self.nth(o, 0)?)?;
        match (any, all, p) {
            (true, false, None) => Ok(Self::exchange(Exchange::MatchAny { d, a }, mask)),
            (false, true, p) => Ok(Self::exchange(Exchange::MatchAll { d, p, a }, mask)),
            _ => Err("expected `.any` or `.all`".to_owned()),
        }
    }

    fn redux(&mut self, m: &mut Mods<'_>, o: &[Operand]) -> Result<Op, Why> {
        Self::sync(m)?;
        let f =
            ["add", "min", "max", "and", "or", "xor"].into_iter().find(|f| m.take(f)).ok_or("no function")?;
        let ty = m.ty().ok_or("no type")?;
        let f = match (f, ty) {
            ("add", Ty::U32 | Ty::S32) => Redux::Add,
            ("min", Ty::U32) => Redux::MinU,
            ("min", Ty::S32) => Redux::MinS,
            ("max", Ty::U32) => Redux::MaxU,
            ("max", Ty::S32) => Redux::MaxS,
            ("and", Ty::B32) => Redux::And,
            ("or", Ty::B32) => Redux::Or,
            ("xor", Ty::B32) => Redux::Xor,
            _ => return Err(format!("`{f}` of {ty:?} is not implemented")),
        };
        let (d, a, mask) = (self.dst_r(self.nth(o, 0)?)?, self.r(self.nth(o, 1)?)?, self.r(self.nth(o, 2)?)?);
        Ok(Self::exchange(Exchange::Redux { f, d, a }, mask))
    }

    fn elect(&mut self, m: &mut Mods<'_>, o: &[Operand]) -> Result<Op, Why> {
        Self::sync(m)?;
        let mask = self.r(self.nth(o, 1)?)?;
        match self.nth(o, 0)? {
            Operand::Pair(..) => {
                let (d, p) = self.dst_pair(&o[0])?;
                Ok(Self::exchange(Exchange::Elect { d, p: p.ok_or("no predicate")? }, mask))
            }
            _ => Err("expected `register|predicate`".to_owned()),
        }
    }

    fn barrier(&mut self, name: &str, m: &mut Mods<'_>, o: &[Operand]) -> Result<Op, Why> {
        m.take("cta");
        if m.take("warp") {
            Self::sync(m)?;
            let mask = self.r(self.nth(o, 0)?)?;
            return Ok(Self::exchange(Exchange::SyncWarp, mask));
        }
        let reduce = m.take("red");
        let (sync, arrive) = (m.take("sync"), m.take("arrive"));
        if u8::from(reduce) + u8::from(sync) + u8::from(arrive) != 1 {
            return Err("expected one of `.sync`, `.arrive` and `.red`".to_owned());
        }
        let aligned = m.take("aligned") || name == "bar";
        if reduce {
            let f = m
                .one_of(&[
                    ("popc", BarrierReduce::Count),
                    ("and", BarrierReduce::And),
                    ("or", BarrierReduce::Or),
                ])
                .ok_or("no function")?;
            m.ty();
            let d = self.nth(o, 0)?;
            let d = if f == BarrierReduce::Count { self.dst_r(d)? } else { self.dst_p(d)? };
            let (last, middle) = o[1..].split_last().ok_or("operand 2 is missing")?;
            let (p, not) = self.pred_not(last)?;
            let id = self.r(middle.first().ok_or("no barrier")?)?;
            let count = self.optional_r(middle.get(1))?;
            let reduce = Some((f, d, p, not));
            return Ok(Op::Barrier(Box::new(Barrier { id, count, waits: true, reduce, aligned })));
        }
        let id = self.r(self.nth(o, 0)?)?;
        let count = self.optional_r(o.get(1))?;
        if arrive && count.is_none() {
            return Err("`.arrive` needs a thread count".to_owned());
        }
        Ok(Op::Barrier(Box::new(Barrier { id, count, waits: sync, reduce: None, aligned })))
    }

    fn fence(&mut self, m: &mut Mods<'_>) -> Result<Op, Why> {
        if m.take("proxy") {
            let known = m.take("async") || m.take("async::generic");
            m.take("acquire");
            m.take("release");
            ["shared::cta", "shared::cluster", "shared", "global", "sync_restrict::shared::cta", "cluster"]
                .iter()
                .for_each(|p| {
                    m.take(p);
                });
            return if known {
                Ok(Op::FenceProxyAsync)
            } else {
                Err("only `.proxy.async` is implemented".to_owned())
            };
        }
        if m.take("mbarrier_init") {
            m.take("release");
            m.take("cluster");
            // Orders initialisation for other blocks of the cluster; inside a block the barrier after it does.
            return Ok(Op::Nop);
        }
        for sem in ["sc", "acq_rel", "acquire", "release"] {
            m.take(sem);
        }
        let scopes = [("cta", Scope::Cta), ("cluster", Scope::Cta), ("gpu", Scope::Gpu), ("sys", Scope::Gpu)];
        m.one_of(&scopes).map(|scope| Op::Fence { scope }).ok_or_else(|| "no scope".to_owned())
    }

    fn mbarrier(&mut self, m: &mut Mods<'_>, o: &[Operand]) -> Result<Op, Why> {
        let what =
            ["init", "inval", "arrive", "expect_tx", "try_wait", "test_wait"].into_iter().find(|w| m.take(w));
        let (expect, parity) = (m.take("expect_tx"), m.take("parity"));
        for part in
            ["release", "acquire", "cta", "cluster", "shared::cta", "shared::cluster", "shared", "b64"]
        {
            m.take(part);
        }
        match what.ok_or("this mbarrier operation is not implemented")? {
            "init" => Ok(Op::MbarInit { addr: self.addr(self.nth(o, 0)?)?, count: self.r(self.nth(o, 1)?)? }),
            "inval" => Ok(Op::MbarInval { addr: self.addr(self.nth(o, 0)?)? }),
            "expect_tx" => {
                Ok(Op::MbarExpect { addr: self.addr(self.nth(o, 0)?)?, tx: self.r(self.nth(o, 1)?)? })
            }
            "arrive" => {
                let state = match self.nth(o, 0)? {
                    Operand::Sink => None,
                    d => Some(self.dst_d(d)?),
                };
                let addr = self.addr(self.nth(o, 1)?)?;
                let (count, tx) = match (expect, self.optional_r(o.get(2))?) {
                    (true, Some(tx)) => (self.imm(1), Some(tx)),
                    (true, None) => return Err("no byte count".to_owned()),
                    (false, Some(count)) => (count, None),
                    (false, None) => (self.imm(1), None),
                };
                Ok(Op::MbarArrive { addr, count, tx, state })
            }
            wait => {
                let (p, addr) = (self.dst_p(self.nth(o, 0)?)?, self.addr(self.nth(o, 1)?)?);
                let value = self.nth(o, 2)?;
                let phase =
                    if parity { MbarPhase::Parity(self.r(value)?) } else { MbarPhase::State(self.d(value)?) };
                Ok(Op::MbarWait(Box::new(MbarWait { addr, p, phase, blocking: wait == "try_wait" })))
            }
        }
    }
}
