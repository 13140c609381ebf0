"""Perplexity of folds and their corrections on texts that calibration covers and on others, for measure.py.

A stream is a sequence of windows of 256 tokens in batches of 10. Every method runs the same windows in the same order, so that what
a correction learns in one part of a stream counts in the next.
"""
import functools
import json
import math
import os
import subprocess

import numpy
from tokenizers import Tokenizer

SEQ_LEN, BATCH = 256, 10
METHODS = {"dense": [], "pp": ["--method", "pp"], "pp+compensate=linear:32": ["--method", "pp", "--compensate", "linear:32"],
           "fold": ["--method", "fold"], "fold+adapt=probe": ["--method", "fold", "--adapt", "probe"]}
# Stream, calibration, ratios, and the parts to report, in batches from and to.
CASES = [
    ("prose", "prose", (0.2, 0.4, 0.6), {"all": (0, 3)}),
    ("prose", "mixed", (0.2, 0.4, 0.6), {"all": (0, 3)}),
    ("technical", "mixed", (0.2, 0.4, 0.6), {"all": (0, 3)}),
    ("long", "prose", (0.2, 0.4, 0.6), {"windows 1–30": (0, 3), "windows 61–90": (6, 9)}),
    ("there and back", "prose", (0.4,), {"technical": (0, 3), "prose": (3, 6), "technical again": (6, 9)}),
    ("half and half", "prose", (0.4,), {"all": (0, 3)}),
]


def save(path, tensors):
    """A safetensors file of int32 tensors."""
    header, at = {}, 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "I32", "shape": list(tensor.shape), "data_offsets": [at, at + tensor.nbytes]}
        at += tensor.nbytes
    text = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text + b"".join(tensor.tobytes() for tensor in tensors.values()))


def windows(tokenizer, path):
    """The windows of a text."""
    with open(path, encoding="utf-8") as f:
        ids = tokenizer.encode(f.read()).ids
    count = len(ids) // SEQ_LEN
    return numpy.array(ids[:count * SEQ_LEN], dtype=numpy.int32).reshape(count, SEQ_LEN)


def streams(prose, technical):
    """The streams, from the windows of both texts.

    >>> p, t = numpy.zeros((40, 2), int), numpy.ones((100, 2), int)
    >>> {name: "".join(str(w[0]) for w in s)[::10] for name, s in streams(p, t).items()}["there and back"]
    '111000111'
    >>> streams(p, t)["half and half"][:12, 0]
    array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0])
    """
    halves = [part[5 * i:5 * i + 5] for i in range(3) for part in (prose, technical)]
    return {
        "prose": prose[:30],
        "technical": technical[:30],
        "long": technical[:90],
        "there and back": numpy.concatenate([technical[:30], prose[:30], technical[:30]]),
        "half and half": numpy.concatenate(halves),
    }


def of_parts(losses, parts):
    """Perplexity of every part, from the losses of the batches.

    >>> of_parts([0.0, math.log(4.0)], {"all": (0, 2), "last": (1, 2)})
    {'all': 2.0, 'last': 4.0}
    """
    return {name: round(math.exp(sum(losses[first:end]) / (end - first)), 4) for name, (first, end) in parts.items()}


def measure(program, model, own, other, folder, threads, ratios=None):
    """All cases for the model at `model`. `own` and `other` are (calibration, evaluation) texts of prose and of technical text;
    `ratios` limits the ratios."""
    tokenizer = Tokenizer.from_file(os.path.join(model, "tokenizer.json"))
    tokens = os.path.join(folder, "streams.safetensors")
    save(tokens, {name.replace(" ", "-"): stream for name, stream
                  in streams(windows(tokenizer, own[1]), windows(tokenizer, other[1])).items()})

    def run(*command):
        return subprocess.run([program, *command, "--model", model, "--threads", threads, "--seq-len", str(SEQ_LEN), "--batch-size",
                               str(BATCH)], check=True, stdout=subprocess.PIPE, text=True).stdout

    histories = {}
    for name, texts in (("prose", own[:1]), ("mixed", [own[0], other[0]])):
        histories[name] = os.path.join(folder, f"{name}.safetensors")
        run("calibrate", "--text", *texts, "--fold", "--compensate", "linear:32", "--out", histories[name])
    @functools.cache
    def perplexity(stream, *pruned):
        return json.loads(run("perplexity", "--tokens", f"{tokens}:{stream.replace(' ', '-')}", "--format", "json", *pruned))

    rows = []
    for stream, calibration, all_ratios, parts in CASES:
        for ratio in [r for r in all_ratios if ratios is None or r in ratios]:
            for method, flags in METHODS.items():
                pruned = ["--prune-ratio", str(ratio), "--history", histories[calibration], *flags] if flags else []
                result = perplexity(stream, *pruned)
                rows.append({"stream": stream, "calibration": calibration, "prune_ratio": ratio if flags else 0.0, "of_ratio": ratio,
                             "method": method, "perplexity": of_parts(result["batch_losses"], parts),
                             "flops_share": result["flops_share"], "probed_share": result["probed_share"],
                             "excess_error": result["excess_error"]})
                print(json.dumps(rows[-1]), flush=True)
    return rows
