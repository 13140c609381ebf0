#!/usr/bin/env python3
"""Tests of mutate.py with planted mistakes: tools/kernels/mutate_test.py [PROGRAM], a built test program gpu_ops."""

import dataclasses
import os
import pathlib
import sys
import tempfile

import mutate
from mutants import Failed, Mutant, Refused


def planted(runner, old, new, entry=None):
    text = runner.sources["norm.cu"]
    start = text.index(old)
    return Mutant("norm.cu", 1, old, start, start + len(old), new, "planted", f"{old} -> {new}", entry)


def fails(do, message):
    try:
        do()
    except Failed as error:
        assert message in str(error), error
        return
    raise AssertionError(f"no failure {message!r}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        runner = mutate.Runner(pathlib.Path(folder), 1, mutate.cuda_sources())
        runner.prepare(sys.argv[1] if len(sys.argv) > 1 else None)
        wrong = planted(runner, "1.f / sqrtf(", "2.f / sqrtf(")
        only = {name: dataclasses.replace(wrong, entry=("norm", name)) for name in ("norm_bf16", "norm_f16")}
        for mutant, outcome, why in [
            (wrong, "caught", "norm::"),
            (only["norm_bf16"], "caught", "norm::"),
            (only["norm_f16"], "caught", "norm::"),
            (planted(runner, "+ p.eps", "+ p.eps * 1.f"), "equivalent", "the same"),
            (planted(runner, "i < KEEP", "i > KEEP ? false : i < KEEP", ("norm", "norm_bf16")), "equivalent", "the same"),
            (planted(runner, "+ p.eps", "+ p.epsilon"), "refused", "nvcc: error"),
            # Room for longer rows than any launch has: only registers.
            (planted(runner, "KEEP = 2", "KEEP = 3"), "SURVIVES", "every test of gpu_ops::norm passes"),
        ]:
            judged = runner.judge(mutant)
            assert judged[0] == outcome and why in judged[1], (mutant, judged)

        # Tests that launch none of the changed kernels are left out.
        gpu_ops = runner.gpu_ops
        launching = gpu_ops.tests_that_launch("gemv", ["linear_gemv"])
        assert "gemv::linear_of_few_rows" in launching and "gemv::gated_linear" not in launching, launching

        # An endless loop ends by the limit.
        usual, gpu_ops.limit = gpu_ops.limit, lambda tests, once: 1
        judged = runner.judge(planted(runner, "c += blockDim.x", "c += 0"))
        assert judged == ("caught", "norm: more than 1 s of processor time"), judged
        gpu_ops.limit = usual

        # A kernel that the emulator cannot read is not a caught mistake.
        unreadable = pathlib.Path(folder) / "unreadable"
        unreadable.mkdir()
        for path in runner.original.iterdir():
            (unreadable / path.name).write_text(path.read_text().replace("mul.f32", "multiply.f32"))
        try:
            raise AssertionError(gpu_ops.try_tests("norm", ["norm"], unreadable))
        except Refused as why:
            assert "unknown instruction" in str(why), why

        # Tests that fail anyway, or do not start, or a compiler that is not there, are failures of the tool.
        broken = pathlib.Path(folder) / "broken"
        broken.mkdir()
        for path in runner.original.iterdir():
            (broken / path.name).write_text(path.read_text().replace("add.f32", "sub.f32"))
        original, gpu_ops.ptx = gpu_ops.ptx, broken
        gpu_ops.measured.clear()
        fails(lambda: gpu_ops.measure("norm", True), "fails on the unchanged kernels")
        gpu_ops.ptx = original
        tests, gpu_ops.tests = gpu_ops.tests, []
        fails(lambda: gpu_ops.try_tests("norm", ["norm"], original), "there is no test")
        gpu_ops.tests = tests
        gpu_ops.ran.clear()
        gpu_ops.program = "/bin/false"
        fails(lambda: runner.judge(wrong), "do not start")
        os.environ["NVCC"] = "/no/nvcc"
        fails(lambda: runner.prepare("/bin/true"), "no nvcc")
    print("mutate.py finds what was planted")


if __name__ == "__main__":
    main()
