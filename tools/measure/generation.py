"""Generation with folds, for measure.py: perplexity of what follows prompts, and the time of both.

A request is a window of 192 tokens: the first 128 are the prompt, and the others are scored as they are decoded, one by one. Requests
come one at a time, and what a correction learned counts in the next. Methods take turns after every ten, so that their times can be
compared.
"""
import json
import math
import os
import statistics
import subprocess

from tokenizers import Tokenizer

from fold import save, windows

SEQ_LEN, PROMPT, PARTS, OF_PART = 192, 128, 3, 10
FOLD = ["--method", "fold", "--prune-ratio", "0.4"]
DENSE_PREFILL = ["--prefill", "dense"]


def adapt(tokens):
    """Every prompt is probed."""
    return [*FOLD, "--adapt", f"probe:{tokens}", "--adapt-every", "1"]


METHODS = {"dense": [], "fold": FOLD, "fold+prefill=dense": FOLD + DENSE_PREFILL, "fold+adapt=probe:128": adapt(128),
           **{f"fold+adapt=probe:{tokens}+prefill=dense": adapt(tokens) + DENSE_PREFILL for tokens in (128, 64, 32)},
           "fold+adapt=probe:128+adapt-metric=full+prefill=dense": adapt(128) + ["--adapt-metric", "full"] + DENSE_PREFILL}


def shares(seconds, dense, unlearning=None):
    """Median of the ratios to the dense model's seconds, request by request; less those of a method that learns nothing.

    >>> shares([2.0, 6.0, 8.0], [4.0, 4.0, 4.0]), shares([6.0, 8.0, 9.0], [4.0, 4.0, 4.0], [4.0, 4.0, 4.0])
    (1.5, 1.0)
    """
    unlearning = unlearning or [0.0] * len(seconds)
    return round(statistics.median((own - other) / of for own, other, of in zip(seconds, unlearning, dense)), 4)


def perplexity(losses):
    """
    >>> perplexity([0.0, math.log(4.0)])
    2.0
    """
    return round(math.exp(statistics.fmean(losses)), 4)


def rows_of(text, reports):
    """A row for each method, from its reports of all parts.

    >>> part = {"batch_losses": [0.0], "prefill_seconds": [2.0], "decode_seconds_per_token": [0.5]}
    >>> slow = part | {"prefill_seconds": [2.5]}
    >>> rows_of("prose", {"dense": [part], "fold+prefill=dense": [part], "fold+adapt=probe:32+prefill=dense": [slow]})[2]["update"]
    0.25
    """
    times = {method: {key: [seconds for part in parts for seconds in part[key]]
                      for key in ("batch_losses", "prefill_seconds", "decode_seconds_per_token")}
             for method, parts in reports.items()}
    dense = times["dense"]
    rows = []
    for method, own in times.items():
        learns = "adapt" in method and "prefill=dense" in method
        losses = own["batch_losses"]
        rows.append({
            "text": text, "method": method, "first": perplexity(losses[:1]),
            "parts": [perplexity(part["batch_losses"]) for part in reports[method]], "losses": [round(loss, 5) for loss in losses],
            "prefill": shares(own["prefill_seconds"], dense["prefill_seconds"]),
            "update": shares(own["prefill_seconds"], dense["prefill_seconds"], times["fold+prefill=dense"]["prefill_seconds"])
            if learns else None,
            "decode": shares(own["decode_seconds_per_token"], dense["decode_seconds_per_token"]),
            "prefill_seconds": statistics.median(own["prefill_seconds"]),
            "decode_seconds_per_token": statistics.median(own["decode_seconds_per_token"]),
        })
    return rows


def measure(program, model, calibration, texts, folder, threads):
    """All methods on every text of `texts` (name, path), calibrated with the text at `calibration`."""
    tokenizer = Tokenizer.from_file(os.path.join(model, "tokenizer.json"))
    tokens, history = (os.path.join(folder, f"{name}.safetensors") for name in ("requests", "history"))
    save(tokens, {f"{name}-{part}": windows(tokenizer, path)[part * OF_PART:(part + 1) * OF_PART, :SEQ_LEN]
                  for name, path in texts.items() for part in range(PARTS)})

    def run(*command):
        return subprocess.run([program, *command, "--model", model, "--threads", threads, "--seq-len", str(SEQ_LEN)], check=True,
                              stdout=subprocess.PIPE, text=True).stdout

    run("calibrate", "--text", calibration, "--fold", "--batch-size", "10", "--out", history)

    def part_of(text, part, method, flags):
        # What a method learned in the parts before.
        learned = [os.path.join(folder, f"{text}-{method}-{at}.safetensors") for at in (part - 1, part)]
        keeps = ["--save-history", learned[1]] if "adapt" in method else []
        before = ["--history", learned[0] if keeps and part > 0 else history] if flags else []
        report = json.loads(run("perplexity", "--tokens", f"{tokens}:{text}-{part}", "--batch-size", "1", "--prompt-tokens",
                                str(PROMPT), "--format", "json", *flags, *before, *keeps))
        if keeps and part > 0:
            os.remove(learned[0])
        return report

    rows = []
    for text in texts:
        reports = {method: [] for method in METHODS}
        for part in range(PARTS):
            for method, flags in METHODS.items():
                reports[method].append(part_of(text, part, method, flags))
                print(json.dumps([text, part, method, perplexity(reports[method][-1]["batch_losses"])]), flush=True)
        rows += rows_of(text, reports)
    return rows
