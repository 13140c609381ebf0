"""The tables of fold.json, for readme_tables.py."""
# The README's rows and columns: methods, and streams with their calibration, of fold.json at 40 %.
HEADLINE = {"dense": "dense", "pp": "pp", "pp+compensate=linear:32": "pp, `--compensate linear:32`", "fold": "fold",
            "fold+adapt=probe": "fold, `--adapt probe`"}
COLUMNS = {"prose, calibrated with prose": ("prose", "prose", "all"),
           "technical text, with both": ("technical", "mixed", "all"),
           "technical text, with prose": ("long", "prose", "windows 1–30")}


def fold(result):
    """Folds and their corrections on streams of text; `result` is None where there was none yet.

    >>> row = {"stream": "prose", "calibration": "mixed", "prune_ratio": 0.4, "of_ratio": 0.4, "method": "pp",
    ...        "perplexity": {"all": 80.0}, "flops_share": 0.692, "probed_share": None, "excess_error": None}
    >>> rows = [row | {"method": "dense", "perplexity": {"all": 40.0}, "flops_share": 1.0},
    ...         row, row | {"method": "fold+adapt=probe", "perplexity": {"all": 60.0}, "probed_share": 0.5}]
    >>> print(fold({"machine": "M", "threads": "2", "models": {"Small": rows}}).splitlines()[-1])
    | prose | mixed | 40 % | fold+adapt=probe | 60.00 | 1.50 | 0.750 | 69.2 | 50 |
    """
    if result is None:
        return "Not measured yet."
    tables = []
    for model, rows in result["models"].items():
        lines = [f"{model}, on {result['machine']}:", "",
                 "| text | calibration | pruned | method | perplexity | × dense | × pp | FLOPs, % of dense | batches probed, % |",
                 "|---|---|---|---|---|---|---|---|---|"]
        at = {(row["stream"], row["calibration"], row["of_ratio"], row["method"]): row for row in rows}
        for row in rows:
            case = (row["stream"], row["calibration"], row["of_ratio"])
            for part, value in row["perplexity"].items():
                dense, pp = (at[(*case, method)]["perplexity"][part] for method in ("dense", "pp"))
                text = row["stream"] if part == "all" else f"{row['stream']}: {part}"
                probed = "–" if row["probed_share"] is None else f"{100 * row['probed_share']:.0f}"
                lines.append(f"| {text} | {row['calibration']} | {100 * row['of_ratio']:.0f} % | {row['method']} | {value:.2f} "
                             f"| {value / dense:.2f} | {value / pp:.3f} | {100 * row['flops_share']:.1f} | {probed} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def speed(result):
    """Times of folds; `result` is None where there was none yet.

    >>> row = {"samples": 4, "tokens": 256, "method": "fold", "seconds": 0.5, "of_dense": 0.7, "of_pp": 0.9, "flops_share": 0.66}
    >>> print(speed({"machine": "M", "threads": 2, "rows": [row]}).splitlines()[-1])
    | 4 × 256 | fold | 500 | 0.70 | 0.90 | 66.0 |
    """
    if result is None:
        return "Not measured yet."
    lines = [f"SmolLM2-135M, on {result['machine']}, {result['threads']} threads:", "",
             "| batch | method | ms | × dense | × pp | FLOPs, % of dense |", "|---|---|---|---|---|---|"]
    return "\n".join(lines + [f"| {row['samples']} × {row['tokens']} | {row['method']} | {1000 * row['seconds']:.0f} "
                              f"| {row['of_dense']:.2f} | {row['of_pp']:.2f} | {100 * row['flops_share']:.1f} |" for row in result["rows"]])


def generation(result):
    """What follows prompts; `result` is None where there was none yet.

    >>> row = {"text": "prose", "method": "dense", "first": 20.0, "parts": [20.0, 10.0], "prefill": 1.0, "update": None, "decode": 1.0,
    ...        "prefill_seconds": 0.2, "decode_seconds_per_token": 0.02}
    >>> learned = row | {"method": "fold+adapt=probe:32+prefill=dense", "first": 30.0, "parts": [30.0, 11.0], "prefill": 1.25,
    ...                  "update": 0.2, "decode": 0.8}
    >>> print(generation({"machine": "M", "threads": "2", "rows": [row, learned]}).splitlines()[-1])
    | prose | fold+adapt=probe:32+prefill=dense | 30.00 (1.50) | 30.00 (1.50) → 11.00 (1.10) | 1.25 | 20 | 0.80 |
    """
    if result is None:
        return "Not measured yet."
    lines = [f"SmolLM2-135M, on {result['machine']}, {result['threads']} threads:", "",
             "| text | method | first request (× dense) | tens of requests (× dense) | prefill time, × dense "
             "| update, % of dense prefill | decode time, × dense |", "|---|---|---|---|---|---|---|"]
    dense = {row["text"]: row for row in result["rows"] if row["method"] == "dense"}
    for row in result["rows"]:
        shown = lambda value, of: f"{value:.2f} ({value / of:.2f})"
        of = dense[row["text"]]
        parts = " → ".join(shown(value, own) for value, own in zip(row["parts"], of["parts"]))
        update = "–" if row["update"] is None else f"{100 * row['update']:.0f}"
        lines.append(f"| {row['text']} | {row['method']} | {shown(row['first'], of['first'])} | {parts} | {row['prefill']:.2f} "
                     f"| {update} | {row['decode']:.2f} |")
    return "\n".join(lines)


def headline(result):
    """The perplexities at 40 % that the README shows, and the least and most FLOPs of their texts, model by model.

    >>> row = {"stream": "prose", "calibration": "prose", "of_ratio": 0.4, "method": "pp", "perplexity": {"all": 105.79},
    ...        "flops_share": 0.692}
    >>> rows = [row, row | {"stream": "technical", "calibration": "mixed"},
    ...         row | {"stream": "long", "perplexity": {"windows 1–30": 77.57}, "flops_share": 0.7}]
    >>> print(headline({"models": {"Small": rows, "Large": rows}}).splitlines()[-1])
    | pp | 105.8 / 105.8 | 105.8 / 105.8 | 77.6 / 77.6 | 69–70 / 69–70 |
    """
    if result is None:
        return "Not measured yet."
    lines = ["| method | " + " | ".join(COLUMNS) + " | FLOPs, % of dense |", "|---" * (len(COLUMNS) + 2) + "|"]
    models = [{(row["method"], row["stream"], row["calibration"]): row for row in rows if row["of_ratio"] == 0.4}
              for rows in result["models"].values()]

    def shares(rows, method):
        low, high = (f"{100 * share(rows[method, *case[:2]]['flops_share'] for case in COLUMNS.values()):.0f}" for share in (min, max))
        return low if low == high else f"{low}–{high}"

    for method, name in HEADLINE.items():
        if all((method, *case[:2]) in rows for rows in models for case in COLUMNS.values()):
            cells = [[f"{rows[method, *case[:2]]['perplexity'][case[2]]:.1f}" for rows in models] for case in COLUMNS.values()]
            cells.append([shares(rows, method) for rows in models])
            lines.append(f"| {name} | " + " | ".join(" / ".join(cell) for cell in cells) + " |")
    return "\n".join(lines)
