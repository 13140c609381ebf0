//! Kernel arguments.

use crate::{
    error::{Error, Result},
    isa::Kernel,
    mem::plain::Plain,
    tensor_map::TensorMap,
};

/// A struct laid out as C lays it out: each field at a multiple of its size, the end padded to the largest.
#[derive(Debug, Clone)]
pub struct Struct {
    bytes: Vec<u8>,
    align: usize,
}

impl Default for Struct {
    fn default() -> Self {
        Self::new()
    }
}

impl Struct {
    /// No fields yet.
    pub fn new() -> Self {
        Self { bytes: Vec::new(), align: 1 }
    }

    /// Adds a scalar or a device pointer.
    #[must_use]
    pub fn field<T: Plain>(mut self, value: T) -> Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(T::SIZE), 0);
        value.put(&mut self.bytes);
        self.align = self.align.max(T::SIZE);
        self
    }

    /// The struct as the only argument of a kernel.
    pub fn args(self) -> Args {
        Args::new().fields(self)
    }
}

/// Arguments of a launch, in order. Size and alignment of each are checked against the kernel's parameters.
#[derive(Debug, Clone, Default)]
pub struct Args {
    items: Vec<(Vec<u8>, usize)>,
}

impl Args {
    /// No arguments yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a scalar or a device pointer.
    #[must_use]
    pub fn arg<T: Plain>(mut self, value: T) -> Self {
        let mut bytes = Vec::new();
        value.put(&mut bytes);
        self.items.push((bytes, T::SIZE));
        self
    }

    /// Adds a struct, field by field.
    #[must_use]
    pub fn fields(self, mut value: Struct) -> Self {
        value.bytes.resize(value.bytes.len().next_multiple_of(value.align), 0);
        self.structure(&value.bytes, value.align)
    }

    /// Adds a struct by its bytes and the alignment of its type.
    #[must_use]
    pub fn structure(mut self, bytes: &[u8], align: usize) -> Self {
        self.items.push((bytes.to_vec(), align));
        self
    }

    /// Adds a tensor map.
    #[must_use]
    pub fn tensor_map(mut self, map: &TensorMap) -> Self {
        self.items.push((map.encode(), 64));
        self
    }

    /// The parameter block.
    pub(crate) fn pack(&self, k: &Kernel) -> Result<Vec<u8>> {
        if self.items.len() != k.params.len() {
            let expected = format!("{} arguments", k.params.len());
            return Err(Error::launch(&k.name, "arguments", expected, self.items.len()));
        }
        let mut out = vec![0; k.param_bytes];
        for (i, (p, (bytes, align))) in k.params.iter().zip(&self.items).enumerate() {
            if p.size != bytes.len() {
                let expected = format!("{} bytes", p.size);
                return Err(Error::launch(
                    &k.name,
                    format!("argument {i}"),
                    expected,
                    format!("{} bytes", bytes.len()),
                ));
            }
            if *align != p.align {
                let expected = format!("alignment {}", p.align);
                return Err(Error::launch(
                    &k.name,
                    format!("argument {i}"),
                    expected,
                    format!("alignment {align}"),
                ));
            }
            out[p.offset..p.offset + p.size].copy_from_slice(bytes);
        }
        Ok(out)
    }
}
