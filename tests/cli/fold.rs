//! Folds on the command line: calibrated, corrected, saved, exported.

use serde_json::{Value, json};

use crate::{FILES, MODEL, SMALL, json_text, losses, losses_of, path, perplexity, program, refused, stdout};

const FOLD: [&str; 6] = ["--method", "fold", "--prune-ratio", "0.4", "--skip-layers", "0"];

#[test]
fn a_fold_is_saved_exported_and_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let [history, learned, exported] = ["history.safetensors", "learned.safetensors", "exported"].map(at);
    let calibrate =
        ["calibrate", "--seq-len", "32", "--batch-size", "4", "--calibrate-samples", "8", "--fold"];
    let mut calibrate = program(calibrate);
    calibrate.args(MODEL).arg("--text").arg(&FILES.other_text).args(["--out", &history]);
    calibrate.assert().success();

    let run = |more: &[&str]| json_text(&[&FOLD[..], &["--history", &history], more].concat());
    let fold = run(&[]);
    let text = ["--calibrate-text", path(&FILES.other_text), "--calibrate-samples", "8"];
    assert_eq!(losses(&[&FOLD[..], &text].concat()), losses_of(&fold), "with and without a file");
    let parsed = |text: &str| -> Value { serde_json::from_str(text).unwrap() };
    assert_eq!([&parsed(&fold)["probed_share"], &parsed(&fold)["excess_error"]], [&Value::Null; 2]);

    let adapt = ["--adapt", "probe:16", "--adapt-threshold", "0", "--save-history", &learned];
    let corrected = run(&adapt);
    let report = parsed(&corrected);
    assert_eq!((&report["probed_share"], &report["settings"]["adapt"]), (&json!(1.0), &json!("probe:16")));
    assert!(report["excess_error"].is_f64());
    assert_ne!(losses_of(&corrected), losses_of(&fold));
    // What it learned is where the next run begins.
    let next = json_text(&[&FOLD[..], &["--history", &learned, "--adapt", "probe:16"]].concat());
    let first = |report: &str| losses_of(report).split(',').next().map(str::to_string);
    assert_ne!(first(&next), first(&corrected));

    let mut export = program(["export", "--history", &history, "--prune-ratio", "0.4", "--skip-layers", "0"]);
    let said = export.args(MODEL).args(["--out", &exported]).assert().success();
    let said = String::from_utf8(said.get_output().stdout.clone()).unwrap();
    assert!(said.contains("folded at 40.0 %") && said.contains("trust_remote_code"), "{said}");
    let text = path(&FILES.text);
    let of_export = [&["perplexity", "--model", &exported, "--format", "json", "--text", text], &SMALL[..]];
    assert_eq!(losses_of(&stdout(of_export.concat())), losses_of(&fold));
    let inspected = stdout(["inspect", "--model", &exported]);
    assert!(inspected.contains("fewer heads or channels"), "{inspected}");
}

#[test]
fn what_a_fold_cannot_do_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let history = ["--history", path(&FILES.history)];
    let saved = ["--prune-ratio", "0.4", "--save-history", path(&out)];
    let run = |args: &[&[&str]], parts: &[&str]| refused(&perplexity(&args.concat()), parts);
    run(&[&FOLD], &["--method fold", "a calibration"]);
    run(&[&FOLD, &history], &["--method fold", "second moments", "calibrate --fold"]);
    run(&[&saved, &history], &["--save-history", "--adapt probe"]);
    run(&[&["--prune-ratio", "0.4", "--adapt", "probe"]], &["--adapt probe", "--method fold"]);
    run(&[&FOLD, &["--adapt", "probe", "--adapt-every", "0"]], &["--adapt-every", "at least 1"]);
    let export = ["export", MODEL[0], MODEL[1], "--out", path(&out), "--prune-ratio", "0.4"];
    refused(&export, &["--method fold", "a calibration"]);
    refused(&[&export[..], &["--method", "pp"]].concat(), &["--method", "fold at a ratio above 0", "pp"]);
    assert!(!out.exists());
}
