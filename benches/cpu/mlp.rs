//! A pruned MLP block against the dense one, and what compensation of the pruned channels adds to it.

use std::sync::Arc;

use half::bf16;
use probeprune::{
    backend::{Backend, ColumnStatisticOperands, History, Linear, Norm, NormKind, WeightUse},
    checkpoint::{Checkpoint, Tensor},
    config::{LayerShape, ModelConfig},
    cpu::Cpu,
    model::{
        Model, block,
        compensation::{Compensation as BlockCompensation, LinearMap},
        context::{Context, Mode},
        kept::Kept,
        scratch::{Batch, Scratch},
        selection::{Probed, Selection},
    },
    prune::{
        BatchShape, Block, counts,
        settings::{Compensation, Method, Metric, Settings},
    },
    source::ModelSource,
    weights::{Attention, Layer, Mlp, MlpFirst, Weights},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

use crate::{
    quartiles::quartiles,
    samples::{median, seconds},
};

const HIDDEN: usize = 1024;
const INTERMEDIATE: usize = 2816;

fn bf16_tensor(rows: usize, columns: usize, values: Vec<bf16>) -> Tensor {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let view =
        TensorView::new(Dtype::BF16, vec![rows, columns], bytemuck::cast_slice(&values)).expect("a tensor");
    safetensors::serialize_to_file([("w", view)], None, &folder.path().join("model.safetensors"))
        .expect("written");
    let checkpoint =
        Checkpoint::open(&ModelSource::Folder(folder.path().into()), false).expect("a checkpoint");
    checkpoint.require("w").expect("the tensor")
}

/// A one-layer model whose MLP block has the shape to measure; its attention is minimal and never runs.
fn mlp_model(backend: Arc<Cpu>) -> Model<Cpu> {
    let config = format!(
        r#"{{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": {HIDDEN},
            "intermediate_size": {INTERMEDIATE}, "num_attention_heads": 8, "num_hidden_layers": 1, "vocab_size": 8,
            "max_position_embeddings": 1024, "rms_norm_eps": 1e-5}}"#
    );
    let config = ModelConfig::from_json("bench".as_ref(), &config, None).expect("config");
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut linear = |rows: usize, columns: usize| {
        let values = (0..rows * columns).map(|_| rng.random_range(-0.05f32..0.05));
        // As checkpoints have them: bfloat16.
        let tensor = bf16_tensor(rows, columns, values.map(bf16::from_f32).collect());
        let weight = backend.weight(&tensor, WeightUse::Rows).expect("weight");
        Linear { weight, bias: None, out_features: rows, in_features: columns }
    };
    let norm = || Norm { kind: NormKind::Rms, weight: Some(vec![1.0; HIDDEN].into()), bias: None, eps: 1e-5 };
    let layer = Layer {
        shape: LayerShape::of(&config),
        attention: Attention {
            norm: norm(),
            q_proj: linear(1, 1),
            k_proj: linear(1, 1),
            v_proj: linear(1, 1),
            o_proj: linear(1, 1),
            kv_head_of: vec![0].into(),
            window: None,
        },
        mlp: Mlp {
            norm: norm(),
            first: MlpFirst::Gated {
                gate_proj: linear(INTERMEDIATE, HIDDEN),
                up_proj: linear(INTERMEDIATE, HIDDEN),
            },
            down_proj: linear(HIDDEN, INTERMEDIATE),
        },
    };
    let weights = Weights {
        embed_tokens: linear(8, HIDDEN).weight,
        embed_positions: None,
        project_in: None,
        layers: vec![layer],
        final_norm: None,
        project_out: None,
        lm_head: linear(8, HIDDEN),
    };
    Model { config, backend, weights, fingerprint: String::new(), channel_order: None }
}

/// A probed MLP block that keeps what `settings` say, and how many channels that is.
fn probed(model: &Model<Cpu>, settings: &Settings, shape: BatchShape) -> (Selection<Cpu>, usize) {
    let (backend, config) = (&*model.backend, &model.config);
    let channels = counts::kept_channels(settings, config, settings.prune_ratio).expect("channels");
    let kept = Kept::new(backend, config, Block::Mlp, 1, channels).expect("memory");
    let mut statistic = vec![0.0; INTERMEDIATE].into();
    backend.column_statistic(ColumnStatisticOperands {
        projection: &model.weights.layers[0].mlp.down_proj,
        metric: Metric::Ppsp,
        out: &mut statistic,
    });
    let rank = settings.compensate.rank();
    let linear = |out_features: usize, in_features: usize, usage| {
        let tensor =
            Tensor::from_f32(vec![out_features, in_features], vec![0.01; out_features * in_features]);
        let weight = backend.weight(&tensor, usage).expect("weight");
        Linear { weight, bias: Some(vec![0.0; out_features].into()), out_features, in_features }
    };
    let map = (rank > 0).then(|| LinearMap {
        directions: linear(rank, HIDDEN, WeightUse::Rows),
        negated: linear(INTERMEDIATE, rank, WeightUse::Columns),
        coefficients: vec![0.01; rank * INTERMEDIATE].into(),
    });
    let compensation = (settings.compensate != Compensation::None).then(|| {
        let prior = Some(vec![0.0; INTERMEDIATE].into());
        BlockCompensation::new(backend, config, &kept, prior, map).expect("memory")
    });
    // As sessions have it: one row for linear maps, and no updates of energies around a mean.
    let mut layout = settings.history_layout;
    if rank > 0 {
        layout.bucket = shape.tokens;
    }
    let values = vec![0.01; layout.words(shape.tokens, INTERMEDIATE)].into();
    let selection = Selection::Probed(Probed {
        kept,
        statistic,
        history: Some(History { values, slots: shape.tokens, channels: INTERMEDIATE, layout }),
        pending: compensation.is_none().then(|| vec![0.0; shape.tokens * channels].into()),
        recent: None,
        compensation,
        pinned: false,
    });
    (selection, channels)
}

/// Pruned against dense MLP block: time ratio and FLOP share, the probe included in both; and what compensation of the
/// pruned channels adds to the pruned block's time.
pub fn measure(backend: Arc<Cpu>, repeat: usize, shape: BatchShape) -> Value {
    let model = mlp_model(Arc::clone(&backend));
    let with = |compensate| Settings {
        method: Method::ProbePruning,
        prune_ratio: 0.4,
        compensate,
        ..Settings::default()
    };
    let linear = Compensation::Linear { rank: Compensation::DEFAULT_RANK };
    let all = [Compensation::None, Compensation::ProbeMean, linear].map(with);
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let rows: Vec<f32> = (0..shape.rows() * HIDDEN).map(|_| rng.random_range(-1.0..1.0)).collect();
    let zeros = |len: usize| vec![0; len].into();
    let batch = Batch {
        shape,
        tokens: zeros(shape.rows()),
        positions: zeros(shape.rows()),
        mask: zeros(0),
        padded: false,
    };
    let mode = Mode::Batch { update_history: true };
    let mut cases: Vec<_> = all
        .iter()
        .map(|settings| {
            let mut scratch = Scratch::new(&*backend, &model.config, settings, shape, 0).expect("memory");
            scratch.current.rows.copy_from_slice(&rows);
            (settings, scratch, probed(&model, settings, shape))
        })
        .collect();
    let kept = cases[0].2.1;
    let time = |settings: &Settings, scratch: &mut Scratch<Cpu>, selection: &mut Selection<Cpu>| {
        let context = Context { model: &model, settings, batch: &batch, mode, dense: None };
        seconds(|| {
            backend.scope(|| {
                block::run(context.block(0, Block::Mlp), selection, scratch, None, None);
                block::update_history(&context, selection);
            })
        })
    };
    // Dense, then without and with compensation, in turns.
    let mut samples: Vec<[f64; 4]> = Vec::new();
    for _ in 0..repeat * 3 + 1 {
        let dense = time(&all[0], &mut cases[0].1, &mut Selection::Dense);
        let mut of =
            cases.iter_mut().map(|(settings, scratch, (selection, _))| time(settings, scratch, selection));
        samples.push(std::array::from_fn(|i| if i == 0 { dense } else { of.next().expect("three") }));
    }
    let samples = &samples[1..];
    let ratios = |of: usize, to: usize| samples.iter().map(|s| s[of] / s[to]).collect::<Vec<_>>();
    let probe_rows = counts::probe_shape(&all[0], shape).rows();
    let probe = 2.0 / 3.0 * probe_rows as f64 / shape.rows() as f64;
    let share = kept as f64 / INTERMEDIATE as f64 + probe;
    let [low, middle, high] = quartiles(&ratios(1, 0));
    let [probe_mean, linear] = [2, 3].map(|of| {
        let [low, middle, high] = quartiles(&ratios(of, 1));
        json!({ "time_over_pruned": middle, "quartiles": [low, high], "kept_channels": cases[of - 1].2.1 })
    });
    json!({
        "batch": shape.samples, "seq": shape.tokens, "kept_channels": kept, "flops_share": share,
        "time_ratio": middle, "time_ratio_over_share": middle / share,
        "time_ratio_over_share_quartiles": [low / share, high / share],
        "dense_seconds": median(&samples.iter().map(|s| s[0]).collect::<Vec<_>>()),
        "probe_mean": probe_mean, "linear_32": linear,
    })
}
