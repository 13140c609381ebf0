//! `probeprune-latency` as a user meets it: refusals, output in every format, and guarantees.

#[cfg(target_os = "linux")]
#[path = "common/emulated_cuda.rs"]
mod emulated_cuda;

use std::process::{Command, Output};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_probeprune-latency");
/// A shape that takes moments.
const SHAPE: [&str; 4] = ["--shape", "smollm2-135m", "--layers", "1"];
/// A model in which a layer stays dense.
const MODEL: [&str; 4] = ["--model", "bundled:tiny-llama", "--skip-layers", "0"];
const SMALL: [&str; 8] =
    ["--prompt-len", "24", "--repetitions", "2", "--warmup", "0", "--prune-ratio", "0,0.4"];

fn run(args: &[&[&str]]) -> Output {
    Command::new(PROGRAM).args(["--device", "cpu"]).args(args.concat()).output().unwrap()
}

fn stdout(args: &[&[&str]]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(args: &[&[&str]]) -> Value {
    serde_json::from_str(&stdout(&[args, &[&["--format", "json"]]].concat())).unwrap()
}

fn rows(report: &Value) -> &[Value] {
    report["rows"].as_array().unwrap()
}

fn number(row: &Value, field: &str) -> f64 {
    row[field].as_f64().unwrap_or_else(|| panic!("{field} in {row}"))
}

#[test]
fn wrong_arguments_are_refused_before_anything_runs() {
    let refused = |args: &[&str], parts: &[&str]| {
        let output = run(&[args]);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {message}");
        assert!(output.stdout.is_empty(), "{args:?}");
        for part in parts {
            assert!(message.contains(part), "no {part:?} in: {message}");
        }
    };
    let with = |args: &[&'static str]| [&SHAPE[..], args].concat();
    refused(&[], &["--shape", "--model"]);
    refused(&["--shape", "gpt-5"], &["gpt-5", "llama-2-7b", "opt-13b"]);
    refused(&with(&["--model", "bundled:tiny-opt"]), &["--shape", "cannot be used with"]);
    refused(&["--model", "bundled:tiny-opt", "--layers", "2"], &["--layers", "cannot be used with"]);
    refused(&["--model", "bundled:none"], &["bundled:none", "tiny-llama"]);
    refused(&["--shape", "llama-2-7b", "--layers", "0"], &["--layers", "1.."]);
    refused(&with(&["--prompt-len", "16,a"]), &["--prompt-len", "128-1024*2", "\"a\""]);
    refused(&with(&["--prompt-len", "64-16"]), &["--prompt-len", "64-16 is empty"]);
    refused(&with(&["--gen-len", "1-8*1"]), &["--gen-len", "1-8*1 never ends"]);
    refused(&with(&["--batch-size", "0,4"]), &["--batch-size", "at least 1", "got 0"]);
    refused(&with(&["--prompt-len", "9000"]), &["sequence length", "8192", "9000"]);
    refused(&with(&["--prune-ratio", "0.2,1"]), &["--prune-ratio", "not including 1", "got 1"]);
    refused(&with(&["--prune-ratio", "0.2;0.4"]), &["--prune-ratio", "0.2;0.4"]);
    refused(&with(&["--method", "pp,best"]), &["--method", "best", "full-batch"]);
    refused(&with(&["--channel-group", "4"]), &["--channel-group", "1, 8 or 16", "got 4"]);
    refused(&with(&["--method", "flap", "--compensate", "linear"]), &["--compensate linear", "--method pp"]);
    refused(&with(&["--skip-layers", "3"]), &["--skip-layers", "got 3"]);
    refused(&with(&["--repetitions", "0"]), &["--repetitions"]);
    refused(&with(&["--test", "decode", "--gen-len", "0"]), &["--test", "decoding of 0 tokens"]);
    refused(&with(&["--test", "prompt,all"]), &["--test", "all", "decode"]);
}

#[test]
fn every_format_holds_the_same_rows() {
    let args: [&[&str]; 3] =
        [&MODEL, &SMALL, &["--gen-len", "3", "--batch-size", "1,2", "--method", "pp,wanda-sp"]];
    let report = json(&args);
    // prompt, decode and prompt+decode of three variants at two batch sizes.
    assert_eq!(rows(&report).len(), 3 * 3 * 2);
    let tests: Vec<&str> = rows(&report).iter().map(|row| row["test"].as_str().unwrap()).collect();
    assert_eq!((tests[0], tests[3], tests[6]), ("prompt24", "decode3", "prompt24+decode3"));
    for row in rows(&report) {
        let samples: Vec<f64> =
            row["samples_ms"].as_array().unwrap().iter().map(|sample| sample.as_f64().unwrap()).collect();
        let [a, b] = samples[..] else { panic!("two repetitions") };
        let near = |got: f64, want: f64| assert!((got - want).abs() <= 1e-9 * want, "{got} for {want}");
        near(number(row, "mean_ms"), (a + b) / 2.0);
        near(number(row, "median_ms"), (a + b) / 2.0);
        near(number(row, "stddev_ms"), (a - b).abs() / 2f64.sqrt());
        assert_eq!(number(row, "min_ms"), a.min(b));
        let tokens = number(row, "tokens");
        near(number(row, "tokens_per_second"), 1e3 * tokens * (1.0 / a + 1.0 / b) / 2.0);
        let per_sample = match row["test"].as_str().unwrap() {
            "prompt24" => 24.0,
            "decode3" => 3.0,
            _ => 27.0,
        };
        assert_eq!(tokens, per_sample * number(row, "batch_size"));
        assert_eq!(row["same_logits"], true);
        assert_eq!(row["logits_blake3"].as_str().unwrap().len(), 64);
        assert_eq!(row["mlp_ms"], Value::Null);
        let dense = row["method"] == "dense";
        assert_eq!(dense, number(row, "prune_ratio") == 0.0);
        assert!(!dense || number(row, "time_ratio") == 1.0);
    }
    for field in ["version", "build", "system", "cores", "device", "dtype", "threads", "cpu_tier"] {
        assert!(!report["environment"][field].is_null(), "{field}");
    }
    assert_eq!(report["settings"]["model"], "bundled:tiny-llama");
    assert_eq!(report["settings"]["skip_layers"], serde_json::json!([0]));

    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let mut all = [&report["environment"], &report["settings"], &report["rows"][0]].map(keys).concat();
    all.sort();
    let facts = |test: &Value, method: &Value, logits: &Value| {
        [test, method, logits].map(|value| value.as_str().unwrap().to_string())
    };
    let of_json: Vec<_> =
        rows(&report).iter().map(|row| facts(&row["test"], &row["method"], &row["logits_blake3"])).collect();

    let lines = stdout(&[&args[..], &[&["--format", "jsonl"]]].concat());
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(keys(&lines[0]), all);
    let of_jsonl: Vec<_> =
        lines.iter().map(|row| facts(&row["test"], &row["method"], &row["logits_blake3"])).collect();
    assert_eq!(of_jsonl, of_json);

    let text = stdout(&[&args[..], &[&["--format", "csv"]]].concat());
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().unwrap().clone();
    let mut columns: Vec<&str> = header.iter().collect();
    columns.sort_unstable();
    assert_eq!(columns, all);
    let at = |name: &str| header.iter().position(|column| column == name).unwrap();
    let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let of_csv: Vec<_> = records
        .iter()
        .map(|row| ["test", "method", "logits_blake3"].map(|name| row[at(name)].to_string()))
        .collect();
    assert_eq!(of_csv, of_json);
    assert!(records.iter().all(|row| row[at("samples_ms")].split(';').all(|x| x.parse::<f64>().is_ok())));

    let markdown = stdout(&[&args[..], &[&["--format", "markdown"]]].concat());
    let cells = markdown.lines().filter(|line| line.starts_with('|')).skip(2);
    let of_markdown: Vec<_> = cells
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            (cells[1].to_string(), cells[3].to_string(), cells[cells.len() - 2].to_string())
        })
        .collect();
    let short =
        |[test, method, logits]: &[String; 3]| (test.clone(), method.clone(), logits[..8].to_string());
    assert_eq!(of_markdown, of_json.iter().map(short).collect::<Vec<_>>());

    let table = stdout(&args);
    assert!(of_json.iter().all(|[test, method, logits]| {
        table.lines().any(|line| line.contains(test) && line.contains(method) && line.contains(&logits[..8]))
    }));
}

#[test]
fn logits_are_the_same_for_any_number_of_threads_and_other_for_another_seed() {
    let logits = |args: &[&str]| {
        let report = json(&[&SHAPE, &SMALL, &["--gen-len", "2"], args]);
        assert!(rows(&report).iter().all(|row| row["same_logits"] == true));
        rows(&report).iter().map(|row| row["logits_blake3"].to_string()).collect::<Vec<_>>()
    };
    let one = logits(&["--threads", "1"]);
    assert_eq!(one, logits(&["--threads", "2"]));
    let mut different = one.clone();
    different.sort();
    different.dedup();
    // decode and prompt+decode are one run; dense and pruned, prompt and decoding differ.
    assert_eq!((one.len(), different.len()), (6, 4));
    assert_ne!(one[0], logits(&["--seed", "1"])[0]);
}

#[test]
fn warm_up_changes_no_logits() {
    let logits = |warmup| {
        let args = ["--repetitions", "1", "--prompt-len", "24", "--gen-len", "2", "--prune-ratio", "0.4"];
        let report = json(&[&MODEL, &args, &["--warmup", warmup]]);
        rows(&report).iter().map(|row| row["logits_blake3"].to_string()).collect::<Vec<_>>()
    };
    assert_eq!(logits("0"), logits("3"));
}

/// The parts of a row's breakdown, in ms, and their whole.
fn parts(row: &Value) -> ([f64; 7], f64) {
    let steps = ["embedding", "attention", "mlp", "probe", "selection", "history", "head"];
    (steps.map(|step| number(row, &format!("{step}_ms"))), number(row, "recorded_ms"))
}

#[test]
fn the_parts_of_a_forward_sum_to_the_whole() {
    // One repetition, whose parts lie inside its whole; one thread, which need not wait to be woken.
    let args =
        ["--batch-size", "4", "--repetitions", "1", "--threads", "1", "--test", "prompt", "--breakdown"];
    let report = json(&[&SHAPE, &["--prompt-len", "24", "--prune-ratio", "0.4"], &args]);
    let [dense, pruned] = rows(&report) else { panic!("dense and pruned") };
    for row in [dense, pruned] {
        let (steps, whole) = parts(row);
        let sum: f64 = steps.iter().sum();
        assert!((0.7..=1.0).contains(&(sum / whole)), "{sum} of {whole} ms: {row}");
        let [embedding, attention, mlp, .., head] = steps;
        assert!([embedding, attention, mlp, head].iter().all(|&part| part > 0.0), "{row}");
    }
    let [probe, selection] =
        ["probe_ms", "selection_ms"].map(|part| (number(dense, part), number(pruned, part)));
    assert!(probe.0 == 0.0 && probe.1 > 0.0 && selection.0 == 0.0 && selection.1 > 0.0);
    assert!(number(pruned, "history_ms") > 0.0);
}

#[test]
fn batches_that_fall_back_to_dense_are_counted_and_dense() {
    let report = json(&[
        &MODEL,
        &["--prompt-len", "8-32+8", "--gen-len", "2", "--repetitions", "3", "--prune-ratio", "0.4"],
        &["--dense-below", "24"],
    ]);
    for row in rows(&report) {
        let small = number(row, "prompt_len") < 24.0 && row["method"] == "pp";
        let is_prompt = number(row, "gen_len") == 0.0;
        // Fallen batches come first and are measured pruned as well.
        let same = |other: &&Value| ["test", "method", "prompt_len"].iter().all(|&of| other[of] == row[of]);
        let all: Vec<_> = rows(&report).iter().filter(same).collect();
        assert_eq!(all.len(), if small && is_prompt { 2 } else { 1 }, "{row}");
        let falls_back = small && is_prompt && std::ptr::eq(all[0], row);
        assert_eq!(number(row, "dense_batches"), if falls_back { 3.0 } else { 0.0 }, "{row}");
        if falls_back {
            assert_eq!(number(row, "flops_share"), 1.0);
            let dense = rows(&report).iter().find(|other| other["test"] == row["test"]).unwrap();
            assert_eq!((&dense["method"], &dense["logits_blake3"]), (&"dense".into(), &row["logits_blake3"]));
        }
    }
    let table = stdout(&[&MODEL, &SMALL, &["--test", "prompt", "--dense-below", "100"]]);
    assert!(table.contains("--dense-below ran 2 of the batches dense; the row after"), "{table}");
}

#[test]
fn auto_shows_both_the_dense_and_the_pruned_time() {
    let report = json(&[&MODEL, &SMALL, &["--test", "prompt", "--dense-below", "auto"]]);
    assert_eq!(report["settings"]["dense_below"], "auto");
    let [dense, fallen, pruned] = rows(&report) else { panic!("three rows: {report}") };
    assert_eq!((number(fallen, "dense_batches"), number(pruned, "dense_batches")), (2.0, 0.0));
    assert!(fallen["method"] == "pp" && pruned["method"] == "pp");
    assert!(
        fallen["logits_blake3"] == dense["logits_blake3"]
            && pruned["logits_blake3"] != dense["logits_blake3"]
    );
    assert!(number(fallen, "flops_share") == 1.0 && number(pruned, "flops_share") != 1.0);
}

#[test]
fn compensation_and_groups_are_measured_too() {
    let run = |args: &[&str]| {
        let report = json(&[&MODEL, &SMALL, &["--gen-len", "2"], args]);
        let [dense, pruned] = rows(&report) else { panic!("dense and pruned: {report}") };
        assert!(pruned["method"] == "pp" && pruned["same_logits"] == true, "{pruned}");
        let logits = [dense, pruned].map(|row| row["logits_blake3"].to_string());
        (report["settings"].clone(), logits)
    };
    let (settings, [dense, plain]) = run(&["--test", "prompt"]);
    assert_eq!((&settings["compensate"], &settings["channel_group"]), (&"none".into(), &1.into()));
    let (settings, [same, compensated]) = run(&["--test", "prompt", "--compensate", "linear:4"]);
    assert_eq!((&settings["compensate"], same), (&"linear:4".into(), dense));
    let (settings, [_, grouped]) =
        run(&["--test", "prompt", "--channel-group", "8", "--compensate", "probe-mean"]);
    assert_eq!(settings["channel_group"], 8);
    assert!(compensated != plain && grouped != plain && grouped != compensated);
    let of_a_shape = json(&[&SHAPE, &SMALL, &["--gen-len", "2", "--channel-group", "16"]]);
    assert!(rows(&of_a_shape).iter().all(|row| row["same_logits"] == true));
}

#[test]
fn break_even_says_from_where_on_pruning_wins_or_that_it_does_not() {
    let report = json(&[&MODEL, &["--break-even", "--prompt-len", "16,32", "--repetitions", "2"]]);
    let found = report["break_even"].as_array().unwrap();
    assert_eq!(found.len(), 3, "one for each ratio");
    for found in found {
        let (ratio, largest) = (&found["prune_ratio"], number(found, "time_ratio_at_largest"));
        assert_eq!(number(found, "largest_rows"), 32.0);
        let of = |rows: &Value, tokens: f64| {
            let mut rows = rows.as_array().unwrap().iter();
            let row = rows.find(|row| row["prune_ratio"] == *ratio && number(row, "tokens") == tokens);
            number(row.unwrap(), "time_ratio")
        };
        assert_eq!(largest, of(&report["rows"], 32.0));
        let expected = match (of(&report["rows"], 16.0) < 1.0, largest < 1.0) {
            (_, false) => Value::Null,
            (true, true) => 16.into(),
            (false, true) => 32.into(),
        };
        assert_eq!(found["wins_from_rows"], expected);
    }
    assert!(rows(&report).iter().all(|row| number(row, "gen_len") == 0.0), "prompts only");
}

#[cfg(target_os = "linux")]
#[test]
fn a_gpu_is_measured_with_events() {
    let mut command = Command::new(PROGRAM);
    command.args(MODEL).args(["--device", "cuda", "--prompt-len", "4"]);
    command.args(["--gen-len", "2", "--repetitions", "1", "--warmup", "0", "--prune-ratio", "0.4"]);
    command.args(["--breakdown", "--format", "json"]);
    let output = emulated_cuda::on_emulated_driver(&mut command, &[]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&report["environment"]["device"], &report["environment"]["dtype"]),
        (&"cuda:0".into(), &"bf16".into())
    );
    assert!(report["environment"]["gpu"].as_str().unwrap().contains("Emulated GPU"));
    let prompts = rows(&report).iter().filter(|row| row["test"] == "prompt4");
    for row in prompts {
        let (steps, whole) = parts(row);
        let sum: f64 = steps.iter().sum();
        assert!(steps[1] > 0.0 && steps[6] > 0.0 && sum < 1.2 * whole, "{sum} of {whole}: {row}");
        assert_eq!(steps[3] > 0.0, row["method"] == "pp", "{row}");
    }
}

#[test]
fn a_large_probe_is_noted_once() {
    let notes = |args: &[&str]| {
        let output = run(&[&SHAPE, &SMALL, &["--gen-len", "2", "--batch-size", "2,1"], args]);
        let said = String::from_utf8(output.stderr).unwrap();
        let notes =
            said.lines().filter(|line| line.starts_with("note: ") && line.contains("--probe-tokens auto"));
        notes.map(str::to_string).collect::<Vec<_>>()
    };
    // Of 24 and of 48 tokens, prompts and decoding: the largest share is that of one prompt.
    let said = notes(&[]);
    let [note] = &said[..] else { panic!("one note: {said:?}") };
    assert!(note.contains("1 × 24 tokens takes 12 ") && note.ends_with("auto takes 2"), "{note}");
    assert_eq!(notes(&["--probe-tokens", "auto"]), [""; 0]);
    assert_eq!(notes(&["--method", "magnitude"]), [""; 0]);
    assert_eq!(notes(&["--test", "prompt", "--dense-below", "49"]), [""; 0]);
    // Decoding is never dense.
    assert_eq!(notes(&["--dense-below", "49"]).len(), 1);
}

#[test]
fn sizes_that_no_memory_has_are_refused() {
    for (flag, number, part) in [
        ("--prompt-len", "10000000", "at most 512 tokens"),
        ("--prompt-len", "18446744073709551615", "at most 512 tokens"),
        ("--gen-len", "4294967295", "at most 512 tokens"),
        ("--gen-len", "18446744073709551615", "at most 512 tokens"),
        ("--batch-size", "10000000", "memory: expected"),
        ("--batch-size", "18446744073709551615", "memory: expected"),
        ("--repetitions", "100001", "1..=100000"),
        ("--warmup", "100001", "0..=100000"),
    ] {
        for method in ["pp", "flap"] {
            let args = ["--prune-ratio", "0.4", "--method", method, flag, number];
            let others = [("--prompt-len", "24"), ("--repetitions", "1"), ("--warmup", "0")];
            let others =
                others.iter().filter(|(other, _)| *other != flag).flat_map(|&(flag, value)| [flag, value]);
            let output = run(&[&MODEL, &args, &others.collect::<Vec<_>>()]);
            let message = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{flag} {number}: {message}");
            assert!(message.contains(part), "{flag} {number}: {message}");
            assert_eq!(message.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{message}");
        }
    }
}
