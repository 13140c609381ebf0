//! The method's settings: `probeprune_settings` of include/probeprune.h.

use std::ptr::null;

use super::{
    check,
    status::Outcome,
    structs::{choice, flag, versioned},
};
use crate::prune::{
    history::HistoryLayout,
    settings::{
        Adapt, AdaptMetric, AdaptSettings, Allocation, Compensation, DenseBelow, FoldChoice, HistoryDtype,
        Method, Metric, Prefill, ProbeOrder, ProbeTokens, Settings,
    },
};

/// `skip_layer_count` for the paper's layers.
const DEFAULT_LAYERS: u64 = u64::MAX;

/// `PROBEPRUNE_PROBE_TOKENS_AUTO`: no share.
const AUTO: f64 = -1.0;

/// `PROBEPRUNE_DENSE_BELOW_AUTO`: no number of tokens.
const DENSE_BELOW_AUTO: u32 = u32::MAX;

/// `probeprune_settings`. A new setting takes a reserved word if its default is 0, the value that older programs pass
/// there; otherwise it is added at the end, and older programs get its default.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct MethodSettings {
    pub(super) struct_size: u32,
    pub(super) method: i32,
    pub(super) metric: i32,
    pub(super) probe_order: i32,
    pub(super) prune_ratio: f64,
    pub(super) probe_tokens: f64,
    pub(super) probe_samples: f64,
    pub(super) fixed_probe_weight: f64,
    pub(super) momentum: f64,
    pub(super) parallel_probe: i32,
    pub(super) history_dtype: i32,
    pub(super) history_bucket: u32,
    pub(super) round_channels: u32,
    pub(super) flap_attention_factor: u32,
    pub(super) compensate: i32,
    pub(super) compensate_rank: u32,
    pub(super) channel_group: u32,
    pub(super) dense_below: u32,
    pub(super) fold_choice: i32,
    pub(super) adapt: i32,
    pub(super) adapt_metric: i32,
    pub(super) seed: u64,
    pub(super) skip_layers: *const u32,
    pub(super) skip_layer_count: u64,
    pub(super) prior_tokens: u64,
    pub(super) adapt_tokens: u64,
    pub(super) adapt_prior_tokens: u64,
    pub(super) adapt_every: u64,
    pub(super) adapt_forgetting: f64,
    pub(super) adapt_threshold: f64,
    pub(super) allocation: i32,
    pub(super) prefill: i32,
    pub(super) probe_from: u64,
}

// 136 bytes: up to prior_tokens.
versioned!(MethodSettings, "probeprune_settings", probeprune_settings_init, first_size: 136, reserved: [], {
    let settings = Settings::default();
    let adapt = settings.adapt;
    Self {
        struct_size: 0,
        method: settings.method as i32,
        metric: settings.metric as i32,
        probe_order: settings.probe_order as i32,
        prune_ratio: settings.prune_ratio,
        probe_tokens: match settings.probe_tokens {
            ProbeTokens::Share(share) => share,
            ProbeTokens::Auto => AUTO,
        },
        probe_samples: settings.probe_samples,
        fixed_probe_weight: -1.0,
        momentum: settings.momentum,
        parallel_probe: settings.parallel_probe.into(),
        history_dtype: settings.history_layout.dtype as i32,
        history_bucket: settings.history_layout.bucket as u32,
        round_channels: settings.round_channels as u32,
        flap_attention_factor: settings.flap_attention_factor,
        compensate: 0,
        compensate_rank: 0,
        channel_group: settings.channel_group as u32,
        dense_below: match settings.dense_below {
            DenseBelow::Tokens(tokens) => tokens as u32,
            DenseBelow::Auto => DENSE_BELOW_AUTO,
        },
        fold_choice: settings.fold_choice as i32,
        adapt: 0,
        adapt_metric: 0,
        seed: settings.seed,
        skip_layers: null(),
        skip_layer_count: DEFAULT_LAYERS,
        prior_tokens: settings.prior_tokens as u64,
        adapt_tokens: 0,
        adapt_prior_tokens: adapt.prior_tokens as u64,
        adapt_every: adapt.every as u64,
        adapt_forgetting: adapt.forgetting,
        adapt_threshold: adapt.threshold,
        allocation: settings.allocation as i32,
        prefill: settings.prefill as i32,
        probe_from: 0,
    }
});

/// A number of anything; what does not fit is refused for its size where it matters.
fn size(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

impl MethodSettings {
    /// Settings for a model of `layers` layers.
    ///
    /// # Safety
    /// `skip_layers` is valid for reading `skip_layer_count` entries, unless that is the default.
    pub(super) unsafe fn settings(&self, layers: usize) -> Outcome<Settings> {
        let defaults = Settings::default_for(layers);
        let skip_layers = match self.skip_layer_count {
            DEFAULT_LAYERS => defaults.skip_layers.clone(),
            count => {
                // SAFETY: the caller promises `skip_layer_count` readable entries at `skip_layers`.
                let layers = unsafe { check::array(self.skip_layers, size(count), "skip_layers") }?;
                layers.iter().map(|&layer| layer as usize).collect()
            }
        };
        let rank = match self.compensate_rank {
            0 => Compensation::DEFAULT_RANK,
            rank => rank as usize,
        };
        let tokens = (self.adapt_tokens > 0).then(|| size(self.adapt_tokens));
        let compensations = [Compensation::None, Compensation::ProbeMean, Compensation::Linear { rank }];
        Ok(Settings {
            method: choice(self.method, Method::ALL, "method")?,
            prune_ratio: self.prune_ratio,
            metric: choice(self.metric, Metric::ALL, "metric")?,
            probe_tokens: match self.probe_tokens {
                AUTO => ProbeTokens::Auto,
                share => ProbeTokens::Share(share),
            },
            probe_samples: self.probe_samples,
            probe_order: choice(self.probe_order, ProbeOrder::ALL, "probe_order")?,
            probe_from: (self.probe_from > 0).then(|| size(self.probe_from)),
            parallel_probe: flag(self.parallel_probe, "parallel_probe")?,
            allocation: choice(self.allocation, Allocation::ALL, "allocation")?,
            // NaN is kept for the settings' check, which refuses it.
            fixed_probe_weight: (self.fixed_probe_weight != -1.0).then_some(self.fixed_probe_weight),
            skip_layers,
            round_channels: self.round_channels as usize,
            momentum: self.momentum,
            history_layout: HistoryLayout {
                dtype: choice(self.history_dtype, HistoryDtype::ALL, "history_dtype")?,
                bucket: self.history_bucket as usize,
            },
            compensate: choice(self.compensate, &compensations, "compensate")?,
            prior_tokens: size(self.prior_tokens),
            // Programs compiled before channel groups existed pass 0.
            channel_group: self.channel_group.max(1) as usize,
            flap_attention_factor: self.flap_attention_factor,
            fold_choice: choice(self.fold_choice, FoldChoice::ALL, "fold_choice")?,
            adapt: AdaptSettings {
                mode: choice(self.adapt, &[Adapt::None, Adapt::Probe { tokens }], "adapt")?,
                metric: choice(
                    self.adapt_metric,
                    &[AdaptMetric::Diagonal, AdaptMetric::Full],
                    "adapt_metric",
                )?,
                forgetting: self.adapt_forgetting,
                prior_tokens: size(self.adapt_prior_tokens),
                every: size(self.adapt_every),
                threshold: self.adapt_threshold,
            },
            prefill: choice(self.prefill, Prefill::ALL, "prefill")?,
            seed: self.seed,
            dense_below: match self.dense_below {
                DENSE_BELOW_AUTO => DenseBelow::Auto,
                tokens => DenseBelow::Tokens(tokens as usize),
            },
        })
    }
}
