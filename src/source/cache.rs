//! The local Hugging Face cache, as the `huggingface_hub` Python package lays it out: models--ORG--NAME/refs/REVISION holds the
//! name of a folder under snapshots/.

use std::{
    ffi::OsString,
    io::Read,
    path::{Component, Path, PathBuf},
};

use super::open_regular;
use crate::error::printable;

/// How many revisions a message lists.
const SHOWN: usize = 8;

/// The cache folder, by the rules of huggingface_hub. A variable that is empty counts as not set.
pub(super) fn folder(env: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let set = |name: &str| env(name).filter(|value| !value.is_empty());
    let folder = |name: &str| set(name).map(|value| expand(value, &set));
    folder("HF_HUB_CACHE").or_else(|| folder("HUGGINGFACE_HUB_CACHE")).unwrap_or_else(|| {
        let home = folder("HF_HOME").unwrap_or_else(|| {
            let cache = folder("XDG_CACHE_HOME").unwrap_or_else(|| expand("~/.cache".into(), &set));
            cache.join("huggingface")
        });
        home.join("hub")
    })
}

/// `path` with a leading `~`, and then `$NAME` and `${NAME}`, replaced, as Python's `expanduser` and `expandvars` do. What is
/// not set, and what is not UTF-8, stays.
fn expand(path: OsString, env: &impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let value = |name: &str| env(name).and_then(|value| value.into_string().ok());
    let path = match path.into_string() {
        Ok(path) => path,
        Err(path) => return path.into(),
    };
    let home = path.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let path = match home.zip(value("HOME")) {
        Some((rest, home)) => home.trim_end_matches('/').to_string() + rest,
        None => path,
    };
    let mut pieces = path.split('$');
    let mut out = pieces.next().unwrap_or_default().to_string();
    for piece in pieces {
        let braced = piece.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let (name, rest) = braced.unwrap_or_else(|| {
            piece
                .split_at(piece.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(piece.len()))
        });
        match value(name) {
            Some(value) => out.extend([&value, rest]),
            None => out.extend(["$", piece]),
        }
    }
    out.into()
}

/// Whether `path` is a repository of the cache rather than a model's folder.
pub(super) fn is_repository(path: &Path) -> bool {
    path.join("snapshots").is_dir() && !path.join("config.json").exists()
}

/// The folder of a repository's main revision, or what is there instead.
pub(super) fn main_snapshot(repository: &Path) -> Result<PathBuf, String> {
    let Some(revision) = read_reference(&repository.join("refs/main"))? else {
        let there = repository.is_dir();
        return Err(if there { format!("no refs/main{}", others(repository)) } else { "not there".into() });
    };
    let mut parts = Path::new(&revision).components();
    if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
        return Err(format!("refs/main names no revision: {}", printable(&revision)));
    }
    let snapshot = repository.join("snapshots").join(&revision);
    if snapshot.is_dir() {
        return Ok(snapshot);
    }
    Err(format!("no snapshot {}{}", printable(&revision), others(repository)))
}

/// The snapshots of a repository, and the revisions that name them, for a message.
fn others(repository: &Path) -> String {
    let folder = repository.join("snapshots");
    let mut references = Vec::new();
    list_references(&repository.join("refs"), "", &mut references);
    let describe = |name: String| {
        let names = references.iter().filter(|(_, revision)| *revision == name);
        let names: Vec<&str> = names.map(|(reference, _)| reference.as_str()).collect();
        let shown = printable(&name);
        if names.is_empty() { shown } else { format!("{shown} ({})", names.join(", ")) }
    };
    let names = folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut names: Vec<String> = names.map(|name| describe(name.to_string_lossy().into_owned())).collect();
    names.sort();
    if names.is_empty() {
        return String::new();
    }
    let more = if names.len() > SHOWN { " and others" } else { "" };
    names.truncate(SHOWN);
    format!(", only {}{more} in {}: pass that folder", names.join(", "), folder.display())
}

/// The references under `folder`, such as `v1` and `pr/1`, as (name, revision).
fn list_references(folder: &Path, prefix: &str, out: &mut Vec<(String, String)>) {
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if prefix.is_empty() && entry.path().is_dir() {
            list_references(&entry.path(), &format!("{name}/"), out);
        } else if let Ok(Some(revision)) = read_reference(&entry.path()) {
            out.push((printable(&name), revision));
        }
    }
    out.sort();
}

/// The revision in a reference's file.
fn read_reference(path: &Path) -> Result<Option<String>, String> {
    let Some((file, _)) = open_regular(path).map_err(|error| error.to_string())? else { return Ok(None) };
    let mut text = String::new();
    file.take(256).read_to_string(&mut text).map_err(|error| format!("cannot read refs/main: {error}"))?;
    Ok(Some(text.trim().to_string()))
}
