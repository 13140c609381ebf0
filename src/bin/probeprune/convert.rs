//! `probeprune convert`: PyTorch's weight files as safetensors files.

use clap::Args;
use probeprune::{
    Error,
    checkpoint::{Converted, convert},
    source::ModelSource,
};

use crate::{
    failure::{Result, print},
    interrupt,
};

/// Flags of `convert`.
#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    /// The model's folder, or org/name in the local Hugging Face cache
    ///
    /// It holds pytorch_model.bin, or shards and pytorch_model.bin.index.json. Their tensors are read without running any code,
    /// and each file becomes one of safetensors. Nothing is overwritten or removed.
    #[arg(value_name = "FOLDER")]
    folder: String,
}

/// Runs the command.
pub(crate) fn run(args: &ConvertArgs) -> Result<()> {
    let ModelSource::Folder(folder) = ModelSource::locate(&args.folder)? else {
        let help = "Bundled models need no conversion.";
        return Err(Error::argument("FOLDER", "a model's folder", format!("{:?}", args.folder), help).into());
    };
    let Converted { files, tensors, bytes } = interrupt::uninterrupted(|| convert(&folder))?;
    let mut out = String::new();
    for file in files {
        out += &format!("{}\n", file.display());
    }
    print(&format!(
        "{out}{tensors} tensors, {:.1} MB; PyTorch's files are no longer needed\n\
         next: probeprune perplexity --model {} --text FILE\n",
        bytes as f64 / 1e6,
        folder.display()
    ))
}
