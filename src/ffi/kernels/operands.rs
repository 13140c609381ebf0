//! The tensors of one operation: each fits the device, and no output overlaps anything else.

use std::{ffi::c_void, ops::Range};

use crate::{
    backend::KeptSet,
    ffi::{
        dlpack::{self, DLDataType, DLDevice, DLTensor, Tensor, refused},
        status::{Failure, Outcome, Status},
    },
    gpu::LARGEST_SIZE,
};

/// Types of indices; an index has the same bits in both.
pub(in crate::ffi) const INDICES: [DLDataType; 2] = [DLDataType::INT32, DLDataType::UINT32];
/// Type of energies, scores and biases.
const STATISTICS: [DLDataType; 1] = [DLDataType::FLOAT32];
/// Most tensors of an operation, its workspace included.
const MOST: usize = 14;
/// Parts of a workspace begin at multiples of this.
const PART: usize = 256;

/// The tensors that an operation reads and writes.
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

    /// The largest size that the device's operations can count.
    pub(super) fn largest_size(&self) -> usize {
        if self.is_cpu() { i32::MAX as usize } else { LARGEST_SIZE }
    }

    /// Refuses a product of sizes that the device's operations cannot count.
    pub(super) fn check_product(&self, name: &'static str, what: &str, sizes: [usize; 2]) -> Outcome<usize> {
        let product = sizes[0].saturating_mul(sizes[1]);
        if product > self.largest_size() {
            return Err(refused(
                name,
                "shape",
                format!("{what} of at most {}", self.largest_size()),
                product,
            ));
        }
        Ok(product)
    }

    /// As [`Tensor::rows`]; refuses more rows than the device's operations can count.
    pub(super) fn rows(&self, tensor: &Tensor<'_>) -> Outcome<[usize; 2]> {
        let [rows, columns] = tensor.rows()?;
        Ok([self.check_product(tensor.name, "rows", [rows, 1])?, columns])
    }

    /// Type of activations, if there were any.
    pub(super) fn activations(&self) -> Option<DLDataType> {
        self.activations
    }

    /// A tensor of hidden or intermediate states: float32 on the CPU, one of bfloat16 and float16 on a GPU.
    ///
    /// # Safety
    /// As [`Tensor::new`].
    pub(super) unsafe fn states<'a>(
        &mut self,
        tensor: *const DLTensor,
        name: &'static str,
        access: Access,
    ) -> Outcome<Tensor<'a>> {
        // SAFETY: the caller promises that `tensor` is null or a valid DLTensor.
        let tensor = unsafe { Tensor::new(tensor, name, self.device) }?;
        let tensor = match (self.is_cpu(), self.activations) {
            (true, _) => tensor.of(&[DLDataType::FLOAT32])?,
            (false, None) => tensor.of(&[DLDataType::BFLOAT16, DLDataType::FLOAT16])?,
            (false, Some(dtype)) => tensor.of(&[dtype])?,
        };
        self.activations = Some(tensor.dtype);
        self.add(tensor.compact()?, access)
    }

    /// A weight matrix: row-major, or column by column, as GPUs need it for kept columns.
    ///
    /// # Safety
    /// As [`Tensor::new`].
    pub(super) unsafe fn weight<'a>(
        &mut self,
        tensor: *const DLTensor,
        name: &'static str,
    ) -> Outcome<Tensor<'a>> {
        // SAFETY: the caller promises that `tensor` is null or a valid DLTensor.
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
    ///
    /// # Safety
    /// As [`Tensor::new`].
    pub(super) unsafe fn floats<'a>(
        &mut self,
        tensor: *const DLTensor,
        name: &'static str,
        access: Access,
    ) -> Outcome<Tensor<'a>> {
        // SAFETY: the caller promises that `tensor` is null or a valid DLTensor.
        self.add(unsafe { Tensor::new(tensor, name, self.device) }?.of(&STATISTICS)?.compact()?, access)
    }

    /// History: float32 or float16.
    ///
    /// # Safety
    /// As [`Tensor::new`].
    pub(super) unsafe fn history<'a>(
        &mut self,
        tensor: *const DLTensor,
        name: &'static str,
        access: Access,
    ) -> Outcome<Tensor<'a>> {
        // SAFETY: the caller promises that `tensor` is null or a valid DLTensor.
        let tensor = unsafe { Tensor::new(tensor, name, self.device) }?;
        self.add(tensor.of(&[DLDataType::FLOAT32, DLDataType::FLOAT16])?.compact()?, access)
    }

    /// Int32 or uint32.
    ///
    /// # Safety
    /// As [`Tensor::new`].
    pub(super) unsafe fn indices<'a>(
        &mut self,
        tensor: *const DLTensor,
        name: &'static str,
        access: Access,
    ) -> Outcome<Tensor<'a>> {
        // SAFETY: the caller promises that `tensor` is null or a valid DLTensor.
        self.add(unsafe { Tensor::new(tensor, name, self.device) }?.of(&INDICES)?.compact()?, access)
    }

    /// Kept blocks of `block_width` out of `channels` channels.
    ///
    /// # Safety
    /// As [`Tensor::new`].
    pub(super) unsafe fn kept<'a>(
        &mut self,
        tensor: *const DLTensor,
        block_width: u32,
        channels: usize,
    ) -> Outcome<KeptSet<Tensor<'a>>> {
        let of = blocks(block_width, channels)?;
        // SAFETY: the caller promises that `tensor` is null or a valid DLTensor.
        let indices = unsafe {
            let indices = self.indices(tensor, "kept", Access::Read)?;
            self.check_ascending(&indices)?;
            self.check_below(&indices, of)?;
            indices
        };
        let len = indices.entries();
        if len > of {
            return Err(refused("kept", "shape", format!("at most {of} entries"), len));
        }
        Ok(KeptSet { indices, len, of, block_width: block_width as usize })
    }

    /// As [`Operands::kept`]; null keeps all blocks.
    ///
    /// # Safety
    /// As [`Tensor::new`].
    pub(super) unsafe fn optional_kept<'a>(
        &mut self,
        tensor: *const DLTensor,
        block_width: u32,
        channels: usize,
    ) -> Outcome<Option<KeptSet<Tensor<'a>>>> {
        if tensor.is_null() {
            return blocks(block_width, channels).map(|_| None);
        }
        // SAFETY: `tensor` is not null; the caller promises a valid DLTensor.
        unsafe { self.kept(tensor, block_width, channels) }.map(Some)
    }

    /// The values of indices on the host; `None` on a GPU, where they cannot be read.
    ///
    /// # Safety
    /// The tensor's memory is readable for 'a.
    pub(super) unsafe fn values<'a>(&self, tensor: &Tensor<'a>) -> Outcome<Option<&'a [u32]>> {
        if !self.is_cpu() {
            return Ok(None);
        }
        // SAFETY: the caller promises that the tensor's `entries()` indices of 32 bits are readable.
        unsafe { crate::ffi::check::array(tensor.data.cast::<u32>(), tensor.entries(), tensor.name) }
            .map(Some)
    }

    /// Refuses indices that are not below `of`, where they can be read.
    ///
    /// # Safety
    /// As [`Operands::values`].
    pub(super) unsafe fn check_below(&self, tensor: &Tensor<'_>, of: usize) -> Outcome {
        // SAFETY: the caller promises that the tensor's indices are readable.
        let values = unsafe { self.values(tensor) }?.unwrap_or_default();
        match values.iter().find(|&&index| index as usize >= of) {
            Some(index) => Err(refused(tensor.name, "values", format!("indices below {of}"), index)),
            None => Ok(()),
        }
    }

    /// Refuses indices that do not ascend, where they can be read.
    ///
    /// # Safety
    /// As [`Operands::values`].
    pub(super) unsafe fn check_ascending(&self, tensor: &Tensor<'_>) -> Outcome {
        // SAFETY: the caller promises that the tensor's indices are readable.
        let values = unsafe { self.values(tensor) }?.unwrap_or_default();
        if values.is_sorted_by(|a, b| a < b) {
            return Ok(());
        }
        Err(refused(tensor.name, "values", "ascending indices", "others"))
    }

    fn add<'a>(&mut self, tensor: Tensor<'a>, access: Access) -> Outcome<Tensor<'a>> {
        let most = self.largest_size();
        if let Some(size) = tensor.shape.iter().find(|&&size| size > most as i64) {
            return Err(refused(tensor.name, "shape", format!("sizes of at most {most}"), size));
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
            return Err(refused(name, "memory", format!("no overlap with {other}"), "one"));
        }
        self.used[self.count] = (range, writes, name);
        self.count += 1;
        Ok(())
    }

    /// The caller's workspace, refused if it has fewer than `needed` bytes.
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

/// Blocks of `block_width` in `channels` channels.
fn blocks(block_width: u32, channels: usize) -> Outcome<usize> {
    let width = block_width as usize;
    if width == 0 || !channels.is_multiple_of(width) {
        let expected = format!("a divisor of {channels}, the channels");
        let help = "1 for single channels, head_dim for heads.";
        return Err(Failure::argument("block_width", expected, width, help));
    }
    Ok(channels / width)
}

/// The rest of a workspace.
#[derive(Debug)]
pub(super) struct Workspace(*mut c_void);

impl Workspace {
    /// Bytes of a part, padding included.
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
