//! The goals whose peer is PyTorch: its top-k, its 2:4-sparse products, and the authors' operations.

use std::{sync::Arc, time::Instant};

use probeprune::{
    Result,
    backend::{Backend, Grid},
    model::{Block, Model},
    prune::settings::{Method, Settings},
    session::{Limits, Session},
};

use crate::{
    block::{LayerRun, Pruning, model},
    case::{Case, Op, Shape},
    goals::{Finding, joined},
    timer::{Timer, median, ratio},
};

/// Rows 8, 13 and 15: each of our runs beside one of `peer`'s, which gives seconds for a line that tools/peers/gpu.py
/// understands. Whole models have so many layers.
///
/// # Errors
/// A device that failed, or has no room.
pub fn rows<B: Backend>(
    backend: &Arc<B>,
    timer: &mut Timer<B>,
    [large, medium, single, _]: [Shape; 4],
    layers: usize,
    peer: &mut dyn FnMut(&str) -> f64,
    rounds: usize,
) -> Result<Vec<(usize, Finding)>> {
    let Shape { intermediate, kept_channels, .. } = medium;
    let mut top_k = Case { op: Op::TopK, shape: medium, pruned: false }.prepare(&**backend, 1)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(median(&timer.time(&**backend, 9, |_| drop(top_k(backend, false)))?));
        theirs.push(peer(&format!("topk {intermediate} {kept_channels}")));
    }
    let mut found = vec![(8, Ok(format!("{:.3}", ratio(&ours, &theirs))))];

    // 2:4 halves the products, as pruning half of the channels does.
    let one = model(backend, large, 1, 8)?;
    let mut mlp = LayerRun::new(&one, large.grid, Pruning::Probe(0.5, 0.5))?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(median(&timer.time(&**backend, 5, |_| mlp.run(&[Block::Mlp]))?));
        theirs.push(peer(&format!("sparse {}", large.grid.rows())));
    }
    found.push((13, Ok(format!("{:.3}", ratio(&ours, &theirs)))));
    drop((mlp, one));

    let whole = model(backend, large, layers, 32_000)?;
    let mut speeds = Vec::new();
    for Grid { samples, tokens } in [large, medium, single].map(|shape| shape.grid) {
        let settings = Settings { method: Method::ProbePruning, prune_ratio: 0.4, ..Settings::default() };
        let limits = Limits { samples, tokens, capacity: 0 };
        let mut session = Session::new(Arc::clone(&whole), settings, limits, None)?;
        // The second time a forward becomes a graph.
        for _ in 0..2 {
            prefill(&whole, &mut session, samples, tokens)?;
        }
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            ours.push(prefill(&whole, &mut session, samples, tokens)?);
            theirs.push(peer(&format!("reference {samples} {tokens}")));
        }
        speeds.push(ratio(&theirs, &ours));
    }
    found.push((15, Ok(joined(&speeds, 2))));
    Ok(found)
}

/// Seconds of a prefill with all logits, until the device is done.
fn prefill<B: Backend>(
    model: &Model<B>,
    session: &mut Session<B>,
    samples: usize,
    tokens: usize,
) -> Result<f64> {
    let batch: Vec<u32> =
        (0..samples * tokens).map(|i| (i * 7919 % model.config.vocab_size) as u32).collect();
    let start = Instant::now();
    session.forward(&batch, samples, None, true)?;
    let (logits, _) = session.device_logits(samples)?;
    model.backend.download_statistics(&logits, 1)?;
    Ok(start.elapsed().as_secs_f64())
}
