//! The tensors of one operation: each fits the device, and no output overlaps anything else.

use std::{ffi::c_void, ops::Range};

use crate::ffi::{
    dlpack::{self, DLDataType, DLDevice, DLTensor, Tensor, refused},
    status::{Failure, Outcome, Status},
};

/// Types of indices: the same bits.
pub(in crate::ffi) const INDICES: [DLDataType; 2] = [DLDataType::INT32, DLDataType::UINT32];
/// Type of energies, scores and biases.
const STATISTICS: [DLDataType; 1] = [DLDataType::FLOAT32];
/// Most tensors of an operation, its workspace included.
const MOST: usize = 14;
/// Parts of a workspace begin at multiples of this.
const PART: usize = 256;

/// What an operation reads and writes.
#[derive(Debug)]
pub(super) struct Operands {
    device: DLDevice,
    /// The first activation's type, which all others must have.
    activations: Option<DLDataType>,
    used: [(Range<usize>, bool, &'static str); MOST],
    count: usize,
}

/// Whether an operand is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

impl Operands {
    pub(super) fn new(device: DLDevice) -> Self {
        let used = std::array::from_fn(|_| (0..0, false, ""));
        Self { device, activations: None, used, count: 0 }
    }

    pub(super) fn is_cpu(&self) -> bool {
        self.device.device_type == dlpack::CPU
    }

    /// Type of activations, if there were any.
    pub(super) fn activations(&self) -> Option<DLDataType> {
        self.activations
    }

    /// A tensor of hidden or intermediate states: float32 on the CPU, one of bfloat16 and float16 on a GPU.
    pub(super) unsafe fn states<'a>(
        &mut self,
        tensor: *const DLTensor,
        name: &'static str,
        access: Access,
    ) -> Outcome<Tensor<'a>> {
        // SAFETY: the caller's to keep.
        let tensor = unsafe { Tensor::new(tensor, name, self.device) }?;
        let tensor = match (self.is_cpu(), self.activations) {
            (true, _) => tensor.of(&[DLDataType::FLOAT32])?,
            (false, None) => tensor.of(&[DLDataType::BFLOAT16, DLDataType::FLOAT16])?,
            (false, Some(dtype)) => tensor.of(&[dtype])?,
        };
        self.activations = Some(tensor.dtype);
        self.add(tensor.compact()?, access)
    }

    /// A weight matrix: row-major, or column by column, which is how GPUs want those whose columns are kept.
    pub(super) unsafe fn weight<'a>(
        &mut self,
        tensor: *const DLTensor,
        name: &'static str,
    ) -> Outcome<Tensor<'a>> {
        // SAFETY: the caller's to keep.
        let tensor = unsafe { Tensor::new(tensor, name, self.device) }?;
        let tensor = match (self.is_cpu(), self.activations) {
            (true, _) => tensor.of(&[DLDataType::FLOAT32, DLDataType::FLOAT16, DLDataType::BFLOAT16])?,
            (false, None) => tensor.of(&[DLDataType::BFLOAT16, DLDataType::FLOAT16])?,
            (false, Some(dtype)) => tensor.of(&[dtype])?,
        };
        if !self.is_cpu() {
            self.activations = Some(tensor.dtype);
        }
        tensor.sizes::<2>()?;
        self.add(tensor, Access::Read)
    }

    /// Float32.
    pub(super) unsafe fn floats<'a>(
        &mut self,
        tensor: *const DLTensor,
        name: &'static str,
        access: Access,
    ) -> Outcome<Tensor<'a>> {
        // SAFETY: the caller's to keep.
        self.add(unsafe { Tensor::new(tensor, name, self.device) }?.of(&STATISTICS)?.compact()?, access)
    }

    /// History: float32 or float16.
    pub(super) unsafe fn history<'a>(
        &mut self,
        tensor: *const DLTensor,
        name: &'static str,
        access: Access,
    ) -> Outcome<Tensor<'a>> {
        // SAFETY: the caller's to keep.
        let tensor = unsafe { Tensor::new(tensor, name, self.device) }?;
        self.add(tensor.of(&[DLDataType::FLOAT32, DLDataType::FLOAT16])?.compact()?, access)
    }

    /// Int32 or uint32.
    pub(super) unsafe fn indices<'a>(
        &mut self,
        tensor: *const DLTensor,
        name: &'static str,
        access: Access,
    ) -> Outcome<Tensor<'a>> {
        // SAFETY: the caller's to keep.
        self.add(unsafe { Tensor::new(tensor, name, self.device) }?.of(&INDICES)?.compact()?, access)
    }

    /// The values of indices on the host. On a GPU nobody can look at them.
    ///
    /// # Safety
    /// The tensor's memory is what it says.
    pub(super) unsafe fn values<'a>(&self, tensor: &Tensor<'a>) -> Outcome<Option<&'a [u32]>> {
        if !self.is_cpu() {
            return Ok(None);
        }
        // SAFETY: the tensor says that so many entries are there.
        unsafe { crate::ffi::check::array(tensor.data.cast::<u32>(), tensor.entries(), tensor.name) }
            .map(Some)
    }

    /// Refuses indices that are not below `of`, as far as they can be seen.
    ///
    /// # Safety
    /// As [`Operands::values`].
    pub(super) unsafe fn check_below(&self, tensor: &Tensor<'_>, of: usize) -> Outcome {
        // SAFETY: the caller's to keep.
        let values = unsafe { self.values(tensor) }?.unwrap_or_default();
        match values.iter().find(|&&index| index as usize >= of) {
            Some(index) => Err(refused(tensor.name, "values", format!("indices below {of}"), index)),
            None => Ok(()),
        }
    }

    /// Refuses indices that do not ascend, as far as they can be seen.
    ///
    /// # Safety
    /// As [`Operands::values`].
    pub(super) unsafe fn check_ascending(&self, tensor: &Tensor<'_>) -> Outcome {
        // SAFETY: the caller's to keep.
        let values = unsafe { self.values(tensor) }?.unwrap_or_default();
        if values.is_sorted_by(|a, b| a < b) {
            return Ok(());
        }
        Err(refused(tensor.name, "values", "ascending indices", "others"))
    }

    fn add<'a>(&mut self, tensor: Tensor<'a>, access: Access) -> Outcome<Tensor<'a>> {
        if let Some(size) = tensor.shape.iter().find(|&&size| size > i64::from(i32::MAX)) {
            return Err(refused(tensor.name, "shape", format!("sizes of at most {}", i32::MAX), size));
        }
        if tensor.entries() == 0 {
            return Err(refused(tensor.name, "shape", "at least one entry", format!("{:?}", tensor.shape)));
        }
        self.claim(tensor.range(), access, tensor.name)?;
        Ok(tensor)
    }

    fn claim(&mut self, range: Range<usize>, access: Access, name: &'static str) -> Outcome {
        let writes = access == Access::Write;
        let meets = |(other, written, _): &&(Range<usize>, bool, &'static str)| {
            (writes || *written) && range.start < other.end && other.start < range.end
        };
        if let Some((.., other)) = self.used[..self.count].iter().find(meets) {
            return Err(refused(name, "memory", format!("none that {other} has too"), "some of it"));
        }
        self.used[self.count] = (range, writes, name);
        self.count += 1;
        Ok(())
    }

    /// The caller's workspace, of which `needed` bytes are wanted.
    pub(super) fn workspace(&mut self, at: *mut c_void, size: usize, needed: usize) -> Outcome<Workspace> {
        if size < needed {
            let help = "Ask the operation's _workspace_size function.";
            let expected = format!("at least {needed} bytes");
            return Err(Failure::new(Status::TooSmall, "workspace", expected, size, help));
        }
        if needed > 0 {
            if at.is_null() || !at.addr().is_multiple_of(PART) {
                let help = "Align the workspace to 256 bytes, as cudaMalloc does.";
                let got = format!("{:#x}", at.addr());
                return Err(Failure::argument("workspace", "a multiple of 256", got, help));
            }
            let end = at.addr().saturating_add(needed);
            self.claim(at.addr()..end, Access::Write, "workspace")?;
        }
        Ok(Workspace(at))
    }
}

/// What is left of a workspace.
#[derive(Debug)]
pub(super) struct Workspace(*mut c_void);

impl Workspace {
    /// Bytes that a part takes.
    pub(super) fn part(bytes: usize) -> usize {
        bytes.next_multiple_of(PART)
    }

    /// The next part.
    pub(super) fn take(&mut self, bytes: usize) -> *mut c_void {
        let part = self.0;
        self.0 = self.0.wrapping_byte_add(Self::part(bytes));
        part
    }
}
