"""What --dtype bf16 changes on the CPU: perplexity, and the kept sets of the last batch."""
import json
import os
import struct
import subprocess

CASES = (("none", 0.0), ("pp", 0.2), ("pp", 0.4), ("full-batch", 0.4), ("wanda-sp", 0.4), ("flap", 0.4), ("magnitude", 0.4),
         ("random", 0.4), ("fold", 0.4))


def kept_sets(path):
    """The kept sets of a file that perplexity --dump wrote, by name."""
    with open(path, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        start, sets = f.tell(), {}
        for name, tensor in header.items():
            if "kept" in name:
                begin, end = tensor["data_offsets"]
                f.seek(start + begin)
                sets[name] = set(struct.unpack(f"<{(end - begin) // 4}i", f.read(end - begin)))
    return sets


def changed(old, new):
    """How many sets differ, and how many of their entries.

    >>> changed({"a": {1, 2}, "b": {5}}, {"a": {1, 3}, "b": {5}})
    {'sets': 2, 'changed_sets': 1, 'entries': 3, 'changed_entries': 1}
    """
    assert old.keys() == new.keys()
    return {"sets": len(old), "changed_sets": sum(old[name] != new[name] for name in old),
            "entries": sum(map(len, old.values())), "changed_entries": sum(len(old[name] - new[name]) for name in old)}


def measure(program, model, calibration, text, scratch, threads, max_tokens):
    """A row per case; both dtypes begin with the same history."""
    history = os.path.join(scratch, "history.safetensors")
    run = lambda *args: subprocess.run([program, *args], check=True, stdout=subprocess.PIPE, text=True).stdout
    run("calibrate", "--model", model, "--text", calibration, "--seq-len", "256", "--fold", "--threads", threads,
        "--out", history)
    rows = []
    for method, ratio in CASES:
        row, sets = {"method": method, "ratio": ratio}, {}
        for dtype in ("f32", "bf16"):
            dump = os.path.join(scratch, f"{dtype}.safetensors")
            pruning = ["--method", method, "--prune-ratio", str(ratio), "--history", history] if ratio else ["--method", method]
            result = json.loads(run("perplexity", "--model", model, "--text", text, "--seq-len", "256", "--batch-size", "10",
                                    "--max-tokens", max_tokens, "--threads", threads, "--dtype", dtype, "--dump", dump,
                                    "--format", "json", *pruning))
            row[dtype], sets[dtype] = result["perplexity"], kept_sets(dump)
        rows.append({**row, **changed(sets["f32"], sets["bf16"])})
    return rows


def table(result):
    """The rows as Markdown."""
    lines = [f"SmolLM2-135M, on {result['machine']}:", "",
             "| method | pruned | f32 | bf16 | difference | kept sets that differ | entries in one only |",
             "|---|---|---|---|---|---|---|"]
    for row in result["rows"]:
        difference = 100 * (row["bf16"] / row["f32"] - 1)
        share = 100 * row["changed_entries"] / row["entries"] if row["entries"] else 0
        sets = f"{row['changed_sets']} of {row['sets']} | {share:.1f} %" if row["entries"] else "– | –"
        method = "dense" if row["method"] == "none" else row["method"]
        lines.append(f"| {method} | {100 * row['ratio']:.0f} % | {row['f32']:.2f} | {row['bf16']:.2f} | {difference:+.2f} % | {sets} |")
    return "\n".join(lines)
