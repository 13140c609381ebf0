//! The program as a user meets it: output, exit codes, and files left behind.

mod browser;
#[path = "../common/mod.rs"]
mod common;
mod convert;
mod dense_below;
mod device;
#[cfg(target_os = "linux")]
#[path = "../common/emulated_cuda.rs"]
mod emulated_cuda;
mod fold;
mod killed;
#[cfg(target_os = "linux")]
mod limits;
#[cfg(target_os = "linux")]
mod mapped;
mod outputs;
mod probe;
mod refusals;
mod report_page;
mod results;
mod sweep;
#[cfg(target_os = "linux")]
mod terminal;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    sync::LazyLock,
};

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_probeprune");
const MODEL: [&str; 2] = ["--model", "bundled:tiny-llama"];
/// Windows small enough that every test is a matter of moments.
const SMALL: [&str; 6] = ["--seq-len", "32", "--batch-size", "4", "--max-tokens", "384"];

/// Arguments that write a history of the bundled model to `out`.
fn calibrate_to(out: &Path) -> [&str; 9] {
    let [flag, model] = MODEL;
    ["calibrate", flag, model, "--text", path(&FILES.text), "--seq-len", "32", "--out", path(out)]
}

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
    assert_refused(&program(args.iter().copied()).output().unwrap(), parts);
}

/// As [`refused`], of a program that has run.
#[track_caller]
fn assert_refused(output: &Output, parts: &[&str]) {
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(output.stdout.is_empty(), "standard output");
    assert!(message.starts_with("error: ") && message.trim_end().lines().count() == 1, "{message}");
    let mut rest = message.as_str();
    for part in parts {
        let Some(at) = rest.find(part) else { panic!("no {part:?} (in this order) in: {message}") };
        rest = &rest[at + part.len()..];
    }
}
