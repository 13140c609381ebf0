//! The header of a safetensors file: the `safetensors` crate parses it; here are the checks it lacks, and the
//! search for which tensor is wrong when it refuses.

use std::path::Path;

use safetensors::tensor::Metadata;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::unique::UniqueMap;
use crate::{
    error::{Error, Result, printable},
    source::check_no_lfs_pointer,
};

/// The format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Above this, a refused header is not searched for the culprit: a tree of it could take gigabytes.
const MAX_EXPLAINED_BYTES: usize = 16 << 20;

const DAMAGED: &str = "The file is damaged: download or convert it again.";
const INVALID: &str = "The file was not written by a sound safetensors tool: download or convert it again.";

/// Length in bytes of the header of a file of `total` bytes that begins with `start` (at least 64 bytes, or all).
pub(super) fn header_length(path: &Path, total: u64, start: &[u8]) -> Result<usize> {
    check_no_lfs_pointer(path, start)?;
    let Some(word) = start.first_chunk::<8>() else {
        let got = format!("{total} bytes");
        return Err(Error::file(path, "size", "at least 8 bytes (the header's length)", got, DAMAGED));
    };
    let length = u64::from_le_bytes(*word);
    if length > MAX_HEADER_BYTES {
        let help = "The file is damaged, or not in the safetensors format: download or convert it again.";
        let expected = format!("at most {MAX_HEADER_BYTES} bytes");
        return Err(Error::file(path, "header length", expected, format!("{length} bytes"), help));
    }
    let rest = total.saturating_sub(8);
    if length > rest {
        let expected = format!("at most the {rest} bytes that follow it");
        let help = "The file is cut off: was the download interrupted? Download it again.";
        return Err(Error::file(path, "header length", expected, format!("{length} bytes"), help));
    }
    Ok(length as usize)
}

/// Parses and checks `header`, the JSON of a file of `total` bytes.
pub(super) fn parse(path: &Path, total: u64, header: &[u8]) -> Result<Metadata> {
    let text = std::str::from_utf8(header).map_err(|error| {
        let got = format!("a byte that is not, at offset {}", 8 + error.valid_up_to());
        Error::file(path, "header", "UTF-8 text", got, DAMAGED)
    })?;
    if !text.starts_with('{') {
        let got =
            text.chars().next().map_or_else(|| "nothing".to_string(), |first| printable(&first.to_string()));
        return Err(Error::file(path, "header", "`{` as its first byte", got, INVALID));
    }
    if text.ends_with('\0') {
        return Err(Error::file(path, "header", "JSON padded with spaces", "NUL bytes at its end", INVALID));
    }
    let keys: UniqueMap<IgnoredAny> = serde_json::from_str(text)
        .map_err(|error| Error::file(path, "header", "valid JSON, one object", error, DAMAGED))?;
    if let Some(name) = keys.duplicate {
        let what = format!("header, {}", printable(&name));
        return Err(Error::file(path, what, "every name once", "this name twice", INVALID));
    }
    if keys.entries.iter().all(|(name, _)| name == "__metadata__") {
        return Err(Error::file(path, "header", "at least one tensor", "no tensors", INVALID));
    }
    let metadata: Metadata = serde_json::from_str(text).map_err(|error| {
        let found = (text.len() <= MAX_EXPLAINED_BYTES).then(|| explain(text)).flatten();
        let (what, expected, got) = found.unwrap_or_else(|| {
            ("header".to_string(), "a valid safetensors header".to_string(), error.to_string())
        });
        Error::file(path, what, expected, got, INVALID)
    })?;
    for (name, info) in metadata.tensors() {
        // A dimension of 0 hides any other one from the crate's overflow check.
        let elements = info.shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size.max(1)));
        if elements
            .and_then(|elements| elements.checked_mul(8))
            .is_none_or(|bytes| bytes > isize::MAX as usize)
        {
            let got = format!("{:?}", info.shape);
            let what = format!("shape of tensor {}", printable(&name));
            return Err(Error::file(path, what, "sizes that fit an address space", got, INVALID));
        }
    }
    let needed = 8 + header.len() as u64 + metadata.data_len() as u64;
    if needed > total {
        let got = format!("{total} bytes: {} bytes missing", needed - total);
        let help = "Was the download interrupted? Download the file again.";
        return Err(Error::file(path, "size", format!("{needed} bytes"), got, help));
    }
    if needed < total {
        let got = format!("{total} bytes: {} bytes after the last tensor", total - needed);
        return Err(Error::file(path, "size", format!("{needed} bytes"), got, INVALID));
    }
    Ok(metadata)
}

/// The error in a header that the safetensors crate refused, as (what, expected, got).
fn explain(text: &str) -> Option<(String, String, String)> {
    let Ok(Value::Object(header)) = serde_json::from_str(text) else { return None };
    let mut spans = Vec::new();
    for (name, value) in &header {
        if name == "__metadata__" {
            let Some(metadata) = value.as_object() else {
                return Some(("__metadata__".into(), "an object".into(), shown(value)));
            };
            if let Some((key, value)) = metadata.iter().find(|(_, value)| !value.is_string()) {
                return Some((format!("__metadata__, {}", printable(key)), "a string".into(), shown(value)));
            }
            continue;
        }
        match entry(value) {
            Ok((begin, end)) => spans.push((begin, end, name)),
            Err((field, expected, got)) => {
                return Some((format!("{field} of tensor {}", printable(name)), expected, got));
            }
        }
    }
    spans.sort();
    let mut covered = 0;
    for (begin, end, name) in spans {
        if begin != covered {
            let problem = if begin < covered { "an overlap with another tensor" } else { "a hole before it" };
            let what = format!("data_offsets of tensor {}", printable(name));
            let expected = format!("a begin of {covered}, where the tensor before it ends");
            return Some((what, expected, format!("{begin}, {problem}")));
        }
        covered = end;
    }
    None
}

/// Offsets of one tensor's entry, or (field, expected, got).
fn entry(value: &Value) -> Result<(u64, u64), (&'static str, String, String)> {
    let Some(fields) = value.as_object() else {
        return Err(("entry", "an object with dtype, shape and data_offsets".into(), shown(value)));
    };
    let dtype = field(fields, "dtype")?;
    let Ok(dtype) = serde_json::from_value::<safetensors::Dtype>(dtype.clone()) else {
        return Err(("dtype", "a dtype of the safetensors format".into(), shown(dtype)));
    };
    let shape = whole_numbers(fields, "shape")?;
    let offsets = whole_numbers(fields, "data_offsets")?;
    let &[begin, end] = offsets.as_slice() else {
        return Err(("data_offsets", "two numbers".into(), format!("{offsets:?}")));
    };
    if begin > end {
        return Err(("data_offsets", "begin ≤ end".into(), format!("{offsets:?}")));
    }
    let bits = shape.iter().try_fold(dtype.bitsize() as u64, |bits, &size| bits.checked_mul(size));
    let Some(bits) = bits else {
        return Err(("shape", "sizes whose product fits 64 bits".into(), format!("{shape:?}")));
    };
    if bits.div_ceil(8) != end - begin {
        let expected = format!("{} bytes for shape {shape:?} of {dtype}", bits.div_ceil(8));
        return Err(("data_offsets", expected, format!("{} bytes", end - begin)));
    }
    Ok((begin, end))
}

fn field<'a>(
    fields: &'a Map<String, Value>,
    key: &'static str,
) -> Result<&'a Value, (&'static str, String, String)> {
    fields.get(key).ok_or_else(|| (key, "a value".to_string(), "no such key".to_string()))
}

fn whole_numbers(
    fields: &Map<String, Value>,
    key: &'static str,
) -> Result<Vec<u64>, (&'static str, String, String)> {
    let value = field(fields, key)?;
    let numbers = value.as_array().and_then(|values| values.iter().map(Value::as_u64).collect());
    numbers.ok_or_else(|| (key, "a list of whole numbers from 0".to_string(), shown(value)))
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    let cut: String = text.chars().take(120).collect();
    if cut.len() < text.len() { format!("{cut}…") } else { cut }
}
