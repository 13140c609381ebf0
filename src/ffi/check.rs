//! Callers' pointers, strings, arrays and structs, checked before use.

use std::{
    ffi::{CStr, c_char},
    mem::MaybeUninit,
    slice,
};

use super::status::{Failure, Outcome, Status};

/// A pointer that is not null and is aligned.
fn usable<T>(pointer: *const T, what: &str) -> Outcome<*const T> {
    if pointer.is_null() {
        return Err(Failure::argument(
            what,
            "a pointer",
            "NULL",
            "Only pointers documented as optional may be NULL.",
        ));
    }
    if !pointer.is_aligned() {
        let expected = format!("a multiple of {}", align_of::<T>());
        let help = "The pointer is misaligned.";
        return Err(Failure::argument(what, expected, format!("{:#x}", pointer.addr()), help));
    }
    Ok(pointer)
}

/// The value behind a pointer.
///
/// # Safety
/// Where it is not null, it is valid for reading while the result is used.
pub(super) unsafe fn read<'a, T>(pointer: *const T, what: &str) -> Outcome<&'a T> {
    // SAFETY: aligned and not null, as `usable` checked; the caller promises that it is readable while the result is
    // used.
    usable(pointer, what).map(|pointer| unsafe { &*pointer })
}

/// Destination of a call's result, written on success only.
#[derive(Debug)]
pub(super) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// # Safety
    /// Where it is not null, the pointer is valid for writing as long as the result lives.
    pub(super) unsafe fn new(pointer: *mut T, what: &str) -> Outcome<Self> {
        usable(pointer, what).map(|_| Self(pointer))
    }

    pub(super) fn write(self, value: T) {
        // SAFETY: `new` checked that it is aligned and not null, and its caller promised that it is writable.
        unsafe { self.0.write(value) }
    }
}

/// Hands a new object over to the caller.
pub(super) fn give<T>(out: Out<*mut T>, value: T) {
    out.write(Box::into_raw(Box::new(value)));
}

/// Takes an object back; nothing for null.
///
/// # Safety
/// The pointer is null or came from [`give`] and was not taken back before.
pub(super) unsafe fn take_back<T>(pointer: *mut T) {
    if !pointer.is_null() {
        // SAFETY: `give` boxed it, and the caller promises that it was not taken back before.
        super::status::free(|| drop(unsafe { Box::from_raw(pointer) }));
    }
}

/// UTF-8 text that ends with NUL.
///
/// # Safety
/// Where it is not null, the pointer leads to a NUL-terminated string that lives as long as the result.
pub(super) unsafe fn text<'a>(pointer: *const c_char, what: &str) -> Outcome<&'a str> {
    let pointer = usable(pointer, what)?;
    // SAFETY: not null; the caller promises a NUL-terminated string that outlives the result.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|_| Failure::argument(what, "UTF-8", "other bytes", "Convert the text first."))
}

/// `len` entries; null is allowed for 0.
///
/// # Safety
/// Where it is not null, the pointer is valid for reading `len` entries as long as the result lives.
pub(super) unsafe fn array<'a, T>(pointer: *const T, len: usize, what: &str) -> Outcome<&'a [T]> {
    if len == 0 {
        return Ok(&[]);
    }
    if len.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > isize::MAX as usize) {
        return Err(Failure::argument(what, "a number of entries that fits memory", len, "Check the count."));
    }
    // SAFETY: aligned and not null, and `len` entries fit memory; the caller promises that they are readable while
    // the result is used.
    usable(pointer, what).map(|pointer| unsafe { slice::from_raw_parts(pointer, len) })
}

/// As [`array`]; `None` for null.
///
/// # Safety
/// As [`array`].
pub(super) unsafe fn optional_array<'a, T>(
    pointer: *const T,
    len: usize,
    what: &str,
) -> Outcome<Option<&'a [T]>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: not null; the caller promises `len` readable entries.
    unsafe { array(pointer, len, what) }.map(Some)
}

/// A caller's buffer of `capacity` entries, and the destination of the count. A null buffer asks for the count alone.
#[derive(Debug)]
pub(super) struct Buffer<T> {
    out: *mut T,
    capacity: usize,
    count: Out<usize>,
    what: &'static str,
}

impl<T: Copy> Buffer<T> {
    /// # Safety
    /// Pointers that are not null are valid for writing, `out` for `capacity` entries, as long as the result lives.
    pub(super) unsafe fn new(
        out: *mut T,
        capacity: usize,
        count: *mut usize,
        what: &'static str,
    ) -> Outcome<Self> {
        // SAFETY: the caller promises that `count` is null or writable as long as the result lives.
        let count = unsafe { Out::new(count, "count") }?;
        if !out.is_null() {
            usable(out, what)?;
        }
        Ok(Self { out, capacity, count, what })
    }

    /// Refuses a buffer that is too small for `len` entries.
    pub(super) fn check(&self, len: usize) -> Outcome {
        if self.out.is_null() || self.capacity >= len {
            return Ok(());
        }
        let help = "Ask for the number first, with NULL for the buffer.";
        let expected = format!("room for {len} entries");
        Err(Failure::new(Status::TooSmall, self.what, expected, self.capacity, help))
    }

    /// Answers a query with the number of entries, or else writes them; `values` is called only where there is room for them.
    pub(super) fn fill(self, len: usize, values: impl FnOnce() -> Outcome<Vec<T>>) -> Outcome {
        if self.out.is_null() {
            self.count.write(len);
            return Ok(());
        }
        self.check(len)?;
        self.write(&values()?)
    }

    pub(super) fn write(self, values: &[T]) -> Outcome {
        self.check(values.len())?;
        if !self.out.is_null() {
            // SAFETY: aligned, and `check` found room; the caller of `new` promised `capacity` writable entries.
            unsafe { self.out.copy_from_nonoverlapping(values.as_ptr(), values.len()) }
        }
        self.count.write(values.len());
        Ok(())
    }
}

/// A struct that may grow at its end. Its first field is `struct_size`, the caller's `sizeof`.
///
/// # Safety
/// `repr(C)`, without padding that matters, valid for all bits, and beginning with a `u32` for its size.
pub(super) unsafe trait Versioned: Copy {
    /// Its name in the header.
    const NAME: &'static str;
    /// `sizeof` in version 1 of the ABI; no caller has a shorter one.
    const FIRST_SIZE: usize;

    /// What `_init` fills in; `struct_size` is set afterwards.
    fn defaults() -> Self;

    /// Whether reserved fields are 0.
    fn reserved_is_zero(&self) -> bool;
}

fn size_failure<T: Versioned>(size: usize, help: &str) -> Failure {
    let expected = format!("at least {} bytes", T::FIRST_SIZE);
    Failure::new(Status::InvalidStruct, format!("struct_size of {}", T::NAME), expected, size, help)
}

/// A caller's struct of any version: fields that it lacks take their defaults, and bytes that this library does not know
/// must be 0.
///
/// # Safety
/// Where it is not null, the pointer is valid for reading as many bytes as its first field says, which are initialised.
pub(super) unsafe fn versioned<T: Versioned>(pointer: *const T, what: &str) -> Outcome<T> {
    let pointer = usable(pointer, what)?;
    // SAFETY: aligned and not null; every `Versioned` struct begins with its size, which the caller promises to be
    // readable.
    let size = unsafe { pointer.cast::<u32>().read() } as usize;
    let own = size_of::<T>();
    if size < T::FIRST_SIZE {
        let help = "Fill it with its _init function first.";
        return Err(size_failure::<T>(size, help));
    }
    // SAFETY: the caller promises as many readable bytes as the first field says.
    let bytes = unsafe { slice::from_raw_parts(pointer.cast::<u8>(), size) };
    if bytes.get(own..).is_some_and(|tail| tail.iter().any(|&byte| byte != 0)) {
        let help = "The program was compiled for a newer libprobeprune: leave its new fields at 0, or update the library.";
        let what = format!("{} after byte {own}", T::NAME);
        return Err(Failure::new(Status::InvalidStruct, what, "zeros", "a value", help));
    }
    let mut value = T::defaults();
    // SAFETY: both have as many bytes, and a `Versioned` struct is valid for all bits.
    unsafe {
        (&raw mut value).cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), size.min(own));
    }
    if !value.reserved_is_zero() {
        let help = "Fill the struct with its _init function first.";
        let what = format!("reserved fields of {}", T::NAME);
        return Err(Failure::new(Status::InvalidStruct, what, "zeros", "a value", help));
    }
    Ok(value)
}

/// As [`versioned`]; the defaults for null.
///
/// # Safety
/// As [`versioned`].
pub(super) unsafe fn versioned_or_default<T: Versioned>(pointer: *const T, what: &str) -> Outcome<T> {
    if pointer.is_null() {
        return Ok(T::defaults());
    }
    // SAFETY: not null; the caller promises a readable struct of the size that its first field says.
    unsafe { versioned(pointer, what) }
}

/// Fills a struct of `size` bytes with the defaults of its version, and zeros after them.
///
/// # Safety
/// Where it is not null, the pointer is valid for writing `size` bytes.
pub(super) unsafe fn init<T: Versioned>(pointer: *mut T, size: u32) -> Outcome {
    usable(pointer, "struct")?;
    let bytes = size as usize;
    if bytes < T::FIRST_SIZE {
        return Err(size_failure::<T>(bytes, "Pass sizeof."));
    }
    // SAFETY: aligned and not null; the caller promises `size` writable bytes.
    unsafe { write_versioned(pointer, bytes, T::defaults()) };
    Ok(())
}

/// # Safety
/// The pointer is aligned and valid for writing `size` bytes.
unsafe fn write_versioned<T: Versioned>(pointer: *mut T, size: usize, value: T) {
    let mut value = MaybeUninit::new(value);
    // SAFETY: the caller promises `size` aligned writable bytes, of which no more than `value` has are copied; every
    // `Versioned` struct begins with its size.
    unsafe {
        value.as_mut_ptr().cast::<u32>().write(size as u32);
        pointer.cast::<u8>().write_bytes(0, size);
        pointer.cast::<u8>().copy_from_nonoverlapping(value.as_ptr().cast(), size.min(size_of::<T>()));
    }
}

/// A struct that a call fills.
#[derive(Debug)]
pub(super) struct OutStruct<T>(*mut T, usize);

impl<T: Versioned> OutStruct<T> {
    /// # Safety
    /// Where it is not null, the pointer is valid for as many bytes as its first field says, as long as the result lives.
    pub(super) unsafe fn new(pointer: *mut T, what: &str) -> Outcome<Self> {
        // SAFETY: the caller promises that the pointer is null or valid for as many bytes as its first field says.
        unsafe { versioned(pointer, what) }?;
        // SAFETY: `versioned` checked that it is aligned and not null; the struct begins with its size.
        let size = unsafe { pointer.cast::<u32>().read() };
        Ok(Self(pointer, size as usize))
    }

    pub(super) fn write(self, value: T) {
        // SAFETY: `new` checked alignment and size, and its caller promised as many writable bytes.
        unsafe { write_versioned(self.0, self.1, value) }
    }
}
