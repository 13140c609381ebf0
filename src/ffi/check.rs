//! What comes from the other side of the boundary: pointers, strings, arrays and structs, checked before they are used.

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
            "Only what is documented as optional may be NULL.",
        ));
    }
    if !pointer.is_aligned() {
        let expected = format!("a multiple of {}", align_of::<T>());
        let help = "The address is not one of the type's.";
        return Err(Failure::argument(what, expected, format!("{:#x}", pointer.addr()), help));
    }
    Ok(pointer)
}

/// What a pointer leads to.
///
/// # Safety
/// Where it is not null, it is valid for reading while the result is used.
pub(super) unsafe fn read<'a, T>(pointer: *const T, what: &str) -> Outcome<&'a T> {
    // SAFETY: aligned and not null; the rest is the caller's to keep.
    usable(pointer, what).map(|pointer| unsafe { &*pointer })
}

/// Where a call leaves a result. Nothing is written before it succeeded.
#[derive(Debug)]
pub(super) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// # Safety
    /// Where it is not null, the pointer is valid for writing as long as the result lives.
    pub(super) unsafe fn new(pointer: *mut T, what: &str) -> Outcome<Self> {
        usable(pointer, what).map(|_| Self(pointer))
    }

    pub(super) fn write(self, value: T) {
        // SAFETY: aligned and not null; the rest was promised to `new`.
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
        // SAFETY: the caller's to keep.
        super::status::free(|| drop(unsafe { Box::from_raw(pointer) }));
    }
}

/// UTF-8 text that ends with NUL.
///
/// # Safety
/// Where it is not null, the pointer leads to a NUL-terminated string that lives as long as the result.
pub(super) unsafe fn text<'a>(pointer: *const c_char, what: &str) -> Outcome<&'a str> {
    let pointer = usable(pointer, what)?;
    // SAFETY: the caller's to keep.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|_| Failure::argument(what, "UTF-8", "other bytes", "Convert the text first."))
}

/// `len` entries; null will do for none.
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
    // SAFETY: aligned and not null; the rest is the caller's to keep.
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
    // SAFETY: the caller's to keep.
    unsafe { array(pointer, len, what) }.map(Some)
}

/// A caller's buffer with room for `capacity` entries, and where their number goes. Null asks for the number only.
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
        // SAFETY: the caller's to keep.
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

    pub(super) fn is_query(&self) -> bool {
        self.out.is_null()
    }

    /// Answers a query.
    pub(super) fn answer(self, len: usize) {
        self.count.write(len);
    }

    pub(super) fn write(self, values: &[T]) -> Outcome {
        self.check(values.len())?;
        if !self.out.is_null() {
            // SAFETY: aligned, and has room; the rest was promised to `new`.
            unsafe { self.out.copy_from_nonoverlapping(values.as_ptr(), values.len()) }
        }
        self.count.write(values.len());
        Ok(())
    }
}

/// A struct that may grow at its end. Its first field is `struct_size`, what its owner takes for `sizeof`.
///
/// # Safety
/// `repr(C)`, without padding that matters, valid for all bits, and beginning with a `u32` for its size.
pub(super) unsafe trait Versioned: Copy {
    /// Its name in the header.
    const NAME: &'static str;
    /// `sizeof` in version 1 of the ABI: shorter ones never were.
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

/// A struct of the caller's, of its version: what it does not have yet is the default, and what this library does not know
/// must be 0.
///
/// # Safety
/// Where it is not null, the pointer is valid for reading as many bytes as its first field says, which are initialised.
pub(super) unsafe fn versioned<T: Versioned>(pointer: *const T, what: &str) -> Outcome<T> {
    let pointer = usable(pointer, what)?;
    // SAFETY: every such struct begins with its size.
    let size = unsafe { pointer.cast::<u32>().read() } as usize;
    let own = size_of::<T>();
    if size < T::FIRST_SIZE {
        let help = "Fill it by its _init function first.";
        return Err(size_failure::<T>(size, help));
    }
    // SAFETY: the caller's to keep.
    let bytes = unsafe { slice::from_raw_parts(pointer.cast::<u8>(), size) };
    if bytes.get(own..).is_some_and(|tail| tail.iter().any(|&byte| byte != 0)) {
        let help = "The program was compiled for a newer libprobeprune: leave its new fields at 0, or update the library.";
        let what = format!("{} behind byte {own}", T::NAME);
        return Err(Failure::new(Status::InvalidStruct, what, "zeros", "a value", help));
    }
    let mut value = T::defaults();
    // SAFETY: as many bytes as both have; the type is valid for all bits.
    unsafe {
        (&raw mut value).cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), size.min(own));
    }
    if !value.reserved_is_zero() {
        let help = "Fill the struct by its _init function first.";
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
    // SAFETY: the caller's to keep.
    unsafe { versioned(pointer, what) }
}

/// Fills a struct of `size` bytes with what its version has of the defaults, and zeros behind.
///
/// # Safety
/// Where it is not null, the pointer is valid for writing `size` bytes.
pub(super) unsafe fn init<T: Versioned>(pointer: *mut T, size: u32) -> Outcome {
    usable(pointer, "struct")?;
    let bytes = size as usize;
    if bytes < T::FIRST_SIZE {
        return Err(size_failure::<T>(bytes, "Pass sizeof."));
    }
    // SAFETY: the caller's to keep.
    unsafe { write_versioned(pointer, bytes, T::defaults()) };
    Ok(())
}

/// # Safety
/// The pointer is aligned and valid for writing `size` bytes.
unsafe fn write_versioned<T: Versioned>(pointer: *mut T, size: usize, value: T) {
    let mut value = MaybeUninit::new(value);
    // SAFETY: both are valid for the bytes that both have, and every such struct begins with its size.
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
        // SAFETY: the caller's to keep.
        unsafe { versioned(pointer, what) }?;
        // SAFETY: as above.
        let size = unsafe { pointer.cast::<u32>().read() };
        Ok(Self(pointer, size as usize))
    }

    pub(super) fn write(self, value: T) {
        // SAFETY: checked by `new`.
        unsafe { write_versioned(self.0, self.1, value) }
    }
}
