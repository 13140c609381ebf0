"""Time of folds and their corrections against the dense model and pp at 40 %, for measure.py: runs of every method take turns, and
the medians of their times are compared."""
import json
import os
import statistics
import subprocess

# "fold as a model" is the same fold, exported and run as a dense model of its own shape.
METHODS = {
    "dense": [],
    "pp": ["--method", "pp"],
    "fold": ["--method", "fold"],
    "fold as a model": None,
    "fold, probed every batch": ["--method", "fold", "--adapt", "probe", "--adapt-every", "1", "--adapt-threshold", "0"],
    "the same, --parallel-probe": ["--method", "fold", "--adapt", "probe", "--adapt-every", "1", "--adapt-threshold", "0",
                                   "--parallel-probe"],
}
SHAPES = ((4, 256), (20, 64))
BATCHES = 3


def measure(program, model, calibration, text, folder, threads, repeat):
    """Rows for every shape; `calibration` and `text` are texts."""
    rows = []
    for samples, tokens in SHAPES:
        history, export = (os.path.join(folder, f"{name}-{tokens}") for name in ("history.safetensors", "model"))
        run = lambda *command: subprocess.run([program, *command], check=True, stdout=subprocess.PIPE, text=True).stdout
        run("calibrate", "--model", model, "--threads", threads, "--text", calibration, "--seq-len", str(tokens), "--fold",
            "--out", history)
        pruned = ["--prune-ratio", "0.4", "--history", history]
        run("export", "--model", model, *pruned, "--out", export)
        batch = ["--text", text, "--seq-len", str(tokens), "--batch-size", str(samples), "--max-tokens",
                 str(BATCHES * samples * tokens), "--warmup-batches", "1", "--threads", threads, "--format", "json"]
        times = {method: [] for method in METHODS}
        for _ in range(int(repeat)):
            for method, flags in METHODS.items():
                own = ["--model", export] if flags is None else ["--model", model, *flags, *(pruned if flags else [])]
                times[method].append(json.loads(run("perplexity", *own, *batch))["seconds"])
        medians = {method: statistics.median(seconds) for method, seconds in times.items()}
        rows += [{"samples": samples, "tokens": tokens, "method": method, "seconds": seconds / BATCHES,
                  "of_dense": seconds / medians["dense"], "of_pp": seconds / medians["pp"]} for method, seconds in medians.items()]
    return rows
