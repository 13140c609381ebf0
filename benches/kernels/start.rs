//! The goals on a GPU, from options to rows.

use std::{io, path::PathBuf, sync::Arc};

use probeprune::{
    Error, Result,
    gpu::{Cuda, Gpu, GpuDtype, cuda::survey},
};
use serde::Deserialize;

use crate::{
    content::Content,
    goals::{self, GOALS, Report},
    measure::{Bench, FULL, REDUCED},
    peers::Peers,
    predict,
    rows::Rows,
};

/// What to measure, and where to write it.
#[derive(Clone, Debug, Deserialize)]
pub struct Options {
    /// Numbers of rows; none for all.
    pub goals: Vec<usize>,
    /// A file that rows are appended to.
    pub rows: Option<PathBuf>,
    /// The step that they belong to.
    pub step: String,
    pub rounds: usize,
    /// Small shapes, whose numbers mean nothing.
    pub reduced: bool,
}

/// The first GPU, if the kernels run on it.
///
/// # Errors
/// Why they do not.
pub fn supported() -> Result<()> {
    survey().and_then(|survey| survey.supports(survey.device(0)?))
}

/// Measures on a device that was opened, or not; whether no row failed.
///
/// # Errors
/// A file of rows that cannot be written.
pub fn run(
    options: &Options,
    opened: Result<Cuda>,
    peers: impl for<'g> Fn(&'g Gpu<Cuda>) -> Box<dyn Peers + 'g>,
) -> io::Result<bool> {
    let all: Vec<usize> = GOALS.iter().map(|goal| goal.number).collect();
    let numbers = if options.goals.is_empty() { &all } else { &options.goals };
    let mut rows = Rows::new(options.rows.as_deref(), &options.step)?;
    let cuda = match opened {
        Ok(cuda) => cuda,
        Err(reason) => return without(numbers, &mut rows, options.reduced, &reason),
    };
    let name = cuda.device().name.clone();
    let machine = predict::machine_called(&name);
    let prediction = |number| Some(predict::row(machine?, number).ok()?.values());
    let gpu = Arc::new(Gpu::new(cuda, GpuDtype::Bf16));
    goals::print_header(&format!("{:?}", gpu.driver().device()), options.reduced);
    let peers = peers(&gpu);
    let scale = if options.reduced { REDUCED } else { FULL };
    let (device, reduced) = (Some(name), options.reduced);
    let mut report = Report { rows: &mut rows, device, reduced, prediction: &prediction };
    let broken = || {
        let done = gpu.driver().synchronize();
        done.err().map(|error| error.to_string()).filter(|_| gpu.driver().is_broken())
    };
    match Bench::new(&gpu, &*peers, Content::random(), scale, options.rounds) {
        Ok(mut bench) => goals::run(&mut bench, numbers, &broken, &mut report),
        Err(reason) => without(numbers, report.rows, reduced, &reason),
    }
}

/// A row for each number that says why it was not measured.
fn without(numbers: &[usize], rows: &mut Rows, reduced: bool, reason: &Error) -> io::Result<bool> {
    let why = format!("no GPU that can be used: {reason}");
    goals::print_header(&why, reduced);
    let mut report = Report { rows, device: None, reduced, prediction: &|_| None };
    numbers.iter().try_for_each(|&number| report.not_run(number, &why))?;
    Ok(true)
}
