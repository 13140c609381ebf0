//! Checks of cases: on the CPU backend, under the emulator's schedules and on a GPU against f64, and the emulator's count of
//! bytes against the kernels' headers.

use probeprune::{
    Result,
    backend::Backend,
    cpu::Cpu,
    gpu::{Gpu, GpuDtype, Tile},
};
use ptx_emu::{Completion, Policy, Settings};

use crate::{
    device::{
        TestDevice, assert_fails_without_a_gpu, gpu_only, kernels_once, launched, real_gpu, reduced_shapes,
    },
    emulator::Emulator,
    operations::{
        Case, Expected, Output, Traffic,
        near::Stored,
        source::{Plant, Source, Special},
    },
};

/// Both compute dtypes.
pub const DTYPES: [GpuDtype; 2] = [GpuDtype::Bf16, GpuDtype::F16];

/// For operations that no activations go through.
pub const ANY: GpuDtype = GpuDtype::Bf16;

/// Forward, reverse and PCT schedules with asynchronous copies as early and as late as is legal, race checker on.
pub fn schedules() -> Vec<Settings> {
    let policies = [Policy::Forward, Policy::Reverse, Policy::Pct { seed: 1, depth: 3 }];
    let completions = [Completion::Eager, Completion::Lazy];
    let both = |policy| completions.map(|completion| Settings { policy, completion, ..Settings::default() });
    let all = policies.into_iter().flat_map(both);
    all.take(if kernels_once() { 1 } else { usize::MAX }).collect()
}

/// How a case runs.
#[derive(Clone, Copy, Debug, Default)]
struct Run<'a> {
    /// A value that is unlike the others.
    plant: Option<&'a Plant>,
    /// Rows of tiles, for products on tensor cores.
    tile: Option<Tile>,
    multiprocessors: Option<u32>,
}

impl Run<'_> {
    fn source(&self, dtype: GpuDtype) -> Source<'_> {
        self.plant.map_or(Source::Exact(dtype), |plant| Source::Planted(dtype, plant))
    }

    fn gpu(&self, device: TestDevice, dtype: GpuDtype) -> Gpu<TestDevice> {
        let gpu = Gpu::new(device.with_multiprocessors(self.multiprocessors), dtype);
        match self.tile {
            Some(tile) => gpu.with_tile(tile),
            None => gpu,
        }
    }

    /// Outputs of one run.
    fn outputs<B: Backend>(&self, case: &impl Case, backend: &B, source: Source<'_>) -> Vec<Output> {
        let outputs = case.prepare(backend, source).and_then(|mut run| run(backend, true));
        outputs.unwrap_or_else(|error| panic!("{case:?}, {self:?}: {error}"))
    }

    /// Checks a case under the schedules, and on a GPU if there is one: twice if there are several schedules.
    fn check(&self, case: &impl Case, dtype: GpuDtype, schedules: &[Settings]) {
        let expected = case.expected(self.source(dtype), Stored::Element(dtype));
        let repeat = schedules.len() > 1;
        let schedules = if gpu_only() { &[] } else { schedules };
        let mut first: Option<Vec<Output>> = None;
        for settings in schedules {
            let gpu = self.gpu(TestDevice::new(settings.clone()), dtype);
            let outputs = self.outputs(case, &gpu, self.source(dtype));
            self.compare(case, &outputs, &expected);
            let same = first.as_ref().is_none_or(|first| same_bits(&outputs, first));
            assert!(same, "{case:?}, {dtype:?}, {self:?}: other bits under {settings:?}");
            first.get_or_insert(outputs);
        }
        // A GPU's tensor cores round in a way of their own, so its bits are compared with its own only.
        if let Some(cuda) = real_gpu() {
            // A backend of its own: an error of one test must not surface in another.
            let gpu = self.gpu(TestDevice::real(cuda), dtype);
            let outputs = self.outputs(case, &gpu, self.source(dtype));
            self.compare(case, &outputs, &expected);
            if repeat {
                let again = self.outputs(case, &gpu, self.source(dtype));
                assert!(same_bits(&again, &outputs), "{case:?}: other bits the second time on a GPU");
            }
        }
    }

    /// The CPU backend has float32 activations.
    fn check_on_cpu(&self, case: &impl Case, dtype: GpuDtype) {
        // The inputs of a plant are counted here.
        if kernels_once() && self.plant.is_none() {
            return;
        }
        let expected = case.expected(self.source(dtype), Stored::Float32);
        self.compare(case, &self.outputs(case, &Cpu::new(1).unwrap(), self.source(dtype)), &expected);
    }

    fn compare(&self, case: &impl Case, outputs: &[Output], expected: &[Expected]) {
        assert_eq!(outputs.len(), expected.len(), "{case:?}");
        for (which, (output, expected)) in outputs.iter().zip(expected).enumerate() {
            match (output, expected) {
                (Output::Indices(got), Expected::Indices(want)) => {
                    assert_eq!(got, want, "{case:?}, {self:?}, output {which}")
                }
                (Output::Floats(got), Expected::Floats(want)) => {
                    assert_eq!(got.len(), want.len(), "{case:?}, {self:?}, output {which}");
                    for (i, (&got, want)) in got.iter().zip(want).enumerate() {
                        assert!(
                            want.holds(got),
                            "{case:?}, {self:?}, output {which} at {i}: {got} for {want:?}"
                        );
                    }
                }
                _ => panic!("{case:?}, output {which}: floats for indices or the other way round"),
            }
        }
    }
}

/// One schedule, for shapes at which six would take too long.
fn one_schedule() -> [Settings; 1] {
    [Settings { policy: Policy::Reverse, ..Settings::default() }]
}

/// Runs a case on the CPU backend, under every schedule, and on a GPU if there is one: the results must be right, and under
/// all schedules the same to the bit. In GPU-only mode, nothing runs on the emulator.
pub fn check(case: &impl Case, dtype: GpuDtype) {
    Run::default().check_on_cpu(case, dtype);
    Run::default().check(case, dtype, &schedules());
}

/// As [`check`] under one schedule.
pub fn check_once(case: &impl Case, dtype: GpuDtype) {
    Run::default().check_on_cpu(case, dtype);
    Run::default().check(case, dtype, &one_schedule());
}

/// As [`check_once`], on the CPU backend only: for its own steps.
pub fn check_on_the_cpu(case: &impl Case, dtype: GpuDtype) {
    Run::default().check_on_cpu(case, dtype);
}

/// As [`check_once`] with one tile, but not on the CPU backend, which has none.
pub fn check_tile(case: &impl Case, dtype: GpuDtype, tile: Tile) {
    Run { tile: Some(tile), ..Run::default() }.check(case, dtype, &one_schedule());
}

/// As [`check_once`] with each tile, whatever the shape.
pub fn check_tiles(case: &impl Case, dtype: GpuDtype) {
    Run::default().check_on_cpu(case, dtype);
    for tile in Tile::ALL {
        check_tile(case, dtype, tile);
    }
}

/// As [`check_once`] on a device with one multiprocessor and on a huge one: kernels for large blocks and for small ones.
pub fn check_devices(case: &impl Case, dtype: GpuDtype) {
    Run::default().check_on_cpu(case, dtype);
    for multiprocessors in [1, 1 << 20] {
        let run = Run { multiprocessors: Some(multiprocessors), ..Run::default() };
        run.check(case, dtype, &one_schedule());
    }
}

/// As [`check_once`] with every [`Special`] value in every input, one at a time.
pub fn check_specials(case: &impl Case, dtype: GpuDtype) {
    for buffer in 0.. {
        for (i, special) in Special::ALL.into_iter().enumerate() {
            let plant = Plant::new(buffer, (buffer + i) % 3, special);
            let run = Run { plant: Some(&plant), ..Run::default() };
            run.check_on_cpu(case, dtype);
            if !plant.planted() {
                assert!(buffer > 0, "{case:?} has inputs");
                return;
            }
            run.check(case, dtype, &one_schedule());
        }
    }
}

/// Asserts that this thread's checks have launched every kernel of these modules, in both dtypes.
pub fn launched_all_of(modules: &[&str]) {
    let launched = launched();
    for module in modules {
        let ptx = std::fs::read_to_string(emulated_cuda::ptx_folder().join(format!("{module}.ptx"))).unwrap();
        let names = ptx.lines().filter_map(|line| line.strip_prefix(".visible .entry "));
        let names: Vec<&str> = names.map(|name| name.trim_end_matches('(')).collect();
        assert!(!names.is_empty(), "{module}.ptx has kernels");
        let missing: Vec<_> = names.iter().filter(|name| !launched.contains(**name)).collect();
        assert!(missing.is_empty(), "no case launches {missing:?} of {module}");
    }
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
    check_traffic_of(case, dtype, case.traffic());
}

/// As [`check_traffic`], of one of several kernels.
pub fn check_traffic_of(case: &impl Case, dtype: GpuDtype, of_kernel: Traffic) {
    let Traffic { kernel, read, written } = of_kernel;
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
