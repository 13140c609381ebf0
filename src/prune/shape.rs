//! The shape of a batch, the two blocks of a layer, and the units that are kept or pruned.

use crate::config::ModelConfig;

/// The rows of a batch or of a probe: `samples` × `tokens`, sample-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchShape {
    /// B: samples.
    pub samples: usize,
    /// S: tokens of every sample, pads included.
    pub tokens: usize,
}

impl BatchShape {
    /// T = B·S, or the largest number there is.
    pub fn rows(self) -> usize {
        self.samples.saturating_mul(self.tokens)
    }
}

/// The two kinds of block in a decoder layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Block {
    /// Self-attention; its units of pruning are heads.
    Attention,
    /// Feed-forward; its units of pruning are channels.
    Mlp,
}

impl Block {
    /// Both, in the order they run.
    pub const ALL: [Self; 2] = [Self::Attention, Self::Mlp];

    /// "attention" or "mlp".
    pub fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::Mlp => "mlp",
        }
    }

    /// C: N·D or I.
    pub fn channels(self, config: &ModelConfig) -> usize {
        match self {
            Self::Attention => config.num_attention_heads * config.head_dim,
            Self::Mlp => config.intermediate_size,
        }
    }

    /// The units of pruning: heads, or channels in groups of `channel_group`.
    pub fn unit(self, config: &ModelConfig, channel_group: usize) -> Unit {
        match self {
            Self::Attention => Unit::Head(config.head_dim),
            Self::Mlp if channel_group > 1 => Unit::Group(channel_group),
            Self::Mlp => Unit::Channel,
        }
    }
}

/// A unit of pruning: it gets one score and is kept or pruned as a whole (paper section 3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A channel.
    Channel,
    /// A group of neighbouring channels: the L2 norm of their scores.
    Group(usize),
    /// A head of D channels: the L2 norm of their scores for `ppsp`, their sum otherwise.
    Head(usize),
}

impl Unit {
    /// Channels of a unit.
    pub fn block_width(self) -> usize {
        match self {
            Self::Channel => 1,
            Self::Group(block_width) | Self::Head(block_width) => block_width,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::ModelSource;

    #[test]
    fn blocks_and_their_units() {
        let config = ModelConfig::load(&ModelSource::locate("bundled:tiny-llama").unwrap()).unwrap();
        let head = Unit::Head(config.head_dim);
        for (group, of_mlp, block_width) in
            [(1, Unit::Channel, 1), (8, Unit::Group(8), 8), (16, Unit::Group(16), 16)]
        {
            assert_eq!(Block::ALL.map(|block| block.unit(&config, group)), [head, of_mlp]);
            assert_eq!(of_mlp.block_width(), block_width);
        }
        assert_eq!(head.block_width(), config.head_dim);
        assert_eq!(Block::ALL.map(Block::name), ["attention", "mlp"]);
    }
}
