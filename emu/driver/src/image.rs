//! What modules are loaded from.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, LazyLock, OnceLock},
};

use ptx_emu::Module;

use crate::state::*;

/// PTX and what is in it.
#[derive(Debug)]
pub(crate) struct Ptx {
    text: String,
    /// Bytes of the argument of each kernel.
    kernels: HashMap<String, usize>,
    module: OnceLock<Module>,
}

/// A module's image.
#[derive(Clone, Debug)]
pub(crate) enum Image {
    Ptx(Arc<Ptx>),
    /// Its kernels are looked for in [`ptx_folder`]: what a fatbin has of PTX is compressed.
    MachineCode,
}

impl Ptx {
    fn new(text: String) -> Self {
        let kernel = |entry: &str| {
            let (name, rest) = entry.split_once('(')?;
            let parameters = rest.split(')').next()?;
            let bytes = parameters.rsplit('[').next()?.split(']').next()?.parse().ok()?;
            Some((name.to_string(), bytes))
        };
        let kernels = text.split(".entry ").skip(1).filter_map(kernel).collect();
        Self { text, kernels, module: OnceLock::new() }
    }

    /// The module, parsed when it is first wanted.
    pub(crate) fn module(&self) -> &Module {
        self.module.get_or_init(|| {
            Module::parse(&self.text).unwrap_or_else(|error| misuse(&format!("PTX: {error}")))
        })
    }
}

impl Image {
    pub(crate) fn machine_code() -> Result<Self, Code> {
        if refuses("machine code") { Err(NO_BINARY_FOR_GPU) } else { Ok(Self::MachineCode) }
    }

    /// PTX, which must not be newer than the driver.
    pub(crate) fn ptx(text: &str) -> Result<Self, Code> {
        let line = text.lines().find_map(|line| line.strip_prefix(".version ")).ok_or(INVALID_IMAGE)?;
        let (major, minor) = line.trim().split_once('.').ok_or(INVALID_IMAGE)?;
        let number = |text: &str| text.parse::<u32>().map_err(|_| INVALID_IMAGE);
        // PTX 7.0 came with CUDA 11.0, and so on in step, but for CUDA 12.6, which brought none.
        let cuda = match 1000 * (number(major)? + 4) + 10 * number(minor)? {
            cuda @ 12_060..13_000 => cuda + 10,
            cuda => cuda,
        };
        if refuses("PTX") || cuda > version() {
            return Err(UNSUPPORTED_PTX_VERSION);
        }
        Ok(Self::Ptx(Arc::new(Ptx::new(text.to_string()))))
    }

    /// The PTX that has a kernel, and the bytes of the kernel's argument.
    pub(crate) fn find(&self, kernel: &str) -> Option<(Arc<Ptx>, usize)> {
        let in_it = |ptx: &Arc<Ptx>| ptx.kernels.get(kernel).map(|&bytes| (Arc::clone(ptx), bytes));
        match self {
            Self::Ptx(ptx) => in_it(ptx),
            Self::MachineCode => COMMITTED.iter().find_map(in_it),
        }
    }
}

/// Everything in [`ptx_folder`].
static COMMITTED: LazyLock<Vec<Arc<Ptx>>> = LazyLock::new(|| {
    let folder = ptx_folder();
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|error| misuse(&format!("{}: {error}", folder.display())));
    let paths = entries.map(|entry| entry.expect("a folder can be read").path());
    let paths = paths.filter(|path| path.extension().is_some_and(|extension| extension == "ptx"));
    paths.map(|path| Arc::new(Ptx::new(std::fs::read_to_string(path).expect("PTX is text")))).collect()
});

/// Where the PTX of the kernels is: `PROBEPRUNE_PTX`, or the nearest `cuda/ptx` above this program, which need not be where
/// it was compiled, or above the current folder. Ends the process if there is none.
pub fn ptx_folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("PROBEPRUNE_PTX") {
        return folder.into();
    }
    let places = [std::env::current_exe(), std::env::current_dir()].map(Result::unwrap_or_default);
    let mut folders = places.iter().flat_map(|place| place.ancestors()).map(|folder| folder.join("cuda/ptx"));
    folders.find(|folder| folder.is_dir()).unwrap_or_else(|| {
        let [program, current] = places.each_ref().map(|place| place.display());
        misuse(&format!("no folder above {program} or {current} has cuda/ptx: set PROBEPRUNE_PTX"))
    })
}
