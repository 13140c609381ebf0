//! Child processes that find the emulated driver (`emu/driver`) where NVIDIA's would be.

// Nothing outside a test program can reach this module.
#![allow(unreachable_pub)]

use std::{path::PathBuf, process::Command, sync::LazyLock};

use tempfile::TempDir;

/// A folder with nothing but the emulated driver under the real one's name.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let tests = std::env::current_exe().unwrap();
    let library: PathBuf = tests.with_file_name("libemulated_cuda.so");
    assert!(library.is_file(), "cargo builds {} with the tests", library.display());
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(library, folder.path().join("libcuda.so")).unwrap();
    folder
});

/// Lets a program find the emulated driver. `settings` say what it pretends to be: see `emu/driver/src/lib.rs`.
pub fn on_emulated_driver<'a>(command: &'a mut Command, settings: &[(&str, &str)]) -> &'a mut Command {
    command.env("LD_LIBRARY_PATH", FOLDER.path());
    command.envs(settings.iter().map(|(name, value)| (format!("EMULATED_CUDA_{name}"), value)))
}
