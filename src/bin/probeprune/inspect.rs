//! `probeprune inspect`: a model's config, tensors and memory, and the heads and channels kept at a prune ratio.

use std::{collections::BTreeMap, fmt::Write, path::PathBuf};

use clap::Args;
use probeprune::{
    checkpoint::{Checkpoint, check_shapes},
    config::{Family, LayerShape, ModelConfig, RopeScaling},
    gpu::{GpuDtype, cross_entropy_scratch, weights_on_gpu},
    prune::{
        BatchShape,
        calibration::Calibration,
        flops::{LayerCounts, shares},
        settings::{Method, Settings},
    },
    session::{Footprint, Limits},
    source::ModelSource,
};

use crate::{
    args::{DeviceArgs, MethodArgs, at_least_one},
    device::chosen_gpu,
    failure::{Result, note, print},
    table::percent,
};

/// Flags of `inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A folder, bundled:NAME, or org/name in the local Hugging Face cache
    #[arg(long, value_name = "M")]
    model: String,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Tokens per window, for memory and FLOPs [default: the model's context, at most 1024]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    seq_len: Option<usize>,
    /// Windows per batch, for memory and FLOPs
    #[arg(long, value_name = "B", default_value_t = 4, value_parser = at_least_one())]
    batch_size: usize,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    method: MethodArgs,
    /// A history file of this model, whose losses --allocation measured goes by
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: &InspectArgs) -> Result<()> {
    let source = ModelSource::locate(&args.model)?;
    let mut config = ModelConfig::load(&source)?;
    let checkpoint = Checkpoint::open(&source, true)?;
    let settings = args.method.settings(&config)?;
    let shape = BatchShape {
        samples: args.batch_size,
        tokens: args.seq_len.unwrap_or(config.max_position_embeddings.min(1024)),
    };
    Limits { samples: shape.samples, tokens: shape.tokens, capacity: 0 }.check(&config)?;
    let shapes = check_shapes(&mut config, &checkpoint)?;
    let history = args.history.as_ref();
    let calibration =
        history.map(|path| Calibration::load(path, &checkpoint.fingerprint(), &config)).transpose()?;
    let losses = calibration.as_ref().and_then(|calibration| calibration.losses_of(settings.method));
    let layers = LayerCounts::by_settings(&config, &settings, losses)?;
    config.notes.iter().for_each(|text| note(text));
    print(&describe_config(&source.name(), &config))?;
    print(&describe_tensors(&checkpoint, args.tensors))?;
    print(&describe_shapes(&config, &shapes))?;
    let device = match chosen_gpu(args.device.device)? {
        None => DeviceBytes {
            name: "the CPU".to_string(),
            weights: checkpoint.file_bytes(),
            activation: 4,
            loss: 0,
        },
        Some(ordinal) => {
            let dtype = args.device.dtype.on_gpu(|| Ok(GpuDtype::for_weights(&checkpoint)))?;
            let name = format!("cuda:{ordinal} in {}", dtype.name());
            let loss = cross_entropy_scratch(shape.rows(), config.vocab_size).saturating_mul(4);
            DeviceBytes { name, weights: weights_on_gpu(&config, &checkpoint), activation: 2, loss }
        }
    };
    print(&describe_memory(&config, &settings, &layers, shape, &device))?;
    if settings.prune_ratio > 0.0 {
        print(&describe_kept(&config, &settings, &layers, shape))?;
    }
    Ok(())
}

fn describe_config(name: &str, config: &ModelConfig) -> String {
    let mut positions = match &config.rope {
        None => "learned".to_string(),
        Some(rope) if rope.scaling == RopeScaling::Default => format!("rotary, theta {}", rope.theta),
        Some(rope) => format!("rotary, theta {}, {:?}", rope.theta, rope.scaling),
    };
    if let Some(window) = config.sliding_window {
        let _ = write!(positions, ", sliding window of {window}");
        let full = config.full_attention_layers.len();
        if full > 0 {
            let _ = write!(
                positions,
                " in {} of {} layers",
                config.num_hidden_layers - full,
                config.num_hidden_layers
            );
        }
    }
    format!(
        "{name}: {} ({})\n\
         vocabulary   {} tokens{}\n\
         hidden       {}\n\
         layers       {}\n\
         heads        {} × {}, {} for keys and values\n\
         MLP          {} channels, {:?}\n\
         positions    {}, {positions}\n\
         norm         {}, eps {}{}\n\
         eos          {:?}\n",
        config.model_type,
        if config.family == Family::Llama { "LLaMA blocks" } else { "OPT blocks" },
        config.vocab_size,
        if config.tie_word_embeddings { ", head tied to the embedding" } else { "" },
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.head_dim,
        config.num_key_value_heads,
        config.intermediate_size,
        config.activation,
        config.max_position_embeddings,
        if config.family == Family::Llama { "RMSNorm" } else { "LayerNorm" },
        config.norm_eps,
        if config.norm_first { "" } else { ", after each block" },
        config.eos_token_ids,
    )
}

fn describe_tensors(checkpoint: &Checkpoint, all: bool) -> String {
    let mut list = String::new();
    let mut kinds: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for name in checkpoint.names() {
        let Some((dtype, shape)) = checkpoint.describe(name) else { continue };
        if all {
            // A name from a file may hold anything: quoted, it cannot garble a terminal.
            let _ = writeln!(list, "             {name:?} {dtype} {shape:?}");
        }
        let kind = kinds.entry(dtype).or_default();
        kind.0 += 1;
        kind.1 += shape.iter().product::<usize>();
    }
    let mut out = String::new();
    for (dtype, (tensors, elements)) in kinds {
        let _ = writeln!(out, "tensors      {tensors} of {dtype}, {elements} elements");
    }
    let _ = writeln!(out, "files        {}", size(checkpoint.file_bytes()));
    let _ = writeln!(out, "fingerprint  {}", checkpoint.fingerprint());
    out + &list
}

/// The layers of a model that was pruned for good.
fn describe_shapes(config: &ModelConfig, shapes: &[LayerShape]) -> String {
    let whole = LayerShape::of(config);
    let mut out = String::new();
    if shapes.iter().any(|shape| *shape != whole) {
        out += "pruned       layers with fewer heads or channels: heads, key/value heads, channels\n";
        for (layer, shape) in shapes.iter().enumerate() {
            let LayerShape { heads, kv_heads, channels, .. } = shape;
            let _ = writeln!(out, "             layer {layer}: {heads}, {kv_heads}, {channels}");
        }
    }
    out
}

/// What a device would hold, whether or not this machine has it.
struct DeviceBytes {
    name: String,
    /// Bytes of the weights.
    weights: u64,
    /// Bytes of an activation.
    activation: usize,
    /// Bytes of cross-entropy's scratch.
    loss: usize,
}

fn describe_memory(
    config: &ModelConfig,
    settings: &Settings,
    layers: &[LayerCounts],
    shape: BatchShape,
    device: &DeviceBytes,
) -> String {
    let limits = |capacity| Limits { samples: shape.samples, tokens: shape.tokens, capacity };
    let footprint = Footprint::new(config, settings, layers, limits(0));
    let cache = Footprint::new(config, settings, layers, limits(shape.tokens)).cache.bytes(device.activation);
    let Footprint { scratch, history, probed, compensation, corrections, .. } = footprint;
    let [scratch, history, probed, compensation, corrections] =
        [scratch, history, probed, compensation, corrections].map(|part| part.bytes(device.activation));
    let scratch = scratch.saturating_add(device.loss as u64);
    let parts = [device.weights, scratch, history, probed, compensation, corrections];
    let layout = settings.history_layout;
    let layout = match layout.bucket {
        1 => format!("{}, every slot", layout.dtype),
        bucket => format!("{}, {bucket} slots in a row", layout.dtype),
    };
    format!(
        "memory       about {} on {} for {} × {} tokens: weights {}, activations and scratch {}, history {} ({layout}), its updates {}, compensation {}{}\n\
         \x20            generation adds {} for the keys and values of these tokens\n",
        size(parts.into_iter().fold(0, u64::saturating_add)),
        device.name,
        shape.samples,
        shape.tokens,
        size(device.weights),
        size(scratch),
        size(history),
        size(probed),
        size(compensation),
        if corrections > 0 { format!(", corrections {}", size(corrections)) } else { String::new() },
        size(cache),
    )
}

fn describe_kept(
    config: &ModelConfig,
    settings: &Settings,
    layers: &[LayerCounts],
    shape: BatchShape,
) -> String {
    let mut out = format!("kept         {} at {}", settings.method, percent(settings.prune_ratio));
    out += match settings.method {
        Method::Flap => ", with the same share in every block (calibration will choose the shares)\n",
        _ => "\n",
    };
    let mut first = 0;
    for (index, layer) in layers.iter().enumerate() {
        if layers.get(index + 1) == Some(layer) {
            continue;
        }
        let range =
            if first == index { format!("layer {index}") } else { format!("layers {first}–{index}") };
        let (heads, channels) = (config.num_attention_heads, config.intermediate_size);
        let _ = writeln!(
            out,
            "             {range}: {} of {heads} heads, {} of {channels} channels",
            layer.heads, layer.channels
        );
        first = index + 1;
    }
    let share = shares(config, settings, layers, shape);
    let _ = writeln!(
        out,
        "FLOPs        {} of the dense model's projections, of which the probe takes {}",
        percent(share.total),
        percent(share.probe)
    );
    out
}

/// Bytes in readable units.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}
