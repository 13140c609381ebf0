//! What the goals' rivals take, by the same model.

use probeprune::{Result, gpu::Gpu};

use super::{driver::Predicted, machine::Machine};
use crate::{
    case::LayerShape,
    peers::{Peer, Peers, Rival, Trouble},
};

/// torch.topk: so many launches, and passes of one multiprocessor over all scores and over those kept, which it sorts.
/// Assumed.
const TOP_K: f64 = 12.0;
/// cuSPARSELt's 2:4 products over dense ones: twice at most; assumed.
const SPARSE: f64 = 1.5;
/// What PyTorch's host code takes for an operation that is launched one at a time. Assumed.
const HOST: f64 = 5e-6;

/// Rivals on a calculated GPU.
pub struct Rivals<'a>(pub &'a Gpu<Predicted>);

impl Peers for Rivals<'_> {
    fn prepare(&self, rival: Rival) -> Result<Peer<'_>, Trouble> {
        let seconds = seconds(self.0.driver().machine, rival);
        let run = Box::new(move || self.0.driver().pass(seconds));
        Ok(Peer { name: "analytic model".to_string(), run })
    }

    fn memory_taken(&self) -> Result<f64> {
        Ok(self.0.driver().taken() as f64)
    }
}

fn seconds(machine: &Machine, rival: Rival) -> f64 {
    match rival {
        Rival::Product(sizes) => product(machine, sizes),
        Rival::Gated([rows, channels, inputs]) => {
            product(machine, [rows, 2 * channels, inputs]) + moved(machine, 6 * rows * channels)
        }
        Rival::Copy(bytes) => moved(machine, 2 * bytes),
        Rival::Layer(shape, past) => layer(machine, shape, past),
        Rival::Sparse(shape) => {
            let (t, h, i) = (shape.batch.rows(), shape.hidden, shape.intermediate);
            let products = 2.0 * product(machine, [t, i, h]) + product(machine, [t, h, i]);
            // SiLU and the product apart.
            products / SPARSE + moved(machine, 4 * t * i) + moved(machine, 6 * t * i)
        }
        Rival::TopK { of, k } => {
            let pass = 4.0 * (of + k) as f64 * f64::from(machine.multiprocessors) / machine.l2_rate;
            TOP_K * (machine.gap + machine.latency + pass)
        }
        Rival::Authors { model, layers, vocab, batch, kept } => {
            authors(machine, LayerShape { batch, ..model }, layers, vocab, kept)
        }
    }
}

/// Of a kernel that moves so many bytes and does nothing else that takes time.
fn moved(machine: &Machine, bytes: usize) -> f64 {
    machine.gap + machine.latency + bytes as f64 / machine.reachable()
}

/// cuBLAS: rows, outputs, inputs.
fn product(machine: &Machine, [rows, outputs, inputs]: [usize; 3]) -> f64 {
    let [m, n, k] = [rows, outputs, inputs].map(|size| size as f64);
    // Tiles of 128 × 256 on persistent blocks; few rows take as narrow tiles as they need.
    let tiles = (m / 128.0).ceil() * (n / 256.0).ceil();
    let each = f64::from(machine.multiprocessors);
    let idle = if rows < 128 { 1.0 } else { (tiles / each).ceil() / (tiles / each) };
    // Half of what a last wave leaves idle is won back by other tiles or split sums.
    let flops = 2.0 * m * n * k / machine.library * (1.0 + (idle - 1.0) / 2.0);
    let bytes = 2.0 * (m * k + k * n + m * n) / machine.reachable();
    machine.gap + machine.latency + flops.max(bytes)
}

/// The dense layer under a graph: fused q, k, v; fused gate and up; fused norm, rotation and SwiGLU.
fn layer(machine: &Machine, shape: LayerShape, past: usize) -> f64 {
    let LayerShape { batch, hidden: h, intermediate: i, .. } = shape;
    let (t, n) = (batch.rows(), shape.heads * shape.head_dim);
    let norms = 2.0 * moved(machine, 4 * t * h);
    let rotation = moved(machine, 8 * t * n);
    let products = [[t, 3 * n, h], [t, h, n], [t, 2 * i, h], [t, h, i]].map(|sizes| product(machine, sizes));
    norms + rotation + products.iter().sum::<f64>() + flash(machine, shape, past) + moved(machine, 6 * t * i)
}

fn flash(machine: &Machine, shape: LayerShape, past: usize) -> f64 {
    let n = shape.heads * shape.head_dim;
    let (samples, tokens) = (shape.batch.samples, shape.batch.tokens);
    let pairs = samples as f64 * tokens as f64 * (past as f64 + (tokens as f64 + 1.0) / 2.0);
    let bytes = 2 * samples * n * (2 * tokens + 2 * (past + tokens));
    // A decoding step's keys are split over blocks, whose parts a second kernel puts together.
    let parts = if past > 0 { machine.gap + machine.latency } else { 0.0 };
    parts + moved(machine, bytes).max(machine.gap + 4.0 * pairs * n as f64 / machine.flash)
}

/// The authors' operations, one launch each: what they move in passes of their own, their products by cuBLAS.
fn authors(machine: &Machine, shape: LayerShape, layers: usize, vocab: usize, kept: [usize; 2]) -> f64 {
    const DENSE_LAYERS: usize = 3;
    const OPERATIONS: f64 = 130.0;
    let LayerShape { batch, hidden: h, intermediate: i, heads, head_dim, .. } = shape;
    let t = batch.rows();
    let block = |[heads, channels]: [usize; 2], rows: usize, tokens: usize| {
        let n = heads * head_dim;
        let products =
            [[rows, n, h], [rows, h, n], [rows, channels, h], [rows, channels, h], [rows, h, channels]];
        let products: f64 = products.iter().map(|&sizes| product(machine, sizes)).sum();
        // Keys and values are computed for every head.
        let all = 2.0 * product(machine, [rows, shape.heads * head_dim, h]);
        // Scores in bf16, scaled, masked, softmax in f32 and back.
        let scores = moved(machine, 24 * rows * tokens * heads);
        let attention = 4.0 * (rows * tokens * n) as f64 / machine.library;
        // Norms and residuals, rotation and repeated heads, SiLU and product.
        let rest = moved(machine, rows * (40 * h + 24 * n + 10 * channels));
        products + all + scores + attention + rest
    };
    let dense = block([heads, i], t, batch.tokens);
    let (probe_samples, probe_tokens) = (batch.samples.div_ceil(20), batch.tokens.div_ceil(2));
    let probe = block([heads, i], probe_samples * probe_tokens, probe_tokens);
    // Weights of what is kept are copied, those of the scores are read in float32; energies and history.
    let (n, c) = (kept[0] * head_dim, kept[1]);
    let copied = moved(machine, 4 * h * (2 * n + 3 * c)) + moved(machine, 14 * h * (heads * head_dim + i));
    let energies = moved(machine, t * (n + c) * 12 + 4 * 3 * batch.tokens * (n + c));
    let pruned = block(kept, t, batch.tokens) + probe + copied + energies;
    let at_least = |seconds: f64| seconds.max(OPERATIONS * HOST);
    let dense_layers = DENSE_LAYERS.min(layers);
    let head = product(machine, [t, vocab, h]);
    dense_layers as f64 * at_least(dense) + (layers - dense_layers) as f64 * at_least(pruned) + head
}
