//! A model's weights: one safetensors file, or several with an index, which [`convert`] makes of PyTorch's own files.

mod absent;
mod convert;
mod file;
mod head;
mod header;
mod index;
mod random;
mod shapes;
mod tensor;
mod torch;
mod unique;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

pub use convert::{Converted, convert};
pub use file::{TensorFile, map_file, open_file, read_tensor_file};
pub use random::RandomTensors;
pub use shapes::check_shapes;
pub(crate) use tensor::round_into;
pub use tensor::{Dtype, Tensor};
pub use torch::{TorchFile, TorchTensor};

use crate::{
    error::{Error, Result, printable},
    source::ModelSource,
};

/// Where a model's weights come from.
pub trait Tensors {
    /// The tensor called `name`; `None` when there is none that can run.
    ///
    /// # Errors
    /// A device that failed, where the tensors lie on one.
    fn tensor(&self, name: &str) -> Result<Option<Tensor>>;

    /// [`tensor`](Self::tensor), or an error that explains its absence.
    ///
    /// # Errors
    /// When there is no such tensor, or its dtype cannot run; and as [`tensor`](Self::tensor).
    fn require(&self, name: &str) -> Result<Tensor>;
}

impl Tensors for Checkpoint {
    fn tensor(&self, name: &str) -> Result<Option<Tensor>> {
        Ok(self.tensor(name))
    }

    fn require(&self, name: &str) -> Result<Tensor> {
        self.require(name)
    }
}

/// A model's tensors, by name.
///
/// Names are Hugging Face's, beginning with `model.`; files whose names lack that prefix (old OPT checkpoints, and models
/// saved without a head) are looked up without it. A tensor of an unsupported dtype is an error only when it is read, so that unneeded
/// buffers (old checkpoints' `rotary_emb.inv_freq`, integer position ids) do no harm.
#[derive(Debug)]
pub struct Checkpoint {
    /// The only file, or the index.
    path: PathBuf,
    files: Vec<TensorFile>,
    /// Tensor name to index in `files`.
    places: BTreeMap<String, usize>,
    /// Tensors that the index names but their shards lack, and the shards: an error only for those that a model needs.
    stale: BTreeMap<String, PathBuf>,
}

impl Checkpoint {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    ///
    /// With `mmap` the files are mapped, and tensors point into the mapping. They must not be shortened while in use:
    /// the operating system then ends the process. Without, they are read into memory. A bundled model is neither.
    ///
    /// # Errors
    /// When a file is missing, cannot be read, is damaged, or does not fit the index.
    pub fn open(source: &ModelSource, mmap: bool) -> Result<Self> {
        let index::Files { path, files, stale } = index::open_files(source, mmap)?;
        let mut places = BTreeMap::new();
        for (place, file) in files.iter().enumerate() {
            for name in file.names() {
                if let Some(earlier) = places.insert(name.to_string(), place) {
                    let earlier: &TensorFile = &files[earlier];
                    return Err(Error::file(
                        file.path(),
                        format!("tensor {}", printable(name)),
                        "every tensor in one shard only",
                        format!("the same name in {}", earlier.path().display()),
                        "Shards of different models are mixed: download the model again into an empty folder.",
                    ));
                }
            }
        }
        Ok(Self { path, files, places, stale })
    }

    /// The tensor called `name`; `None` when there is none, or when its dtype is not F32, F16 or BF16.
    pub fn tensor(&self, name: &str) -> Option<Tensor> {
        let (file, name) = self.find(name)?;
        file.tensor(name)
    }

    /// [`tensor`](Self::tensor), or an error that explains its absence.
    ///
    /// # Errors
    /// When there is no such tensor, or its dtype cannot run.
    pub fn require(&self, name: &str) -> Result<Tensor> {
        self.required_shape(name)?;
        Ok(self.tensor(name).expect("there, with a dtype that can run"))
    }

    /// Shape of the tensor called `name`, with the errors of [`require`](Self::require); copies nothing.
    fn required_shape(&self, name: &str) -> Result<&[usize]> {
        let Some((file, found)) = self.find(name) else { return Err(absent::explain(self, name)) };
        let entry = &file.entries()[found];
        if Dtype::from_file(entry.dtype).is_some() {
            return Ok(&entry.shape);
        }
        Err(Error::file(
            file.path(),
            format!("dtype of tensor {}", printable(found)),
            "F32, F16 or BF16",
            entry.dtype,
            "Use the checkpoint that is not quantized, or convert it to one of these.",
        ))
    }

    /// The file that holds `name`, and the tensor's name there.
    fn find(&self, name: &str) -> Option<(&TensorFile, &str)> {
        let exact = |name: &str| self.places.get_key_value(name);
        let (name, place) = exact(name).or_else(|| exact(name.strip_prefix("model.")?))?;
        Some((&self.files[*place], name))
    }

    /// The shard that should hold `name` but does not, going by the index.
    fn stale(&self, name: &str) -> Option<&Path> {
        let shard = self.stale.get(name).or_else(|| self.stale.get(name.strip_prefix("model.")?))?;
        Some(shard)
    }

    /// The names of all tensors as the files have them, whatever their dtype, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// Dtype and shape of the tensor called `name` exactly, whether or not it can run.
    pub fn describe(&self, name: &str) -> Option<(String, &[usize])> {
        let entry = &self.files[*self.places.get(name)?].entries()[name];
        Some((entry.dtype.to_string(), &entry.shape))
    }

    /// Size in bytes of all files with weights.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(TensorFile::file_bytes).sum()
    }

    /// A blake3 hash, in hex, that tells checkpoints apart: over all names in order, with dtype, shape, and the first
    /// and last 4 KiB of data. The same however the tensors are sharded.
    pub fn fingerprint(&self) -> String {
        const SAMPLE: usize = 4096;
        let mut hasher = blake3::Hasher::new();
        for (name, &place) in &self.places {
            let entry = &self.files[place].entries()[name];
            let bytes = self.files[place].bytes_of(entry);
            // Lengths precede their data, so that no two lists of tensors give the same stream.
            hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
            let dtype = entry.dtype.to_string();
            hasher.update(&(dtype.len() as u64).to_le_bytes()).update(dtype.as_bytes());
            hasher.update(&(entry.shape.len() as u64).to_le_bytes());
            for &size in &entry.shape {
                hasher.update(&(size as u64).to_le_bytes());
            }
            hasher.update(&bytes[..bytes.len().min(SAMPLE)]);
            hasher.update(&bytes[bytes.len().saturating_sub(SAMPLE)..]);
        }
        hasher.finalize().to_hex().to_string()
    }

    /// The only file with weights, or the index; for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
