//! Which files hold the weights.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::ErrorKind,
    path::{Component, Path, PathBuf},
};

use serde::Deserialize;

use super::{file::TensorFile, unique::UniqueMap};
use crate::{
    error::{Error, Result, printable},
    source::ModelSource,
};

pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Which shard holds each tensor.
#[derive(Deserialize)]
pub(super) struct Index {
    weight_map: UniqueMap<String>,
}

/// The files of a checkpoint.
pub(super) struct Files {
    /// The only one, or the index.
    pub(super) path: PathBuf,
    pub(super) files: Vec<TensorFile>,
    /// Tensors that the index names but their shards lack, and the shards.
    pub(super) stale: BTreeMap<String, PathBuf>,
}

/// Opens the files with weights.
pub(super) fn open_files(source: &ModelSource, mmap: bool) -> Result<Files> {
    if exists(source, SINGLE) {
        let files = vec![open(source, SINGLE, mmap)?];
        return Ok(Files { path: source.path_of(SINGLE), files, stale: BTreeMap::new() });
    }
    let Some(index) = Index::read(source, INDEX)? else { return Err(no_weights(source)) };
    let shards = index.shards();
    let files: Vec<_> = shards.iter().map(|shard| open(source, shard, mmap)).collect::<Result<_>>()?;
    let mut stale = BTreeMap::new();
    for (name, shard) in &index.weight_map.entries {
        let place = shards.binary_search(&shard.as_str()).expect("made from the same entries");
        if !files[place].entries().contains_key(name) {
            stale.insert(name.clone(), source.path_of(shard));
        }
    }
    Ok(Files { path: source.path_of(INDEX), files, stale })
}

impl Index {
    /// The index called `file`; `None` when there is none. Every shard is a name inside the folder, and is there.
    pub(super) fn read(source: &ModelSource, file: &str) -> Result<Option<Self>> {
        let path = source.path_of(file);
        let Some(text) = source.read_text(file)? else { return Ok(None) };
        let help = "Download the index again.";
        let index: Self = serde_json::from_str(&text).map_err(|error| {
            let expected = "JSON with weight_map, an object of tensor names and file names";
            Error::file(&path, "content", expected, error, help)
        })?;
        if let Some(name) = index.weight_map.duplicate {
            let what = format!("weight_map, {}", printable(&name));
            return Err(Error::file(path, what, "every tensor in one shard only", "this name twice", help));
        }
        let shards = index.shards();
        if shards.is_empty() {
            return Err(Error::file(path, "weight_map", "at least one tensor", "none", help));
        }
        if let Some(shard) = shards.iter().find(|shard| !is_inside(shard)) {
            let expected = "names of files inside the model's folder";
            let help = "The index was tampered with, or is not of this model: download it again.";
            return Err(Error::file(path, "weight_map", expected, printable(shard), help));
        }
        if let Some(shard) = shards.iter().find(|shard| !exists(source, shard)) {
            let what = format!("shard, one of {}", shards.len());
            let expected = format!("this file, which {file} names");
            let help = "The download is incomplete: download the model again.";
            return Err(Error::file(source.path_of(shard), what, expected, "no such file", help));
        }
        Ok(Some(index))
    }

    /// The names of the shards, sorted.
    pub(super) fn shards(&self) -> Vec<&str> {
        let shards: BTreeSet<&str> =
            self.weight_map.entries.iter().map(|(_, shard)| shard.as_str()).collect();
        shards.into_iter().collect()
    }
}

fn open(source: &ModelSource, file: &str, mmap: bool) -> Result<TensorFile> {
    match source {
        ModelSource::Folder(folder) => TensorFile::open(&folder.join(file), mmap),
        ModelSource::Bundled(bundle) => {
            let bytes =
                bundle.files.iter().find(|(name, _)| *name == file).map_or(&[][..], |(_, bytes)| bytes);
            TensorFile::from_static(source.path_of(file), bytes)
        }
    }
}

/// Whether anything of this name exists, a dangling link and an unreadable file included: opening it gives
/// the better error.
pub(super) fn exists(source: &ModelSource, file: &str) -> bool {
    match source {
        ModelSource::Folder(folder) => {
            !folder.join(file).symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound)
        }
        ModelSource::Bundled(bundle) => bundle.files.iter().any(|(name, _)| *name == file),
    }
}

/// Whether a shard's name can neither leave the folder nor garble or flood a message.
fn is_inside(shard: &str) -> bool {
    const LONGEST: usize = 255;
    (1..=LONGEST).contains(&shard.len())
        && !shard.contains(|c: char| c.is_control() || c == '\\')
        && Path::new(shard).components().all(|part| matches!(part, Component::Normal(_)))
}

/// The error for a folder without safetensors files.
fn no_weights(source: &ModelSource) -> Error {
    let expected = format!("this file, or {INDEX} with its shards");
    let (got, help) = source.instead_of_weights();
    Error::file(source.path_of(SINGLE), "weights", expected, got, help)
}
