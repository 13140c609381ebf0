//! `probeprune export`: a folded model as a Hugging Face folder.

use std::path::PathBuf;

use clap::Args;
use probeprune::{
    Error,
    backend::Backend,
    export::export,
    model::fold::{Fold, check_settings},
    prune::settings::{Method, Settings},
};

use crate::{
    args::{CalibrationArgs, MethodArgs, ModelArgs, at_least_one},
    device::{Task, with_model},
    failure::{Result, print},
    input::Loaded,
    interrupt, progress,
};

/// Flags of `export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Tokens per window of calibration [default: the history file's, or the model's context, at most 1024]
    #[arg(long, value_name = "N", value_parser = at_least_one(), help_heading = "Calibration")]
    seq_len: Option<usize>,
    /// Windows per batch of calibration
    #[arg(long, value_name = "B", default_value_t = 4, value_parser = at_least_one(), help_heading = "Calibration")]
    batch_size: usize,
    #[command(flatten)]
    calibration: CalibrationArgs,
    #[command(flatten)]
    method: MethodArgs,
    /// The folder to make
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

/// Runs the command.
pub(crate) fn run(args: &ExportArgs) -> Result<()> {
    let model = &args.model;
    with_model(&model.model, !model.no_mmap, &model.compute, args)
}

impl Task for &ExportArgs {
    fn run<B: Backend>(self, loaded: Loaded<B>) -> Result<()> {
        // The only method that makes a model of its own.
        let method = MethodArgs { method: self.method.method.or(Some(Method::Fold)), ..self.method.clone() };
        let settings: Settings = method.settings(&loaded.model.config)?;
        check_settings(&settings)?;
        let calibration = match &self.calibration.history {
            Some(path) => Some(loaded.history(path)?),
            None => {
                let seq_len = loaded.seq_len(self.seq_len);
                loaded.calibration(&self.calibration, &[&settings], seq_len, self.batch_size)?
            }
        };
        let Some(calibration) = calibration else {
            let help = "Pass `calibration`.";
            return Err(Error::argument("method fold", "a calibration", "none", help).into());
        };
        let bar = progress::bar("folding", loaded.model.config.num_hidden_layers);
        let fold = Fold::new(&loaded.model, &settings, &calibration, |layer| bar.set_position(layer as u64))?;
        bar.finish_and_clear();
        let source = loaded.origin.source().expect("a model of files");
        let needs_code = interrupt::uninterrupted(|| export(&fold, source, &settings, &self.out))?;
        let how = if needs_code { "with trust_remote_code=True" } else { "as it is" };
        print(&format!(
            "{}: {} folded at {}; transformers loads it {how}\n",
            self.out.display(),
            loaded.name,
            crate::table::percent(settings.prune_ratio)
        ))
    }
}
