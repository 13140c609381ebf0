"""Writes the tables of README.md and docs/*.md from benches/results/*.json and *.jsonl, and docs/kernels.md's from the sources;
with --check, fails if they differ.

Usage: python tools/measure/readme_tables.py [--check]
"""
import json
import os
import re
import statistics
import sys

import dtype
import fold_tables
import speed_tables

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
METHODS = {"none": "dense"}


def quality(demo):
    """Perplexity, time and FLOPs of the demonstration."""
    rows = ["| method | pruned | perplexity | time, % of dense | projection FLOPs, % of dense | PRR |",
            "|---|---|---|---|---|---|"]
    for case in demo:
        prr = "–" if case["prr"] is None else f"{case['prr']:.4f}"
        rows.append(f"| {METHODS.get(case['method'], case['method'])} | {100 * case['prune_ratio']:.0f} % "
                    f"| {case['perplexity']:.3f} | {100 * case['time_share']:.0f} | {100 * case['flops_share']:.0f} "
                    f"| {prr} |")
    return "\n".join(rows)


def printed(demo):
    """An excerpt of the demonstration as the program prints it.

    >>> dense = {"method": "none", "prune_ratio": 0.0, "perplexity": 2.2, "seconds": 1.5, "time_share": 1.0, "flops_share": 1.0,
    ...          "prr": None}
    >>> print(printed([dense]).splitlines()[4])
    │ dense  ┆  0.0 % ┆      2.200 ┆   1.500 ┆ 100.0 % ┆ 100.0 % ┆   – │
    """
    table = [["Method", "Pruned", "Perplexity", "Seconds", "Time", "FLOPs", "PRR"]]
    for case in (case for case in demo if case["prune_ratio"] in (0.0, 0.4) and case["method"] not in ("full-batch", "random")):
        shares = [f"{100 * case[key]:.1f} %" for key in ("prune_ratio", "time_share", "flops_share")]
        prr = "–" if case["prr"] is None else f"{case['prr']:.4f}"
        table.append([METHODS.get(case["method"], case["method"]), shares[0], f"{case['perplexity']:.3f}",
                      f"{case['seconds']:.3f}", shares[1], shares[2], prr])
    widths = [max(map(len, column)) for column in zip(*table)]
    line = lambda row: "│ " + " ┆ ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " │"
    return "\n".join(["```console", "$ cargo run --release", line(table[0]), "╞" + "╪".join("═" * (width + 2) for width in widths) + "╡",
                      *map(line, table[1:]), "…", "```"])


def over(variant, rows):
    """Shows a row's perplexity as a multiple of the variant's at the same ratio.

    >>> rows = [{"variant": v, "prune_ratio": 0.4, "perplexity": p} for v, p in (("pp", 8.0), ("flap", 9.0))]
    >>> over("pp", rows)(rows[1])
    '1.125'
    """
    of = {row["prune_ratio"]: row["perplexity"] for row in rows if row["variant"] == variant}
    return lambda row: f"{row['perplexity'] / of[row['prune_ratio']]:.3f}" if row["prune_ratio"] in of else "–"


def sweep(result):
    """A sweep's rows; `result` is None where there was none yet."""
    if result is None:
        return "Not measured yet."
    rows = [f"{result['machine']}, {result['threads']} threads; {result['text']}, {result['tokens']} tokens in batches of "
            f"{result['batch_size']}×{result['seq_len']}; dense and pruned runs alternate batch by batch; "
            f"probeprune {result['version']}.", "",
            "| method | pruned | perplexity | × pp's | projection FLOPs, % of dense | tokens/s | time, % of dense (quartiles) | PRR |",
            "|---|---|---|---|---|---|---|---|"]
    over_pp = over("pp", result["rows"])
    for row in result["rows"]:
        prr = "–" if row["prr"] is None else f"{row['prr']:.4f}"
        time, low, high = (100 * row[key] for key in ("time_share", "time_share_low", "time_share_high"))
        around = f" ({low:.1f} to {high:.1f})" if row["prune_ratio"] else ""
        rows.append(f"| {row['variant']} | {100 * row['prune_ratio']:.0f} % | {row['perplexity']:.2f} "
                    f"| {over_pp(row)} | {100 * row['flops_share']:.1f} | {row['tokens_per_second']:.0f} | {time:.1f}{around} | {prr} |")
    groups = []
    for row in result["rows"]:
        single = row["variant"].removesuffix("+channel-group=8")
        if single != row["variant"]:
            groups.append((single, row["perplexity"] / next(
                other["perplexity"] for other in result["rows"]
                if other["variant"] == single and other["prune_ratio"] == row["prune_ratio"])))
    if groups:
        means = (f"{name} {statistics.geometric_mean(cost for of, cost in groups if of == name):.3f}"
                 for name in dict.fromkeys(name for name, _ in groups))
        rows += ["", "Perplexity with groups of 8 over the same with single channels, geometric mean over the ratios: "
                 + ", ".join(means) + f"; single cases from {min(cost for _, cost in groups):.3f} to "
                 f"{max(cost for _, cost in groups):.3f}."]
    for key, calibration in (("technical", "as much prose as technical text"), ("shifted", "prose only")):
        if key in result:
            rows += ["", f"Technical text, calibrated with {calibration}:", "",
                     "| method | pruned | perplexity | × pp's |", "|---|---|---|---|"]
            over_pp = over("pp", result[key]["rows"])
            rows += [f"| {row['variant']} | {100 * row['prune_ratio']:.0f} % | {row['perplexity']:.2f} | {over_pp(row)} |"
                     for row in result[key]["rows"]]
    return "\n".join(rows)


def latency(result):
    """probeprune-latency's rows; `result` is None where there was none yet."""
    if result is None:
        return "Not measured yet."
    where = result["environment"]
    rows = [f"{where['cpu']}, {where['threads']} threads; {result['settings']['model']}; pruned times include the probe, scores, "
            "selection and history.", "",
            "| test | batch | pruned | ms (median) | tokens/s | time, × dense | attention, MLP, probe, selection, history, head: ms |",
            "|---|---|---|---|---|---|---|"]
    steps = [f"{step}_ms" for step in ("attention", "mlp", "probe", "selection", "history", "head")]
    for row in result["rows"]:
        parts = ", ".join(f"{row[step]:.1f}" for step in steps) if row[steps[0]] is not None else "–"
        rows.append(f"| {row['test']} | {row['batch_size']} | {100 * row['prune_ratio']:.0f} % | {row['median_ms']:.0f} "
                    f"| {row['tokens_per_second']:.1f} | {row['time_ratio']:.3f} | {parts} |")
    return "\n".join(rows)


def several(values, digits=3):
    """A goal's ratios.

    >>> several([0.84, 0.6451]), several(None)
    ('0.840/0.645', '–')
    """
    return "/".join(f"{value:.{digits}f}" for value in values) if values else "–"


def gpu(runs):
    """A table of the goals for each GPU; `runs` are the rows of tools/gpu/run.sh by file. The last measured row of a goal
    counts.

    >>> gpu({})
    'Not measured yet: no GPU was available.'
    >>> machine = {"step": "machine", "status": "passed", "gpu": "G", "driver": "1.2", "commit": "0123456789abcdef"}
    >>> goal = {"step": "g", "status": "passed", "goal": 9, "what": "a / b", "value": [0.9876], "quartiles": [[0.98, 0.99]],
    ...         "prediction": [1.1], "peer": "cuBLAS", "target": [1.0], "limit": ".95",
    ...         "clocks": {"after": {"sm_mhz": 1980.0, "memory_mhz": 2619.0}}}
    >>> late = {"step": "g", "status": "timeout", "goal": 9, "value": None, "peer": None, "prediction": None, "why": "late"}
    >>> print(gpu({"g.jsonl": [machine, goal, late]}).splitlines()[4])
    | 9 | a / b | 0.988 (0.980 to 0.990) | 1.100 | 1.000 | .95 | cuBLAS |
    >>> print(gpu({"g.jsonl": [machine, late]}).splitlines()[4])
    | 9 | – | timeout: late | – | – | – | – |
    >>> gpu({"g.jsonl": [machine | {"reduced": True}]})
    Traceback (most recent call last):
    SystemExit: g.jsonl: rows of a dry run measure nothing
    """
    tables = []
    for name, rows in runs.items():
        if any(row.get("reduced") for row in rows):
            sys.exit(f"{name}: rows of a dry run measure nothing")
        machine = next(row for row in rows if row["step"] == "machine")
        goals = {}
        for row in (row for row in rows if "goal" in row):
            if row["status"] == "passed" or goals.get(row["goal"], row)["status"] != "passed":
                goals[row["goal"]] = row
        read = [row["clocks"]["after"] for row in goals.values() if (row.get("clocks") or {}).get("after")]
        clocks = f"{read[-1]['sm_mhz']:.0f} and {read[-1]['memory_mhz']:.0f} MHz" if read else "clocks not read"
        lines = [f"{machine['gpu']}, driver {machine['driver']}, {clocks}, commit {machine['commit'][:12]}; medians (and "
                 "quartiles) of interleaved runs in one process.", "",
                 "| goal | ratio | measured | predicted | goal | limit | against |", "|---|---|---|---|---|---|---|"]
        for number, row in sorted(goals.items()):
            if row["status"] == "passed":
                around = ", ".join(f"{low:.3f} to {high:.3f}" for low, high in row.get("quartiles") or [])
                shown = several(row["value"]) + (f" ({around})" if around else "")
            else:
                shown = f"{row['status']}: {row['why']}"
            lines.append(f"| {number} | {row.get('what', '–')} | {shown} | {several(row['prediction'])} "
                         f"| {several(row.get('target'))} | {row.get('limit') or '–'} | {row['peer'] or '–'} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables) or "Not measured yet: no GPU was available."


# The operations: the Backend method with its purpose, kernels by file of cuda/, and C function.
OPERATIONS = {
    "embed": ("token embeddings, with OPT's learned positions", ["embed"], None),
    "norm": ("RMSNorm, LayerNorm or a copy, with Σ x² per row", ["norm"], "norm"),
    "probe_select": ("choice of the probe's tokens and samples", ["probe_select"], "probe_select"),
    "probe_gather": ("the probe's rows", ["probe_gather"], "probe_gather"),
    "linear": ("first projections: kept rows of a weight", ["linear", "linear_gemv"], "gemm_sparse_rows"),
    "gated_linear": ("gate and up in one: SwiGLU on kept rows", ["gated_linear", "gated_linear_gemv"], "gemm_sparse_swiglu"),
    "rope_cache": ("rotary positions and the key/value cache", ["rope_cache"], None),
    "attention": ("causal softmax attention", ["attention", "attention_decode"], "attention"),
    "project": ("last projections: kept columns of a weight, with compensation", ["project", "project_gemv"],
                "gemm_sparse_columns"),
    "energy": ("mean of a² over the samples", ["energy"], "energy"),
    "centre_energy": ("energies around the mean, for compensation", ["centre_energy"], None),
    "column_statistic": ("static part of a score", ["column_statistic"], "column_statistic"),
    "channel_score": ("fusion with history, sum over tokens, score", ["channel_score"], "channel_score"),
    "top_k_keep": ("the highest scores", ["top_k_keep"], "topk_keep"),
    "keep_kv_heads": ("key/value heads of kept query heads", ["keep_kv_heads"], "keep_kv_heads"),
    "gather_pruned": ("pruned channels and their columns, for compensation", ["gather_pruned"], None),
    "history_update": ("moving average of energies", ["history_update"], "history_update"),
    "check_finite": ("fault word for NaN and infinity", ["check_finite"], None),
    "accumulate_moments": ("calibration's running moments", ["moments"], None),
    "accumulate_product": ("second moments for linear compensation", ["accumulate_product"], None),
    "adapt": (
        "correction of a fold by the probe",
        [
            "adapt_rows", "adapt_vector", "adapt_error", "adapt_product", "adapt_factor", "adapt_substitute",
            "adapt_store",
        ],
        None,
    ),
    "logits": ("the head, in float32", ["linear", "linear_gemv"], None),
    "argmax": ("greedy sampling", ["argmax"], None),
    "cross_entropy": ("loss per token, without logits in memory", ["cross_entropy"], None),
}
# Methods of Backend that compute nothing.
SERVICES = {
    "scope", "check_model", "check_room", "check_sizes", "weight", "activations", "statistics", "indices", "upload_indices",
    "upload_statistics", "upload_activations", "clear_statistics", "rates", "take_statistics", "download_activations", "download_statistics",
    "download_indices", "download_weight", "stamp", "take_stamp", "seconds_between", "cross_entropy_scratch",
}


def read(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as f:
        return f.read()


def agree(what, listed, found):
    """Fails if a list here and the sources name different things.

    >>> agree("kernels", {"norm"}, {"norm", "embed"})
    Traceback (most recent call last):
    SystemExit: kernels: OPERATIONS of readme_tables.py and the sources differ in ['embed']
    """
    if listed != found:
        sys.exit(f"{what}: OPERATIONS of readme_tables.py and the sources differ in {sorted(listed ^ found)}")


def kernels():
    """The table of operations. Fails if a Backend method, a kernel or a C operation is missing or gone."""
    backend = read("src", "backend", "mod.rs").split("pub trait Backend", 1)[1]
    agree("Backend methods", OPERATIONS.keys() | SERVICES, set(re.findall(r"^    fn (\w+)", backend, re.M)))
    files = {name.removesuffix(".cu") for name in os.listdir(os.path.join(ROOT, "cuda")) if name.endswith(".cu")}
    agree("kernels", {file for _, files, _ in OPERATIONS.values() for file in files}, files)
    functions = set(re.findall(r"typedef struct probeprune_(\w+)_args", read("include", "probeprune.h")))
    agree("C operations", {function for *_, function in OPERATIONS.values() if function}, functions)
    lines = {file: re.search(r"^// Test: (.*)$", read("cuda", f"{file}.cu"), re.M)[1] for file in files}
    tests = {file: re.findall(r"(\w+)::(\w+)", line) for file, line in lines.items()}
    rows = ["| operation | `Backend` method | kernels | C function `probeprune_…` | test |", "|---|---|---|---|---|"]
    for method, (purpose, files, function) in OPERATIONS.items():
        sources = ", ".join(f"[`{file}`](../cuda/{file}.cu)" for file in files)
        tested = dict.fromkeys(test for file in files for test in tests[file])
        tested = ", ".join(f"[`{crate}::{module}`](../tests/{crate}/{module}.rs)" for crate, module in tested)
        rows.append(f"| {purpose} | `{method}` | {sources} | {f'`{function}`' if function else '–'} | {tested} |")
    return "\n".join(rows)


def load_runs():
    """The rows that GPU runs left in benches/results, by file."""
    folder = os.path.join(ROOT, "benches", "results")
    runs = {}
    for name in sorted(os.listdir(folder)):
        if name.startswith("gpu-") and name.endswith(".jsonl"):
            with open(os.path.join(folder, name), encoding="utf-8") as f:
                runs[name] = [json.loads(line) for line in f]
    return runs


def load(name):
    """A file of benches/results; None if it is not there."""
    path = os.path.join(ROOT, "benches", "results", name)
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def main():
    result, smollm2 = load("cpu.json"), load("smollm2.json")
    tables = {
        "README.md": {"headline": fold_tables.headline(load("fold.json")), "demo": printed(result["demo"]["tiny-llama"])},
        "docs/results.md": {"smollm2": sweep(smollm2), "prompts": sweep(load("smollm2-prompts.json")),
                            "dtype": dtype.table(load("smollm2-dtype.json")),
                            "quality": quality(result["demo"]["tiny-llama"]),
                            "quality-opt": quality(result["demo"]["tiny-opt"]), "speed": speed_tables.speed(result),
                            "compensation": speed_tables.compensation(result), "fold": fold_tables.fold(load("fold.json")),
                            "fold-speed": fold_tables.speed(load("fold-speed.json")),
                            "generation": fold_tables.generation(load("generation.json")), "gpu": gpu(load_runs())},
        "docs/latency.md": {"latency": latency(load("latency-cpu.json"))},
        "docs/kernels.md": {"kernels": kernels()},
    }
    for name, parts in tables.items():
        old = text = read(name)
        for part, table in parts.items():
            begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
            head, rest = text.split(begin)
            text = head + begin + "\n" + table + "\n" + end + rest.split(end)[1]
        if text == old:
            continue
        if "--check" in sys.argv:
            sys.exit(f"{name}: tables differ from what they are made of: run python tools/measure/readme_tables.py")
        with open(os.path.join(ROOT, name), "w", encoding="utf-8") as f:
            f.write(text)


if __name__ == "__main__":
    main()
