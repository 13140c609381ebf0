//! The zip container of `torch.save`: one folder of files, none of them compressed.

use std::{collections::BTreeMap, ops::Range};

use rawzip::{CompressionMethod, ZipArchive};

use super::Refusal;
use crate::error::printable;

/// A model has a file per tensor, and a few more; the largest have some thousand tensors.
const MAX_ENTRIES: usize = 100_000;

/// Where the container's files lie in `bytes`, by their names inside its folder.
///
/// Files are not compressed, so that no small container can hold a large one, and lie apart. Names stay inside the folder;
/// nothing is ever written under them.
pub(super) fn entries(bytes: &[u8]) -> Result<BTreeMap<String, Range<usize>>, Refusal> {
    let damaged = |error: rawzip::Error| Refusal::new("zip container", "a whole one", error);
    let archive = ZipArchive::from_slice(bytes).map_err(damaged)?;
    let mut list = archive.entries();
    let mut found = BTreeMap::new();
    let mut folder: Option<String> = None;
    while let Some(entry) = list.next_entry().map_err(damaged)? {
        let path = entry.file_path();
        let name = String::from_utf8_lossy(path.as_bytes()).into_owned();
        let what = format!("zip container, file {}", printable(&name));
        if found.len() == MAX_ENTRIES {
            return Err(Refusal::new("zip container", format!("at most {MAX_ENTRIES} files"), "more"));
        }
        let inside = name.split_once('/').filter(|_| is_plain(&name));
        let Some((outer, inner)) =
            inside.filter(|(outer, _)| folder.as_deref().is_none_or(|it| it == *outer))
        else {
            return Err(Refusal::new(what, "a name inside the container's one folder", "another name"));
        };
        folder.get_or_insert_with(|| outer.to_string());
        let sizes = (entry.compressed_size_hint(), entry.uncompressed_size_hint());
        if entry.compression_method() != CompressionMethod::STORE
            || sizes.0 != sizes.1
            || entry.flags().is_encrypted()
        {
            return Err(Refusal::new(
                what,
                "a file stored as it is, as torch.save does",
                "a compressed or encrypted one",
            ));
        }
        let range = archive.get_entry(entry.wayfinder()).map_err(damaged)?.compressed_data_range();
        let range = range.0 as usize..range.1 as usize;
        if found.insert(inner.to_string(), range).is_some() {
            return Err(Refusal::new(what, "every name once", "this name twice"));
        }
    }
    let mut ranges: Vec<_> = found.values().filter(|range| !range.is_empty()).collect();
    ranges.sort_by_key(|range| range.start);
    if ranges.windows(2).any(|pair| pair[0].end > pair[1].start) {
        return Err(Refusal::new("zip container", "files that lie apart", "two that overlap"));
    }
    Ok(found)
}

fn is_plain(name: &str) -> bool {
    name.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && !name.contains(|c: char| c == '\\' || c.is_control())
}
