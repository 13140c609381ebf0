#!/usr/bin/env python3
"""Deletes each barrier, wait and fence of cuda/*.cu and cuda/*.cuh in turn and demands that a test fails.

    tools/kernels/mutate.py [--sample N --seed S] [--only FILE] [--jobs N] [--list]

A mutant is __syncthreads(), __syncthreads_and/or/count(x), __syncwarp(), __threadfence() or cp_async_wait<N>() without
effect, or cp_async_wait<N + 1>(). The files that include it are compiled into a folder of their own, and the tests that their
headers name (Test: gpu_ops::module) run on that PTX in the emulator until one fails. Exit code 1 and a list if none did.

A mutant that leaves the PTX as it was is reported as equivalent. `// mutation: equivalent because ...` on a line exempts it.
nvcc as in tools/kernels/cuda.sh.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
CUDA = ROOT / "cuda"
NOTHING = "((void)0)"
LIMIT = 900  # seconds for a module's tests; the emulator itself ends endless loops
EXEMPT = re.compile(r"//\s*mutation: equivalent because\s+(\S.*)")


@dataclasses.dataclass(frozen=True)
class Mutant:
    file: str
    line: int
    start: int
    end: int
    replacement: str
    what: str
    exempt: str | None = None

    def __str__(self):
        return f"cuda/{self.file}:{self.line}: {self.what}"


def blank_comments(text):
    """The same text, as long, without comments and with strings emptied.

    >>> blank_comments('a; // b()\\n/* c\\n */ d("e//f")')
    'a;       \\n    \\n    d("    ")'
    """
    blank = lambda found: re.sub(r"[^\n]", " ", found)
    pattern = re.compile(r'//[^\n]*|/\*.*?\*/|"((?:\\.|[^"\\\n])*)"', re.S)
    return pattern.sub(lambda m: f'"{blank(m[1])}"' if m[1] is not None else blank(m[0]), text)


def closing(text, at):
    """The position of the bracket that closes the one at `at`; `->` and `>=` close nothing.

    >>> closing("f<(A > B ? 1 : 2) - 1>()", 1)
    21
    """
    opening, depth = "([{<", [text[at]]
    for i in range(at + 1, len(text)):
        c = text[i]
        if c in "([{" or (c == "<" and depth[-1] == "<"):
            depth.append(c)
        elif c in ")]}" or (c == ">" and depth[-1] == "<" and text[i - 1] != "-"):
            if depth and ")]}>".index(c) == opening.index(depth[-1]):
                depth.pop()
            if not depth:
                return i
    raise ValueError(f"nothing closes {text[at:at + 40]!r}")


def mutants(file, text):
    """Every mutant of a file.

    >>> [(m.line, m.what, m.replacement, m.exempt) for m in mutants("x.cu", '''
    ... template <int N> PRIMITIVE void cp_async_wait() { asm(""); }
    ... __syncthreads();  // __syncwarp()
    ... if (__syncthreads_or(a[f(i)] > 0)) cp_async_wait<STAGES - 2>();
    ... __syncwarp(1u); __threadfence_block(); // mutation: equivalent because one lane''')]  # doctest: +NORMALIZE_WHITESPACE
    [(3, 'without __syncthreads()', '((void)0)', None),
     (4, 'without __syncthreads_or(a[f(i)] > 0)', '(int)(a[f(i)] > 0)', None),
     (4, 'without cp_async_wait<STAGES - 2>()', '((void)0)', None),
     (4, 'cp_async_wait<STAGES - 2>() waits for one less', 'cp_async_wait<(STAGES - 2) + 1>()', None),
     (5, 'without __syncwarp(1u)', '((void)0)', 'one lane'),
     (5, 'without __threadfence_block()', '((void)0)', 'one lane')]
    """
    code, lines, found = blank_comments(text), text.split("\n"), []
    barrier = r"\b(__syncthreads(?:_and|_or|_count)?|__syncwarp|__threadfence(?:_block|_system)?)\s*(\()"
    for match in re.finditer(barrier + r"|\b(cp_async_wait)\s*(<)", code):
        bracket = match.start(2) if match[2] else match.start(4)
        end = closing(code, bracket)
        inside = text[bracket + 1:end]
        if match[4]:
            end = closing(code, code.index("(", end))
        line = text.count("\n", 0, match.start()) + 1
        exempt = EXEMPT.search(lines[line - 1])
        call = " ".join(text[match.start():end + 1].split())

        def add(replacement, what):
            reason = exempt and exempt[1]
            found.append(Mutant(file, line, match.start(), end + 1, replacement, what, reason))

        # A vote becomes this thread's own: nothing is waited for.
        voting = match[1] and match[1].startswith("__syncthreads_")
        add(f"(int)({inside})" if voting else NOTHING, f"without {call}")
        if match[4]:
            add(f"cp_async_wait<({inside}) + 1>()", f"{call} waits for one less")
    return found


def includes(file, sources):
    """Files of cuda/ that `file` includes, directly or not."""
    seen, queue = set(), [file]
    while queue:
        for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', sources[queue.pop()], re.M):
            if name in sources and name not in seen:
                seen.add(name)
                queue.append(name)
    return seen


def tests_of(text):
    """Modules that a header names.

    >>> tests_of('// Test: gpu_ops::norm, gpu_ops::rope')
    ['norm', 'rope']
    """
    line = re.search(r"^// Test: (.*)", text, re.M)
    return re.findall(r"gpu_ops::(\w+)", line[1]) if line else []


def instructions(ptx):
    """PTX without what only says where in the source it comes from."""
    ptx = re.sub(r"^\s*\.section\s+\.debug.*", "", ptx, flags=re.M | re.S)
    lines = (line.strip() for line in ptx.split("\n"))
    return [line for line in lines if line and not re.match(r"\.(loc|file)\b|\$L__tmp\d+:|//(?! ptx-emu)", line)]


class Failed(Exception):
    """Something that makes the result worthless."""


class Runner:
    def __init__(self, folder, jobs):
        self.jobs = jobs
        self.original = folder / "original"
        shutil.copytree(CUDA / "ptx", self.original)
        self.sources = {p.name: p.read_text() for p in CUDA.iterdir() if p.suffix in (".cu", ".cuh", ".h")}
        self.lock = threading.Lock()
        self.kills, self.compiled, self.sound = {}, set(), set()
        self.program = self.build()
        listed = subprocess.run([self.program, "--list"], capture_output=True, text=True, check=True, cwd=ROOT)
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

    def compile(self, folder, out, names):
        """None, or what nvcc says."""
        environment = dict(os.environ, CUDA_SOURCES=str(folder), JOBS=str(max(1, 2 // self.jobs)))
        command = [str(ROOT / "tools/kernels/cuda.sh"), "ptx-to", str(out), *names]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        return None if done.returncode == 0 else done.stderr or done.stdout

    def originals(self, names):
        """Their PTX as it is without any mutation, compiled once; what is not asked for is what is committed."""
        with self.lock:
            if names := [name for name in names if name not in self.compiled]:
                if said := self.compile(CUDA, self.original, names):
                    raise Failed(f"cuda/ cannot be compiled:\n{said}")
                self.compiled.update(names)

    def passes_unchanged(self, module):
        """Demands that a module's tests pass on the unchanged kernels: otherwise every mutant would seem caught."""
        with self.lock:
            if module not in self.sound:
                if failed := self.run(module, self.original):
                    raise Failed(f"gpu_ops::{module} fails on the unchanged kernels: {failed}")
                self.sound.add(module)

    def run(self, module, ptx):
        """None if every test of the module passes, otherwise the first that fails and why."""
        tests = [name for name in self.tests if name.startswith(f"{module}::")]
        if not tests:
            raise Failed(f"there is no test gpu_ops::{module}::...")
        threads = str(max(1, (os.cpu_count() or 1) // self.jobs))
        command = [self.program, "--exact", "--nocapture", "--test-threads", threads, *tests]
        environment = dict(os.environ, PROBEPRUNE_PTX=str(ptx), RUST_BACKTRACE="0")
        with tempfile.TemporaryFile("w+") as said:
            program = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=said, text=True
            )
            timer = threading.Timer(LIMIT, program.kill)
            timer.start()
            failed = None
            for line in program.stdout:
                if found := re.match(r"test (\S+) \.\.\. FAILED", line):
                    failed = found[1]
                    program.kill()
                    break
            program.stdout.close()
            code = program.wait()
            in_time = timer.is_alive()
            timer.cancel()
            said.seek(0)
            output = said.read()
        if failed:
            return f"{failed}: {reason(output)}"
        if code == 0:
            return None
        return f"{module}: {'ended with code ' + str(code) if in_time else f'more than {LIMIT} s'}: {reason(output)}"

    def judge(self, mutant):
        """("caught" | "equivalent" | "refused" | "SURVIVES", why)."""
        mutated = dict(self.sources)
        text = mutated[mutant.file]
        mutated[mutant.file] = text[:mutant.start] + mutant.replacement + text[mutant.end:]
        files = [
            name for name in sorted(self.sources)
            if name.endswith(".cu") and (name == mutant.file or mutant.file in includes(name, self.sources))
        ]
        modules = {}
        for name in files:
            for module in tests_of(self.sources[name]):
                modules.setdefault(module, []).append(name.removesuffix(".cu"))
        with self.lock:
            order = sorted(modules, key=lambda m: (-self.kills.get((mutant.file, m), 0), m))
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            (folder / "cuda").mkdir()
            for name, text in mutated.items():
                (folder / "cuda" / name).write_text(text)
            shutil.copytree(CUDA / "ptx", folder / "ptx")
            done, changed, ran = set(), set(), []
            for module in order:
                names = [name for name in modules[module] if name not in done]
                if names and (said := self.compile(folder / "cuda", folder / "ptx", names)):
                    return "refused", f"nvcc: {first(r'error.*', said)}"
                self.originals(names)
                done.update(names)
                for name in names:
                    before, after = (p / f"{name}.ptx" for p in (self.original, folder / "ptx"))
                    if instructions(before.read_text()) != instructions(after.read_text()):
                        changed.add(name)
                if not changed.intersection(modules[module]):
                    continue
                ran.append(module)
                if why := self.run(module, folder / "ptx"):
                    self.passes_unchanged(module)
                    with self.lock:
                        self.kills[mutant.file, module] = self.kills.get((mutant.file, module), 0) + 1
                    return "caught", why
        if not ran:
            return "equivalent", f"the PTX of {', '.join(files) or 'no file'} is the same"
        return "SURVIVES", f"every test of {', '.join(f'gpu_ops::{module}' for module in ran)} passes"


def first(pattern, text):
    found = re.search(pattern, text)
    return found[0] if found else text.strip()[-200:]


def reason(output):
    """The first panic's message, shortened.

    >>> reason("thread 'x' (12) panicked at tests/a.rs:1:2:\\nNormCase { a: 1 }: x: Race in kernel norm_bf16: write")
    'Race in kernel norm_bf16: write'
    """
    message = re.search(r"panicked at [^\n]*\n([^\n]*)", output)
    text = message[1] if message else output.strip()[-200:]
    emulator = re.search(r"\b\w+ in kernel .*", text)
    return (emulator[0] if emulator else text)[:160]


def main():
    parser = argparse.ArgumentParser(description="See the head of this file.")
    parser.add_argument("--sample", type=int, help="only this many, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--only", help="only mutants of this file of cuda/")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--list", action="store_true", help="print the mutants, try none")
    options = parser.parse_args()

    sources = {p.name: p.read_text() for p in sorted(CUDA.iterdir()) if p.suffix in (".cu", ".cuh")}
    only = options.only and pathlib.Path(options.only).name
    if only and only not in sources:
        raise Failed(f"there is no cuda/{only}")
    every = [m for name, text in sources.items() if not only or name == only for m in mutants(name, text)]
    chosen = [m for m in every if not m.exempt]
    for mutant in every:
        if mutant.exempt:
            print(f"exempt      {mutant}: {mutant.exempt}")
    if options.sample is not None and options.sample < len(chosen):
        chosen = sorted(random.Random(options.seed).sample(chosen, options.sample), key=every.index)
    if options.list:
        print("\n".join(map(str, chosen)))
        return 0

    for name, text in sources.items():
        if name.endswith(".cu") and not tests_of(text):
            raise Failed(f"cuda/{name}: its header names no test")
    outcomes = {}
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(pathlib.Path(folder), options.jobs)
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            tried = {pool.submit(runner.judge, mutant): mutant for mutant in chosen}
            for one in concurrent.futures.as_completed(tried):
                outcome, why = one.result()
                outcomes.setdefault(outcome, []).append((tried[one], why))
                print(f"{outcome:<11} {tried[one]}\n            {why}", flush=True)
    counts = ", ".join(f"{len(those)} {outcome}" for outcome, those in sorted(outcomes.items()))
    print(f"\n{len(chosen)} mutants of {len(every)}: {counts or 'none'}; {sum(bool(m.exempt) for m in every)} exempt")
    for heading in ("equivalent", "SURVIVES"):
        for mutant, why in sorted(outcomes.get(heading, []), key=lambda pair: every.index(pair[0])):
            print(f"{heading:<11} {mutant}: {why}")
    return 1 if "SURVIVES" in outcomes or "refused" in outcomes else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as error:
        print(f"mutate: {error}", file=sys.stderr)
        sys.exit(2)
