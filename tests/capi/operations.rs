//! Single operations on the CPU against plain f64 loops.

use std::{ffi::c_void, ptr::null_mut};

use crate::{bindings::*, support::*};

/// Values between −1 and 1, always the same.
pub(crate) fn values(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.5 - 1.0).collect()
}

#[track_caller]
pub(crate) fn assert_close(got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len());
    let scale = expected.iter().fold(1e-30, |most: f64, x| most.max(x.abs()));
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(got) - expected).abs() / scale;
        assert!(error <= tolerance, "element {i} is {got}, expected {expected}");
    }
}

/// Memory for a workspace of `bytes` bytes, with room to align it.
pub(crate) fn workspace(bytes: usize) -> Vec<u8> {
    vec![0xa5; bytes + 255]
}

pub(crate) fn aligned(workspace: &mut [u8]) -> *mut c_void {
    let start = workspace.as_mut_ptr();
    start.wrapping_add(start.align_offset(256)).cast()
}

/// Runs an operation with the workspace that it asks for.
macro_rules! run {
    ($device:expr, $run:ident, $size:ident, $args:expr) => {{
        let mut bytes = 0;
        ok($size($device.0, &$args, &mut bytes));
        let mut memory = workspace(bytes);
        ok($run($device.0, &$args, aligned(&mut memory), bytes, null_mut()));
        bytes
    }};
}

#[test]
fn columns_stored_either_way_give_the_same() {
    let device = device();
    let (rows, outputs, inputs) = (5, 7, 12);
    let kept = [1, 4, 5, 10];
    let a = floats(values(rows * kept.len(), 1), &[rows, kept.len()]);
    let by_rows = values(outputs * inputs, 2);
    let by_columns: Vec<f32> =
        (0..outputs * inputs).map(|i| by_rows[i % outputs * inputs + i / outputs]).collect();
    let (bias, residual) =
        (floats(values(outputs, 3), &[outputs]), floats(values(rows * outputs, 4), &[rows, outputs]));
    let indices = ints(kept.to_vec(), &[kept.len()]);
    let expected: Vec<f64> = (0..rows * outputs)
        .map(|i| {
            let (t, h) = (i / outputs, i % outputs);
            let products = kept.iter().enumerate().map(|(j, &c)| {
                f64::from(a.data[t * kept.len() + j]) * f64::from(by_rows[h * inputs + c as usize])
            });
            products.sum::<f64>() + f64::from(bias.data[h]) + f64::from(residual.data[i])
        })
        .collect();
    for turned in [false, true] {
        let mut weight =
            floats(if turned { by_columns.clone() } else { by_rows.clone() }, &[outputs, inputs]);
        let mut strides = [1, outputs as i64];
        if turned {
            weight.tensor.strides = strides.as_mut_ptr();
        }
        let out = floats(vec![f32::NAN; rows * outputs], &[rows, outputs]);
        let statistic = floats(vec![f32::NAN; inputs], &[inputs]);
        let mut args = defaults(probeprune_gemm_sparse_columns_args_init);
        [args.a, args.weight, args.bias] = [&a.tensor, &weight.tensor, &bias.tensor];
        [args.kept, args.residual, args.out] = [&indices.tensor, &residual.tensor, &out.tensor];
        let mut sums = defaults(probeprune_column_statistic_args_init);
        sums.metric = PROBEPRUNE_METRIC_FLAP as i32;
        [sums.weight, sums.out] = [&weight.tensor, &statistic.tensor];
        // SAFETY: living tensors.
        unsafe {
            let bytes = run!(
                device,
                probeprune_gemm_sparse_columns,
                probeprune_gemm_sparse_columns_workspace_size,
                args
            );
            assert_eq!(bytes > 0, turned);
            run!(device, probeprune_column_statistic, probeprune_column_statistic_workspace_size, sums);
            if turned {
                let none = probeprune_gemm_sparse_columns(device.0, &args, null_mut(), 0, null_mut());
                refused(none, PROBEPRUNE_TOO_SMALL, &["workspace", "at least 512 bytes, got 0"]);
                let mut memory = workspace(512);
                let odd = aligned(&mut memory).wrapping_byte_add(8);
                let odd = probeprune_gemm_sparse_columns(device.0, &args, odd, 512, null_mut());
                refused(odd, PROBEPRUNE_INVALID_ARGUMENT, &["workspace", "a multiple of 256"]);
                let inside = aligned(&mut memory);
                let overlapping = DLTensor { data: inside, ..out.tensor };
                args.out = &overlapping;
                let inside = probeprune_gemm_sparse_columns(device.0, &args, inside, 512, null_mut());
                refused(inside, PROBEPRUNE_INVALID_TENSOR, &["workspace: memory", "overlap with out"]);
            }
        }
        assert_close(&out.data, &expected, 1e-6);
        let squares = (0..inputs)
            .map(|c| (0..outputs).map(|h| f64::from(by_rows[h * inputs + c]).powi(2)).sum())
            .collect::<Vec<f64>>();
        assert_close(&statistic.data, &squares, 1e-6);
    }
}

#[test]
fn heads_are_blocks_of_rows_with_bias_scale_and_energies() {
    let device = device();
    let (samples, tokens, inputs, heads, d) = (2, 3, 8, 4, 5);
    let x = floats(values(samples * tokens * inputs, 1), &[samples, tokens, inputs]);
    let weight = floats(values(heads * d * inputs, 2), &[heads * d, inputs]);
    let bias = floats(values(heads * d, 3), &[heads * d]);
    let kept = ints(vec![0, 3], &[2]);
    let (energy, out) =
        (floats(vec![0.0; tokens * 2 * d], &[tokens, 2 * d]), floats(vec![0.0; 60], &[2, 3, 10]));
    let mut args = defaults(probeprune_gemm_sparse_rows_args_init);
    (args.block_width, args.activation, args.scale) = (d as u32, PROBEPRUNE_ACTIVATION_RELU as i32, 0.5);
    [args.x, args.weight, args.bias] = [&x.tensor, &weight.tensor, &bias.tensor];
    [args.kept, args.energy, args.out] = [&kept.tensor, &energy.tensor, &out.tensor];
    // SAFETY: living tensors.
    unsafe { run!(device, probeprune_gemm_sparse_rows, probeprune_gemm_sparse_rows_workspace_size, args) };
    let expected: Vec<f64> = (0..60)
        .map(|i| {
            let (t, j) = (i / 10, i % 10);
            let row = [0, 3][j / d] * d + j % d;
            let products = (0..inputs)
                .map(|k| f64::from(x.data[t * inputs + k]) * f64::from(weight.data[row * inputs + k]));
            (products.sum::<f64>() + f64::from(bias.data[row])).max(0.0) * 0.5
        })
        .collect();
    assert_close(&out.data, &expected, 1e-6);
    let energies: Vec<f64> =
        (0..30).map(|i| (expected[i].powi(2) + expected[30 + i].powi(2)) / 2.0).collect();
    assert_close(&energy.data, &energies, 1e-6);
    // The same energies by themselves.
    let alone = floats(vec![0.0; 30], &[tokens, 2 * d]);
    let mut args = defaults(probeprune_energy_args_init);
    [args.a, args.out] = [&out.tensor, &alone.tensor];
    // SAFETY: living tensors.
    unsafe { run!(device, probeprune_energy, probeprune_energy_workspace_size, args) };
    assert_eq!(alone.data, energy.data);
}

#[test]
fn attention_over_kept_heads() {
    let device = device();
    let (heads, kv_heads, d, keys) = (3, 2, 4, 5);
    // Query heads 0, 1, 5 of 6, two per key/value head: of those, 0 and 2 are needed.
    let kept = ints(vec![0, 1, 5], &[3]);
    let (kept_kv_heads, kv_head_of) = (ints(vec![7; 3], &[3]), ints(vec![7; 3], &[3]));
    let mut args = defaults(probeprune_keep_kv_heads_args_init);
    args.gqa_group = 2;
    [args.heads, args.kv_heads, args.kv_head_of] = [&kept.tensor, &kept_kv_heads.tensor, &kv_head_of.tensor];
    // SAFETY: living tensors.
    unsafe { run!(device, probeprune_keep_kv_heads, probeprune_keep_kv_heads_workspace_size, args) };
    assert_eq!((&kept_kv_heads.data[..], &kv_head_of.data[..]), (&[0, 2, -1][..], &[0, 0, 1][..]));

    let q = floats(values(2 * heads * d, 1), &[1, 2, heads, d]);
    let k = floats(values(keys * kv_heads * d, 2), &[1, keys, kv_heads, d]);
    let v = floats(values(keys * kv_heads * d, 3), &[1, keys, kv_heads, d]);
    let mask = ints(vec![0, 1, 1, 1, 1], &[1, 5]);
    let out = floats(vec![0.0; 2 * heads * d], &[1, 2, heads, d]);
    let mut args = defaults(probeprune_attention_args_init);
    [args.q, args.k, args.v] = [&q.tensor, &k.tensor, &v.tensor];
    [args.kv_head_of, args.mask, args.out] = [&kv_head_of.tensor, &mask.tensor, &out.tensor];
    // SAFETY: living tensors.
    unsafe {
        run!(device, probeprune_attention, probeprune_attention_workspace_size, args);
        args.keys = 6;
        let many = probeprune_attention(device.0, &args, null_mut(), 0, null_mut());
        refused(many, PROBEPRUNE_INVALID_ARGUMENT, &["keys", "2 to 5"]);
    }
    let at = |data: &[f32], i: usize| f64::from(data[i]);
    let mut expected = Vec::new();
    for (query, head) in (0..2).flat_map(|query| (0..heads).map(move |head| (query, head))) {
        let kv = [0, 0, 1][head];
        let weights: Vec<f64> = (0..keys)
            .map(|key| {
                let dot: f64 = (0..d)
                    .map(|c| {
                        at(&q.data, (query * heads + head) * d + c)
                            * at(&k.data, (key * kv_heads + kv) * d + c)
                    })
                    .sum();
                if key == 0 || key > 3 + query { 0.0 } else { (dot / 2.0).exp() }
            })
            .collect();
        let total: f64 = weights.iter().sum();
        expected.extend((0..d).map(|c| {
            weights
                .iter()
                .enumerate()
                .map(|(key, w)| w * at(&v.data, (key * kv_heads + kv) * d + c))
                .sum::<f64>()
                / total
        }));
    }
    assert_close(&out.data, &expected, 1e-6);
}

#[test]
fn scores_of_groups_are_norms_of_their_channels() {
    let device = device();
    let (p, statistic) = (floats(values(48, 1), &[2, 24]), floats(values(24, 2), &[24]));
    let energy = |c: usize| f64::from(p.data[c] + p.data[24 + c]) * f64::from(statistic.data[c]);
    let out = floats(vec![f32::NAN; 3], &[3]);
    let mut args = defaults(probeprune_channel_score_args_init);
    args.channel_group = 8;
    [args.p, args.statistic, args.out] = [&p.tensor, &statistic.tensor, &out.tensor];
    // SAFETY: living tensors.
    unsafe { run!(device, probeprune_channel_score, probeprune_channel_score_workspace_size, args) };
    let norm = |group: usize| (8 * group..8 * group + 8).map(|c| energy(c).powi(2)).sum::<f64>().sqrt();
    assert_close(&out.data, &[norm(0), norm(1), norm(2)], 1e-6);
    // SAFETY: as above.
    let score = |args: &probeprune_channel_score_args| unsafe {
        probeprune_channel_score(device.0, args, null_mut(), 0, null_mut())
    };
    for (channel_group, head_dim, what) in
        [(16, 0, "a divisor of 24"), (5, 0, "0, 1, 8 or 16"), (8, 8, "head_dim")]
    {
        (args.channel_group, args.head_dim) = (channel_group, head_dim);
        refused(score(&args), PROBEPRUNE_INVALID_ARGUMENT, &["channel_group", what]);
    }
}

#[test]
fn scores_and_history_in_either_format() {
    let device = device();
    let (tokens, width) = (2, 6);
    let positive = |count, seed| values(count, seed).iter().map(|x| x.abs() + 0.1).collect::<Vec<f32>>();
    let (p, statistic) = (floats(positive(12, 1), &[tokens, width]), floats(positive(6, 2), &[width]));
    let slots = ints(vec![0, 9], &[2]);
    // Two rows of two slots each; slot 9 is behind them.
    let history = positive(12, 3);
    let halves: Vec<u16> = history.iter().map(|h| half::f16::from_f32(h.sqrt()).to_bits()).collect();
    let expected: Vec<f64> = (0..width)
        .map(|c| {
            let fused = (0..tokens).map(|s| {
                let p = f64::from(p.data[s * width + c]);
                let h = if s == 0 { f64::from(history[c]) } else { 0.0 };
                let w = p / (p + h + 1e-6);
                w * p + (1.0 - w) * h
            });
            fused.sum::<f64>() * f64::from(statistic.data[c])
        })
        .collect();
    for half in [false, true] {
        let mut stored = floats(history.clone(), &[2, width]);
        let mut bits = halves.clone();
        if half {
            stored.tensor.data = bits.as_mut_ptr().cast();
            stored.tensor.dtype.bits = 16;
        }
        let out = floats(vec![f32::NAN; width], &[width]);
        let mut args = defaults(probeprune_channel_score_args_init);
        args.bucket = 2;
        [args.p, args.statistic, args.history] = [&p.tensor, &statistic.tensor, &stored.tensor];
        [args.slots, args.out] = [&slots.tensor, &out.tensor];
        let (kept, fault) = (ints(vec![0; 3], &[3]), ints(vec![0], &[1]));
        let mut keep = defaults(probeprune_topk_keep_args_init);
        [keep.scores, keep.kept] = [&out.tensor, &kept.tensor];
        let mut update = defaults(probeprune_history_update_args_init);
        (update.bucket, update.momentum) = (2, 0.5);
        let seen = floats(positive(6, 5), &[2, 3]);
        [update.p, update.kept, update.history] = [&seen.tensor, &kept.tensor, &stored.tensor];
        // SAFETY: living tensors.
        unsafe {
            run!(device, probeprune_channel_score, probeprune_channel_score_workspace_size, args);
            let bytes = run!(device, probeprune_topk_keep, probeprune_topk_keep_workspace_size, keep);
            assert_eq!(bytes, 256);
            run!(device, probeprune_history_update, probeprune_history_update_workspace_size, update);
        }
        let rounding = if half { 1e-3 } else { 1e-6 };
        assert_close(&out.data, &expected, rounding);
        let mut order: Vec<usize> = (0..width).collect();
        order.sort_by(|&a, &b| expected[b].total_cmp(&expected[a]));
        order.truncate(3);
        order.sort_unstable();
        assert_eq!(kept.data.iter().map(|&c| c as usize).collect::<Vec<_>>(), order);
        let after: Vec<f32> = match half {
            true => bits.iter().map(|&bits| half::f16::from_bits(bits).to_f32().powi(2)).collect(),
            false => stored.data.clone(),
        };
        let updated: Vec<f64> = (0..12)
            .map(|i| {
                let before = f64::from(history[i]);
                // Both slots are in the first row.
                match order.iter().position(|&c| i == c) {
                    Some(j) => 0.5 * before + 0.25 * (f64::from(seen.data[j]) + f64::from(seen.data[3 + j])),
                    None => before,
                }
            })
            .collect();
        assert_close(&after, &updated, rounding);
        // A score that is not finite leaves its tag.
        let broken = floats([&out.data[..5], &[f32::NAN]].concat(), &[width]);
        (keep.scores, keep.fault, keep.fault_tag) = (&broken.tensor, &fault.tensor, 42);
        // SAFETY: as above.
        unsafe { run!(device, probeprune_topk_keep, probeprune_topk_keep_workspace_size, keep) };
        assert_eq!(fault.data, [42]);
    }
}
