//! A whole decoder layer, dense or pruned, probe and history included.

use std::sync::Arc;

use probeprune::{
    Result,
    backend::{Backend, ColumnStatisticOperands, History, Probe, ProbeGatherOperands},
    config::ModelConfig,
    kv_cache::KvCache,
    model::{
        Model,
        block::{self},
        context::{Context, Mode},
        kept::Kept,
        scratch::{Batch, Scratch},
        selection::{Probed, Selection},
        timeline::{Step, Timeline},
    },
    prune::{
        BatchShape, Block, counts,
        settings::{Method, ProbeTokens, Settings},
    },
    weights::Weights,
};

use crate::{case::LayerShape, content::Content, operations::source::Content as _};

/// How a layer's kept sets come about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pruning {
    /// Everything is kept.
    Dense,
    /// A probe chooses so much less; with the share of tokens in it.
    Probe(f64, f64),
    /// What was kept before, as in decoding.
    Fixed(f64),
}

/// A layer and its buffers.
pub struct LayerRun<B: Backend> {
    model: Arc<Model<B>>,
    settings: Settings,
    scratch: Scratch<B>,
    batch: Batch<B>,
    selections: [Selection<B>; 2],
    /// Of the tokens before, and how many these are.
    cache: Option<(KvCache<B>, usize)>,
}

/// A model of so many layers in this shape, with random weights that are the same in each layer.
///
/// # Errors
/// A device without room.
pub fn model<B: Backend>(
    backend: &Arc<B>,
    content: &Content,
    shape: LayerShape,
    layers: usize,
    vocab_size: usize,
) -> Result<Arc<Model<B>>> {
    let LayerShape { hidden, intermediate, heads, head_dim, .. } = shape;
    let config = format!(
        r#"{{"architectures": ["LlamaForCausalLM"], "hidden_size": {hidden}, "intermediate_size": {intermediate},
            "num_attention_heads": {heads}, "head_dim": {head_dim}, "num_hidden_layers": {layers},
            "vocab_size": {vocab_size}, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5}}"#
    );
    let config = ModelConfig::from_json("bench".as_ref(), &config, None)?;
    let weights = Weights::load(&content.model(&config), &config, backend, None, None, |_| ())?;
    let (backend, fingerprint) = (Arc::clone(backend), "bench".to_string());
    Ok(Arc::new(Model { config, backend, weights, fingerprint, channel_order: None }))
}

impl<B: Backend> LayerRun<B> {
    /// Layer 0 of `model` on a batch of this grid, behind so many tokens of a cache.
    ///
    /// # Errors
    /// A device without room, or a ratio that keeps nothing.
    pub fn new(
        model: &Arc<Model<B>>,
        content: &Content,
        shape: BatchShape,
        past: usize,
        pruning: Pruning,
    ) -> Result<Self> {
        let (backend, config) = (&*model.backend, &model.config);
        let (ratio, probe_tokens) = match pruning {
            Pruning::Dense => (0.0, ProbeTokens::PAPER),
            Pruning::Probe(ratio, tokens) => (ratio, ProbeTokens::Share(tokens)),
            Pruning::Fixed(ratio) => (ratio, ProbeTokens::PAPER),
        };
        let method = Method::ProbePruning;
        let settings = Settings {
            method,
            prune_ratio: ratio,
            probe_tokens,
            skip_layers: Vec::new(),
            ..Settings::default()
        };
        let select = |block: Block| {
            let len = match block {
                Block::Attention => counts::kept_heads(&settings, config, ratio)?,
                Block::Mlp => counts::kept_channels(&settings, config, ratio)?,
            };
            selection(model, &settings, block, len, shape, pruning)
        };
        let selections = [select(Block::Attention)?, select(Block::Mlp)?];
        let mut scratch = Scratch::new(backend, config, &settings, shape, past + shape.tokens)?;
        fill_rows(backend, content, shape, config.hidden_size, &mut scratch)?;
        let table = content.values((past + shape.tokens) * config.head_dim, -1.0..1.0, 2);
        backend.upload_statistics(&table, &mut scratch.attention.rope_table);
        let rows = shape.rows();
        let mut batch = Batch {
            shape,
            tokens: backend.indices(rows)?,
            positions: backend.indices(rows)?,
            mask: backend.indices(rows)?,
            padded: false,
        };
        let positions: Vec<u32> = (0..rows).map(|row| (past + row % shape.tokens) as u32).collect();
        backend.upload_indices(&positions, &mut batch.positions);
        let slots = match selections[0].kept().and_then(|kept| kept.kv_heads.as_ref()) {
            Some(kv_heads) => kv_heads.len,
            None => config.num_key_value_heads,
        };
        let cache = (past > 0).then(|| filled_cache(model, content, shape, past, slots)).transpose()?;
        Ok(Self { model: Arc::clone(model), settings, scratch, batch, selections, cache })
    }

    /// Runs these blocks once.
    pub fn run(&mut self, blocks: &[Block]) {
        let Self { model, settings, scratch, batch, selections, cache } = self;
        let mode = match selections[0] {
            Selection::Probed(_) => Mode::Batch { update_history: true },
            _ => Mode::Decode { recent: None },
        };
        let context = Context { model, settings, batch, mode, dense: None };
        model.backend.scope(|| {
            scratch.timeline.start(&model.backend);
            // Both read the same residual, so that every run is the same sequence of launches.
            for &block in blocks {
                let selection = &mut selections[block as usize];
                let cache = cache.as_mut().map(|(cache, past)| {
                    cache.len = *past;
                    cache
                });
                block::run(context.block(0, block), selection, scratch, cache, None);
                block::update_history(&context, selection);
                scratch.timeline.mark(&model.backend, Step::History);
            }
        });
    }

    /// Seconds of every step of one run.
    ///
    /// # Errors
    /// A device that failed.
    pub fn steps(&mut self) -> Result<[f64; Step::ALL.len()]> {
        let model = Arc::clone(&self.model);
        if !self.scratch.timeline.is_on() {
            self.scratch.timeline = Timeline::on(&*model.backend, 1)?;
        }
        self.run(&Block::ALL);
        model.backend.download_indices(&self.scratch.fault, 1)?;
        self.scratch.timeline.seconds(&model.backend)
    }
}

/// Random rows of one sample, repeated for every sample on the device.
fn fill_rows<B: Backend>(
    backend: &B,
    content: &Content,
    shape: BatchShape,
    width: usize,
    scratch: &mut Scratch<B>,
) -> Result<()> {
    let mut sample = backend.activations(shape.tokens * width)?;
    backend.upload_activations(&content.values(shape.tokens * width, -1.0..1.0, 1), &mut sample);
    let mut slots = backend.indices(shape.tokens)?;
    backend.upload_indices(&(0..shape.tokens as u32).collect::<Vec<_>>(), &mut slots);
    let (samples, positions, mask) =
        (backend.indices(shape.samples)?, backend.indices(0)?, backend.indices(0)?);
    let every = Probe { shape, samples, slots, positions, mask };
    let one = BatchShape { samples: 1, tokens: shape.tokens };
    backend.probe_gather(ProbeGatherOperands {
        x: &sample,
        shape: one,
        hidden_size: width,
        probe: &every,
        out: &mut scratch.current.rows,
    });
    // The sample goes with the end of this.
    backend.download_indices(&every.samples, 1).map(drop)
}

/// Keys and values of so many tokens before.
fn filled_cache<B: Backend>(
    model: &Model<B>,
    content: &Content,
    shape: BatchShape,
    past: usize,
    head_slots: usize,
) -> Result<(KvCache<B>, usize)> {
    let (backend, capacity, d) = (&*model.backend, past + shape.tokens, model.config.head_dim);
    let mut cache = KvCache::new(backend, shape.samples, capacity, &[head_slots], d)?;
    let entries = shape.samples * capacity * head_slots * d;
    let layer = &mut cache.layers[0];
    backend.upload_activations(&content.values(entries, -1.0..1.0, 3), &mut layer.keys);
    backend.upload_activations(&content.values(entries, -1.0..1.0, 4), &mut layer.values);
    backend.upload_indices(&vec![1; shape.samples * capacity], &mut cache.mask);
    Ok((cache, past))
}

fn selection<B: Backend>(
    model: &Model<B>,
    settings: &Settings,
    block: Block,
    len: usize,
    shape: BatchShape,
    pruning: Pruning,
) -> Result<Selection<B>> {
    let (backend, config) = (&*model.backend, &model.config);
    if pruning == Pruning::Dense {
        return Ok(Selection::Dense);
    }
    let mut kept =
        Kept::new(backend, config, block, block.unit(config, settings.channel_group).block_width(), len)?;
    let spread: Vec<u32> = (0..len).map(|i| (i * kept.set.of / len) as u32).collect();
    backend.upload_indices(&spread, &mut kept.set.indices);
    kept.follow_kv_heads(backend, config);
    if let Pruning::Fixed(_) = pruning {
        return Ok(Selection::Fixed { kept, bias: None });
    }
    let layer = &model.weights.layers[0];
    let projection = match block {
        Block::Attention => &layer.attention.o_proj,
        Block::Mlp => &layer.mlp.down_proj,
    };
    let width = block.channels(config);
    let mut statistic = backend.statistics(width)?;
    backend.column_statistic(ColumnStatisticOperands {
        projection,
        metric: settings.metric,
        out: &mut statistic,
    });
    let layout = settings.history_layout;
    let values = backend.statistics(layout.words(shape.tokens, width))?;
    let history = Some(History { values, slots: shape.tokens, channels: width, layout });
    let pending = Some(backend.statistics(shape.tokens * kept.set.channels())?);
    let (recent, compensation, pinned) = (None, None, false);
    Ok(Selection::Probed(Probed { kept, statistic, history, pending, recent, compensation, pinned }))
}
