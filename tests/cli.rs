//! The program as a user meets it: output, exit codes, and what it leaves behind.

mod common;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{self, Stdio},
    sync::{Arc, LazyLock},
    time::Duration,
};

use assert_cmd::Command;
use common::models::Folder;
use probeprune::{
    checkpoint::open_file,
    cpu::Cpu,
    model::Model,
    output::{OutTensor, write_safetensors},
    prune::calibration::Calibration,
    session::{Limits, Session},
    source::ModelSource,
};
use serde_json::{Value, json};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_probeprune");
const MODEL: [&str; 2] = ["--model", "bundled:tiny-llama"];
/// Windows small enough that every test is a matter of moments.
const SMALL: [&str; 6] = ["--seq-len", "32", "--batch-size", "4", "--max-tokens", "384"];

/// Some text for measuring, some for calibrating, and a calibration of the bundled model.
struct Files {
    _folder: TempDir,
    text: PathBuf,
    other_text: PathBuf,
    history: PathBuf,
}

static FILES: LazyLock<Files> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, seed: &str| {
        let path = folder.path().join(name);
        fs::write(&path, stdout(["corpus", "--seed", seed, "--bytes", "3000"])).unwrap();
        path
    };
    let (text, other_text) = (write("text", "5"), write("other", "6"));
    let history = folder.path().join("history.safetensors");
    let mut calibrate =
        program(["calibrate", "--seq-len", "32", "--batch-size", "4", "--calibrate-samples", "8"]);
    calibrate.args(MODEL).arg("--text").arg(&other_text).arg("--out").arg(&history);
    calibrate.assert().success();
    Files { _folder: folder, text, other_text, history }
});

fn program<'a>(args: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(args);
    command
}

fn stdout<'a>(args: impl IntoIterator<Item = &'a str>) -> String {
    let output = program(args).assert().success().get_output().clone();
    String::from_utf8(output.stdout).unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// `perplexity` of the bundled model on a little text, with further arguments.
fn perplexity<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&["perplexity"], &MODEL[..], &SMALL, &["--text", path(&FILES.text)], args].concat()
}

fn json_text(args: &[&str]) -> String {
    stdout(perplexity(&[args, &["--format", "json"]].concat()))
}

fn json_of(args: &[&str]) -> Value {
    serde_json::from_str(&json_text(args)).unwrap()
}

/// The batch losses as they are written: digits that tell every float apart, which serde_json reads only nearly so.
fn losses_of(report: &str) -> String {
    let list = report.split_once("\"batch_losses\": [").expect("batch_losses").1;
    list.split_once(']').expect("an end").0.to_string()
}

fn losses(args: &[&str]) -> String {
    losses_of(&json_text(args))
}

#[track_caller]
fn assert_close(a: f64, b: f64) {
    assert!((a / b - 1.0).abs() < 1e-12, "{a} and {b}");
}

/// Exit code 2, nothing on standard output, and one line on standard error with these parts in this order.
#[track_caller]
fn refused(args: &[&str], parts: &[&str]) {
    let output = program(args.iter().copied()).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(output.stdout.is_empty(), "standard output");
    assert!(message.starts_with("error: ") && message.trim_end().lines().count() == 1, "{message}");
    let mut rest = message.as_str();
    for part in parts {
        let Some(at) = rest.find(part) else { panic!("no {part:?} (in this order) in: {message}") };
        rest = &rest[at + part.len()..];
    }
}

#[test]
fn help_names_every_command_and_version_is_the_packages() {
    let help = stdout(["--help"]);
    for command in ["demo", "perplexity", "calibrate", "generate", "inspect", "doctor", "completions"] {
        assert!(help.contains(command), "{command} in {help}");
        assert!(stdout([command, "--help"]).contains("Usage"));
    }
    assert_eq!(stdout(["--version"]).trim(), concat!("probeprune ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn usage_errors_have_exit_code_2() {
    for args in [&["perplexity"][..], &["nonsense"], &["perplexity", "--text", "x", "--method", "magic"]] {
        program(args.iter().copied()).assert().code(2).stderr(predicates::str::starts_with("error:"));
    }
}

#[test]
fn json_has_every_key_and_agrees_with_itself() {
    let report = json_of(&["--prune-ratio", "0.4", "--warmup-batches", "1", "--threads", "2"]);
    assert_eq!(report["model"], "bundled:tiny-llama");
    assert_eq!((&report["method"], &report["prune_ratio"]), (&json!("pp"), &json!(0.4)));
    assert_eq!((&report["seq_len"], &report["batch_size"]), (&json!(32), &json!(4)));
    assert_eq!((&report["tokens"], &report["threads"]), (&json!(384), &json!(2)));
    let losses: Vec<f64> = serde_json::from_value(report["batch_losses"].clone()).unwrap();
    assert_eq!(losses.len(), 3);
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
    assert!(lines.iter().all(|line| line.starts_with('|') && line.matches('|').count() == 10), "{markdown}");
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
fn warm_up_leaves_no_trace_in_the_losses_of_static_methods() {
    let run = |warmup| losses(&["--method", "random", "--prune-ratio", "0.4", "--warmup-batches", warmup]);
    assert_eq!(run("0"), run("5"));
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
    let (shape, heads) =
        probeprune::checkpoint::read_tensor_file(&out, "batch1.layers.9.attention.kept_heads").unwrap();
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
    let tokenizer = probeprune::tokenizer::Tokenizer::load(&source, 768).unwrap();
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
    let folder = Folder::llama_with(json!({ "num_hidden_layers": 4, "max_position_embeddings": 128 }));
    let demo = |format| stdout(["demo", "--model", path(folder.path()), "--format", format]);
    let rows: Vec<Value> = serde_json::from_str(&demo("json")).unwrap();
    assert_eq!(rows.len(), 13);
    assert_eq!((&rows[0]["method"], &rows[0]["flops_share"]), (&json!("dense"), &json!(1.0)));
    assert_eq!((&rows[5]["method"], &rows[5]["prune_ratio"]), (&json!("pp"), &json!(0.4)));
    assert!(demo("table").contains("pp at 40 %"));
}

#[test]
fn empty_prompts_are_refused() {
    let generate = |args: &[&'static str]| [&["generate"], &MODEL[..], args].concat();
    refused(&generate(&["--prompt", ""]), &["prompt 1", "some text"]);
    refused(&generate(&["--prompt", "Once", ""]), &["prompt 2"]);
    refused(&generate(&["--prompt-file", "/nowhere"]), &["/nowhere", "read"]);
}

#[test]
fn prompt_and_new_tokens_must_fit_the_context() {
    let args = |new| ["generate", MODEL[0], MODEL[1], "--prompt", "Once", "--max-new-tokens", new];
    refused(&args("600"), &["--max-new-tokens", "512", "600", "Shorten"]);
    refused(&args("4294967295"), &["--max-new-tokens", "512"]);
    let window = ["perplexity", MODEL[0], MODEL[1], "--text", path(&FILES.text), "--seq-len", "513"];
    refused(&window, &["512", "513"]);
}

#[test]
fn token_ids_must_be_in_the_vocabulary() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.safetensors");
    let mut ids = vec![1; 64];
    ids[40] = 768;
    ids[50] = u32::MAX; // −1 as i32
    let tensors = [("late", &ids[32..]), ("negative", &ids[42..])]
        .map(|(name, ids)| (name.into(), OutTensor::i32(ids)));
    write_safetensors(&file, &tensors, None).unwrap();
    let run = |key: &str, parts: &[&str]| {
        let tokens = format!("{}:{key}", file.display());
        refused(&["perplexity", MODEL[0], MODEL[1], "--seq-len", "16", "--tokens", &tokens], parts);
    };
    run("late", &["late", "token 8", "0 to 767", "768"]);
    run("negative", &["token 8", "-1"]);
    run("absent", &["absent", "\"late\", \"negative\""]);
}

#[test]
fn a_row_of_padding_is_refused() {
    let source = ModelSource::locate("bundled:tiny-llama").unwrap();
    let model = Model::load(&source, true, Arc::new(Cpu::new(1).unwrap()), |_| ()).unwrap();
    let limits = Limits { samples: 2, tokens: 4, capacity: 0 };
    let mut session = Session::new(Arc::new(model), Default::default(), limits, None).unwrap();
    let mask = [0, 1, 1, 1, 0, 0, 0, 0];
    let result = session.evaluate(&[1; 8], 2, Some(&mask), true);
    common::assert_error(result, &["sample 1", "at least one token", "only padding"]);
}

#[test]
fn ratios_out_of_range_are_refused() {
    for ratio in ["NaN", "-0.1", "1", "1.5", "inf"] {
        for method in ["none", "pp"] {
            refused(
                &perplexity(&["--method", method, "--prune-ratio", ratio]),
                &["--prune-ratio", "0 up to"],
            );
        }
    }
    refused(&perplexity(&["--prune-ratio", "0.8"]), &["--prune-ratio", "10 layers", "0.8", "--skip-layers"]);
    // ratio' is 0.99 and floor(0.99 · 8) = 7, so it takes a model with more than 100 heads to lose all but none.
    refused(&perplexity(&["--prune-ratio", "0.999", "--skip-layers", ""]), &["--prune-ratio", "0.999"]);
    refused(
        &perplexity(&["--prune-ratio", "0.1", "--skip-layers", "10"]),
        &["--skip-layers", "0 to 9", "10"],
    );
    refused(&perplexity(&["--method", "pp"]), &["--prune-ratio", "a ratio", "pp"]);
}

#[test]
fn probe_shares_out_of_range_are_refused() {
    for flag in ["--probe-tokens", "--probe-samples"] {
        for share in ["0", "1.1", "-0.5", "NaN"] {
            refused(&perplexity(&["--prune-ratio", "0.4", flag, share]), &[flag, "above 0 and at most 1"]);
        }
    }
}

#[test]
fn a_history_must_fit_model_and_run() {
    let history = path(&FILES.history);
    let run = |model, seq_len| {
        let args = [
            "perplexity",
            "--model",
            model,
            "--text",
            path(&FILES.text),
            "--seq-len",
            seq_len,
            "--history",
            history,
        ];
        [&args[..], &["--prune-ratio", "0.4"]].concat()
    };
    refused(&run("bundled:tiny-opt", "32"), &[history, "fingerprint", "probeprune calibrate"]);
    refused(&run("bundled:tiny-llama", "16"), &[history, "sequence length", "16", "32"]);
    refused(&perplexity(&["--history", path(&FILES.text)]), &[path(&FILES.text)]);

    let folder = tempfile::tempdir().unwrap();
    let without = folder.path().join("no-flap.safetensors");
    let source = ModelSource::locate("bundled:tiny-llama").unwrap();
    let model = Model::load(&source, true, Arc::new(Cpu::new(1).unwrap()), |_| ()).unwrap();
    let mut calibration = Calibration::load(&FILES.history, &model.fingerprint, 10, [128, 384]).unwrap();
    calibration.layers.iter_mut().flatten().for_each(|block| block.flap = None);
    calibration.save(&without).unwrap();
    let flap = ["--method", "flap", "--prune-ratio", "0.4", "--history", path(&without)];
    refused(&perplexity(&flap), &["FLAP", "probeprune calibrate"]);
    refused(&perplexity(&["--method", "wanda-sp", "--prune-ratio", "0.4"]), &["wanda-sp", "--history"]);
}

#[test]
fn sampling_out_of_range_is_refused() {
    let generate = |flag, value| ["generate", MODEL[0], MODEL[1], "--prompt", "Once", flag, value];
    for value in ["-1", "NaN", "inf"] {
        refused(&generate("--temperature", value), &["--temperature", "at least 0"]);
    }
    for value in ["0", "1.01", "-0.5", "NaN"] {
        refused(&generate("--top-p", value), &["--top-p", "above 0 and at most 1"]);
    }
}

#[test]
fn too_little_or_unreadable_text_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (short, binary) = (folder.path().join("short"), folder.path().join("binary"));
    fs::write(&short, "Once").unwrap();
    fs::write(&binary, b"abc\xff").unwrap();
    let run = |file: &Path, parts: &[&str]| {
        refused(&["perplexity", MODEL[0], MODEL[1], "--seq-len", "32", "--text", path(file)], parts);
    };
    run(&short, &["one window of 32", "--seq-len"]);
    run(&binary, &[path(&binary), "UTF-8", "offset 3"]);
    run(folder.path(), &[path(folder.path()), "read"]);
}

#[test]
fn outputs_that_cannot_be_written_are_refused_before_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing").join("out.safetensors");
    for out in [&missing, folder.path()] {
        refused(&perplexity(&["--dump", path(out)]), &[path(out), "nothing was written"]);
        let calibrate = ["calibrate", MODEL[0], MODEL[1], "--text", path(&FILES.text), "--out", path(out)];
        refused(&calibrate, &[path(out), "nothing was written"]);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    refused(&perplexity(&["--dump", "/dev/full"]), &["/dev/full", "regular file"]);
    assert!(!fs::metadata("/dev/full").unwrap().is_file(), "the device is still there");
    for args in [perplexity(&[]), vec!["completions", "bash"]] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output =
            process::Command::new(PROGRAM).args(args).stdout(full).stderr(Stdio::piped()).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.starts_with("error: standard output") && message.lines().count() == 1, "{message}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    for args in
        [vec!["corpus", "--bytes", "10000000"], perplexity(&[]), vec!["--help"], vec!["completions", "bash"]]
    {
        let mut child = process::Command::new(PROGRAM)
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    }
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let text = FILES.text.parent().unwrap().join("long");
    fs::write(&text, stdout(["corpus", "--bytes", "2000000"])).unwrap();
    let out = folder.path().join("history.safetensors");
    let mut child = process::Command::new(PROGRAM)
        .args([
            "calibrate",
            MODEL[0],
            MODEL[1],
            "--calibrate-samples",
            "1000",
            "--text",
            path(&text),
            "--out",
            path(&out),
        ])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let signalled = process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(signalled.success(), "it was still running");
    assert!(!child.wait().unwrap().success());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
