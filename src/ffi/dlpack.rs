//! DLPack 1.x: its structs, the checks of callers' tensors, and tensors handed over to callers.

use std::{any::Any, ffi::c_void};

use super::{
    check::{self, Out},
    status::{Failure, Outcome, Status},
};

/// `DLDevice`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DLDevice {
    /// `DLDeviceType`.
    pub device_type: i32,
    /// Its number.
    pub device_id: i32,
}

/// `DLDeviceType` of host memory.
pub const CPU: i32 = 1;
/// Of a GPU's memory.
pub const CUDA: i32 = 2;
/// Of pinned host memory, which the CPU reads and writes like any other.
pub const CUDA_HOST: i32 = 3;
/// Of managed memory, which CUDA migrates.
pub const CUDA_MANAGED: i32 = 13;

/// `DLDataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DLDataType {
    /// `DLDataTypeCode`.
    pub code: u8,
    /// Bits of an entry.
    pub bits: u8,
    /// 1: no vectors.
    pub lanes: u16,
}

impl DLDataType {
    const fn new(code: u8, bits: u8) -> Self {
        Self { code, bits, lanes: 1 }
    }

    /// int32.
    pub const INT32: Self = Self::new(0, 32);
    /// uint32.
    pub const UINT32: Self = Self::new(1, 32);
    /// float32.
    pub const FLOAT32: Self = Self::new(2, 32);
    /// float16.
    pub const FLOAT16: Self = Self::new(2, 16);
    /// bfloat16.
    pub const BFLOAT16: Self = Self::new(4, 16);

    pub(super) fn bytes(self) -> usize {
        usize::from(self.bits) / 8
    }

    fn name(self) -> String {
        let kind = match self.code {
            0 => "int",
            1 => "uint",
            2 => "float",
            3 => "opaque",
            4 => "bfloat",
            5 => "complex",
            6 => "bool",
            code => return format!("dtype code {code} of {} bits", self.bits),
        };
        match self.lanes {
            1 => format!("{kind}{}", self.bits),
            lanes => format!("{kind}{}x{lanes}", self.bits),
        }
    }
}

/// `DLTensor`.
#[derive(Debug)]
#[repr(C)]
pub struct DLTensor {
    /// Start of the memory.
    pub data: *mut c_void,
    /// Device of the memory.
    pub device: DLDevice,
    /// Dimensions.
    pub ndim: i32,
    /// Type of an entry.
    pub dtype: DLDataType,
    /// `ndim` sizes.
    pub shape: *mut i64,
    /// `ndim` strides in entries, or null for compact row-major.
    pub strides: *mut i64,
    /// From `data` to the first entry.
    pub byte_offset: u64,
}

/// `DLPackVersion`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct DLPackVersion {
    /// Layouts differ between major versions.
    pub major: u32,
    /// Later ones only add values of enums.
    pub minor: u32,
}

/// `DLManagedTensorVersioned`.
#[derive(Debug)]
#[repr(C)]
pub struct DLManagedTensorVersioned {
    /// 1.x.
    pub version: DLPackVersion,
    /// For the producer.
    pub manager_ctx: *mut c_void,
    /// Called once, when the tensor is no longer needed.
    pub deleter: Option<unsafe extern "C" fn(*mut DLManagedTensorVersioned)>,
    /// `DLPACK_FLAG_BITMASK_…`.
    pub flags: u64,
    /// The tensor.
    pub dl_tensor: DLTensor,
}

const VERSION: DLPackVersion = DLPackVersion { major: 1, minor: 0 };
const READ_ONLY: u64 = 1;
/// Most dimensions of a tensor; no operand has as many.
const MOST_DIMENSIONS: i32 = 8;

pub(super) fn refused(
    name: &str,
    part: &str,
    expected: impl std::fmt::Display,
    got: impl std::fmt::Display,
) -> Failure {
    let help = match part {
        "device" => "Copy the tensor to the device first.",
        "dtype" => "Convert the tensor first.",
        "strides" => "Make the tensor contiguous first.",
        "memory" => "Give every output memory of its own.",
        _ => "See the operation in probeprune.h.",
    };
    Failure::new(Status::InvalidTensor, format!("{name}: {part}"), expected, got, help)
}

/// A tensor on the right device, with usable pointers and sizes that fit memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tensor<'a> {
    pub(super) name: &'static str,
    pub(super) dtype: DLDataType,
    pub(super) shape: &'a [i64],
    strides: Option<&'a [i64]>,
    /// The first entry.
    pub(super) data: *mut c_void,
}

impl<'a> Tensor<'a> {
    /// # Safety
    /// `tensor` is null or valid as DLPack requires, as long as the result lives.
    pub(super) unsafe fn new(tensor: *const DLTensor, name: &'static str, device: DLDevice) -> Outcome<Self> {
        // SAFETY: the caller promises that `tensor` is null or a readable DLTensor.
        let tensor = unsafe { check::read(tensor, name) }?;
        if !(0..=MOST_DIMENSIONS).contains(&tensor.ndim) {
            let expected = format!("0 to {MOST_DIMENSIONS}");
            return Err(refused(name, "number of dimensions", expected, tensor.ndim));
        }
        let same = match device.device_type {
            CPU => matches!(tensor.device.device_type, CPU | CUDA_HOST),
            CUDA => {
                matches!(tensor.device.device_type, CUDA | CUDA_MANAGED)
                    && tensor.device.device_id == device.device_id
            }
            _ => false,
        };
        if !same {
            let name_of = |device: DLDevice| match device.device_type {
                CPU => "the CPU".to_string(),
                CUDA => format!("cuda:{}", device.device_id),
                other => format!("DLPack device type {other}, number {}", device.device_id),
            };
            return Err(refused(name, "device", name_of(device), name_of(tensor.device)));
        }
        let dimensions = tensor.ndim as usize;
        // SAFETY: DLPack requires `shape` to have `ndim` entries, and `strides` too unless it is null.
        let (shape, strides) = unsafe {
            (
                check::array(tensor.shape.cast_const(), dimensions, name)?,
                check::optional_array(tensor.strides.cast_const(), dimensions, name)?,
            )
        };
        let entries = shape.iter().try_fold(1usize, |entries, &size| {
            usize::try_from(size).ok().and_then(|size| entries.checked_mul(size))
        });
        let fits = entries.and_then(|entries| entries.checked_mul(tensor.dtype.bytes().max(1)));
        if fits.is_none_or(|bytes| bytes > isize::MAX as usize) {
            return Err(refused(name, "shape", "sizes of at least 0 that fit memory", format!("{shape:?}")));
        }
        let offset = usize::try_from(tensor.byte_offset).ok();
        let data = offset.and_then(|offset| tensor.data.addr().checked_add(offset));
        let data = match data {
            Some(_) if tensor.data.is_null() && entries != Some(0) => {
                return Err(refused(name, "data", "a pointer", "NULL"));
            }
            Some(address) => tensor.data.with_addr(address),
            None => return Err(refused(name, "byte_offset", "an offset within memory", tensor.byte_offset)),
        };
        // Kernels move 16 bytes at a time.
        let alignment = if device.device_type == CUDA { 16 } else { tensor.dtype.bytes().max(1) };
        if entries != Some(0) && !data.addr().is_multiple_of(alignment) {
            let expected = format!("a multiple of {alignment}");
            return Err(refused(name, "data + byte_offset", expected, format!("{:#x}", data.addr())));
        }
        Ok(Self { name, dtype: tensor.dtype, shape, strides, data })
    }

    /// Refuses other types.
    pub(super) fn of(self, dtypes: &[DLDataType]) -> Outcome<Self> {
        if dtypes.contains(&self.dtype) {
            return Ok(self);
        }
        let names: Vec<_> = dtypes.iter().map(|dtype| dtype.name()).collect();
        Err(refused(self.name, "dtype", names.join(" or "), self.dtype.name()))
    }

    /// Refuses anything but compact row-major memory.
    pub(super) fn compact(self) -> Outcome<Self> {
        if self.is_laid_out((0..self.shape.len()).rev()) {
            return Ok(self);
        }
        Err(refused(
            self.name,
            "strides",
            "compact row-major",
            format!("{:?}", self.strides.unwrap_or_default()),
        ))
    }

    /// Whether a matrix is stored column by column.
    pub(super) fn is_column_major(&self) -> bool {
        self.strides.is_some() && self.shape.len() == 2 && self.is_laid_out([0, 1])
    }

    /// Whether strides are those of compact memory with the dimensions in this order, the fastest first.
    fn is_laid_out(&self, order: impl IntoIterator<Item = usize>) -> bool {
        let Some(strides) = self.strides else { return true };
        let mut stride = 1;
        self.entries() == 0
            || order.into_iter().all(|dimension| {
                let size = self.shape[dimension];
                // The stride of a dimension of one entry is never used.
                let fits = size == 1 || strides[dimension] == stride;
                stride *= size;
                fits
            })
    }

    /// Entries in all.
    pub(super) fn entries(&self) -> usize {
        self.shape.iter().product::<i64>() as usize
    }

    /// The sizes of a tensor with N dimensions.
    pub(super) fn sizes<const N: usize>(&self) -> Outcome<[usize; N]> {
        let shape = <[i64; N]>::try_from(self.shape)
            .map_err(|_| refused(self.name, "number of dimensions", N, self.shape.len()))?;
        Ok(shape.map(|size| size as usize))
    }

    /// Rows and columns; all dimensions but the last count as rows.
    pub(super) fn rows(&self) -> Outcome<[usize; 2]> {
        let Some((&columns, rows)) = self.shape.split_last().filter(|(_, rows)| !rows.is_empty()) else {
            return Err(refused(self.name, "number of dimensions", "at least 2", self.shape.len()));
        };
        Ok([rows.iter().product::<i64>() as usize, columns as usize])
    }

    /// Refuses a tensor that does not have `entries` entries.
    pub(super) fn with_entries(self, entries: usize, shape: &str) -> Outcome<Self> {
        if self.entries() == entries {
            return Ok(self);
        }
        Err(refused(self.name, "shape", format!("{shape}, {entries} entries"), format!("{:?}", self.shape)))
    }

    /// The addresses it covers.
    pub(super) fn range(&self) -> std::ops::Range<usize> {
        self.data.addr()..self.data.addr() + self.entries() * self.dtype.bytes()
    }
}

/// Memory of an exported tensor, and its shape.
struct Owned {
    shape: Vec<i64>,
    strides: Vec<i64>,
    _memory: Box<dyn Any + Send>,
}

/// A tensor to export.
#[derive(Debug)]
pub(super) struct Exported {
    pub(super) memory: Box<dyn Any + Send>,
    pub(super) data: *mut c_void,
    pub(super) device: DLDevice,
    pub(super) dtype: DLDataType,
    pub(super) shape: Vec<i64>,
    pub(super) read_only: bool,
}

impl Exported {
    /// Hands it over to the caller, who calls its deleter.
    pub(super) fn give(self, out: Out<*mut DLManagedTensorVersioned>) {
        let Self { memory, data, device, dtype, shape, read_only } = self;
        let mut strides = vec![1; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i] * shape[i];
        }
        let owned = Box::into_raw(Box::new(Owned { shape, strides, _memory: memory }));
        // SAFETY: boxed in the line above, and freed only by the deleter, handed over below.
        let (shape, strides) = unsafe { (&mut (*owned).shape, &mut (*owned).strides) };
        let tensor = DLTensor {
            data,
            device,
            ndim: shape.len() as i32,
            dtype,
            shape: shape.as_mut_ptr(),
            strides: strides.as_mut_ptr(),
            byte_offset: 0,
        };
        check::give(
            out,
            DLManagedTensorVersioned {
                version: VERSION,
                manager_ctx: owned.cast(),
                deleter: Some(delete),
                flags: if read_only { READ_ONLY } else { 0 },
                dl_tensor: tensor,
            },
        );
    }
}

unsafe extern "C" fn delete(tensor: *mut DLManagedTensorVersioned) {
    // SAFETY: made by `Exported::give`; DLPack has the deleter called once.
    unsafe {
        check::take_back((*tensor).manager_ctx.cast::<Owned>());
        check::take_back(tensor);
    }
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_tensor_import(
    managed: *const DLManagedTensorVersioned,
    writable: i32,
    out: *mut *const DLTensor,
) -> i32 {
    super::status::call(|| {
        // SAFETY: the header requires `managed` to be null or a readable tensor, and `out` to be null or writable.
        let (managed, out) = unsafe { (check::read(managed, "managed")?, Out::new(out, "out")?) };
        if managed.version.major != VERSION.major {
            let got = format!("{}.{}", managed.version.major, managed.version.minor);
            return Err(refused("managed", "DLPack version", "1.x", got));
        }
        if writable != 0 && managed.flags & READ_ONLY != 0 {
            return Err(refused("managed", "flags", "memory that may be written", "read-only memory"));
        }
        // SAFETY: the producer of a DLPack tensor vouches for its `shape` and `strides`; its memory is not read here.
        unsafe {
            let tensor = &managed.dl_tensor;
            let device = match tensor.device.device_type {
                CUDA_HOST => DLDevice { device_type: CPU, device_id: 0 },
                CUDA_MANAGED => DLDevice { device_type: CUDA, ..tensor.device },
                _ => tensor.device,
            };
            Tensor::new(tensor, "managed", device)?;
        }
        out.write(&raw const managed.dl_tensor);
        Ok(())
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_tensor_free(managed: *mut DLManagedTensorVersioned) {
    // SAFETY: the header requires `managed` to be null or a tensor whose deleter has not been called.
    super::status::free(|| unsafe {
        if let Some(deleter) = managed.as_ref().and_then(|managed| managed.deleter) {
            deleter(managed);
        }
    });
}
