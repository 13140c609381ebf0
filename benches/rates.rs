//! What the CPU backend's work costs, in floating-point operations of a product of many rows: the constants of src/cpu/rates.rs, for
//! every instruction set of this processor.
//!
//! `cargo bench --bench rates [-- --threads N]`

use std::time::Instant;

use clap::Parser;
use probeprune::{
    backend::{
        AttentionOperands, AttentionShape, Backend, EnergyOperands, Fusion, History, HistoryUpdateOperands,
        KeptSet, Linear, LinearOperands, ProbeSelectOperands, ProjectOperands, TopKKeepOperands, WeightUse,
    },
    backend::{ChannelScoreOperands, Probe},
    checkpoint::Tensor,
    cpu::{Cpu, Tier},
    prune::{
        BatchShape, Unit,
        history::HistoryLayout,
        settings::{Metric, ProbeOrder},
    },
};

#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Of which the fastest counts: other programs only slow it down.
    #[arg(long, default_value_t = 40)]
    repeat: usize,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Hidden size, channels, and rows of a large batch.
const HIDDEN: usize = 1024;
const CHANNELS: usize = 2816;
const ROWS: usize = 384;
/// Measurements between two of the unit.
const PER_UNIT: usize = 4;
/// Kept channels of a pruned block.
const KEPT: usize = 1664;

/// Measures with one instruction set.
struct Bench {
    cpu: Cpu,
    repeat: usize,
}

impl Bench {
    fn new(tier: Tier, args: &Args) -> Self {
        Self { cpu: Cpu::with_tier(args.threads, tier).expect("threads"), repeat: args.repeat }
    }

    /// Calls `f` with a product of many rows, whose operations are the unit, and their number.
    fn with_unit<R>(&self, f: impl FnOnce(&mut (dyn FnMut() + Send), f64) -> R) -> R {
        let [x, mut out] = [vec![0.1; ROWS * HIDDEN], vec![0.0; ROWS * CHANNELS]].map(Into::into);
        let linear = self.linear(CHANNELS, HIDDEN, WeightUse::Rows);
        let mut product = || self.cpu.linear(LinearOperands::new(&x, ROWS, &linear, &mut out));
        f(&mut product, (2 * ROWS * CHANNELS * HIDDEN) as f64)
    }

    fn linear(&self, out_features: usize, in_features: usize, usage: WeightUse) -> Linear<Cpu> {
        let tensor = Tensor::random(vec![out_features, in_features], 1);
        let weight = self.cpu.weight(&tensor, usage).expect("weight");
        Linear { weight, bias: None, out_features, in_features }
    }

    /// Seconds of a run, of `count` of them.
    fn seconds(&self, count: u32, run: &mut (dyn FnMut() + Send)) -> f64 {
        let start = Instant::now();
        self.cpu.scope(|| (0..count).for_each(|_| run()));
        start.elapsed().as_secs_f64() / f64::from(count)
    }

    /// Operations per second of the unit.
    fn speed(&self) -> f64 {
        self.with_unit(|unit, operations| {
            let fastest = (0..self.repeat).map(|_| self.seconds(1, unit)).fold(f64::INFINITY, f64::min);
            operations / fastest
        })
    }

    /// Of a run. The unit is measured in between, since the processor's speed changes.
    fn cost(&self, mut run: impl FnMut(&Cpu) + Send) -> f64 {
        let mut run = || run(&self.cpu);
        // Entering the pool must take little of the time.
        let count = (5e-4 / self.seconds(8, &mut run)).clamp(1.0, 100.0) as u32;
        self.with_unit(|unit, operations| {
            let mut fastest = [f64::INFINITY; 2];
            for _ in 0..self.repeat.div_ceil(PER_UNIT) {
                fastest[0] = fastest[0].min(self.seconds(1, unit));
                for _ in 0..PER_UNIT {
                    fastest[1] = fastest[1].min(self.seconds(count, &mut run));
                }
            }
            operations * fastest[1] / fastest[0]
        })
    }

    /// Of a weight, in a product of so many rows, beyond multiplying.
    fn weight(&self, rows: usize) -> f64 {
        let [x, mut out] = [vec![0.1; rows * HIDDEN], vec![0.0; rows * CHANNELS]].map(Into::into);
        let linear = self.linear(CHANNELS, HIDDEN, WeightUse::Rows);
        let cost = self.cost(|cpu| cpu.linear(LinearOperands::new(&x, rows, &linear, &mut out)));
        cost / (CHANNELS * HIDDEN) as f64 - 2.0 * rows as f64
    }

    /// The same of a last projection's kept columns, in blocks of so many.
    fn kept_weight(&self, rows: usize, block_width: usize) -> f64 {
        let [a, mut out] = [vec![0.1; rows * KEPT], vec![0.0; rows * HIDDEN]].map(Into::into);
        let projection = self.linear(HIDDEN, CHANNELS, WeightUse::Columns);
        let kept = kept(block_width);
        let cost = self.cost(|cpu| {
            let all = ProjectOperands::new(&a, rows, &projection, &mut out);
            cpu.project(ProjectOperands { kept: Some(&kept), ..all });
        });
        cost / (KEPT * HIDDEN) as f64 - 2.0 * rows as f64
    }

    /// Of an operation of causal attention.
    fn attention(&self, tokens: usize) -> f64 {
        const HEADS: usize = 9;
        const WIDTH: usize = 64;
        let zeros = || vec![0.1; tokens * HEADS * WIDTH].into();
        let (q, k, v, mut out) = (zeros(), zeros(), zeros(), zeros());
        let kv_head_of = (0..HEADS as u32).collect();
        let shape = AttentionShape {
            queries: BatchShape { samples: 1, tokens },
            keys: tokens,
            key_capacity: tokens,
            heads: HEADS,
            kv_heads: HEADS,
            head_dim: WIDTH,
            scale: 0.1,
            window: None,
        };
        let cost = self.cost(|cpu| {
            cpu.attention(AttentionOperands {
                q: &q,
                k: &k,
                v: &v,
                shape,
                kv_head_of: &kv_head_of,
                mask: None,
                slots: None,
                out: &mut out,
            });
        });
        cost / (4 * tokens * (tokens + 1) / 2 * HEADS * WIDTH) as f64
    }

    /// Of an entry of the batch's energies, of their fusion with history, and of its update.
    fn entries(&self) -> [f64; 3] {
        let (samples, tokens) = (1, 256);
        let shape = BatchShape { samples, tokens };
        let a = vec![0.1; samples * tokens * CHANNELS].into();
        let mut p = vec![0.0; tokens * CHANNELS].into();
        let energy = self.cost(|cpu| {
            cpu.energy(EnergyOperands {
                a: &a,
                shape,
                channels: CHANNELS,
                mask: None,
                out: &mut p,
                sums: None,
            });
        });
        let layout = HistoryLayout::default();
        let values = vec![0.1; layout.words(tokens, CHANNELS)].into();
        let mut history = History { values, slots: tokens, channels: CHANNELS, layout };
        let (slots, statistic) = ((0..tokens as u32).collect(), vec![1.0; CHANNELS].into());
        let mut scores = vec![0.0; CHANNELS].into();
        let fusion = self.cost(|cpu| {
            cpu.channel_score(ChannelScoreOperands {
                p: &p,
                tokens,
                channels: CHANNELS,
                fusion: Fusion::History { history: &history, slots: &slots, fixed_weight: None },
                metric: Metric::Ppsp,
                statistic: &statistic,
                unit: Unit::Channel,
                out: &mut scores,
            });
        });
        let kept = kept(1);
        let update = self.cost(|cpu| {
            let history = &mut history;
            cpu.history_update(HistoryUpdateOperands {
                p: &p,
                tokens,
                at: 0,
                kept: &kept,
                momentum: 0.99,
                history,
            });
        });
        let each = (tokens * CHANNELS) as f64;
        [energy / each, fusion / each, update / (tokens * KEPT) as f64]
    }

    /// Of an operation with nothing to do, of choosing a probe, and of choosing channels.
    fn fixed(&self) -> [f64; 3] {
        let [x, mut out] = [vec![0.1; 64], vec![0.0; 512]].map(Into::into);
        let linear = self.linear(512, 64, WeightUse::Rows);
        let operation = self.cost(|cpu| cpu.linear(LinearOperands::new(&x, 1, &linear, &mut out)));
        let sum_squares = (0..256).map(|row| (row * 37 % 256) as f32).collect();
        let zeros = |len: usize| vec![0; len].into();
        let positions = zeros(256);
        let mut probe = Probe {
            shape: BatchShape { samples: 1, tokens: 13 },
            samples: zeros(1),
            slots: zeros(13),
            positions: zeros(13),
            mask: zeros(13),
        };
        let select = self.cost(|cpu| {
            cpu.probe_select(ProbeSelectOperands {
                sum_squares: &sum_squares,
                shape: BatchShape { samples: 1, tokens: 256 },
                order: ProbeOrder::TokensSamples,
                positions: &positions,
                mask: None,
                leading_slot_limit: 10,
                probe: &mut probe,
            });
        });
        let scores = (0..CHANNELS).map(|channel| (channel * 37 % CHANNELS) as f32).collect();
        let (mut kept, mut fault) = (kept(1), zeros(1));
        let keep = self.cost(|cpu| {
            cpu.top_k_keep(TopKKeepOperands { scores: &scores, kept: &mut kept, tag: 1, fault: &mut fault });
        });
        [operation, select, keep]
    }
}

/// Channels, in blocks, spread over all of them.
fn kept(block_width: usize) -> KeptSet<<Cpu as Backend>::Indices> {
    let (len, of) = (KEPT / block_width, CHANNELS / block_width);
    KeptSet { indices: (0..len).map(|i| (i * of / len) as u32).collect(), len, of, block_width }
}

fn main() {
    let args = Args::parse();
    for tier in Tier::available().into_iter().filter(|&tier| tier != Tier::AmxEmulated) {
        let bench = Bench::new(tier, &args);
        println!("{tier}: {:.1} GFLOP/s", 1e-9 * bench.speed());
        for rows in [2, 8, 16, 32, 64, 128, 256] {
            let [single, heads] = [1, 64].map(|width| bench.kept_weight(rows, width));
            let all = bench.weight(rows);
            println!(
                "  a weight, {rows} rows: {all:.1}; of kept channels: {single:.1}; of kept heads: {heads:.1}"
            );
        }
        for tokens in [64, 256, 1024] {
            println!("  an operation of attention, {tokens} tokens: {:.2}", bench.attention(tokens));
        }
        let [energy, fusion, update] = bench.entries();
        println!("  an entry of energies {energy:.1}, of fusion {fusion:.1}, of the update {update:.1}");
        let [operation, select, keep] = bench.fixed();
        println!("  an operation {operation:.2e}, a probe's choice {select:.2e}, the kept set's {keep:.2e}");
    }
}
