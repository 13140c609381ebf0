//! Child processes that find the emulated driver (`emu/driver`) where NVIDIA's would be.

// Every test program compiles this module but uses only a part of it, and nothing outside it can reach it.
#![allow(dead_code, unreachable_pub)]

use std::{
    collections::HashMap,
    env, fs,
    path::PathBuf,
    process::Command,
    sync::{LazyLock, Mutex, PoisonError},
};

use tempfile::TempDir;

/// What settings of the emulated driver begin with.
const PREFIX: &str = "EMULATED_CUDA_";

/// A folder with nothing but the emulated driver, under the real one's name and without some of its functions.
fn folder(hidden: Vec<&'static str>) -> PathBuf {
    static FOLDERS: LazyLock<Mutex<HashMap<Vec<&str>, TempDir>>> = LazyLock::new(Mutex::default);
    let mut folders = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = folders.entry(hidden).or_insert_with_key(|hidden| {
        let library = env::current_exe().unwrap().with_file_name("libemulated_cuda.so");
        assert!(library.is_file(), "cargo builds {} with the tests", library.display());
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("libcuda.so");
        if hidden.is_empty() {
            std::os::unix::fs::symlink(library, copy).unwrap();
        } else {
            fs::write(copy, without(fs::read(library).unwrap(), hidden)).unwrap();
        }
        folder
    });
    folder.path().to_path_buf()
}

/// A library in which the loader does not find some names: they are something else in its table of strings.
fn without(mut library: Vec<u8>, hidden: &[&str]) -> Vec<u8> {
    for name in hidden {
        let entry = [b"\0", name.as_bytes(), b"\0"].concat();
        let mut found = 0;
        while let Some(at) = library[found..].windows(entry.len()).position(|bytes| bytes == entry) {
            library[found + at + 1..][..name.len()].fill(b'-');
            found += at + entry.len();
        }
        assert!(found > 0, "{name} is not in the library");
    }
    library
}

/// Lets a program find the emulated driver, and what it needs, and nothing else of the kind. `settings` say what it
/// pretends to be: see `emu/driver/src/lib.rs`. A driver of an older version has fewer functions.
pub fn on_emulated_driver<'a>(command: &'a mut Command, settings: &[(&str, &str)]) -> &'a mut Command {
    on_driver_without(command, settings, &[])
}

/// As [`on_emulated_driver`], with a driver that lacks some functions.
pub fn on_driver_without<'a>(
    command: &'a mut Command,
    settings: &[(&str, &str)],
    hidden: &[&'static str],
) -> &'a mut Command {
    let version = settings.iter().find(|(name, _)| *name == "VERSION");
    let version = version.map_or(u32::MAX, |(_, version)| version.parse().unwrap());
    let newer = functions().filter(|&(_, since)| since > version).map(|(name, _)| name);
    let driver = folder(newer.chain(hidden.iter().copied()).collect());
    let others = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let others = env::split_paths(&others).filter(|folder| !folder.as_os_str().is_empty());
    command.env("LD_LIBRARY_PATH", env::join_paths([driver].into_iter().chain(others)).unwrap());
    // What the tests' own driver is set to, should that be an emulated one too.
    for (name, _) in env::vars().filter(|(name, _)| name.starts_with(PREFIX)) {
        command.env_remove(name);
    }
    // What loads the driver may lie anywhere.
    command.env("PROBEPRUNE_PTX", ::emulated_cuda::ptx_folder());
    command.envs(settings.iter().map(|(name, value)| (format!("{PREFIX}{name}"), value)))
}

/// Every function of the emulated driver, and the CUDA version since when it is there.
pub fn functions() -> impl Iterator<Item = (&'static str, u32)> {
    ::emulated_cuda::functions()
}
