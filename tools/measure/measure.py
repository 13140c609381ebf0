"""Measures the published numbers, writes them to benches/results and prints them; then run tools/measure/readme_tables.py.

Usage:
  python tools/measure/measure.py speed --smollm2 FOLDER [--pytorch-python PYTHON] [--peer NAME=COMMAND ...]
  python tools/measure/measure.py quality --smollm2 FOLDER
  python tools/measure/measure.py prompts --smollm2 FOLDER
  python tools/measure/measure.py fold --smollm2 FOLDER [--qwen FOLDER] [--fresh]
  python tools/measure/measure.py fold-speed --smollm2 FOLDER
  python tools/measure/measure.py generation --smollm2 FOLDER
  python tools/measure/measure.py latency
  python tools/measure/measure.py demo

speed (cpu.json) takes the ratios of the CPU goals in one interleaved run; PYTHON is an interpreter with the packages of
tools/peers/requirements.txt, whose PyTorch is the peer, and other peers are commands as in tools/peers. quality
(smollm2.json) sweeps dense, pp with and without compensation and groups, full-batch, wanda-sp and flap at 20, 40 and 60 %
on the prose of tools/fetch/text.py, and pp and wanda-sp on its technical text. prompts (smollm2-prompts.json) sweeps pp with
the paper's probe and the automatic one at batch size 1. Interrupted sweeps resume.
fold (fold.json) measures folds and their corrections on streams of both texts, for both models; those of the second at 40 %.
It resumes too: results are kept by command under target/fold-MODEL-DIGEST, the digest of the model and the texts. After a
change of the program or of a stream that may change numbers, --fresh deletes them first. fold-speed (fold-speed.json) times
them. generation (generation.json) measures what follows prompts on both texts, calibrated with prose, at 40 %. FOLDER is the
output of tools/fetch/smollm2.py, of qwen.py for --qwen. latency (latency-cpu.json) runs two layers in LLaMA-2-7B's shape on
the CPU. demo replaces the demonstrations in cpu.json, which speed measures too.
Close other programs: ratios are fair on a busy machine too, tokens/s are not.
"""
import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile

import fold_tables
import readme_tables

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
PROGRAM = os.path.join(ROOT, "target", "release", "probeprune")


def run(*command):
    """Standard output of a command that has to succeed."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout


def cpu_name():
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        return next(line.split(":")[1].strip() for line in f if line.startswith("model name"))


def cpu_tier():
    """The instruction set that the CPU backend takes, as `doctor` tells it."""
    line = next(line for line in run(PROGRAM, "doctor").splitlines() if line.startswith("CPU tier"))
    return line.split()[2]


def peak_memory(folder, text, threads):
    """Bytes above the weight file that `perplexity` needs at its peak, batch 4 x 256."""
    json.loads(run(PROGRAM, "perplexity", "--model", folder, "--text", text, "--seq-len", "256", "--batch-size", "4",
                   "--max-tokens", "2048", "--threads", threads, "--format", "json"))
    # The largest of the children so far; the others (git, rustc's driver) ran in earlier processes of their own.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    size = os.path.getsize(os.path.join(folder, "model.safetensors"))
    return {"file_bytes": size, "peak_bytes": peak, "above_file_bytes": peak - size}


def speed(args):
    """Everything of cpu.json."""
    folder = os.path.abspath(args.smollm2)
    with tempfile.TemporaryDirectory() as scratch:
        text, out = os.path.join(scratch, "text.txt"), os.path.join(scratch, "bench.json")
        with open(text, "w", encoding="utf-8") as f:
            f.write(run(PROGRAM, "corpus", "--topic", "all", "--seed", "9000", "--bytes", "100000"))
        memory = peak_memory(folder, text, args.threads)
        bench = ["cargo", "bench", "--bench", "cpu", "--", "--threads", args.threads, "--repeat", args.repeat,
                 "--out", out, "--model", folder]
        if args.pytorch_python:
            peer = f"{args.pytorch_python} tools/peers/pytorch.py {folder} --interactive --prompt 16"
            bench += ["--pytorch", f"{peer} --threads {args.threads}"]
        for peer in args.peer:
            bench += ["--peer", peer]
        run(*bench)
        with open(out, encoding="utf-8") as f:
            result = json.load(f)
    result["model"]["name"] = "SmolLM2-135M"
    result["model"].pop("model")
    if args.pytorch_python:
        result["pytorch"] = run(args.pytorch_python, "-c", "import torch; print(torch.__version__)").strip()
    result["memory"] = memory
    result["machine"] = f"{cpu_name()} ({cpu_tier()}), {os.cpu_count()} cores, {platform.system()}"
    result["demo"] = demonstrations(args)
    return result


def demonstrations(args):
    """The demonstration on both bundled models."""
    return {name: json.loads(run(PROGRAM, "demo", "--model", f"bundled:{name}", "--threads", args.threads,
                                 "--format", "json")) for name in ("tiny-llama", "tiny-opt")}


def with_new_demonstrations(args):
    """cpu.json as it is, but for its demonstrations."""
    return {**readme_tables.load("cpu.json"), "demo": demonstrations(args)}


VARIANTS = ("pp", "pp+compensate=probe-mean", "pp+compensate=linear:32", "pp+channel-group=8",
            "pp+compensate=probe-mean+channel-group=8", "pp+compensate=linear:32+channel-group=8", "full-batch", "wanda-sp", "wanda-sp+compensate=probe-mean", "flap")


# On another kind of text than calibration's, wholly or by half.
SHIFTED = ("pp", "pp+compensate=probe-mean", "pp+compensate=linear:32", "wanda-sp", "wanda-sp+compensate=probe-mean")


def split(path, folder, share):
    """The first `share` of a text and the rest, as two files."""
    with open(path, encoding="utf-8") as f:
        text = f.read()
    at = text.index("\n", int(share * len(text)))
    parts = []
    for name, part in (("calibration", text[:at]), ("evaluation", text[at:])):
        parts.append(os.path.join(folder, f"{name}-{os.path.basename(path)}"))
        with open(parts[-1], "w", encoding="utf-8") as f:
            f.write(part)
    return parts


def sweep(args, name, text, calibration, variants, ratios, batch_size="10"):
    """A sweep without its single runs."""
    out = os.path.join(ROOT, "target", f"sweep-{name}")
    result = json.loads(run(
        PROGRAM, "sweep", "--model", os.path.abspath(args.smollm2), "--text", text, "--calibrate-text", *calibration,
        "--seq-len", "256", "--batch-size", batch_size, "--max-tokens", args.max_tokens, "--threads", args.threads,
        "--rounds", "1", "--variants", ",".join(variants), "--ratios", ratios, "--out", out, "--format", "json"))
    result.pop("runs")
    return result


def texts(folder):
    """The texts for calibration and for evaluation, of prose and of technical text."""
    run(sys.executable, "tools/fetch/text.py", folder)
    return [split(os.path.join(folder, f"{name}.txt"), folder, share) for name, share in (("prose", 0.25), ("technical", 0.12))]


def quality(args):
    """Everything of smollm2.json. Calibration and evaluation take different parts of a text; for technical text
    calibration is half prose ("technical") or all of it ("shifted")."""
    with tempfile.TemporaryDirectory() as scratch:
        own, other = texts(os.path.join(scratch, "text"))
        result = sweep(args, "prose", own[1], own[:1], VARIANTS, "0.2,0.4,0.6")
        result["technical"] = sweep(args, "technical", other[1], [own[0], other[0]], SHIFTED, "0.4")
        result["shifted"] = sweep(args, "shifted", other[1], own[:1], SHIFTED, "0.4")
    return result


PROMPTS = ("pp", "pp+probe-tokens=auto", "pp+compensate=probe-mean", "pp+compensate=probe-mean+probe-tokens=auto",
           "pp+compensate=linear:32", "pp+compensate=linear:32+probe-tokens=auto", "wanda-sp+compensate=probe-mean")


def prompts(args):
    """Everything of smollm2-prompts.json: one window at a time, as prompts come."""
    with tempfile.TemporaryDirectory() as scratch:
        own, _ = texts(os.path.join(scratch, "text"))
        return sweep(args, "prompts", own[1], own[:1], PROMPTS, "0.2,0.4", "1")


def folds(args):
    """Everything of fold.json."""
    import fold  # Its packages are those of tools/fetch/requirements.txt.

    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        own, other = texts(os.path.join(scratch, "text"))
        for name, model, ratios in (("SmolLM2-135M", args.smollm2, None), ("Qwen2.5-Coder-0.5B", args.qwen, (0.4,))):
            if model is None:
                continue
            model = os.path.abspath(model)
            inputs = [os.path.join(model, file) for file in ("config.json", "tokenizer.json", "model.safetensors")]
            folder = os.path.join(ROOT, "target", f"fold-{name}-{fold.digest([*inputs, *own, *other])}")
            if args.fresh:
                shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(folder, exist_ok=True)
            results[name] = fold.measure(PROGRAM, model, own, other, folder, args.threads, ratios)
    return {"machine": f"{cpu_name()}, {os.cpu_count()} cores, {platform.system()}", "threads": args.threads, "models": results}


def fold_speeds(args):
    """Everything of fold-speed.json."""
    with tempfile.TemporaryDirectory() as scratch:
        out = os.path.join(scratch, "folds.json")
        run("cargo", "bench", "--bench", "folds", "--", "--threads", args.threads, "--repeat", args.repeat, "--out", out,
            "--model", os.path.abspath(args.smollm2))
        with open(out, encoding="utf-8") as f:
            result = json.load(f)
    return {"machine": f"{cpu_name()}, {os.cpu_count()} cores, {platform.system()}", **result}


def generations(args):
    """Everything of generation.json."""
    import generation  # As above.

    with tempfile.TemporaryDirectory() as scratch:
        own, other = texts(os.path.join(scratch, "text"))
        rows = generation.measure(PROGRAM, os.path.abspath(args.smollm2), own[0], {"technical": other[1], "prose": own[1]}, scratch,
                                  args.threads)
    return {"machine": f"{cpu_name()}, {os.cpu_count()} cores, {platform.system()}", "threads": args.threads, "rows": rows}


def latency(args):
    """Everything of latency-cpu.json."""
    return json.loads(run(
        os.path.join(ROOT, "target", "release", "probeprune-latency"), "--device", "cpu", "--threads", args.threads,
        "--shape", "llama-2-7b", "--layers", "2", "--prompt-len", "128", "--gen-len", "16", "--batch-size", "1,4",
        "--prune-ratio", "0,0.2,0.4,0.6", "--repetitions", "3", "--breakdown", "--format", "json"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("speed", "quality", "prompts", "fold", "fold-speed", "generation", "latency", "demo"))
    parser.add_argument("--smollm2")
    parser.add_argument("--qwen")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--pytorch-python")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--max-tokens", default="10240")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--repeat", default="9")
    args = parser.parse_args()
    if not os.path.exists(PROGRAM):
        sys.exit("build first: cargo build --release")
    if args.what in ("speed", "quality", "prompts", "fold", "fold-speed", "generation") and not args.smollm2:
        sys.exit(f"{args.what} needs --smollm2 FOLDER")
    measure, name, show = {"speed": (speed, "cpu.json", readme_tables.speed),
                           "quality": (quality, "smollm2.json", readme_tables.sweep),
                           "prompts": (prompts, "smollm2-prompts.json", readme_tables.sweep),
                           "fold": (folds, "fold.json", fold_tables.fold),
                           "fold-speed": (fold_speeds, "fold-speed.json", fold_tables.speed),
                           "generation": (generations, "generation.json", fold_tables.generation),
                           "latency": (latency, "latency-cpu.json", readme_tables.latency),
                           "demo": (with_new_demonstrations, "cpu.json", readme_tables.speed)}[args.what]
    result = measure(args)
    path = os.path.join(ROOT, "benches", "results", name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        json.dump(result, f, indent=1)
        f.write("\n")
    print(show(result))


if __name__ == "__main__":
    main()
