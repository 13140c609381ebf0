//! The goals as tools/peers/goals.py runs them: as a library, on the caller's stream, with rivals behind callbacks; at
//! reduced shapes on the emulated driver.

#![cfg(target_os = "linux")]
#![allow(unreachable_pub)]

#[path = "common/emulated_cuda.rs"]
mod emulated_cuda;

use std::{
    ffi::{CString, c_char, c_int, c_void},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use emulated_cuda::on_emulated_driver;
use serde_json::{Value, json};

/// Set in a child process to the behaviour of its rivals.
const CHILD: &str = "PROBEPRUNE_TEST_RIVALS";
const ROWS: &str = "PROBEPRUNE_TEST_ROWS";
/// Set to "cuda" where tests are to run on a GPU only.
const DEVICE: &str = "PROBEPRUNE_TEST_DEVICE";

#[repr(C)]
struct Callbacks {
    prepare: extern "C" fn(*const c_char, *const i64, usize, *mut c_char, usize) -> i64,
    issue: extern "C" fn(i64) -> i32,
    release: extern "C" fn(i64),
}

extern "C" fn prepare(_: *const c_char, _: *const i64, count: usize, text: *mut c_char, room: usize) -> i64 {
    let said = b"an idle rival\0";
    assert!(count > 0 && room >= said.len());
    // SAFETY: there is room for as many bytes.
    unsafe { std::ptr::copy_nonoverlapping(said.as_ptr(), text.cast(), said.len()) };
    7
}

extern "C" fn issue(handle: i64) -> i32 {
    i32::from(handle != 7)
}

extern "C" fn refuse(_: i64) -> i32 {
    1
}

extern "C" fn release(handle: i64) {
    assert_eq!(handle, 7);
}

/// The library, which cargo builds with all tests.
fn library() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let library = tests.parent().unwrap().with_file_name("examples").join("libgoals.so");
    assert!(library.is_file(), "{}: cargo build --example goals", library.display());
    library
}

/// Calls the library; its code.
fn call(rows: &Path, issue: Option<extern "C" fn(i64) -> i32>) -> c_int {
    type Goals = unsafe extern "C" fn(*const c_char, *mut c_void, *const Callbacks) -> c_int;
    let options = json!({
        "goals": (1..=15).collect::<Vec<_>>(), "rows": rows, "step": "a test", "rounds": 1, "reduced": true,
    });
    let options = CString::new(options.to_string()).unwrap();
    let callbacks = issue.map(|issue| Callbacks { prepare, issue, release });
    let pointer = callbacks.as_ref().map_or(std::ptr::null(), |callbacks| &raw const *callbacks);
    // SAFETY: built from this package, with this signature; the null stream is the legacy default one.
    unsafe {
        let library = libloading::Library::new(library()).unwrap();
        let goals = library.get::<Goals>(b"probeprune_goals").unwrap();
        goals(options.as_ptr(), std::ptr::null_mut(), pointer)
    }
}

/// Runs the test called `name` in a child with these rivals and so many devices; the rows that it wrote.
fn rows(name: &str, rivals: &str, devices: u8) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let rows = folder.path().join("rows.jsonl");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]).env(CHILD, rivals).env(ROWS, &rows);
    if std::env::var(DEVICE).is_ok_and(|device| device == "cuda") {
        if devices == 0 {
            command.env("CUDA_VISIBLE_DEVICES", "");
        }
    } else {
        on_emulated_driver(&mut command, &[("DEVICES", &devices.to_string())]);
    }
    let output = command.output().unwrap();
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    let text = fs::read_to_string(rows).unwrap();
    assert!(text.ends_with('\n'));
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let numbers: Vec<u64> = rows.iter().map(|row| row["goal"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=15).collect::<Vec<_>>(), "one line for each row that was asked for");
    for row in &rows {
        assert_eq!((&row["step"], &row["reduced"]), (&json!("a test"), &json!(true)));
        assert!(row["status"] == "passed" || row["why"].is_string(), "{row}");
        assert!(row["met"].is_null(), "reduced shapes meet no goal: {row}");
    }
    rows
}

/// The body of a child process.
fn child(code: c_int) -> Option<String> {
    let rivals = std::env::var(CHILD).ok()?;
    let issue = match rivals.as_str() {
        "idle" => Some(issue as extern "C" fn(i64) -> i32),
        "broken" => Some(refuse as extern "C" fn(i64) -> i32),
        _ => None,
    };
    assert_eq!(call(std::env::var_os(ROWS).unwrap().as_ref(), issue), code);
    Some(rivals)
}

fn statuses(rows: &[Value], numbers: &[usize]) -> Vec<String> {
    numbers.iter().map(|number| rows[number - 1]["status"].as_str().unwrap().to_string()).collect()
}

#[test]
fn every_row_is_measured_beside_rivals_on_one_stream() {
    if child(0).is_some() {
        return;
    }
    let rows = rows("every_row_is_measured_beside_rivals_on_one_stream", "idle", 1);
    for number in [1, 2, 6, 7, 8, 10, 11, 13, 15] {
        let row = &rows[number - 1];
        assert_eq!(row["status"], "passed", "{row}");
        assert_eq!(row["peer"], "an idle rival");
        let values = row["target"].as_array().unwrap().len();
        for list in ["value", "quartiles", "own_seconds", "peer_seconds"] {
            assert_eq!(row[list].as_array().unwrap().len(), values, "{list} of {row}");
        }
        assert!(row["own_seconds"][0].as_f64().unwrap() > 0.0);
    }
    for number in [1, 2, 10, 11] {
        let own = &rows[number - 1]["own_dense"];
        assert_eq!(
            own["value"].as_array().unwrap().len(),
            rows[number - 1]["value"].as_array().unwrap().len()
        );
    }
    assert_eq!(statuses(&rows, &[14]), ["passed"]);
}

#[test]
fn without_pytorch_rows_say_so_and_the_rest_is_measured() {
    if child(0).is_some() {
        return;
    }
    let rows = rows("without_pytorch_rows_say_so_and_the_rest_is_measured", "none", 1);
    for number in [1, 2, 8, 10, 11, 13, 15] {
        let row = &rows[number - 1];
        assert_eq!((&row["status"], &row["value"]), (&json!("not run"), &Value::Null));
        assert!(row["why"].as_str().unwrap().contains("PyTorch"), "{row}");
    }
    for number in [1, 2, 10, 11] {
        assert!(rows[number - 1]["own_dense"]["seconds"].as_f64().unwrap() > 0.0, "{}", rows[number - 1]);
    }
    assert_eq!(statuses(&rows, &[14]), ["passed"]);
}

#[test]
fn a_row_that_fails_does_not_end_the_others() {
    if child(1).is_some() {
        return;
    }
    let rows = rows("a_row_that_fails_does_not_end_the_others", "broken", 1);
    assert_eq!(statuses(&rows, &[1, 2, 14, 15]), ["failed", "failed", "passed", "failed"]);
    assert!(rows[0]["why"].as_str().unwrap().contains("PyTorch failed"), "{}", rows[0]);
}

#[test]
fn without_a_gpu_every_row_says_so() {
    if child(0).is_some() {
        return;
    }
    for row in rows("without_a_gpu_every_row_says_so", "none", 0) {
        assert_eq!(row["status"], "not run");
        assert!(row["why"].as_str().unwrap().starts_with("no GPU"), "{row}");
    }
}
