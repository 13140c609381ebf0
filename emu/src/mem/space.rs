//! The address map. Every buffer owns a 4 GiB slice of addresses, so a wrong index leaves its buffer long before it
//! meets another: the slices are the guard bands.

/// First shared-memory address: below it nothing is mapped, so offsets from a null pointer are caught.
pub(crate) const SHARED_START: usize = 1024;
/// Largest shared memory of a block, system part included, as on compute capability 9.0.
pub(crate) const SHARED_LIMIT: usize = 228 * 1024;
/// Generic address of parameter byte 0.
pub(crate) const PARAM_BASE: u64 = 0x7c00_0000_0000;
/// Generic address of shared address 0.
pub(crate) const SHARED_BASE: u64 = 0x7d00_0000_0000;
/// Generic address of local byte 0.
pub(crate) const LOCAL_BASE: u64 = 0x7e00_0000_0000;
/// Bits of an address inside a buffer's slice.
pub(crate) const SLICE_BITS: u32 = 32;
/// Offset of a buffer in its slice: alignment as from cudaMalloc, and a mapped-nothing band before it.
pub(crate) const SLICE_START: u64 = 1 << 20;
/// Largest number of live buffers.
pub(crate) const MAX_BUFFERS: usize = (PARAM_BASE >> SLICE_BITS) as usize - 1;

/// Which window a generic address falls in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Window {
    Global,
    Param,
    Shared,
    Local,
}

/// The window of a generic address and the address inside it.
pub(crate) fn window(address: u64) -> (Window, u64) {
    match address >> 40 {
        0x7c => (Window::Param, address - PARAM_BASE),
        0x7d => (Window::Shared, address - SHARED_BASE),
        0x7e => (Window::Local, address - LOCAL_BASE),
        _ => (Window::Global, address),
    }
}
