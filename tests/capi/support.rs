//! Handles that free themselves, and what a call said.

use std::ffi::{CStr, CString, c_void};

use crate::bindings::*;

/// What the last call on this thread said.
pub(crate) fn said() -> String {
    // SAFETY: the library's own string, copied at once.
    unsafe { CStr::from_ptr(probeprune_last_error()) }.to_str().unwrap().to_string()
}

/// A call succeeded.
#[track_caller]
pub(crate) fn ok(status: i32) {
    assert_eq!(status, PROBEPRUNE_OK as i32, "{}", said());
    assert_eq!(said(), "");
}

/// A call was refused with this status and all of these parts in its message.
#[track_caller]
pub(crate) fn refused(status: i32, expected: u32, parts: &[&str]) {
    let message = said();
    assert_eq!(status, expected as i32, "{message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

/// A struct with its defaults.
pub(crate) fn defaults<T>(init: unsafe extern "C" fn(*mut T, u32) -> i32) -> T {
    let mut value = std::mem::MaybeUninit::uninit();
    // SAFETY: there is room for a struct.
    unsafe {
        ok(init(value.as_mut_ptr(), size_of::<T>() as u32));
        value.assume_init()
    }
}

/// A handle that is freed at the end.
pub(crate) struct Owned<T>(pub(crate) *mut T, unsafe extern "C" fn(*mut T));

// SAFETY: handles may be used from any thread; sessions by one at a time, as the tests do.
unsafe impl<T> Send for Owned<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Owned<T> {}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: made by the library, freed once.
        unsafe { self.1(self.0) }
    }
}

impl<T> Owned<T> {
    /// What `make` leaves.
    #[track_caller]
    pub(crate) fn new(free: unsafe extern "C" fn(*mut T), make: impl FnOnce(*mut *mut T) -> i32) -> Self {
        let mut handle = std::ptr::null_mut();
        ok(make(&mut handle));
        Self(handle, free)
    }
}

pub(crate) type Model = Owned<probeprune_model>;
pub(crate) type Session = Owned<probeprune_session>;
pub(crate) type Device = Owned<probeprune_device>;

pub(crate) fn c(text: &str) -> CString {
    CString::new(text).unwrap()
}

pub(crate) fn tiny_llama() -> Model {
    let options = probeprune_model_options { threads: 2, ..defaults(probeprune_model_options_init) };
    // SAFETY: all pointers are to living values.
    Owned::new(probeprune_model_free, |out| unsafe {
        probeprune_model_load(c("bundled:tiny-llama").as_ptr(), &options, out)
    })
}

pub(crate) fn pruning(ratio: f64) -> probeprune_settings {
    probeprune_settings {
        method: PROBEPRUNE_METHOD_PP as i32,
        prune_ratio: ratio,
        ..defaults(probeprune_settings_init)
    }
}

pub(crate) fn limits(samples: u64, tokens: u64, capacity: u64) -> probeprune_limits {
    probeprune_limits { samples, tokens, capacity, ..defaults(probeprune_limits_init) }
}

pub(crate) fn session(model: &Model, settings: &probeprune_settings, limits: probeprune_limits) -> Session {
    // SAFETY: all pointers are to living values.
    Owned::new(probeprune_session_free, |out| unsafe {
        probeprune_session_create(model.0, settings, &limits, std::ptr::null(), out)
    })
}

/// Token ids of no text.
pub(crate) fn tokens(count: usize, seed: u32) -> Vec<u32> {
    (0..count as u32).map(|i| (i * 37 + seed * 101) % 250).collect()
}

pub(crate) fn device() -> Device {
    let options = probeprune_device_options { threads: 2, ..defaults(probeprune_device_options_init) };
    // SAFETY: all pointers are to living values.
    Owned::new(probeprune_device_free, |out| unsafe { probeprune_device_open(&options, out) })
}

/// A tensor of 32-bit entries in host memory.
pub(crate) struct HostTensor<T> {
    pub(crate) data: Vec<T>,
    shape: Vec<i64>,
    pub(crate) tensor: DLTensor,
}

pub(crate) const FLOAT32: DLDataType = DLDataType { code: 2, bits: 32, lanes: 1 };
pub(crate) const INT32: DLDataType = DLDataType { code: 0, bits: 32, lanes: 1 };

impl<T: Copy> HostTensor<T> {
    fn new(data: Vec<T>, shape: &[usize], dtype: DLDataType) -> Self {
        assert_eq!(data.len(), shape.iter().product::<usize>());
        let mut made = Self {
            data,
            shape: shape.iter().map(|&size| size as i64).collect(),
            tensor: DLTensor {
                data: std::ptr::null_mut(),
                device: DLDevice { device_type: DLDeviceType_kDLCPU, device_id: 0 },
                ndim: shape.len() as i32,
                dtype,
                shape: std::ptr::null_mut(),
                strides: std::ptr::null_mut(),
                byte_offset: 0,
            },
        };
        made.tensor.data = made.data.as_mut_ptr().cast();
        made.tensor.shape = made.shape.as_mut_ptr();
        made
    }
}

pub(crate) fn floats(data: Vec<f32>, shape: &[usize]) -> HostTensor<f32> {
    HostTensor::new(data, shape, FLOAT32)
}

pub(crate) fn ints(data: Vec<i32>, shape: &[usize]) -> HostTensor<i32> {
    HostTensor::new(data, shape, INT32)
}

/// Notes what a progress function is told.
pub(crate) unsafe extern "C-unwind" fn counting(user: *mut c_void, done: u64, of: u64) -> i32 {
    // SAFETY: what the test passes.
    unsafe { (*user.cast::<Vec<(u64, u64)>>()).push((done, of)) };
    0
}
