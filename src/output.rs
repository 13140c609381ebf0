//! Files and folders that appear whole or not at all, on the disk too.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::Path,
    time::Duration,
};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde_json::{Map, Value, json};
use tempfile::{Builder, TempDir};

use crate::{
    checkpoint::{self, Tensor},
    error::{Error, Result},
};

const HELP: &str = "Check that the folder exists, is writable, and has room; nothing was written.";

/// What names of temporary files and folders begin with; a few letters and digits follow.
const PREFIX: &str = ".probeprune-";
const LETTERS: usize = 6;

/// Writes `path` through a temporary file in the same folder, which then takes its name. Temporary files that runs left
/// there when they were killed are removed.
///
/// # Errors
/// If the folder is missing or not writable, the disk is full, or `path` is there and no regular file; nothing is left
/// behind.
pub fn write_atomically(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    let failed = |source: io::Error| Error::io(path, "write", source, HELP);
    let mut file = temporary(path)?;
    write(file.as_file_mut()).map_err(failed)?;
    // A name must not outlive a crash that the content does not.
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    sync_folder(parent(path));
    Ok(())
}

/// Checks that [`write_atomically`] can create `path`, so that a long run is not in vain; leaves nothing behind.
///
/// # Errors
/// As [`write_atomically`].
pub fn check_writable(path: &Path) -> Result<()> {
    temporary(path).map(drop)
}

/// Writes the new folder `path` through a temporary one beside it, as [`write_atomically`] does with files; `write` is given
/// the temporary one.
///
/// # Errors
/// If `path` is there, or cannot be written, and those of `write`; nothing is left behind.
pub fn write_folder_atomically<T>(path: &Path, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let help = "Check that the folder above is writable and has room; nothing was written.";
    let failed = |source: io::Error| Error::io(path, "write", source, help);
    if path.exists() {
        let help = "Name a folder that is not there yet; nothing was written.";
        return Err(Error::file(path, "output", "a new folder", "one that exists", help));
    }
    let (folder, _in_use) = temporary_folder(parent(path)).map_err(failed)?;
    let outcome = write(folder.path())?;
    sync_folder(folder.path());
    let folder = folder.keep();
    fs::rename(&folder, path).map_err(|error| {
        let _ = fs::remove_dir_all(&folder);
        failed(error)
    })?;
    sync_folder(parent(path));
    Ok(outcome)
}

/// A temporary folder in `parent`, removed when it is dropped, and what marks it as in use.
pub(crate) fn temporary_folder(parent: &Path) -> io::Result<(TempDir, io::Result<File>)> {
    remove_abandoned(parent);
    let folder = builder(0o777).tempdir_in(parent)?;
    let in_use = File::open(folder.path()).inspect(claim);
    Ok((folder, in_use))
}

/// The temporary file that is to become `path`.
fn temporary(path: &Path) -> Result<tempfile::NamedTempFile> {
    // Renaming over a device such as /dev/full would replace it with a file.
    if path.file_name().is_none() || fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        let help = "Name a file that is not there yet, or one to be replaced; nothing was written.";
        let got = "a folder, device or other special file";
        return Err(Error::file(path, "output", "the name of a regular file", got, help));
    }
    remove_abandoned(parent(path));
    let file = builder(0o666).tempfile_in(parent(path));
    file.inspect(|file| claim(file.as_file())).map_err(|source| Error::io(path, "write", source, HELP))
}

/// The folder that holds `path`.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes temporary files or folders with these permissions, less the umask.
fn builder(permissions: u32) -> Builder<'static, 'static> {
    let mut builder = Builder::new();
    builder.prefix(PREFIX).rand_bytes(LETTERS);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(permissions));
    builder
}

/// Marks a temporary file as in use, until it is closed or the process ends, however it does.
fn claim(file: &File) {
    // Where nothing can be locked, nothing is removed either.
    let _ = file.try_lock();
}

/// Writes a folder's names to the disk, where the system can.
pub(crate) fn sync_folder(folder: &Path) {
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
}

/// Removes temporary files and folders that killed runs left in `folder`: those that nobody has claimed. They are a moment old
/// at least, since one that was just made is not claimed yet.
fn remove_abandoned(folder: &Path) {
    const MOMENT: Duration = Duration::from_secs(1);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (Ok(kind), path) = (entry.file_type(), entry.path()) else { continue };
        if !is_temporary(&entry.file_name().to_string_lossy()) || !(kind.is_file() || kind.is_dir()) {
            continue;
        }
        let age = entry.metadata().and_then(|data| data.modified()).ok().and_then(|time| time.elapsed().ok());
        let abandoned = |file: &File| age.is_some_and(|age| age > MOMENT) && file.try_lock().is_ok();
        if File::open(&path).is_ok_and(|file| abandoned(&file)) {
            let _ = if kind.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        }
    }
}

fn is_temporary(name: &str) -> bool {
    let letters = name.strip_prefix(PREFIX);
    letters.is_some_and(|rest| rest.len() == LETTERS && rest.bytes().all(|byte| byte.is_ascii_alphanumeric()))
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

/// Writes a safetensors file through [`write_atomically`]. The same tensors and metadata give the same bytes.
///
/// # Errors
/// As [`write_atomically`].
pub fn write_safetensors(
    path: &Path,
    tensors: &[(String, OutTensor)],
    metadata: Option<BTreeMap<String, String>>,
) -> Result<()> {
    // As the format's own writer does: the largest entries first, so that each is aligned, then by name.
    let mut tensors: Vec<_> = tensors.iter().collect();
    tensors.sort_by(|(name, tensor), (other, against)| {
        against.dtype.cmp(&tensor.dtype).then_with(|| name.cmp(other))
    });
    write_atomically(path, |file| {
        let header = header(&tensors, metadata).map_err(io::Error::other)?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        tensors.iter().try_for_each(|(_, tensor)| file.write_all(tensor.bytes()))?;
        file.flush()
    })
}

/// The header of a file with these tensors in this order, padded to whole words; its keys are sorted.
fn header(
    tensors: &[&(String, OutTensor)],
    metadata: Option<BTreeMap<String, String>>,
) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let mut end = 0;
    let infos = tensors.iter().map(|(name, tensor)| {
        let start = end;
        end += tensor.bytes().len();
        (
            name.clone(),
            TensorInfo { dtype: tensor.dtype, shape: tensor.shape.clone(), data_offsets: (start, end) },
        )
    });
    let checked = Metadata::new(None, infos.collect())?;
    let fields: Map<String, Value> = serde_json::from_value(serde_json::to_value(checked)?)?;
    let mut sorted: BTreeMap<String, Value> = fields.into_iter().collect();
    sorted.extend(metadata.map(|metadata| ("__metadata__".to_string(), json!(metadata))));
    let mut header = serde_json::to_string(&sorted)?;
    let padding = header.len().next_multiple_of(8) - header.len();
    header.extend(std::iter::repeat_n(' ', padding));
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Enough metadata that a map in random order would show.
    fn metadata() -> BTreeMap<String, String> {
        (0..12).map(|i| (format!("key {i}"), "\"\u{7f}é".repeat(i))).collect()
    }

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

    #[test]
    fn the_formats_own_reader_reads_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let halves = Tensor::from_bytes(checkpoint::Dtype::BF16, vec![3], &[1, 2, 3, 4, 5, 6]);
        let tensors = [
            ("half".to_string(), OutTensor::of(&halves)),
            ("b".to_string(), OutTensor::f32(&[1, 2], &[1.5, -2.0])),
            ("a".to_string(), OutTensor::i32(&[7])),
            ("none".to_string(), OutTensor::f32(&[0, 4], &[])),
        ];
        write_safetensors(&path, &tensors, Some(metadata())).unwrap();
        let bytes = fs::read(&path).unwrap();
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(read.tensor("b").unwrap().data(), bytemuck::cast_slice::<f32, u8>(&[1.5, -2.0]));
        assert_eq!(read.tensor("b").unwrap().shape(), [1, 2]);
        assert_eq!(read.tensor("a").unwrap().data(), 7i32.to_le_bytes());
        assert_eq!(read.tensor("half").unwrap().data(), [1, 2, 3, 4, 5, 6]);
        assert_eq!((read.len(), read.tensor("none").unwrap().shape()), (4, &[0, 4][..]));
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header.metadata().clone().unwrap().into_iter().collect::<BTreeMap<_, _>>(), metadata());
        let again = folder.path().join("again.safetensors");
        write_safetensors(&again, &tensors, Some(metadata())).unwrap();
        assert_eq!(fs::read(&again).unwrap(), bytes);
        let reversed: Vec<_> = tensors.into_iter().rev().collect();
        write_safetensors(&again, &reversed, Some(metadata())).unwrap();
        assert_eq!(fs::read(&again).unwrap(), bytes);
    }

    #[test]
    fn what_killed_runs_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let old = |name: &str| {
            fs::write(path(name), "x").unwrap();
            let file = File::options().write(true).open(path(name)).unwrap();
            file.set_modified(std::time::SystemTime::now() - Duration::from_secs(60)).unwrap();
            file
        };
        for gone in [".probeprune-AbC123", ".probeprune-zzzzzz"] {
            old(gone);
        }
        let running = old(".probeprune-inused");
        running.try_lock().unwrap();
        old(".probeprune-notours");
        old("probeprune-AbC123");
        fs::write(path(".probeprune-justny"), "x").unwrap();
        fs::create_dir(path(".probeprune-folder")).unwrap();
        fs::write(path(".probeprune-folder").join("model.safetensors"), "x").unwrap();
        let names = || {
            let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
            let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
            names.sort();
            names
        };
        let kept =
            [".probeprune-inused", ".probeprune-justny", ".probeprune-notours", "out", "probeprune-AbC123"];
        let mut young = kept.to_vec();
        young.insert(0, ".probeprune-folder");
        write_atomically(&path("out"), |file| file.write_all(b"y")).unwrap();
        assert_eq!(names(), young);
        #[cfg(target_os = "linux")]
        {
            let made = File::open(path(".probeprune-folder")).unwrap();
            made.set_modified(std::time::SystemTime::now() - Duration::from_secs(60)).unwrap();
            made.try_lock().unwrap();
            check_writable(&path("out")).unwrap();
            assert_eq!(names(), young);
            drop(made);
            check_writable(&path("out")).unwrap();
            assert_eq!(names(), kept);
        }
        drop(running);
        check_writable(&path("out")).unwrap();
        assert!(!names().contains(&".probeprune-inused".to_string()));
    }

    #[test]
    fn a_folder_that_cannot_be_finished_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let failing = write_folder_atomically(&out, |path| {
            fs::write(path.join("a"), "x").unwrap();
            Err::<(), _>(Error::Cancelled)
        });
        assert!(matches!(failing, Err(Error::Cancelled)));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        write_folder_atomically(&out, |path| write_atomically(&path.join("a"), |file| file.write_all(b"x")))
            .unwrap();
        assert_eq!(fs::read(out.join("a")).unwrap(), b"x");
        assert!(write_folder_atomically(&out, |_| Ok(())).unwrap_err().to_string().contains("a new folder"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
