//! Host memory that may not be there: asking for it, and knowing beforehand.

use std::{cell::Cell, fs};

use bytemuck::Zeroable;

use crate::error::{Error, Result};

thread_local! {
    static ASKING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is asking for memory that it can do without. A program whose allocator ends it where there is no
/// memory leaves such a request to the caller, who gets [`Error::OutOfMemory`].
pub fn is_asking() -> bool {
    ASKING.get()
}

/// Runs an allocation whose failure the caller handles.
pub(crate) fn ask<R>(allocate: impl FnOnce() -> R) -> R {
    let before = ASKING.replace(true);
    let outcome = allocate();
    ASKING.set(before);
    outcome
}

/// `len` zeros. The system may keep them for free until they are written.
pub(crate) fn zeros<T: Zeroable>(len: usize) -> Result<Vec<T>> {
    ask(|| bytemuck::allocation::try_zeroed_vec(len))
        .map_err(|()| refused(len.saturating_mul(size_of::<T>())))
}

/// No entries, with room for `len`.
pub(crate) fn with_capacity<T>(len: usize) -> Result<Vec<T>> {
    let mut entries = Vec::new();
    ask(|| entries.try_reserve_exact(len)).map_err(|_| refused(len.saturating_mul(size_of::<T>())))?;
    Ok(entries)
}

/// A copy of `values`.
pub(crate) fn copy<T: Copy>(values: &[T]) -> Result<Vec<T>> {
    let mut copy = with_capacity(values.len())?;
    copy.extend_from_slice(values);
    Ok(copy)
}

/// What a process has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes that it can still take.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
}

impl Room {
    /// The machine's memory, or what a limit on the process's address space leaves if that is less. `None` where the system
    /// does not tell.
    pub fn now() -> Option<Self> {
        let machine = fs::read_to_string("/proc/meminfo").ok()?;
        let room =
            Self { free: kilobytes(&machine, "MemAvailable:")?, total: kilobytes(&machine, "MemTotal:")? };
        Some(Self::of_process().filter(|limited| limited.free < room.free).unwrap_or(room))
    }

    /// What a limit on the process's address space leaves. `None` without such a limit.
    fn of_process() -> Option<Self> {
        let limits = fs::read_to_string("/proc/self/limits").ok()?;
        let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
        let total: u64 = line.split_whitespace().next()?.parse().ok()?;
        let taken = kilobytes(&fs::read_to_string("/proc/self/status").ok()?, "VmSize:")?;
        Some(Self { free: total.saturating_sub(taken), total })
    }
}

/// Bytes of a line `name  N kB`.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Refuses `bytes` that the process cannot take, where the system tells. Smaller requests are left to the allocator, which
/// refuses them one by one: many systems promise more memory than they have, and end a process that uses it.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub fn check_room(bytes: u64) -> Result<()> {
    const SMALL: u64 = 1 << 28;
    if bytes <= SMALL || Room::now().is_none_or(|room| bytes <= room.free) {
        return Ok(());
    }
    Err(refused(usize::try_from(bytes).unwrap_or(usize::MAX)))
}

/// Refuses `bytes` of addresses that a limit on the process does not leave.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn check_addresses(bytes: u64) -> Result<()> {
    match Room::of_process() {
        Some(room) if bytes > room.free => Err(refused(usize::try_from(bytes).unwrap_or(usize::MAX))),
        _ => Ok(()),
    }
}

/// The error for `needed` bytes that are not there.
pub(crate) fn refused(needed: usize) -> Error {
    let room = Room::now().unwrap_or(Room { free: 0, total: 0 });
    Error::OutOfMemory {
        device: "cpu".to_string(),
        needed,
        free: room.free as usize,
        total: room.total as usize,
        help: "Use smaller batches, shorter windows or fewer new tokens, or end other programs.".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_not_there_is_an_error() {
        for len in [usize::MAX, usize::MAX / 4, isize::MAX as usize, 1 << 59] {
            for error in [zeros::<f32>(len).unwrap_err(), with_capacity::<u64>(len).unwrap_err()] {
                let Error::OutOfMemory { needed, .. } = error else { panic!("{error}") };
                assert!(needed >= len, "{needed}");
            }
            assert!(!is_asking());
        }
        assert_eq!(zeros::<u32>(3).unwrap(), [0; 3]);
        assert_eq!(copy(&[1.5, 2.5]).unwrap(), [1.5, 2.5]);
    }

    #[test]
    fn requests_are_told_apart() {
        assert!(ask(|| ask(|| 1) == 1 && is_asking()));
        assert!(!is_asking());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_no_machine_has_is_refused_beforehand() {
        let room = Room::now().unwrap();
        assert!(0 < room.free && room.free <= room.total, "{room:?}");
        check_room(1 << 20).unwrap();
        for bytes in [room.total + 1, 1 << 60, u64::MAX] {
            assert!(matches!(check_room(bytes), Err(Error::OutOfMemory { .. })));
        }
    }

    #[test]
    fn sizes_of_the_system_are_read() {
        assert_eq!(kilobytes("MemTotal:  16 kB\nMemFree: 2 kB\n", "MemFree:"), Some(2048));
        assert_eq!(kilobytes("MemTotal:  x kB\n", "MemTotal:"), None);
        assert_eq!(kilobytes("", "MemTotal:"), None);
    }
}
