"""The test program gpu_ops, run on other PTX than the one it was built for."""

import functools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time

from mutants import Failed, Refused
from ptx_kernels import ENTRY

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMIT = 900  # seconds for anything
SLOWER = 4  # times as much processor time as tests need is an endless loop,
LEAST = 10  # but not less than so many seconds


class GpuOps:
    """`ptx` is the folder of the unchanged PTX, `named` the modules of tests that each module of kernels names."""

    def __init__(self, folder, jobs, ptx, named):
        self.folder, self.jobs, self.ptx, self.named = folder, jobs, ptx, named
        self.lock = threading.Lock()
        # Of tests: mutants that they caught, seconds.
        self.kills, self.seconds, self.measured, self.ran = {}, {}, set(), {}
        # Of a module of tests and a module of kernels: the tests that launch them.
        self.launching = {}

    def prepare(self, program=None):
        # A copy: a build meanwhile would replace it.
        self.program = shutil.copy(program or self.build(), self.folder / "gpu_ops")
        listed = subprocess.run([self.program, "--list"], capture_output=True, text=True, cwd=ROOT)
        self.tests = [line.removesuffix(": test") for line in listed.stdout.splitlines() if line.endswith(": test")]

    def build(self):
        command = ["cargo", "test", "--release", "--locked", "--test", "gpu_ops", "--no-run", "--message-format=json"]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        for message in messages:
            if message["reason"] == "compiler-artifact" and message["target"]["name"] == "gpu_ops":
                if message["executable"]:
                    return message["executable"]
        raise Failed("the test program gpu_ops cannot be built")

    def measure(self, module, once):
        """Notes how long a module's tests take, `once` under one schedule. They have to pass on the unchanged kernels:
        otherwise every mutant would seem caught."""
        with self.lock:
            if (module, once) not in self.measured:
                failed = self.run(module, self.tests_in(module), self.ptx, LIMIT, once, one_by_one=True)
                if failed:
                    raise Failed(f"gpu_ops::{module} fails on the unchanged kernels: {failed}")
                self.measured.add((module, once))

    def limit(self, tests, once):
        """Seconds of processor time that tests may take."""
        return max(LEAST, round(SLOWER * sum(self.seconds[test, once] for test in tests)))

    def tests_in(self, module):
        tests = [name for name in self.tests if name.startswith(f"{module}::")]
        if not tests:
            raise Failed(f"there is no test gpu_ops::{module}::...")
        return tests

    def run(self, module, tests, ptx, limit, once, one_by_one=False):
        """None if these tests pass within `limit` seconds of processor time, otherwise the first that fails and why. One by
        one, the time of each is noted."""
        threads = "1" if one_by_one else str(max(1, (os.cpu_count() or 1) // self.jobs))
        limited = ["bash", "-c", 'ulimit -S -t "$0" && exec "$@"', str(limit)]
        command = [*limited, self.program, "--exact", "--nocapture", "--test-threads", threads, *tests]
        with tempfile.TemporaryFile("w+") as said:
            program = subprocess.Popen(
                command, cwd=ROOT, env=environment(ptx, once), stdout=subprocess.PIPE, stderr=said, text=True
            )
            # Not `program.kill`, which may take the exit status that is asked for below.
            kill = functools.partial(os.kill, program.pid, signal.SIGKILL)
            timer = threading.Timer(LIMIT, kill)
            timer.daemon = True
            timer.start()
            failed, started, before = None, False, time.monotonic()
            for line in program.stdout:
                started = started or line.startswith("running ")
                if one_by_one and (passed := re.match(r"test (\S+) \.\.\. ", line)):
                    now = time.monotonic()
                    self.seconds[passed[1], once], before = now - before, now
                if found := re.match(r"test (\S+) \.\.\. FAILED", line):
                    failed = found[1]
                    kill()
                    break
            program.stdout.close()
            _, status = os.waitpid(program.pid, 0)
            code = program.returncode = os.waitstatus_to_exitcode(status)
            in_time = timer.is_alive()
            timer.cancel()
            said.seek(0)
            output = said.read()
        if not started or not in_time:
            raise Failed(f"the tests gpu_ops::{module} do not {'end' if started else 'start'}: {output[-300:]}")
        if unread := re.search(r"PTX line \d+: .*", output):  # faults give the line in other words
            raise Refused(f"emulator: {unread[0]}")
        if failed:
            return f"{failed}: {reason(output)}"
        if code == -signal.SIGXCPU:
            return f"{module}: more than {limit} s of processor time"
        return f"{module}: ended with code {code}: {reason(output)}" if code else None

    def tests_that_launch(self, module, names):
        """A module's tests that need any of these kernels: they fail where there are none."""
        if sum(module in modules for modules in self.named.values()) == 1:
            return self.tests_in(module)
        with self.lock:
            for name in names:
                if (module, name) not in self.launching:
                    self.launching[module, name] = self.failing_without(module, name)
            return set().union(*(self.launching[module, name] for name in names))

    def failing_without(self, module, name):
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            ptx = pathlib.Path(folder, "ptx")
            shutil.copytree(self.ptx, ptx)
            (ptx / f"{name}.ptx").write_text(ENTRY.sub("", (self.ptx / f"{name}.ptx").read_text()))
            tests = self.tests_in(module)
            command = [self.program, "--exact", "--test-threads", "1", *tests]
            try:
                done = subprocess.run(
                    command, cwd=ROOT, env=environment(ptx, True), capture_output=True, text=True, timeout=LIMIT
                )
            except subprocess.TimeoutExpired:
                raise Failed(f"the tests gpu_ops::{module} do not end without cuda/{name}.cu") from None
        results = re.findall(r"^test (\S+) \.\.\. (ok|FAILED)$", done.stdout, re.M)
        if len(results) != len(tests):
            raise Failed(f"the tests gpu_ops::{module} stop without cuda/{name}.cu: {done.stderr[-300:]}")
        return {test for test, result in results if result == "FAILED"}

    def try_tests(self, module, names, ptx, once=False, quick=False):
        """None if a module's tests of these kernels pass, otherwise why not. Those that are quick or failed often go first;
        `quick` leaves it at them."""
        self.measure(module, once)
        launching = self.tests_that_launch(module, names)
        tests = sorted(launching, key=lambda test: self.seconds[test, once] / (1 + self.kills.get(test, 0)))
        failed = None
        for part in (tests[:2], tests[2:6], [] if quick else tests[6:]):
            if part and not failed:
                failed = self.run(module, part, ptx, self.limit(part, once), once)
        if failed:
            with self.lock:
                test = failed.split(": ")[0]
                self.kills[test] = self.kills.get(test, 0) + 1
        return failed

    def try_new(self, module, ptx, changed, once, quick=False):
        """As `try_tests`; what ran before on the same instructions does not run again."""
        what = module, once, quick, tuple(sorted(changed.items()))
        if what not in self.ran:
            self.ran[what] = self.try_tests(module, changed, ptx, once, quick)
        return self.ran[what]


def environment(ptx, once):
    """That the tests take their kernels from a folder, and run them under one schedule if `once`."""
    schedules = {"PROBEPRUNE_TEST_KERNELS": "once"} if once else {}
    return dict(os.environ, PROBEPRUNE_PTX=str(ptx), RUST_BACKTRACE="0", **schedules)


def reason(output):
    """The first panic's message, shortened.

    >>> reason("thread 'x' (12) panicked at tests/a.rs:1:2:\\nNormCase { a: 1 }: x: Race in kernel norm_bf16: write")
    'Race in kernel norm_bf16: write'
    """
    message = re.search(r"panicked at [^\n]*\n([^\n]*)", output)
    text = message[1] if message else output.strip()[-200:]
    emulator = re.search(r"\b\w+ in kernel .*", text)
    return (emulator[0] if emulator else text)[:160]
