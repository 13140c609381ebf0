//! `sweep`: its results, its resumption after an interruption, and its page.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{FILES, MODEL, PROGRAM, SMALL, json_of, path, program, refused, stdout};

/// A sweep of the bundled model on a little text into `out`, with further arguments.
pub(crate) fn sweep<'a>(out: &'a Path, args: &[&'a str]) -> Vec<&'a str> {
    let fixed = ["--text", path(&FILES.text), "--history", path(&FILES.history), "--rounds", "2"];
    [&["sweep"], &MODEL[..], &SMALL, &fixed, &["--out", path(out)], args].concat()
}

pub(crate) fn lines(out: &Path) -> Vec<Value> {
    let text = fs::read_to_string(out.join("runs.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn its_perplexities_are_those_of_perplexity() {
    let folder = TempDir::new().unwrap();
    // With a small momentum a warm-up that went into history would show.
    let variants = "pp,flap,pp+metric=flap,pp+momentum=0.1,pp+dense-below=auto";
    let args = ["--variants", variants, "--ratios", "0.4", "--format", "json"];
    let report: Value = serde_json::from_str(&stdout(sweep(folder.path(), &args))).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let history = ["--history", path(&FILES.history), "--prune-ratio", "0.4"];
    let expected = [
        ("dense", vec![]),
        ("pp", history.to_vec()),
        ("flap", [&history[..], &["--method", "flap"]].concat()),
        ("pp+metric=flap", [&history[..], &["--metric", "flap"]].concat()),
        ("pp+momentum=0.1", [&history[..], &["--momentum", "0.1"]].concat()),
        ("pp+dense-below=auto", [&history[..], &["--dense-below", "auto"]].concat()),
    ];
    assert_eq!(rows.len(), expected.len());
    for (row, (name, args)) in rows.iter().zip(expected) {
        assert_eq!(row["variant"], name);
        let alone = json_of(&args);
        for field in ["perplexity", "flops_share", "probe_flops_share"] {
            let [ours, its] = [&row[field], &alone[field]].map(|value| value.as_f64().unwrap());
            assert!((ours - its).abs() <= 1e-12 * its, "{name}, {field}: {ours} and {its}");
        }
        assert!(row["time_share"].as_f64().unwrap() > 0.0);
        // Under auto so small a model is not pruned.
        let is_probed = name.starts_with("pp") && !name.ends_with("auto");
        assert_eq!(row["head_overlap"].is_null(), !is_probed);
    }
    let csv = fs::read_to_string(folder.path().join("sweep.csv")).unwrap();
    assert!(csv.starts_with("variant,prune_ratio,perplexity,tokens_per_second,") && csv.lines().count() == 7);
    let saved: Value =
        serde_json::from_str(&fs::read_to_string(folder.path().join("sweep.json")).unwrap()).unwrap();
    assert_eq!(saved, report);
}

#[test]
fn groups_of_channels_have_scores_of_their_own() {
    let folder = TempDir::new().unwrap();
    let args = ["--variants", "pp,pp+channel-group=8", "--ratios", "0.4", "--format", "json"];
    let report: Value = serde_json::from_str(&stdout(sweep(folder.path(), &args))).unwrap();
    let alone = ["--history", path(&FILES.history), "--prune-ratio", "0.4", "--channel-group", "8"];
    let [ours, its] = [&report["rows"][2], &json_of(&alone)].map(|row| row["perplexity"].as_f64().unwrap());
    assert!((ours - its).abs() <= 1e-12 * its, "{ours} and {its}");
    let scores = |run: &Value| -> u64 {
        let counts = run["histograms"][1]["counts"].as_array().unwrap();
        counts.iter().map(|count| count.as_u64().unwrap()).sum()
    };
    let [single, grouped] = [1, 2].map(|run| scores(&lines(folder.path())[run]));
    assert_eq!(single, 8 * grouped);
}

#[test]
fn a_run_records_what_was_kept_and_scored() {
    let folder = TempDir::new().unwrap();
    stdout(sweep(folder.path(), &["--variants", "pp,random", "--ratios", "0.4"]));
    let [_, pp, random] = &lines(folder.path())[..] else { panic!("a context and two runs") };
    let count = |value: &Value| value.as_array().unwrap().len();
    assert_eq!(count(&pp["layers"]), 10);
    for (layer, record) in pp["layers"].as_array().unwrap().iter().enumerate() {
        for overlap in record["overlap"].as_array().unwrap() {
            assert_eq!(overlap.is_null(), layer < 3, "the first three layers are dense");
            assert!(overlap.is_null() || (0.0..=1.0).contains(&overlap.as_f64().unwrap()));
        }
    }
    // Every head and channel of the seven pruned layers is in a bin, and the kept ones are not left of the cut.
    for (block, of) in [(0, "heads"), (1, "channels")] {
        let bins: Vec<u64> = pp["histograms"][block]["counts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|count| count.as_u64().unwrap())
            .collect();
        let sum = |field: &str| -> u64 {
            pp["layers"].as_array().unwrap()[3..]
                .iter()
                .map(|layer| layer[field][block].as_u64().unwrap())
                .sum()
        };
        assert_eq!(bins.iter().sum::<u64>(), sum("of"), "{of}");
        assert!(bins[24..].iter().sum::<u64>() >= sum("kept"), "{of}");
    }
    assert_eq!(count(&pp["parts"]), 2);
    assert_eq!(count(&random["parts"]), 1);
    assert!(random["histograms"][0].is_null() && random["layers"][5]["overlap"][1].is_null());
    // 384 tokens are three whole batches, each timed twice, the dense model beside it.
    assert_eq!([count(&pp["seconds"]), count(&pp["dense_seconds"]), count(&pp["batch_losses"])], [6, 6, 3]);
}

#[test]
fn the_page_has_every_figure_and_needs_nothing_from_outside() {
    let folder = TempDir::new().unwrap();
    stdout(sweep(folder.path(), &["--variants", "pp,wanda-sp", "--ratios", "0.2,0.4"]));
    let page = fs::read_to_string(folder.path().join("report.html")).unwrap();
    for title in [
        "Perplexity and time, batches of 128 tokens",
        "time of a batch, % of dense",
        "Time by part",
        "heads kept at 20 %",
        "channels kept at 40 %",
        "scores of heads at 20 %",
        "scores of channels at 40 %",
        "<h3>PRR</h3>",
        "probe, scores, selection, history",
        "bundled:tiny-llama",
        concat!("probeprune ", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(page.contains(title), "{title}");
    }
    assert_eq!(page.matches("<svg").count(), 10);
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    for outside in ["http:", "https:", "//", "src=", "href=", "url(", "@import"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[cfg(unix)]
#[test]
fn an_interrupted_sweep_resumes() {
    let folder = TempDir::new().unwrap();
    let args = ["--variants", "pp,wanda-sp,flap,random,magnitude", "--ratios", "0.2,0.3,0.4,0.5,0.6"];
    let arguments = sweep(folder.path(), &args);
    let start = |wait_for: usize| {
        let child = Command::new(PROGRAM)
            .args(&arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begin = Instant::now();
        while lines(folder.path()).len() <= wait_for {
            assert!(begin.elapsed() < Duration::from_secs(120), "no run ends");
            std::thread::sleep(Duration::from_millis(5));
        }
        child
    };
    let mut child = start(1);
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success(), "it was still running");
    let before = lines(folder.path());
    let mut child = start(before.len());
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let stopped = lines(folder.path());
    assert!(stopped.len() < 26, "it was still running");
    assert_eq!(stopped[..before.len()], before[..], "what was there stays");

    let done = format!("note: {} of 25 runs are in", stopped.len() - 1);
    program(arguments.iter().copied()).assert().success().stderr(predicates::str::contains(done));
    let all = lines(folder.path());
    assert_eq!(all.len(), 26);
    assert_eq!(all[..stopped.len()], stopped[..], "nothing was repeated");
    // Another ratio joins them; a rerun measures nothing.
    stdout(sweep(folder.path(), &["--variants", "pp", "--ratios", "0.1"]));
    assert_eq!(lines(folder.path())[..26], all[..]);
    let again = sweep(folder.path(), &["--variants", "pp", "--ratios", "0.1,0.2"]);
    program(again).assert().success().stderr(predicates::str::contains("2 of 2 runs are in"));
    assert_eq!(lines(folder.path()).len(), 27);
    let mut names: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(
        names,
        ["report.html", "runs.jsonl", "sweep.csv", "sweep.json", "sweep.lock"],
        "no temporary file"
    );
}

#[test]
fn runs_that_cannot_be_compared_are_refused() {
    let folder = TempDir::new().unwrap();
    let one = ["--variants", "random", "--ratios", "0.4"];
    stdout(sweep(folder.path(), &one));
    let before = fs::read_to_string(folder.path().join("runs.jsonl")).unwrap();
    for (args, parts) in [
        (["--batch-size", "2"], ["runs.jsonl", "batch size", "expected 2, got 4"]),
        (["--text", path(&FILES.other_text)], ["runs.jsonl", "text", "another --out"]),
        (["--momentum", "0.5"], ["runs.jsonl", "settings", "momentum: 0.5"]),
        (["--rounds", "5"], ["runs.jsonl", "rounds", "expected 5, got 2"]),
    ] {
        // The last of two flags of a kind would be an error of its own: the first is left out.
        let mut arguments = sweep(folder.path(), &one);
        if let Some(at) = arguments.iter().position(|argument| *argument == args[0]) {
            arguments.drain(at..at + 2);
        }
        refused(&[&arguments[..], &args].concat(), &parts);
    }
    fs::write(folder.path().join("runs.jsonl"), before.replacen("\"variant\"", "\"other\"", 1)).unwrap();
    refused(&sweep(folder.path(), &one), &["runs.jsonl", "line 2", "variant", "delete the file"]);
}

#[test]
fn invalid_sweeps_are_refused_before_anything_runs() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("new");
    for (args, parts) in [
        (&["--variants", "pp+nonsense=1"][..], &["--variants", "pp+nonsense=1", "--nonsense"][..]),
        (&["--variants", "pp+metric=magic"], &["--variants", "magic", "possible values", "ppsp"]),
        (&["--variants", "pp+prune-ratio=0.3"], &["--variants", "prune-ratio"]),
        (&["--variants", "pp+probe-tokens=2"], &["--probe-tokens", "at most 1"]),
        (&["--variants", "pp+dense-below=few"], &["--dense-below", "or auto"]),
        (&["--ratios", "0.4,1"], &["--prune-ratio", "not including 1"]),
        (&["--ratios", "0,0.4"], &["--ratios", "above 0", "got 0"]),
        (&["--method", "pp"], &["--method", "--variants"]),
        (&["--prune-ratio", "0.4"], &["--prune-ratio", "--ratios"]),
    ] {
        refused(&sweep(&out, args), parts);
    }
    for variants in ["magic", "none", "pp,,flap", "+metric=flap"] {
        program(sweep(&out, &["--variants", variants])).assert().code(2);
    }
    let text = path(&FILES.text);
    let uncalibrated = ["sweep", MODEL[0], MODEL[1], "--text", text, "--seq-len", "32", "--out", path(&out)];
    refused(&uncalibrated, &["--variants wanda-sp", "calibration", "--history"]);
    assert!(!out.exists());
    fs::write(&out, "a file").unwrap();
    refused(&sweep(&out, &[]), &[path(&out)]);
}

#[test]
fn a_switch_of_the_method_can_be_varied_and_stays_where_it_is_not() {
    let folder = TempDir::new().unwrap();
    let args = ["--variants", "pp,pp+parallel-probe=false", "--ratios", "0.4", "--parallel-probe"];
    stdout(sweep(folder.path(), &args));
    let settings: Vec<String> =
        lines(folder.path())[1..].iter().map(|run| run["settings"].as_str().unwrap().to_string()).collect();
    assert!(settings[0].contains("parallel_probe: true") && settings[1].contains("parallel_probe: false"));
}
