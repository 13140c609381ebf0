//! Where a model's files come from: a folder, the local Hugging Face cache, or models compiled into the program.

mod cache;
mod contents;

use std::{
    borrow::Cow,
    ffi::OsString,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use crate::error::{Error, Result, printable};

/// A model compiled into the program.
#[derive(Debug)]
pub struct Bundle {
    /// The name after `bundled:`.
    pub name: &'static str,
    /// File names, as in a model folder, and their contents.
    pub files: &'static [(&'static str, &'static [u8])],
}

macro_rules! bundle {
    ($name:literal) => {
        Bundle {
            name: $name,
            files: &[
                ("config.json", include_bytes!(concat!("../../models/", $name, "/config.json"))),
                ("model.safetensors", include_bytes!(concat!("../../models/", $name, "/model.safetensors"))),
                ("tokenizer.json", include_bytes!(concat!("../../models/", $name, "/tokenizer.json"))),
            ],
        }
    };
}

/// The models compiled into the program: small ones, trained on [`crate::corpus`].
pub const BUNDLES: &[Bundle] = &[bundle!("tiny-llama"), bundle!("tiny-opt")];

/// Configs, indexes and tokenizers are read whole; the largest real tokenizer.json is about 35 MB.
const MAX_TEXT_BYTES: u64 = 256 << 20;

/// Where a model's files come from.
#[derive(Clone, Debug)]
pub enum ModelSource {
    /// A folder as `save_pretrained` writes it.
    Folder(PathBuf),
    /// A model compiled into the program.
    Bundled(&'static Bundle),
}

impl ModelSource {
    /// Finds `model`: a folder, `bundled:NAME`, or `org/name` in the local Hugging Face cache, in this order. A folder
    /// `models--org--name` of the cache stands for its main revision.
    /// Never goes to the network.
    ///
    /// # Errors
    /// An [`Error::Argument`] that lists every place that was tried.
    pub fn locate(model: &str) -> Result<Self> {
        Self::locate_with_env(model, |name| std::env::var_os(name))
    }

    /// [`locate`](Self::locate) with the environment variables that `env` returns.
    pub fn locate_with_env(model: &str, env: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let path = Path::new(model);
        if cache::is_repository(path) {
            return cache::main_snapshot(path).map(Self::Folder).map_err(|reason| {
                let got = format!("a folder of the Hugging Face cache with {reason}");
                let help = "Or download the model again.";
                Error::argument("model", "a model's folder", format!("{}, {got}", printable(model)), help)
            });
        }
        if path.is_dir() {
            return Ok(Self::Folder(path.to_path_buf()));
        }
        if path.exists() {
            return Err(Error::argument(
                "model",
                "a folder with config.json and the weights",
                format!("{}, which is not a folder", printable(model)),
                "Pass the folder that holds this file.",
            ));
        }
        let mut tried = vec![format!("folder {} (not there)", printable(model))];
        if let Some(name) = model.strip_prefix("bundled:") {
            if let Some(bundle) = BUNDLES.iter().find(|bundle| bundle.name == name) {
                return Ok(Self::Bundled(bundle));
            }
            let names: Vec<_> = BUNDLES.iter().map(|bundle| bundle.name).collect();
            tried.push(format!(
                "bundled models ({})",
                if names.is_empty() { "none".into() } else { names.join(", ") }
            ));
        } else if is_hub_id(model) {
            let cache = cache::folder(env);
            match cache::main_snapshot(&cache.join(format!("models--{}", model.replace('/', "--")))) {
                Ok(folder) => return Ok(Self::Folder(folder)),
                Err(reason) => tried.push(format!("local Hugging Face cache {} ({reason})", cache.display())),
            }
        }
        Err(Error::argument(
            "model",
            "a folder, bundled:NAME, or org/name of a model in the local Hugging Face cache",
            format!("{}; tried: {}", printable(model), tried.join("; ")),
            "Check the spelling, or download the model first; nothing is downloaded here.",
        ))
    }

    /// The model's name: the folder's name, `org/name` for a cached model, or `bundled:NAME`.
    pub fn name(&self) -> String {
        let folder = match self {
            Self::Bundled(bundle) => return format!("bundled:{}", bundle.name),
            Self::Folder(folder) => folder,
        };
        // A cached model lies in models--org--name/snapshots/REVISION: the revision names nothing to a reader.
        let cached = folder.parent().filter(|parent| parent.ends_with("snapshots")).and_then(|parent| {
            let repository = parent.parent()?.file_name()?.to_str()?;
            Some(repository.strip_prefix("models--")?.replacen("--", "/", 1))
        });
        cached.unwrap_or_else(|| {
            let own = folder.file_name().map(|name| name.to_string_lossy().into_owned());
            own.unwrap_or_else(|| folder.display().to_string())
        })
    }

    /// The content of `file` in the model's folder; `None` when there is no such file.
    ///
    /// # Errors
    /// When the file is there but cannot be read, is not a regular file, or is larger than 256 MiB.
    pub fn read(&self, file: &str) -> Result<Option<Cow<'static, [u8]>>> {
        if let Self::Bundled(bundle) = self {
            return Ok(bundle
                .files
                .iter()
                .find(|(name, _)| *name == file)
                .map(|(_, bytes)| Cow::Borrowed(*bytes)));
        }
        let path = self.path_of(file);
        let Some((opened, size)) = open_regular(&path)? else { return Ok(None) };
        if size > MAX_TEXT_BYTES {
            return Err(Error::file(
                path,
                "size",
                format!("at most {MAX_TEXT_BYTES} bytes"),
                format!("{size} bytes"),
                "Put back the model's own file.",
            ));
        }
        let mut bytes = Vec::new();
        match opened.take(MAX_TEXT_BYTES).read_to_end(&mut bytes) {
            Ok(_) => check_no_lfs_pointer(&path, &bytes).map(|()| Some(Cow::Owned(bytes))),
            Err(error) => Err(Error::io(path, "read", error, "Check the disk, or copy the file again.")),
        }
    }

    /// [`read`](Self::read) as text.
    pub(crate) fn read_text(&self, file: &str) -> Result<Option<String>> {
        let Some(bytes) = self.read(file)? else { return Ok(None) };
        String::from_utf8(bytes.into_owned()).map(Some).map_err(|error| {
            Error::file(
                self.path_of(file),
                "content",
                "UTF-8 text",
                format!("a byte that is not, at offset {}", error.utf8_error().valid_up_to()),
                "The file is damaged: download it again.",
            )
        })
    }

    /// The path of `file` in the model's folder, for messages; a bundled model's begins with `bundled:`.
    pub fn path_of(&self, file: &str) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.join(file),
            Self::Bundled(bundle) => PathBuf::from(format!("bundled:{}", bundle.name)).join(file),
        }
    }
}

/// Opens a regular file; gives its size in bytes too. `None` when nothing is there.
///
/// Looks at the kind of file before opening it: opening a FIFO waits for a writer, possibly for ever.
pub(crate) fn open_regular(path: &Path) -> Result<Option<(File, u64)>> {
    let access = "Check the permissions of the file and of the folders above it.";
    let kind = match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => {
            let file = File::open(path).map_err(|error| Error::io(path, "open", error, access))?;
            return Ok(Some((file, metadata.len())));
        }
        Ok(metadata) if metadata.is_dir() => "a folder",
        Ok(_) => "a FIFO, socket or device",
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if fs::symlink_metadata(path).is_err() {
                return Ok(None);
            }
            "a link to a file that is missing"
        }
        Err(error) => return Err(Error::io(path, "open", error, access)),
    };
    Err(Error::file(path, "kind of file", "a regular file", kind, "Replace it with the model's own file."))
}

/// `name` or `org/name`, with nothing in it that could leave the cache's folder.
fn is_hub_id(model: &str) -> bool {
    let part_is_plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    model.split('/').count() <= 2 && model.split('/').all(part_is_plain)
}

/// Refuses the few lines of text that Git LFS leaves in place of a file at `path` whose content begins with `start`.
pub(crate) fn check_no_lfs_pointer(path: &Path, start: &[u8]) -> Result<()> {
    if !start.starts_with(b"version https://git-lfs") {
        return Ok(());
    }
    let got = "a Git LFS pointer, the text that stands for a file that was not downloaded";
    let help = "Run `git lfs pull` in the model's folder.";
    Err(Error::file(path, "content", "the model's own file", got, help))
}
