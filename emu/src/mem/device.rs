//! Device memory as the host sees it.

use std::collections::HashMap;

use super::{
    buffer::Buffer,
    plain::Plain,
    space::{MAX_BUFFERS, SLICE_BITS, SLICE_START},
};
use crate::error::{Error, Result};

/// A GPU's global memory. Device pointers are plain `u64`s; arithmetic on them works as on a GPU.
#[derive(Debug, Default)]
pub struct Device {
    buffers: Vec<Option<Buffer>>,
    free: Vec<usize>,
    /// Address of each module-level variable: module, index.
    pub(crate) globals: HashMap<(u64, usize), u64>,
    /// Launches so far; shadows of older launches are stale.
    pub(crate) launches: u32,
}

impl Device {
    /// An empty device.
    pub fn new() -> Self {
        Self::default()
    }

    /// Allocates uninitialised bytes, 256-byte aligned, in a guard band of a megabyte or more. The name appears in reports.
    pub fn alloc(&mut self, name: &str, bytes: usize) -> Result<u64> {
        if bytes > 1 << 31 {
            return Err(Error::memory(
                format!("allocation of {name}"),
                "at most 2 GiB",
                format!("{bytes} bytes"),
            ));
        }
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.buffers.len() < MAX_BUFFERS => {
                self.buffers.push(None);
                self.buffers.len() - 1
            }
            None => {
                return Err(Error::memory(
                    "allocation",
                    format!("at most {MAX_BUFFERS} live buffers"),
                    "one more",
                ));
            }
        };
        self.buffers[slot] = Some(Buffer::new(name, bytes));
        Ok(((slot as u64 + 1) << SLICE_BITS) + SLICE_START)
    }

    /// Allocates a buffer that holds these values.
    pub fn upload<T: Plain>(&mut self, name: &str, values: &[T]) -> Result<u64> {
        let address = self.alloc(name, values.len() * T::SIZE)?;
        self.write(address, values)?;
        Ok(address)
    }

    /// Frees a buffer by the address that its allocation returned.
    pub fn free(&mut self, address: u64) -> Result<()> {
        match self.locate(address) {
            Some((slot, 0)) => {
                self.buffers[slot] = None;
                self.free.push(slot);
                Ok(())
            }
            _ => Err(Error::memory("free", "the start of a live buffer", format!("{address:#x}"))),
        }
    }

    /// Copies values to the device.
    pub fn write<T: Plain>(&mut self, address: u64, values: &[T]) -> Result<()> {
        let mut bytes = Vec::with_capacity(values.len() * T::SIZE);
        values.iter().for_each(|v| v.put(&mut bytes));
        self.write_bytes(address, &bytes)
    }

    /// Copies values from the device.
    pub fn read<T: Plain>(&self, address: u64, count: usize) -> Result<Vec<T>> {
        let bytes = self.read_bytes(address, count * T::SIZE)?;
        Ok(bytes.chunks_exact(T::SIZE).map(T::get).collect())
    }

    /// Copies bytes to the device.
    pub fn write_bytes(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        let (slot, at) = self.range(address, bytes.len(), "copy to the device")?;
        if let Some(b) = &mut self.buffers[slot] {
            b.data[at..at + bytes.len()].copy_from_slice(bytes);
            b.mark(at, bytes.len());
        }
        Ok(())
    }

    /// Copies bytes from the device; bytes that nothing has written read as `0xff`.
    pub fn read_bytes(&self, address: u64, len: usize) -> Result<&[u8]> {
        let (slot, at) = self.range(address, len, "copy from the device")?;
        Ok(self.buffers[slot].as_ref().map_or(&[], |b| &b.data[at..at + len]))
    }

    /// Sets bytes of the device.
    pub fn fill(&mut self, address: u64, value: u8, len: usize) -> Result<()> {
        let (slot, at) = self.range(address, len, "fill")?;
        if let Some(b) = &mut self.buffers[slot] {
            b.data[at..at + len].fill(value);
            b.mark(at, len);
        }
        Ok(())
    }

    fn range(&self, address: u64, len: usize, what: &str) -> Result<(usize, usize)> {
        let got = || format!("{len} bytes at {address:#x}");
        let (slot, at) = self.locate(address).ok_or_else(|| Error::memory(what, "a live buffer", got()))?;
        let size = self.buffers[slot].as_ref().map_or(0, |b| b.data.len());
        match at.checked_add(len) {
            Some(end) if end <= size => Ok((slot, at)),
            _ => Err(Error::memory(what, format!("at most {size} bytes from the buffer's start"), got())),
        }
    }

    /// Buffer and offset of an address; the offset may lie past the buffer's end.
    pub(crate) fn locate(&self, address: u64) -> Option<(usize, usize)> {
        let slot = (address >> SLICE_BITS).checked_sub(1)? as usize;
        let at = (address & ((1 << SLICE_BITS) - 1)).checked_sub(SLICE_START)? as usize;
        self.buffers.get(slot)?.as_ref().map(|_| (slot, at))
    }

    /// Bytes of a live buffer.
    pub(crate) fn size(&self, slot: usize) -> usize {
        self.buffers.get(slot).and_then(|b| b.as_ref()).map_or(0, |b| b.data.len())
    }

    /// A live buffer by slot.
    pub(crate) fn buffer(&mut self, slot: usize) -> Option<&mut Buffer> {
        self.buffers.get_mut(slot)?.as_mut()
    }

    /// In words, what an address that hits nothing is near to.
    pub(crate) fn describe(&self, address: u64) -> String {
        let near = |slot: usize| self.buffers.get(slot).and_then(|b| b.as_ref());
        let low = (address & ((1 << SLICE_BITS) - 1)) as i64 - SLICE_START as i64;
        match (address >> SLICE_BITS).checked_sub(1).and_then(|s| near(s as usize)) {
            Some(b) => format!("byte {low} of buffer {:?}, which has {}", b.name, b.data.len()),
            None => format!("address {address:#x}, where no buffer is"),
        }
    }
}
