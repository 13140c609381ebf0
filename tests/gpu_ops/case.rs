//! Checks of cases: on the CPU backend, under the emulator's schedules and on a GPU against f64, and the emulator's count of
//! bytes against the kernels' headers.

use probeprune::{
    Result,
    backend::Backend,
    cpu::Cpu,
    gpu::{Driver, Gpu, GpuDtype},
};
use ptx_emu::{Completion, Policy, Settings};

use crate::{
    device::{TestDevice, assert_fails_without_a_gpu, gpu_only, real_gpu, reduced_shapes},
    emulator::Emulator,
    operations::{
        Case, Expected, Output, Traffic,
        source::{Source, unit_roundoff},
    },
};

/// Both compute dtypes.
pub const DTYPES: [GpuDtype; 2] = [GpuDtype::Bf16, GpuDtype::F16];

/// For operations that no activations go through.
pub const ANY: GpuDtype = GpuDtype::Bf16;

/// Error of float32 arithmetic where a GPU's result is rounded, as a share of the root mean square.
const CPU_SUMS: f64 = 2e-5;

/// Relative error of a float32 sum, in place of each rounding to the compute dtype.
const CPU_ROUNDING: f64 = 1e-6;

/// Forward, reverse and PCT schedules with asynchronous copies as early and as late as is legal, race checker on.
pub fn schedules() -> Vec<Settings> {
    let policies = [Policy::Forward, Policy::Reverse, Policy::Pct { seed: 1, depth: 3 }];
    let completions = [Completion::Eager, Completion::Lazy];
    let both = |policy| completions.map(|completion| Settings { policy, completion, ..Settings::default() });
    policies.into_iter().flat_map(both).collect()
}

/// Runs a case on the CPU backend, under every schedule, and on a GPU if there is one: the results must be right, and under
/// all schedules the same to the bit. In GPU-only mode, nothing runs on the emulator.
pub fn check(case: &impl Case, dtype: GpuDtype) {
    check_under(case, dtype, &schedules());
}

/// As [`check`] for shapes at which six schedules would take too long: one of them.
pub fn check_once(case: &impl Case, dtype: GpuDtype) {
    check_under(case, dtype, &[Settings { policy: Policy::Reverse, ..Settings::default() }]);
}

fn check_under(case: &impl Case, dtype: GpuDtype, schedules: &[Settings]) {
    let expected = case.expected(Source::Exact(dtype));
    check_on_cpu(case, dtype, &expected);
    let mut first: Option<Vec<Output>> = None;
    let schedules = if gpu_only() { &[] } else { schedules };
    for settings in schedules {
        let gpu = Gpu::new(Emulator::new(settings.clone()), dtype);
        let outputs = run(case, &gpu, dtype)
            .unwrap_or_else(|error| panic!("{case:?}, {dtype:?} under {settings:?}: {error}"));
        compare(case, &outputs, &expected, |sums, roundings| sums + roundings * unit_roundoff(dtype));
        match &first {
            None => first = Some(outputs),
            Some(first) => {
                assert!(same_bits(&outputs, first), "{case:?}, {dtype:?}: other bits under {settings:?}")
            }
        }
    }
    check_on_gpu(case, dtype, &expected);
}

/// The CPU backend has float32 activations.
fn check_on_cpu(case: &impl Case, dtype: GpuDtype, expected: &[Expected]) {
    let cpu = Cpu::new(1).unwrap();
    let outputs = case.prepare(&cpu, Source::Finite(dtype)).unwrap()(&cpu, true).unwrap();
    compare(case, &outputs, expected, |sums, roundings| {
        if roundings > 0.0 { sums.max(CPU_SUMS).max(roundings * CPU_ROUNDING) } else { sums }
    });
}

/// A GPU's tensor cores round in a way of their own, so its bits are compared with its own only.
fn check_on_gpu(case: &impl Case, dtype: GpuDtype, expected: &[Expected]) {
    let Some(cuda) = real_gpu() else { return };
    // A backend of its own: an error of one test must not surface in another.
    let gpu = Gpu::new(TestDevice::real(cuda), dtype);
    let run = || {
        run(case, &gpu, dtype)
            .unwrap_or_else(|error| panic!("{case:?} on {}: {error}", gpu.driver().description()))
    };
    let outputs = run();
    compare(case, &outputs, expected, |sums, roundings| sums + roundings * unit_roundoff(dtype));
    assert!(same_bits(&run(), &outputs), "{case:?}: other bits the second time on a GPU");
}

/// Runs a case once on content that `dtype` holds exactly.
pub fn run<B: Backend>(case: &impl Case, backend: &B, dtype: GpuDtype) -> Result<Vec<Output>> {
    case.prepare(backend, Source::Exact(dtype))?(backend, true)
}

/// Finite results with the CPU backend's bits (but for the sign of 0).
pub fn agrees_with_the_cpu(case: &impl Case, dtype: GpuDtype) {
    let gpu = Gpu::new(TestDevice::new(Settings::default()), dtype);
    let on_cpu = run(case, &Cpu::new(1).unwrap(), dtype).unwrap();
    assert_eq!(run(case, &gpu, dtype).unwrap(), on_cpu, "{case:?}");
}

#[test]
fn gpu_only_mode_fails_without_a_gpu() {
    assert_fails_without_a_gpu("norm::norm");
}

/// Whether all outputs are the same to the bit.
pub fn same_bits(a: &[Output], b: &[Output]) -> bool {
    let bits = |output: &Output| match output {
        Output::Floats(values) => values.iter().map(|x| x.to_bits()).collect(),
        Output::Indices(values) => values.clone(),
    };
    a.iter().map(bits).eq(b.iter().map(bits))
}

/// `limit` makes the tolerance from what float32 sums and roundings of results allow.
fn compare(case: &impl Case, outputs: &[Output], expected: &[Expected], limit: impl Fn(f64, f64) -> f64) {
    assert_eq!(outputs.len(), expected.len(), "{case:?}");
    for (which, (output, expected)) in outputs.iter().zip(expected).enumerate() {
        match (output, expected) {
            (Output::Indices(got), Expected::Indices(want)) => {
                assert_eq!(got, want, "{case:?}, output {which}")
            }
            (Output::Floats(got), Expected::Floats { values, sums, roundings }) => {
                assert_eq!(got.len(), values.len(), "{case:?}, output {which}");
                let rms = (values.iter().map(|x| x * x).sum::<f64>() / values.len().max(1) as f64).sqrt();
                let limit = limit(*sums, *roundings) * rms;
                for (i, (&got, &want)) in got.iter().zip(values).enumerate() {
                    let error = (f64::from(got) - want).abs();
                    // Not `error > limit`: a NaN must not pass.
                    let within = error <= limit;
                    assert!(within, "{case:?}, output {which} at {i}: {got} for {want}, rms {rms}");
                }
            }
            _ => panic!("{case:?}, output {which}: floats for indices or the other way round"),
        }
    }
}

/// One launch's traffic in 32-byte sectors times 32, as the emulator counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Bytes read from global memory.
    pub read: u64,
    /// Bytes written to global memory.
    pub written: u64,
    /// Extra passes over shared memory because of bank conflicts.
    pub conflicts: u64,
}

/// Runs a case once and returns the traffic of its launches of `kernel` (the name without dtype), summed. A GPU counts
/// nothing: in GPU-only mode this is [`check`] and returns `None`.
pub fn count(case: &impl Case, dtype: GpuDtype, kernel: &str) -> Option<Counted> {
    if gpu_only() {
        check(case, dtype);
        return None;
    }
    let gpu = Gpu::new(Emulator::new(Settings::unchecked()), dtype);
    run(case, &gpu, dtype).unwrap_or_else(|error| panic!("{case:?}: {error}"));
    let names = ["", "_bf16", "_f16"].map(|dtype| format!("{kernel}{dtype}"));
    let launches = gpu.driver().take_launches();
    let of_kernel = launches.iter().filter(|(name, _)| names.iter().any(|n| n == name));
    let mut total = Counted { read: 0, written: 0, conflicts: 0 };
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
pub fn check_traffic(case: &impl Case, dtype: GpuDtype) {
    let Traffic { kernel, read, written } = case.traffic();
    let Some(counted) = count(case, dtype, &kernel) else { return };
    let near = |got: u64, want: usize| (got as f64 - want as f64).abs() <= 0.02 * want as f64;
    assert!(
        near(counted.read, read),
        "{kernel} reads {} bytes, its header says {read}: {case:?}",
        counted.read
    );
    let wrote = counted.written;
    assert!(near(wrote, written), "{kernel} writes {wrote} bytes, its header says {written}: {case:?}");
    assert_eq!(counted.conflicts, 0, "{kernel}: bank conflicts: {case:?}");
}

/// How many of `all` to keep: every count, or on the emulator, which is slow, those at the ends and in the middle.
pub fn kept_counts(all: usize) -> Vec<usize> {
    if reduced_shapes() { vec![1, 2, all / 2, all - 1, all] } else { (1..=all).collect() }
}
