//! One safetensors file, opened with every check.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{Read, Seek},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use safetensors::Dtype as FileDtype;

use super::{
    header,
    tensor::{Dtype, Storage, Tensor},
};
use crate::{
    error::{Error, Result, printable},
    memory,
    source::open_regular,
};

const READ_HELP: &str = "Check the disk, or copy the file again.";

/// A safetensors file whose header has been checked against its size.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    storage: Arc<Storage>,
    entries: BTreeMap<String, Entry>,
    metadata: HashMap<String, String>,
}

/// The header's entry for one tensor; `range` is in bytes of the file.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) dtype: FileDtype,
    pub(super) shape: Vec<usize>,
    pub(super) range: Range<usize>,
}

/// Reads a safetensors file into memory, with the same checks as a checkpoint's.
///
/// # Errors
/// When the file is missing, cannot be read, or is not a sound safetensors file.
pub fn open_file(path: &Path) -> Result<TensorFile> {
    TensorFile::open(path, false)
}

/// Maps a safetensors file, which must not be shortened while it or its tensors are in use.
///
/// # Errors
/// As [`open_file`].
pub fn map_file(path: &Path) -> Result<TensorFile> {
    TensorFile::open(path, true)
}

impl TensorFile {
    /// Maps the file (`mmap`) or reads it into memory. A mapped file must not be shortened while in use: the
    /// operating system then ends the process (SIGBUS); reading it into memory makes that an error.
    pub(super) fn open(path: &Path, mmap: bool) -> Result<Self> {
        let Some((mut file, total)) = open_regular(path)? else {
            let help = "Check the path, or download the file.";
            return Err(Error::file(path, "file", "a safetensors file", "no such file", help));
        };
        let read_error = |error| Error::io(path, "read", error, READ_HELP);
        // The header is checked before memory is taken for a file of the size it claims.
        let mut start = Vec::new();
        (&mut file).take(64).read_to_end(&mut start).map_err(read_error)?;
        let length = header::header_length(path, total, &start)?;
        let mut json = vec![0; length];
        file.seek(std::io::SeekFrom::Start(8)).map_err(read_error)?;
        file.read_exact(&mut json).map_err(read_error)?;
        let header = header::parse(path, total, &json)?;
        let storage = if mmap {
            // SAFETY: nothing here writes to the file. `Checkpoint::open` requires its caller to let no other process shorten it
            // meanwhile.
            let map = unsafe { Storage::map(&file) }
                .map_err(|error| Error::io(path, "map", error, "Read it into memory instead."))?;
            if map.bytes().len() as u64 != total {
                let got = format!("{} bytes", map.bytes().len());
                return Err(Error::file(
                    path,
                    "size",
                    format!("{total} bytes"),
                    got,
                    "Do not write to it while it loads.",
                ));
            }
            map
        } else {
            read_all(path, file, total)?
        };
        Ok(Self::from_parts(path.to_path_buf(), storage, 8 + length, header))
    }

    /// The same for a file compiled into the program; `path` is for messages.
    pub(super) fn from_static(path: PathBuf, bytes: &'static [u8]) -> Result<Self> {
        let length = header::header_length(&path, bytes.len() as u64, bytes)?;
        let header = header::parse(&path, bytes.len() as u64, &bytes[8..8 + length])?;
        Ok(Self::from_parts(path, Storage::Static(bytes), 8 + length, header))
    }

    fn from_parts(
        path: PathBuf,
        storage: Storage,
        data: usize,
        header: safetensors::tensor::Metadata,
    ) -> Self {
        let entries = header.tensors().into_iter().map(|(name, info)| {
            let range = data + info.data_offsets.0..data + info.data_offsets.1;
            (name, Entry { dtype: info.dtype, shape: info.shape.clone(), range })
        });
        let entries = entries.collect();
        let metadata = header.metadata().clone().unwrap_or_default();
        Self { path, storage: Arc::new(storage), entries, metadata }
    }

    /// The tensor called `name`; `None` when there is none, or when its dtype is not F32, F16 or BF16.
    pub fn tensor(&self, name: &str) -> Option<Tensor> {
        let entry = self.entries.get(name)?;
        let dtype = Dtype::from_file(entry.dtype)?;
        Some(Tensor::new(&self.storage, entry.range.clone(), dtype, entry.shape.clone()))
    }

    /// The names of all tensors, whatever their dtype, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The file's `__metadata__`.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size of the file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.storage.bytes().len() as u64
    }

    /// Shape and values of an integer tensor.
    ///
    /// # Errors
    /// When the file has no such tensor (the message lists those it has), or holds no integers there.
    pub fn integers(&self, key: &str) -> Result<(Vec<usize>, Vec<i64>)> {
        let Some(entry) = self.entries.get(key) else {
            let mut names: Vec<_> = self.names().take(20).map(printable).collect();
            if self.entries.len() > names.len() {
                names.push(format!("and {} more", self.entries.len() - names.len()));
            }
            let help = "Name one of the tensors that are there.";
            return Err(Error::file(
                &self.path,
                format!("tensor {}", printable(key)),
                "a tensor of this name",
                names.join(", "),
                help,
            ));
        };
        let bytes = self.bytes_of(entry);
        fn convert<const N: usize>(bytes: &[u8], to: impl Fn([u8; N]) -> i64) -> Vec<i64> {
            bytes.as_chunks().0.iter().map(|chunk| to(*chunk)).collect()
        }
        let values = match entry.dtype {
            FileDtype::U8 => convert(bytes, |b: [u8; 1]| b[0].into()),
            FileDtype::U16 => convert(bytes, |b| u16::from_le_bytes(b).into()),
            FileDtype::U32 => convert(bytes, |b| u32::from_le_bytes(b).into()),
            FileDtype::I32 => convert(bytes, |b| i32::from_le_bytes(b).into()),
            FileDtype::I64 => convert(bytes, i64::from_le_bytes),
            other => {
                let what = format!("dtype of tensor {}", printable(key));
                let help = "Save the token ids as integers.";
                return Err(Error::file(&self.path, what, "I32, I64, U8, U16 or U32", other, help));
            }
        };
        Ok((entry.shape.clone(), values))
    }

    pub(super) fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    pub(super) fn bytes_of(&self, entry: &Entry) -> &[u8] {
        &self.storage.bytes()[entry.range.clone()]
    }
}

fn read_all(path: &Path, mut file: File, total: u64) -> Result<Storage> {
    let no_memory = || {
        let got = "less free memory";
        Error::file(
            path,
            "size",
            format!("{total} bytes of memory"),
            got,
            "Map the file instead of reading it.",
        )
    };
    let length = usize::try_from(total).map_err(|_| no_memory())?;
    let mut words: Vec<u64> = Vec::new();
    memory::ask(|| words.try_reserve_exact(length.div_ceil(8))).map_err(|_| no_memory())?;
    words.resize(length.div_ceil(8), 0);
    file.rewind().map_err(|error| Error::io(path, "read", error, READ_HELP))?;
    file.read_exact(&mut bytemuck::cast_slice_mut(&mut words)[..length])
        .map_err(|error| Error::io(path, "read", error, READ_HELP))?;
    Ok(Storage::Owned(words, length))
}

/// The shape and elements of the integer tensor `key` (I32, I64, U8, U16 or U32) in the safetensors file at `path`,
/// row-major: token ids.
///
/// # Errors
/// When the file is not sound, has no such tensor (the message lists those it has), or holds no integers there.
pub fn read_tensor_file(path: &Path, key: &str) -> Result<(Vec<usize>, Vec<i64>)> {
    open_file(path)?.integers(key)
}
