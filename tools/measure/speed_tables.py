"""The tables of CPU speed for readme_tables.py: what was measured in each class, each with its goal, and whether it is met."""

CLASSES = {"A": "float32 accuracy", "B": "bfloat16"}
TYPES = {"A": "float32", "B": "bfloat16"}
# Goals without AMX and with it. Times are to be no longer, speeds no lower.
DENSE = {"A": (1.1, 2.0), "B": (1.0, 1.1)}
OVER_DENSE = (0.74, 0.76)
BLOCK = (1.05, 1.10)
AUTHORS = {(20, 64): (1.25, 1.5), (4, 256): (1.45, 1.7), (1, 128): (2.6, 2.6)}
ATTENTION = (1.0, 1.2)
SINGLE = (0.88, 0.88)
PLAIN_READ = (0.85, 0.85)
STEP = {4: (1.2, 1.15), 16: (2.2, 1.6)}
DECODE = {1: (1.0, 1.05), 4: (1.0, 1.3), 16: (1.0, 1.3)}
MEMORY = 400e6


def spread(median, quartiles, digits=2):
    """A median with its quartiles, where there are any.

    >>> spread(1.9731, [1.9, 2.04]), spread(1.9731, None)
    ('1.97 (1.90 to 2.04)', '1.97')
    """
    shown = lambda value: f"{value:.{digits}f}"
    return shown(median) + (f" ({shown(quartiles[0])} to {shown(quartiles[1])})" if quartiles else "")


def best_peer(speed_over):
    """The fastest peer, which is the one that this program is least ahead of, and the ratio; None without peers.

    >>> over = {"PyTorch": {"median": 1.2}, "candle": {"median": 2.0}, "llama.cpp": {"median": 0.9}}
    >>> best_peer(over)[0]
    'llama.cpp'
    >>> del over["llama.cpp"]
    >>> best_peer(over)
    ('PyTorch', {'median': 1.2})
    >>> best_peer({}) is None
    True
    """
    return min(speed_over.items(), key=lambda peer: peer[1]["median"], default=None)


class Rows:
    """A table's rows; goals are those with AMX where `amx` is true."""

    def __init__(self, amx):
        self.amx, self.lines = amx, []

    def add(self, what, ratio, goal=None, more=True):
        """A ratio that is to be at least the goal, or with `more` false at most; None where it was not measured.

        >>> rows = Rows(amx=False)
        >>> rows.add("speed", {"median": 1.05, "quartiles": [1.0, 1.1]}, (1.1, 2.0))
        >>> rows.add("time", {"median": 0.74, "quartiles": [0.7, 0.8]}, (0.74, 0.5), more=False)
        >>> rows.add("speed", None, (1.1, 2.0))
        >>> rows.add("speed", {"median": 3.0, "quartiles": None})
        >>> print("\\n".join(rows.lines))
        | speed | 1.050 (1.000 to 1.100) | ≥ 1.1 | missed |
        | time | 0.740 (0.700 to 0.800) | ≤ 0.74 | met |
        | speed | not measured | ≥ 1.1 | – |
        | speed | 3.000 | – | – |
        """
        target = goal[self.amx] if goal else None
        wanted = f"{'≥' if more else '≤'} {target}" if goal else "–"
        measured, met = "not measured", "–"
        if ratio:
            measured = spread(ratio["median"], ratio["quartiles"], 3)
            if goal:
                met = "met" if (ratio["median"] >= target if more else ratio["median"] <= target) else "missed"
        self.lines.append(f"| {what} | {measured} | {wanted} | {met} |")

    def add_best(self, what, speed_over, goal=None):
        """Tokens/s over the best peer's."""
        best = best_peer(speed_over)
        self.add(f"{what}: tokens/s over {'the best peer' if best is None else best[0]}", best and best[1], goal)


def ratios(name, measured, amx):
    """The goals' table of a class."""
    rows = Rows(amx)
    for case in measured.get("prefill", []):
        shape = (case["batch"], case["seq"])
        at = f"{shape[0]}×{shape[1]}"
        rows.add_best(f"prefill {at}, dense", case["dense"]["speed_over"], DENSE[name] if shape == (4, 256) else None)
        rows.add_best(f"prefill {at}, pp at 40 %", case["pp"]["speed_over"])
        goal = None if shape == (1, 128) else OVER_DENSE
        rows.add(f"prefill {at}, pp at 40 %: time over own dense", case["pp"]["time_over_dense"], goal, more=False)
        rows.add(f"prefill {at}, pp at 40 %: tokens/s over the authors' operations in PyTorch", case["pp"]["speed_over_authors"],
                 AUTHORS[shape])
    for case in measured.get("mlp", []):
        ratio = {"median": case["time_ratio_over_share"], "quartiles": case["time_ratio_over_share_quartiles"]}
        rows.add(f"pruned MLP block (hidden 1024, intermediate 2816) at 40 %, {case['batch']}×{case['seq']}: time / (FLOP share "
                 f"incl. probe {case['flops_share']:.3f} × dense time)", ratio, BLOCK, more=False)
    for case in measured.get("attention", []):
        rows.add(f"attention alone, 9 heads × 64, {case['seq']:,} tokens: speed over PyTorch's", case["speed_over_pytorch"],
                 ATTENTION)
    for case in measured.get("single", []):
        rows.add(f"one prompt of {case['seq']:,} tokens, pp at 40 %, `--probe-tokens auto`: time over own dense",
                 case["time_over_dense"], SINGLE, more=False)
    for key, model in (("decode", ""), ("large", ", 2 layers of LLaMA-2-7B's shape")):
        if key not in measured:
            continue
        rows.add(f"decode{model}, batch 1: bytes/s over a plain read of the weights", measured[key]["plain_read"]["achieved"],
                 PLAIN_READ)
        for case in measured[key]["batches"][1:]:
            rows.add(f"decode{model}, a step of batch {case['batch']} over one of batch 1", case["step_over_one"],
                     STEP[case["batch"]], more=False)
    for case in measured.get("decode", {"batches": []})["batches"]:
        rows.add_best(f"decode, batch {case['batch']}, dense", case["dense"]["speed_over"], DECODE[case["batch"]])
        rows.add_best(f"decode, batch {case['batch']}, pp at 40 %", case["pp"]["speed_over"])
    return ["| what | measured | goal | |", "|---|---|---|---|", *rows.lines] if rows.lines else ["Not measured yet."]


def tokens(measured):
    """Tokens per second by run, and the dense ones over every peer's."""
    runs = [(f"prefill {case['batch']}×{case['seq']}", case) for case in measured.get("prefill", [])]
    runs += [(f"decode, batch {case['batch']}", case) for case in measured.get("decode", {"batches": []})["batches"]]
    peers = list(dict.fromkeys(peer for _, case in runs for peer in case["dense"]["speed_over"]))
    if not runs:
        return []
    lines = [f"| tokens/s | dense | pp at 40 % |{''.join(f' dense over {peer} |' for peer in peers)}",
             f"|---|---|---|{'---|' * len(peers)}"]
    for what, case in runs:
        over = case["dense"]["speed_over"]
        shown = "".join(f" {spread(over[peer]['median'], over[peer]['quartiles']) if peer in over else '–'} |" for peer in peers)
        lines.append(f"| {what} | {case['dense']['tokens_per_second']:.0f} | {case['pp']['tokens_per_second']:.0f} |{shown}")
    for key, what in (("tokens_per_second", "`perplexity` 4×256"), ("end_to_end", "the same, the whole command")):
        of = measured.get("perplexity")
        if of:
            lines.append(f"| {what} | {of['dense'][key]:.0f} | {of['pp'][key]:.0f} |{' – |' * len(peers)}")
    return lines


def speed(result):
    """Both classes, and what there is once."""
    amx = result["processor"]["tier"] == "amx"
    rows = [f"{result['machine']}, {result['threads']} threads; {result['model']}, all logits of a prefill; medians (and quartiles) "
            f"of interleaved runs; PyTorch {result.get('pytorch', 'not measured')}. Goals are those "
            f"{'with' if amx else 'without'} AMX."]
    for name, measured in result["classes"].items():
        rows += ["", f"Class {name}, {CLASSES[name]}; peers in {TYPES[name]}:", "", *ratios(name, measured, amx), "",
                 *tokens(measured)]
        left_out = [f"{peer} {why}" for peer, why in measured.get("cannot", {}).items()]
        if left_out:
            rows += ["", f"Without {'; '.join(left_out)}."]
        for key, model in (("decode", result["model"]), ("large", "2 layers of LLaMA-2-7B's shape")):
            read = measured.get(key, {}).get("plain_read", {})
            if read.get("bytes_per_second"):
                rows += ["", f"A plain read of the {read['bytes'] / 1e6:.0f} MB of weights ({model}): "
                         f"{read['bytes_per_second'] / 1e9:.1f} GB/s."]
    memory = result["memory"]["above_file_bytes"]
    rows += ["", f"Peak memory of `perplexity` 4×256 above the weight file: {memory / 1e6:.0f} MB, goal ≤ {MEMORY / 1e6:.0f} MB, "
             f"{'met' if memory <= MEMORY else 'missed'}."]
    long = result.get("long")
    if long:
        rows += ["", f"Prefill of one prompt of {long['tokens']:,} tokens, class A: {long['seconds']:.0f} s, "
                 f"{long['peak_bytes'] / 1e6:.0f} MB at the peak."]
    return "\n".join(rows)


def compensation(result):
    """The cost of compensation in the pruned block's time, in class A."""
    rows = ["| pruned MLP block (hidden 1024, intermediate 2816) at 40 % | compensation | time over the same without | goal |",
            "|---|---|---|---|"]
    for case in result["classes"]["A"].get("mlp", []):
        for key, name, goal in (("probe_mean", "probe-mean", 1.01), ("linear_32", "linear:32", 1.03)):
            rows.append(f"| {case['batch']}×{case['seq']}, {case[key]['kept_channels']} channels kept | {name} "
                        f"| {spread(case[key]['time_over_pruned'], case[key]['quartiles'], 3)} | ≤ {goal} |")
    return "\n".join(rows)


def merged(old, new):
    """An earlier result with the items that were measured again.

    >>> old = {"long": None, "classes": {"A": {"mlp": 1, "single": 2}, "B": {"mlp": 3}}}
    >>> merged(old, {"long": None, "classes": {"A": {"single": 4}, "B": {}}})["classes"]
    {'A': {'mlp': 1, 'single': 4}, 'B': {'mlp': 3}}
    """
    classes = {name: {**old["classes"][name], **new["classes"][name]} for name in old["classes"]}
    return {**old, "classes": classes, "long": new["long"] or old["long"]}
