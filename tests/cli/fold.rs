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

    // Generation: prompts of 16 tokens, run by either model, and windows of 32.
    let generation = |more: &[&str]| -> Value {
        let args = [&["--prompt-tokens", "16"], more].concat();
        serde_json::from_str(&run(&args)).unwrap()
    };
    let adapt = ["--adapt", "probe:24", "--probe-samples", "1"];
    let pruned = generation(&adapt);
    let dense = generation(&[&adapt[..], &["--prefill", "dense"]].concat());
    for report in [&pruned, &dense] {
        assert_eq!((&report["prompt_tokens"], &report["tokens"]), (&json!(16), &json!(384)));
        for times in [&report["prefill_seconds"], &report["decode_seconds_per_token"]] {
            let times = times.as_array().unwrap();
            assert!(times.len() == 3 && times.iter().all(|time| time.as_f64().unwrap() > 0.0), "{times:?}");
        }
    }
    assert_eq!(
        [&pruned, &dense].map(|report| &report["settings"]["prefill"]),
        [&json!("pruned"), &json!("dense")]
    );
    assert_ne!(pruned["batch_losses"], dense["batch_losses"]);
    assert!(dense["flops_share"].as_f64() > pruned["flops_share"].as_f64());
    assert_eq!(parsed(&fold)["prefill_seconds"], Value::Null);

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
    run(&[&["--prune-ratio", "0.4", "--prefill", "dense"]], &["--prefill dense", "--method fold", "pp"]);
    run(&[&["--prompt-tokens", "31"]], &["--prompt-tokens", "from 1 to 30", "31", "--seq-len"]);
    let below = ["--prune-ratio", "0.4", "--prompt-tokens", "8", "--dense-below", "5"];
    run(&[&below, &history], &["--dense-below", "0 where text is generated"]);
    program(perplexity(&["--prompt-tokens", "8", "--warmup-batches", "1"])).assert().code(2);
    let export = ["export", MODEL[0], MODEL[1], "--out", path(&out), "--prune-ratio", "0.4"];
    refused(&export, &["--method fold", "a calibration"]);
    refused(&[&export[..], &["--method", "pp"]].concat(), &["--method", "fold at a ratio above 0", "pp"]);
    assert!(!out.exists());
}

/// Losses of single blocks, and what is kept by them.
#[test]
fn an_allocation_goes_by_losses_in_the_history() {
    let folder = tempfile::tempdir().unwrap();
    let history = folder.path().join("history.safetensors");
    let mut calibrate = program(["calibrate", "--seq-len", "32", "--calibrate-samples", "4", "--fold"]);
    calibrate
        .args(MODEL)
        .args(["--losses", "fold,pp", "--text"])
        .arg(&FILES.other_text)
        .arg("--out")
        .arg(&history);
    calibrate.assert().success();

    let history = ["--history", path(&history)];
    for method in ["fold", "pp"] {
        let pruned = ["--method", method, "--prune-ratio", "0.3"];
        let run = |allocation: &str| -> Value {
            let args = [&pruned[..], &["--allocation", allocation], &history].concat();
            serde_json::from_str(&json_text(&args)).unwrap()
        };
        let (measured, uniform) = (run("measured"), run("uniform"));
        assert_eq!(measured["settings"]["allocation"], json!("measured"));
        assert_ne!(measured["batch_losses"], uniform["batch_losses"]);
        let inspect = [&["inspect", MODEL[0], MODEL[1], "--allocation", "measured"], &pruned[..]].concat();
        let said = stdout([&inspect[..], &history].concat());
        assert!(
            said.contains(&format!("kept         {method} at 30.0 %")) && said.contains(" heads, "),
            "{said}"
        );
        refused(&inspect, &["--allocation measured", &format!("calibrate --losses {method}`")]);
    }
    let flap = ["--method", "flap", "--prune-ratio", "0.3", "--allocation", "measured"];
    refused(&perplexity(&[&flap[..], &history].concat()), &["--allocation measured", "pp or fold", "flap"]);
}
