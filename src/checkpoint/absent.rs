//! Why a tensor is missing that a model needs.

use super::Checkpoint;
use crate::error::{Error, printable};

/// Ends of names that quantized weights have in place of `weight`.
const QUANTIZED: &[&str] =
    &["qweight", "qzeros", "scales", "g_idx", "weight_packed", "weight_scale", "codes", "codebooks", "W_q"];

/// Prefixes that training tools put before names, and the tool.
const PREFIXES: &[(&str, &str)] = &[
    ("_orig_mod.", "torch.compile"),
    ("module.", "DataParallel or DistributedDataParallel"),
    ("_fsdp_wrapped_module.", "FSDP"),
    ("base_model.model.", "PEFT"),
    ("language_model.", "a model of text and images"),
];

/// The error for the tensor called `name`, which is not there.
pub(super) fn explain(checkpoint: &Checkpoint, name: &str) -> Error {
    let what = format!("tensor {}", printable(name));
    let refuse =
        |path, expected: &str, got: String, help: String| Error::file(path, &what, expected, got, help);
    if let Some(shard) = checkpoint.stale(name) {
        let expected = "this tensor, as model.safetensors.index.json says";
        let help = "The index and the shards do not belong together: download the model again.";
        return refuse(shard, expected, "no such tensor".into(), help.into());
    }
    let needed = "a tensor that the model needs";
    if let Some(found) = quantized(checkpoint, name) {
        let got = format!("{}, of quantized weights (GPTQ, AWQ or the like)", printable(found));
        let help = "Use the model that is not quantized; pruning needs its weights in F32, F16 or BF16.";
        return refuse(checkpoint.path(), needed, got, help.into());
    }
    if let Some((found, prefix)) = prefixed(checkpoint, name) {
        let tool = PREFIXES.iter().find(|(known, _)| prefix.starts_with(known));
        let tool = tool.map_or_else(String::new, |(_, tool)| format!(", as {tool} does"));
        let prefix = printable(prefix);
        let got = format!("{}: names begin with {prefix}{tool}", printable(found));
        let help = format!(
            "Save the weights without it, with Python: from safetensors.torch import load_file, save_file; \
             save_file({{k.removeprefix({prefix}): v for k, v in load_file(FILE).items()}}, FILE, {{\"format\": \"pt\"}})"
        );
        return refuse(checkpoint.path(), needed, got, help);
    }
    let got = format!("no such tensor among {}", checkpoint.places.len());
    let help = "config.json and the weights do not belong together, or the download is incomplete.";
    refuse(checkpoint.path(), needed, got, help.into())
}

/// A part of the quantized form of the weight called `name`.
fn quantized<'a>(checkpoint: &'a Checkpoint, name: &str) -> Option<&'a str> {
    let start = name.strip_suffix("weight")?;
    QUANTIZED.iter().find_map(|part| checkpoint.find(&format!("{start}{part}")).map(|(_, found)| found))
}

/// A longer name of the same tensor, and what comes before `name` in it.
fn prefixed<'a>(checkpoint: &'a Checkpoint, name: &str) -> Option<(&'a str, &'a str)> {
    let short = name.strip_prefix("model.").unwrap_or(name);
    let before = |name: &str| {
        let names = checkpoint.names().filter_map(|found| Some((found, found.strip_suffix(name)?)));
        names.into_iter().find(|(_, prefix)| prefix.ends_with('.'))
    };
    before(name).or_else(|| before(short))
}
