//! Building fault reports.

use super::machine::{Block, Machine};
use crate::{
    check::shadow::{Conflict, Kind},
    fault::{Fault, FaultKind, Site},
};

/// Result of anything that a kernel can do wrong.
pub(crate) type Checked<T> = Result<T, Box<Fault>>;

/// Who executes what: enough to name a site.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Who {
    pub warp: usize,
    pub lane: Option<usize>,
    pub pc: u32,
}

impl Machine<'_> {
    /// The site of an instruction.
    pub(crate) fn site(&self, block: [u32; 3], who: Who) -> Site {
        let pc = who.pc as usize;
        let inst = self.kernel.insts.get(pc);
        let name = |file: u32| self.files.iter().find(|f| f.0 == file).map_or(String::new(), |f| f.1.clone());
        let mut site = Site {
            ptx_line: inst.map_or(0, |i| i.line),
            instruction: self.kernel.text.get(pc).cloned().unwrap_or_default(),
            block,
            warp: who.warp as u32,
            lane: who.lane.map(|l| l as u32),
            ..Site::default()
        };
        let mut at = inst.and_then(|i| i.loc).and_then(|l| self.kernel.locs.get(l as usize));
        if let Some(loc) = at {
            (site.file, site.line) = (name(loc.file), loc.line);
        }
        // The chain of calls; bounded, because text can make it circular.
        while let Some(loc) = at
            && site.inlined_at.len() < 16
        {
            at = loc.inlined_at.and_then(|l| self.kernel.locs.get(l as usize));
            if let Some(call) = at {
                site.inlined_at.push((name(call.file), call.line));
            }
        }
        site
    }

    /// A report about one site.
    pub(crate) fn fault(
        &self,
        kind: FaultKind,
        b: &Block,
        who: Who,
        message: impl Into<String>,
    ) -> Box<Fault> {
        Box::new(Fault {
            kind,
            kernel: self.kernel.name.clone(),
            message: message.into(),
            at: self.site(b.index, who),
            others: Vec::new(),
        })
    }

    /// A report about two accesses.
    pub(crate) fn conflict(&self, b: &Block, who: Who, kind: Kind, place: &str, c: Conflict) -> Box<Fault> {
        let [x, y, _] = self.grid;
        let block = [c.block % x, c.block / x % y, c.block / x / y];
        let (warp, unit) = b.clocks.as_ref().map_or((None, ""), |k| k.owner(c.unit));
        let other = Who {
            warp: warp.unwrap_or(0) as usize,
            lane: unit.is_empty().then_some(c.lane as usize),
            pc: c.pc,
        };
        let verb = |w: bool| if w { "write" } else { "read" };
        let writes = matches!(kind, Kind::Write | Kind::Atomic);
        let (fault, message) = if c.proxy_only {
            let m = format!(
                "{} of {place} by the async proxy, written by ordinary instructions with no fence.proxy.async since",
                verb(writes)
            );
            (FaultKind::MissingProxyFence, m)
        } else {
            let m = format!(
                "{} of {place} that nothing orders after another block's or thread's access",
                verb(writes)
            );
            (FaultKind::Race, m)
        };
        let mut f = self.fault(fault, b, who, message);
        let by = if unit.is_empty() { String::new() } else { format!(" by {unit}") };
        f.others.push((format!("the other {}{by}", verb(c.was_write)), self.site(block, other)));
        f
    }
}
