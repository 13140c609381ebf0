//! Invalid calls: one line that says what to do, and exit code 2.

use std::{fs, path::Path, sync::Arc};

use probeprune::{
    cpu::Cpu,
    model::Model,
    output::{OutTensor, write_safetensors},
    prune::calibration::Calibration,
    session::{Limits, Session},
    source::ModelSource,
};

use crate::{FILES, MODEL, common, path, perplexity, program, refused, stdout};

#[test]
fn usage_errors_have_exit_code_2() {
    for args in [&["perplexity"][..], &["nonsense"], &["perplexity", "--text", "x", "--method", "magic"]] {
        program(args.iter().copied()).assert().code(2).stderr(predicates::str::starts_with("error:"));
    }
}

#[test]
fn empty_prompts_are_refused() {
    let generate = |args: &[&'static str]| [&["generate"], &MODEL[..], args].concat();
    refused(&generate(&["--prompt", ""]), &["prompt 1", "some text"]);
    refused(&generate(&["--prompt", "Once", ""]), &["prompt 2"]);
    refused(&generate(&["--prompt-file", "/nowhere"]), &["/nowhere", "read"]);
}

#[test]
fn prompts_may_begin_with_a_dash() {
    let generate =
        |args: &[&'static str]| [&["generate", "--max-new-tokens", "1"], &MODEL[..], args].concat();
    let text = stdout(generate(&["--prompt", "- item", "-x", "--- rule", "--prompt=--flag"]));
    for (index, prompt) in ["- item", "-x", "--- rule", "--flag"].iter().enumerate() {
        assert!(text.contains(&format!("--- {}: {prompt}\n", index + 1)), "{text}");
    }
    for (args, part) in [
        (&["--prompt", "--max-new-tokens", "5"][..], "a value is required for '--prompt"),
        (&["--prompt", "a", "--max-new-token", "5"], "unexpected argument '--max-new-token'"),
    ] {
        program(generate(args)).assert().code(2).stderr(predicates::str::contains(part));
    }
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
fn invalid_compensation_and_groups_are_refused() {
    let pp =
        |args: &[&'static str]| perplexity(&[&["--method", "pp", "--prune-ratio", "0.4"], args].concat());
    for compensate in ["linear:0", "linear:", "linear:x", "mean", ""] {
        let args = perplexity(&["--prune-ratio", "0.4", "--compensate", compensate]);
        program(args).assert().code(2).stderr(predicates::str::contains("--compensate"));
    }
    refused(&pp(&["--channel-group", "3"]), &["--channel-group", "1, 8 or 16", "3"]);
    refused(&pp(&["--channel-group", "8"]), &["--channel-group 8", "calibration", "--history"]);
    refused(&pp(&["--compensate", "linear"]), &["linear:32", "calibrat"]);
    refused(&pp(&["--compensate", "linear:500"]), &["linear:500", "channels"]);
    for (method, compensate, instead) in
        [("flap", "probe-mean", "wanda-sp"), ("wanda-sp", "linear", "pp"), ("random", "probe-mean", "pp")]
    {
        let args = ["--method", method, "--prune-ratio", "0.4", "--compensate", compensate];
        refused(&perplexity(&args), &["--compensate", instead, method]);
    }
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
    let mut calibration = Calibration::load(&FILES.history, &model.fingerprint, &model.config).unwrap();
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
