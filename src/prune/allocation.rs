//! How much every block keeps, by measured losses (docs/method.md, section 14). No part of it is in the paper.

use super::{
    Block, counts,
    counts::KeptCounts,
    settings::{Method, Settings},
};
use crate::{
    config::{Family, ModelConfig},
    error::{Error, Result},
};

/// Shares of a block's heads or channels that its losses are measured at.
const LEVELS: [f64; 6] = [0.1, 0.25, 0.4, 0.55, 0.7, 0.85];
/// Channels are kept in multiples of this many, where an MLP has enough of them.
const CHANNEL_STEP: usize = 64;
/// Costs are counted in at most about this many steps of the budget.
const RESOLUTION: u64 = 8192;

/// What pruning a block loses while everything else is dense.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockLosses {
    /// Counts of kept heads or channels, ascending; not all of them.
    pub kept: Vec<usize>,
    /// For each, the mean KL divergence (nats) of the pruned model's next token from the dense model's.
    pub losses: Vec<f32>,
}

/// The losses of all blocks under one method.
#[derive(Clone, Debug, PartialEq)]
pub struct Losses {
    /// `pp` or `fold`.
    pub method: Method,
    /// Per layer: attention, MLP.
    pub layers: Vec<[BlockLosses; 2]>,
}

/// Whether blocks can be measured under `method`.
///
/// # Errors
/// Another method than `pp` and `fold`.
pub fn check_method(method: Method) -> Result<()> {
    if matches!(method, Method::ProbePruning | Method::Fold) {
        return Ok(());
    }
    let help = "The others keep the same share everywhere, or choose shares of their own.";
    Err(Error::argument("allocation measured", "`method` pp or fold", method, help))
}

/// The counts of kept heads or channels that a block's losses are measured at.
pub(crate) fn levels(config: &ModelConfig, block: Block) -> Vec<usize> {
    let (all, step) = (units(config, block), step(config, block, 1));
    let count = |share: f64| ((share * all as f64 / step as f64).round() as usize).max(1) * step;
    let mut levels: Vec<usize> = LEVELS.into_iter().map(count).filter(|&count| count < all).collect();
    levels.dedup();
    levels
}

/// Heads or channels of a block.
fn units(config: &ModelConfig, block: Block) -> usize {
    match block {
        Block::Attention => config.num_attention_heads,
        Block::Mlp => config.intermediate_size,
    }
}

/// Kept counts are multiples of this, and of `multiple`.
fn step(config: &ModelConfig, block: Block, multiple: usize) -> usize {
    match block {
        Block::Attention => 1,
        Block::Mlp => CHANNEL_STEP.min(config.intermediate_size / 16).max(1).next_multiple_of(multiple),
    }
}

impl BlockLosses {
    /// The loss at a count that is not below the least measured one, of `all`: linear between neighbours, 0 at `all`.
    fn at(&self, count: usize, all: usize) -> f64 {
        if count == all {
            return 0.0;
        }
        let point = |i: usize| match self.kept.get(i) {
            Some(&kept) => (kept as f64, f64::from(self.losses[i])),
            None => (all as f64, 0.0),
        };
        let above = self.kept.partition_point(|&kept| kept <= count);
        let ((x0, y0), (x1, y1)) = (point(above - 1), point(above));
        y0 + (y1 - y0) * (count as f64 - x0) / (x1 - x0)
    }
}

/// The FLOPs of a block's projections per row, in units of 2·H; those of its linear compensation are added where it is
/// pruned.
fn cost(settings: &Settings, config: &ModelConfig, block: Block, kept: usize) -> u64 {
    let compensation = if kept < units(config, block) { 2 * settings.compensate.rank() } else { 0 };
    let projections = match block {
        Block::Attention => 2 * config.head_dim * (kept + kept.min(config.num_key_value_heads)),
        Block::Mlp => (if config.family == Family::Llama { 3 } else { 2 }) * kept,
    };
    (projections + compensation) as u64
}

/// A count that a block may keep.
struct Choice {
    kept: usize,
    cost: u64,
    loss: f64,
}

/// The kept counts with the least sum of losses that take no more FLOPs than `uniform`, by dynamic programming over the
/// blocks. `None` for a block that stays dense.
///
/// # Errors
/// A budget below that of the least counts that were measured.
pub(super) fn allocate(
    settings: &Settings,
    config: &ModelConfig,
    losses: &Losses,
    uniform: &[KeptCounts],
) -> Result<Vec<KeptCounts>> {
    let multiple = counts::channel_multiple(settings);
    let (mut budget, mut blocks) = (0, Vec::new());
    for (layer, uniform) in losses.layers.iter().zip(uniform) {
        for (block, (measured, uniform)) in Block::ALL.into_iter().zip(layer.iter().zip(uniform)) {
            let all = units(config, block);
            budget += cost(settings, config, block, uniform.unwrap_or(all));
            let least = measured.kept.first().copied().unwrap_or(all);
            let step = step(config, block, multiple);
            // A skipped layer stays dense.
            let pruned = (step..all).step_by(step).filter(|&kept| uniform.is_some() && kept >= least);
            let choice = |kept| Choice {
                kept,
                cost: cost(settings, config, block, kept),
                loss: measured.at(kept, all),
            };
            blocks.push(pruned.chain([all]).map(choice).collect::<Vec<_>>());
        }
    }
    let chosen = cheapest(&blocks, budget).ok_or_else(|| {
        let expected = "a ratio that the least measured counts reach";
        let help = "Lower `prune_ratio`, or use `allocation` uniform.";
        Error::argument("prune_ratio", expected, settings.prune_ratio, help)
    })?;
    let kept = |which: usize| {
        let block = &blocks[which];
        Some(block[chosen[which]].kept).filter(|&kept| Some(kept) != block.last().map(|all| all.kept))
    };
    Ok((0..uniform.len()).map(|layer| [kept(2 * layer), kept(2 * layer + 1)]).collect())
}

/// For each block the index of a choice, with the least sum of losses at a cost of at most `budget`.
fn cheapest(blocks: &[Vec<Choice>], budget: u64) -> Option<Vec<usize>> {
    let common = blocks.iter().flatten().map(|choice| choice.cost).fold(0, greatest_common_divisor).max(1);
    // Rounded up, so that the sum stays within the budget.
    let unit = common * (budget / common).div_ceil(RESOLUTION).max(1);
    let steps = (budget / unit) as usize;
    let mut least = vec![0.0; steps + 1];
    let mut taken = Vec::new();
    for block in blocks {
        let mut next = vec![f64::INFINITY; steps + 1];
        let mut of_block = vec![0; steps + 1];
        for (index, choice) in block.iter().enumerate() {
            let cost = choice.cost.div_ceil(unit) as usize;
            for at in cost..=steps {
                let sum = least[at - cost] + choice.loss;
                if sum < next[at] {
                    (next[at], of_block[at]) = (sum, index);
                }
            }
        }
        least = next;
        taken.push(of_block);
    }
    if least[steps].is_infinite() {
        return None;
    }
    let mut at = steps;
    let mut chosen: Vec<usize> = (blocks.iter().zip(&taken).rev())
        .map(|(block, taken)| {
            let index = taken[at];
            at -= block[index].cost.div_ceil(unit) as usize;
            index
        })
        .collect();
    chosen.reverse();
    Some(chosen)
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// The least sum of losses of all combinations.
    fn by_trying_all(blocks: &[Vec<Choice>], budget: u64) -> Option<f64> {
        let Some((block, rest)) = blocks.split_first() else { return Some(0.0) };
        let of_choice = |choice: &Choice| {
            let rest = by_trying_all(rest, budget.checked_sub(choice.cost)?)?;
            Some(choice.loss + rest)
        };
        block.iter().filter_map(of_choice).min_by(f64::total_cmp)
    }

    fn random_blocks(rng: &mut ChaCha8Rng, scale: u64) -> Vec<Vec<Choice>> {
        let choice = |rng: &mut ChaCha8Rng| Choice {
            kept: 0,
            cost: scale * rng.random_range(1..12),
            loss: rng.random_range(0.0..1.0),
        };
        (0..5).map(|_| (0..4).map(|_| choice(rng)).collect()).collect()
    }

    #[test]
    fn no_other_choice_is_better() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut refused = 0;
        for case in 0..200u64 {
            let scale = [1, 7, 64][case as usize % 3];
            let blocks = random_blocks(&mut rng, scale);
            let budget = scale * rng.random_range(5..50);
            match (cheapest(&blocks, budget), by_trying_all(&blocks, budget)) {
                (Some(chosen), Some(best)) => {
                    let of = |f: fn(&Choice) -> f64| -> f64 {
                        blocks.iter().zip(&chosen).map(|(block, &index)| f(&block[index])).sum()
                    };
                    assert!(of(|choice| choice.cost as f64) <= budget as f64, "{case}");
                    assert!((of(|choice| choice.loss) - best).abs() < 1e-9, "{case}");
                }
                (None, None) => refused += 1,
                (chosen, best) => panic!("{case}: {chosen:?}, {best:?}"),
            }
        }
        assert!(refused > 0);
    }

    /// Costs without a common divisor, far above the resolution.
    #[test]
    fn rounded_costs_stay_within_the_budget() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        for case in 0..50 {
            let mut blocks = random_blocks(&mut rng, 1_000_003);
            blocks.iter_mut().flatten().for_each(|choice| choice.cost += rng.random_range(0..1000));
            let budget = 25_000_000;
            let Some(chosen) = cheapest(&blocks, budget) else { continue };
            let cost: u64 = blocks.iter().zip(&chosen).map(|(block, &index)| block[index].cost).sum();
            let loss: f64 = blocks.iter().zip(&chosen).map(|(block, &index)| block[index].loss).sum();
            assert!(cost <= budget, "{case}");
            let slack = budget / RESOLUTION * 6;
            assert!(loss <= by_trying_all(&blocks, budget - slack).unwrap() + 1e-9, "{case}");
        }
    }

    #[test]
    fn losses_between_measured_counts_are_interpolated() {
        let losses = BlockLosses { kept: vec![2, 4, 8], losses: vec![3.0, 1.0, 0.5] };
        let at = [2, 3, 4, 5, 8, 9, 10].map(|count| losses.at(count, 10));
        assert_eq!(at, [3.0, 2.0, 1.0, 0.875, 0.5, 0.25, 0.0]);
        assert_eq!(BlockLosses { kept: vec![], losses: vec![] }.at(7, 7), 0.0);
    }
}
