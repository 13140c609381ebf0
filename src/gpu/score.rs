//! Scores, kept sets, history and calibration moments.

use super::{
    Driver, Geometry, Gpu, Kernel, PerDtype, Statistics,
    args::{
        ChannelScoreArgs, CheckFiniteArgs, HistoryUpdateArgs, KeepKvHeadsArgs, MomentsArgs, TopKKeepArgs,
    },
    per_dtype,
};
use crate::{
    backend::{
        AccumulateMomentsOperands, ChannelScoreOperands, CheckFiniteOperands, Fusion, HistoryUpdateOperands,
        KeepKvHeadsOperands, TopKKeepOperands,
    },
    prune::{
        Unit,
        settings::{HistoryDtype, Metric},
    },
};

const CHANNEL_SCORE: Kernel = Kernel { module: "channel_score", name: "channel_score" };
const TOP_K_KEEP: Kernel = Kernel { module: "top_k_keep", name: "top_k_keep" };
const KEEP_KV_HEADS: Kernel = Kernel { module: "keep_kv_heads", name: "keep_kv_heads" };
const CHECK_FINITE: Kernel = Kernel { module: "check_finite", name: "check_finite" };
const HISTORY_UPDATE: Kernel = Kernel { module: "history_update", name: "history_update" };
const MOMENTS: PerDtype = per_dtype!("moments");

/// Most scores of which each is compared with every other.
const FEW: usize = 256;

/// Blocks in a row.
fn row(blocks: usize, threads: usize) -> Geometry {
    Geometry { grid: [blocks as u32, 1, 1], threads: threads as u32, shared: 0 }
}

impl<D: Driver> Gpu<D> {
    pub(super) fn channel_score_kernel(&self, operands: ChannelScoreOperands<'_, Self>) {
        let ChannelScoreOperands { p, tokens, channels, fusion, metric, statistic, unit, out } = operands;
        // A block has a head or 32 channels: `warps` side by side, times as many as give each about 16 tokens.
        let (span, heads, channel_group) = match unit {
            Unit::Channel => (32, false, 0),
            Unit::Group(channel_group) => (32, false, channel_group),
            Unit::Head(head_dim) => (head_dim, true, 0),
        };
        debug_assert!(matches!(channel_group, 0 | 8 | 16), "groups fit a warp");
        let warps = span.div_ceil(32).min(8);
        let splits = tokens.div_ceil(16).clamp(1, if heads { 32 / warps } else { 16 });
        let mut arguments = ChannelScoreArgs {
            p: self.floats(p),
            statistic: self.floats(statistic),
            out: self.floats(out),
            tokens: tokens as i32,
            channels: channels as i32,
            span: span as i32,
            warps: warps as i32,
            heads: heads.into(),
            channel_group: channel_group as i32,
            metric: match metric {
                Metric::Ppsp => 0,
                Metric::WandaSp => 1,
                Metric::Flap => 2,
            },
            bucket: 1,
            ..ChannelScoreArgs::default()
        };
        if let Fusion::History { history, slots, fixed_weight } = fusion {
            debug_assert_eq!(history.channels, channels, "history has every channel");
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
        self.launch(CHANNEL_SCORE, row(channels.div_ceil(span), 32 * warps * splits), &arguments);
    }

    pub(super) fn top_k_keep_kernel(&self, operands: TopKKeepOperands<'_, Self>) {
        let TopKKeepOperands { scores, kept, tag, fault } = operands;
        debug_assert!(kept.len <= kept.of, "no more are kept than there are");
        if kept.len == 0 {
            return self.check_finite_kernel(CheckFiniteOperands {
                values: scores,
                len: kept.of,
                tag,
                fault,
            });
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

    pub(super) fn check_finite_kernel(&self, operands: CheckFiniteOperands<'_, Self>) {
        let CheckFiniteOperands { values, len, tag, fault } = operands;
        let arguments = CheckFiniteArgs {
            values: self.floats(values),
            fault: self.words(fault),
            count: len as i64,
            tag,
            reserved: 0,
        };
        self.launch(CHECK_FINITE, row(len.div_ceil(1024), 256), &arguments);
    }

    pub(super) fn keep_kv_heads_kernel(&self, operands: KeepKvHeadsOperands<'_, Self>) {
        let KeepKvHeadsOperands { heads, gqa_group, kv_heads, kv_head_of } = operands;
        let arguments = KeepKvHeadsArgs {
            heads: self.words(&heads.indices),
            kv_heads: self.words(&kv_heads.indices),
            kv_head_of: self.words(kv_head_of),
            count: heads.len as i32,
            gqa_group: gqa_group as i32,
            kv_capacity: kv_heads.indices.0.len as i32,
            reserved: 0,
        };
        self.launch(KEEP_KV_HEADS, row(1, 32), &arguments);
    }

    pub(super) fn history_update_kernel(&self, operands: HistoryUpdateOperands<'_, Self>) {
        const ROWS: usize = 8;
        const THREADS: usize = 256;
        let HistoryUpdateOperands { p, tokens, at, kept, momentum, history } = operands;
        let (bucket, end) = (history.layout.bucket, (at + tokens).min(history.slots));
        if at >= end {
            return;
        }
        let arguments = HistoryUpdateArgs {
            p: self.floats(p),
            kept: self.words(&kept.indices),
            history: self.floats(&history.values),
            kept_channels: kept.channels() as i32,
            block_width: kept.block_width as i32,
            channels: history.channels as i32,
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

    pub(super) fn accumulate_moments_kernel(&self, operands: AccumulateMomentsOperands<'_, Self>) {
        let AccumulateMomentsOperands { a, shape, channels, seen, moments } = operands;
        let optional = |values: &Statistics<D>| if values.0.len == 0 { 0 } else { self.floats(values) };
        let arguments = MomentsArgs {
            a: self.elements(a),
            energy: self.floats(&moments.energy),
            mean: optional(&moments.mean),
            baseline: optional(&moments.baseline),
            fluctuation: optional(&moments.fluctuation),
            samples: shape.samples as i32,
            tokens: shape.tokens as i32,
            channels: channels as i32,
            seen: seen as i32,
        };
        let columns = if channels.is_multiple_of(8) { 64 } else { 8 };
        self.launch(self.of_dtype(MOMENTS), row(channels.div_ceil(columns), 256), &arguments);
    }
}
