"""Writes the README's tables from benches/results/cpu.json; with --check, fails if they differ.

Usage: python tools/readme_tables.py [--check]
"""
import json
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
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


def speed(result):
    """Ratios of the CPU bench, each beside its goal."""
    rows = [f"{result['machine']}, {result['threads']} threads, medians of interleaved runs.", "",
            "| what | measured | goal |", "|---|---|---|"]
    for case in result["mlp"]:
        over = case["time_ratio_over_share"]
        rows.append(f"| pruned MLP block (hidden 1024, intermediate 2816, bf16) at 40 %, {case['batch']}×{case['seq']}: "
                    f"time / (FLOP share incl. probe {case['flops_share']:.3f} × dense time) | {over:.3f} | ≤ 1.05 |")
    model = result["model"]
    for name, what in (("prefill", "prefill 4×256, all logits"), ("decode", "decode, batch 1")):
        case = model[name]
        ratio = case["speed_over_pytorch"]
        against = f"{ratio:.2f}" if ratio else "not yet measured"
        rows.append(f"| {model['name']} {what}: tokens/s over PyTorch {result.get('pytorch', '')} float32 "
                    f"({case['tokens_per_second']:.0f} tokens/s here) | {against} | ≥ 1.0 |")
    rows.append(f"| {model['name']} `perplexity` 4×256: peak memory above the weight file "
                f"| {result['memory']['above_file_bytes'] / 1e6:.0f} MB | ≤ 400 MB |")
    return "\n".join(rows)


def main():
    with open(os.path.join(ROOT, "benches", "results", "cpu.json"), encoding="utf-8") as f:
        result = json.load(f)
    tables = {"quality": quality(result["demo"]["tiny-llama"]), "quality-opt": quality(result["demo"]["tiny-opt"]),
              "speed": speed(result)}
    path = os.path.join(ROOT, "README.md")
    with open(path, encoding="utf-8") as f:
        old = text = f.read()
    for name, table in tables.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        head, rest = text.split(begin)
        text = head + begin + "\n" + table + "\n" + end + rest.split(end)[1]
    if text == old:
        return
    if "--check" in sys.argv:
        sys.exit("README.md's tables differ from benches/results/cpu.json: run python tools/readme_tables.py")
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)


if __name__ == "__main__":
    main()
