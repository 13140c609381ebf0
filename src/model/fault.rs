//! Faults that operations leave on the device: which block first saw a value that is not finite.

use crate::prune::Block;

/// Where a fault is looked for, as one word that is never 0.
pub fn fault_tag(layer: usize, block: Block, of_score: bool) -> u32 {
    1 + 4 * layer as u32 + 2 * u32::from(block == Block::Mlp) + u32::from(of_score)
}

/// The layer, block and quantity of a fault.
pub fn describe_fault(tag: u32) -> (usize, Block, &'static str) {
    let code = tag - 1;
    let what = if code % 2 == 1 { "a channel score" } else { "the residual stream" };
    ((code / 4) as usize, Block::ALL[(code / 2 % 2) as usize], what)
}
