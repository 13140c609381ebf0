//! FLAP's global threshold: every block's share of pruned units, from standardised metrics of the whole model.

use super::Block;
use crate::config::{Family, ModelConfig};

/// Shares k/n of pruned units per block, in the order of `metrics` (docs/method.md, section 7).
///
/// `metrics` holds m\[c\] = Σ_s φ\[s,c\] · Σ_o W\[o,c\]² of each block of the pruned layers; `seq_len` is the
/// calibration's; `attention_factor` is 4 (q, k, v, o counted) or 2 (q and o).
pub fn global_ratios(
    config: &ModelConfig,
    metrics: &[(Block, Vec<f32>)],
    ratio: f64,
    seq_len: usize,
    attention_factor: u32,
) -> Vec<f64> {
    let (s, h, d) = (seq_len as f64, config.hidden_size as f64, config.head_dim as f64);
    let mlp_projections = if config.family == Family::Opt { 2.0 } else { 3.0 };
    let head_weight = (f64::from(attention_factor) * s * h * d + 2.0 * s * s * d) / (mlp_projections * s * h);
    let units: Vec<Vec<f64>> =
        metrics.iter().map(|(block, m)| standardised_units(m, block.unit(config, 1).block_width())).collect();
    let weight = |block: Block| if block == Block::Attention { head_weight } else { 1.0 };
    let mut all: Vec<(f64, f64)> = (metrics.iter().zip(&units))
        .flat_map(|((block, _), units)| units.iter().map(|&unit| (unit, weight(*block))))
        .collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let total: f64 =
        metrics.iter().zip(&units).map(|((block, _), units)| weight(*block) * units.len() as f64).sum();
    let mut sum = 0.0;
    let threshold = all.iter().find(|(_, weight)| {
        sum += weight;
        sum > ratio * total
    });
    let Some(&(threshold, _)) = threshold else { return vec![0.0; metrics.len()] };
    units
        .iter()
        .map(|units| units.iter().filter(|&&unit| unit <= threshold).count() as f64 / units.len() as f64)
        .collect()
}

/// Zero mean and unit (unbiased) deviation over the channels, then the mean over each unit's `width` channels.
fn standardised_units(metric: &[f32], width: usize) -> Vec<f64> {
    let n = metric.len() as f64;
    let values = metric.iter().map(|&x| f64::from(x));
    let mean = values.clone().sum::<f64>() / n;
    let deviation = (values.clone().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    let standard: Vec<f64> = values.map(|x| (x - mean) / deviation).collect();
    standard.chunks_exact(width).map(|unit| unit.iter().sum::<f64>() / width as f64).collect()
}
