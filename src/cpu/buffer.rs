//! Host memory that operations read and write: the backend's own, or borrowed from another owner.

use std::ops::{Deref, DerefMut};

use crate::{error::Result, memory};

/// Floats of a cache line.
const LINE: usize = 16;

/// Entries in host memory; reads and writes as a slice. `Vec` turns into one by `into`.
#[derive(Debug)]
pub struct Buffer<T>(Memory<T>);

#[derive(Debug)]
enum Memory<T> {
    /// All but the first so many entries.
    Owned(Vec<T>, usize),
    /// Of another owner, who keeps it alive.
    Borrowed(*mut T, usize),
}

// SAFETY: the lender promised `Buffer::borrow` that the memory may be used like owned memory.
unsafe impl<T: Send> Send for Buffer<T> {}
// SAFETY: as for `Send`.
unsafe impl<T: Sync> Sync for Buffer<T> {}

impl<T> Buffer<T> {
    /// `len` entries of another owner.
    ///
    /// # Safety
    /// `start` is aligned and valid for `len` entries as long as the result lives. Nothing else writes them meanwhile, nor
    /// reads them if the result is written to.
    pub unsafe fn borrow(start: *mut T, len: usize) -> Self {
        if len == 0 {
            return Vec::new().into();
        }
        Self(Memory::Borrowed(start, len))
    }
}

impl Buffer<f32> {
    /// `len` zeros from the beginning of a cache line on, so that no vector of them lies in two: loading such a one takes twice
    /// as long.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub(super) fn zeros(len: usize) -> Result<Self> {
        let mut entries: Vec<f32> = memory::zeros(len.saturating_add(LINE - 1))?;
        let skipped = entries.as_ptr().align_offset(LINE * size_of::<f32>());
        entries.truncate(skipped + len);
        Ok(Self(Memory::Owned(entries, skipped)))
    }
}

impl<T: Clone> Buffer<T> {
    /// The first `len` entries, where they lie if the memory is its own.
    pub(super) fn into_vec(self, len: usize) -> Vec<T> {
        match self.0 {
            Memory::Owned(mut entries, skipped) => {
                entries.truncate(skipped + len);
                entries.drain(..skipped);
                entries
            }
            Memory::Borrowed(..) => self[..len].to_vec(),
        }
    }
}

impl<T> From<Vec<T>> for Buffer<T> {
    fn from(entries: Vec<T>) -> Self {
        Self(Memory::Owned(entries, 0))
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Memory::Owned(entries, skipped) => &entries[*skipped..],
            // SAFETY: the lender promised `borrow` that `len` entries are readable.
            Memory::Borrowed(start, len) => unsafe { std::slice::from_raw_parts(*start, *len) },
        }
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.0 {
            Memory::Owned(entries, skipped) => &mut entries[*skipped..],
            // SAFETY: the lender promised `borrow` that `len` entries are writable, and nothing else uses them meanwhile.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_begin_at_a_cache_line() {
        for len in [0, 1, 576, 50_000] {
            let mut zeros = Buffer::zeros(len).unwrap();
            assert_eq!((zeros.as_ptr() as usize % 64, zeros.len()), (0, len));
            zeros.fill(2.0);
            assert_eq!(zeros.into_vec(len / 2), vec![2.0; len / 2]);
        }
    }

    #[test]
    fn buffers_compare_by_their_entries() {
        let buffer: Buffer<u32> = vec![1, 2].into();
        assert!(buffer == [1, 2] && buffer != [1, 3] && buffer != [1]);
    }
}
