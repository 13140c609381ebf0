#!/usr/bin/env python3
"""Makes one small mistake at a time in cuda/*.cu and cuda/*.cuh and demands that a test fails.

    tools/kernels/mutate.py --sample N [--seed S]            so many mutants, of all files and operators
    tools/kernels/mutate.py --all --results FILE             every mutant; goes on where an earlier run ended
    tools/kernels/mutate.py --summary --results FILE         counts and survivors of such runs
    --only FILE  --one-kernel  --again  --jobs N  --list  --tests PROGRAM: see --help

The operators are in mutations.py. The files that include a mutant are compiled into a folder of their own, and the tests that
their headers name (Test: gpu_ops::module) run on that PTX in the emulator until one fails (gpu_ops.py). Of a module with many
kernels few_kernels.py picks some that are compiled and tried first. With --one-kernel only one of the kernels is exchanged,
so that the mistake is in one variant and dtype alone. Exit code 1 and a list if no test failed.

A mutant that leaves the PTX as it was is equivalent, one that nvcc or the emulator cannot read is refused. mutants.txt has
those that are known to be equivalent or need no test. nvcc as in tools/kernels/cuda.sh; cuda/ptx has to be fresh.
"""

import argparse
import concurrent.futures
import functools
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

import few_kernels
from gpu_ops import LIMIT, ROOT, GpuOps
from mutants import Failed, Refused, Results, check_known, in_one_entry, includes, known, mutants, sample
from ptx_kernels import ENTRY, digest, instructions, with_entries

CUDA = ROOT / "cuda"
KNOWN = pathlib.Path(__file__).with_name("mutants.txt")


def tests_of(text):
    """Modules that a header names.

    >>> tests_of('// Test: gpu_ops::norm, gpu_ops::rope')
    ['norm', 'rope']
    """
    line = re.search(r"^// Test: (.*)", text, re.M)
    return re.findall(r"gpu_ops::(\w+)", line[1]) if line else []


def cuda_sources():
    """Texts of the files of cuda/, by name."""
    return {p.name: p.read_text() for p in sorted(CUDA.iterdir()) if p.suffix in (".cu", ".cuh", ".h")}


class Runner:
    def __init__(self, folder, jobs, sources):
        self.folder, self.sources = folder, sources
        self.original = CUDA / "ptx"
        self.lock = threading.Lock()
        self.kills = {}  # of files and modules of tests
        self.named = {name.removesuffix(".cu"): tests_of(text) for name, text in self.sources.items() if name.endswith(".cu")}
        self.gpu_ops = GpuOps(folder, jobs, self.original, self.named)

    def prepare(self, program=None):
        """Demands a test program and a compiler."""
        self.gpu_ops.prepare(program)
        compiler = subprocess.run([ROOT / "tools/kernels/cuda.sh", "nvcc"], capture_output=True, text=True)
        if compiler.returncode:
            raise Failed(f"there is no nvcc: {compiler.stderr}")

    def compile(self, folder, out, name):
        environment = dict(os.environ, CUDA_SOURCES=str(folder), JOBS="1")
        command = ["timeout", str(LIMIT), ROOT / "tools/kernels/cuda.sh", "ptx-to", out, name]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise Refused(f"nvcc: {first(r'error.*', done.stderr or done.stdout)}")
        return (out / f"{name}.ptx").read_text()

    def affected(self, file):
        """Names of the modules that a file is part of."""
        return [
            name.removesuffix(".cu") for name in sorted(self.sources)
            if name.endswith(".cu") and (name == file or file in includes(name, self.sources))
        ]

    @functools.cache
    def unchanged(self, name):
        """A module's PTX, and its instructions."""
        text = (self.original / f"{name}.ptx").read_text()
        return text, instructions(text)

    @functools.cache
    def kernels(self, name):
        return [match[1] for match in ENTRY.finditer(self.unchanged(name)[0])]

    @functools.cache
    def few(self, name):
        """Kernels of a module that a mistake is tried in first, where it has so many that compiling all takes long."""
        return few_kernels.one_of_each(self.kernels(name)) if len(self.kernels(name)) > 4 else set()

    def entries(self, file):
        """Modules and kernels that a file is part of."""
        return [(name, kernel) for name in self.affected(file) for kernel in self.kernels(name)]

    def prepare_folder(self, folder, texts):
        """Sources, room for what is made of them, and the unchanged PTX."""
        for part in ("cuda", "made", "ptx"):
            (folder / part).mkdir(parents=True)
        for file, text in texts.items():
            (folder / "cuda" / file).write_text(text)
        for path in self.original.iterdir():
            (folder / "ptx" / path.name).symlink_to(path)

    def first_try(self, module, name, texts, folder, once):
        """As `GpuOps.try_new`, with the mistake in few kernels of the module `name` alone, and quick tests."""
        folder = folder / f"few_{module}_{name}"
        used = [texts[f"{name}.cu"], *(texts[file] for file in includes(f"{name}.cu", texts))]
        few = few_kernels.only(texts[f"{name}.cu"], few_kernels.macros(used), self.few(name))
        self.prepare_folder(folder, texts | {f"{name}.cu": few})
        before, expected = self.unchanged(name)
        after = with_entries(before, self.compile(folder / "cuda", folder / "made", name), self.few(name))
        if (made := instructions(after)) == expected:
            return None
        replace(folder / "ptx" / f"{name}.ptx", after)
        return self.gpu_ops.try_new(module, folder / "ptx", {name: digest(made)}, once, quick=True)

    def judge(self, mutant):
        """("caught" | "equivalent" | "refused" | "SURVIVES", why)."""
        try:
            return self.outcome(mutant)
        except Refused as why:
            return "refused", str(why)

    def outcome(self, mutant):
        names = [mutant.entry[0]] if mutant.entry else self.affected(mutant.file)
        size = {name: (self.original / f"{name}.ptx").stat().st_size for name in names}
        modules = {}
        for name in names:
            for module in self.named[name]:
                modules.setdefault(module, []).append(name)
        with self.lock:  # what fails often first, then what compiles and runs fast
            often = {module: self.kills.get((mutant.file, module), 0) for module in modules}
        order = sorted(modules, key=lambda module: (-often[module], sum(size[name] for name in modules[module])))
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            folder = pathlib.Path(folder)
            text = self.sources[mutant.file]
            texts = self.sources | {mutant.file: text[:mutant.start] + mutant.replacement + text[mutant.end:]}
            self.prepare_folder(folder, texts)
            done, changed, ran = set(), {}, []
            # The schedule matters to barriers alone.
            once = mutant.operator != "barrier"

            few = {m: [name for name in modules[m] if self.few(name) and not mutant.entry] for m in order}

            def try_few(module):
                for name in few[module]:
                    if why := self.first_try(module, name, texts, folder, once):
                        return why
                return None

            def try_all(module):
                for name in (name for name in modules[module] if name not in done):
                    before, expected = self.unchanged(name)
                    after = self.compile(folder / "cuda", folder / "made", name)
                    if mutant.entry:
                        after = with_entries(before, after, {mutant.entry[1]})
                    done.add(name)
                    if (made := instructions(after)) != expected:
                        changed[name] = digest(made)
                        replace(folder / "ptx" / f"{name}.ptx", after)
                here = {name: changed[name] for name in modules[module] if name in changed}
                if not here:
                    return None
                ran.append(module)
                return self.gpu_ops.try_new(module, folder / "ptx", here, once)

            tries = [(try_few if few[module] else try_all, module) for module in order]
            tries += [(try_all, module) for module in order if few[module]]
            for attempt, module in tries:
                if why := attempt(module):
                    with self.lock:
                        self.kills[mutant.file, module] = self.kills.get((mutant.file, module), 0) + 1
                    return "caught", why
        if not ran:
            return "equivalent", f"the PTX of {mutant.entry[1] if mutant.entry else ', '.join(names) or 'no file'} is the same"
        return "SURVIVES", f"every test of {', '.join(f'gpu_ops::{module}' for module in ran)} passes"


def replace(path, text):
    """Not through a link."""
    path.unlink()
    path.write_text(text)


def first(pattern, text):
    found = re.search(pattern, text)
    return found[0] if found else text.strip()[-200:]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every mutant")
    parser.add_argument("--sample", type=int, help="only this many, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the sample and of --one-kernel")
    parser.add_argument("--only", help="only mutants of these files of cuda/, separated by commas")
    parser.add_argument("--one-kernel", action="store_true", help="each mutant only in one kernel, drawn at random")
    parser.add_argument("--results", type=pathlib.Path, help="a line for each judged mutant; those in it are not judged again")
    parser.add_argument("--again", action="store_true", help="judge the survivors in the results again, nothing else")
    parser.add_argument("--summary", action="store_true", help="print counts and survivors of the results")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--list", action="store_true", help="print the mutants, try none")
    parser.add_argument("--tests", help="a built test program gpu_ops")
    return parser.parse_args()


def choose(options, every, verdicts, results, runner):
    """The mutants to try."""
    chosen = [mutant for mutant in every if mutant.key not in verdicts]
    if options.only:
        names = {pathlib.Path(name).name for name in options.only.split(",")}
        if unknown := names - {mutant.file for mutant in every}:
            raise Failed(f"nothing to change in cuda/{', '.join(sorted(unknown))}")
        chosen = [mutant for mutant in chosen if mutant.file in names]
    if options.sample is not None:
        chosen = sample(chosen, options.sample, options.seed, runner.entries)
    elif options.one_kernel:
        several = {file: entries for file in runner.sources if len(entries := runner.entries(file)) > 1}
        chosen = [in_one_entry(mutant, several[mutant.file], options.seed) for mutant in chosen if mutant.file in several]
    if results:
        wanted = {"SURVIVES"} if options.again else {None}
        chosen = [mutant for mutant in chosen if results.outcome(mutant) in wanted]
    return chosen


def main():
    options = arguments()
    sources = cuda_sources()
    every = [m for name, text in sources.items() if name.endswith((".cu", ".cuh")) for m in mutants(name, text)]
    verdicts = known(KNOWN.read_text()) if KNOWN.exists() else {}
    check_known(verdicts, every)
    for name, text in sources.items():
        if name.endswith(".cu") and not tests_of(text):
            raise Failed(f"cuda/{name}: its header names no test")
    results = options.results and Results(options.results, sources)
    if options.summary:
        print(results.table())
        for entry in results.judged.values():
            if entry["outcome"] == "SURVIVES" and (entry["file"], entry["text"], entry["what"]) not in verdicts:
                only = f", only in {entry['entry']}" if entry["entry"] else ""
                print(f"SURVIVES cuda/{entry['file']}: {entry['text']}\n    {entry['what']}{only}")
        return 0
    if not (options.all or options.sample is not None or options.only or options.list):
        raise Failed("give --sample N, --only FILE or --all")

    outcomes = {}
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(pathlib.Path(folder), options.jobs, sources)
        chosen = choose(options, every, verdicts, results, runner)
        if options.list:
            print("\n".join(map(str, chosen)))
            return 0
        runner.prepare(options.tests)
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            def timed(mutant):
                start = time.monotonic()
                return *runner.judge(mutant), time.monotonic() - start

            tried = {pool.submit(timed, mutant): mutant for mutant in chosen}
            try:
                for one in concurrent.futures.as_completed(tried):
                    mutant, (outcome, why, seconds) = tried[one], one.result()
                    outcomes.setdefault(outcome, []).append((mutant, why))
                    if results:
                        results.add(mutant, outcome, why, seconds)
                    print(f"{outcome:<11} {mutant} ({seconds:.1f} s)\n            {why}", flush=True)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    counts = ", ".join(f"{len(those)} {outcome}" for outcome, those in sorted(outcomes.items()))
    print(f"\n{len(chosen)} mutants of {len(every)}: {counts or 'none'}; {len(verdicts)} in {KNOWN.name}")
    for mutant, why in outcomes.get("SURVIVES", []):
        print(f"SURVIVES    {mutant}: {why}")
    if chosen and set(outcomes) == {"refused"}:
        raise Failed("every mutant was refused")
    return 1 if "SURVIVES" in outcomes else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that folders are removed
    try:
        sys.exit(main())
    except Failed as error:
        print(f"mutate: {error}", file=sys.stderr)
        sys.exit(2)
