//! One allocation of device memory.

use crate::check::shadow::Shadow;

/// A buffer with its shadow.
#[derive(Debug)]
pub(crate) struct Buffer {
    pub name: String,
    pub data: Vec<u8>,
    /// One flag per byte, nonzero once written; empty when every byte is.
    pub written: Vec<u8>,
    pub shadow: Shadow,
}

impl Buffer {
    pub(crate) fn new(name: &str, bytes: usize) -> Self {
        // The pattern is a NaN in every floating-point type, so a forgotten write shows in results as well.
        Self {
            name: name.to_owned(),
            data: vec![0xff; bytes],
            written: vec![0; bytes],
            shadow: Shadow::default(),
        }
    }

    /// Notes that bytes were written.
    pub(crate) fn mark(&mut self, at: usize, len: usize) {
        if !self.written.is_empty() {
            self.written[at..at + len].fill(1);
        }
    }

    /// Notes that the kernel may have written anything: the launch did not track it.
    pub(crate) fn mark_all(&mut self) {
        self.written.clear();
    }

    /// First byte of the range that nothing has written.
    pub(crate) fn unwritten(&self, at: usize, len: usize) -> Option<usize> {
        if self.written.is_empty() {
            return None;
        }
        self.written[at..at + len].iter().position(|&w| w == 0).map(|p| at + p)
    }
}
