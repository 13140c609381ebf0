//! Sizes that no memory has, and files that are never mapped.

use std::{
    ffi::{CStr, CString, c_void},
    ptr::{null, null_mut},
};

use crate::{bindings::*, common::models::Folder, support::*};

#[test]
fn sizes_that_no_memory_has_leave_the_model_usable() {
    let model = tiny_llama();
    let loss = |session: &Session| {
        let (tokens, mut loss) = (tokens(2 * 16, 3), 0.0);
        // SAFETY: a living handle and buffers.
        ok(unsafe { probeprune_session_evaluate(session.0, tokens.as_ptr(), null(), 2, 16, 1, &mut loss) });
        loss
    };
    let before = loss(&session(&model, &pruning(0.4), limits(2, 16, 20)));
    for (samples, length, capacity) in
        [(1 << 40, 16, 0), (1 << 62, 16, 0), (u64::MAX, 512, 512), (u64::MAX / 16, 16, 0), (1 << 40, 1, 512)]
    {
        for settings in [pruning(0.4), defaults(probeprune_settings_init)] {
            let (limits, mut made) = (limits(samples, length, capacity), null_mut());
            // SAFETY: a living handle and structs.
            let status = unsafe { probeprune_session_create(model.0, &settings, &limits, null(), &mut made) };
            refused(status, PROBEPRUNE_OUT_OF_MEMORY, &["memory: expected", "bytes for a buffer"]);
            assert!(made.is_null());
        }
    }
    assert_eq!(loss(&session(&model, &pruning(0.4), limits(2, 16, 20))), before);
}

#[test]
fn estimates_do_not_wrap() {
    let name = c("bundled:tiny-llama");
    let mut memory = defaults(probeprune_memory_init);
    let mut estimate = |device_type, samples, length, capacity| {
        let options = probeprune_model_options { device_type, ..defaults(probeprune_model_options_init) };
        let (settings, limits) = (pruning(0.4), limits(samples, length, capacity));
        // SAFETY: living structs and a string.
        ok(unsafe { probeprune_memory_estimate(name.as_ptr(), &options, &settings, &limits, &mut memory) });
        memory
    };
    for device in [DLDeviceType_kDLCPU as i32, DLDeviceType_kDLCUDA as i32] {
        let mut last = 0;
        for power in 0..64 {
            let memory = estimate(device, 1 << power, 512, 512);
            assert!(memory.total >= memory.scratch && memory.total >= memory.cache, "2^{power}");
            assert!(memory.total > last || memory.total == u64::MAX, "2^{power}");
            last = memory.total;
        }
        assert_eq!(last, u64::MAX);
        assert_eq!(estimate(device, u64::MAX, u64::MAX, u64::MAX).total, u64::MAX);
    }
}

#[test]
fn threads_are_bounded() {
    let name = c("bundled:tiny-llama");
    let options = probeprune_model_options { threads: 1025, ..defaults(probeprune_model_options_init) };
    let device = probeprune_device_options { threads: u32::MAX, ..defaults(probeprune_device_options_init) };
    let (mut model, mut opened) = (null_mut(), null_mut());
    // SAFETY: living structs and a string.
    unsafe {
        let status = probeprune_model_load(name.as_ptr(), &options, &mut model);
        refused(status, PROBEPRUNE_INVALID_ARGUMENT, &["threads", "at most 1024", "1025"]);
        let status = probeprune_device_open(&device, &mut opened);
        refused(status, PROBEPRUNE_INVALID_ARGUMENT, &["threads", "at most 1024"]);
    }
    assert!(model.is_null() && opened.is_null());
}

/// A folder, and whether the process had a file of it mapped whenever it was asked.
struct Watched {
    folder: CString,
    mapped: Vec<bool>,
}

impl Watched {
    fn look(&mut self) {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        self.mapped.push(maps.contains(self.folder.to_str().unwrap()));
    }
}

unsafe extern "C-unwind" fn look(user: *mut c_void, _done: u64, _of: u64) -> i32 {
    // SAFETY: what the test passes.
    unsafe { (*user.cast::<Watched>()).look() };
    0
}

#[cfg(target_os = "linux")]
#[test]
fn weights_that_are_read_are_never_mapped() {
    let folder = Folder::llama();
    let name = c(folder.path().to_str().unwrap());
    let fingerprints = [0, 1].map(|read_weights| {
        let mut watched = Watched { folder: name.clone(), mapped: Vec::new() };
        let options = probeprune_model_options {
            threads: 1,
            read_weights,
            progress: Some(look),
            user: (&raw mut watched).cast(),
            ..defaults(probeprune_model_options_init)
        };
        // SAFETY: all pointers are to living values.
        let model = Owned::new(probeprune_model_free, |out| unsafe {
            probeprune_model_load(name.as_ptr(), &options, out)
        });
        watched.look();
        assert!(
            watched.mapped.len() > 2 && watched.mapped.iter().all(|&mapped| mapped == (read_weights == 0))
        );
        let mut fingerprint = null();
        // SAFETY: a living handle; the string is copied.
        unsafe {
            ok(probeprune_model_fingerprint(model.0, &mut fingerprint));
            CStr::from_ptr(fingerprint).to_owned()
        }
    });
    assert_eq!(fingerprints[0], fingerprints[1]);
}
