//! The device that a command computes on: the flags' choice, and the one function that turns it into a backend's type.

use std::{fmt, str::FromStr, sync::Arc};

use clap::ValueEnum;
use probeprune::{
    Error,
    backend::Backend,
    cpu::{Cpu, CpuDtype},
    gpu::{
        Cuda, Driver, Gpu, GpuDtype,
        cuda::{driver_is_installed, survey},
    },
};

use crate::{
    args::{ComputeArgs, DeviceArgs},
    failure::{Failure, Result, note},
    flags,
    input::{Loaded, Origin},
    progress,
};

/// `--device`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum DeviceChoice {
    /// The first usable GPU, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU with this number.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|number| number.parse().ok())
                .map(Self::Cuda)
                .ok_or("expected auto, cpu, cuda or cuda:N"),
        }
    }
}

/// `--dtype`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum DtypeChoice {
    /// f32 on the CPU; on a GPU f16 for f16 checkpoints, else bf16
    #[default]
    Auto,
    /// float32's accuracy, on the CPU
    F32,
    /// bfloat16; on the CPU products of activations rounded to it, all else in float32
    Bf16,
    /// float16, on a GPU
    F16,
}

impl DtypeChoice {
    /// The number format on a GPU, where `auto` gives the one that suits the weights.
    pub(crate) fn on_gpu(self, auto: impl FnOnce() -> Result<GpuDtype>) -> Result<GpuDtype> {
        match self {
            Self::F32 => Err(self.refused("auto, bf16 or f16 on a GPU", "or pass --device cpu")),
            Self::Bf16 => Ok(GpuDtype::Bf16),
            Self::F16 => Ok(GpuDtype::F16),
            Self::Auto => auto(),
        }
    }

    /// How the CPU multiplies.
    fn on_cpu(self) -> Result<CpuDtype> {
        match self {
            Self::Auto | Self::F32 => Ok(CpuDtype::F32),
            Self::Bf16 => Ok(CpuDtype::Bf16),
            Self::F16 => Err(self.refused("auto, f32 or bf16 on the CPU", "or pass --device cuda")),
        }
    }

    fn refused(self, expected: &str, instead: &str) -> Failure {
        let got = self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string());
        Error::argument("--dtype", expected, got, format!("Leave it out, {instead}.")).into()
    }
}

/// The device that a command runs on, for its report.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    /// "cpu" or "cuda:0".
    pub(crate) name: String,
    /// A GPU's name and more.
    pub(crate) gpu: Option<String>,
    /// Number format of activations.
    pub(crate) dtype: &'static str,
    /// CPU threads; none on a GPU.
    pub(crate) threads: Option<usize>,
    /// The instruction set that the CPU backend works with; none on a GPU.
    pub(crate) tier: Option<&'static str>,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.gpu, self.threads) {
            (Some(gpu), _) => write!(f, "{gpu}; {}", self.dtype),
            (None, Some(threads)) => write!(f, "{threads} threads"),
            (None, None) => f.write_str(&self.name),
        }
    }
}

/// A command's work once its model is loaded, on any backend.
pub(crate) trait Task {
    /// Does the work.
    fn run<B: Backend>(self, loaded: Loaded<B>) -> Result<()>;
}

/// Loads `model` onto the device that the flags select, and runs `task` there.
pub(crate) fn with_model(model: &str, mmap: bool, compute: &ComputeArgs, task: impl Task) -> Result<()> {
    with_weights(Origin::files(model, mmap)?, compute, task)
}

/// As [`with_model`], for weights of any origin.
pub(crate) fn with_weights(origin: Origin, compute: &ComputeArgs, task: impl Task) -> Result<()> {
    match open_gpu(compute.device)? {
        None => {
            let dtype = compute.device.dtype.on_cpu()?;
            let cpu = Cpu::new(compute.threads.threads.into())?.with_dtype(dtype);
            let device = Device {
                name: "cpu".into(),
                gpu: None,
                dtype: dtype.name(),
                threads: Some(cpu.threads()),
                tier: Some(cpu.tier().name()),
            };
            task.run(Loaded::open(origin, Arc::new(cpu), device)?)
        }
        Some(cuda) => {
            let dtype = compute.device.dtype.on_gpu(|| origin.gpu_dtype())?;
            let device = Device {
                name: format!("cuda:{}", cuda.device().ordinal),
                gpu: Some(cuda.description()),
                dtype: dtype.name(),
                threads: None,
                tier: None,
            };
            task.run(Loaded::open(origin, Arc::new(Gpu::new(cuda, dtype)), device)?)
        }
    }
}

/// The GPU that `--device` asks for; none for the CPU.
fn open_gpu(args: DeviceArgs) -> Result<Option<Cuda>> {
    let Some(ordinal) = chosen_gpu(args.device)? else { return Ok(None) };
    let spinner = progress::spinner("starting the GPU");
    let gpu = Cuda::new(ordinal);
    spinner.finish_and_clear();
    match gpu {
        Err(reason) if args.device == DeviceChoice::Auto => {
            no_gpu(&reason);
            Ok(None)
        }
        gpu => Ok(Some(gpu?)),
    }
}

/// The processor, its cores and the operating system.
pub(crate) fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(':'));
    let processor = name.map_or(std::env::consts::ARCH, |(_, name)| name.trim());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{processor}, {cores} cores, {}", std::env::consts::OS)
}

/// The number of the chosen GPU; none for the CPU.
pub(crate) fn chosen_gpu(choice: DeviceChoice) -> Result<Option<usize>> {
    match choice {
        DeviceChoice::Cpu => Ok(None),
        DeviceChoice::Cuda(ordinal) => Ok(Some(ordinal)),
        // Most machines without a GPU have no driver, which deserves no note.
        DeviceChoice::Auto if !driver_is_installed() => Ok(None),
        DeviceChoice::Auto => {
            let usable = survey().and_then(|survey| {
                let mut outcomes =
                    survey.devices.iter().map(|device| survey.supports(device).map(|()| device.ordinal));
                let first = outcomes.next().expect("a survey without devices is an error");
                first.or_else(|reason| outcomes.find_map(Result::ok).ok_or(reason))
            });
            usable.map_or_else(
                |reason| {
                    no_gpu(&reason);
                    Ok(None)
                },
                |ordinal| Ok(Some(ordinal)),
            )
        }
    }
}

fn no_gpu(reason: &Error) {
    note(&format!("computing on the CPU. {}", flags::message(reason)));
}
