//! `--dense-below`: a number of tokens, or auto.

use serde_json::Value;

use crate::{FILES, json_of, path, perplexity, program, refused};

#[test]
fn auto_is_reported_and_counted() {
    let report = |args: &[&str]| json_of(&[&["--prune-ratio", "0.4"], args].concat());
    let auto = report(&["--dense-below", "auto"]);
    assert_eq!(auto["settings"]["dense_below"], Value::from("auto"));
    // In a model of this size no probe pays: all batches are those of the dense model.
    assert_eq!(auto["dense_batches"], 3);
    assert_eq!(auto["batch_losses"], json_of(&[])["batch_losses"]);
    let number = report(&["--dense-below", "3"]);
    assert_eq!((&number["settings"]["dense_below"], &number["dense_batches"]), (&3.into(), &0.into()));
    assert_eq!(report(&[])["settings"]["dense_below"], 0);
}

#[test]
fn what_is_neither_a_number_nor_auto_is_refused() {
    let output = program(perplexity(&["--prune-ratio", "0.4", "--dense-below", "some"])).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    for part in ["--dense-below", "a number of tokens, or auto", "some"] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    let generate = ["--prune-ratio", "0.4", "--dense-below", "auto", "--prompt-tokens", "8"];
    let history = ["--history", path(&FILES.history)];
    refused(
        &perplexity(&[&generate[..], &history].concat()),
        &["--dense-below", "0 where text is generated", "got auto"],
    );
}
