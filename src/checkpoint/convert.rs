//! PyTorch's weight files as safetensors files, beside them.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use safetensors::{View, tensor::serialize_to_file};
use serde_json::json;

use super::{
    index::{INDEX, Index, SINGLE, exists},
    torch::TorchFile,
};
use crate::{
    config::ModelConfig,
    error::{Error, Result, printable},
    output::{sync_folder, temporary_folder, write_atomically},
    source::ModelSource,
    weights::prefix,
};

/// PyTorch's single file.
const BIN: &str = "pytorch_model.bin";
/// The index of PyTorch's shards.
const BIN_INDEX: &str = "pytorch_model.bin.index.json";

/// What [`convert`] wrote.
#[derive(Debug)]
pub struct Converted {
    /// The new files: one for each of PyTorch's, and the index of several.
    pub files: Vec<PathBuf>,
    /// How many tensors they hold.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Writes the weights of a folder with pytorch_model.bin, or with shards and pytorch_model.bin.index.json, as safetensors
/// files into the same folder: one for each of PyTorch's files, with the same tensors. A head that config.json ties, and that
/// shares the embedding's elements, is left out, as transformers does. Either all files appear or none.
///
/// # Errors
/// When there are safetensors files already, or none of PyTorch's; config.json is missing or of a model that cannot run; a
/// file is refused by [`TorchFile::open`]; two shards hold the same tensor; or the folder cannot be written.
pub fn convert(folder: &Path) -> Result<Converted> {
    let source = ModelSource::Folder(folder.to_path_buf());
    check_new(&source, &[SINGLE, INDEX])?;
    let names = if exists(&source, BIN) {
        vec![BIN.to_string()]
    } else if let Some(index) = Index::read(&source, BIN_INDEX)? {
        index.shards().into_iter().map(String::from).collect()
    } else {
        let (got, help) = source.instead_of_weights();
        return Err(Error::file(
            source.path_of(BIN),
            "weights",
            "this file, or its shards with an index",
            got,
            help,
        ));
    };
    let config = ModelConfig::load(&source)?;
    let inputs: Vec<_> =
        names.iter().map(|name| TorchFile::open(&folder.join(name))).collect::<Result<_>>()?;
    let outputs: Vec<String> = match inputs.len() {
        1 => vec![SINGLE.to_string()],
        n => (1..=n).map(|i| format!("model-{i:05}-of-{n:05}.safetensors")).collect(),
    };
    check_new(&source, &outputs)?;
    let mut places = BTreeMap::new();
    for (input, output) in inputs.iter().zip(&outputs) {
        for name in kept(input, &config) {
            if places.insert(name, output).is_some() {
                let help =
                    "Shards of different models are mixed: download the model again into an empty folder.";
                let what = format!("tensor {}", printable(name));
                return Err(Error::file(
                    input.path(),
                    what,
                    "every tensor in one shard only",
                    "this name twice",
                    help,
                ));
            }
        }
    }
    let mut bytes = 0;
    let mut files = outputs.clone();
    let failed = |error| {
        Error::io(
            folder,
            "write",
            error,
            "Check that the folder is writable and has room; nothing was written.",
        )
    };
    let (temporary, _in_use) = temporary_folder(folder).map_err(failed)?;
    for (input, output) in inputs.iter().zip(&outputs) {
        let tensors = kept(input, &config).map(|name| (name, input.tensor(name).expect("one of its names")));
        let tensors: Vec<_> = tensors.collect();
        bytes += tensors.iter().map(|(_, tensor)| tensor.data_len() as u64).sum::<u64>();
        let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
        let views = tensors.iter().map(|(name, tensor)| (*name, tensor));
        let path = temporary.path().join(output);
        serialize_to_file(views, Some(metadata), &path).map_err(io::Error::other).map_err(failed)?;
        File::open(&path).and_then(|file| file.sync_all()).map_err(failed)?;
    }
    if outputs.len() > 1 {
        let index = json!({ "metadata": { "total_size": bytes }, "weight_map": places });
        write_atomically(&temporary.path().join(INDEX), |file| writeln!(file, "{index:#}"))?;
        // Last: a folder without it has no weights yet.
        files.push(INDEX.to_string());
    }
    for (done, file) in files.iter().enumerate() {
        if let Err(error) = fs::rename(temporary.path().join(file), folder.join(file)) {
            files[..done].iter().for_each(|file| drop(fs::remove_file(folder.join(file))));
            return Err(failed(error));
        }
    }
    sync_folder(folder);
    let files = files.iter().map(|file| folder.join(file)).collect();
    Ok(Converted { files, tensors: places.len(), bytes })
}

/// Nothing is overwritten.
fn check_new(source: &ModelSource, names: &[impl AsRef<str>]) -> Result<()> {
    let Some(name) = names.iter().find(|name| exists(source, name.as_ref())) else { return Ok(()) };
    let help =
        "The folder has safetensors files: use them, or remove them to convert again; nothing was written.";
    Err(Error::file(source.path_of(name.as_ref()), "output", "no such file yet", "one that exists", help))
}

/// Names of a file's tensors, without a tied head.
fn kept<'a>(file: &'a TorchFile, config: &ModelConfig) -> impl Iterator<Item = &'a str> {
    let embedding = format!("{}embed_tokens.weight", prefix(config.family));
    let short = embedding.trim_start_matches("model.");
    let tied = config.tie_word_embeddings
        && [embedding.as_str(), short].iter().any(|name| file.are_one(name, "lm_head.weight"));
    file.names().filter(move |name| !(tied && *name == "lm_head.weight"))
}
