//! Host memory that operations read and write: the backend's own, or somebody else's.

use std::ops::{Deref, DerefMut};

/// Entries in host memory; reads and writes as a slice. `Vec` turns into one by `into`.
#[derive(Debug)]
pub struct Buffer<T>(Memory<T>);

#[derive(Debug)]
enum Memory<T> {
    Owned(Vec<T>),
    /// Somebody else's, who keeps it alive.
    Borrowed(*mut T, usize),
}

// SAFETY: whoever lends memory promises that it may be used as if it were owned (see `Buffer::borrow`).
unsafe impl<T: Send> Send for Buffer<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Buffer<T> {}

impl<T> Buffer<T> {
    /// `len` entries that belong to somebody else.
    ///
    /// # Safety
    /// `start` is aligned and valid for `len` entries as long as what is returned lives; nobody else writes them meanwhile,
    /// nor reads them if what is returned is written to.
    pub unsafe fn borrow(start: *mut T, len: usize) -> Self {
        if len == 0 {
            return Vec::new().into();
        }
        Self(Memory::Borrowed(start, len))
    }
}

impl<T> From<Vec<T>> for Buffer<T> {
    fn from(entries: Vec<T>) -> Self {
        Self(Memory::Owned(entries))
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Memory::Owned(entries) => entries,
            // SAFETY: promised to `borrow`.
            Memory::Borrowed(start, len) => unsafe { std::slice::from_raw_parts(*start, *len) },
        }
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.0 {
            Memory::Owned(entries) => entries,
            // SAFETY: promised to `borrow`.
            Memory::Borrowed(start, len) => unsafe { std::slice::from_raw_parts_mut(*start, *len) },
        }
    }
}

impl<T> FromIterator<T> for Buffer<T> {
    fn from_iter<I: IntoIterator<Item = T>>(entries: I) -> Self {
        Vec::from_iter(entries).into()
    }
}

impl<'a, T> IntoIterator for &'a Buffer<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// A copy is always owned.
impl<T: Clone> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        self.to_vec().into()
    }
}

impl<T: PartialEq, O: AsRef<[T]>> PartialEq<O> for Buffer<T> {
    fn eq(&self, other: &O) -> bool {
        **self == *other.as_ref()
    }
}

impl<T> AsRef<[T]> for Buffer<T> {
    fn as_ref(&self) -> &[T] {
        self
    }
}
