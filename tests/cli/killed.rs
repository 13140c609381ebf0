//! Runs that are killed, and runs that meet: nothing is lost, and nothing stays behind.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};

use crate::{PROGRAM, calibrate_to, path, program, refused, stdout, sweep::sweep};

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn two_sweeps_do_not_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path();
    let one = ["--variants", "pp", "--ratios", "0.4,0.5"];
    let rounds = |count| {
        let mut args = sweep(out, &one);
        let at = args.iter().position(|arg| *arg == "--rounds").unwrap();
        args[at + 1] = count;
        args
    };
    let long = rounds("100000");
    let mut first =
        Command::new(PROGRAM).args(&long).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let lock = out.join("sweep.lock");
    let start = Instant::now();
    let held = || fs::File::open(&lock).is_ok_and(|file| file.try_lock().is_err());
    while !held() {
        assert!(start.elapsed() < Duration::from_secs(30), "the first sweep is at work");
        sleep(Duration::from_millis(10));
    }
    let parts = [path(out), "no other sweep at work", "has not ended", "--out"];
    refused(&rounds("1"), &parts);
    refused(&long, &parts);
    first.kill().unwrap();
    first.wait().unwrap();
    // The system has taken the lock back.
    stdout(rounds("1"));
    assert_eq!(fs::read_to_string(out.join("runs.jsonl")).unwrap().lines().count(), 3);
    assert_eq!(names(out), ["report.html", "runs.jsonl", "sweep.csv", "sweep.json", "sweep.lock"]);
}

#[test]
fn leftovers_of_killed_runs_are_removed_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let old = |path: &Path| {
        let file = fs::File::open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(5)).unwrap();
    };
    let (file, made) = (folder.path().join(".probeprune-aB3dE6"), folder.path().join(".probeprune-Zy9xW8"));
    fs::write(&file, "half").unwrap();
    fs::create_dir(&made).unwrap();
    fs::write(made.join("config.json"), "{}").unwrap();
    old(&file);
    old(&made);
    let out = folder.path().join("history.safetensors");
    program(calibrate_to(&out)).assert().success();
    assert_eq!(names(folder.path()), ["history.safetensors"]);
}

#[test]
fn calibrating_twice_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = ["first", "second"].map(|name| {
        let out = folder.path().join(name);
        let more = ["--fold", "--compensate", "linear:4", "--losses", "pp"];
        program([&calibrate_to(&out)[..], &more].concat()).assert().success();
        fs::read(out).unwrap()
    });
    assert!(bytes[0] == bytes[1]);
}
