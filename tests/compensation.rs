//! Compensation of pruned channels: every formula of `compensate` and `channel_group` against a plain computation
//! in f64 that factors nothing.

mod common;

use std::sync::Arc;

use common::models::{Folder, Tensors};
use probeprune::{
    backend::{
        AccumulateProductOperands, Backend, ChannelScoreOperands, ColumnStatisticOperands,
        GatherPrunedOperands, History, KeptSet, WeightUse,
    },
    checkpoint::Tensor,
    cpu::{Buffer, Cpu},
    model::{
        Model,
        block::{self},
        compensation::{Compensation as Compensating, LinearMap},
        context::{Context, Mode},
        kept::Kept,
        scratch::{Batch, Scratch},
        selection::{Probed, Selection},
    },
    prune::{
        BatchShape, Block, Unit,
        calibration::BlockMoments,
        history::HistoryLayout,
        settings::{Compensation, Method, Metric, ProbeTokens, Settings},
    },
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

const H: usize = 16;
const C: usize = 40;
const KEPT: usize = 24;
const RANK: usize = 3;
const PRIOR_TOKENS: usize = 7;
const SHAPE: BatchShape = BatchShape { samples: 5, tokens: 7 };

fn values(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// x (rows, n) · wᵀ, w (m, n).
fn product(x: &[f64], w: &[f64], n: usize) -> Vec<f64> {
    x.chunks_exact(n)
        .flat_map(|x| w.chunks_exact(n).map(|w| x.iter().zip(w).map(|(a, b)| a * b).sum()))
        .collect()
}

/// The largest |got − want| is at most `tolerance` of want's root mean square.
fn assert_close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let rms = (want.iter().map(|x| x * x).sum::<f64>() / want.len() as f64).sqrt();
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(got) - want).abs() <= tolerance * rms, "{what}, entry {i}: {got:e} for {want:e}");
    }
}

/// One layer of which the MLP runs, its weights in f64.
struct Layer {
    model: Arc<Model<Cpu>>,
    tensors: Tensors,
}

impl Layer {
    fn new() -> Self {
        let folder = Folder::llama_with(json!({ "num_hidden_layers": 1, "intermediate_size": C }));
        let cpu = Arc::new(Cpu::new(2).unwrap());
        Self {
            model: Arc::new(Model::load(&folder.source(), false, cpu, |_| ()).unwrap()),
            tensors: folder.tensors(),
        }
    }

    fn weight(&self, part: &str) -> Vec<f64> {
        wide(&self.tensors[&format!("model.layers.0.{part}.weight")].1)
    }

    /// norm(r) of rows (., H).
    fn normed(&self, r: &[f64]) -> Vec<f64> {
        let weight = self.weight("post_attention_layernorm");
        let rows = r.chunks_exact(H).map(|row| {
            let scale = (row.iter().map(|x| x * x).sum::<f64>() / H as f64 + 1e-5).sqrt();
            row.iter().zip(&weight).map(move |(x, w)| x / scale * w).collect::<Vec<_>>()
        });
        rows.flatten().collect()
    }

    /// silu(gate)·up of normed rows: (., C).
    fn states(&self, x: &[f64]) -> Vec<f64> {
        let [gate, up] = ["mlp.gate_proj", "mlp.up_proj"].map(|part| product(x, &self.weight(part), H));
        gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect()
    }
}

/// B, b, P and p0 of a linear map.
struct Map {
    coefficients: Vec<f32>,
    bias: Vec<f32>,
    directions: Vec<f32>,
    offsets: Vec<f32>,
}

impl Map {
    fn new() -> Self {
        Self {
            coefficients: values(11, RANK * C),
            bias: values(12, C),
            directions: values(13, RANK * H),
            offsets: values(14, RANK),
        }
    }

    fn on(&self, cpu: &Cpu) -> LinearMap<Cpu> {
        let linear = |weight: Vec<f32>, out_features: usize, bias: Option<Vec<f32>>, usage| {
            let in_features = weight.len() / out_features;
            let weight =
                cpu.weight(&Tensor::from_f32(vec![out_features, in_features], weight), usage).unwrap();
            probeprune::backend::Linear { weight, bias: bias.map(Into::into), out_features, in_features }
        };
        let negated = (0..C).flat_map(|c| (0..RANK).map(move |l| -self.coefficients[l * C + c])).collect();
        LinearMap {
            directions: linear(self.directions.clone(), RANK, Some(self.offsets.clone()), WeightUse::Rows),
            negated: linear(negated, C, None, WeightUse::Columns),
            coefficients: self.coefficients.clone().into(),
        }
    }

    /// B·z of normed rows (., H), z = P·x + p0: (., C).
    fn explained(&self, x: &[f64]) -> Vec<f64> {
        x.chunks_exact(H)
            .flat_map(|x| {
                let z: Vec<f64> = (0..RANK)
                    .map(|l| {
                        let row = &self.directions[l * H..(l + 1) * H];
                        f64::from(self.offsets[l])
                            + row.iter().zip(x).map(|(&p, x)| f64::from(p) * x).sum::<f64>()
                    })
                    .collect();
                (0..C).map(move |c| {
                    (0..RANK).map(|l| f64::from(self.coefficients[l * C + c]) * z[l]).sum::<f64>()
                })
            })
            .collect()
    }
}

/// Runs the MLP block with `pp` at the given settings, and compares all that it leaves behind.
fn check_block(compensate: Compensation, mask: Option<Vec<u32>>) {
    let layer = Layer::new();
    let (backend, config) = (&*layer.model.backend, &layer.model.config);
    let settings = Settings {
        method: Method::ProbePruning,
        prune_ratio: 0.4,
        probe_samples: 0.5,
        probe_tokens: ProbeTokens::Share(0.6),
        momentum: 0.75,
        compensate,
        prior_tokens: PRIOR_TOKENS,
        ..Settings::default()
    };
    let rows = SHAPE.rows();
    let r = values(1, rows * H);
    let mut scratch = Scratch::new(backend, config, &settings, SHAPE, 0).unwrap();
    scratch.current.rows.copy_from_slice(&r);
    let history: Vec<f32> = values(2, SHAPE.tokens * C).iter().map(|x| x * x).collect();
    let map = (compensate.rank() > 0).then(Map::new);
    let kept = Kept::new(backend, config, Block::Mlp, 1, KEPT).unwrap();
    let mut statistic = vec![0.0; C].into();
    backend.column_statistic(ColumnStatisticOperands {
        projection: &layer.model.weights.layers[0].mlp.down_proj,
        metric: Metric::Ppsp,
        out: &mut statistic,
    });
    let layout = HistoryLayout::default();
    // Calibration's mean, or a linear map's b.
    let prior = map.as_ref().map_or_else(|| values(15, C), |map| map.bias.clone());
    let mut selection = Selection::Probed(Probed {
        compensation: Some(
            Compensating::new(
                backend,
                config,
                &kept,
                Some(prior.clone().into()),
                map.as_ref().map(|map| map.on(backend)),
            )
            .unwrap(),
        ),
        kept,
        statistic: statistic.clone(),
        history: Some(History { values: history.clone().into(), slots: SHAPE.tokens, channels: C, layout }),
        pending: None,
        recent: None,
        pinned: false,
    });
    let batch = Batch {
        shape: SHAPE,
        tokens: vec![0; rows].into(),
        positions: (0..rows as u32).collect(),
        mask: mask.clone().unwrap_or_default().into(),
        padded: mask.is_some(),
    };
    let mode = Mode::Batch { update_history: true };
    let context = Context { model: &*layer.model, settings: &settings, batch: &batch, mode, dense: None };
    backend.scope(|| block::run(context.block(0, Block::Mlp), &mut selection, &mut scratch, None, None));
    assert_eq!(scratch.fault, [0]);

    // The probe's rows, and which of them are tokens.
    let shape = scratch.probe.shape;
    let real = |b: usize, s: usize| mask.as_ref().is_none_or(|mask| mask[b * SHAPE.tokens + s] != 0);
    let place = |i: usize, j: usize| (scratch.probe.samples[i] as usize, scratch.probe.slots[j] as usize);
    let x = layer.normed(&wide(&r));
    let (states, explained) = (layer.states(&x), map.as_ref().map(|map| map.explained(&x)));
    // What the probe sees of a channel beside its linear map.
    let seen = |b: usize, s: usize, c: usize| {
        let at = (b * SHAPE.tokens + s) * C + c;
        states[at] - explained.as_ref().map_or(0.0, |explained| explained[at])
    };
    let tokens: Vec<(usize, usize)> = (0..shape.samples)
        .flat_map(|i| (0..shape.tokens).map(move |j| (i, j)))
        .map(|(i, j)| place(i, j))
        .filter(|&(b, s)| real(b, s))
        .collect();
    let weight = shape.rows() as f64 / (shape.rows() + PRIOR_TOKENS) as f64;
    // What stands in: the probe's mean drawn towards calibration's.
    let mean: Vec<f64> = (0..C)
        .map(|c| {
            let mean = tokens.iter().map(|&(b, s)| seen(b, s, c)).sum::<f64>() / tokens.len() as f64;
            f64::from(prior[c]) + weight * (mean - f64::from(prior[c]))
        })
        .collect();
    let share = f64::from(Compensation::CENTRED_SHARE);
    let p: Vec<f64> = (0..shape.tokens)
        .flat_map(|j| (0..C).map(move |c| (j, c)))
        .map(|(j, c)| {
            let at_slot: Vec<_> =
                (0..shape.samples).map(|i| place(i, j)).filter(|&(b, s)| real(b, s)).collect();
            let divisor = at_slot.len() as f64 + if mask.is_some() { 1e-3 } else { 0.0 };
            at_slot.iter().map(|&(b, s)| (seen(b, s, c) - share * mean[c]).powi(2)).sum::<f64>() / divisor
        })
        .collect();
    assert_close("p", &scratch.p[..shape.tokens * C], &p, 1e-5);

    let score: Vec<f64> = (0..C)
        .map(|c| {
            let energy: f64 = (0..shape.tokens)
                .map(|j| {
                    let h = f64::from(history[scratch.probe.slots[j] as usize * C + c]);
                    let p = p[j * C + c];
                    let w = p / (p + h + 1e-6);
                    w * p + (1.0 - w) * h
                })
                .sum();
            energy * f64::from(statistic[c])
        })
        .collect();
    let mut order: Vec<usize> = (0..C).collect();
    order.sort_by(|&a, &b| score[b].total_cmp(&score[a]));
    let is_kept: Vec<bool> = (0..C).map(|c| order[..KEPT].contains(&c)).collect();
    let Selection::Probed(Probed { kept, compensation: Some(compensation), .. }) = &selection else {
        panic!()
    };
    let channels = |want: bool| (0..C as u32).filter(|&c| is_kept[c as usize] == want).collect::<Vec<_>>();
    assert_eq!(kept.set.indices[..KEPT], channels(true));
    assert_eq!(compensation.pruned.indices[..C - KEPT], channels(false));
    assert_close("mean", &compensation.mean, &mean, 1e-5);

    // The output: every channel of every row, pruned ones by their compensation.
    let down = layer.weight("mlp.down_proj");
    let out: Vec<f64> = (0..rows)
        .flat_map(|row| {
            let a: Vec<f64> = (0..C)
                .map(|c| match (is_kept[c], &explained) {
                    (true, _) => states[row * C + c],
                    (false, None) => mean[c],
                    // B·z + the mean of what that leaves.
                    (false, Some(explained)) => explained[row * C + c] + mean[c],
                })
                .collect();
            product(&a, &down, C)
                .into_iter()
                .zip(&r[row * H..])
                .map(|(y, &r)| y + f64::from(r))
                .collect::<Vec<_>>()
        })
        .collect();
    assert_close("output", &scratch.next.rows, &out, 1e-5);
}

fn some_pads() -> Vec<u32> {
    (0..SHAPE.rows()).map(|row| u32::from(row % SHAPE.tokens >= row / SHAPE.tokens)).collect()
}

#[test]
fn the_probes_mean_stands_in_for_pruned_channels() {
    check_block(Compensation::ProbeMean, None);
    check_block(Compensation::ProbeMean, Some(some_pads()));
}

#[test]
fn a_linear_map_stands_in_for_pruned_channels() {
    check_block(Compensation::Linear { rank: RANK }, None);
    check_block(Compensation::Linear { rank: RANK }, Some(some_pads()));
}

#[test]
fn groups_score_as_the_norm_of_their_channels() {
    let cpu = Cpu::new(2).unwrap();
    let (tokens, width) = (3, 7 * 48);
    let p: Buffer<f32> = values(3, tokens * width).iter().map(|x| x * x).collect();
    let statistic: Buffer<f32> = values(4, width).iter().map(|x| x.abs()).collect();
    for group in [8, 16] {
        for metric in [Metric::Ppsp, Metric::WandaSp, Metric::Flap] {
            let mut out = vec![f32::NAN; width / group].into();
            let fusion = probeprune::backend::Fusion::ProbeOnly;
            cpu.channel_score(ChannelScoreOperands {
                p: &p,
                tokens,
                channels: width,
                fusion,
                metric,
                statistic: &statistic,
                unit: Unit::Group(group),
                out: &mut out,
            });
            let channel = |c: usize| {
                let energy: f64 = (0..tokens).map(|s| f64::from(p[s * width + c])).sum();
                f64::from(statistic[c]) * if metric == Metric::WandaSp { energy.sqrt() } else { energy }
            };
            let want: Vec<f64> = (0..width / group)
                .map(|g| (0..group).map(|i| channel(g * group + i).powi(2)).sum::<f64>().sqrt())
                .collect();
            assert_close("group scores", &out, &want, 1e-5);
        }
    }
}

#[test]
fn pruned_is_what_is_not_kept() {
    for (indices, of, width) in
        [(vec![0, 3, 4], 6, 1), (vec![], 3, 4), (vec![2], 3, 4), (vec![0, 1, 2], 3, 2)]
    {
        let set = KeptSet { len: indices.len(), of, indices: indices.clone().into(), block_width: width };
        let mut pruned =
            KeptSet { indices: vec![99; of].into(), len: of - indices.len(), of, block_width: width };
        let (rows, last) = (values(5, 2 * of * width).into(), values(6, of * width).into());
        let mut out = vec![0.0; 3 * pruned.len * width].into();
        Cpu::new(1).unwrap().gather_pruned(GatherPrunedOperands {
            kept: &set,
            coefficients: Some((&rows, 2)),
            mean: &last,
            pruned: &mut pruned,
            out: &mut out,
        });
        let want: Vec<u32> = (0..of as u32).filter(|unit| !indices.contains(unit)).collect();
        assert_eq!(pruned.indices[..want.len()], want);
        let columns = || want.iter().flat_map(|&unit| (0..width).map(move |i| unit as usize * width + i));
        let want: Vec<f32> = rows
            .chunks_exact(of * width)
            .chain([&last[..]])
            .flat_map(|row| columns().map(move |c| row[c]))
            .collect();
        assert_eq!(out, want);
    }
}

#[test]
fn second_moments_are_sums_of_products() {
    let (rows, m, n) = (37, 5, 131);
    let (a, b): (Buffer<f32>, Buffer<f32>) = (values(7, rows * m).into(), values(8, rows * n).into());
    let before = values(9, m * n);
    let mut out = before.clone().into();
    Cpu::new(2).unwrap().accumulate_product(AccumulateProductOperands {
        a: &a,
        b: &b,
        rows,
        columns: [m, n],
        out: &mut out,
    });
    let want: Vec<f64> = (0..m * n)
        .map(|i| {
            let sum: f64 = (0..rows).map(|t| f64::from(a[t * m + i / n]) * f64::from(b[t * n + i % n])).sum();
            sum + f64::from(before[i])
        })
        .collect();
    assert_close("second moments", &out, &want, 1e-5);
}

#[test]
fn calibrations_energies_are_centred_too() {
    let (samples, slots, width) = (9, 4, 3);
    let a = values(16, samples * slots * width);
    let at = |b: usize, s: usize, c: usize| f64::from(a[(b * slots + s) * width + c]);
    let mean_at = |s: usize, c: usize, f: fn(f64) -> f64| {
        ((0..samples).map(|b| f(at(b, s, c))).sum::<f64>() / samples as f64) as f32
    };
    let each = |f: fn(f64) -> f64| (0..slots * width).map(|i| mean_at(i / width, i % width, f)).collect();
    let moments =
        BlockMoments { energy: each(|x| x * x), mean: each(|x| x), flap: None, linear: None, second: None };
    let means: Vec<f64> = (0..width)
        .map(|c| {
            (0..samples * slots).map(|row| f64::from(a[row * width + c])).sum::<f64>()
                / (samples * slots) as f64
        })
        .collect();
    assert_close("means", &moments.channel_means(width), &means, 1e-6);
    for share in [1.0, 0.7] {
        let want: Vec<f64> = (0..slots * width)
            .map(|i| {
                let (s, c) = (i / width, i % width);
                let around = f64::from(share) * means[c];
                (0..samples).map(|b| (at(b, s, c) - around).powi(2)).sum::<f64>() / samples as f64
            })
            .collect();
        assert_close("centred energy", &moments.centred_energy(width, share), &want, 1e-5);
    }
}
