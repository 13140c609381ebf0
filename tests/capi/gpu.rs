//! The GPU's half, on the emulated driver in a process of its own: operations on others' streams and memory, models, and
//! what a fault leaves behind.
#![cfg(target_os = "linux")]

use std::{
    ffi::c_void,
    process::Command,
    ptr::{null, null_mut, with_exposed_provenance_mut},
};

use cudarc::driver::{
    result::{graph, stream},
    sys::{CUgraphInstantiate_flags, CUstream, CUstreamCaptureMode},
};
use half::bf16;
use probeprune::gpu::{Cuda, Driver, LARGEST_SIZE, cuda::Memory};

use crate::{bindings::*, emulated_cuda::on_emulated_driver, operations::*, support::*};

/// Runs `body` of the test called `name` where the emulated driver is found.
pub(crate) fn emulated(name: &str, body: impl FnOnce()) {
    const CHILD: &str = "PROBEPRUNE_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        return body();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]).env(CHILD, "1");
    let output = on_emulated_driver(&mut command, &[]).output().unwrap();
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn gpu() -> Device {
    let options = probeprune_device_options {
        device_type: DLDeviceType_kDLCUDA as i32,
        ..defaults(probeprune_device_options_init)
    };
    // SAFETY: all pointers are to living values.
    Owned::new(probeprune_device_free, |out| unsafe { probeprune_device_open(&options, out) })
}

/// An engine with memory and a stream of its own.
struct Engine(Cuda);

/// A tensor in its memory.
struct Lent {
    memory: Memory,
    bytes: usize,
    _shape: Box<[i64]>,
    tensor: DLTensor,
}

const BFLOAT16: DLDataType = DLDataType { code: 4, bits: 16, lanes: 1 };

impl Engine {
    fn tensor(&self, bytes: &[u8], shape: &[usize], dtype: DLDataType) -> Lent {
        let memory = self.0.alloc(bytes.len()).unwrap();
        let address = self.0.address(&memory);
        self.0.write(address, bytes).unwrap();
        let mut shape: Box<[i64]> = shape.iter().map(|&size| size as i64).collect();
        let tensor = DLTensor {
            data: with_exposed_provenance_mut(address as usize),
            device: DLDevice { device_type: DLDeviceType_kDLCUDA, device_id: 0 },
            ndim: shape.len() as i32,
            dtype,
            shape: shape.as_mut_ptr(),
            strides: null_mut(),
            byte_offset: 0,
        };
        Lent { memory, bytes: bytes.len(), _shape: shape, tensor }
    }

    fn states(&self, values: &[f32], shape: &[usize]) -> Lent {
        let bits: Vec<u16> = values.iter().map(|&x| bf16::from_f32(x).to_bits()).collect();
        self.tensor(bytemuck::cast_slice(&bits), shape, BFLOAT16)
    }

    fn floats(&self, values: &[f32], shape: &[usize]) -> Lent {
        self.tensor(bytemuck::cast_slice(values), shape, FLOAT32)
    }

    fn ints(&self, values: &[i32], shape: &[usize]) -> Lent {
        self.tensor(bytemuck::cast_slice(values), shape, INT32)
    }

    fn read(&self, lent: &Lent) -> Vec<u8> {
        let mut bytes = vec![0; lent.bytes];
        self.0.read(self.0.address(&lent.memory), &mut bytes).unwrap();
        bytes
    }

    fn read_states(&self, lent: &Lent) -> Vec<f32> {
        let bits: Vec<u16> = bytemuck::pod_collect_to_vec(&self.read(lent));
        bits.into_iter().map(|bits| bf16::from_bits(bits).to_f32()).collect()
    }

    fn read_floats(&self, lent: &Lent) -> Vec<f32> {
        bytemuck::pod_collect_to_vec(&self.read(lent))
    }
}

fn rounded(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| bf16::from_f32(x).to_f64()).collect()
}

#[test]
fn a_pruned_block_in_others_memory_on_others_streams() {
    emulated("gpu::a_pruned_block_in_others_memory_on_others_streams", || {
        let (engine, device) = (Engine(Cuda::new(0).unwrap()), gpu());
        // SAFETY: this asks for nothing but what there is.
        assert_eq!(unsafe { probeprune_has_cuda() }, 1);
        for stream in [engine.0.stream(), null_mut()] {
            pruned_block(&engine, &device, stream, |issue| issue());
        }
    });
}

#[test]
fn a_pruned_block_in_others_graphs() {
    emulated("gpu::a_pruned_block_in_others_graphs", || {
        let (engine, device) = (Engine(Cuda::new(0).unwrap()), gpu());
        let stream: CUstream = engine.0.stream().cast();
        pruned_block(&engine, &device, stream.cast(), |issue| {
            // SAFETY: the engine's stream, on which nothing else runs; the graph is launched while its tensors live.
            unsafe {
                let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
                stream::begin_capture(stream, mode).unwrap();
                issue();
                let template = stream::end_capture(stream).unwrap();
                let made = graph::instantiate(template, CUgraphInstantiate_flags(0)).unwrap();
                graph::destroy(template).unwrap();
                graph::launch(made, stream).unwrap();
                stream::synchronize(stream).unwrap();
                graph::exec_destroy(made).unwrap();
            }
        });
    });
}

/// Scores, kept channels, the pruned products, history. `run` gets what issues them to the stream.
fn pruned_block(engine: &Engine, device: &Device, stream: *mut c_void, run: impl FnOnce(&dyn Fn())) {
    let (rows, h, i, n) = (40, 16, 24, 9);
    let [x, gate, up] = [values(rows * h, 1), values(i * h, 2), values(i * h, 3)];
    let down = values(i * h, 4);
    let scores: Vec<f32> = values(i, 5).iter().map(|x| x.abs()).collect();
    let lent_x = engine.states(&x, &[rows, h]);
    let [lent_gate, lent_up] = [&gate, &up].map(|weight| engine.states(weight, &[i, h]));
    // (H, I), stored column by column.
    let mut lent_down = engine.states(&down, &[h, i]);
    let mut strides = [1, h as i64];
    let lent_scores = engine.floats(&scores, &[i]);
    let (kept, a) = (engine.ints(&vec![0; n], &[n]), engine.states(&vec![0.0; rows * n], &[rows, n]));
    let (energy, out) = (engine.floats(&vec![0.0; rows * n], &[rows, n]), engine.states(&x, &[rows, h]));
    let history = engine.floats(&vec![1.0; rows * i], &[rows, i]);
    let space = engine.ints(&[7; 64], &[64]);
    let mut keep = defaults(probeprune_topk_keep_args_init);
    [keep.scores, keep.kept] = [&lent_scores.tensor, &kept.tensor];
    let mut swiglu = defaults(probeprune_gemm_sparse_swiglu_args_init);
    [swiglu.x, swiglu.gate, swiglu.up] = [&lent_x.tensor, &lent_gate.tensor, &lent_up.tensor];
    [swiglu.kept, swiglu.energy, swiglu.out] = [&kept.tensor, &energy.tensor, &a.tensor];
    let mut columns = defaults(probeprune_gemm_sparse_columns_args_init);
    [columns.a, columns.weight, columns.kept] = [&a.tensor, &raw const lent_down.tensor, &kept.tensor];
    [columns.residual, columns.out] = [&lent_x.tensor, &out.tensor];
    let mut update = defaults(probeprune_history_update_args_init);
    update.momentum = 0.5;
    [update.p, update.kept, update.history] = [&energy.tensor, &kept.tensor, &history.tensor];
    engine.0.synchronize().unwrap();
    // SAFETY: living tensors in the GPU's memory.
    unsafe {
        let mut bytes = 0;
        ok(probeprune_topk_keep_workspace_size(device.0, &keep, &mut bytes));
        assert_eq!(bytes, 256);
        let by_rows = probeprune_gemm_sparse_columns(device.0, &columns, null_mut(), 0, stream);
        refused(
            by_rows,
            PROBEPRUNE_INVALID_TENSOR,
            &["weight: strides", "stored column by column, 1 and 16"],
        );
        lent_down.tensor.strides = strides.as_mut_ptr();
        run(&|| {
            ok(probeprune_topk_keep(device.0, &keep, space.tensor.data, bytes, stream));
            ok(probeprune_gemm_sparse_swiglu(device.0, &swiglu, null_mut(), 0, stream));
            ok(probeprune_gemm_sparse_columns(device.0, &columns, null_mut(), 0, stream));
            ok(probeprune_history_update(device.0, &update, null_mut(), 0, stream));
        });
        ok(probeprune_synchronize(device.0, stream));
    }
    let mut order: Vec<usize> = (0..i).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.truncate(n);
    order.sort_unstable();
    let kept: Vec<i32> = bytemuck::pod_collect_to_vec(&engine.read(&kept));
    assert_eq!(kept.iter().map(|&c| c as usize).collect::<Vec<_>>(), order);
    let [x, gate, up, down] = [&x, &gate, &up, &down].map(|values| rounded(values));
    let dot = |t: usize, w: &[f64], c: usize| (0..h).map(|k| x[t * h + k] * w[c * h + k]).sum::<f64>();
    let intermediate: Vec<f64> = (0..rows)
        .flat_map(|t| order.iter().map(move |&c| (t, c)))
        .map(|(t, c)| (dot(t, &gate, c), dot(t, &up, c)))
        .map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up)
        .collect();
    // bfloat16 has 8 bits.
    let got = engine.read_states(&a);
    assert_close(&got, &intermediate, 4e-3);
    let expected: Vec<f64> = (0..rows * h)
        .map(|at| {
            let (t, o) = (at / h, at % h);
            let products =
                order.iter().enumerate().map(|(j, &c)| f64::from(got[t * n + j]) * down[c * h + o]);
            x[at] + products.sum::<f64>()
        })
        .collect();
    assert_close(&engine.read_states(&out), &expected, 4e-3);
    let energies = engine.read_floats(&energy);
    let expected: Vec<f64> = (0..rows * i)
        .map(|at| match order.iter().position(|&c| c == at % i) {
            Some(j) => 0.5 + 0.5 * f64::from(energies[at / i * n + j]),
            None => 1.0,
        })
        .collect();
    assert_close(&engine.read_floats(&history), &expected, 1e-6);
}

#[test]
fn tensors_have_to_be_on_the_gpu() {
    emulated("gpu::tensors_have_to_be_on_the_gpu", || {
        let (engine, device) = (Engine(Cuda::new(0).unwrap()), gpu());
        let scores = engine.floats(&[1.0; 8], &[8]);
        let kept = engine.ints(&[0; 2], &[2]);
        let host = floats(vec![1.0; 8], &[8]);
        let fault = engine.ints(&[0], &[1]);
        let keep = |scores: &DLTensor| {
            let mut args = defaults(probeprune_topk_keep_args_init);
            [args.scores, args.kept, args.fault] = [scores, &kept.tensor, &fault.tensor];
            // SAFETY: living tensors; a refused one is not used.
            unsafe { probeprune_topk_keep(device.0, &args, null_mut(), 0, null_mut()) }
        };
        ok(keep(&scores.tensor));
        let invalid = PROBEPRUNE_INVALID_TENSOR;
        refused(keep(&host.tensor), invalid, &["scores: device", "expected cuda:0, got the CPU"]);
        let other = DLDevice { device_id: 1, ..scores.tensor.device };
        refused(keep(&DLTensor { device: other, ..scores.tensor }), invalid, &["got cuda:1"]);
        refused(keep(&DLTensor { byte_offset: 4, ..scores.tensor }), invalid, &["a multiple of 16"]);
        // Says that it is on the GPU, and is not.
        let data = with_exposed_provenance_mut(0x1230);
        let lying = keep(&DLTensor { data, ..scores.tensor });
        refused(lying, PROBEPRUNE_INVALID_ARGUMENT, &["borrowed memory", "CUDA does not know"]);
        // SAFETY: a living handle. The first call may still be waiting, and its tensors are about to go.
        ok(unsafe { probeprune_synchronize(device.0, null_mut()) });
    });
}

pub(crate) fn model_on_gpu() -> Model {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/generate-llama");
    let options = probeprune_model_options {
        device_type: DLDeviceType_kDLCUDA as i32,
        ..defaults(probeprune_model_options_init)
    };
    // SAFETY: all pointers are to living values.
    Owned::new(probeprune_model_free, |out| unsafe {
        probeprune_model_load(c(folder).as_ptr(), &options, out)
    })
}

/// Settings that prune a small model.
pub(crate) fn small() -> probeprune_settings {
    probeprune_settings { skip_layer_count: 0, round_channels: 1, ..pruning(0.4) }
}

#[test]
fn a_model_on_the_gpu() {
    emulated("gpu::a_model_on_the_gpu", || {
        let model = model_on_gpu();
        let session = session(&model, &small(), limits(2, 8, 12));
        let batch: Vec<u32> = (0..16).map(|i| i % 7 + 1).collect();
        let (mut loss, mut tensor) = (0.0, null_mut());
        // SAFETY: living handles and buffers.
        unsafe {
            ok(probeprune_session_evaluate(session.0, batch.as_ptr(), null(), 2, 8, 1, &mut loss));
            assert!(loss.is_finite() && loss > 0.0);
            ok(probeprune_session_export_logits(session.0, 1, &mut tensor));
            let logits = &(*tensor).dl_tensor;
            assert_eq!(logits.device.device_type, DLDeviceType_kDLCUDA);
            let mut read =
                vec![0.0f32; std::slice::from_raw_parts(logits.shape, 3).iter().product::<i64>() as usize];
            let (out, capacity, mut count) = (read.as_mut_ptr(), read.len(), 0);
            ok(probeprune_session_logits(session.0, 1, out, capacity, &mut count));
            let mut there = vec![0u8; 4 * count];
            Cuda::new(0).unwrap().read(logits.data.expose_provenance() as u64, &mut there).unwrap();
            assert_eq!(bytemuck::pod_collect_to_vec::<u8, f32>(&there), read);
            let vocabulary = count / 8;
            let mut some = vec![0.0f32; 2 * vocabulary];
            let (slots, out, room) = ([1, 6], some.as_mut_ptr(), some.len());
            ok(probeprune_session_logits_at(session.0, 1, slots.as_ptr(), 2, out, room, &mut count));
            assert_eq!(count, some.len());
            for (slot, got) in slots.into_iter().zip(some.chunks_exact(vocabulary)) {
                assert_eq!(got, &read[slot as usize * vocabulary..][..vocabulary], "slot {slot}");
            }
            probeprune_tensor_free(tensor);
            ok(probeprune_session_prefill(session.0, batch.as_ptr(), null(), 2, 8, 0));
            let mut next = [0; 2];
            ok(probeprune_session_next_tokens(session.0, next.as_mut_ptr(), 2, &mut count));
            ok(probeprune_session_decode(session.0, next.as_ptr(), null(), 2));
            ok(probeprune_session_synchronize(session.0));
        }
    });
}

#[test]
fn a_fault_poisons_every_handle_of_the_gpu() {
    emulated("gpu::a_fault_poisons_every_handle_of_the_gpu", || {
        let (engine, device) = (Engine(Cuda::new(0).unwrap()), gpu());
        let model = model_on_gpu();
        let session = session(&model, &small(), limits(1, 4, 0));
        let x = engine.states(&[0.0; 64], &[2, 4, 8]);
        let (samples, slots) = (engine.ints(&[0], &[1]), engine.ints(&[i32::MAX], &[1]));
        let out = engine.states(&[0.0; 8], &[1, 1, 8]);
        let mut gather = defaults(probeprune_probe_gather_args_init);
        [gather.x, gather.samples] = [&x.tensor, &samples.tensor];
        [gather.slots, gather.out] = [&slots.tensor, &out.tensor];
        engine.0.synchronize().unwrap();
        // SAFETY: a slot far outside is what this is about; the driver reports it.
        unsafe {
            let fault = ["CUDA_ERROR_ILLEGAL_ADDRESS", "Restart the process"];
            ok(probeprune_probe_gather(device.0, &gather, null_mut(), 0, null_mut()));
            refused(probeprune_synchronize(device.0, null_mut()), PROBEPRUNE_POISONED, &fault);
            let again = probeprune_probe_gather(device.0, &gather, null_mut(), 0, null_mut());
            refused(again, PROBEPRUNE_POISONED, &["one that broke before", fault[0]]);
            let (batch, mut loss) = ([1u32, 2, 3, 4], 0.0);
            for _ in 0..2 {
                let evaluated =
                    probeprune_session_evaluate(session.0, batch.as_ptr(), null(), 1, 4, 1, &mut loss);
                refused(evaluated, PROBEPRUNE_POISONED, &fault);
            }
            assert_eq!(loss, 0.0);
        }
    });
}

#[test]
fn sizes_that_kernels_cannot_count_are_refused() {
    emulated("gpu::sizes_that_kernels_cannot_count_are_refused", || {
        let (engine, device) = (Engine(Cuda::new(0).unwrap()), gpu());
        let (states, ints) = (engine.states(&[0.0; 8], &[8]), engine.ints(&[0; 8], &[8]));
        let [floats, others] = [(); 2].map(|()| engine.floats(&[0.0; 8], &[8]));
        // Memory that is not there: a refusal comes before it is used.
        let sized = |of: &Lent, shape: &mut [i64]| DLTensor {
            ndim: shape.len() as i32,
            shape: shape.as_mut_ptr(),
            ..of.tensor
        };
        let most = LARGEST_SIZE as i64;
        let (tensor, argument) = (PROBEPRUNE_INVALID_TENSOR, PROBEPRUNE_INVALID_ARGUMENT);
        // SAFETY: living structs and tensors; every call is refused.
        unsafe {
            for (mut shape, what) in [
                (vec![most + 1, 1], "sizes of at most 2000000, got 2000001"),
                (vec![1, most + 1], "sizes of at most 2000000, got 2000001"),
                (vec![2000, 1001, 2], "rows of at most 2000000, got 2002000"),
            ] {
                let x = sized(&states, &mut shape);
                let mut norm = defaults(probeprune_norm_args_init);
                norm.x = &x;
                refused(probeprune_norm(device.0, &norm, null_mut(), 0, null_mut()), tensor, &["x", what]);
            }
            let (mut q_shape, mut k_shape) = ([1, 1, 8000, 251], [1, 1, 1, 251]);
            let [q, k] = [sized(&states, &mut q_shape), sized(&states, &mut k_shape)];
            let mut attention = defaults(probeprune_attention_args_init);
            [attention.q, attention.k] = [&q, &k];
            let status = probeprune_attention(device.0, &attention, null_mut(), 0, null_mut());
            refused(status, tensor, &["q", "N × D of at most 2000000, got 2008000"]);
            let (mut sums_shape, mut a_shape) = ([2000, 1001], [2000, 1001, 1]);
            let [sums, a] = [sized(&floats, &mut sums_shape), sized(&states, &mut a_shape)];
            let rows = "B × S of at most 2000000, got 2002000";
            let mut select = defaults(probeprune_probe_select_args_init);
            select.sum_squares = &sums;
            let status = probeprune_probe_select(device.0, &select, null_mut(), 0, null_mut());
            refused(status, tensor, &["sum_squares", rows]);
            let mut energy = defaults(probeprune_energy_args_init);
            energy.a = &a;
            refused(probeprune_energy(device.0, &energy, null_mut(), 0, null_mut()), tensor, &["a", rows]);

            // As kernels count, this is below 0.
            let negative = 1 << 31;
            let mut heads = defaults(probeprune_keep_kv_heads_args_init);
            heads.gqa_group = negative;
            let status = probeprune_keep_kv_heads(device.0, &heads, null_mut(), 0, null_mut());
            refused(status, argument, &["gqa_group", "1 to 2000000, got 2147483648"]);
            let (mut p_shape, mut history_shape, mut kept_shape) = ([1, 8], [1, 8], [8]);
            let (p, history) = (sized(&floats, &mut p_shape), sized(&others, &mut history_shape));
            let kept = sized(&ints, &mut kept_shape);
            let mut update = defaults(probeprune_history_update_args_init);
            [update.p, update.history, update.kept] = [&p, &history, &kept];
            update.bucket = negative;
            let status = probeprune_history_update(device.0, &update, null_mut(), 0, null_mut());
            refused(status, argument, &["bucket", "1 to 2000000, got 2147483648"]);
        }
    });
}
