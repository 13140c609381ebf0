//! One table serves correctness and traffic: a case knows its input, how to run it on a backend, what the result has to
//! be in f64, and how many bytes its kernel's header says it moves.

use std::fmt::Debug;

use half::{bf16, f16};
use probeprune::{
    Result,
    backend::{Backend, KeptSet, Linear, WeightUse},
    checkpoint::Tensor,
    gpu::{Driver, Gpu, GpuDtype},
};
use ptx_emu::{Completion, Policy, Settings};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    device::{TestDevice, assert_fails_without_a_gpu, gpu_only, real_gpu, reduced_shapes},
    emulator::Emulator,
};

/// Both compute dtypes.
pub const DTYPES: [GpuDtype; 2] = [GpuDtype::Bf16, GpuDtype::F16];

/// What a run left behind.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Activations or statistics.
    Floats(Vec<f32>),
    /// Indices.
    Indices(Vec<u32>),
}

/// What it has to be.
#[derive(Clone, Debug)]
pub enum Expected {
    /// Within `tolerance` of the root mean square of these values, every one of them.
    Floats {
        /// From f64 arithmetic on the rounded inputs.
        values: Vec<f64>,
        /// Largest |got − value| / rms(values); the case says why.
        tolerance: f64,
    },
    /// These.
    Indices(Vec<u32>),
}

/// An operation with its input.
pub trait Case: Debug {
    /// Runs it once and downloads every output, whole buffers with what must stay untouched included.
    ///
    /// # Errors
    /// What the backend reports.
    fn run<D: Driver>(&self, gpu: &Gpu<D>) -> Result<Vec<Output>>;

    /// The same in f64, independently.
    fn expected(&self) -> Vec<Expected>;

    /// Compute dtype.
    fn dtype(&self) -> GpuDtype;
}

/// Forward, reverse and PCT schedules with asynchronous copies as early and as late as is legal, race checker on.
pub fn schedules() -> Vec<Settings> {
    let policies = [Policy::Forward, Policy::Reverse, Policy::Pct { seed: 1, depth: 3 }];
    let completions = [Completion::Eager, Completion::Lazy];
    let both = |policy| completions.map(|completion| Settings { policy, completion, ..Settings::default() });
    policies.into_iter().flat_map(both).collect()
}

/// Runs a case under every schedule, and on a GPU if there is one: the results must be right, and the same to the bit. In
/// GPU-only mode, on the GPU alone.
pub fn check(case: &impl Case) {
    check_under(case, &schedules());
}

/// As [`check`] for shapes at which six schedules would take too long: one of them.
pub fn check_once(case: &impl Case) {
    check_under(case, &[Settings { policy: Policy::Reverse, ..Settings::default() }]);
}

fn check_under(case: &impl Case, schedules: &[Settings]) {
    let expected = case.expected();
    let mut first: Option<Vec<Output>> = None;
    let schedules = if gpu_only() { &[] } else { schedules };
    for settings in schedules {
        let gpu = Gpu::new(Emulator::new(settings.clone()), case.dtype());
        let outputs = case.run(&gpu).unwrap_or_else(|error| panic!("{case:?} under {settings:?}: {error}"));
        compare(case, &outputs, &expected);
        match &first {
            None => first = Some(outputs),
            Some(first) => assert!(same_bits(&outputs, first), "{case:?}: other bits under {settings:?}"),
        }
    }
    check_on_gpu(case, &expected);
}

/// A GPU's tensor cores round in a way of their own, so its bits are compared with its own only.
fn check_on_gpu(case: &impl Case, expected: &[Expected]) {
    let Some(cuda) = real_gpu() else { return };
    // A backend of its own: an error of one test must not surface in another.
    let gpu = Gpu::new(TestDevice::real(cuda), case.dtype());
    let run = || {
        case.run(&gpu).unwrap_or_else(|error| panic!("{case:?} on {}: {error}", gpu.driver().description()))
    };
    let outputs = run();
    compare(case, &outputs, expected);
    assert!(same_bits(&run(), &outputs), "{case:?}: other bits the second time on a GPU");
}

#[test]
fn gpu_only_mode_fails_without_a_gpu() {
    assert_fails_without_a_gpu("norm::norm");
}

fn same_bits(a: &[Output], b: &[Output]) -> bool {
    let bits = |output: &Output| match output {
        Output::Floats(values) => values.iter().map(|x| x.to_bits()).collect(),
        Output::Indices(values) => values.clone(),
    };
    a.iter().map(bits).eq(b.iter().map(bits))
}

fn compare(case: &impl Case, outputs: &[Output], expected: &[Expected]) {
    assert_eq!(outputs.len(), expected.len(), "{case:?}");
    for (which, (output, expected)) in outputs.iter().zip(expected).enumerate() {
        match (output, expected) {
            (Output::Indices(got), Expected::Indices(want)) => {
                assert_eq!(got, want, "{case:?}, output {which}")
            }
            (Output::Floats(got), Expected::Floats { values, tolerance }) => {
                assert_eq!(got.len(), values.len(), "{case:?}, output {which}");
                let rms = (values.iter().map(|x| x * x).sum::<f64>() / values.len().max(1) as f64).sqrt();
                for (i, (&got, &want)) in got.iter().zip(values).enumerate() {
                    let error = (f64::from(got) - want).abs();
                    // Not `error > limit`: a NaN must not pass.
                    let within = error <= tolerance * rms;
                    assert!(within, "{case:?}, output {which} at {i}: {got} for {want}, rms {rms}");
                }
            }
            _ => panic!("{case:?}, output {which}: floats for indices or the other way round"),
        }
    }
}

/// One launch's traffic in 32-byte sectors times 32, as the emulator counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes read from global memory.
    pub read: u64,
    /// Bytes written to global memory.
    pub written: u64,
    /// Extra passes over shared memory because of bank conflicts.
    pub conflicts: u64,
}

/// Runs a case once and returns the traffic of its launches of `kernel` (the name without dtype), summed. A GPU counts
/// nothing: in GPU-only mode this is [`check`] and returns `None`.
pub fn traffic(case: &impl Case, kernel: &str) -> Option<Traffic> {
    if gpu_only() {
        check(case);
        return None;
    }
    let gpu = Gpu::new(Emulator::new(Settings::unchecked()), case.dtype());
    case.run(&gpu).unwrap_or_else(|error| panic!("{case:?}: {error}"));
    let names = ["", "_bf16", "_f16"].map(|dtype| format!("{kernel}{dtype}"));
    let launches = gpu.driver().take_launches();
    let of_kernel = launches.iter().filter(|(name, _)| names.iter().any(|n| n == name));
    let mut total = Traffic { read: 0, written: 0, conflicts: 0 };
    let mut found = false;
    for (_, counters) in of_kernel {
        found = true;
        total.read += 32 * counters.global_read_sectors;
        total.written += 32 * counters.global_write_sectors;
        total.conflicts += counters.shared_conflicts;
    }
    assert!(found, "{case:?} launches {kernel}: {launches:?}");
    Some(total)
}

/// Asserts that a kernel's global traffic is within 2 % of its header's formula, and its bank conflicts 0.
pub fn check_traffic(case: &impl Case, kernel: &str, read: usize, written: usize) {
    let Some(traffic) = traffic(case, kernel) else { return };
    let near = |got: u64, want: usize| (got as f64 - want as f64).abs() <= 0.02 * want as f64;
    assert!(
        near(traffic.read, read),
        "{kernel} reads {} bytes, its header says {read}: {case:?}",
        traffic.read
    );
    let wrote = traffic.written;
    assert!(near(wrote, written), "{kernel} writes {wrote} bytes, its header says {written}: {case:?}");
    assert_eq!(traffic.conflicts, 0, "{kernel}: bank conflicts: {case:?}");
}

/// How many of `all` to keep: every count, or on the emulator, which is slow, those at the ends and in the middle.
pub fn kept_counts(all: usize) -> Vec<usize> {
    if reduced_shapes() { vec![1, 2, all / 2, all - 1, all] } else { (1..=all).collect() }
}

/// A generator that gives a case the same input every time.
pub fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// Values in −1..1 as the compute dtype rounds them.
pub fn elements(rng: &mut ChaCha8Rng, dtype: GpuDtype, n: usize) -> Vec<f32> {
    (0..n).map(|_| rounded(dtype, rng.random_range(-1.0f32..1.0))).collect()
}

/// Values in `range`.
pub fn floats(rng: &mut ChaCha8Rng, range: std::ops::Range<f32>, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(range.clone())).collect()
}

/// A value as the compute dtype rounds it.
pub fn rounded(dtype: GpuDtype, x: f32) -> f32 {
    match dtype {
        GpuDtype::Bf16 => bf16::from_f32(x).to_f32(),
        GpuDtype::F16 => f16::from_f32(x).to_f32(),
    }
}

/// Rounding to the compute dtype moves a value by at most this share of it.
pub fn unit_roundoff(dtype: GpuDtype) -> f64 {
    match dtype {
        GpuDtype::Bf16 => 2f64.powi(-8),
        GpuDtype::F16 => 2f64.powi(-11),
    }
}

/// As f64.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// `len` of `of` indices, ascending.
pub fn subset(rng: &mut ChaCha8Rng, of: usize, len: usize) -> Vec<u32> {
    let mut all: Vec<u32> = (0..of as u32).collect();
    while all.len() > len {
        all.remove(rng.random_range(0..all.len()));
    }
    all
}

/// Uploads.
pub trait Put: Backend {
    /// Activations with these values.
    fn put_activations(&self, values: &[f32]) -> Self::Activations {
        let mut out = self.activations(values.len()).unwrap();
        self.upload_activations(values, &mut out);
        out
    }

    /// Statistics with these values.
    fn put_statistics(&self, values: &[f32]) -> Self::Statistics {
        let mut out = self.statistics(values.len()).unwrap();
        self.upload_statistics(values, &mut out);
        out
    }

    /// Indices with these values.
    fn put_indices(&self, values: &[u32]) -> Self::Indices {
        let mut out = self.indices(values.len()).unwrap();
        self.upload_indices(values, &mut out);
        out
    }

    /// A kept set with these indices.
    fn put_kept(&self, indices: &[u32], of: usize) -> KeptSet<Self::Indices> {
        KeptSet { indices: self.put_indices(indices), len: indices.len(), of }
    }

    /// A projection with weight (out, in) and an optional bias (out).
    fn put_linear(
        &self,
        weight: &[f32],
        out_features: usize,
        in_features: usize,
        bias: Option<&[f32]>,
        usage: WeightUse,
    ) -> Linear<Self> {
        let tensor = Tensor::from_f32(vec![out_features, in_features], weight.to_vec());
        let weight = self.weight(&tensor, usage).unwrap();
        Linear { weight, bias: bias.map(|bias| self.put_statistics(bias)), out_features, in_features }
    }
}

impl<B: Backend> Put for B {}
