//! The dot-separated modifiers of an opcode. Each must be claimed by the decoder, so that none is ever ignored.

use crate::ptx::types::Ty;

/// Modifiers of one opcode.
pub(crate) struct Mods<'a> {
    parts: Vec<(&'a str, bool)>,
}

impl<'a> Mods<'a> {
    pub(crate) fn new(op: &'a str) -> Self {
        Self { parts: op.split('.').skip(1).map(|p| (p, false)).collect() }
    }

    /// Claims a modifier; whether it was there.
    pub(crate) fn take(&mut self, name: &str) -> bool {
        match self.parts.iter_mut().find(|p| p.0 == name && !p.1) {
            Some(p) => {
                p.1 = true;
                true
            }
            None => false,
        }
    }

    /// Claims the first of several alternatives that is there.
    pub(crate) fn one_of<T: Copy>(&mut self, names: &[(&str, T)]) -> Option<T> {
        names.iter().find(|(n, _)| self.take(n)).map(|(_, v)| *v)
    }

    /// Claims the next modifier that is a type.
    pub(crate) fn ty(&mut self) -> Option<Ty> {
        let part = self.parts.iter_mut().find(|p| !p.1 && Ty::parse(p.0).is_some())?;
        part.1 = true;
        Ty::parse(part.0)
    }

    /// Claims every modifier that starts so, such as cache hints.
    pub(crate) fn drop_prefixed(&mut self, prefix: &str) {
        self.parts.iter_mut().filter(|p| p.0.starts_with(prefix)).for_each(|p| p.1 = true);
    }

    /// Claims the modifier that starts with a prefix and returns the rest of it.
    pub(crate) fn strip(&mut self, prefix: &str) -> Option<&'a str> {
        let part = self.parts.iter_mut().find(|p| !p.1 && p.0.starts_with(prefix))?;
        part.1 = true;
        part.0.strip_prefix(prefix)
    }

    /// A modifier nobody claimed.
    pub(crate) fn unclaimed(&self) -> Option<&'a str> {
        self.parts.iter().find(|p| !p.1).map(|p| p.0)
    }
}
