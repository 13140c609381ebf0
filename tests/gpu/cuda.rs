//! The CUDA driver: on the emulated libcuda in a process of its own, and on a real GPU where there is one. With
//! `PROBEPRUNE_TEST_DEVICE=cuda` on that GPU only, and it is an error if there is none.

#[cfg(target_os = "linux")]
mod emulated;

use std::{env, process::Command, sync::Arc, time::Instant};

use cudarc::driver::{
    result::{graph, stream, stream::StreamKind},
    sys::{CUgraphInstantiate_flags, CUstreamCaptureMode},
};
use probeprune::{
    Result,
    backend::{Backend, Linear, LinearOperands, Norm, NormKind, NormOperands, WeightUse},
    checkpoint::Tensor,
    gpu::{Activations, Cuda, Driver, Gpu, GpuDtype, OnStream, Statistics, Tile, cuda},
};

#[cfg(target_os = "linux")]
use crate::emulated_cuda::on_emulated_driver;
use crate::{common::assert_error, device::gpu_only};

/// Set in a child process that is to run a test's body, instead of starting a child.
const CHILD: &str = "PROBEPRUNE_TEST_CHILD";

/// Whether there is a GPU that the kernels run on.
fn there_is_a_gpu() -> bool {
    cuda::survey().is_ok_and(|survey| survey.devices.first().is_some_and(|gpu| survey.supports(gpu).is_ok()))
}

/// A child process that runs one test of this file.
fn child(name: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", &format!("cuda::{name}"), "--nocapture"]).env(CHILD, "1");
    command
}

/// Runs a child, which has to pass; returns what it wrote to standard error.
fn passes(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let [reported, said] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success() && reported.contains("1 passed"), "{reported}{said}");
    said
}

/// Runs `body` of the test called `name` in a child process on the emulated driver, and in another one on a real GPU if
/// there is one, or has to be. Returns what the child on the emulated driver wrote to standard error.
fn on_devices(name: &str, body: impl FnOnce()) -> Option<String> {
    if env::var_os(CHILD).is_some() {
        body();
        return None;
    }
    let only = gpu_only();
    if only || there_is_a_gpu() {
        passes(&mut child(name));
    }
    #[cfg(target_os = "linux")]
    return (!only).then(|| passes(on_emulated_driver(&mut child(name), &[])));
    #[cfg(not(target_os = "linux"))]
    None
}

fn gpu() -> Gpu<Cuda> {
    Gpu::new(Cuda::new(0).unwrap(), GpuDtype::Bf16)
}

#[test]
fn without_a_driver_the_error_says_so() {
    if gpu_only() {
        assert!(there_is_a_gpu(), "{:?}", cuda::survey());
    } else if !cuda::driver_is_installed() {
        assert_error(
            Cuda::new(0),
            &["cuda", "driver", "NVIDIA's driver", "none on this machine", "`device` cpu"],
        );
    }
}

#[test]
fn bytes_arrive_whatever_their_number() {
    on_devices("bytes_arrive_whatever_their_number", || {
        let cuda = Cuda::new(0).unwrap();
        // Small writes, more than are staged at a time, from a buffer that changes at once.
        let memory = cuda.alloc(100 * 8).unwrap();
        let address = cuda.address(&memory);
        let mut zeroed = [1; 100 * 8];
        cuda.read(address, &mut zeroed).unwrap();
        assert_eq!(zeroed, [0; 100 * 8], "new memory");
        for i in 0..100u64 {
            let mut bytes = i.to_le_bytes();
            cuda.write(address + 8 * i, &bytes).unwrap();
            bytes.fill(0xff);
        }
        let mut read = [0; 100 * 8];
        cuda.read(address, &mut read).unwrap();
        assert!(read.chunks(8).enumerate().all(|(i, bytes)| bytes == (i as u64).to_le_bytes()));
        cuda.zero(address + 8, 16).unwrap();
        cuda.read(address, &mut read).unwrap();
        assert_eq!(read[..32], [&[0; 24][..], &3u64.to_le_bytes()].concat());
        // A large one in several pieces, the last of them odd.
        let mut large: Vec<u8> = (0..40_000_001u32).map(|i| (i % 251) as u8).collect();
        let memory = cuda.alloc(large.len()).unwrap();
        cuda.write(cuda.address(&memory), &large).unwrap();
        let expected = std::mem::replace(&mut large, vec![0; 40_000_001]);
        cuda.read(cuda.address(&memory), &mut large).unwrap();
        assert!(large == expected);
        assert_eq!(cuda.address(&cuda.alloc(0).unwrap()), 0);
        let gigabytes = format!(", {:.1} GB, ", cuda.device().memory as f64 / 1e9);
        let description = cuda.description();
        assert!(description.starts_with("cuda:0 (") && description.contains(&gigabytes), "{description}");
        // The emulated device has four.
        assert!(cuda.multiprocessors() > 3);
    });
}

#[test]
fn running_out_of_memory_says_how_much_and_breaks_nothing() {
    on_devices("running_out_of_memory_says_how_much_and_breaks_nothing", || {
        let gpu = gpu();
        let before = gpu.activations(1000).unwrap();
        // 64 TB: more than any GPU has, and no more than there are addresses.
        let entries = 1 << 45;
        assert_error(
            gpu.activations(entries),
            &["cuda:0", "memory", &format!("{} bytes", 2 * entries), "bytes free of", "smaller batches"],
        );
        assert_eq!(gpu.download_activations(&before, 1000).unwrap(), [0.0; 1000]);
        gpu.activations(1000).unwrap();
    });
}

/// A matrix and what norms of it go to.
struct Norms<'a> {
    gpu: &'a Gpu<Cuda>,
    norm: Norm<Gpu<Cuda>>,
    x: Activations<Cuda>,
    out: Activations<Cuda>,
    sums: Statistics<Cuda>,
}

const ROWS: usize = 5;
const WIDTH: usize = 40;

impl<'a> Norms<'a> {
    fn new(gpu: &'a Gpu<Cuda>) -> Self {
        let buffer = || gpu.activations(ROWS * WIDTH).unwrap();
        let norm = Norm { kind: NormKind::Rms, weight: None, bias: None, eps: 1e-5 };
        Self { gpu, norm, x: buffer(), out: buffer(), sums: gpu.statistics(ROWS).unwrap() }
    }

    fn upload(&mut self, seed: usize) {
        let values: Vec<f32> = (0..ROWS * WIDTH).map(|i| ((i * 7 + seed) % 13) as f32 - 6.0).collect();
        self.gpu.upload_activations(&values, &mut self.x);
    }

    fn issue(&mut self) {
        self.gpu.norm(NormOperands {
            x: &self.x,
            norm: Some(&self.norm),
            rows: ROWS,
            hidden_size: WIDTH,
            out: &mut self.out,
            sum_squares: &mut self.sums,
        });
    }

    fn result(&self) -> Result<(Vec<f32>, Vec<f32>)> {
        Ok((
            self.gpu.download_activations(&self.out, ROWS * WIDTH)?,
            self.gpu.download_statistics(&self.sums, ROWS)?,
        ))
    }
}

/// Launches one by one, and the same as a graph, give the same bits.
fn direct_and_replayed(gpu: &Gpu<Cuda>) {
    let mut norms = Norms::new(gpu);
    for seed in 0..4 {
        norms.upload(seed);
        norms.issue();
        let direct = norms.result().unwrap();
        let sum: f32 = (0..WIDTH).map(|i| (((i * 7 + seed) % 13) as f32 - 6.0).powi(2)).sum();
        assert!((direct.1[0] - sum).abs() <= 1e-4 * sum, "{direct:?}");
        gpu.clear_statistics(&mut norms.sums, ROWS);
        gpu.upload_activations(&[0.0; ROWS * WIDTH], &mut norms.out);
        gpu.scope(|| {
            norms.issue();
            norms.issue();
        });
        assert_eq!(norms.result().unwrap(), direct, "round {seed}");
    }
}

#[test]
fn graphs_do_what_launches_do() {
    on_devices("graphs_do_what_launches_do", || {
        let gpu = gpu();
        direct_and_replayed(&gpu);
        let graph = gpu.driver().graph(&[]).unwrap().expect("there is memory for a graph");
        gpu.driver().replay(&graph).unwrap();
    });
}

/// Time passes between two events.
fn events_are_apart(gpu: &Gpu<Cuda>) {
    let (cuda, mut norms) = (gpu.driver(), Norms::new(gpu));
    let [before, after] = [(); 2].map(|()| cuda.event().unwrap());
    let start = Instant::now();
    cuda.record(&before).unwrap();
    norms.issue();
    cuda.record(&after).unwrap();
    cuda.synchronize().unwrap();
    let seconds = cuda.elapsed(&before, &after).unwrap();
    // Events are apart by half a microsecond at least.
    assert!(seconds > 0.0 && seconds <= start.elapsed().as_secs_f64() + 1e-6, "{seconds}");
    assert!(cuda.elapsed(&after, &before).unwrap() <= 0.0);
}

#[test]
fn events_measure_time() {
    on_devices("events_measure_time", || events_are_apart(&gpu()));
}

#[test]
fn kernels_come_from_machine_code_or_ptx() {
    on_devices("kernels_come_from_machine_code_or_ptx", || {
        let cuda = Cuda::new(0).unwrap();
        let loading = cuda.loading();
        assert!(loading.modules > 20 && loading.from_ptx <= loading.modules, "{loading:?}");
        assert!(loading.to_string().starts_with("kernels loaded in "), "{loading}");
        // A driver may refuse the machine code, but no driver makes some.
        assert!(cuda::build().contains("sm_") || loading.from_ptx == loading.modules, "{loading}");
    });
}

#[test]
fn others_streams_can_be_worked_on() {
    on_devices("others_streams_can_be_worked_on", || {
        let owner = Cuda::new(0).unwrap();
        for stream in [owner.stream(), std::ptr::null_mut()] {
            // SAFETY: the legacy stream is always there, and the other one lives as long as its owner.
            let cuda = unsafe { Cuda::on_stream(0, stream) }.unwrap();
            assert_eq!(cuda.stream(), stream);
            direct_and_replayed(&Gpu::new(cuda, GpuDtype::F16));
        }
        owner.synchronize().unwrap();
    });
}

#[test]
fn a_callers_capture_may_be_a_kernels_first_use() {
    on_devices("a_callers_capture_may_be_a_kernels_first_use", || {
        let cuda = Arc::new(Cuda::new(0).unwrap());
        let stream = cuda.stream();
        // SAFETY: the stream is `cuda`'s own.
        let gpu = Gpu::new(unsafe { OnStream::new(Arc::clone(&cuda), stream) }, GpuDtype::Bf16);
        let on_stream = gpu.driver();
        assert_error(on_stream.alloc(16), &["cuda:0", "allocating", "borrowed memory only"]);
        assert_error(on_stream.write(0, &[0]), &["copying to the device", "borrowed memory only"]);
        assert_error(on_stream.read(0, &mut [0]), &["copying from the device", "borrowed memory only"]);
        assert_eq!(on_stream.description(), cuda.description());
        assert_eq!(on_stream.multiprocessors(), cuda.multiprocessors());
        let events = [(); 2].map(|()| on_stream.event().unwrap());
        events.iter().for_each(|event| on_stream.record(event).unwrap());
        on_stream.synchronize().unwrap();
        let seconds = on_stream.elapsed(&events[0], &events[1]).unwrap();
        assert!(0.0 < seconds && seconds < 1.0, "{seconds}");
        let memory = [2 * ROWS * WIDTH, 2 * ROWS * WIDTH, 4 * ROWS].map(|bytes| cuda.alloc(bytes).unwrap());
        let [x, out, sums] = [0, 1, 2].map(|i| cuda.address(&memory[i]));
        cuda.write(x, &[0x80, 0x3f].repeat(ROWS * WIDTH)).unwrap(); // 1 in bf16
        let norm = Norm { kind: NormKind::Rms, weight: None, bias: None, eps: 1e-5 };
        let sums_of_squares = || {
            let mut bytes = [0; 4 * ROWS];
            cuda.read(sums, &mut bytes).unwrap();
            bytemuck::pod_collect_to_vec::<u8, f32>(&bytes)
        };
        // SAFETY: `memory` has these sizes, and lives until all is over; nothing else captures or uses the stream.
        unsafe {
            let [lent_x, mut lent_out] = [x, out].map(|at| gpu.borrow_activations(at, ROWS * WIDTH).unwrap());
            let mut lent_sums = gpu.borrow_statistics(sums, ROWS).unwrap();
            cuda.write(sums, &[1; 4 * ROWS]).unwrap();
            gpu.clear_statistics(&mut lent_sums, ROWS);
            assert_eq!(sums_of_squares(), [0.0; ROWS]);
            let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
            stream::begin_capture(stream.cast(), mode).unwrap();
            gpu.norm(NormOperands {
                x: &lent_x,
                norm: Some(&norm),
                rows: ROWS,
                hidden_size: WIDTH,
                out: &mut lent_out,
                sum_squares: &mut lent_sums,
            });
            let template = stream::end_capture(stream.cast()).unwrap();
            gpu.issued().unwrap();
            assert_eq!(sums_of_squares(), [0.0; ROWS], "captured, not issued");
            let made = graph::instantiate(template, CUgraphInstantiate_flags(0)).unwrap();
            graph::launch(made, stream.cast()).unwrap();
            assert_eq!(sums_of_squares(), [WIDTH as f32; ROWS]);
            graph::exec_destroy(made).unwrap();
            graph::destroy(template).unwrap();
        }
    });
}

#[test]
fn others_memory_is_used_in_place_and_stays_theirs() {
    on_devices("others_memory_is_used_in_place_and_stays_theirs", || {
        let owner = Cuda::new(0).unwrap();
        let memory = owner.alloc(4096).unwrap();
        let address = owner.address(&memory);
        // SAFETY: `owner` lives longer than what works on its stream.
        let gpu = Gpu::new(unsafe { Cuda::on_stream(0, owner.stream()) }.unwrap(), GpuDtype::F16);
        let values = [1.0, -2.0, 0.5];
        // SAFETY: `memory` lives longer than what is made of its address, and both work on one stream.
        let mut borrowed = unsafe { gpu.borrow_activations(address, 3) }.unwrap();
        gpu.upload_activations(&values, &mut borrowed);
        drop(borrowed);
        let mut bytes = [0; 6];
        owner.read(address, &mut bytes).unwrap();
        assert_eq!(bytes, [0x00, 0x3c, 0x00, 0xc0, 0x00, 0x38], "1, -2 and 0.5 in f16");
        owner.write(address, bytemuck::cast_slice(&[7u32, 8])).unwrap();
        // SAFETY: as above.
        let indices = unsafe { gpu.borrow_indices(address, 2) }.unwrap();
        assert_eq!(gpu.download_indices(&indices, 2).unwrap(), [7, 8]);
        // SAFETY: what is refused is not used.
        let (host, odd) =
            unsafe { (gpu.borrow_statistics(0x1234_5670, 2), gpu.borrow_indices(address + 4, 2)) };
        assert_error(host, &["borrowed memory", "an address in cuda:0", "CUDA does not know"]);
        assert_error(odd, &["borrowed memory", "a multiple of 16"]);
    });
}

#[test]
fn a_fault_on_the_device_is_told_from_then_on() {
    let said = on_devices("a_fault_on_the_device_is_told_from_then_on", || {
        let gpu = gpu();
        let mut norms = Norms::new(&gpu);
        assert!(!gpu.driver().is_broken());
        // Rows up to 32 GB beyond the buffers' ends: memory next to them may be mapped on a GPU, but not that far.
        let (x, norm) = (&norms.x, Some(&norms.norm));
        gpu.norm(NormOperands {
            x,
            norm,
            rows: 1 << 22,
            hidden_size: 4096,
            out: &mut norms.out,
            sum_squares: &mut norms.sums,
        });
        let fault = "CUDA_ERROR_ILLEGAL_ADDRESS";
        assert_error(norms.result(), &["cuda:0", "no fault", fault, "Restart the process"]);
        let again = ["cuda:0", "context", "one that broke before", fault, "Restart the process"];
        assert_error(norms.result(), &again);
        assert_error(gpu.activations(1), &again);
        norms.upload(0);
        gpu.scope(|| norms.issue());
        assert_error(norms.result(), &again);
        assert_error(gpu.driver().synchronize(), &again);
        assert!(gpu.driver().is_broken());
    });
    assert!(said.is_none_or(|said| said.contains("norm")), "the emulator's diagnosis is missing");
}

#[test]
fn buffers_may_outlive_a_backend_at_work() {
    on_devices("buffers_may_outlive_a_backend_at_work", || {
        let gpu = gpu();
        let buffer = || gpu.statistics(64).unwrap();
        let [mut sums, mut other] = [buffer(), buffer()];
        let (x, mut out) = (gpu.activations(64).unwrap(), gpu.activations(64).unwrap());
        // Still running when the backend goes.
        gpu.upload_statistics(&[1.0; 64], &mut other);
        gpu.norm(NormOperands {
            x: &x,
            norm: None,
            rows: 8,
            hidden_size: 8,
            out: &mut out,
            sum_squares: &mut sums,
        });
        drop(gpu);
    });
}

#[test]
fn kernels_get_the_shared_memory_that_they_ask_for() {
    on_devices("kernels_get_the_shared_memory_that_they_ask_for", || {
        // The widest tile has more than a kernel may have without asking.
        let gpu = gpu().with_tile(Tile::Rows128);
        let (rows, width) = (20, 16);
        let weight =
            gpu.weight(&Tensor::from_f32(vec![width, width], vec![1.0; 256]), WeightUse::Rows).unwrap();
        let projection = Linear { weight, bias: None, out_features: width, in_features: width };
        let [mut x, mut out] = [(); 2].map(|()| gpu.activations(rows * width).unwrap());
        gpu.upload_activations(&vec![1.0; rows * width], &mut x);
        for _ in 0..2 {
            gpu.linear(LinearOperands::new(&x, rows, &projection, &mut out));
        }
        assert_eq!(gpu.download_activations(&out, rows * width).unwrap(), [16.0; 20 * 16]);
    });
}

#[test]
fn buffers_may_go_in_another_thread() {
    // The emulated driver reports what is left when the context goes.
    on_devices("buffers_may_go_in_another_thread", || {
        let gpu = gpu();
        let buffers = [gpu.statistics(64).unwrap(), gpu.statistics(64).unwrap()];
        std::thread::spawn(move || drop(buffers)).join().unwrap();
    });
}

#[test]
fn buffers_may_outlive_a_backend_with_graphs() {
    on_devices("buffers_may_outlive_a_backend_with_graphs", || {
        let gpu = gpu();
        let buffer = gpu.statistics(10).unwrap();
        direct_and_replayed(&gpu);
        drop(gpu);
        drop(buffer);
    });
}

#[test]
fn two_backends_and_threads_do_not_disturb_each_other() {
    on_devices("two_backends_and_threads_do_not_disturb_each_other", || {
        let (one, two) = (gpu(), gpu());
        std::thread::scope(|scope| {
            for gpu in [&one, &two, &one] {
                scope.spawn(|| direct_and_replayed(gpu));
            }
        });
    });
}
