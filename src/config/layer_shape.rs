//! Heads and channels of a layer: in models that were pruned for good they differ from layer to layer.

use serde_json::Value;

use super::{ModelConfig, fields::Fields};
use crate::{
    error::{Error, Result},
    prune::Block,
};

/// Heads and channels of a decoder layer: the config's, or fewer in a model that was pruned for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerShape {
    /// N.
    pub heads: usize,
    /// K.
    pub kv_heads: usize,
    /// I.
    pub channels: usize,
    /// The key/value head of every query head (N).
    pub kv_head_of: Vec<u32>,
}

impl LayerShape {
    /// All heads and channels of a config.
    pub fn of(config: &ModelConfig) -> Self {
        let heads = config.num_attention_heads;
        Self {
            heads,
            kv_heads: config.num_key_value_heads,
            channels: config.intermediate_size,
            kv_head_of: (0..heads).map(|head| (head / config.gqa_group()) as u32).collect(),
        }
    }

    /// C of a block, for heads of `head_dim`.
    pub fn width(&self, block: Block, head_dim: usize) -> usize {
        match block {
            Block::Attention => self.heads * head_dim,
            Block::Mlp => self.channels,
        }
    }
}

/// The shapes that `probeprune export` writes: under "probeprune", for each of "layers", the key/value head of every query head
/// ("kv_head_of") and the number of MLP channels ("channels").
pub(super) fn parse(fields: &Fields, config: &ModelConfig) -> Result<Option<Vec<LayerShape>>> {
    let Some(own) = fields.object("probeprune", "probeprune.")? else { return Ok(None) };
    let layers = own.get("layers").and_then(Value::as_array);
    let count = config.num_hidden_layers;
    let Some(layers) = layers.filter(|layers| layers.len() == count) else {
        return Err(own.wrong("layers", format!("a list of {count} layers")));
    };
    let wrong = |layer: usize, key: &str, expected: String| -> Error {
        let got = layers[layer].get(key).map_or_else(|| "no such key".to_string(), Value::to_string);
        own.computed(&format!("layers[{layer}].{key}"), &expected, got)
    };
    let shape = |(layer, value): (usize, &Value)| {
        let most = config.intermediate_size;
        let channels = value.get("channels").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        let channels = channels.filter(|channels| (1..=most).contains(channels));
        let channels =
            channels.ok_or_else(|| wrong(layer, "channels", format!("a whole number from 1 to {most}")))?;
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let head =
            |head: &Value| head.as_u64().filter(|&head| head < kv_heads as u64).map(|head| head as u32);
        let kv_head_of = value.get("kv_head_of").and_then(Value::as_array);
        let kv_head_of: Option<Vec<u32>> = kv_head_of
            .filter(|list| (1..=heads).contains(&list.len()))
            .and_then(|list| list.iter().map(head).collect());
        let kv_head_of = kv_head_of.ok_or_else(|| {
            let expected = format!("1 to {heads} key/value heads below {kv_heads}, one for each query head");
            wrong(layer, "kv_head_of", expected)
        })?;
        let kv_heads = kv_head_of.iter().max().map_or(0, |&last| last as usize + 1);
        Ok(LayerShape { heads: kv_head_of.len(), kv_heads, channels, kv_head_of })
    };
    layers.iter().enumerate().map(shape).collect::<Result<_>>().map(Some)
}
