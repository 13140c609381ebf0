//! The structs of include/probeprune.h against those here: a C program prints its sizes and offsets.

use std::{fmt::Write, mem::offset_of, process::Command};

use super::{dlpack::*, kernels::*, settings::*, structs::*};

/// Size and offsets here, and the lines of a C program that prints the same there.
macro_rules! layouts {
    ($($type:ident = $name:literal { $($field:ident),+ $(,)? })+) => {{
        let (mut here, mut there) = (String::new(), String::new());
        $(
            let _ = writeln!(here, "{} {}", $name, size_of::<$type>());
            let _ = writeln!(there, r#"printf("{0} %u\n", (unsigned)sizeof({0}));"#, $name);
            $(
                let _ = writeln!(here, "{}.{} {}", $name, stringify!($field), offset_of!($type, $field));
                let (name, field) = ($name, stringify!($field));
                let _ = writeln!(there, r#"printf("{name}.{field} %u\n", (unsigned)offsetof({name}, {field}));"#);
            )+
            // No padding, so that all bytes of a struct are its fields'.
            let mut ends = vec![$(offset_of!($type, $field)),+];
            ends.push(size_of::<$type>());
            assert!(ends.is_sorted(), "{} in the header's order", $name);
        )+
        (here, there)
    }};
}

#[test]
fn both_sides_agree_on_every_field() {
    let (here, there) = layouts! {
        DLDevice = "DLDevice" { device_type, device_id }
        DLDataType = "DLDataType" { code, bits, lanes }
        DLTensor = "DLTensor" { data, device, ndim, dtype, shape, strides, byte_offset }
        DLPackVersion = "DLPackVersion" { major, minor }
        DLManagedTensorVersioned = "DLManagedTensorVersioned" { version, manager_ctx, deleter, flags, dl_tensor }
        ModelOptions = "probeprune_model_options" {
            struct_size, device_type, device_id, threads, dtype, read_weights, use_stream, reserved, stream,
            progress, user, channel_order,
        }
        ModelInfo = "probeprune_model_info" {
            struct_size, family, vocab_size, hidden_size, intermediate_size, num_hidden_layers,
            num_attention_heads, num_key_value_heads, head_dim, max_position_embeddings, file_bytes,
        }
        Memory = "probeprune_memory" {
            struct_size, reserved, weights, scratch, history, probed, cache, total, compensation,
        }
        SessionLimits = "probeprune_limits" { struct_size, reserved, samples, tokens, capacity }
        MethodSettings = "probeprune_settings" {
            struct_size, method, metric, probe_order, prune_ratio, probe_tokens, probe_samples, fixed_probe_weight,
            momentum, parallel_probe, history_dtype, history_bucket, round_channels, flap_attention_factor,
            compensate, compensate_rank, channel_group, dense_below, fold_choice, adapt, adapt_metric, seed,
            skip_layers, skip_layer_count, prior_tokens, adapt_tokens, adapt_prior_tokens, adapt_every,
            adapt_forgetting, adapt_threshold, allocation, prefill, probe_from,
        }
        CalibrateOptions = "probeprune_calibrate_options" {
            struct_size, flap, batch_size, progress, user, linear_rank, fold,
        }
        Shape = "probeprune_layer_shape" { struct_size, reserved, heads, kv_heads, channels }
        Corrected = "probeprune_corrections" { struct_size, adapting, probed_share, excess_error }
        Counts = "probeprune_layer_counts" {
            struct_size, probes_attention, probes_mlp, reserved, heads, kv_heads, channels, head_ratio,
            channel_ratio,
        }
        Work = "probeprune_work" {
            struct_size, reserved, probe_samples, probe_tokens, flops_share, probe_flops_share,
        }
        GenerateOptions = "probeprune_generate_options" {
            struct_size, temperature, top_p, top_k, seed, max_new_tokens, reprobe_every, eos_tokens,
            eos_token_count, on_token, user,
        }
        DeviceOptions = "probeprune_device_options" { struct_size, device_type, device_id, threads }
        NormArguments = "probeprune_norm_args" { struct_size, kind, eps, reserved, x, weight, bias, out, sum_squares }
        SelectArguments = "probeprune_probe_select_args" {
            struct_size, order, leading_slot_limit, reserved, sum_squares, positions, mask, samples, slots,
            probe_positions, probe_mask,
        }
        GatherArguments = "probeprune_probe_gather_args" { struct_size, reserved, x, samples, slots, out }
        EnergyArguments = "probeprune_energy_args" { struct_size, reserved, a, mask, out }
        RowsArguments = "probeprune_gemm_sparse_rows_args" {
            struct_size, block_width, activation, scale, x, weight, bias, kept, energy, energy_mask, out,
        }
        GatedArguments = "probeprune_gemm_sparse_swiglu_args" {
            struct_size, block_width, activation, reserved, x, gate, up, gate_bias, up_bias, kept, energy,
            energy_mask, out,
        }
        ColumnsArguments = "probeprune_gemm_sparse_columns_args" {
            struct_size, block_width, a, weight, kept, bias, residual, out,
        }
        StatisticArguments = "probeprune_column_statistic_args" { struct_size, metric, weight, out }
        ScoreArguments = "probeprune_channel_score_args" {
            struct_size, metric, head_dim, bucket, history_slots, fixed_probe_weight, p, statistic, history, slots,
            out, channel_group, reserved,
        }
        KeepArguments = "probeprune_topk_keep_args" { struct_size, fault_tag, scores, kept, fault }
        UpdateArguments = "probeprune_history_update_args" {
            struct_size, block_width, bucket, reserved, history_slots, at, momentum, p, kept, history,
        }
        HeadsArguments = "probeprune_keep_kv_heads_args" { struct_size, gqa_group, heads, kv_heads, kv_head_of }
        AttentionArguments = "probeprune_attention_args" {
            struct_size, keys, window, scale, q, k, v, kv_head_of, mask, slots, out,
        }
    };
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("layout.c"), folder.path().join("layout"));
    let includes = "#include <stdio.h>\n#include \"probeprune.h\"";
    std::fs::write(&source, format!("{includes}\nint main(void) {{\n{there}return 0;\n}}\n")).unwrap();
    let headers = concat!(env!("CARGO_MANIFEST_DIR"), "/include");
    let compiled = Command::new("cc")
        .args(["-std=c99", "-Wall", "-Werror", "-pedantic", "-I", headers, "-o"])
        .args([&program, &source])
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let printed = Command::new(program).output().unwrap().stdout;
    assert_eq!(String::from_utf8(printed).unwrap(), here);
}
