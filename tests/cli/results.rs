//! What the commands print.

use std::fs;

use probeprune::{
    checkpoint::{open_file, read_tensor_file},
    output::{OutTensor, write_safetensors},
    source::ModelSource,
    tokenizer::Tokenizer,
};
use serde_json::{Value, json};

use crate::{
    FILES, MODEL, SMALL, assert_close, common::models::Folder, json_of, json_text, losses, losses_of, path,
    perplexity, stdout,
};

#[test]
fn help_names_every_command_and_version_is_the_packages() {
    let help = stdout(["--help"]);
    for command in [
        "demo",
        "perplexity",
        "sweep",
        "calibrate",
        "convert",
        "export",
        "generate",
        "inspect",
        "doctor",
        "completions",
    ] {
        assert!(help.contains(command), "{command} in {help}");
        assert!(stdout([command, "--help"]).contains("Usage"));
    }
    assert_eq!(stdout(["--version"]).trim(), concat!("probeprune ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn json_has_every_key_and_agrees_with_itself() {
    let report = json_of(&["--prune-ratio", "0.4", "--warmup-batches", "1", "--threads", "2"]);
    assert_eq!(report["model"], "bundled:tiny-llama");
    assert_eq!((&report["method"], &report["prune_ratio"]), (&json!("pp"), &json!(0.4)));
    assert_eq!((&report["seq_len"], &report["batch_size"]), (&json!(32), &json!(4)));
    assert_eq!((&report["tokens"], &report["threads"]), (&json!(384), &json!(2)));
    assert_eq!(
        (&report["device"], &report["gpu"], &report["dtype"]),
        (&json!("cpu"), &json!(null), &json!("f32"))
    );
    let losses: Vec<f64> = serde_json::from_value(report["batch_losses"].clone()).unwrap();
    assert_eq!(losses.len(), 3);
    let windows: Vec<f64> = serde_json::from_value(report["window_losses"].clone()).unwrap();
    assert_eq!(windows.len(), 12);
    assert_close(losses[1], windows[4..8].iter().sum::<f64>() / 4.0);
    let number = |key: &str| report[key].as_f64().expect(key);
    assert_close(number("perplexity"), (losses.iter().sum::<f64>() / 3.0).exp());
    assert_close(number("tokens_per_second"), 384.0 / number("seconds"));
    assert!(0.0 < number("probe_flops_share") && number("probe_flops_share") < number("flops_share"));
    assert!(number("flops_share") < 1.0);
    assert_eq!(report["settings"]["skip_layers"], json!([0, 1, 2]));
}

#[test]
fn other_formats_hold_the_same_numbers() {
    let csv = stdout(perplexity(&["--format", "csv"]));
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let header = reader.headers().unwrap().clone();
    let rows: Vec<_> = reader.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 1);
    let column = |name: &str| rows[0][header.iter().position(|head| head == name).expect(name)].to_string();
    let in_csv = column("perplexity");
    assert!(json_text(&[]).contains(&format!("\"perplexity\": {in_csv},")), "{in_csv}");
    let perplexity_in_csv: f64 = in_csv.parse().unwrap();
    for key in ["model", "method", "prune_ratio", "tokens", "seconds", "flops_share", "probe_flops_share"] {
        column(key);
    }

    let markdown = stdout(perplexity(&["--format", "markdown"]));
    let lines: Vec<&str> = markdown.lines().collect();
    assert_eq!(lines.len(), 3, "{markdown}");
    assert!(lines.iter().all(|line| line.starts_with('|') && line.matches('|').count() == 11), "{markdown}");
    assert!(lines[2].contains(&format!("{perplexity_in_csv:.4}")), "{markdown}");
    assert!(stdout(perplexity(&[])).contains(&format!("{perplexity_in_csv:.4}")));
}

#[test]
fn ratio_0_is_the_dense_model_to_the_bit() {
    let dense = losses(&["--method", "none"]);
    for method in ["pp", "full-batch", "magnitude", "random"] {
        let zero = ["--method", method, "--prune-ratio", "0"];
        assert_eq!(losses(&zero), dense, "{method}");
        assert_eq!(json_of(&zero)["flops_share"], 1.0, "{method}");
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    for args in [&["--method", "none"][..], &["--prune-ratio", "0.4"]] {
        let run = |threads| losses(&[args, &["--threads", threads]].concat());
        assert_eq!(run("1"), run("2"), "{args:?}");
    }
}

#[test]
fn a_saved_history_is_the_calibration_it_was_made_by() {
    for method in ["pp", "wanda-sp", "flap"] {
        let method = ["--method", method, "--prune-ratio", "0.4"];
        let text = ["--calibrate-text", path(&FILES.other_text), "--calibrate-samples", "8"];
        let at_once = losses(&[&method[..], &text].concat());
        let saved = json_text(&[&method[..], &["--history", path(&FILES.history)]].concat());
        assert_eq!(at_once, losses_of(&saved), "{method:?}");
        assert!(saved.contains("\"calibration_samples\": 8"), "{saved}");
    }
}

#[test]
fn warm_up_leaves_no_trace_in_the_losses() {
    // History that moves fast, so that a warm-up in it would change what is kept.
    for method in [&["--method", "random"][..], &["--momentum", "0.1"]] {
        let run = |warmup| losses(&[method, &["--prune-ratio", "0.4", "--warmup-batches", warmup]].concat());
        assert_eq!(run("0"), run("5"), "{method:?}");
    }
}

#[test]
fn dump_holds_logits_and_kept_sets() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("dump.safetensors");
    let report = json_of(&["--prune-ratio", "0.4", "--skip-layers", "0", "--dump", path(&out)]);
    let dump = open_file(&out).unwrap();
    let names: Vec<&str> = dump.names().collect();
    assert_eq!(names.len(), 3 * (1 + 2 * 9), "three batches, nine pruned layers");
    assert_eq!(dump.tensor("batch2.logits").unwrap().shape(), [2, 32, 768]);
    let (shape, heads) = read_tensor_file(&out, "batch1.layers.9.attention.kept_heads").unwrap();
    assert_eq!(json!(shape[0]), report["kept"][9]["heads"]);
    assert!(heads.is_sorted());
    assert!(names.contains(&"batch0.layers.1.mlp.kept_channels"));
    assert!(!names.contains(&"batch0.layers.0.mlp.kept_channels"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn tokens_and_text_are_the_same_input() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("tokens.safetensors");
    let source = ModelSource::locate("bundled:tiny-llama").unwrap();
    let tokenizer = Tokenizer::load(&source, 768).unwrap();
    let ids = tokenizer.encode(&fs::read_to_string(&FILES.text).unwrap(), true).unwrap();
    write_safetensors(&out, &[("ids".to_string(), OutTensor::i32(&ids))], None).unwrap();
    let tokens = format!("{}:ids", out.display());
    let args = [&["perplexity"], &MODEL[..], &SMALL, &["--tokens", &tokens, "--format", "json"]].concat();
    assert_eq!(losses_of(&stdout(args)), losses(&[]));
}

#[test]
fn generation_streams_and_batches_give_the_same_text() {
    let folder = Folder::llama();
    for model in ["bundled:tiny-llama", "bundled:tiny-opt", path(folder.path())] {
        let args = ["generate", "--model", model, "--max-new-tokens", "12", "--prompt"];
        let one = stdout([&args[..], &["Once"]].concat());
        let two = stdout([&args[..], &["Once", "mod 7\n1+"]].concat());
        assert!(two.starts_with(&format!("--- 1: Once\n{one}--- 2: mod 7\n1+\n")), "{one}\n{two}");
    }
    let sampled = |seed| {
        let flags =
            ["generate", MODEL[0], MODEL[1], "--prompt", "Once", "--temperature", "1", "--top-k", "40"];
        stdout(
            [
                &flags[..],
                &["--top-p", "0.95", "--prune-ratio", "0.4", "--reprobe-every", "4", "--seed", seed],
            ]
            .concat(),
        )
    };
    assert_eq!(sampled("3"), sampled("3"));
    assert_ne!(sampled("3"), sampled("4"));
}

#[test]
fn inspect_tells_what_is_kept() {
    let text =
        stdout(["inspect", MODEL[0], MODEL[1], "--prune-ratio", "0.4", "--skip-layers", "none", "--tensors"]);
    for part in
        ["layers       10", "BF16", "layers 0–9: 5 of 8 heads, 256 of 384 channels", "model.norm.weight"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn doctor_and_completions_run() {
    assert!(stdout(["doctor"]).contains("bundled:tiny-llama"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(stdout(["completions", shell]).contains("probeprune"));
    }
}

#[test]
fn the_demonstration_compares_every_method_at_every_ratio() {
    let folder = Folder::llama_with(
        json!({ "num_hidden_layers": 4, "intermediate_size": 96, "max_position_embeddings": 128 }),
    );
    let demo = |format| stdout(["demo", "--model", path(folder.path()), "--format", format]);
    let rows: Vec<Value> = serde_json::from_str(&demo("json")).unwrap();
    assert_eq!(rows.len(), 1 + 7 * 3);
    assert_eq!((&rows[0]["method"], &rows[0]["flops_share"]), (&json!("dense"), &json!(1.0)));
    assert_eq!((&rows[8]["method"], &rows[8]["prune_ratio"]), (&json!("pp"), &json!(0.4)));
    assert!(demo("table").contains("pp at 40 %"));
}
