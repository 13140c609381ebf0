//! `pytorch_model.bin`: tensors that `torch.save` wrote, read without running anything.
//!
//! Such a file is a zip container ([`archive`]) of raw storages and a pickle, data.pkl, that says which tensors lie where in
//! them ([`pickle`], [`state_dict`]).

mod archive;
mod pickle;
mod state_dict;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt::Display,
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
};

use safetensors::{Dtype, View};
use state_dict::Layout;

use super::tensor::Storage;
use crate::{
    error::{Error, Result, printable},
    source::{check_no_lfs_pointer, open_regular},
};

/// A file's tensors. The file must not be shortened while they are in use.
#[derive(Debug)]
pub struct TorchFile {
    path: PathBuf,
    bytes: Storage,
    tensors: BTreeMap<String, (Layout, Range<usize>)>,
}

/// A tensor of a [`TorchFile`], written out row-major by [`View::data`].
#[derive(Debug)]
pub struct TorchTensor<'a> {
    layout: &'a Layout,
    storage: &'a [u8],
}

/// What is wrong with a file, before its path is added.
#[derive(Debug)]
struct Refusal {
    what: String,
    expected: String,
    got: String,
    /// The Python expression that gives the tensors.
    load: String,
}

impl Refusal {
    fn new(what: impl Display, expected: impl Display, got: impl Display) -> Self {
        let load = "torch.load(FILE, weights_only=True)".to_string();
        Self { what: what.to_string(), expected: expected.to_string(), got: got.to_string(), load }
    }

    fn loaded_by(self, load: String) -> Self {
        Self { load, ..self }
    }

    fn at(self, path: &Path) -> Error {
        let help = format!(
            "Download the file again if it is damaged; nothing of it was run. If you trust it, save its tensors alone with \
             Python: import torch; torch.save(dict({}), FILE)",
            self.load
        );
        Error::file(path, self.what, self.expected, self.got, help)
    }
}

impl TorchFile {
    /// Maps and checks a file.
    ///
    /// # Errors
    /// When the file is missing or cannot be read; is not a zip container of `torch.save`, which PyTorch has written since 1.6;
    /// or holds anything but a dict of tensors that lie inside it. No code is run, and no memory taken in proportion to any
    /// number in the file.
    pub fn open(path: &Path) -> Result<Self> {
        let Some((file, _)) = open_regular(path)? else {
            let help = "Check the path, or download the file.";
            return Err(Error::file(path, "file", "weights of PyTorch", "no such file", help));
        };
        let bytes = map(path, &file)?;
        check_no_lfs_pointer(path, bytes.bytes())?;
        let tensors = tensors(bytes.bytes()).map_err(|refusal| refusal.at(path))?;
        Ok(Self { path: path.to_path_buf(), bytes, tensors })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<TorchTensor<'_>> {
        let (layout, range) = self.tensors.get(name)?;
        Some(TorchTensor { layout, storage: &self.bytes.bytes()[range.clone()] })
    }

    /// Whether two tensors are the same elements of the same storage.
    pub fn are_one(&self, first: &str, second: &str) -> bool {
        let layout = |name| self.tensors.get(name).map(|(layout, _)| layout);
        layout(first).is_some_and(|first| Some(first) == layout(second))
    }
}

fn map(path: &Path, file: &File) -> Result<Storage> {
    // SAFETY: nothing here writes to the file, and `TorchFile` requires that nobody else shortens it.
    unsafe { Storage::map(file) }
        .map_err(|error| Error::io(path, "map", error, "Check the disk, or copy the file again."))
}

fn tensors(bytes: &[u8]) -> Result<BTreeMap<String, (Layout, Range<usize>)>, Refusal> {
    let zip = "a zip container, as torch.save writes since PyTorch 1.6";
    if bytes.first() == Some(&0x80) {
        return Err(Refusal::new("content", zip, "a bare pickle, as older versions write"));
    }
    if !bytes.starts_with(b"PK") {
        return Err(Refusal::new("content", zip, "another format"));
    }
    let entries = archive::entries(bytes)?;
    let entry = |name: &str| entries.get(name).map(|range| &bytes[range.clone()]);
    if let Some(order) = entry("byteorder").filter(|order| *order != b"little") {
        let got = printable(&String::from_utf8_lossy(&order[..order.len().min(16)]));
        return Err(Refusal::new("byteorder", "little", got));
    }
    let Some(pickled) = entry("data.pkl") else {
        return Err(Refusal::new(
            "zip container",
            "data.pkl, torch.save's list of tensors",
            "no such file in it",
        ));
    };
    let mut total = 0u64;
    let mut tensors = BTreeMap::new();
    for (name, layout) in state_dict::layouts(&pickle::read(pickled)?)? {
        let what = format!("storage of tensor {}", printable(&name));
        let size = layout.dtype.bitsize() / 8;
        let Some(range) = entries.get(&format!("data/{}", layout.storage)) else {
            return Err(Refusal::new(what, "a file in the zip container", "none"));
        };
        if layout.len.checked_mul(size) != Some(range.len()) {
            let expected = format!("{} elements of {size} bytes", layout.len);
            return Err(Refusal::new(what, expected, format!("{} bytes", range.len())));
        }
        total += (layout.elements() * size) as u64;
        tensors.insert(name, (layout, range.clone()));
    }
    // A tied head is there twice at most.
    if total > 2 * bytes.len() as u64 {
        let expected = format!("at most twice the file's {} bytes", bytes.len());
        return Err(Refusal::new(
            "all tensors",
            expected,
            format!("{total} bytes, of storages that many share"),
        ));
    }
    Ok(tensors)
}

impl View for &TorchTensor<'_> {
    fn dtype(&self) -> Dtype {
        self.layout.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.layout.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let size = self.layout.dtype.bitsize() / 8;
        if self.layout.elements() == 0 {
            return Cow::Borrowed(&[]);
        }
        if self.layout.is_contiguous() {
            return Cow::Borrowed(&self.storage[self.layout.offset * size..][..self.data_len()]);
        }
        let Layout { shape, strides, offset, .. } = self.layout;
        let mut out = Vec::with_capacity(self.data_len());
        let (mut index, mut at) = (vec![0; shape.len()], *offset);
        for _ in 0..self.layout.elements() {
            out.extend_from_slice(&self.storage[at * size..][..size]);
            for dimension in (0..shape.len()).rev() {
                index[dimension] += 1;
                at += strides[dimension];
                if index[dimension] < shape[dimension] {
                    break;
                }
                index[dimension] = 0;
                at -= shape[dimension] * strides[dimension];
            }
        }
        Cow::Owned(out)
    }

    fn data_len(&self) -> usize {
        self.layout.elements() * self.layout.dtype.bitsize() / 8
    }
}
