"""Measures what the README reports and writes it to benches/results/cpu.json; then run tools/readme_tables.py.

Usage: python tools/measure.py --smollm2 FOLDER [--pytorch-python PYTHON] [--threads 2]

FOLDER is what tools/fetch_smollm2.py made; PYTHON is an interpreter with torch and safetensors, whose PyTorch is the
peer. Every ratio comes from one interleaved run; close other programs all the same.
"""
import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROGRAM = os.path.join(ROOT, "target", "release", "probeprune")


def run(*command):
    """Standard output of a command that has to succeed."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout


def cpu_name():
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        return next(line.split(":")[1].strip() for line in f if line.startswith("model name"))


def peak_memory(folder, text, threads):
    """Bytes above the weight file that `perplexity` needs at its peak, batch 4 x 256."""
    json.loads(run(PROGRAM, "perplexity", "--model", folder, "--text", text, "--seq-len", "256", "--batch-size", "4",
                   "--max-tokens", "2048", "--threads", threads, "--format", "json"))
    # The largest of the children so far; the others (git, rustc's driver) ran in earlier processes of their own.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    size = os.path.getsize(os.path.join(folder, "model.safetensors"))
    return {"file_bytes": size, "peak_bytes": peak, "above_file_bytes": peak - size}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smollm2", required=True)
    parser.add_argument("--pytorch-python")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--repeat", default="9")
    args = parser.parse_args()
    if not os.path.exists(PROGRAM):
        sys.exit("build first: cargo build --release")
    folder = os.path.abspath(args.smollm2)
    with tempfile.TemporaryDirectory() as scratch:
        text, out = os.path.join(scratch, "text.txt"), os.path.join(scratch, "bench.json")
        with open(text, "w", encoding="utf-8") as f:
            f.write(run(PROGRAM, "corpus", "--topic", "all", "--seed", "9000", "--bytes", "100000"))
        memory = peak_memory(folder, text, args.threads)
        bench = ["cargo", "bench", "--bench", "cpu", "--", "--threads", args.threads, "--repeat", args.repeat,
                 "--out", out, "--model", folder]
        if args.pytorch_python:
            peer = f"{args.pytorch_python} tools/bench_pytorch.py {folder} --interactive --prompt 16"
            bench += ["--pytorch", f"{peer} --threads {args.threads}"]
        run(*bench)
        with open(out, encoding="utf-8") as f:
            result = json.load(f)
    if result["model"]:
        result["model"]["name"] = "SmolLM2-135M"
        result["model"].pop("model")
    if args.pytorch_python:
        result["pytorch"] = run(args.pytorch_python, "-c", "import torch; print(torch.__version__)").strip()
    result["memory"] = memory
    result["machine"] = f"{cpu_name()}, {os.cpu_count()} cores, {platform.system()}"
    demos = ("tiny-llama", "tiny-opt")
    result["demo"] = {name: json.loads(run(PROGRAM, "demo", "--model", f"bundled:{name}", "--threads", args.threads,
                                           "--format", "json")) for name in demos}
    path = os.path.join(ROOT, "benches", "results", "cpu.json")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        json.dump(result, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
