//! How many tokens, samples, heads and channels are kept. Counts depend on settings alone, never on data
//! (docs/method.md, section 5), so every shape is known before a batch runs.

use crate::{
    config::{Family, ModelConfig},
    error::{Error, Result},
    prune::{
        BatchShape,
        allocation::{self, Losses},
        settings::{Adapt, Allocation, ProbeOrder, ProbeTokens, Settings},
    },
};

/// Kept heads and kept channels of a layer; `None` for a block that stays dense.
pub type KeptCounts = [Option<usize>; 2];

/// Probes of at most this many tokens always hold the sequence's first token (docs/method.md, section 1).
pub const LEADING_SLOT_LIMIT: usize = 10;

/// The part of a batch that may be probed: its first samples ([`Settings::probe_from`]).
pub fn probed_from(settings: &Settings, batch: BatchShape) -> BatchShape {
    BatchShape { samples: batch.samples.min(settings.probe_from.unwrap_or(usize::MAX)), ..batch }
}

/// B_p × S_p, the shape of the probe for a batch of this shape (docs/method.md, section 1; products in f64).
pub fn probe_shape(settings: &Settings, batch: BatchShape) -> BatchShape {
    let batch = probed_from(settings, batch);
    let samples = probe_samples(settings, batch);
    BatchShape { samples, tokens: probe_tokens(settings, batch, samples.max(1)) }
}

/// B_p.
fn probe_samples(settings: &Settings, batch: BatchShape) -> usize {
    match settings.probe_order {
        ProbeOrder::Tokens => batch.samples,
        _ => ((settings.probe_samples * batch.samples as f64).ceil() as usize).max(1).min(batch.samples),
    }
}

/// S_p for a B_p of `samples`.
fn probe_tokens(settings: &Settings, batch: BatchShape, samples: usize) -> usize {
    let of_each = match (settings.probe_order, settings.adapt.mode) {
        (ProbeOrder::Samples, _) => batch.tokens,
        (_, Adapt::Probe { tokens: Some(wanted) }) => wanted.div_ceil(samples),
        _ => settings.probe_tokens.of_each(batch, samples),
    };
    of_each.max(2).min(batch.tokens)
}

/// The most that any probe has of batches up to some size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeRoom {
    /// S_p.
    pub tokens: usize,
    /// B_p·S_p.
    pub rows: usize,
}

/// Room for the probes of all batches up to `largest`. Where a probe's samples share a number of tokens, a smaller batch may
/// have the larger probe: fewer samples take more tokens each, and rounding may add up to more rows.
pub fn probe_room(settings: &Settings, largest: BatchShape) -> ProbeRoom {
    let largest = probed_from(settings, largest);
    let samples = probe_samples(settings, largest);
    let tokens = probe_tokens(settings, largest, 1);
    let shared = match (settings.probe_order, settings.adapt.mode, settings.probe_tokens) {
        (ProbeOrder::Samples, ..) => None,
        (_, Adapt::Probe { tokens: Some(wanted) }, _) => Some(wanted),
        (_, _, ProbeTokens::Auto) => Some(ProbeTokens::most(largest)),
        (_, _, ProbeTokens::Share(_)) => None,
    };
    // 2 of every sample, or the shared tokens and less than one more of every sample.
    let rows = shared.map_or(usize::MAX, |shared| shared.max(samples).saturating_add(samples));
    ProbeRoom { tokens, rows: rows.min(samples.saturating_mul(tokens)) }
}

/// Python's `round(x, 2)`: correct from the exact binary value, ties to even.
pub fn round_to_hundredths(x: f64) -> f64 {
    format!("{x:.2}").parse().expect("a formatted float parses")
}

/// ratio' of the pruned layers: raised so that the mean over all layers is `prune_ratio` (docs/method.md, section 5).
/// `None` if every layer is skipped.
///
/// # Errors
/// If a skipped layer does not exist or ratio' reaches 1.
pub fn layer_ratio(settings: &Settings, layers: usize) -> Result<Option<f64>> {
    if let Some(&layer) = settings.skip_layers.iter().find(|&&layer| layer >= layers) {
        return Err(Error::argument(
            "skip_layers",
            format!("layers from 0 to {}", layers - 1),
            layer,
            format!("The model has {layers} layers; `skip_layers` takes any of them, or none."),
        ));
    }
    let pruned = (0..layers).filter(|layer| !settings.skip_layers.contains(layer)).count();
    if pruned == 0 {
        return Ok(None);
    }
    let ratio = round_to_hundredths(layers as f64 / pruned as f64 * settings.prune_ratio);
    if ratio >= 1.0 {
        return Err(too_much(settings, layers, format!("a ratio of {ratio} in each of the {pruned} others")));
    }
    Ok(Some(ratio))
}

fn too_much(settings: &Settings, layers: usize, got: String) -> Error {
    Error::argument(
        "prune_ratio",
        format!(
            "a ratio that leaves something to keep in the {layers} layers when layers {:?} stay dense",
            settings.skip_layers
        ),
        format!("{}, that is {got}", settings.prune_ratio),
        "Lower `prune_ratio` or name fewer layers in `skip_layers`.",
    )
}

/// Kept heads (1..=N) at `ratio`: N − floor(ratio·N) in f64.
///
/// # Errors
/// If no head is left.
pub fn kept_heads(settings: &Settings, config: &ModelConfig, ratio: f64) -> Result<usize> {
    let heads = config.num_attention_heads;
    match heads - (ratio * heads as f64) as usize {
        0 => Err(too_much(settings, config.num_hidden_layers, format!("no head of {heads}"))),
        kept => Ok(kept),
    }
}

/// Channels of whose work the linear maps of a layer's two blocks cost as much: 8·r·H FLOPs per token where a channel
/// costs 2·H for each of its projections.
fn channels_of_compensation(settings: &Settings, config: &ModelConfig) -> usize {
    let projections = if config.family == Family::Llama { 3 } else { 2 };
    (4 * settings.compensate.rank()).div_ceil(projections)
}

/// Kept channels (1..=I) at `ratio`: I − floor(ratio·I), rounded up to a multiple of `round_channels` and of whole
/// groups; less what linear compensation costs, rounded up likewise, so that it costs no more than it replaces.
///
/// # Errors
/// If the channels are no whole number of groups, or compensation leaves none.
pub fn kept_channels(settings: &Settings, config: &ModelConfig, ratio: f64) -> Result<usize> {
    let channels = config.intermediate_size;
    let group = settings.channel_group;
    if !channels.is_multiple_of(group) {
        return Err(Error::argument(
            format!("channel_group {group}"),
            format!("a divisor of {channels}, the model's MLP channels"),
            group,
            "Use 1 or a smaller group.",
        ));
    }
    let pruned = (ratio * channels as f64) as usize;
    let step = channel_multiple(settings);
    let kept = (channels - pruned).max(1).next_multiple_of(step).min(channels);
    let cost = channels_of_compensation(settings, config).next_multiple_of(step);
    match kept.checked_sub(cost) {
        None | Some(0) => Err(Error::argument(
            format!("compensate {}", settings.compensate),
            format!("a rank that costs fewer than the {kept} kept channels"),
            format!("one that costs {cost}"),
            "Use a smaller rank, a smaller `round_channels` or prune less.",
        )),
        Some(kept) => Ok(kept),
    }
}

/// Kept channels are a multiple of this, or all.
pub(super) fn channel_multiple(settings: &Settings) -> usize {
    least_common_multiple(settings.round_channels, settings.channel_group)
}

/// What every layer keeps; `losses` are those of the method, for a measured allocation.
///
/// # Errors
/// A ratio that leaves nothing, channels that are not whole groups, a skipped layer that is not there, or a measured
/// allocation without losses.
pub fn kept(settings: &Settings, config: &ModelConfig, losses: Option<&Losses>) -> Result<Vec<KeptCounts>> {
    let layers = config.num_hidden_layers;
    let Some(ratio) = layer_ratio(settings, layers)?.filter(|&ratio| ratio > 0.0) else {
        return Ok(vec![[None, None]; layers]);
    };
    let pruned = [Some(kept_heads(settings, config, ratio)?), Some(kept_channels(settings, config, ratio)?)];
    let of_layer = |layer| if settings.skip_layers.contains(&layer) { [None, None] } else { pruned };
    let uniform: Vec<_> = (0..layers).map(of_layer).collect();
    match (settings.allocation, losses) {
        (Allocation::Uniform, _) => Ok(uniform),
        (Allocation::Measured, Some(losses)) => allocation::allocate(settings, config, losses, &uniform),
        (Allocation::Measured, None) => Err(Error::argument(
            "allocation measured",
            format!("a calibration with the losses of `method` {}", settings.method),
            "none",
            format!("Measure them with `probeprune calibrate --losses {}`.", settings.method),
        )),
    }
}

fn least_common_multiple(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y > 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        prune::settings::{AdaptSettings, Compensation},
        source::ModelSource,
    };

    /// tiny-llama with another number of channels.
    fn config(intermediate_size: usize) -> ModelConfig {
        let config = ModelConfig::load(&ModelSource::locate("bundled:tiny-llama").unwrap()).unwrap();
        ModelConfig { intermediate_size, ..config }
    }

    #[test]
    fn hundredths_round_as_python_does() {
        // (x, Python's round(x, 2)): ties that are exact go to even, others follow the binary value.
        let cases = [
            (0.125, 0.12),
            (0.375, 0.38),
            (0.625, 0.62),
            (0.875, 0.88),
            (1.125, 1.12),
            (2.675, 2.67),
            (1.005, 1.0),
            (0.285, 0.28),
            (0.4444444, 0.44),
            (0.0, 0.0),
            (0.995, 0.99),
        ];
        for (x, expected) in cases {
            assert_eq!(round_to_hundredths(x), expected, "round({x}, 2)");
        }
    }

    #[test]
    fn ratio_is_raised_for_the_layers_that_are_pruned() {
        let ratio = |prune_ratio, skip: &[usize], layers| {
            layer_ratio(&Settings { prune_ratio, skip_layers: skip.to_vec(), ..Settings::default() }, layers)
        };
        assert_eq!(ratio(0.4, &[0, 1, 2], 32).unwrap(), Some(0.44));
        assert_eq!(ratio(0.4, &[0], 6).unwrap(), Some(0.48));
        assert_eq!(ratio(0.4, &[0, 1], 2).unwrap(), None);
        let error = ratio(0.6, &[0, 1, 2], 6).unwrap_err().to_string();
        assert!(
            error.contains("0.6") && error.contains("6 layers") && error.contains("[0, 1, 2]"),
            "{error}"
        );
        assert!(ratio(0.2, &[6], 6).unwrap_err().to_string().contains("skip_layers"));
    }

    #[test]
    fn linear_compensation_pays_with_channels() {
        let kept = |compensate, round_channels, channel_group| {
            let settings = Settings { compensate, round_channels, channel_group, ..Settings::default() };
            kept_channels(&settings, &config(1536), 0.44).unwrap()
        };
        assert_eq!(kept(Compensation::None, 64, 1), 896);
        assert_eq!(kept(Compensation::ProbeMean, 64, 1), 896);
        // 8·32·H FLOPs per token are those of 42.7 channels of three projections.
        assert_eq!(kept(Compensation::Linear { rank: 32 }, 64, 1), 832);
        assert_eq!(kept(Compensation::Linear { rank: 32 }, 1, 1), 861 - 43);
        assert_eq!(kept(Compensation::Linear { rank: 32 }, 1, 8), 864 - 48);
        assert_eq!(kept(Compensation::None, 12, 8), 864);
        let settings = Settings { channel_group: 16, ..Settings::default() };
        assert!(kept_channels(&settings, &config(40), 0.5).unwrap_err().to_string().contains("40"));
        let settings = Settings { compensate: Compensation::Linear { rank: 64 }, ..Settings::default() };
        assert!(kept_channels(&settings, &config(256), 0.8).unwrap_err().to_string().contains("linear:64"));
    }

    proptest! {
        #[test]
        fn kept_channels_is_a_multiple_or_everything(i in 1usize..5000, ratio in 0.0..1.0f64, round in 1usize..130) {
            let settings = Settings { round_channels: round, ..Settings::default() };
            let kept = kept_channels(&settings, &config(i), ratio).unwrap();
            prop_assert!(kept >= 1 && kept <= i);
            prop_assert!(kept == i || kept.is_multiple_of(round));
            prop_assert!(kept >= i - (ratio * i as f64) as usize);
        }

        #[test]
        fn probes_fit_their_batch_and_their_room(
            (of, b) in batches(), (largest_s, s) in batches(), tokens in probe_tokens_of(), wanted in adapted(),
            rho_b in 0.001..=1.0f64, order in proptest::sample::select(ProbeOrder::ALL),
            probe_from in proptest::option::of(1usize..70),
        ) {
            let settings = Settings {
                probe_tokens: tokens, probe_samples: rho_b, probe_order: order, probe_from,
                adapt: AdaptSettings { mode: wanted, ..AdaptSettings::default() },
                ..Settings::default()
            };
            let probe = probe_shape(&settings, BatchShape { samples: b, tokens: s });
            prop_assert!((1..=b).contains(&probe.samples) && (s.min(2)..=s).contains(&probe.tokens));
            let largest = BatchShape { samples: of, tokens: largest_s };
            let ProbeRoom { tokens, rows } = probe_room(&settings, largest);
            prop_assert!(probe.tokens <= tokens && probe.rows() <= rows, "{probe:?} in {tokens} and {rows}");
            prop_assert!(tokens <= largest.tokens && rows <= largest.rows());
            // Not much more than the largest batch takes.
            let probe = probe_shape(&settings, largest);
            prop_assert!(rows <= 2 * probe.rows().max(2 * probe.samples), "{rows} for {probe:?}");
        }

        #[test]
        fn auto_bounds_the_probe_of_a_batch(
            b in 1usize..64, s in 1usize..600, rho_b in 0.001..=1.0f64,
            order in proptest::sample::select(ProbeOrder::ALL),
        ) {
            let paper = Settings { probe_samples: rho_b, probe_order: order, ..Settings::default() };
            let auto = Settings { probe_tokens: ProbeTokens::Auto, ..paper.clone() };
            let batch = BatchShape { samples: b, tokens: s };
            let [paper, probe] = [&paper, &auto].map(|settings| probe_shape(settings, batch));
            prop_assert!(probe.samples == paper.samples && probe.tokens <= paper.tokens);
            if order == ProbeOrder::Samples {
                prop_assert_eq!(probe, paper);
            } else {
                prop_assert!(probe.rows() <= batch.rows().div_ceil(20).max(2 * probe.samples));
                // One token more of each is too many, unless that is the paper's probe.
                let more = (probe.tokens + 1) * probe.samples;
                prop_assert!(probe.tokens == paper.tokens || more > batch.rows().div_ceil(20));
            }
            let longer = probe_shape(&auto, BatchShape { tokens: s + 1, ..batch });
            prop_assert!(longer.samples == probe.samples && longer.tokens >= probe.tokens);
            let more = probe_shape(&auto, BatchShape { samples: b + 1, ..batch });
            prop_assert!(more.samples > probe.samples || more.tokens >= probe.tokens);
        }
    }

    /// A number of samples or tokens, and one that is no larger.
    fn batches() -> impl Strategy<Value = (usize, usize)> {
        (1usize..300).prop_flat_map(|largest| (Just(largest), 1..=largest))
    }

    fn probe_tokens_of() -> impl Strategy<Value = ProbeTokens> {
        prop_oneof![Just(ProbeTokens::Auto), (0.001..=1.0f64).prop_map(ProbeTokens::Share)]
    }

    fn adapted() -> impl Strategy<Value = Adapt> {
        let wanted = proptest::option::of(1usize..200);
        prop_oneof![Just(Adapt::None), wanted.prop_map(|tokens| Adapt::Probe { tokens })]
    }

    #[test]
    fn auto_takes_half_of_a_sample_or_a_20th_of_the_batch() {
        let probe = |order, samples, tokens| {
            let settings =
                Settings { probe_tokens: ProbeTokens::Auto, probe_order: order, ..Settings::default() };
            let BatchShape { samples, tokens } = probe_shape(&settings, BatchShape { samples, tokens });
            (samples, tokens)
        };
        let usual = |samples, tokens| probe(ProbeOrder::TokensSamples, samples, tokens);
        // From 10 samples on it is the paper's probe.
        for samples in 10..100 {
            for tokens in [1, 2, 3, 64, 255, 256] {
                let paper = probe_shape(&Settings::default(), BatchShape { samples, tokens });
                assert_eq!(usual(samples, tokens), (paper.samples, paper.tokens), "{samples} × {tokens}");
            }
        }
        assert_eq!((usual(20, 64), usual(10, 256)), ((1, 32), (1, 128)));
        assert_eq!((usual(1, 256), usual(1, 4096), usual(4, 256)), ((1, 13), (1, 205), (1, 52)));
        assert_eq!((usual(1, 1), usual(1, 2), usual(1, 40), usual(1, 41)), ((1, 1), (1, 2), (1, 2), (1, 3)));
        assert_eq!(probe(ProbeOrder::Tokens, 10, 256), (10, 12));
        assert_eq!(probe(ProbeOrder::Samples, 10, 256), (1, 256));
    }

    #[test]
    fn a_smaller_batch_may_have_the_larger_probe() {
        let adapt = AdaptSettings { mode: Adapt::Probe { tokens: Some(10) }, ..AdaptSettings::default() };
        let settings = Settings { adapt, ..Settings::default() };
        let rows = |samples| probe_shape(&settings, BatchShape { samples, tokens: 16 }).rows();
        assert_eq!((rows(100), rows(80)), (10, 12));
        assert!(probe_room(&settings, BatchShape { samples: 100, tokens: 16 }).rows >= 12);
        let settings =
            Settings { probe_tokens: ProbeTokens::Auto, probe_samples: 0.3, ..Settings::default() };
        let tokens = |samples| probe_shape(&settings, BatchShape { samples, tokens: 40 }).tokens;
        assert_eq!((tokens(7), tokens(6)), (4, 6));
    }
}
