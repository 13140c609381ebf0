//! The settings of the method, and their validation.

use super::allocation;
pub use super::{
    adapt::{Adapt, AdaptSettings},
    choices::{
        AdaptMetric, Allocation, Compensation, FoldChoice, HistoryDtype, Method, Metric, Prefill, ProbeOrder,
    },
    dense_below::DenseBelow,
    history::HistoryLayout,
    probe_tokens::ProbeTokens,
};
use crate::error::{Error, Result};

/// Settings of the method. [`Settings::default`] holds the paper's.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How kept sets are chosen.
    pub method: Method,
    /// Share of heads and channels to prune, averaged over all layers; in \[0, 1).
    pub prune_ratio: f64,
    /// Score for `pp`.
    pub metric: Metric,
    /// The probe's tokens of each of its samples.
    pub probe_tokens: ProbeTokens,
    /// ρ_batch in (0, 1]: the probe's share of samples.
    pub probe_samples: f64,
    /// Which of the two is chosen first.
    pub probe_order: ProbeOrder,
    /// Only so many samples of a batch, its first, may be probed: a way to see how the others fare. At least 1.
    pub probe_from: Option<usize>,
    /// Take the probe from the previous residual, so that it can run beside the block before.
    pub parallel_probe: bool,
    /// A fixed w in \[0, 1] in place of the importance-scaled fusion.
    pub fixed_probe_weight: Option<f64>,
    /// How the blocks share what is kept; for `pp` and `fold`.
    pub allocation: Allocation,
    /// Layers that stay dense.
    pub skip_layers: Vec<usize>,
    /// The kept channel count of an MLP is rounded up to a multiple of this; 1 = no rounding.
    pub round_channels: usize,
    /// μ in \[0, 1] of the history update.
    pub momentum: f64,
    /// How history is kept in memory.
    pub history_layout: HistoryLayout,
    /// Compensation of pruned channels; for `pp`, and `probe-mean` also for `wanda-sp`.
    pub compensate: Compensation,
    /// Weight of the calibration mean in the compensation of a pruned channel, in probe tokens; 0 takes the probe's mean
    /// alone.
    pub prior_tokens: usize,
    /// Neighbouring MLP channels that are kept or pruned together: 1, 8 or 16.
    pub channel_group: usize,
    /// 4 counts q, k, v, o of a head for FLAP's global threshold; 2 counts q and o only, apt for GQA.
    pub flap_attention_factor: u32,
    /// How `fold` chooses what it keeps.
    pub fold_choice: FoldChoice,
    /// How a probe corrects a fold.
    pub adapt: AdaptSettings,
    /// Which model runs prompts, for `fold`.
    pub prefill: Prefill,
    /// For `random`.
    pub seed: u64,
    /// Which batches run dense.
    pub dense_below: DenseBelow,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            method: Method::None,
            prune_ratio: 0.0,
            metric: Metric::Ppsp,
            probe_tokens: ProbeTokens::PAPER,
            probe_samples: 0.05,
            probe_order: ProbeOrder::TokensSamples,
            probe_from: None,
            parallel_probe: false,
            fixed_probe_weight: None,
            allocation: Allocation::Uniform,
            skip_layers: vec![0, 1, 2],
            round_channels: 64,
            momentum: 0.99,
            history_layout: HistoryLayout::default(),
            compensate: Compensation::None,
            prior_tokens: 40,
            channel_group: 1,
            flap_attention_factor: 4,
            fold_choice: FoldChoice::Pivot,
            adapt: AdaptSettings::default(),
            prefill: Prefill::Pruned,
            seed: 0,
            dense_below: DenseBelow::NEVER,
        }
    }
}

impl Settings {
    /// The defaults, with only those skipped layers that a model of `layers` layers has.
    pub fn default_for(layers: usize) -> Self {
        let default = Self::default();
        Self {
            skip_layers: default.skip_layers.into_iter().filter(|&layer| layer < layers).collect(),
            ..default
        }
    }

    /// Whether a folded model leaves its prompts to the one that was folded.
    pub fn prefills_dense(&self) -> bool {
        self.method == Method::Fold && self.prune_ratio > 0.0 && self.prefill == Prefill::Dense
    }

    /// Checks every value's range.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the setting, its range and the value.
    pub fn check(&self) -> Result<()> {
        let range = |name: &str, ok: bool, expected: &str, got: f64, help: &str| {
            if ok { Ok(()) } else { Err(Error::argument(name, expected, got, help)) }
        };
        let share = |x: f64| x > 0.0 && x <= 1.0;
        let share_text = "a number above 0 and at most 1";
        range(
            "prune_ratio",
            (0.0..1.0).contains(&self.prune_ratio),
            "a number from 0 up to but not including 1",
            self.prune_ratio,
            "0.4 prunes 40 % of heads and channels.",
        )?;
        if let ProbeTokens::Share(tokens) = self.probe_tokens {
            range("probe_tokens", share(tokens), share_text, tokens, "The paper uses 0.5.")?;
        }
        range(
            "probe_samples",
            share(self.probe_samples),
            share_text,
            self.probe_samples,
            "The paper uses 0.05.",
        )?;
        if self.probe_from == Some(0) {
            return Err(Error::argument("probe_from", "at least 1", 0, "Leave it out to probe any sample."));
        }
        range(
            "momentum",
            (0.0..=1.0).contains(&self.momentum),
            "a number from 0 to 1",
            self.momentum,
            "The paper uses 0.99.",
        )?;
        if let Some(weight) = self.fixed_probe_weight {
            range(
                "fixed_probe_weight",
                (0.0..=1.0).contains(&weight),
                "a number from 0 to 1",
                weight,
                "Leave it out for the paper's importance-scaled fusion.",
            )?;
        }
        if self.history_layout.bucket == 0 {
            return Err(Error::argument("history_bucket", "at least 1", 0, "1 keeps every slot."));
        }
        if self.round_channels == 0 {
            return Err(Error::argument("round_channels", "at least 1", 0, "1 means no rounding."));
        }
        if !matches!(self.channel_group, 1 | 8 | 16) {
            return Err(Error::argument(
                "channel_group",
                "1, 8 or 16",
                self.channel_group,
                "1 keeps single channels.",
            ));
        }
        if !matches!(self.flap_attention_factor, 2 | 4) {
            return Err(Error::argument(
                "flap_attention_factor",
                "2 or 4",
                self.flap_attention_factor,
                "The reference uses 4; 2 counts q and o only.",
            ));
        }
        self.check_method()
    }

    /// Refuses channel groups, compensation and dense batches for methods that have none.
    fn check_method(&self) -> Result<()> {
        self.adapt.check()?;
        if self.allocation == Allocation::Measured && self.method != Method::None {
            allocation::check_method(self.method)?;
        }
        if self.adapt.is_on() && !matches!(self.method, Method::None | Method::Fold) {
            let name = format!("adapt {}", self.adapt.mode);
            return Err(Error::argument(
                name,
                "`method` fold",
                self.method,
                "Other methods choose anew instead.",
            ));
        }
        if self.prefill == Prefill::Dense && !matches!(self.method, Method::None | Method::Fold) {
            let help = "Under other methods the cache holds what the prompt chose.";
            return Err(Error::argument("prefill dense", "`method` fold", self.method, help));
        }
        if self.method == Method::Fold && self.dense_below != DenseBelow::NEVER {
            let expected = "0 for `method` fold, which has no dense weights";
            return Err(Error::argument("dense_below", expected, self.dense_below, "Leave it out."));
        }
        let takes = |methods: &[Method]| self.method == Method::None || methods.contains(&self.method);
        if self.channel_group > 1 && !takes(&[Method::ProbePruning, Method::WandaSp]) {
            let name = format!("channel_group {}", self.channel_group);
            return Err(Error::argument(
                name,
                "`method` pp or wanda-sp",
                self.method,
                "Other methods keep single channels.",
            ));
        }
        let (methods, help): (&[Method], _) = match self.compensate {
            Compensation::None => (Method::ALL, ""),
            Compensation::ProbeMean => (
                &[Method::ProbePruning, Method::WandaSp],
                "flap has a compensation of its own, the others have none.",
            ),
            Compensation::Linear { .. } => {
                (&[Method::ProbePruning], "wanda-sp takes `compensate` probe-mean.")
            }
        };
        if !takes(methods) {
            let name = format!("compensate {}", self.compensate);
            let expected =
                methods.iter().map(|method| format!("`method` {method}")).collect::<Vec<_>>().join(" or ");
            return Err(Error::argument(name, expected, self.method, help));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_that_a_model_has_are_skipped() {
        let skipped = Settings::default().skip_layers;
        assert_eq!(Settings::default_for(32).skip_layers, skipped);
        let least = skipped.iter().max().unwrap() + 1;
        assert_eq!(Settings::default_for(least).skip_layers, skipped);
        assert_eq!(Settings::default_for(least - 1).skip_layers, skipped[..skipped.len() - 1]);
    }
}
