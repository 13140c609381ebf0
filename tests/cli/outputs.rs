//! Files and streams that cannot be written, readers that leave, and interrupts.

use std::{
    fs::{self, File},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::json;

use crate::{FILES, MODEL, PROGRAM, common::models::Folder, path, perplexity, program, refused, stdout};

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
        let output = Command::new(PROGRAM).args(args).stdout(full).stderr(Stdio::piped()).output().unwrap();
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
        let mut child =
            Command::new(PROGRAM).args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
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
    let mut child = Command::new(PROGRAM)
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
    let signalled = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(signalled.success(), "it was still running");
    assert!(!child.wait().unwrap().success());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Templates with transformers' tag for training, and with a message written as JSON.
#[test]
fn chat_with_constructs_of_transformers() {
    for template in [
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
        "{% for m in messages %}{{ {'c': m.content} | tojson }}{% endfor %}",
    ] {
        let folder = Folder::llama();
        folder.write("tokenizer_config.json", json!({ "chat_template": template }).to_string());
        let model = folder.path().to_str().unwrap();
        program(["generate", "--model", model, "--prompt", "Hi", "--chat", "--max-new-tokens", "1"])
            .assert()
            .success();
    }
}
