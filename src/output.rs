//! Files that appear whole or not at all.

use std::{collections::HashMap, fs, io, path::Path};

use safetensors::tensor::{Dtype, View, serialize_to_file};

use crate::{
    checkpoint::{self, Tensor},
    error::{Error, Result},
};

const HELP: &str = "Check that the folder exists, is writable, and has room; nothing was written.";

/// Writes `path` through a temporary file in the same folder, which then takes its name.
///
/// # Errors
/// If the folder is missing or not writable, the disk is full, or `path` is there and no regular file; nothing is left
/// behind.
pub fn write_atomically(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
    let failed = |source: io::Error| Error::io(path, "write", source, HELP);
    let file = temporary(path)?;
    let permissions = file.as_file().metadata().map_err(failed)?.permissions();
    let file = file.into_temp_path();
    write(&file).map_err(failed)?;
    // A writer that replaces the file by one of its own, as safetensors does, leaves it readable by its owner only.
    fs::set_permissions(&file, permissions).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))
}

/// Checks that [`write_atomically`] can create `path`, so that a long run is not in vain; leaves nothing behind.
///
/// # Errors
/// As [`write_atomically`].
pub fn check_writable(path: &Path) -> Result<()> {
    temporary(path).map(drop)
}

/// The temporary file that is to become `path`.
fn temporary(path: &Path) -> Result<tempfile::NamedTempFile> {
    // Renaming over a device such as /dev/full would replace it with a file.
    if path.file_name().is_none() || fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        let help = "Name a file that is not there yet, or one to be replaced; nothing was written.";
        let got = "a folder, device or other special file";
        return Err(Error::file(path, "output", "the name of a regular file", got, help));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".probeprune-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less the umask
    builder.tempfile_in(folder).map_err(|source| Error::io(path, "write", source, HELP))
}

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct OutTensor {
    shape: Vec<usize>,
    dtype: Dtype,
    bytes: Bytes,
}

#[derive(Clone, Debug)]
enum Bytes {
    Own(Vec<u8>),
    /// Of a tensor, which may lie in a file and be larger than memory.
    Of(Tensor),
}

impl OutTensor {
    /// Float32.
    pub fn f32(shape: &[usize], values: &[f32]) -> Self {
        let bytes = Bytes::Own(bytemuck::cast_slice(values).to_vec());
        Self { shape: shape.to_vec(), dtype: Dtype::F32, bytes }
    }

    /// Indices, as int32.
    pub fn i32(values: &[u32]) -> Self {
        let bytes = Bytes::Own(bytemuck::cast_slice(values).to_vec());
        Self { shape: vec![values.len()], dtype: Dtype::I32, bytes }
    }

    /// A tensor as it is.
    pub fn of(tensor: &Tensor) -> Self {
        let dtype = match tensor.dtype() {
            checkpoint::Dtype::F32 => Dtype::F32,
            checkpoint::Dtype::F16 => Dtype::F16,
            checkpoint::Dtype::BF16 => Dtype::BF16,
        };
        Self { shape: tensor.shape().to_vec(), dtype, bytes: Bytes::Of(tensor.clone()) }
    }

    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Own(bytes) => bytes,
            Bytes::Of(tensor) => tensor.bytes(),
        }
    }
}

impl View for &OutTensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        self.bytes().into()
    }
    fn data_len(&self) -> usize {
        self.bytes().len()
    }
}

/// Writes a safetensors file through [`write_atomically`].
///
/// # Errors
/// As [`write_atomically`].
pub fn write_safetensors(
    path: &Path,
    tensors: &[(String, OutTensor)],
    metadata: Option<HashMap<String, String>>,
) -> Result<()> {
    let views = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    write_atomically(path, |file| serialize_to_file(views, metadata, file).map_err(io::Error::other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn files_have_the_permissions_of_any_new_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (plain, ours) = (folder.path().join("plain"), folder.path().join("ours.safetensors"));
        fs::write(&plain, "").unwrap();
        write_safetensors(&ours, &[("x".to_string(), OutTensor::i32(&[1]))], None).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
    }
}
