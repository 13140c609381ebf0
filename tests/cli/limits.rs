//! Numbers that make no sense, memory and disks that are not there, and text without an end.

use std::{
    fs::{self, File},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    FILES, MODEL, PROGRAM, assert_refused, calibrate_to, common::models::Folder, path, perplexity, program,
    refused,
};

/// Runs the program under limits in the syntax of `ulimit`.
fn limited(limits: &str, args: &[&str]) -> Output {
    let script = format!("ulimit -c 0 && ulimit {limits} && exec \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh", PROGRAM]).args(args).env("RUST_BACKTRACE", "1").output().unwrap()
}

/// One run of the program with a number of a flag that makes no sense: it works, or is refused in one message, soon.
#[track_caller]
fn survives(args: &[&str], flag: &str, number: &str) {
    let start = Instant::now();
    let with = format!("{flag}={number}");
    let script = "ulimit -v 4000000 && exec timeout 60 \"$@\"";
    let output =
        Command::new("sh").args(["-c", script, "sh", PROGRAM]).args(args).arg(&with).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let errors = said.lines().filter(|line| line.starts_with("error: ")).count();
    let expected = match output.status.code() {
        Some(0) => errors == 0,
        Some(2) => errors == 1 && output.stdout.is_empty(),
        _ => false,
    };
    assert!(expected, "{args:?} {with}: {:?}: {said}", output.status);
    assert!(start.elapsed() < Duration::from_secs(30), "{args:?} {with}");
}

const NUMBERS: [&str; 11] = [
    "0",
    "-1",
    "1e18",
    "1000000000000000000",
    "4294967295",
    "10000000",
    "18446744073709551615",
    "18446744073709551616",
    "NaN",
    "1e400",
    "",
];

/// The flags of the method that take numbers.
const METHOD: [&str; 16] = [
    "--prune-ratio",
    "--probe-tokens",
    "--probe-samples",
    "--probe-from",
    "--fixed-probe-weight",
    "--skip-layers",
    "--round-channels",
    "--momentum",
    "--history-bucket",
    "--prior-tokens",
    "--channel-group",
    "--flap-attention-factor",
    "--adapt-forgetting",
    "--adapt-prior-tokens",
    "--seed",
    "--dense-below",
];

/// Every one of `flags` with every number; `args` leave those flags out.
fn all(args: &[&str], flags: &[&str]) {
    for flag in flags {
        for number in NUMBERS {
            survives(args, flag, number);
        }
    }
}

#[test]
fn numbers_of_measurements_make_no_harm() {
    let text = path(&FILES.text);
    let args = ["perplexity", MODEL[0], MODEL[1], "--text", text, "--method", "pp"];
    let windows = [&args[..], &["--seq-len", "32", "--max-tokens", "64"]].concat();
    let pruned = [&windows[..], &["--prune-ratio", "0.4"]].concat();
    all(&windows, &METHOD[..1]);
    all(&pruned, &METHOD[1..]);
    all(&pruned, &["--batch-size", "--prompt-tokens", "--threads", "--calibrate-samples", "--adapt-every"]);
    // A hundred thousand batches are no typing error, but take their time.
    for number in ["-1", "1000000000000000000", "10000000", "18446744073709551616", "NaN", ""] {
        survives(&pruned, "--warmup-batches", number);
    }
    all(&args, &["--seq-len"]);
    all(&[&args[..], &["--seq-len", "32"]].concat(), &["--max-tokens"]);
}

#[test]
fn numbers_of_generations_make_no_harm() {
    let args = ["generate", MODEL[0], MODEL[1], "--prompt", "Once"];
    all(&args, &["--max-new-tokens"]);
    let short = [&args[..], &["--max-new-tokens", "2"]].concat();
    all(&short, &["--temperature", "--top-k", "--top-p"]);
    let pruned = [&short[..], &["--prune-ratio", "0.4"]].concat();
    all(&pruned, &METHOD[1..]);
    all(&pruned, &["--reprobe-every"]);
}

#[test]
fn numbers_of_other_commands_make_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("history.safetensors");
    let text = path(&FILES.text);
    let inspect = ["inspect", MODEL[0], MODEL[1], "--prune-ratio", "0.4"];
    all(&inspect, &["--seq-len", "--batch-size"]);
    all(&inspect, &METHOD[1..]);
    all(
        &[&inspect[..], &["--compensate", "linear:4", "--batch-size", "4294967295"]].concat(),
        &["--history-bucket"],
    );
    let calibrate = ["calibrate", MODEL[0], MODEL[1], "--text", text, "--out", path(&out)];
    all(&calibrate, &["--seq-len"]);
    let windows = [&calibrate[..], &["--seq-len", "32"]].concat();
    all(&windows, &["--calibrate-samples"]);
    let few = [&windows[..], &["--calibrate-samples", "2"]].concat();
    all(&few, &["--batch-size", "--fold-memory"]);
    for number in NUMBERS {
        survives(&["corpus", "--lines", "5"], "--bytes", if number.len() > 8 { "-1" } else { number });
        survives(&["corpus", "--lines", "5"], "--seed", number);
    }
    let sweep = ["sweep", MODEL[0], MODEL[1], "--text", text, "--seq-len", "32", "--max-tokens", "64"];
    let sweep = [&sweep[..], &["--variants", "pp", "--out", path(folder.path())]].concat();
    all(&[&sweep[..], &["--rounds", "1"]].concat(), &["--ratios"]);
    for number in ["0", "-1", "10000000", "18446744073709551616", "NaN"] {
        survives(&sweep, "--rounds", number);
    }
}

#[test]
fn numbers_out_of_range_name_their_bounds() {
    let args = |flag, number| perplexity(&[flag, number]);
    let usage = |args: Vec<&str>, part: &str| {
        program(args).assert().code(2).stderr(predicates::str::contains(part));
    };
    usage(args("--warmup-batches", "100001"), "0..=100000");
    usage(args("--threads", "1025"), "0..=1024");
    let inspect = ["inspect", MODEL[0], MODEL[1], "--seq-len", "513"];
    refused(&inspect, &["sequence length", "at most 512", "513"]);
}

#[test]
fn memory_that_is_not_there_ends_a_run_in_one_line() {
    let loads = |kilobytes: &u32| limited(&format!("-v {kilobytes}"), &["--version"]).status.success();
    let least = (20_000..500_000).step_by(4_000).find(loads).expect("memory for the program itself");
    let args =
        ["perplexity", MODEL[0], MODEL[1], "--device", "cpu", "--threads", "2", "--text", path(&FILES.text)];
    let args = [&args[..], &["--seq-len", "64", "--batch-size", "16"]].concat();
    let mut refusals = 0;
    // From too little for threads, a model, a tokenizer or a session to enough.
    for more in [1_000, 3_000, 6_000, 9_000, 12_000, 15_000, 18_000, 24_000, 40_000, 80_000, 300_000] {
        let output = limited(&format!("-v {}", least + more), &args);
        if !output.status.success() {
            assert_refused(&output, &["error: "]);
            refusals += 1;
        }
    }
    assert!(refusals > 2, "{refusals}");
}

#[test]
fn a_cache_that_no_memory_has_is_refused() {
    let positions = json!({ "max_position_embeddings": 1_000_000 });
    let mut endless = positions.clone();
    endless["rope_scaling"] = json!({ "rope_type": "dynamic", "factor": 2.0 });
    for (changes, parts) in [
        (positions, ["--max-new-tokens", "at most 1000000 tokens", "+ 10000000"]),
        (endless, ["memory: expected", "free of 1024000000", "fewer new tokens"]),
    ] {
        let folder = Folder::llama_with(changes);
        let model = ["generate", "--model", path(folder.path()), "--threads", "2", "--prompt", "ab"];
        let args = [&model[..], &["--max-new-tokens", "10000000"]].concat();
        assert_refused(&limited("-v 1000000", &args), &parts);
    }
}

#[test]
fn text_without_an_end_is_refused_in_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let huge = folder.path().join("huge.txt");
    File::create(&huge).unwrap().set_len(1 << 30).unwrap();
    let limit = "at most 67108864 bytes of text";
    for text in [path(&huge), "/dev/zero"] {
        let perplexity =
            ["perplexity", MODEL[0], MODEL[1], "--threads", "2", "--max-tokens", "64", "--text", text];
        let generate = ["generate", MODEL[0], MODEL[1], "--prompt-file", text];
        for args in [&perplexity[..], &generate] {
            assert_refused(&limited("-v 1000000", args), &[text, "size", limit, "--tokens"]);
        }
    }
    // Together they are too long.
    let half = folder.path().join("half.txt");
    File::create(&half).unwrap().set_len((64 << 20) - 1000).unwrap();
    let args = ["perplexity", MODEL[0], MODEL[1], "--text", path(&half), path(&FILES.text)];
    assert_refused(&limited("-v 1000000", &args), &[path(&FILES.text), limit]);
    // Neither is, but what it takes to tokenise it is not there.
    assert_refused(&limited("-v 1000000", &args[..5]), &["memory", "free of 1024000000"]);
}

#[test]
fn a_file_that_may_not_grow_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("history.safetensors");
    assert_refused(&limited("-f 20", &calibrate_to(&out)), &[path(&out), "cannot write", "File too large"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let stdout = File::create(folder.path().join("text")).unwrap();
    let script = "ulimit -f 2 && exec \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script, "sh", PROGRAM, "corpus", "--bytes", "100000"])
        .stdout(stdout)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_refused(&output, &["standard output", "File too large"]);
}
