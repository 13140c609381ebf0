//! Memory and copies.

use super::*;

api! {
    fn cuMemAlloc_v2(address: *mut u64, bytes: usize) since 3020 {
        let mut state = State::enter()?;
        let taken: usize = state.allocations.values().map(|allocation| allocation.bytes).sum();
        if bytes == 0 {
            return Err(INVALID_VALUE);
        }
        if taken.saturating_add(bytes) as u64 > setting("MEMORY", 1 << 30) {
            return Err(OUT_OF_MEMORY);
        }
        let at = state.memory.alloc("buffer", bytes).map_err(|_| OUT_OF_MEMORY)?;
        state.allocations.insert(at, Allocation { bytes, ordinal: CURRENT.get() - 1 });
        // SAFETY: the API's contract.
        unsafe { put(address, at) }
    }
    fn cuMemFree_v2(address: u64) since 3020 {
        let mut state = State::enter()?;
        let allocation = state.allocations.remove(&address);
        let bytes = allocation.unwrap_or_else(|| misuse("freeing what was not allocated")).bytes as u64;
        if state.is_waiting(|operation| operation.touches(&(address..address + bytes))) {
            misuse("freeing memory that something waiting will use");
        }
        state.memory.free(address).map_err(|_| INVALID_VALUE)?;
    }
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) since 3020 {
        let state = State::enter()?;
        let taken: usize = state.allocations.values().map(|allocation| allocation.bytes).sum();
        let all = setting("MEMORY", 1 << 30) as usize;
        // SAFETY: the API's contract.
        unsafe {
            put(free, all - taken);
            put(total, all);
        }
    }
    fn cuMemHostAlloc(memory: *mut *mut c_void, bytes: usize, _flags: c_uint) since 2020 {
        let mut words = vec![0u64; bytes.div_ceil(8)].into_boxed_slice();
        let at = words.as_mut_ptr();
        State::enter()?.pinned.insert(at as usize, words);
        // SAFETY: the API's contract.
        unsafe { put(memory, at.cast()) }
    }
    fn cuMemFreeHost(memory: *mut c_void) since 2000 {
        drop(State::enter()?.pinned.remove(&(memory as usize)).unwrap_or_else(|| misuse("freeing unknown memory")))
    }
    fn cuMemsetD8Async(at: u64, value: u8, len: usize, stream: usize) since 3020 {
        check(State::enter()?.enqueue(stream, Operation::Set { at, value, len }))?
    }
    fn cuMemcpyHtoD_v2(to: u64, from: *const u8, len: usize) since 3020 {
        let mut state = State::enter()?;
        // SAFETY: the API's contract.
        let bytes = unsafe { std::slice::from_raw_parts(from, len) }.to_vec();
        check(state.enqueue(0, Operation::Write { to, bytes }))?;
        check(state.run(0, |_| false))?
    }
    fn cuMemcpyDtoH_v2(to: *mut u8, from: u64, len: usize) since 3020 {
        let mut state = State::enter()?;
        check(state.enqueue(0, Operation::Read { from, to: to as usize, len }))?;
        check(state.run(0, |_| false))?
    }
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const u8, len: usize, stream: usize) since 3020 {
        let mut state = State::enter()?;
        let operation = match state.pinned_range(from as usize, len) {
            Some(_) => Operation::WritePinned { to, from: from as usize, len },
            // SAFETY: the API's contract.
            None => Operation::Write { to, bytes: unsafe { std::slice::from_raw_parts(from, len) }.to_vec() },
        };
        check(state.enqueue(stream, operation))?
    }
    fn cuMemcpyDtoHAsync_v2(to: *mut u8, from: u64, len: usize, stream: usize) since 3020 {
        check(State::enter()?.enqueue(stream, Operation::Read { from, to: to as usize, len }))?
    }
    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, len: usize, stream: usize) since 3020 {
        check(State::enter()?.enqueue(stream, Operation::Copy { to, from, len }))?
    }
    fn cuPointerGetAttribute(value: *mut c_int, attribute: c_int, address: u64) since 4000 {
        let state = State::enter()?;
        let allocation = state.allocation(address).filter(|_| attribute == 9).ok_or(INVALID_VALUE)?;
        // SAFETY: the API's contract for the device's ordinal.
        unsafe { put(value, allocation.ordinal as c_int) }
    }
}
