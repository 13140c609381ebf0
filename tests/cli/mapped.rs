//! Which files a running program has mapped.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use probeprune::output::{OutTensor, write_safetensors};

use crate::{PROGRAM, common::models::Folder, path, stdout};

/// The mappings of a run that has its model and history, and measures.
fn mappings(args: &[&str]) -> String {
    let mut child =
        Command::new(PROGRAM).args(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let notes = BufReader::new(child.stderr.take().unwrap());
    // A note about the session follows after the history is read.
    let note = notes.lines().map(Result::unwrap).find(|line| line.contains("the probe of a batch"));
    let maps = fs::read_to_string(format!("/proc/{}/maps", child.id())).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    note.expect("a note");
    maps
}

#[test]
fn no_file_is_mapped_unless_it_may_be() {
    let folder = Folder::llama();
    let (tokens, history) = (folder.file("tokens"), folder.file("history"));
    let ids: Vec<u32> = (0..512).map(|i| 3 + i % 250).collect();
    write_safetensors(&tokens, &[("ids".to_string(), OutTensor::i32(&ids))], None).unwrap();
    let model = ["--model", path(folder.path()), "--device", "cpu", "--threads", "1", "--seq-len", "32"];
    let tokens = format!("{}:ids", path(&tokens));
    let tokens = ["--tokens", &tokens];
    stdout([&["calibrate"], &model[..], &tokens, &["--fold", "--out", path(&history)]].concat());
    let pruned = ["--prune-ratio", "0.4", "--skip-layers", "none", "--history", path(&history)];
    let run = [&["perplexity"], &model[..], &tokens, &pruned, &["--warmup-batches", "100000"]].concat();
    let maps = mappings(&run);
    assert!(
        maps.contains(path(&folder.file("model.safetensors"))) && maps.contains(path(&history)),
        "{maps}"
    );
    let maps = mappings(&[&run[..], &["--no-mmap"]].concat());
    assert!(!maps.contains(path(folder.path())), "{maps}");
}
