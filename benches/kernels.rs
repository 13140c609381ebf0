//! Every operation of a pruned block, on the CPU and on a GPU where there is one.
//!
//! - `cargo bench --bench kernels`: criterion's measurement of the case table, then each case's time, rate, share of
//!   what this machine can do, and time over the whole operation's at the same shape.
//! - `cargo bench --bench kernels -- --test`: every case once, at a small shape.
//! - `cargo bench --bench kernels --features cublas -- --goals [--pytorch "PYTHON tools/peers/gpu.py"]`: the project's goals
//!   for a GPU, each with its limit.

#![allow(unreachable_pub)]

#[path = "kernels/block.rs"]
mod block;
#[path = "kernels/case.rs"]
mod case;
#[path = "kernels/ceiling.rs"]
mod ceiling;
#[path = "kernels/cuda.rs"]
mod cuda;
#[path = "kernels/goals.rs"]
mod goals;
mod peer;
#[path = "kernels/pytorch.rs"]
mod pytorch;
#[path = "kernels/timer.rs"]
mod timer;

use std::{cell::RefCell, sync::Arc, time::Duration};

use case::{Case, LARGE, MEDIUM, SMALL, Shape, cases, prepare::Ready};
use ceiling::Ceiling;
use criterion::{Criterion, Throughput};
use cuda::Peer;
use probeprune::{
    Result,
    backend::Backend,
    cpu::Cpu,
    gpu::{Cuda, Gpu, GpuDtype, cuda::survey},
};
use timer::{Timer, median};

/// Buffers that are used in turn.
const SETS: u64 = 2;

/// A device and what its bench needs to know.
struct Target<'a, B: Backend> {
    name: &'static str,
    backend: &'a B,
    ceiling: Ceiling,
    flush: usize,
    /// Bytes of an activation and of a weight.
    element: usize,
    weight: usize,
    peer: &'a dyn Fn([usize; 3]) -> Result<Option<Peer<'a>>>,
}

fn main() {
    let flag = |name: &str| std::env::args().any(|argument| argument == name);
    // Without --bench, cargo test runs this.
    let smoke = flag("--test") || !flag("--bench");
    if flag("--goals") && !smoke {
        let mut rest = std::env::args().skip_while(|argument| argument != "--pytorch").skip(1);
        return goals::print(rest.next().as_deref());
    }
    let short = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    let mut criterion = short.sample_size(10).configure_from_args();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = Cpu::new(threads).expect("threads start");
    let shapes: &[Shape] = if smoke { &[SMALL] } else { &MEDIUM };
    let target = Target {
        name: "cpu",
        backend: &cpu,
        ceiling: if smoke { Ceiling::unknown() } else { ceiling::of_cpu(threads) },
        flush: 0,
        element: 4,
        weight: 2,
        peer: &|_| Ok(None),
    };
    run(&mut criterion, &target, shapes).expect("the CPU has room");
    if smoke {
        goals_once(&Arc::new(cpu)).expect("the CPU has room");
    }
    let usable = survey().and_then(|survey| survey.supports(survey.device(0)?));
    match usable.and_then(|()| Cuda::new(0)) {
        Err(reason) => println!("not measured on a GPU: {reason}"),
        Ok(cuda) => on_gpu(&mut criterion, cuda, smoke).expect("the GPU works"),
    }
    criterion.final_summary();
}

fn on_gpu(criterion: &mut Criterion, cuda: Cuda, smoke: bool) -> Result<()> {
    let gpu = Arc::new(Gpu::new(cuda, GpuDtype::Bf16));
    let ceiling = if smoke { Ceiling::unknown() } else { ceiling::of_gpu(&gpu)? };
    let peer = |sizes| cuda::cublas(&gpu, sizes);
    let flush = if smoke { 1 << 20 } else { cuda::FLUSH };
    let target = Target { name: "cuda", backend: &*gpu, ceiling, flush, element: 2, weight: 2, peer: &peer };
    run(criterion, &target, if smoke { &[SMALL] } else { &LARGE })?;
    if smoke { goals_once(&gpu) } else { Ok(()) }
}

/// The goals' code at a small shape: its numbers mean nothing there.
fn goals_once<B: Backend>(backend: &Arc<B>) -> Result<()> {
    let mut timer = Timer::new(&**backend, 0)?;
    let token = Shape { grid: probeprune::backend::Grid { samples: 1, tokens: 1 }, ..SMALL };
    goals::layers(backend, &mut timer, [SMALL, SMALL, SMALL, token], 1)?;
    let peer = |_| Ok(Some(Box::new(|| ()) as Peer<'static>));
    goals::products(&**backend, &mut timer, &peer, SMALL, &[32], 1)?;
    goals::decoding_bandwidth(&**backend, &mut timer, token, 2)?;
    pytorch::rows(backend, &mut timer, [SMALL, SMALL, SMALL, token], 8, &mut |_| 1.0, 1)?;
    Ok(())
}

/// Measures every case of these shapes and prints what criterion does not.
fn run<B: Backend>(criterion: &mut Criterion, target: &Target<'_, B>, shapes: &[Shape]) -> Result<()> {
    let backend = target.backend;
    let timer = RefCell::new(Timer::new(backend, target.flush)?);
    // The whole operation's seconds, which come before those of what is kept.
    let mut whole = None;
    let mut lines = vec![format!("{}: {}", target.name, target.ceiling)];
    for case in shapes.iter().flat_map(|&shape| cases(shape)) {
        let id = case.id();
        // A filter of the command line may leave it out: buffers are made when it is first run.
        let ready: RefCell<Vec<Ready<B>>> = RefCell::default();
        let ours = measure(criterion, &id, &case, target, &timer, |i| {
            let mut ready = ready.borrow_mut();
            if ready.is_empty() {
                ready.extend((0..SETS).map(|seed| case.prepare(backend, seed).expect("the device has room")));
            }
            let set = i % ready.len();
            drop(ready[set](backend, false));
        });
        let Some(ours) = ours else { continue };
        let theirs = case.product().map(|sizes| (target.peer)(sizes)).transpose()?.flatten();
        let theirs = theirs.and_then(|mut product| {
            measure(criterion, &format!("{id}/cublas"), &case, target, &timer, |_| product())
        });
        if !case.pruned {
            whole = Some(ours);
        }
        lines.push(line(&id, &case, target, ours, whole.filter(|_| case.pruned), theirs));
    }
    if target.ceiling.is_known() {
        lines.iter().for_each(|line| println!("{line}"));
    }
    Ok(())
}

/// The median seconds of a run, if criterion does not leave it out.
fn measure<B: Backend>(
    criterion: &mut Criterion,
    id: &str,
    case: &Case,
    target: &Target<'_, B>,
    timer: &RefCell<Timer<B>>,
    mut run: impl FnMut(usize),
) -> Option<f64> {
    let mut seconds = Vec::new();
    let mut group = criterion.benchmark_group(target.name);
    let bytes = case.bytes(target.element, target.weight);
    group.throughput(
        case.flops().map_or(Throughput::Bytes(bytes as u64), |flops| Throughput::Elements(flops as u64)),
    );
    group.bench_function(id, |bencher| {
        bencher.iter_custom(|count| {
            let times =
                timer.borrow_mut().time(target.backend, count as usize, &mut run).expect("the device works");
            seconds.extend_from_slice(&times);
            // Criterion drops samples of 0.
            Duration::from_secs_f64(times.iter().sum::<f64>().max(1e-9))
        });
    });
    group.finish();
    (!seconds.is_empty()).then(|| median(&seconds))
}

fn line<B: Backend>(
    id: &str,
    case: &Case,
    target: &Target<'_, B>,
    ours: f64,
    whole: Option<f64>,
    theirs: Option<f64>,
) -> String {
    let moved = case.bytes(target.element, target.weight) / ours;
    let share = |rate: f64, most: f64| format!(" ({:.0} %)", 100.0 * rate / most);
    let mut out = format!(
        "{id:<48} {:>12.2} µs  {:>8.1} GB/s{}",
        1e6 * ours,
        moved / 1e9,
        share(moved, target.ceiling.copy)
    );
    if let Some(flops) = case.flops() {
        let rate = flops / ours;
        out += &format!("  {:>9.1} GFLOP/s{}", rate / 1e9, share(rate, target.ceiling.flops));
    }
    for (what, other) in [("whole", whole), ("cuBLAS", theirs)] {
        if let Some(other) = other {
            out += &format!("  {:.3} × {what}", ours / other);
        }
    }
    out
}
