//! How launches reach a driver: at once, collected, and as graphs.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use probeprune::{
    Error, Result,
    backend::{Backend, Linear, LinearOperands, Norm, NormKind, NormOperands, WeightUse},
    checkpoint::Tensor,
    gpu::{Activations, Driver, Gpu, GpuDtype, Launch, Statistics},
};

use crate::{common::assert_error, device::TestDevice};

/// What a driver was asked to do. Reading and allocating are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Launch,
    Write,
    Zero,
    /// A graph of so many launches was made.
    Graph(usize),
    Replay,
    Record,
}
use Event::{Replay, Write};

/// A device that keeps a record, and fails when told to.
#[derive(Debug)]
struct Recorder {
    device: TestDevice,
    events: Mutex<Vec<Event>>,
    /// So many launches work before all of them fail.
    launches_left: AtomicUsize,
    graphs: Arc<()>,
}

/// A graph, and a count of those that are alive.
#[derive(Debug)]
struct Counted {
    launches: Vec<Launch>,
    _alive: Arc<()>,
}

impl Recorder {
    fn note(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }

    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock().unwrap())
    }
}

impl Driver for Recorder {
    type Memory = <TestDevice as Driver>::Memory;
    type Graph = Counted;
    type Event = <TestDevice as Driver>::Event;

    fn alloc(&self, bytes: usize) -> Result<Self::Memory> {
        self.device.alloc(bytes)
    }

    fn address(&self, memory: &Self::Memory) -> u64 {
        self.device.address(memory)
    }

    fn write(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.note(Write);
        self.device.write(to, bytes)
    }

    fn read(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        self.device.read(from, bytes)
    }

    fn zero(&self, at: u64, bytes: usize) -> Result<()> {
        self.note(Event::Zero);
        self.device.zero(at, bytes)
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        self.note(Event::Launch);
        let left = self.launches_left.load(Ordering::Relaxed);
        if left == 0 {
            return Err(Error::device("test", "launch", "no fault", "a planted one", "None."));
        }
        self.launches_left.store(left - 1, Ordering::Relaxed);
        self.device.launch(launch)
    }

    fn graph(&self, launches: &[Launch]) -> Result<Option<Counted>> {
        self.note(Event::Graph(launches.len()));
        Ok(Some(Counted { launches: launches.to_vec(), _alive: Arc::clone(&self.graphs) }))
    }

    fn replay(&self, graph: &Counted) -> Result<()> {
        self.note(Replay);
        graph.launches.iter().try_for_each(|launch| self.device.launch(launch))
    }

    fn event(&self) -> Result<Self::Event> {
        self.device.event()
    }

    fn record(&self, event: &Self::Event) -> Result<()> {
        self.note(Event::Record);
        self.device.record(event)
    }

    fn elapsed(&self, from: &Self::Event, to: &Self::Event) -> Result<f64> {
        self.device.elapsed(from, to)
    }

    fn multiprocessors(&self) -> u32 {
        self.device.multiprocessors()
    }

    fn description(&self) -> String {
        self.device.description()
    }
}

const WIDTH: usize = 16;
const ROWS: usize = 66;

/// A backend with a matrix x and room for copies of it.
struct Bench {
    gpu: Arc<Gpu<Recorder>>,
    x: Activations<Recorder>,
    out: [Activations<Recorder>; 2],
    sums: Statistics<Recorder>,
}

impl Bench {
    fn new() -> Self {
        let gpu = Gpu::new(
            Recorder {
                device: TestDevice::unchecked(),
                events: Mutex::default(),
                launches_left: AtomicUsize::new(usize::MAX),
                graphs: Arc::default(),
            },
            GpuDtype::Bf16,
        );
        let buffer = || gpu.activations(ROWS * WIDTH).unwrap();
        let (x, out, sums) = (buffer(), [buffer(), buffer()], gpu.statistics(ROWS).unwrap());
        Self { gpu: Arc::new(gpu), x, out, sums }
    }

    /// x holds this value everywhere.
    fn fill(&mut self, value: f32) {
        self.gpu.upload_activations(&[value; ROWS * WIDTH], &mut self.x);
    }

    /// Copies the first rows of x to `out[which]`: one launch.
    fn copy(&mut self, rows: usize, which: usize) {
        let none: Option<&Norm<Gpu<Recorder>>> = None;
        self.gpu.norm(NormOperands {
            x: &self.x,
            norm: none,
            rows,
            hidden_size: WIDTH,
            out: &mut self.out[which],
            sum_squares: &mut self.sums,
        });
    }

    /// One of x and what `out[which]` begins with.
    fn first(&self, which: usize) -> f32 {
        self.gpu.download_activations(&self.out[which], 1).unwrap()[0]
    }

    fn events(&self) -> Vec<Event> {
        self.gpu.driver().take()
    }

    /// A scope with a copy to both.
    fn copies(&mut self, rows: usize) -> Vec<Event> {
        self.scope(|bench| {
            bench.copy(rows, 0);
            bench.copy(rows, 1);
        })
    }

    fn scope(&mut self, operations: impl FnOnce(&mut Self) + Send) -> Vec<Event> {
        let gpu = Arc::clone(&self.gpu);
        self.events();
        gpu.scope(|| operations(self));
        self.events()
    }
}

#[test]
fn launches_that_come_again_are_replayed_from_a_graph() {
    let mut bench = Bench::new();
    bench.fill(3.0);
    let twice = [Event::Launch; 2];
    assert_eq!(bench.copies(2), twice, "nothing is known about new launches");
    assert_eq!(bench.copies(2), [Event::Graph(2), Replay], "worth a graph");
    for value in [4.0, 5.0] {
        bench.fill(value);
        assert_eq!(bench.copies(2), [Replay]);
        assert_eq!((bench.first(0), bench.first(1)), (value, value));
    }
    assert_eq!(bench.copies(3), twice, "another shape is another sequence");
    assert_eq!(bench.copies(2), [Replay], "and the old one is still known");
    assert_eq!(bench.scope(|bench| bench.copy(2, 0)), [Event::Launch]);
    assert_eq!(bench.scope(|bench| bench.copy(2, 0)), [Event::Launch], "one launch needs no graph");
    assert_eq!(bench.scope(|_| ()), []);
}

#[test]
fn the_least_recently_used_graphs_go() {
    let mut bench = Bench::new();
    bench.fill(1.0);
    for rows in 1..=ROWS {
        bench.copies(rows);
        assert_eq!(bench.copies(rows), [Event::Graph(2), Replay]);
        assert_eq!(bench.copies(1), [Replay], "used all the time");
    }
    let alive = Arc::strong_count(&bench.gpu.driver().graphs) - 1;
    assert_eq!(alive, 64);
    assert_eq!(bench.copies(3), [Event::Graph(2), Replay], "made again");
}

#[test]
fn uploads_and_clears_inside_a_scope_keep_their_place() {
    let mut bench = Bench::new();
    for round in 0..3 {
        bench.fill(1.0);
        let events = bench.scope(|bench| {
            bench.copy(1, 0);
            bench.fill(2.0);
            bench.copy(1, 1);
            bench.gpu.clear_statistics(&mut bench.sums, 1);
            bench.copy(1, 1);
        });
        assert_eq!(
            events,
            [Event::Launch, Write, Event::Launch, Event::Zero, Event::Launch],
            "round {round}"
        );
        assert_eq!((bench.first(0), bench.first(1)), (1.0, 2.0));
    }
}

#[test]
fn events_inside_a_scope_keep_their_place_and_make_no_graph() {
    let mut bench = Bench::new();
    bench.fill(1.0);
    let mut stamps = [bench.gpu.stamp().unwrap(), bench.gpu.stamp().unwrap()];
    for round in 0..3 {
        let start = Instant::now();
        let events = bench.scope(|bench| {
            let [from, to] = &mut stamps;
            bench.copy(1, 0);
            bench.gpu.take_stamp(from);
            bench.copy(1, 0);
            bench.copy(1, 1);
            bench.gpu.take_stamp(to);
        });
        let launch = Event::Launch;
        assert_eq!(events, [launch, Event::Record, launch, launch, Event::Record], "round {round}");
        // Waits until the device is there.
        bench.first(1);
        let seconds = bench.gpu.seconds_between(&stamps[0], &stamps[1]).unwrap();
        assert!(seconds > 0.0 && seconds <= start.elapsed().as_secs_f64(), "{seconds}");
    }
}

#[test]
fn a_download_inside_a_scope_sees_what_came_before() {
    let mut bench = Bench::new();
    bench.fill(7.0);
    bench.scope(|bench| {
        bench.copy(1, 0);
        assert_eq!(bench.first(0), 7.0);
    });
}

#[test]
fn scopes_nest_and_another_backends_launches_are_its_own() {
    let (mut outer, mut inner) = (Bench::new(), Bench::new());
    inner.fill(2.0);
    outer.fill(1.0);
    let events = outer.scope(|outer| {
        outer.copy(1, 0);
        assert_eq!(inner.copies(1), [Event::Launch; 2]);
        assert_eq!(outer.copies(1), [], "still collected");
        inner.fill(3.0);
        assert_eq!((inner.events(), outer.events()), (vec![Write], vec![]), "still collected");
    });
    assert_eq!(events, [Event::Launch; 3]);
}

#[test]
fn another_threads_launches_are_issued_at_once() {
    let mut bench = Bench::new();
    bench.fill(1.0);
    let events = bench.scope(|bench| {
        bench.copy(1, 0);
        let before = bench.events();
        let there = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    bench.copy(1, 1);
                    bench.events()
                })
                .join()
                .unwrap()
        });
        assert_eq!((before, there), (vec![], vec![Event::Launch]));
    });
    assert_eq!(events, [Event::Launch]);
}

#[test]
fn a_panic_ends_the_scope_and_what_it_collected() {
    let mut bench = Bench::new();
    bench.fill(1.0);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        bench.scope(|bench| {
            bench.copy(1, 0);
            panic!("planted");
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(bench.events(), [], "what was collected is gone");
    bench.copy(1, 0);
    assert_eq!(bench.events(), [Event::Launch], "and nothing is collected any more");
}

#[test]
fn errors_surface_at_the_next_download_and_only_once() {
    let mut bench = Bench::new();
    bench.fill(5.0);
    bench.gpu.driver().launches_left.store(1, Ordering::Relaxed);
    let events = bench.scope(|bench| (0..3).for_each(|_| bench.copy(1, 0)));
    assert_eq!(events, [Event::Launch; 2], "nothing after the one that failed");
    bench.copy(1, 1);
    let message = bench.gpu.download_activations(&bench.out[0], 1);
    assert_error(message, &["test", "launch", "a planted one"]);
    bench.gpu.driver().launches_left.store(usize::MAX, Ordering::Relaxed);
    assert_eq!(bench.first(0), 5.0, "the error was told");
    bench.copy(1, 1);
    assert_eq!(bench.first(1), 5.0, "and the backend works on");
    bench.gpu.driver().launches_left.store(0, Ordering::Relaxed);
    bench.copy(1, 1);
    assert_error(bench.gpu.issued(), &["test", "launch", "a planted one"]);
    bench.gpu.issued().unwrap();
}

#[test]
fn as_much_is_cleared_as_was_asked_for() {
    let mut bench = Bench::new();
    bench.fill(2.0);
    bench.copy(6, 0);
    bench.gpu.clear_statistics(&mut bench.sums, 5);
    let sum = 4.0 * WIDTH as f32;
    assert_eq!(bench.gpu.download_statistics(&bench.sums, 6).unwrap(), [0.0, 0.0, 0.0, 0.0, 0.0, sum]);
    let mut bytes = [0; 4];
    bench.gpu.driver().read(bench.sums.address(&bench.gpu) + 4 * 5, &mut bytes).unwrap();
    assert_eq!(f32::from_le_bytes(bytes), sum);
    let mut indices = bench.gpu.indices(2).unwrap();
    bench.gpu.upload_indices(&[5, 6], &mut indices);
    bench.gpu.driver().read(indices.address(&bench.gpu) + 4, &mut bytes).unwrap();
    assert_eq!(u32::from_le_bytes(bytes), 6);
}

#[test]
fn launches_of_nothing_are_left_out() {
    let mut bench = Bench::new();
    bench.copy(0, 0);
    let empty: [f32; 0] = [];
    bench.gpu.upload_activations(&empty, &mut bench.x);
    bench.gpu.clear_statistics(&mut bench.sums, 0);
    assert_eq!(bench.events(), []);
    assert_eq!(bench.gpu.download_activations(&bench.x, 0).unwrap(), empty);
    let norm = Norm { kind: NormKind::Rms, weight: None, bias: None, eps: 1e-5 };
    bench.gpu.norm(NormOperands {
        x: &bench.x,
        norm: Some(&norm),
        rows: 0,
        hidden_size: WIDTH,
        out: &mut bench.out[0],
        sum_squares: &mut bench.sums,
    });
    let weight = Tensor::from_f32(vec![WIDTH, WIDTH], vec![1.0; WIDTH * WIDTH]);
    let weight = bench.gpu.weight(&weight, WeightUse::Rows).unwrap();
    let projection = Linear { weight, bias: None, out_features: WIDTH, in_features: WIDTH };
    bench.events();
    bench.gpu.linear(LinearOperands::new(&bench.x, 0, &projection, &mut bench.out[0]));
    assert_eq!(bench.events(), []);
}
