//! The project's goals for a GPU: ratios measured in one interleaved run, each beside its goal and its limit.

use std::sync::Arc;

use probeprune::{
    Result,
    backend::{Backend, Grid},
    gpu::{Cuda, Gpu, GpuDtype, cuda::survey},
    model::{Block, timeline::Step},
    prune::settings::{HistoryDtype, HistoryLayout, Method, Settings},
    session::{Limits, Session},
};

use crate::{
    block::{LayerRun, Pruning, model},
    case::{Case, LARGE, Op, Shape},
    cuda::{FLUSH, Peer, copy_bandwidth, cublas, memory_taken},
    peer, pytorch,
    timer::{Timer, median, ratio},
};

/// Number, what is measured, goal and limit.
type Goal = (usize, &'static str, &'static str, &'static str);

const GOALS: [Goal; 15] = [
    (1, "pruned / dense layer, 20×1024, 20/40/60 %", ".84/.645/.44", ".823/.629/.420"),
    (2, "pruned / dense layer, 4×1024, 20/40/60 %", ".92/.72/.52", ".89/.70/.49"),
    (3, "gathered gate or up product / cuBLAS on compact weights, 4×1024", "1.04", "1.0"),
    (4, "gathered down product / cuBLAS on compact weights, 4×1024", "1.06", "1.0"),
    (5, "head-block q / o product / cuBLAS on compact weights, 4×1024", "1.00", ".95"),
    (6, "fused gate, up and SwiGLU of kept channels / two cuBLAS products alone, 4×1024", ".95", ".92"),
    (7, "scores, fusion, kept sets, % of the dense layer, 20×1024 / 4×1024", ".3/1.5 %", ".15/.7 %"),
    (8, "top-k of 11,008 / torch.topk", ".08", "launch"),
    (9, "dense product / cuBLAS, 4096³ / 8192³", "1.00", ".95"),
    (10, "pruned / dense layer at 40 %, 1×1024, probe of 5 % of the tokens", ".75", ".65"),
    (11, "decoding step's layer on 40 % kept before / dense, 1×1", ".63", ".61"),
    (12, "decoding product: bytes per second / device copy", "≥ .93", "1.0"),
    (13, "pruned layer / 2:4 cuSPARSELt layer at equal FLOPs", ".75", ".65"),
    (14, "memory, pruned with a history of f16 in buckets of 16 / dense, 32 layers, 20×1024", "1.02", "1.01"),
    (
        15,
        "whole model: speed over the authors' PyTorch, 20×1024 / 4×1024 / 1×1024",
        "1.7/2.0/3",
        "1.85/2.2/3.5",
    ),
];

/// What came out for a row.
pub type Finding = std::result::Result<String, String>;

/// Measures what this machine can, and prints every row. `pytorch`: a command that runs tools/peers/gpu.py.
pub fn print(pytorch: Option<&str>) {
    let opened = survey().and_then(|survey| survey.supports(survey.device(0)?)).and_then(|()| Cuda::new(0));
    let findings: Vec<(usize, Finding)> = match opened {
        Ok(cuda) => {
            let gpu = Arc::new(Gpu::new(cuda, GpuDtype::Bf16));
            println!("{:?}", gpu.driver().device());
            println!("dense layers are this project's own; row 9 compares its products with cuBLAS");
            on_gpu(&gpu, pytorch).unwrap_or_else(|error| {
                println!("stopped: {error}");
                Vec::new()
            })
        }
        Err(reason) => {
            println!("no GPU that can be used: {reason}");
            GOALS.iter().map(|&(row, ..)| (row, Err("no GPU".to_string()))).collect()
        }
    };
    println!("{:>3}  {:<84} {:<22} {:<14} limit", "row", "ratio", "measured", "goal");
    for (row, what, goal, limit) in GOALS {
        let finding = findings.iter().find(|(found, _)| *found == row).map(|(_, finding)| finding);
        let measured = match finding {
            Some(Ok(measured)) => measured.clone(),
            Some(Err(why)) => format!("not measured: {why}"),
            None => "not measured: stopped".to_string(),
        };
        println!("{row:>3}  {what:<84} {measured:<22} {goal:<14} {limit}");
    }
}

fn on_gpu(gpu: &Arc<Gpu<Cuda>>, pytorch: Option<&str>) -> Result<Vec<(usize, Finding)>> {
    let mut timer = Timer::new(&**gpu, FLUSH)?;
    let peer = |sizes: [usize; 3]| cublas(gpu, sizes);
    let mut found = layers(gpu, &mut timer, LARGE, 15)?;
    found.extend(products(&**gpu, &mut timer, &peer, LARGE[1], &[4096, 8192], 15)?);
    let copy = copy_bandwidth(gpu, &mut timer)?;
    let share = decoding_bandwidth(&**gpu, &mut timer, LARGE[3], 2)? / copy;
    found.push((12, Ok(format!("{share:.3} of {:.0} GB/s", copy / 1e9))));
    found.push((14, Ok(format!("{:.4}", memory(gpu)?))));
    if let Some(command) = pytorch {
        let mut peer = peer::Peer::start(command);
        found.extend(pytorch::rows(gpu, &mut timer, LARGE, 32, &mut |what| peer.measure(what), 9)?);
    } else {
        let why = "needs --pytorch \"PYTHON tools/peers/gpu.py\"";
        found.extend([8, 13, 15].map(|row| (row, Err(why.to_string()))));
    }
    Ok(found)
}

/// Rows 1, 2, 7, 10 and 11 at shapes of these batches: large, medium, one sample, one token.
pub fn layers<B: Backend>(
    backend: &Arc<B>,
    timer: &mut Timer<B>,
    [large, medium, single, token]: [Shape; 4],
    rounds: usize,
) -> Result<Vec<(usize, Finding)>> {
    const RATIOS: [f64; 3] = [0.2, 0.4, 0.6];
    let model = model(backend, large, 1, 8)?;
    let mut found = Vec::new();
    let mut selection = Vec::new();
    for (row, shape) in [(1, large), (2, medium)] {
        let pruned = RATIOS.map(|ratio| Pruning::Probe(ratio, 0.5));
        let (ratios, dense) = against_dense(&model, timer, shape.grid, &pruned, rounds)?;
        found.push((row, Ok(joined(&ratios, 3))));
        let mut layer = LayerRun::new(&model, shape.grid, pruned[1])?;
        let steps: Vec<f64> =
            (0..rounds).map(|_| Ok(layer.steps()?[Step::Selection as usize])).collect::<Result<_>>()?;
        selection.push(100.0 * median(&steps) / dense);
    }
    found.push((7, Ok(format!("{} %", joined(&selection, 2)))));
    let small_probe = [Pruning::Probe(0.4, 0.05)];
    found.push((10, Ok(joined(&against_dense(&model, timer, single.grid, &small_probe, rounds)?.0, 3))));
    found.push((
        11,
        Ok(joined(&against_dense(&model, timer, token.grid, &[Pruning::Fixed(0.4)], rounds)?.0, 3)),
    ));
    Ok(found)
}

/// Time ratios of pruned layers to the dense one in the same rounds, and the dense one's median seconds.
fn against_dense<B: Backend>(
    model: &Arc<probeprune::model::Model<B>>,
    timer: &mut Timer<B>,
    grid: Grid,
    pruned: &[Pruning],
    rounds: usize,
) -> Result<(Vec<f64>, f64)> {
    let mut layers = vec![LayerRun::new(model, grid, Pruning::Dense)?];
    for &pruning in pruned {
        layers.push(LayerRun::new(model, grid, pruning)?);
    }
    let mut runs: Vec<Box<dyn FnMut()>> =
        layers.iter_mut().map(|layer| Box::new(|| layer.run(&Block::ALL)) as Box<dyn FnMut()>).collect();
    // The second time a layer becomes a graph.
    let times = timer.interleaved(&model.backend, &mut runs, 3, rounds)?;
    Ok((times[1..].iter().map(|times_of| ratio(times_of, &times[0])).collect(), median(&times[0])))
}

/// Rows 3 to 6 and 9.
pub fn products<'a, B: Backend>(
    backend: &B,
    timer: &mut Timer<B>,
    peer: &dyn Fn([usize; 3]) -> Result<Option<Peer<'a>>>,
    shape: Shape,
    squares: &[usize],
    rounds: usize,
) -> Result<Vec<(usize, Finding)>> {
    let mut found = Vec::new();
    let kept = |op| Case { op, shape, pruned: true };
    // Gate alone is a product like q, with channels for heads of one.
    let gate = Shape { heads: shape.intermediate, head_dim: 1, kept_heads: shape.kept_channels, ..shape };
    let rows: [(usize, Vec<Case>, usize); 4] = [
        (3, vec![Case { op: Op::Query, shape: gate, pruned: true }], 1),
        (4, vec![kept(Op::Down)], 1),
        (5, vec![kept(Op::Query), kept(Op::Output)], 1),
        (6, vec![kept(Op::Gated)], 2),
    ];
    let square = |&size: &usize| {
        let shape = Shape {
            grid: Grid { samples: 1, tokens: size },
            hidden: size,
            heads: size / shape.head_dim,
            ..shape
        };
        Case { op: Op::Query, shape, pruned: false }
    };
    for (row, cases, peers) in rows.into_iter().chain([(9, squares.iter().map(square).collect(), 1)]) {
        let mut ratios = Vec::new();
        for case in cases {
            let sizes = case.product().expect("these are products");
            let Some(mut theirs) = peer(sizes)? else { break };
            let mut ours = case.prepare(backend, 1)?;
            let mut runs: [Box<dyn FnMut() + '_>; 2] =
                [Box::new(|| drop(ours(backend, false))), Box::new(|| (0..peers).for_each(|_| theirs()))];
            let times = timer.interleaved(backend, &mut runs, 3, rounds)?;
            ratios.push(ratio(&times[0], &times[1]));
        }
        let finding = if ratios.is_empty() {
            Err("no cuBLAS (--features cublas, and its library)".to_string())
        } else {
            Ok(joined(&ratios, 3))
        };
        found.push((row, finding));
    }
    Ok(found)
}

/// Bytes per second of gate and up for one row, whose weights have `weight` bytes an entry.
pub fn decoding_bandwidth<B: Backend>(
    backend: &B,
    timer: &mut Timer<B>,
    shape: Shape,
    weight: usize,
) -> Result<f64> {
    let case = Case { op: Op::Gated, shape, pruned: false };
    let mut ready = case.prepare(backend, 1)?;
    let seconds = timer.time(backend, 40, |_| drop(ready(backend, false)))?;
    Ok(case.bytes(2, weight) / median(&seconds[5..]))
}

/// Memory of a whole model with a pruned session over that with a dense one.
fn memory(gpu: &Arc<Gpu<Cuda>>) -> Result<f64> {
    let before = memory_taken(gpu)?;
    let shape = LARGE[0];
    let model = model(gpu, shape, 32, 32_000)?;
    let taken = |settings: Settings| -> Result<f64> {
        let limits = Limits { samples: shape.grid.samples, tokens: shape.grid.tokens, capacity: 0 };
        let _session = Session::new(Arc::clone(&model), settings, limits, None)?;
        Ok((memory_taken(gpu)? - before) as f64)
    };
    let dense = taken(Settings::default())?;
    let history_layout = HistoryLayout { dtype: HistoryDtype::F16, bucket: 16 };
    let method = Method::ProbePruning;
    Ok(taken(Settings { method, prune_ratio: 0.4, history_layout, ..Settings::default() })? / dense)
}

/// As "1/2/3".
pub fn joined(values: &[f64], digits: usize) -> String {
    values.iter().map(|value| format!("{value:.digits$}")).collect::<Vec<_>>().join("/")
}
