//! A loaded PTX module.

use std::{
    sync::OnceLock,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    error::{Error, Result},
    isa::{Kernel, decode::decode},
    ptx::{self, ast},
};

/// A PTX module. Kernels are decoded when they are first used, so that one kernel with an instruction the emulator does
/// not know does not keep the others from running; [`Module::check`] decodes all of them.
#[derive(Debug)]
pub struct Module {
    ast: ast::Module,
    kernels: Vec<OnceLock<Kernel>>,
    id: u64,
}

impl Module {
    /// Parses PTX text.
    pub fn parse(text: &str) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let ast = ptx::parse(text)?;
        let kernels = ast.functions.iter().map(|_| OnceLock::new()).collect();
        Ok(Self { ast, kernels, id: NEXT.fetch_add(1, Ordering::Relaxed) })
    }

    /// Names of the kernels.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.ast.functions.iter().map(|f| f.name.as_str())
    }

    /// Decodes every kernel; the first thing that cannot be executed is the error.
    pub fn check(&self) -> Result<()> {
        (0..self.kernels.len()).try_for_each(|i| self.decoded(i).map(|_| ()))
    }

    fn decoded(&self, i: usize) -> Result<&Kernel> {
        if let Some(k) = self.kernels[i].get() {
            return Ok(k);
        }
        let k = decode(&self.ast, &self.ast.functions[i])?;
        Ok(self.kernels[i].get_or_init(|| k))
    }

    pub(crate) fn kernel(&self, name: &str) -> Result<&Kernel> {
        match self.ast.functions.iter().position(|f| f.name == name) {
            Some(i) => self.decoded(i),
            None => Err(Error::NoKernel {
                name: name.to_owned(),
                available: self.kernels().map(str::to_owned).collect(),
            }),
        }
    }

    pub(crate) fn files(&self) -> &[(u32, String)] {
        &self.ast.files
    }

    pub(crate) fn variables(&self) -> &[ast::Var] {
        &self.ast.globals
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }
}
