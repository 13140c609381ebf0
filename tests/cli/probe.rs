//! `--probe-tokens`, and the note on large probes.

use serde_json::Value;

use crate::{FILES, MODEL, json_of, losses, path, perplexity, program, refused};

/// The notes on the probe that a command writes, and its standard output.
fn notes(args: &[&str]) -> (Vec<String>, String) {
    let output = program(args.iter().copied()).assert().success().get_output().clone();
    let [said, printed] = [output.stderr, output.stdout].map(|text| String::from_utf8(text).unwrap());
    let notes =
        said.lines().filter(|line| line.starts_with("note: ") && line.contains("--probe-tokens auto"));
    (notes.map(str::to_string).collect(), printed)
}

#[test]
fn auto_is_the_share_that_it_comes_to() {
    // Whole batches of windows of 32 tokens: of one sample 2 tokens of one, 7 of four, 16 of ten.
    for (batch, share, all) in [("1", "0.05", "256"), ("4", "0.2", "256"), ("10", "0.5", "320")] {
        let args = |tokens| ["--batch-size", batch, "--prune-ratio", "0.4", "--probe-tokens", tokens];
        let run = |tokens| {
            let base = ["perplexity", MODEL[0], MODEL[1], "--text", path(&FILES.text), "--seq-len", "32"];
            let args = [&base[..], &["--max-tokens", all, "--format", "json"], &args(tokens)].concat();
            crate::losses_of(&crate::stdout(args))
        };
        assert_eq!(run("auto"), run(share), "{batch}");
    }
    let all = |tokens| losses(&["--prune-ratio", "0.4", "--probe-tokens", tokens]);
    assert_ne!(all("auto"), all("0.5"));
}

#[test]
fn reports_say_auto_or_the_share() {
    let reported = |args: &[&str]| {
        json_of(&[&["--prune-ratio", "0.4"], args].concat())["settings"]["probe_tokens"].clone()
    };
    assert_eq!(reported(&["--probe-tokens", "auto"]), Value::from("auto"));
    assert_eq!(reported(&["--probe-tokens", "0.25"]), Value::from(0.25));
    assert_eq!(reported(&[]), Value::from(0.5));
}

#[test]
fn what_is_neither_a_share_nor_auto_is_refused() {
    let output = program(perplexity(&["--prune-ratio", "0.4", "--probe-tokens", "half"])).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    for part in ["--probe-tokens", "above 0 and at most 1, or auto", "half"] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    let share = ["--prune-ratio", "0.4", "--probe-tokens", "0"];
    refused(&perplexity(&share), &["--probe-tokens", "above 0 and at most 1", "got 0"]);
}

#[test]
fn a_large_probe_is_noted_once() {
    let pruned = |args: &[&'static str]| {
        let base = ["--prune-ratio", "0.4", "--format", "json"];
        notes(&perplexity(&[&base, args].concat()))
    };
    // 16 of 4 × 32 tokens, in three batches.
    let (said, printed) = pruned(&[]);
    let [note] = &said[..] else { panic!("one note: {said:?}") };
    assert!(note.contains("4 × 32 tokens takes 16 ") && note.ends_with("auto takes 7"), "{note}");
    serde_json::from_str::<Value>(&printed).expect("nothing but JSON");
    assert_eq!(pruned(&["--prompt-tokens", "20"]).0.len(), 1);
    let history = ["--history", path(&FILES.history)];
    assert_eq!(notes(&perplexity(&[&history[..], &["--prune-ratio", "0.4"]].concat())).0.len(), 1);
    // Where auto is on or takes no less, where nothing is probed, and where all of the batch is asked for.
    for quiet in [
        &["--probe-tokens", "auto"][..],
        &["--probe-tokens", "0.25"],
        &["--probe-order", "samples"],
        &["--method", "random"],
        &["--method", "full-batch"],
        &["--dense-below", "129"],
        &["--skip-layers", "0,1,2,3,4,5,6,7,8,9"],
    ] {
        assert_eq!(pruned(quiet).0, [""; 0], "{quiet:?}");
    }
    for dense in [&[][..], &["--prune-ratio", "0"]] {
        assert_eq!(notes(&perplexity(dense)).0, [""; 0], "{dense:?}");
    }
}

#[test]
fn a_prompt_s_probe_is_noted() {
    let prompt =
        "Long ago a little otter named Lulu lived near the old mill. One day Lulu went to the old mill";
    let generate = |args: &[&'static str]| {
        let base = ["generate", MODEL[0], MODEL[1], "--max-new-tokens", "2", "--prompt", prompt];
        notes(&[&base[..], args].concat()).0.len()
    };
    assert_eq!(generate(&["--prune-ratio", "0.4"]), 1);
    assert_eq!(generate(&["--prune-ratio", "0.4", "--probe-tokens", "auto"]), 0);
    assert_eq!(generate(&[]), 0);
    let help = crate::stdout(["generate", "--help"]);
    assert!(help.contains("--probe-tokens auto is recommended"), "{help}");
}
