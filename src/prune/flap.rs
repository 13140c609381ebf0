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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::ModelSource;

    /// Pruned heads of 4 and channels of 12 for the ratios .1, .2, ... .9. Units of 1 to 9 are so close to each other here
    /// that a wrong weight of a head or a biased deviation gives other counts.
    fn pruned(model: &str, attention_factor: u32) -> Vec<[usize; 2]> {
        let config = ModelConfig {
            hidden_size: 8,
            num_attention_heads: 4,
            head_dim: 2,
            intermediate_size: 12,
            ..ModelConfig::load(&ModelSource::locate(model).unwrap()).unwrap()
        };
        let attention = [5, 1, 4, 1, 7, 1, 9, 5].map(|x| x as f32).to_vec();
        let mlp = [3, 6, 4, 0, 5, 2, 5, 9, 4, 3, 5, 1].map(|x| x as f32).to_vec();
        let metrics = [(Block::Attention, attention), (Block::Mlp, mlp)];
        let shares =
            (1..10).map(|i| global_ratios(&config, &metrics, f64::from(i) / 10.0, 10, attention_factor));
        shares
            .map(|shares| [(4.0 * shares[0]).round() as usize, (12.0 * shares[1]).round() as usize])
            .collect()
    }

    /// Computed apart from this code: a head weighs (factor·S·H·D + 2·S²·D) / (projections·S·H) channels.
    #[test]
    fn one_threshold_for_all_blocks() {
        let llama = [[0, 3], [1, 3], [1, 5], [2, 5], [3, 5], [3, 5], [3, 10], [3, 11], [4, 11]];
        assert_eq!(pruned("bundled:tiny-llama", 4), llama);
        let two = [[0, 3], [1, 3], [1, 5], [2, 5], [3, 5], [3, 7], [3, 10], [3, 11], [4, 11]];
        assert_eq!(pruned("bundled:tiny-llama", 2), two);
        let opt = [[1, 3], [1, 3], [1, 5], [2, 5], [3, 5], [3, 5], [3, 10], [3, 11], [4, 11]];
        assert_eq!(pruned("bundled:tiny-opt", 4), opt);
    }
}
