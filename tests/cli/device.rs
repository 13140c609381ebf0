//! `--device` and `--dtype`: without a driver, and with one that is emulated.

use probeprune::{
    cpu::{TIER_VARIABLE, Tier},
    gpu::cuda,
};

use crate::{MODEL, perplexity, refused, stdout};

#[test]
fn cuda_without_a_driver_is_refused() {
    if !cuda::driver_is_installed() {
        for device in ["cuda", "cuda:1"] {
            refused(
                &perplexity(&["--device", device]),
                &["cuda", "driver", "none on this machine", "--device cpu"],
            );
        }
        assert!(stdout(["doctor"]).contains("none on this machine"));
    }
}

#[test]
fn devices_and_dtypes_that_do_not_exist_are_refused() {
    for device in ["gpu", "cuda:", "cuda:-1", "cuda:x", ""] {
        crate::program(perplexity(&["--device", device])).assert().code(2);
    }
    let dtype = perplexity(&["--device", "cpu", "--dtype", "f16"]);
    refused(&dtype, &["--dtype", "bf16 on the CPU", "f16", "--device cuda"]);
}

#[test]
fn inspect_tells_the_memory_of_every_device_without_having_it() {
    let inspect = |args: &[&'static str]| stdout([&["inspect", MODEL[0], MODEL[1]], args].concat());
    let on_cpu = inspect(&["--device", "cpu", "--prune-ratio", "0.4"]);
    assert!(on_cpu.contains("on the CPU") && on_cpu.contains("f32, every slot"), "{on_cpu}");
    let layout = ["--history-dtype", "f16", "--history-bucket", "16"];
    let on_gpu = inspect(&[&["--device", "cuda:3", "--prune-ratio", "0.4"], &layout[..]].concat());
    for part in ["cuda:3 in bf16", "f16, 16 slots in a row", "keys and values"] {
        assert!(on_gpu.contains(part), "{part} in {on_gpu}");
    }
}

#[test]
fn a_tier_of_the_cpu_can_be_forced() {
    let forced = |tier: &str, args: &[&str]| {
        let mut program = crate::program(args.iter().copied());
        program.env(TIER_VARIABLE, tier).assert()
    };
    let said = |tier: &str| String::from_utf8(forced(tier, &["doctor"]).get_output().stdout.clone()).unwrap();
    for tier in Tier::available() {
        assert!(said(tier.name()).contains(&format!("CPU tier     {tier} (of ")), "{tier}");
        forced(tier.name(), &perplexity(&["--device", "cpu"])).success();
    }
    assert!(said("avx1024").contains("avx1024"));
    let refused = forced("avx1024", &perplexity(&["--device", "cpu"])).code(2);
    let error = String::from_utf8(refused.get_output().stderr.clone()).unwrap();
    assert!(
        ["PROBEPRUNE_CPU_TIER", "portable", "avx1024"].iter().all(|part| error.contains(part)),
        "{error}"
    );
}

#[cfg(target_os = "linux")]
mod emulated {
    use std::process::{Command, Output};

    use serde_json::{Value, json};

    use super::*;
    use crate::{FILES, PROGRAM, assert_refused, emulated_cuda::on_emulated_driver, path};

    fn run(args: &[&str], settings: &[(&str, &str)]) -> Output {
        on_emulated_driver(Command::new(PROGRAM).args(args), settings).output().unwrap()
    }

    #[test]
    fn a_gpu_that_cannot_be_used_is_refused_or_passed_over_with_a_note() {
        let old = [("CAPABILITY", "7.5")];
        let on_cuda = run(&perplexity(&["--device", "cuda"]), &old);
        assert_refused(&on_cuda, &["cuda:0 (Emulated GPU)", "compute capability", "8.0 or newer", "7.5"]);
        assert_refused(&run(&perplexity(&["--device", "cuda:1"]), &[]), &["cuda:1", "cuda:0 (Emulated GPU)"]);
        let auto = run(&perplexity(&["--format", "json"]), &old);
        let note = String::from_utf8_lossy(&auto.stderr);
        assert!(note.starts_with("note: computing on the CPU. cuda:0 (Emulated GPU)"), "{note}");
        assert_eq!(note.lines().count(), 1, "{note}");
        let report: Value = serde_json::from_slice(&auto.stdout).unwrap();
        assert_eq!(report["device"], "cpu");
        let told = run(&perplexity(&["--device", "cpu"]), &old);
        assert!(told.status.success() && told.stderr.is_empty());
    }

    fn doctor(settings: &[(&str, &str)]) -> String {
        let output = run(&["doctor"], settings);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[test]
    fn doctor_opens_every_gpu() {
        let text = doctor(&[("DEVICES", "2"), ("CAPABILITY", "9.0"), ("VERSION", "13010")]);
        assert!(text.contains("driver for CUDA 13.1"), "{text}");
        for ordinal in 0..2 {
            let start = format!(
                "cuda:{ordinal} (Emulated GPU): compute capability 9.0, 1.1 GB, usable, kernels loaded in "
            );
            let line = text.lines().find_map(|line| line.trim_start().strip_prefix(&start));
            let (seconds, from) =
                line.unwrap_or_else(|| panic!("{start} in {text}")).split_once(" s from ").unwrap();
            assert!(seconds.parse::<f64>().unwrap() < 60.0, "{seconds}");
            assert_eq!(from, if cuda::build().contains("sm_90") { "machine code" } else { "PTX" });
        }
        let text = doctor(&[("REFUSES", "machine code")]);
        assert!(text.contains("usable, kernels loaded in ") && text.contains(" s from PTX\n"), "{text}");
    }

    #[test]
    fn doctor_says_what_is_wrong_with_a_gpu() {
        for (settings, parts) in [
            (("VERSION", "11030"), ["CUDA 11.4 or newer", "got one for CUDA 11.3"]),
            (("CAPABILITY", "7.5"), ["cuda:0 (Emulated GPU): compute capability 7.5", "8.0 or newer"]),
            (("REFUSES", "machine code,PTX"), ["loading kernels", "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"]),
        ] {
            let text = doctor(&[settings]);
            assert!(parts.iter().all(|part| text.contains(part)), "{parts:?} in {text}");
        }
    }

    #[test]
    fn a_gpu_without_room_for_the_model_says_how_much_it_needs() {
        let output = run(&perplexity(&["--device", "cuda"]), &[("MEMORY", "100000")]);
        assert_refused(
            &output,
            &["cuda:0 (Emulated GPU)", "memory", "bytes for a buffer", "bytes free of 100000"],
        );
    }

    #[test]
    fn every_command_runs_on_a_gpu() {
        let measured = |args: &[&str]| {
            let short = ["--seq-len", "16", "--batch-size", "2", "--max-tokens", "64", "--format", "json"];
            let text = ["perplexity", MODEL[0], MODEL[1], "--text", path(&FILES.text)];
            let output = run(&[&text[..], &short, args].concat(), &[]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            serde_json::from_slice::<Value>(&output.stdout).unwrap()
        };
        for (dtype, limit) in [("auto", 2e-2), ("f16", 2e-3)] {
            let pruned = ["--dtype", dtype, "--prune-ratio", "0.4"];
            let on_gpu = measured(&[&["--device", "auto"], &pruned[..]].concat());
            let on_cpu = measured(&["--device", "cpu", "--prune-ratio", "0.4"]);
            assert_eq!((&on_gpu["device"], &on_gpu["threads"]), (&json!("cuda:0"), &json!(null)));
            assert_eq!(on_gpu["dtype"], if dtype == "auto" { "bf16" } else { dtype });
            let [gpu, cpu] = [on_gpu, on_cpu].map(|report| report["perplexity"].as_f64().unwrap());
            assert!((gpu / cpu - 1.0).abs() < limit, "{dtype}: {gpu} for {cpu}");
        }
        let generate =
            ["generate", MODEL[0], MODEL[1], "--prompt", "Once", "--max-new-tokens", "5", "--device"];
        let [gpu, cpu] = ["cuda", "cpu"].map(|device| run(&[&generate[..], &[device]].concat(), &[]).stdout);
        assert_eq!(String::from_utf8_lossy(&gpu), String::from_utf8_lossy(&cpu));
        let folder = tempfile::tempdir().unwrap();
        let [gpu, cpu] = ["cuda", "cpu"].map(|device| {
            let (data, out) = (["--text", path(&FILES.text)], folder.path().join(device));
            let short = ["--seq-len", "16", "--batch-size", "2", "--max-tokens", "64", "--rounds", "1"];
            let what = ["--variants", "pp", "--ratios", "0.4", "--format", "json", "--device", device];
            let sweep = [&["sweep"], &MODEL[..], &data, &short, &what, &["--out", path(&out)]].concat();
            let output = run(&sweep, &[]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            serde_json::from_slice::<Value>(&output.stdout).unwrap()
        });
        assert!(gpu["machine"].as_str().unwrap().contains("Emulated GPU"));
        let scored = |report: &Value| {
            let counts = report["runs"][0]["histograms"][1]["counts"].as_array().unwrap().clone();
            counts.iter().map(|count| count.as_u64().unwrap()).sum::<u64>()
        };
        assert_eq!(scored(&gpu), scored(&cpu));
        let [gpu, cpu] = [gpu, cpu].map(|report| report["rows"][1]["perplexity"].as_f64().unwrap());
        assert!((gpu / cpu - 1.0).abs() < 2e-2, "{gpu} for {cpu}");
    }
}
