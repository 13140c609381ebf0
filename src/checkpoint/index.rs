//! Which files hold the weights.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    path::{Component, Path, PathBuf},
};

use serde::Deserialize;

use super::{file::TensorFile, unique::UniqueMap};
use crate::{
    error::{Error, Result, printable},
    source::ModelSource,
};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

#[derive(Deserialize)]
struct Index {
    weight_map: UniqueMap<String>,
}

/// The files with weights, and the path that stands for them all.
pub(super) fn open_files(source: &ModelSource, mmap: bool) -> Result<(PathBuf, Vec<TensorFile>)> {
    if exists(source, SINGLE) {
        return Ok((source.path_of(SINGLE), vec![open(source, SINGLE, mmap)?]));
    }
    let path = source.path_of(INDEX);
    let Some(text) = source.read_text(INDEX)? else { return Err(no_weights(source)) };
    let index: Index = serde_json::from_str(&text).map_err(|error| {
        let expected = "JSON with weight_map, an object of tensor names and file names";
        Error::file(&path, "content", expected, error, "Download the index again.")
    })?;
    if let Some(name) = index.weight_map.duplicate {
        let what = format!("weight_map, {}", printable(&name));
        return Err(Error::file(
            path,
            what,
            "every tensor in one shard only",
            "this name twice",
            "Download the index again.",
        ));
    }
    let shards: BTreeSet<&str> = index.weight_map.entries.iter().map(|(_, shard)| shard.as_str()).collect();
    if shards.is_empty() {
        return Err(Error::file(
            path,
            "weight_map",
            "at least one tensor",
            "none",
            "Download the index again.",
        ));
    }
    if let Some(shard) = shards.iter().find(|shard| !is_inside(shard)) {
        let expected = "names of files inside the model's folder";
        let help = "The index was tampered with, or is not of this model: download it again.";
        return Err(Error::file(path, "weight_map", expected, printable(shard), help));
    }
    if let Some(shard) = shards.iter().find(|shard| !exists(source, shard)) {
        let what = format!("shard, one of {}", shards.len());
        let expected = format!("this file, which {INDEX} names");
        let help = "The download is incomplete: download the model again.";
        return Err(Error::file(source.path_of(shard), what, expected, "no such file", help));
    }
    let files: Vec<_> = shards.iter().map(|shard| open(source, shard, mmap)).collect::<Result<_>>()?;
    let places: Vec<&str> = shards.into_iter().collect();
    for (name, shard) in &index.weight_map.entries {
        let place = places.binary_search(&shard.as_str()).expect("made from the same entries");
        if !files[place].entries().contains_key(name) {
            let what = format!("tensor {}", printable(name));
            let help = "The index and the shards do not belong together: download the model again.";
            return Err(Error::file(
                source.path_of(shard),
                what,
                format!("this tensor, as {INDEX} says"),
                "no such tensor",
                help,
            ));
        }
    }
    Ok((path, files))
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
fn exists(source: &ModelSource, file: &str) -> bool {
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
    let mut others: Vec<String> = Vec::new();
    if let ModelSource::Folder(folder) = source {
        let names = folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.file_name());
        let is_weights =
            |name: &String| [".bin", ".pt", ".pth", ".gguf"].iter().any(|end| name.ends_with(end));
        others = names.filter_map(|name| name.into_string().ok()).filter(is_weights).collect();
        others.sort();
    }
    let path = source.path_of(SINGLE);
    let expected = format!("this file, or {INDEX} with its shards");
    match others.first() {
        None => {
            let help = "Pass the folder that holds the weights, or download them.";
            Error::file(path, "weights", expected, "neither", help)
        }
        Some(other) => Error::file(
            path,
            "weights",
            expected,
            format!("only {}, a format that is not read", printable(other)),
            "Convert them once with Python: from transformers import AutoModelForCausalLM as M; \
             M.from_pretrained(FOLDER).save_pretrained(FOLDER, safe_serialization=True)",
        ),
    }
}
