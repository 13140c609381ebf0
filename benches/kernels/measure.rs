//! How each row of the goals is measured: ours and the rival's runs in turns, on one stream.

use std::sync::Arc;

use probeprune::{
    Result,
    backend::Backend,
    model::{Model, timeline::Step},
    prune::{
        BatchShape, Block,
        history::HistoryLayout,
        settings::{HistoryDtype, Method, Settings},
    },
    session::{Limits, Session},
};

use crate::{
    block::{self, LayerRun, Pruning},
    case::{LARGE, LayerCase, LayerShape, Op, SMALL},
    content::Content,
    operations::{Case, ElementBytes, source::Source},
    peers::{Peer, Peers, Rival, Trouble},
    timer::{Spread, Timer, median},
};

/// Sizes of everything.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Large, medium, one sample, one token.
    pub shapes: [LayerShape; 4],
    /// Tokens before the one token.
    pub past: usize,
    /// Edges of row 9's products.
    pub squares: [usize; 2],
    /// Layers and vocabulary of whole models.
    pub layers: usize,
    pub vocab: usize,
    /// Bytes that are written between runs: more than any L2 cache has.
    pub flush: usize,
    /// Bytes of a copy.
    pub copy: usize,
}

/// What the goals are about.
pub const FULL: Scale = Scale {
    shapes: LARGE,
    past: 1024,
    squares: [4096, 8192],
    layers: 32,
    vocab: 32_000,
    flush: 256 << 20,
    copy: 1 << 30,
};

/// To see that everything runs; its numbers mean nothing.
pub const REDUCED: Scale = Scale {
    shapes: [SMALL, SMALL, SMALL, LayerShape { batch: BatchShape { samples: 1, tokens: 1 }, ..SMALL }],
    past: 16,
    squares: [32, 48],
    layers: 8,
    vocab: 64,
    flush: 1 << 16,
    copy: 1 << 16,
};

const BF16: ElementBytes = ElementBytes { activation: 2, weight: 2 };

/// Rounds before those that count. The second time a layer's launches become a graph.
const WARMUP: usize = 3;

/// What came out for a row; one entry for each of its values.
#[derive(Debug, Default)]
pub struct Finding {
    pub ratios: Vec<Spread>,
    /// Medians.
    pub own_seconds: Vec<f64>,
    pub peer_seconds: Vec<f64>,
    pub peer: String,
    /// Ratios to this project's own dense layer, and its seconds.
    pub own_dense: Option<(Vec<Spread>, f64)>,
    /// Why the row itself is missing, where there is only `own_dense`.
    pub missing: Option<String>,
}

impl Finding {
    fn add(&mut self, ratio: Spread, ours: &[f64], theirs: &[f64], peer: &str) {
        self.ratios.push(ratio);
        self.own_seconds.push(median(ours));
        self.peer_seconds.push(median(theirs));
        self.peer = peer.to_string();
    }

    fn add_ratio(&mut self, ours: &[f64], theirs: &[f64], peer: &str) {
        self.add(Spread::of_ratios(ours, theirs), ours, theirs, peer);
    }
}

/// A device and its measuring tools.
pub struct Bench<'a, B: Backend> {
    pub backend: Arc<B>,
    pub peers: &'a dyn Peers,
    pub content: Content,
    pub scale: Scale,
    pub rounds: usize,
    timer: Timer<B>,
}

impl<'a, B: Backend> Bench<'a, B> {
    /// # Errors
    /// A device without room.
    pub fn new(
        backend: &Arc<B>,
        peers: &'a dyn Peers,
        content: Content,
        scale: Scale,
        rounds: usize,
    ) -> Result<Self> {
        let timer = Timer::new(&**backend, scale.flush)?;
        Ok(Self { backend: Arc::clone(backend), peers, content, scale, rounds, timer })
    }

    /// Measures a row by its number.
    ///
    /// # Errors
    /// A rival that is missing, a device that failed.
    pub fn row(&mut self, number: usize) -> Result<Finding, Trouble> {
        let [large, medium, single, token] = self.scale.shapes;
        let ratios = [0.2, 0.4, 0.6].map(|ratio| Pruning::Probe(ratio, 0.5));
        let kept = |op| LayerCase { op, shape: medium, pruned: true };
        match number {
            1 => self.layer(large, 0, &ratios),
            2 => self.layer(medium, 0, &ratios),
            3 => {
                // Gate alone is a product like q, with channels for heads of one.
                let gate = LayerShape {
                    heads: medium.intermediate,
                    head_dim: 1,
                    kept_heads: medium.kept_channels,
                    ..medium
                };
                self.products(&[LayerCase { op: Op::Query, shape: gate, pruned: true }])
            }
            4 => self.products(&[kept(Op::Down)]),
            5 => self.products(&[kept(Op::Query), kept(Op::Output)]),
            6 => self.products(&[kept(Op::Gated)]),
            7 => self.selection([large, medium]),
            8 => self.top_k(medium),
            9 => {
                let square = |size| {
                    let (batch, heads) = (BatchShape { samples: 1, tokens: size }, size / medium.head_dim);
                    let shape = LayerShape { batch, hidden: size, heads, ..medium };
                    LayerCase { op: Op::Query, shape, pruned: false }
                };
                self.products(&self.scale.squares.map(square))
            }
            10 => self.layer(single, 0, &[Pruning::Probe(0.4, 0.05)]),
            11 => self.layer(token, self.scale.past, &[Pruning::Fixed(0.4)]),
            12 => self.decoding_bandwidth(token),
            13 => self.sparse(large),
            14 => self.memory(large),
            15 => self.whole_model(large, [large, medium, single].map(|shape| shape.batch)),
            _ => Err(Trouble::Missing(format!("there is no row {number}, only 1 to 15"))),
        }
    }

    /// Pruned layers over the rival's dense one, and over our own.
    fn layer(&mut self, shape: LayerShape, past: usize, pruned: &[Pruning]) -> Result<Finding, Trouble> {
        let model = block::model(&self.backend, &self.content, shape, 1, 8)?;
        let mut layers = vec![LayerRun::new(&model, &self.content, shape.batch, past, Pruning::Dense)?];
        for &pruning in pruned {
            layers.push(LayerRun::new(&model, &self.content, shape.batch, past, pruning)?);
        }
        let (peer, missing) = match self.peers.prepare(Rival::Layer(shape, past)) {
            Ok(peer) => (Some(peer), None),
            Err(Trouble::Missing(why)) => (None, Some(why)),
            Err(failed) => return Err(failed),
        };
        let name = peer.as_ref().map_or_else(String::new, |peer| peer.name.clone());
        let own = layers.iter_mut().map(|layer| Box::new(|| layer.run(&Block::ALL)) as Box<dyn FnMut()>);
        let mut runs: Vec<Box<dyn FnMut() + '_>> = own.chain(peer.map(|peer| peer.run)).collect();
        let times = self.timer.interleaved(&self.backend, &mut runs, WARMUP, self.rounds)?;
        let (dense, rest) = times.split_first().expect("dense is there");
        let (ours, theirs) = rest.split_at(pruned.len());
        let over_own = ours.iter().map(|ours| Spread::of_ratios(ours, dense)).collect();
        let mut finding =
            Finding { own_dense: Some((over_own, median(dense))), missing, ..Finding::default() };
        for (ours, theirs) in ours.iter().flat_map(|ours| theirs.iter().map(move |theirs| (ours, theirs))) {
            finding.add_ratio(ours, theirs, &name);
        }
        Ok(finding)
    }

    fn products(&mut self, cases: &[LayerCase]) -> Result<Finding, Trouble> {
        let mut finding = Finding::default();
        for case in cases {
            let sizes = case.operation().product().expect("these are products");
            let rival = if case.op == Op::Gated { Rival::Gated(sizes) } else { Rival::Product(sizes) };
            self.against(&mut finding, rival, case)?;
        }
        Ok(finding)
    }

    fn against(&mut self, finding: &mut Finding, rival: Rival, case: &LayerCase) -> Result<(), Trouble> {
        let Peer { name, run } = self.peers.prepare(rival)?;
        let backend = &*self.backend;
        let mut ours = case.operation().prepare(backend, Source::Content(&self.content, 1))?;
        let mut runs: [Box<dyn FnMut() + '_>; 2] = [Box::new(|| drop(ours(backend, false))), run];
        let times = self.timer.interleaved(backend, &mut runs, WARMUP, self.rounds)?;
        finding.add_ratio(&times[0], &times[1], &name);
        Ok(())
    }

    fn top_k(&mut self, shape: LayerShape) -> Result<Finding, Trouble> {
        let mut finding = Finding::default();
        let rival = Rival::TopK { of: shape.intermediate, k: shape.kept_channels };
        self.against(&mut finding, rival, &LayerCase { op: Op::TopK, shape, pruned: false })?;
        Ok(finding)
    }

    /// Scores, fusion and kept sets of both blocks, in percent of the dense layer.
    fn selection(&mut self, shapes: [LayerShape; 2]) -> Result<Finding, Trouble> {
        let mut finding = Finding::default();
        for shape in shapes {
            let Peer { name, run: mut theirs } = self.dense_layer(shape)?;
            let model = block::model(&self.backend, &self.content, shape, 1, 8)?;
            let pruning = Pruning::Probe(0.4, 0.5);
            let mut layer = LayerRun::new(&model, &self.content, shape.batch, 0, pruning)?;
            let (mut own, mut others) = (Vec::new(), Vec::new());
            for round in 0..self.rounds + 1 {
                let chosen = layer.steps()?[Step::Selection as usize];
                let other = self.timer.time(&*self.backend, 1, |_| theirs())?;
                if round > 0 {
                    own.push(chosen);
                    others.extend(other);
                }
            }
            let percent: Vec<f64> = own.iter().map(|seconds| 100.0 * seconds).collect();
            finding.add(Spread::of_ratios(&percent, &others), &own, &others, &name);
        }
        Ok(finding)
    }

    /// The rival's dense layer, or where there is none, cuBLAS's products of one.
    fn dense_layer(&self, shape: LayerShape) -> Result<Peer<'a>, Trouble> {
        let (t, h, i) = (shape.batch.rows(), shape.hidden, shape.intermediate);
        match self.peers.prepare(Rival::Layer(shape, 0)) {
            Err(Trouble::Missing(_)) => {
                let channels = shape.heads * shape.head_dim;
                let sizes = [[t, 3 * channels, h], [t, h, channels], [t, 2 * i, h], [t, h, i]];
                let mut products = Vec::new();
                for sizes in sizes {
                    products.push(self.peers.prepare(Rival::Product(sizes))?);
                }
                let name = format!("only the products of the dense layer, by {}", products[0].name);
                let run = Box::new(move || products.iter_mut().for_each(|product| (product.run)()));
                Ok(Peer { name, run })
            }
            other => other,
        }
    }

    /// Bytes per second of gate and up for one row, over those of a copy within the device.
    fn decoding_bandwidth(&mut self, shape: LayerShape) -> Result<Finding, Trouble> {
        let case = LayerCase { op: Op::Gated, shape, pruned: false };
        let mut finding = Finding::default();
        self.against(&mut finding, Rival::Copy(self.scale.copy), &case)?;
        // Seconds over seconds until here; a copy reads and writes.
        let share = case.operation().bytes(BF16) as f64 / (2.0 * self.scale.copy as f64);
        for Spread { median, quartiles: [low, high] } in &mut finding.ratios {
            (*median, *low, *high) = (share / *median, share / *high, share / *low);
        }
        Ok(finding)
    }

    /// 2:4 halves the products, as pruning half of the channels does.
    fn sparse(&mut self, shape: LayerShape) -> Result<Finding, Trouble> {
        let Peer { name, run } = self.peers.prepare(Rival::Sparse(shape))?;
        let model = block::model(&self.backend, &self.content, shape, 1, 8)?;
        let mut mlp = LayerRun::new(&model, &self.content, shape.batch, 0, Pruning::Probe(0.5, 0.5))?;
        let mut runs: [Box<dyn FnMut() + '_>; 2] = [Box::new(|| mlp.run(&[Block::Mlp])), run];
        let times = self.timer.interleaved(&self.backend, &mut runs, WARMUP, self.rounds)?;
        let mut finding = Finding::default();
        finding.add_ratio(&times[0], &times[1], &name);
        Ok(finding)
    }

    /// Memory of a whole model with a pruned session over that with a dense one.
    fn memory(&mut self, shape: LayerShape) -> Result<Finding, Trouble> {
        let Scale { layers, vocab, .. } = self.scale;
        let before = self.peers.memory_taken()?;
        let model = block::model(&self.backend, &self.content, shape, layers, vocab)?;
        let taken = |settings: Settings| -> Result<f64> {
            let limits = Limits { samples: shape.batch.samples, tokens: shape.batch.tokens, capacity: 0 };
            let _session = Session::new(Arc::clone(&model), settings, limits, None)?;
            Ok(self.peers.memory_taken()? - before)
        };
        let dense = taken(Settings::default())?;
        let history_layout = HistoryLayout { dtype: HistoryDtype::F16, bucket: 16 };
        let method = Method::ProbePruning;
        let pruned = taken(Settings { method, prune_ratio: 0.4, history_layout, ..Settings::default() })?;
        let ratios = vec![Spread::of(&[pruned / dense])];
        Ok(Finding { ratios, peer: "this project's dense session".to_string(), ..Finding::default() })
    }

    /// Speed over the authors' operations: whole prefills with all logits, until the device is done.
    fn whole_model(&mut self, shape: LayerShape, batches: [BatchShape; 3]) -> Result<Finding, Trouble> {
        let Scale { layers, vocab, .. } = self.scale;
        let whole = block::model(&self.backend, &self.content, shape, layers, vocab)?;
        let mut finding = Finding::default();
        for batch in batches {
            let settings = Settings { method: Method::ProbePruning, prune_ratio: 0.4, ..Settings::default() };
            let limits = Limits { samples: batch.samples, tokens: batch.tokens, capacity: 0 };
            let mut session = Session::new(Arc::clone(&whole), settings, limits, None)?;
            let kept = session.layer_counts().last().map_or([0; 2], |layer| [layer.heads, layer.channels]);
            let rival = Rival::Authors { model: shape, layers, vocab, batch, kept };
            let Peer { name, run: mut theirs } = self.peers.prepare(rival)?;
            let (mut own, mut others) = (Vec::new(), Vec::new());
            // The residual's buffers go round in three: after as many, every forward is a graph that is there.
            for round in 0..WARMUP + self.rounds {
                let mut outcome = Ok(());
                let ours =
                    self.timer.time(&*self.backend, 1, |_| outcome = prefill(&whole, &mut session, batch))?;
                outcome?;
                let other = self.timer.time(&*self.backend, 1, |_| theirs())?;
                if round >= WARMUP {
                    own.extend(ours);
                    others.extend(other);
                }
            }
            finding.add(Spread::of_ratios(&others, &own), &own, &others, &name);
        }
        Ok(finding)
    }
}

/// A prefill with all logits.
fn prefill<B: Backend>(model: &Model<B>, session: &mut Session<B>, batch: BatchShape) -> Result<()> {
    let tokens: Vec<u32> = (0..batch.rows()).map(|i| (i * 7919 % model.config.vocab_size) as u32).collect();
    session.forward(&tokens, batch.samples, None, true)?;
    session.device_logits(batch.samples).map(drop)
}
