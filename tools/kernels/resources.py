#!/usr/bin/env python3
"""What ptxas and the machine code say of every kernel, as JSON (tools/kernels/cuda.sh resources calls this).

    resources.py NVCC PTX_FOLDER OUT

sm_80 comes from the PTX, as a driver would make it; sm_90a from cuda/*.cu, because code may differ by architecture.
Instructions are counted in the sm_80 machine code. Environment: CUDA_SOURCES (the .cu files' folder), JOBS (2).
"""

import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

INSTRUCTIONS = {
    "hmma": re.compile(r"HMMA\."),
    "ldgsts_128": re.compile(r"LDGSTS\.(\w+\.)*128\b"),
    "local": re.compile(r"(LDL|STL)\b"),
}
ENTRY = re.compile(r"Compiling entry function '([^']+)'")
PROPERTIES = re.compile(r"Function properties for '?([^\s']+)")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")


def parse_ptxas(text):
    """Numbers by kernel, from the output of ptxas -v.

    >>> parse_ptxas('''ptxas info    : 0 bytes gmem, 8 bytes cmem[4]
    ... ptxas info    : Compiling entry function 'a' for 'sm_80'
    ... ptxas info    : Function properties for a
    ...     8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
    ... ptxas info    : Used 30 registers, used 1 barriers, 8 bytes cumulative stack size, 32 bytes smem, 408 bytes cmem[0]
    ... ptxas info    : Compiling entry function 'b' for 'sm_80'
    ... ptxas info    : Function properties for b
    ...     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
    ... ptxas info    : Used 8 registers, 360 bytes cmem[0]
    ... ''') == {
    ...     "a": dict(registers=30, spill_stores=4, spill_loads=12, stack=8, static_shared=32, barriers=1),
    ...     "b": dict(registers=8, spill_stores=0, spill_loads=0, stack=0, static_shared=0, barriers=0)}
    True
    >>> parse_ptxas('''Compiling entry function 'a' for 'sm_80'
    ... Function properties for helper
    ...     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads''')
    Traceback (most recent call last):
    ValueError: helper is a function of its own: inline it
    >>> parse_ptxas("Compiling entry function 'a' for 'sm_80'")
    Traceback (most recent call last):
    ValueError: ptxas does not say what a needs
    """
    kernels, kernel = {}, None
    for line in text.splitlines():
        if found := ENTRY.search(line):
            kernel = kernels.setdefault(found[1], {})
        elif found := PROPERTIES.search(line):
            if found[1] not in kernels:
                raise ValueError(f"{found[1]} is a function of its own: inline it")
            kernel = kernels[found[1]]
        elif kernel is not None and (found := FRAME.search(line)):
            kernel["stack"], kernel["spill_stores"], kernel["spill_loads"] = map(int, found.groups())
        elif kernel is not None and (found := REGISTERS.search(line)):
            kernel["registers"] = int(found[1])
            for name, pattern in [("barriers", r"used (\d+) barriers"), ("static_shared", r"(\d+) bytes smem")]:
                kernel[name] = int((re.search(pattern, line) or [0, 0])[1])
    for name, kernel in kernels.items():
        if len(kernel) != 6:
            raise ValueError(f"ptxas does not say what {name} needs")
    return kernels


def parse_sass(text):
    """Instructions by kernel, from the output of cuobjdump -sass.

    >>> parse_sass('''
    ... \t\tFunction : a
    ...         /*0000*/                   HFMA2.MMA R22, -RZ, RZ, 0, 0 ;             /* 0x00 */
    ...         /*0010*/              @!P0 LDGSTS.E.BYPASS.128 [R1], [R2.64], P1 ;    /* 0x00 */
    ...         /*0020*/                   LDGSTS.E.BYPASS.LTC128B.128 [R1], [R2.64] ;
    ...         /*0030*/                   LDGSTS.E.64 [R1], [R2.64] ;
    ...         /*0040*/                   HMMA.16816.F32.BF16 R4, R12, R8, R4 ;
    ...         /*0050*/              @UP0 STL.64 [R1], R2 ;
    ... \t\tFunction : b
    ...         /*0000*/                   LDL R0, [R1] ;
    ... ''')
    {'a': {'hmma': 1, 'ldgsts_128': 2, 'local': 1}, 'b': {'hmma': 0, 'ldgsts_128': 0, 'local': 1}}
    """
    kernels, kernel = {}, None
    for line in text.splitlines():
        if found := re.match(r"\s*Function : (\S+)", line):
            kernel = kernels[found[1]] = dict.fromkeys(INSTRUCTIONS, 0)
        elif found := re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?(\S.*)", line):
            for name, pattern in INSTRUCTIONS.items():
                kernel[name] += bool(pattern.match(found[1]))
    return kernels


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} fails:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def measure(nvcc, source, ptx, folder):
    """Everything about one file's kernels."""
    cubin = folder / f"{source.stem}.cubin"
    ampere = parse_ptxas(run(nvcc.with_name("ptxas"), "-v", "-arch=sm_80", ptx, "-o", cubin))
    sass = parse_sass(run(nvcc.with_name("cuobjdump"), "-sass", cubin))
    flags = ["-std=c++17", "-gencode=arch=compute_90a,code=sm_90a", "-Xptxas=-v", "-cubin"]
    hopper = parse_ptxas(run(nvcc, *flags, source, "-o", folder / f"{source.stem}.90a.cubin"))
    if not ampere or not set(ampere) == set(sass) == set(hopper):
        raise ValueError(f"{source.name}: kernels are {sorted(ampere)}, {sorted(sass)}, {sorted(hopper)}")
    return {
        name: {"file": source.name, "sm_80": ampere[name] | sass[name], "sm_90a": hopper[name]} for name in ampere
    }


def main():
    nvcc, ptx, out = shutil.which(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
    if nvcc is None:
        sys.exit(f"there is no nvcc at {sys.argv[1]}")
    nvcc = pathlib.Path(nvcc)
    sources = sorted(pathlib.Path(os.environ.get("CUDA_SOURCES", "cuda")).glob("*.cu"))
    report = {}
    with tempfile.TemporaryDirectory() as folder:
        with concurrent.futures.ThreadPoolExecutor(int(os.environ.get("JOBS", "2"))) as pool:
            one = lambda source: measure(nvcc, source, ptx / f"{source.stem}.ptx", pathlib.Path(folder))
            for kernels in pool.map(one, sources):
                if twice := report.keys() & kernels:
                    raise ValueError(f"two files have {sorted(twice)}")
                report |= kernels
    lines = []
    for name, kernel in sorted(report.items()):
        parts = [f"    {json.dumps(key)}: {json.dumps(value)}" for key, value in kernel.items()]
        lines.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(parts) + "\n  }")
    pathlib.Path(out).write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, ValueError) as error:
        sys.exit(f"resources: {error}")
