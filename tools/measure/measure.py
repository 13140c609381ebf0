"""Measures the published numbers, writes them to benches/results and prints them; then run tools/measure/readme_tables.py.

Usage:
  python tools/measure/measure.py speed --smollm2 FOLDER [--pytorch-python PYTHON] [--peer NAME=COMMAND ...] [--items LIST]
  python tools/measure/measure.py quality --smollm2 FOLDER
  python tools/measure/measure.py prompts --smollm2 FOLDER
  python tools/measure/measure.py dtype --smollm2 FOLDER
  python tools/measure/measure.py fold --smollm2 FOLDER [--qwen FOLDER] [--fresh]
  python tools/measure/measure.py fold-speed --smollm2 FOLDER
  python tools/measure/measure.py generation --smollm2 FOLDER
  python tools/measure/measure.py latency
  python tools/measure/measure.py demo

speed (cpu.json) takes the ratios of the CPU goals in interleaved runs, in class A (as accurate as float32) and in class B
(bfloat16); PYTHON is an interpreter with the packages of tools/peers/requirements.txt, whose PyTorch is a peer, and other
peers are commands as in tools/peers, with {dtype} and {threads} where these belong. --items measures some of it only, as
benches/cpu/main.rs names it, and keeps the rest of the file; "long" (32,768 tokens) has to be asked for. quality
(smollm2.json) sweeps dense, pp with and without compensation and groups, full-batch, wanda-sp and flap at 20, 40 and 60 %
on the prose of tools/fetch/text.py, and pp and wanda-sp on its technical text. prompts (smollm2-prompts.json) sweeps pp with
the paper's probe and the automatic one at batch size 1. Interrupted sweeps resume. dtype (smollm2-dtype.json) compares
--dtype bf16 with f32 on the same prose, method by method.
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
import time

import dtype
import fold_tables
import readme_tables
import speed_tables

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
TARGET = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
PROGRAM = os.path.join(TARGET, "release", "probeprune")


def run(*command):
    """Standard output of a command that has to succeed."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout


FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def processor():
    """The processor's name, those of its features that matter to products, and the tier that the CPU backend takes."""
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        lines = [line.partition(":") for line in f]
    first = lambda key: next((value.strip() for name, _, value in lines if name.strip() == key), "")
    flags = first("flags").split()
    tier = next(line for line in run(PROGRAM, "doctor").splitlines() if line.startswith("CPU tier"))
    return {"name": first("model name"), "features": [feature for feature in FEATURES if feature in flags],
            "tier": tier.split()[2]}


def machine(of=None):
    """A line that names this machine."""
    of = of or processor()
    return (f"{of['name']} ({', '.join(of['features'])}; tier {of['tier']}), {os.cpu_count()} cores, {platform.system()}")


PERPLEXITY_TOKENS = 4096


def perplexity(folder, text, threads, dtype, method):
    """Tokens per second of `perplexity` at 4 x 256, of its batches alone and of the whole command."""
    begin = time.perf_counter()
    printed = run(PROGRAM, "perplexity", "--model", folder, "--text", text, "--seq-len", "256", "--batch-size", "4",
                  "--max-tokens", str(PERPLEXITY_TOKENS), "--threads", threads, "--dtype", dtype, "--method", method,
                  "--prune-ratio", "0.4", "--format", "json")
    seconds = time.perf_counter() - begin
    result = json.loads(printed)
    return {"tokens_per_second": result["tokens_per_second"], "end_to_end": result["tokens"] / seconds}


def peak_memory(folder):
    """Bytes above the weight file that the largest child so far needed."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    size = os.path.getsize(os.path.join(folder, "model.safetensors"))
    return {"file_bytes": size, "peak_bytes": peak, "above_file_bytes": peak - size}


def bench(args, folder, out):
    """Runs the CPU bench; its results."""
    command = ["cargo", "bench", "--bench", "cpu", "--", "--threads", args.threads, "--repeat", args.repeat, "--out", out,
               "--model", folder]
    if args.items:
        command += ["--items", args.items]
    if args.pytorch_python:
        pytorch = f"{args.pytorch_python} tools/peers/pytorch.py {folder} --compile"
        command += ["--pytorch", pytorch + " --dtype {dtype} --threads {threads}"]
    for peer in args.peer:
        command += ["--peer", peer]
    run(*command)
    with open(out, encoding="utf-8") as f:
        return json.load(f)


def pytorch_version(args):
    """PyTorch's version, if it is a peer."""
    if not args.pytorch_python:
        return {}
    return {"pytorch": run(args.pytorch_python, "-c", "import torch; print(torch.__version__)").strip()}


def speed(args):
    """Everything of cpu.json."""
    folder = os.path.abspath(args.smollm2)
    with tempfile.TemporaryDirectory() as scratch:
        text, out = os.path.join(scratch, "text.txt"), os.path.join(scratch, "bench.json")
        if args.items:
            old, new = readme_tables.load("cpu.json"), bench(args, folder, out)
            return {**speed_tables.merged(old, new), **pytorch_version(args)}
        with open(text, "w", encoding="utf-8") as f:
            f.write(run(PROGRAM, "corpus", "--topic", "all", "--seed", "9000", "--bytes", "100000"))
        # Before anything larger runs: memory is that of the largest child.
        of = lambda dtype, method: perplexity(folder, text, args.threads, dtype, method)
        dense = of("f32", "none")
        memory = peak_memory(folder)
        perplexities = {"A": {"dense": dense, "pp": of("f32", "pp")}, "B": {"dense": of("bf16", "none"), "pp": of("bf16", "pp")}}
        result = bench(args, folder, out)
    for name, measured in perplexities.items():
        result["classes"][name]["perplexity"] = measured
    result["model"] = "SmolLM2-135M"
    result.update(pytorch_version(args))
    result["memory"] = memory
    result["processor"] = processor()
    result["machine"] = machine(result["processor"])
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


def dtypes(args):
    """Everything of smollm2-dtype.json."""
    with tempfile.TemporaryDirectory() as scratch:
        own, _ = texts(os.path.join(scratch, "text"))
        rows = dtype.measure(PROGRAM, os.path.abspath(args.smollm2), own[0], own[1], scratch, args.threads, args.max_tokens)
    return {"machine": machine(), "rows": rows}


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
    return {"machine": machine(), "threads": args.threads, "models": results}


def fold_speeds(args):
    """Everything of fold-speed.json."""
    with tempfile.TemporaryDirectory() as scratch:
        out = os.path.join(scratch, "folds.json")
        run("cargo", "bench", "--bench", "folds", "--", "--threads", args.threads, "--repeat", args.repeat, "--out", out,
            "--model", os.path.abspath(args.smollm2))
        with open(out, encoding="utf-8") as f:
            result = json.load(f)
    return {"machine": machine(), **result}


def generations(args):
    """Everything of generation.json."""
    import generation  # As above.

    with tempfile.TemporaryDirectory() as scratch:
        own, other = texts(os.path.join(scratch, "text"))
        rows = generation.measure(PROGRAM, os.path.abspath(args.smollm2), own[0], {"technical": other[1], "prose": own[1]}, scratch,
                                  args.threads)
    return {"machine": machine(), "threads": args.threads, "rows": rows}


def latency(args):
    """Everything of latency-cpu.json."""
    return json.loads(run(
        os.path.join(TARGET, "release", "probeprune-latency"), "--device", "cpu", "--threads", args.threads,
        "--shape", "llama-2-7b", "--layers", "2", "--prompt-len", "128", "--gen-len", "16", "--batch-size", "1,4",
        "--prune-ratio", "0,0.2,0.4,0.6", "--repetitions", "3", "--breakdown", "--format", "json"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("speed", "quality", "prompts", "dtype", "fold", "fold-speed", "generation", "latency",
                                         "demo"))
    parser.add_argument("--smollm2")
    parser.add_argument("--qwen")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--pytorch-python")
    parser.add_argument("--items")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--max-tokens", default="10240")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--repeat", default="9")
    args = parser.parse_args()
    if not os.path.exists(PROGRAM):
        sys.exit("build first: cargo build --release")
    if args.what not in ("latency", "demo") and not args.smollm2:
        sys.exit(f"{args.what} needs --smollm2 FOLDER")
    measure, name, show = {"speed": (speed, "cpu.json", speed_tables.speed),
                           "quality": (quality, "smollm2.json", readme_tables.sweep),
                           "prompts": (prompts, "smollm2-prompts.json", readme_tables.sweep),
                           "dtype": (dtypes, "smollm2-dtype.json", dtype.table),
                           "fold": (folds, "fold.json", fold_tables.fold),
                           "fold-speed": (fold_speeds, "fold-speed.json", fold_tables.speed),
                           "generation": (generations, "generation.json", fold_tables.generation),
                           "latency": (latency, "latency-cpu.json", readme_tables.latency),
                           "demo": (with_new_demonstrations, "cpu.json", speed_tables.speed)}[args.what]
    result = measure(args)
    path = os.path.join(ROOT, "benches", "results", name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        json.dump(result, f, indent=1)
        f.write("\n")
    print(show(result))


if __name__ == "__main__":
    main()
