//! Scores, kept sets, history and calibration moments.

use super::{
    Activations, Driver, Geometry, Gpu, Indices, Kernel, PerDtype, Statistics,
    args::{
        ChannelScoreArgs, CheckFiniteArgs, HistoryUpdateArgs, KeepKvHeadsArgs, MomentsArgs, TopKKeepArgs,
    },
    per_dtype,
};
use crate::{
    backend::{Fusion, Grid, History, KeptBlocks, KeptSet, Moments, Unit},
    prune::settings::{HistoryDtype, Metric},
};

const CHANNEL_SCORE: Kernel = Kernel { module: "channel_score", name: "channel_score" };
const TOP_K_KEEP: Kernel = Kernel { module: "top_k_keep", name: "top_k_keep" };
const KEEP_KV_HEADS: Kernel = Kernel { module: "keep_kv_heads", name: "keep_kv_heads" };
const CHECK_FINITE: Kernel = Kernel { module: "check_finite", name: "check_finite" };
const HISTORY_UPDATE: Kernel = Kernel { module: "history_update", name: "history_update" };
const MOMENTS: PerDtype = per_dtype!("moments");

/// Up to so many scores every one is compared with every other.
const FEW: usize = 256;

/// Blocks in a row, of so many threads.
fn row(blocks: usize, threads: usize) -> Geometry {
    Geometry { grid: [blocks as u32, 1, 1], threads: threads as u32, shared: 0 }
}

impl<D: Driver> Gpu<D> {
    pub(super) fn channel_score_kernel(
        &self,
        p: &Statistics<D>,
        tokens: usize,
        width: usize,
        fusion: Fusion<'_, Self>,
        metric: Metric,
        statistic: &Statistics<D>,
        unit: Unit,
        out: &Statistics<D>,
    ) {
        // A block has a head or 32 channels: `groups` warps side by side, times as many as give each about 16 tokens.
        let (span, heads, group) = match unit {
            Unit::Channel => (32, false, 0),
            Unit::Group(width) => (32, false, width),
            Unit::Head(head_dim) => (head_dim, true, 0),
        };
        debug_assert!(matches!(group, 0 | 8 | 16), "groups fit a warp");
        let groups = span.div_ceil(32).min(8);
        let splits = tokens.div_ceil(16).clamp(1, if heads { 32 / groups } else { 16 });
        let mut arguments = ChannelScoreArgs {
            p: self.floats(p),
            statistic: self.floats(statistic),
            out: self.floats(out),
            tokens: tokens as i32,
            width: width as i32,
            span: span as i32,
            groups: groups as i32,
            heads: heads.into(),
            group: group as i32,
            metric: match metric {
                Metric::Ppsp => 0,
                Metric::WandaSp => 1,
                Metric::Flap => 2,
            },
            bucket: 1,
            ..ChannelScoreArgs::default()
        };
        if let Fusion::History { history, slots, fixed_weight } = fusion {
            debug_assert_eq!(history.width, width, "history has every channel");
            arguments.history = self.floats(&history.values);
            arguments.slots = self.words(slots);
            arguments.history_kind = match history.layout.dtype {
                HistoryDtype::F32 => 1,
                HistoryDtype::F16 => 2,
            };
            arguments.history_slots = history.slots as i32;
            arguments.bucket = history.layout.bucket as i32;
            arguments.fixed = fixed_weight.is_some().into();
            arguments.fixed_weight = fixed_weight.unwrap_or(0.0);
        }
        self.launch(CHANNEL_SCORE, row(width.div_ceil(span), 32 * groups * splits), &arguments);
    }

    pub(super) fn top_k_keep_kernel(
        &self,
        scores: &Statistics<D>,
        kept: &KeptSet<Indices<D>>,
        tag: u32,
        fault: &Indices<D>,
    ) {
        debug_assert!(kept.len <= kept.of, "no more are kept than there are");
        if kept.len == 0 {
            return self.check_finite_kernel(scores, kept.of, tag, fault);
        }
        let arguments = TopKKeepArgs {
            scores: self.floats(scores),
            kept: self.words(&kept.indices),
            fault: self.words(fault),
            of: kept.of as i32,
            k: kept.len as i32,
            tag,
            reserved: 0,
        };
        let threads = if kept.of <= FEW { kept.of.next_multiple_of(32) } else { 1024 };
        self.launch(TOP_K_KEEP, row(1, threads), &arguments);
    }

    pub(super) fn check_finite_kernel(
        &self,
        values: &Statistics<D>,
        len: usize,
        tag: u32,
        fault: &Indices<D>,
    ) {
        let arguments = CheckFiniteArgs {
            values: self.floats(values),
            fault: self.words(fault),
            count: len as i64,
            tag,
            reserved: 0,
        };
        self.launch(CHECK_FINITE, row(len.div_ceil(1024), 256), &arguments);
    }

    pub(super) fn keep_kv_heads_kernel(
        &self,
        heads: &KeptSet<Indices<D>>,
        group: usize,
        kv_kept: &KeptSet<Indices<D>>,
        kv_slots: &Indices<D>,
    ) {
        let arguments = KeepKvHeadsArgs {
            heads: self.words(&heads.indices),
            kv_kept: self.words(&kv_kept.indices),
            kv_slots: self.words(kv_slots),
            count: heads.len as i32,
            group: group as i32,
            kv_capacity: kv_kept.indices.0.len as i32,
            reserved: 0,
        };
        self.launch(KEEP_KV_HEADS, row(1, 32), &arguments);
    }

    pub(super) fn history_update_kernel(
        &self,
        p: &Statistics<D>,
        tokens: usize,
        at: usize,
        kept: KeptBlocks<'_, Indices<D>>,
        momentum: f64,
        history: &History<Self>,
    ) {
        const ROWS: usize = 8;
        const THREADS: usize = 256;
        let (bucket, end) = (history.layout.bucket, (at + tokens).min(history.slots));
        if at >= end {
            return;
        }
        let arguments = HistoryUpdateArgs {
            p: self.floats(p),
            kept: self.words(&kept.set.indices),
            history: self.floats(&history.values),
            channels: kept.channels() as i32,
            block_width: kept.width as i32,
            width: history.width as i32,
            at: at as i32,
            end: end as i32,
            bucket: bucket as i32,
            half: (history.layout.dtype == HistoryDtype::F16).into(),
            old_share: momentum as f32,
            new_share: (1.0 - momentum) as f32,
            reserved: 0,
        };
        let rows = (end - 1) / bucket + 1 - at / bucket;
        let grid = [rows.div_ceil(ROWS) as u32, kept.channels().div_ceil(THREADS) as u32, 1];
        self.launch(HISTORY_UPDATE, Geometry { grid, threads: THREADS as u32, shared: 0 }, &arguments);
    }

    pub(super) fn accumulate_moments_kernel(
        &self,
        a: &Activations<D>,
        grid: Grid,
        width: usize,
        seen: usize,
        moments: &Moments<Self>,
    ) {
        let optional = |values: &Statistics<D>| if values.0.len == 0 { 0 } else { self.floats(values) };
        let arguments = MomentsArgs {
            a: self.elements(a),
            energy: self.floats(&moments.energy),
            mean: optional(&moments.mean),
            baseline: optional(&moments.baseline),
            fluctuation: optional(&moments.fluctuation),
            batch: grid.samples as i32,
            tokens: grid.tokens as i32,
            width: width as i32,
            seen: seen as i32,
        };
        let columns = if width.is_multiple_of(8) { 64 } else { 8 };
        self.launch(self.of_dtype(MOMENTS), row(width.div_ceil(columns), 256), &arguments);
    }
}
