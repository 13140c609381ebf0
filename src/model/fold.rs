//! Folded models: fewer heads and channels for good, and last projections that stand for the others too
//! (docs/method.md, section 12).

use std::{collections::HashMap, sync::Arc};

use super::Model;
use crate::{
    backend::Backend,
    checkpoint::{Dtype, Tensor, Tensors},
    config::{LayerShape, ModelConfig},
    error::{Error, Proceed, Result},
    prune::{
        Block, Unit,
        calibration::Calibration,
        counts,
        fold::{FoldSource, FoldedBlock},
        second_moments::SecondMoments,
        settings::{AdaptMetric, FoldChoice, Method, Settings},
    },
    weights::{LayerNames, Weights, prefix},
};

/// A folded model, and what it keeps of the model that it was made from.
#[derive(Debug)]
pub struct Fold<B: Backend> {
    /// The folded model. All of its products are dense.
    pub model: Arc<Model<B>>,
    /// Heads and channels that each layer kept, ascending; `None` for a block that was not folded.
    pub kept: Vec<[Option<Vec<u32>>; 2]>,
    /// The model that was folded, if sessions run it: a probe of their batches, or their prompts.
    pub dense: Option<Arc<Model<B>>>,
    /// What corrections by a probe start from; `None` without.
    pub start: Option<FoldStart>,
}

/// What corrections of a fold start from.
#[derive(Debug)]
pub struct FoldStart {
    /// What their priors know of kept channels.
    pub metric: AdaptMetric,
    /// The folded blocks, with their priors, and the dtypes of their last projections.
    pub blocks: Vec<[Option<(FoldedBlock, Dtype)>; 2]>,
}

/// Refuses settings that leave no folded model behind.
///
/// # Errors
/// Another method, or a ratio of 0.
pub fn check_settings(settings: &Settings) -> Result<()> {
    if settings.method == Method::Fold && settings.prune_ratio > 0.0 {
        return Ok(());
    }
    let got = format!("{} at ratio {}", settings.method, settings.prune_ratio);
    let help = "Other methods choose while they run and leave no model behind.";
    Err(Error::argument("method", "fold at a ratio above 0", got, help))
}

impl<B: Backend> Fold<B> {
    /// Folds the layers of `model` that `settings` do not skip. `on_layer` is called after each with its
    /// number, from 1.
    ///
    /// # Errors
    /// Settings that [`check_settings`] refuses or that leave nothing to keep; a calibration of another model or without second moments; a model that was
    /// pruned for good; weights or moments that are not finite; no room on the device; or
    /// what `on_layer` ends with.
    pub fn new<P: Proceed>(
        model: &Arc<Model<B>>,
        settings: &Settings,
        calibration: &Calibration,
        mut on_layer: impl FnMut(usize) -> P,
    ) -> Result<Self> {
        let config = &model.config;
        let layers = config.num_hidden_layers;
        check_settings(settings)?;
        if !model.is_whole() {
            let (expected, got) = ("one with all of its heads and channels", "one that was pruned for good");
            return Err(Error::argument("model to fold", expected, got, "Fold the dense model."));
        }
        calibration.check_model(&model.fingerprint)?;
        let calibration = &*calibration.in_order_of(model.channel_order.as_deref());
        let mut folded = Folded {
            model,
            replaced: HashMap::new(),
            shapes: vec![LayerShape::of(config); layers],
            starts: vec![[None, None]; layers],
            kept: vec![[None, None]; layers],
        };
        let kept = counts::kept(settings, config, calibration.losses_of(Method::Fold))?;
        for (layer, kept) in kept.into_iter().enumerate() {
            for (block, keep) in Block::ALL.into_iter().zip(kept) {
                if let Some(keep) = keep {
                    folded.fold(layer, block, keep, settings, calibration)?;
                }
            }
            if kept != [None, None] {
                on_layer(layer + 1).proceed()?;
            }
        }
        let weights = Weights::load(&folded, config, &model.backend, None, Some(&folded.shapes), |_| ())?;
        let fingerprint = folded.fingerprint();
        let Folded { kept, starts, .. } = folded;
        let start =
            settings.adapt.is_on().then_some(FoldStart { metric: settings.adapt.metric, blocks: starts });
        let dense = (start.is_some() || settings.prefills_dense()).then(|| Arc::clone(model));
        let model = Model {
            config: config.clone(),
            backend: Arc::clone(&model.backend),
            weights,
            fingerprint,
            channel_order: None,
        };
        Ok(Self { model: Arc::new(model), kept, dense, start })
    }

    /// The key/value heads of the model that was folded that each layer kept, ascending.
    pub fn kept_kv_heads(&self) -> Vec<Vec<u32>> {
        let config = &self.model.config;
        let of_layer = |[heads, _]: &[Option<Vec<u32>>; 2]| match heads {
            Some(heads) => kv_heads(config, heads),
            None => (0..config.num_key_value_heads as u32).collect(),
        };
        self.kept.iter().map(of_layer).collect()
    }
}

/// The key/value heads that query heads read; both ascending.
fn kv_heads(config: &ModelConfig, heads: &[u32]) -> Vec<u32> {
    let mut kv_heads: Vec<u32> = heads.iter().map(|head| head / config.gqa_group() as u32).collect();
    kv_heads.dedup();
    kv_heads
}

/// What a block of a model is folded from, on the host.
pub(crate) struct BlockSource<'a> {
    layer: usize,
    block: Block,
    unit: Unit,
    means: Vec<f32>,
    second: &'a SecondMoments,
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    /// Of the last projection.
    dtype: Dtype,
}

impl<'a> BlockSource<'a> {
    /// Of a model whose channels stand in the calibration's order.
    pub(crate) fn new<B: Backend>(
        model: &Model<B>,
        layer: usize,
        block: Block,
        calibration: &'a Calibration,
    ) -> Result<Self> {
        let (config, moments) = (&model.config, &calibration.layers[layer][block as usize]);
        let names = LayerNames::of(config.family);
        let last = if block == Block::Attention { names.o_proj } else { names.down_proj };
        let last = format!("{}layers.{layer}.{last}", prefix(config.family));
        let weight = model.require(&format!("{last}.weight"))?;
        Ok(Self {
            layer,
            block,
            unit: block.unit(config, 1),
            means: moments.channel_means(block.channels(config)),
            second: moments.second.as_ref().ok_or_else(|| {
                Error::argument(
                    "method fold",
                    "a calibration with second moments",
                    "one without",
                    "Calibrate with second moments: `probeprune calibrate --fold`.",
                )
            })?,
            weight: weight.to_f32(),
            bias: model.tensor(&format!("{last}.bias"))?.map(|bias| bias.to_f32()),
            dtype: weight.dtype(),
        })
    }

    /// The block folded to each of these counts, of which the last is the largest.
    pub(crate) fn fold(
        &self,
        counts: &[usize],
        choice: FoldChoice,
        metric: Option<AdaptMetric>,
    ) -> Result<Vec<FoldedBlock>> {
        let Self { layer, block, .. } = *self;
        let source = FoldSource {
            means: &self.means,
            second: self.second,
            weight: &self.weight,
            bias: self.bias.as_deref(),
        };
        let is_finite = |folded: &FoldedBlock| {
            let FoldedBlock { weight, bias, prior, .. } = folded;
            let of_prior = prior.iter().flat_map(|prior| &prior.metric);
            weight.iter().chain(bias).chain(of_prior).all(|x| x.is_finite())
        };
        let checked = |folded: FoldedBlock| match is_finite(&folded) {
            true => Ok(folded),
            false => Err(Error::NonFinite {
                layer,
                block: block.name(),
                what: "the folded projection",
                help: "The calibration or the weights are not finite, or the checkpoint is damaged."
                    .to_string(),
            }),
        };
        source.folds(self.unit, counts, choice, metric).map(checked).collect()
    }

    /// W' (H, kept channels) in the model's dtype.
    pub(crate) fn projection(&self, folded: &FoldedBlock) -> Tensor {
        let h = folded.bias.len();
        let shape = vec![h, folded.weight.len() / h];
        Tensor::from_f32(shape, folded.weight.clone()).rounded_to(self.dtype)
    }
}

/// A model's tensors, some of them replaced.
struct Folded<'a, B: Backend> {
    model: &'a Model<B>,
    replaced: HashMap<String, Tensor>,
    shapes: Vec<LayerShape>,
    kept: Vec<[Option<Vec<u32>>; 2]>,
    starts: Vec<[Option<(FoldedBlock, Dtype)>; 2]>,
}

impl<B: Backend> Tensors for Folded<'_, B> {
    fn tensor(&self, name: &str) -> Result<Option<Tensor>> {
        match self.replaced.get(name) {
            Some(tensor) => Ok(Some(tensor.clone())),
            None => self.model.tensor(name),
        }
    }

    fn require(&self, name: &str) -> Result<Tensor> {
        self.replaced.get(name).map_or_else(|| self.model.require(name), |tensor| Ok(tensor.clone()))
    }
}

impl<B: Backend> Folded<'_, B> {
    /// Folds a block to `keep` heads or channels.
    fn fold(
        &mut self,
        layer: usize,
        block: Block,
        keep: usize,
        settings: &Settings,
        calibration: &Calibration,
    ) -> Result<()> {
        let (config, names) = (&self.model.config, LayerNames::of(self.model.config.family));
        let (width, unit) = (block.channels(config), block.unit(config, 1));
        if keep * unit.block_width() == width {
            return Ok(());
        }
        let name = |part: &str| format!("{}layers.{layer}.{part}", prefix(config.family));
        let last = name(if block == Block::Attention { names.o_proj } else { names.down_proj });
        let source = BlockSource::new(self.model, layer, block, calibration)?;
        let metric = settings.adapt.is_on().then_some(settings.adapt.metric);
        let folded = source.fold(&[keep], settings.fold_choice, metric)?.pop().expect("one count");
        let FoldedBlock { kept, bias, .. } = &folded;
        self.replaced.insert(format!("{last}.weight"), source.projection(&folded));
        self.replaced
            .insert(format!("{last}.bias"), Tensor::from_f32(vec![config.hidden_size], bias.clone()));
        match block {
            Block::Mlp => {
                for part in names.mlp_first {
                    self.keep_rows(&name(part), kept)?;
                }
                self.shapes[layer].channels = keep;
            }
            Block::Attention => self.keep_heads(layer, name, kept)?,
        }
        // As the checkpoint numbers them.
        let mut numbers = kept.clone();
        if let (Block::Mlp, Some(order)) = (block, &self.model.channel_order) {
            numbers.iter_mut().for_each(|channel| *channel = order[layer][*channel as usize]);
            numbers.sort_unstable();
        }
        self.kept[layer][block as usize] = Some(numbers);
        self.starts[layer][block as usize] = metric.map(|_| (folded, source.dtype));
        Ok(())
    }

    /// The kept query heads and the key/value heads that they read.
    fn keep_heads(&mut self, layer: usize, name: impl Fn(&str) -> String, kept: &[u32]) -> Result<()> {
        let config = &self.model.config;
        let (group, head_dim) = (config.gqa_group() as u32, config.head_dim as u32);
        let kv_heads = kv_heads(config, kept);
        let place = |head: &u32| kv_heads.partition_point(|&kv_head| kv_head < head / group) as u32;
        let shape = &mut self.shapes[layer];
        (shape.heads, shape.kv_heads) = (kept.len(), kv_heads.len());
        shape.kv_head_of = kept.iter().map(place).collect();
        let rows = |heads: &[u32]| -> Vec<u32> {
            heads.iter().flat_map(|head| head * head_dim..(head + 1) * head_dim).collect()
        };
        self.keep_rows(&name("self_attn.q_proj"), &rows(kept))?;
        for part in ["self_attn.k_proj", "self_attn.v_proj"] {
            self.keep_rows(&name(part), &rows(&kv_heads))?;
        }
        Ok(())
    }

    /// Rows of a first projection, and of its bias.
    fn keep_rows(&mut self, name: &str, rows: &[u32]) -> Result<()> {
        let weight = self.model.require(&format!("{name}.weight"))?;
        self.replaced.insert(format!("{name}.weight"), weight.reordered_rows(rows));
        let bias = format!("{name}.bias");
        if let Some(values) = self.model.tensor(&bias)? {
            self.replaced.insert(bias, values.reordered_rows(rows));
        }
        Ok(())
    }

    /// Tells folds of a model apart.
    fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"fold of ").update(self.model.fingerprint.as_bytes());
        let mut names: Vec<_> = self.replaced.keys().collect();
        names.sort_unstable();
        for name in names {
            hasher.update(name.as_bytes()).update(self.replaced[name].bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}
