//! A case's buffers, and how it runs on them.

use probeprune::{
    backend::{
        Addition, AttentionShape, Backend, Fusion, Grid, History, KeptBlocks, KeptSet, Linear, Moments, Norm,
        NormKind, Placement, Probe, Unit, WeightUse,
    },
    config::Activation,
    prune::{
        counts,
        settings::{Compensation, HistoryLayout, Metric, ProbeOrder},
    },
};

use super::{Case, Op, RANK, Shape};
use crate::content::Content;

/// A case with its buffers: runs once, and returns what came out if asked to.
pub type Ready<B> = Box<dyn FnMut(&B, bool) -> Vec<f32>>;

impl Case {
    /// Makes its buffers.
    ///
    /// # Errors
    /// If the device has no room for them.
    pub fn prepare<B: Backend>(
        &self,
        backend: &B,
        content: &Content,
        seed: u64,
    ) -> probeprune::Result<Ready<B>> {
        let mut make = Make { backend, content, seed: 100 * seed };
        let Shape { grid, hidden: h, intermediate, heads, head_dim, kept_heads, kept_channels, .. } =
            self.shape;
        let (t, probe_grid) = (grid.rows(), self.probe());
        let (n, all) = (self.head_channels(), heads * head_dim);
        let heads_set = self.pruned.then(|| make.kept(kept_heads, heads)).transpose()?;
        let channel_set = self.pruned.then(|| make.kept(kept_channels, intermediate)).transpose()?;
        fn blocks<I>(set: &Option<KeptSet<I>>, width: usize) -> Option<KeptBlocks<'_, I>> {
            set.as_ref().map(|set| KeptBlocks { set, width })
        }
        Ok(match self.op {
            Op::Norm => {
                let (x, weight) = (make.activations(t * h)?, make.statistics(h, 0.9..1.1)?);
                let norm = Norm { kind: NormKind::Rms, weight: Some(weight), bias: None, eps: 1e-5 };
                let (mut out, mut sums) = (backend.activations(t * h)?, backend.statistics(t)?);
                Box::new(move |backend, read| {
                    backend.norm(&x, Some(&norm), t, h, &mut out, &mut sums);
                    activations(backend, read, &out, t * h)
                })
            }
            Op::ProbeSelect => {
                let (sums, positions) = (make.statistics(t, 1.0..2.0)?, make.positions(grid)?);
                let mut probe = make.probe(probe_grid, grid)?;
                let order = ProbeOrder::TokensSamples;
                Box::new(move |backend, read| {
                    let limit = counts::LEADING_SLOT_LIMIT;
                    backend.probe_select(&sums, grid, order, &positions, None, limit, &mut probe);
                    indices(backend, read, &probe.slots, probe_grid.tokens)
                })
            }
            Op::ProbeGather => {
                let (x, probe) = (make.activations(t * h)?, make.probe(probe_grid, grid)?);
                let mut out = backend.activations(probe_grid.rows() * h)?;
                Box::new(move |backend, read| {
                    backend.probe_gather(&x, grid, h, &probe, &mut out);
                    activations(backend, read, &out, probe_grid.rows() * h)
                })
            }
            Op::Query => {
                let (x, weight) = (make.activations(t * h)?, make.linear(all, h, WeightUse::Rows)?);
                let mut out = backend.activations(t * n)?;
                Box::new(move |backend, read| {
                    backend.linear(&x, t, &weight, blocks(&heads_set, head_dim), None, 1.0, None, &mut out);
                    activations(backend, read, &out, t * n)
                })
            }
            Op::Gated => {
                let (x, c) = (make.activations(t * h)?, self.channels());
                let gate = make.linear(intermediate, h, WeightUse::Rows)?;
                let up = make.linear(intermediate, h, WeightUse::Rows)?;
                let mut out = backend.activations(t * c)?;
                Box::new(move |backend, read| {
                    let (kept, silu) = (blocks(&channel_set, 1), Activation::Silu);
                    backend.gated_linear(&x, t, &gate, &up, kept, silu, None, &mut out);
                    activations(backend, read, &out, t * c)
                })
            }
            Op::Output | Op::Down => {
                let (c, whole, set, width) = match self.op {
                    Op::Output => (n, all, heads_set, head_dim),
                    _ => (self.channels(), intermediate, channel_set, 1),
                };
                let (a, residual) = (make.activations(t * c)?, make.activations(t * h)?);
                let weight = make.linear(h, whole, WeightUse::Columns)?;
                let mut out = backend.activations(t * h)?;
                Box::new(move |backend, read| {
                    backend.project(
                        &a,
                        t,
                        &weight,
                        blocks(&set, width),
                        None,
                        None,
                        Some(&residual),
                        &mut out,
                    );
                    activations(backend, read, &out, t * h)
                })
            }
            Op::Rope => {
                let (mut q, mut k, v) =
                    (make.activations(t * n)?, make.activations(t * n)?, make.activations(t * n)?);
                let (table, positions) =
                    (make.statistics(grid.tokens * head_dim, -1.0..1.0)?, make.positions(grid)?);
                Box::new(move |backend, read| {
                    let rotary = Some((&table, &positions));
                    let placement = Placement { grid, heads, kv_heads: heads, head_dim, rotary, cache: None };
                    backend.place_qkv(&mut q, &mut k, &v, placement);
                    activations(backend, read, &q, t * n)
                })
            }
            Op::Attention => {
                let [q, k, v] =
                    [make.activations(t * n)?, make.activations(t * n)?, make.activations(t * n)?];
                let heads = n / head_dim;
                let mut slots = backend.indices(heads)?;
                backend.upload_indices(&(0..heads as u32).collect::<Vec<_>>(), &mut slots);
                let mut out = backend.activations(t * n)?;
                let shape = AttentionShape {
                    queries: grid,
                    keys: grid.tokens,
                    key_capacity: grid.tokens,
                    heads,
                    kv_heads: heads,
                    head_dim,
                    scale: (head_dim as f32).powf(-0.5),
                    window: None,
                };
                Box::new(move |backend, read| {
                    backend.attention(&q, &k, &v, shape, &slots, None, None, &mut out);
                    activations(backend, read, &out, t * n)
                })
            }
            Op::Energy => {
                let (a, mut out) = (make.activations(t * n)?, backend.statistics(grid.tokens * n)?);
                Box::new(move |backend, read| {
                    backend.energy(&a, grid, n, None, &mut out, None);
                    statistics(backend, read, &out, grid.tokens * n)
                })
            }
            Op::Score => {
                let (width, tokens) = (intermediate, probe_grid.tokens);
                let (p, statistic) =
                    (make.statistics(tokens * width, 0.0..1.0)?, make.statistics(width, 0.5..1.5)?);
                let (history, probe) = (make.history(grid.tokens, width)?, make.probe(probe_grid, grid)?);
                let mut scores = backend.statistics(width)?;
                Box::new(move |backend, read| {
                    let fusion =
                        Fusion::History { history: &history, slots: &probe.slots, fixed_weight: None };
                    backend.channel_score(
                        &p,
                        tokens,
                        width,
                        fusion,
                        Metric::Ppsp,
                        &statistic,
                        Unit::Channel,
                        &mut scores,
                    );
                    statistics(backend, read, &scores, width)
                })
            }
            Op::TopK => {
                let scores = make.statistics(intermediate, 0.0..1.0)?;
                let (mut kept, mut fault) = (make.kept(kept_channels, intermediate)?, backend.indices(1)?);
                Box::new(move |backend, read| {
                    backend.top_k_keep(&scores, &mut kept, 1, &mut fault);
                    indices(backend, read, &kept.indices, kept_channels)
                })
            }
            Op::History => {
                let (tokens, width) = (grid.tokens, intermediate);
                let p = make.statistics(tokens * kept_channels, 0.0..1.0)?;
                let (mut history, kept) = (make.history(tokens, width)?, make.kept(kept_channels, width)?);
                Box::new(move |backend, read| {
                    let kept = KeptBlocks { set: &kept, width: 1 };
                    backend.history_update(&p, tokens, 0, kept, 0.99, &mut history);
                    statistics(backend, read, &history.values, tokens * width)
                })
            }
            Op::CentreEnergy => {
                let (len, prior) =
                    (probe_grid.tokens * intermediate, make.statistics(intermediate, -0.1..0.1)?);
                let (mut p, sums) = (make.statistics(len, 1.0..2.0)?, make.statistics(len, -1.0..1.0)?);
                let mut mean = backend.statistics(intermediate)?;
                Box::new(move |backend, read| {
                    let prior = Some((&prior, 0.9));
                    let share = Compensation::CENTRED_SHARE;
                    backend.centre_energy(
                        &mut p,
                        &sums,
                        probe_grid,
                        intermediate,
                        None,
                        prior,
                        share,
                        &mut mean,
                    );
                    statistics(backend, read, &p, len)
                })
            }
            Op::GatherPruned => {
                let kept = make.kept(kept_channels, intermediate)?;
                let coefficients = make.statistics(RANK * intermediate, -1.0..1.0)?;
                let mean = make.statistics(intermediate, -1.0..1.0)?;
                let len = self.pruned_channels();
                let mut pruned = KeptSet { indices: backend.indices(len)?, len, of: intermediate };
                let mut out = backend.activations((RANK + 1) * len)?;
                Box::new(move |backend, read| {
                    let kept = KeptBlocks { set: &kept, width: 1 };
                    backend.gather_pruned(kept, Some((&coefficients, RANK)), &mean, &mut pruned, &mut out);
                    activations(backend, read, &out, (RANK + 1) * len)
                })
            }
            Op::PrunedProduct => {
                let c = self.pruned_channels();
                let (a, pruned) = (make.activations((RANK + 1) * c)?, make.kept(c, intermediate)?);
                let weight = make.linear(h, intermediate, WeightUse::Columns)?;
                let mut out = backend.activations((RANK + 1) * h)?;
                Box::new(move |backend, read| {
                    let pruned = Some(KeptBlocks { set: &pruned, width: 1 });
                    backend.project(&a, RANK + 1, &weight, pruned, None, None, None, &mut out);
                    activations(backend, read, &out, (RANK + 1) * h)
                })
            }
            Op::DownAdded => {
                let (a, kept) =
                    (make.activations(t * kept_channels)?, make.kept(kept_channels, intermediate)?);
                let (z, added) = (make.activations(t * RANK)?, make.activations((RANK + 1) * h)?);
                let (weight, residual) =
                    (make.linear(h, intermediate, WeightUse::Columns)?, make.activations(t * h)?);
                let mut out = backend.activations(t * h)?;
                Box::new(move |backend, read| {
                    let kept = Some(KeptBlocks { set: &kept, width: 1 });
                    let addition = Some(Addition { z: &z, rank: RANK, weight: &added });
                    backend.project(&a, t, &weight, kept, None, addition, Some(&residual), &mut out);
                    activations(backend, read, &out, t * h)
                })
            }
            Op::Moments => {
                let (a, len) = (make.activations(t * intermediate)?, grid.tokens * intermediate);
                let [energy, mean] = [backend.statistics(len)?, backend.statistics(len)?];
                let none = || backend.statistics(0);
                let mut moments = Moments { energy, mean, baseline: none()?, fluctuation: none()? };
                Box::new(move |backend, read| {
                    backend.accumulate_moments(&a, grid, intermediate, 0, &mut moments);
                    statistics(backend, read, &moments.energy, len)
                })
            }
            Op::InputProduct => {
                let (x, mut out) = (make.activations(t * h)?, backend.statistics(h * h)?);
                Box::new(move |backend, read| {
                    backend.accumulate_product(&x, &x, t, [h, h], &mut out);
                    statistics(backend, read, &out, h * h)
                })
            }
        })
    }
}

fn activations<B: Backend>(backend: &B, read: bool, values: &B::Activations, len: usize) -> Vec<f32> {
    if read { backend.download_activations(values, len).expect("the device works") } else { Vec::new() }
}

fn statistics<B: Backend>(backend: &B, read: bool, values: &B::Statistics, len: usize) -> Vec<f32> {
    if read { backend.download_statistics(values, len).expect("the device works") } else { Vec::new() }
}

fn indices<B: Backend>(backend: &B, read: bool, values: &B::Indices, len: usize) -> Vec<f32> {
    let all = || backend.download_indices(values, len).expect("the device works");
    if read { all().into_iter().map(|index| index as f32).collect() } else { Vec::new() }
}

/// Makes buffers with content, each with other.
struct Make<'a, B> {
    backend: &'a B,
    content: &'a Content,
    seed: u64,
}

impl<B: Backend> Make<'_, B> {
    fn values(&mut self, len: usize, range: std::ops::Range<f32>) -> Vec<f32> {
        self.seed += 1;
        self.content.values(len, range, self.seed)
    }

    fn activations(&mut self, len: usize) -> probeprune::Result<B::Activations> {
        let mut out = self.backend.activations(len)?;
        self.backend.upload_activations(&self.values(len, -1.0..1.0), &mut out);
        Ok(out)
    }

    fn statistics(&mut self, len: usize, range: std::ops::Range<f32>) -> probeprune::Result<B::Statistics> {
        let mut out = self.backend.statistics(len)?;
        self.backend.upload_statistics(&self.values(len, range), &mut out);
        Ok(out)
    }

    fn linear(
        &mut self,
        out_features: usize,
        in_features: usize,
        usage: WeightUse,
    ) -> probeprune::Result<Linear<B>> {
        self.seed += 1;
        let tensor = self.content.matrix([out_features, in_features], self.seed);
        Ok(Linear { weight: self.backend.weight(&tensor, usage)?, bias: None, out_features, in_features })
    }

    /// `len` of `of`, spread evenly from somewhere on.
    fn kept(&mut self, len: usize, of: usize) -> probeprune::Result<KeptSet<B::Indices>> {
        self.seed += 1;
        let start = self.seed as usize * 7919 % of;
        let mut kept: Vec<u32> = (0..len).map(|i| ((start + i * of / len) % of) as u32).collect();
        kept.sort_unstable();
        let mut indices = self.backend.indices(of)?;
        self.backend.upload_indices(&kept, &mut indices);
        Ok(KeptSet { indices, len, of })
    }

    fn positions(&mut self, grid: Grid) -> probeprune::Result<B::Indices> {
        let mut out = self.backend.indices(grid.rows())?;
        let positions: Vec<u32> = (0..grid.rows()).map(|row| (row % grid.tokens) as u32).collect();
        self.backend.upload_indices(&positions, &mut out);
        Ok(out)
    }

    fn history(&mut self, slots: usize, width: usize) -> probeprune::Result<History<B>> {
        let values = self.statistics(slots * width, 0.0..1.0)?;
        Ok(History { values, slots, width, layout: HistoryLayout::default() })
    }

    /// The first samples, every other token.
    fn probe(&mut self, probe: Grid, of: Grid) -> probeprune::Result<Probe<B>> {
        let filled = |values: Vec<u32>| {
            let mut out = self.backend.indices(values.len())?;
            self.backend.upload_indices(&values, &mut out);
            Ok::<_, probeprune::Error>(out)
        };
        Ok(Probe {
            grid: probe,
            samples: filled((0..probe.samples as u32).collect())?,
            slots: filled((0..probe.tokens).map(|s| (s * of.tokens / probe.tokens) as u32).collect())?,
            positions: filled(vec![0; probe.rows()])?,
            mask: filled(vec![1; probe.rows()])?,
        })
    }
}
