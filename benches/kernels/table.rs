//! The case table under criterion, with rates and shares that criterion does not print.

use std::{cell::RefCell, time::Duration};

use criterion::{Criterion, Throughput};
use probeprune::{Result, backend::Backend};

use crate::{
    case::{LayerShape, cases},
    ceiling::Ceiling,
    content::Content,
    operations::{Case, ElementBytes, Operation, Ready, source::Source},
    peers::{Peers, Rival},
    timer::{Timer, median},
};

/// Buffers that are used in turn.
const SETS: u64 = 2;

/// A device and the parameters of its benchmark.
pub struct Target<'a, B: Backend> {
    pub name: &'static str,
    pub backend: &'a B,
    pub ceiling: Ceiling,
    pub flush: usize,
    pub element: ElementBytes,
    /// Who else multiplies.
    pub peers: Option<&'a dyn Peers>,
}

/// Measures every case of these shapes and prints what criterion does not.
///
/// # Errors
/// A device that failed, or has no room.
pub fn run<B: Backend>(
    criterion: &mut Criterion,
    target: &Target<'_, B>,
    shapes: &[LayerShape],
) -> Result<()> {
    let backend = target.backend;
    let content = Content::random();
    let timer = RefCell::new(Timer::new(backend, target.flush)?);
    // The dense operation's seconds, which come before the pruned one's.
    let mut whole = None;
    let mut lines = vec![format!("{}: {}", target.name, target.ceiling)];
    for case in shapes.iter().flat_map(|&shape| cases(shape)) {
        let (id, operation) = (case.id(), case.operation());
        // A filter of the command line may leave it out: buffers are made when it is first run.
        let ready: RefCell<Vec<Ready<B>>> = RefCell::default();
        let ours = measure(criterion, &id, &operation, target, &timer, |i| {
            let mut ready = ready.borrow_mut();
            if ready.is_empty() {
                ready.extend((0..SETS).map(|seed| {
                    operation.prepare(backend, Source::Content(&content, seed)).expect("the device has room")
                }));
            }
            let set = i % ready.len();
            ready[set](backend, false).expect("nothing is read");
        });
        let Some(ours) = ours else { continue };
        // A library that is not here has no column.
        let theirs = target.peers.zip(operation.product());
        let theirs = theirs.and_then(|(peers, sizes)| peers.prepare(Rival::Product(sizes)).ok());
        let theirs = theirs.and_then(|mut product| {
            measure(criterion, &format!("{id}/cublas"), &operation, target, &timer, |_| (product.run)())
        });
        if !case.pruned {
            whole = Some(ours);
        }
        lines.push(line(&id, &operation, target, ours, whole.filter(|_| case.pruned), theirs));
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
    operation: &Operation,
    target: &Target<'_, B>,
    timer: &RefCell<Timer<B>>,
    mut run: impl FnMut(usize),
) -> Option<f64> {
    let mut seconds = Vec::new();
    let mut group = criterion.benchmark_group(target.name);
    let bytes = operation.bytes(target.element);
    group.throughput(
        operation.flops().map_or(Throughput::Bytes(bytes as u64), |flops| Throughput::Elements(flops as u64)),
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
    operation: &Operation,
    target: &Target<'_, B>,
    ours: f64,
    whole: Option<f64>,
    theirs: Option<f64>,
) -> String {
    let moved = operation.bytes(target.element) as f64 / ours;
    let share = |rate: f64, most: f64| format!(" ({:.0} %)", 100.0 * rate / most);
    let mut out = format!(
        "{id:<48} {:>12.2} µs  {:>8.1} GB/s{}",
        1e6 * ours,
        moved / 1e9,
        share(moved, target.ceiling.copy)
    );
    if let Some(flops) = operation.flops() {
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
