#!/usr/bin/env python3
"""Checks the package for a machine with a GPU by its dry runs: that every step runs and says what it did.

Usage: tools/gpu/check.py ARCHIVE

Runs tools/gpu/run.sh on the emulated driver and demands that every step that can run here passed with as many cases as it
has, that rows.jsonl has a line for each goal, that a failure, a missing GPU and a timeout are told as what they are, and
that whole lines are there whenever the script is killed. Prints one line per check; exit code 1 if one fails.
"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
RUN = os.path.join(HERE, "run.sh")
STATUSES = {"passed", "failed", "timeout", "not run"}
# At least so many cases of each step of correctness; run.sh has limits of its own, which are not taken on trust here.
CASES = {"conformance": 39, "operations": 120, "driver": 40, "models": 11, "large": 4}
# What a machine without PyTorch cannot do.
WITHOUT_PYTORCH = {"layer-pair", "goals-cpu"}
GOALS = set(range(1, 19))


def read(path):
    """The rows of a file; every line has to be whole."""
    with open(path, encoding="utf-8") as f:
        text = f.read()
    assert text == "" or text.endswith("\n"), f"the last line is cut off: {text[-200:]!r}"
    rows = [json.loads(line) for line in text.splitlines()]
    for row in rows:
        assert row["status"] in STATUSES and row["step"], row
        if "goal" in row:
            assert {"value", "peer", "prediction"} <= row.keys(), row
            assert row["status"] != "passed" or row["value"] is not None, row
            assert row["status"] == "passed" or row.get("why"), row
    return rows


def run(archive, out, *args, env=None):
    command = [RUN, "--archive", archive, "--out", out, "--dry-run", *args]
    done = subprocess.run(command, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(done.stdout, flush=True)
    return done.returncode, read(os.path.join(out, "rows.jsonl"))


def steps(rows):
    return {row["step"]: row for row in rows if "goal" not in row}


def whole_runs(archive, folder):
    """Both lists of steps, to their end."""
    measured = {}
    for name, args in (("first", ()), ("more", ("--more",))):
        out = os.path.join(folder, name)
        code, rows = run(archive, out, *args)
        ran = steps(rows)
        for step, row in ran.items():
            allowed = {"passed"} | ({"not run"} if step in WITHOUT_PYTORCH else set())
            assert row["status"] in allowed, row
            assert row["reduced"] is True, f"a dry run says that it is one: {row}"
            assert row.get("cases", 0) >= (CASES.get(step, 0) if row["status"] == "passed" else 0), row
        if name == "first":
            assert CASES.keys() <= ran.keys(), ran.keys()
        assert code == 0, code
        goals = [row["goal"] for row in rows if "goal" in row]
        assert sorted(goals) == sorted(GOALS), f"a line for each goal: {goals}"
        measured |= {row["goal"]: row for row in rows if "goal" in row and row["status"] == "passed"}
        files = os.listdir(out)
        assert sorted(files) == ["logs.tar.zst", "rows.jsonl"], files
        logs = subprocess.run(f"zstd -dqc {out}/logs.tar.zst | tar -t", shell=True, check=True, text=True,
                              stdout=subprocess.PIPE).stdout
        for step in (step for step, row in ran.items() if "rc" in row):
            assert f"logs/{step}.log" in logs, f"{step} has a log: {logs}"
    assert measured[9]["clocks"]["after"]["sm_mhz"] == 1, measured[9]
    # All that needs no PyTorch, by the code that measures it on a GPU.
    assert GOALS - {16, 17, 18} <= measured.keys(), measured.keys()
    print(f"ok: every step of both lists; goals measured on the emulated driver: {sorted(measured)}")


def a_missing_gpu(archive, folder):
    """Nothing may pass for a GPU that is not there."""
    code, rows = run(archive, os.path.join(folder, "none"), "--steps", "doctor,operations,goals-products",
                     env={"EMULATED_CUDA_DEVICES": "0"})
    ran = steps(rows)
    assert code == 2 and ran.keys() == {"machine", "doctor", "operations", "goals-products"}, rows
    assert ran["doctor"]["status"] == "failed" and ran["operations"]["status"] == "not run", rows
    assert all(row["status"] == "not run" for row in rows if "goal" in row), rows
    code, rows = run(archive, os.path.join(folder, "none"), "--steps", "operations,models,driver",
                     env={"EMULATED_CUDA_DEVICES": "0"})
    assert code == 1, code
    for step in ("operations", "models", "driver"):
        assert steps(rows)[step]["status"] == "failed", rows
    print("ok: without a GPU nothing passes")


def out_of_time(archive, folder):
    code, rows = run(archive, os.path.join(folder, "late"), "--steps", "operations,goals-products", "--budget", "12")
    ran = steps(rows)
    assert code == 1 and ran["operations"]["status"] == "timeout", rows
    assert ran["operations"]["seconds"] < 20 and len([row for row in rows if "goal" in row]) == len(GOALS), rows
    print("ok: a step that takes too long ends, and the next one runs")


def killed(archive, folder):
    """Whole lines, whenever it ends."""
    out = os.path.join(folder, "killed")
    seen = set()
    for i, seconds in enumerate((0.2, 1.5, 2, 2.5, 3, 4, 6, 9)):
        sent = (signal.SIGTERM, signal.SIGKILL)[i % 2]
        process = subprocess.Popen([RUN, "--archive", archive, "--out", out, "--dry-run"], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(seconds)
        process.send_signal(sent)
        process.wait()
        if sent == signal.SIGTERM:
            # Its steps have process groups of their own: they are known by the package that they ran from.
            left = subprocess.run(["pgrep", "-f", "/tree/bin/"], stdout=subprocess.PIPE, text=True).stdout.split()
            assert not left, f"killed after {seconds} s, it left processes behind: {left}"
        else:
            subprocess.run(["pkill", "-KILL", "-f", "/tree/bin/"])
        path = os.path.join(out, "rows.jsonl")
        if os.path.exists(path):
            seen |= {row["step"] for row in read(path)}
            os.remove(path)
    assert {"machine", "doctor", "conformance"} <= seen, seen
    print(f"ok: killed at eight moments, whole lines of {sorted(seen)}")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    archive = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        # What is killed cannot take away what it unpacked.
        os.environ["TMPDIR"] = folder
        for check in (whole_runs, a_missing_gpu, out_of_time, killed):
            check(archive, folder)


if __name__ == "__main__":
    main()
