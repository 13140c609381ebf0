//! The layout of weights on the device, and `inspect`'s estimate of a session's memory against the real one.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use probeprune::{
    Result,
    backend::{AttentionOperands, AttentionShape, Backend, WeightUse},
    checkpoint::{Checkpoint, Dtype, Tensor},
    cpu::Cpu,
    gpu::{Driver, Gpu, GpuDtype, Launch, weights_on_gpu},
    model::{Model, fold::Fold},
    prune::{
        BatchShape,
        history::HistoryLayout,
        settings::{
            Adapt, AdaptMetric, AdaptSettings, Compensation, HistoryDtype, Method, Prefill, Settings,
        },
    },
    session::{CalibrationOptions, Footprint, Limits, Session, calibrate},
};
use serde_json::json;

use crate::common::models::Folder;

/// A device that computes nothing, but knows what was asked of it.
#[derive(Debug, Default)]
struct Meter {
    next: AtomicU64,
    allocated: Arc<AtomicU64>,
    written: Mutex<BTreeMap<u64, Vec<u8>>>,
    launched: Mutex<Vec<Launch>>,
}

#[derive(Debug)]
struct Metered {
    address: u64,
    bytes: u64,
    allocated: Arc<AtomicU64>,
}

impl Drop for Metered {
    fn drop(&mut self) {
        self.allocated.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Meter {
    fn allocated(&self) -> u64 {
        self.allocated.load(Ordering::Relaxed)
    }

    /// The number of writes, and everything that was written, by address; each write follows the one before.
    fn written(&self) -> (usize, Vec<u8>) {
        let written = self.written.lock().unwrap();
        let follows =
            |((at, bytes), (next, _)): ((&u64, &Vec<u8>), (&u64, _))| at + bytes.len() as u64 == *next;
        assert!(written.iter().zip(written.iter().skip(1)).all(follows));
        (written.len(), written.values().flatten().copied().collect())
    }
}

impl Driver for Meter {
    type Memory = Metered;
    type Graph = ();
    type Event = ();

    fn alloc(&self, bytes: usize) -> Result<Metered> {
        let bytes = bytes as u64;
        self.allocated.fetch_add(bytes, Ordering::Relaxed);
        let address = self.next.fetch_add(bytes.max(1), Ordering::Relaxed);
        Ok(Metered { address, bytes, allocated: Arc::clone(&self.allocated) })
    }

    fn address(&self, memory: &Metered) -> u64 {
        memory.address
    }

    fn write(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.written.lock().unwrap().insert(to, bytes.to_vec());
        Ok(())
    }

    fn read(&self, _: u64, bytes: &mut [u8]) -> Result<()> {
        bytes.fill(0);
        Ok(())
    }

    fn zero(&self, _: u64, _: usize) -> Result<()> {
        Ok(())
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        self.launched.lock().unwrap().push(launch.clone());
        Ok(())
    }

    fn graph(&self, _: &[Launch]) -> Result<Option<()>> {
        Ok(None)
    }

    fn replay(&self, (): &()) -> Result<()> {
        Ok(())
    }

    fn event(&self) -> Result<()> {
        Ok(())
    }

    fn record(&self, (): &()) -> Result<()> {
        Ok(())
    }

    fn elapsed(&self, (): &(), (): &()) -> Result<f64> {
        Ok(0.0)
    }

    fn multiprocessors(&self) -> u32 {
        100
    }

    fn description(&self) -> String {
        "meter".to_string()
    }
}

/// The bits of a matrix (rows, columns) of 0, 1, 2, ... in the compute dtype, as a backend stores them.
fn stored(dtype: GpuDtype, rows: usize, columns: usize, usage: WeightUse) -> Vec<u8> {
    let bits = |x: usize| match dtype {
        GpuDtype::Bf16 => half::bf16::from_f32((x % 1000) as f32).to_le_bytes(),
        GpuDtype::F16 => half::f16::from_f32((x % 1000) as f32).to_le_bytes(),
    };
    match usage {
        WeightUse::Rows => (0..rows * columns).flat_map(bits).collect(),
        WeightUse::Columns => {
            (0..columns).flat_map(|c| (0..rows).map(move |r| r * columns + c)).flat_map(bits).collect()
        }
    }
}

#[test]
fn weights_are_converted_and_last_projections_transposed() {
    // The last one goes in several pieces.
    for (rows, columns) in [(1, 1), (3, 200), (129, 65), (5000, 4003)] {
        let values = (0..rows * columns).map(|x| (x % 1000) as f32).collect();
        let tensor = Tensor::from_f32(vec![rows, columns], values);
        for (dtype, usage) in [
            (GpuDtype::F16, WeightUse::Rows),
            (GpuDtype::F16, WeightUse::Columns),
            (GpuDtype::Bf16, WeightUse::Columns),
        ] {
            let gpu = Gpu::new(Meter::default(), dtype);
            gpu.weight(&tensor, usage).unwrap();
            let (pieces, written) = gpu.driver().written();
            assert!(written == stored(dtype, rows, columns, usage), "{rows} × {columns} {dtype:?} {usage:?}");
            assert_eq!(pieces > 1, rows == 5000);
        }
    }
}

#[test]
fn weights_of_either_16_bit_dtype_become_the_other() {
    for stored_as in [Dtype::BF16, Dtype::F16] {
        let folder = Folder::llama();
        let name = "model.layers.0.self_attn.o_proj.weight";
        let (shape, values) = folder.tensors()[name].clone();
        let transposed = (0..shape[1]).flat_map(|column| values.iter().skip(column).step_by(shape[1]));
        let transposed: Vec<f32> = transposed.copied().collect();
        folder.write("model.safetensors", crate::common::models::serialize(&folder.tensors(), stored_as));
        let checkpoint = Checkpoint::open(&folder.source(), true).unwrap();
        let tensor = checkpoint.require(name).unwrap();
        for (dtype, (usage, values)) in [GpuDtype::Bf16, GpuDtype::F16].into_iter().flat_map(|dtype| {
            [(WeightUse::Rows, &values), (WeightUse::Columns, &transposed)].map(|of| (dtype, of))
        }) {
            let gpu = Gpu::new(Meter::default(), dtype);
            gpu.weight(&tensor, usage).unwrap();
            let rounded: Vec<u8> = values
                .iter()
                .map(|&x| match stored_as {
                    Dtype::BF16 => half::bf16::from_f32(x).to_f32(),
                    _ => half::f16::from_f32(x).to_f32(),
                })
                .flat_map(|x| match dtype {
                    GpuDtype::Bf16 => half::bf16::from_f32(x).to_le_bytes(),
                    GpuDtype::F16 => half::f16::from_f32(x).to_le_bytes(),
                })
                .collect();
            assert!(gpu.driver().written().1 == rounded, "{stored_as:?} as {dtype:?}, {usage:?}");
        }
    }
}

#[test]
fn a_tied_head_takes_no_memory_of_its_own() {
    let weights = |tied: bool| {
        let folder = Folder::llama_with(json!({ "tie_word_embeddings": tied }));
        let gpu = Gpu::new(Meter::default(), GpuDtype::Bf16);
        let model = Model::load(&folder.source(), true, Arc::new(gpu), |_| ()).unwrap();
        (model.backend.driver().allocated(), model.config.vocab_size * model.config.hidden_size)
    };
    let ((tied, entries), (untied, _)) = (weights(true), weights(false));
    assert_eq!(untied - tied, 2 * entries as u64);
}

#[test]
fn a_checkpoints_weights_take_what_is_estimated() {
    for folder in [
        Folder::llama_with(json!({ "tie_word_embeddings": true })),
        Folder::llama_with(json!({ "tie_word_embeddings": false })),
        Folder::opt(),
    ] {
        let gpu = Gpu::new(Meter::default(), GpuDtype::Bf16);
        let model = Model::load(&folder.source(), true, Arc::new(gpu), |_| ()).unwrap();
        let checkpoint = Checkpoint::open(&folder.source(), true).unwrap();
        assert_eq!(weights_on_gpu(&model.config, &checkpoint), model.backend.driver().allocated());
    }
    assert_eq!([GpuDtype::Bf16, GpuDtype::F16].map(GpuDtype::name), ["bf16", "f16"]);
}

#[test]
fn a_sessions_footprint_is_what_it_allocates() {
    let half_buckets = HistoryLayout { dtype: HistoryDtype::F16, bucket: 3 };
    for folder in [Folder::llama(), Folder::opt()] {
        let gpu = Arc::new(Gpu::new(Meter::default(), GpuDtype::Bf16));
        let model = Arc::new(Model::load(&folder.source(), true, Arc::clone(&gpu), |_| ()).unwrap());
        let options = CalibrationOptions {
            seq_len: 10,
            batch_size: 3,
            flap: false,
            linear_rank: 3,
            ..Default::default()
        };
        let calibration = calibrate(&model, &[3; 30], options, |_| ()).unwrap();
        let order = Some(calibration.channel_order.clone());
        let sorted = Model::load_ordered(&folder.source(), true, Arc::clone(&gpu), order, |_| ());
        let sorted = Arc::new(sorted.unwrap());
        let check = |method, layout, capacity, compensate, channel_group, ratio| {
            let model = if channel_group > 1 { &sorted } else { &model };
            let before = gpu.driver().allocated();
            let limits = Limits { samples: 3, tokens: 10, capacity };
            let settings = Settings {
                method,
                prune_ratio: if method == Method::None { 0.0 } else { ratio },
                skip_layers: vec![0],
                round_channels: 1,
                history_layout: layout,
                compensate,
                channel_group,
                ..Settings::default()
            };
            let session =
                Session::new(Arc::clone(model), settings.clone(), limits, Some(&calibration)).unwrap();
            let Footprint { scratch, history, probed, compensation, corrections, cache } =
                Footprint::new(&model.config, &settings, session.layer_counts(), limits);
            let loss = gpu.cross_entropy_scratch(30, model.config.vocab_size) as u64 * 4;
            let sum: u64 = [scratch, history, probed, compensation, corrections, cache]
                .iter()
                .map(|part| part.bytes(2))
                .sum();
            assert_eq!(
                sum + loss,
                gpu.driver().allocated() - before,
                "{method} {layout:?} {capacity} {compensate} {channel_group}"
            );
        };
        for (method, layout, capacity) in [
            (Method::None, HistoryLayout::default(), 0),
            (Method::ProbePruning, HistoryLayout::default(), 0),
            (Method::ProbePruning, half_buckets, 20),
            (Method::FullBatch, HistoryLayout::default(), 20),
        ] {
            check(method, layout, capacity, Compensation::None, 1, 0.4);
        }
        let pp = Method::ProbePruning;
        check(pp, HistoryLayout::default(), 0, Compensation::None, 8, 0.4);
        // So little that all heads are kept.
        check(pp, HistoryLayout::default(), 0, Compensation::ProbeMean, 1, 0.1);
        // Groups of 8 leave a linear map no channels to pay with.
        for (compensate, channel_group) in [
            (Compensation::ProbeMean, 1),
            (Compensation::ProbeMean, 8),
            (Compensation::Linear { rank: 1 }, 1),
        ] {
            check(pp, half_buckets, 20, compensate, channel_group, 0.4);
        }
    }
}

#[test]
fn corrections_take_what_is_estimated() {
    for folder in [Folder::llama(), Folder::opt()] {
        // The device has no values of its own to calibrate with.
        let cpu =
            Arc::new(Model::load(&folder.source(), true, Arc::new(Cpu::new(1).unwrap()), |_| ()).unwrap());
        let options = CalibrationOptions { seq_len: 10, batch_size: 3, fold: true, ..Default::default() };
        let tokens: Vec<u32> = (0..60).map(|i| i * 7 % 30).collect();
        let calibration = calibrate(&cpu, &tokens, options, |_| ()).unwrap();
        let gpu = Arc::new(Gpu::new(Meter::default(), GpuDtype::Bf16));
        let model = Arc::new(Model::load(&folder.source(), true, Arc::clone(&gpu), |_| ()).unwrap());
        for (metric, prefill, capacity) in [
            (AdaptMetric::Full, Prefill::Pruned, 0),
            (AdaptMetric::Diagonal, Prefill::Pruned, 0),
            (AdaptMetric::Diagonal, Prefill::Dense, 16),
        ] {
            let limits = Limits { samples: 3, tokens: 10, capacity };
            let adapt = AdaptSettings { mode: Adapt::Probe { tokens: None }, metric, ..Default::default() };
            let settings = Settings {
                method: Method::Fold,
                prune_ratio: 0.4,
                skip_layers: vec![0],
                round_channels: 1,
                adapt,
                prefill,
                ..Settings::default()
            };
            let fold = Arc::new(Fold::new(&model, &settings, &calibration, |_| ()).unwrap());
            let before = gpu.driver().allocated();
            let session = Session::of_fold(Arc::clone(&fold), settings.clone(), limits, None).unwrap();
            let Footprint { scratch, history, probed, compensation, corrections, cache } =
                Footprint::new(&model.config, &settings, session.layer_counts(), limits);
            assert!(corrections.bytes(2) > 0);
            let loss = gpu.cross_entropy_scratch(30, model.config.vocab_size) as u64 * 4;
            let sum: u64 = [scratch, history, probed, compensation, corrections, cache]
                .iter()
                .map(|part| part.bytes(2))
                .sum();
            assert_eq!(sum + loss, gpu.driver().allocated() - before, "{metric:?}, {prefill}");
        }
    }
}

/// A grid has 65,535 blocks in y and z: attention of more samples takes more launches, each from where the one before ended.
#[test]
fn attention_of_many_samples_takes_several_launches() {
    const SAMPLES: usize = 65_537;
    let (heads, kv_heads, head_dim, key_capacity) = (4, 2, 8, 12);
    // Decoding, and prefill.
    for tokens in [1, 9] {
        let gpu = Gpu::new(Meter::default(), GpuDtype::F16);
        let rows = SAMPLES * tokens;
        let buffer = |len: usize| gpu.activations(len).unwrap();
        let (q, mut out) = (buffer(rows * heads * head_dim), buffer(rows * heads * head_dim));
        let [k, v] = [(); 2].map(|()| buffer(SAMPLES * key_capacity * kv_heads * head_dim));
        let (slots, mask) = (gpu.indices(heads).unwrap(), gpu.indices(SAMPLES * key_capacity).unwrap());
        let shape = AttentionShape {
            queries: BatchShape { samples: SAMPLES, tokens },
            keys: tokens,
            key_capacity,
            heads,
            kv_heads,
            head_dim,
            scale: 1.0,
            window: None,
        };
        gpu.attention(AttentionOperands {
            q: &q,
            k: &k,
            v: &v,
            shape,
            kv_head_of: &slots,
            mask: Some(&mask),
            slots: None,
            out: &mut out,
        });
        let launches = gpu.driver().launched.lock().unwrap();
        assert_eq!(launches.len(), 2);
        let [first, second] = [0, 1].map(|i| &launches[i]);
        // q, k, v, out, kv_head_of, mask.
        let addresses = |launch: &Launch| -> Vec<u64> {
            bytemuck::cast_slice::<u8, u64>(&launch.arguments()[..48]).to_vec()
        };
        let steps: Vec<u64> = addresses(first).iter().zip(addresses(second)).map(|(a, b)| b - a).collect();
        let (query, key) = (2 * tokens * heads * head_dim, 2 * key_capacity * kv_heads * head_dim);
        let expected = [query, key, key, query, 0, 4 * key_capacity].map(|bytes| (65_535 * bytes) as u64);
        assert_eq!(steps, expected);
        let samples = |launch: &Launch| launch.geometry.grid[if tokens == 1 { 1 } else { 2 }];
        assert_eq!((samples(first), samples(second)), (65_535, 2));
    }
}
