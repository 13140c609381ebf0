"""Perplexity of folds and their corrections on texts that calibration covers and on others, for measure.py.

A stream is a sequence of windows of 256 tokens in batches of 10. Every method runs the same windows in the same order, so that what
a correction learns in one part of a stream counts in the next.
"""
import hashlib
import json
import math
import os
import subprocess

import numpy
from tokenizers import Tokenizer

SEQ_LEN, BATCH = 256, 10
METHODS = {"dense": [], "pp": ["--method", "pp"], "pp+compensate=linear:32": ["--method", "pp", "--compensate", "linear:32"],
           "fold": ["--method", "fold"], "fold+adapt=probe": ["--method", "fold", "--adapt", "probe"],
           # Half of the tokens that a batch's probe has.
           "fold+adapt=probe:64": ["--method", "fold", "--adapt", "probe:64"]}
# Only the first window of a batch may be probed: what the others show is not what the probe has seen.
ONE_PROBED = ["--probe-from", "1"]
NOT_PROBED = [window for window in range(30) if window % BATCH > 0]
# Stream, calibration, ratios, further flags of pruned runs, and the parts to report: windows of the stream.
CASES = [
    ("prose", "prose", (0.2, 0.4, 0.6), [], {"all": range(30)}),
    ("prose", "mixed", (0.2, 0.4, 0.6), [], {"all": range(30)}),
    ("technical", "mixed", (0.2, 0.4, 0.6), [], {"all": range(30)}),
    ("long", "prose", (0.2, 0.4, 0.6), [], {"windows 1–30": range(30), "windows 61–90": range(60, 90)}),
    ("there and back", "prose", (0.4,), [],
     {"technical": range(30), "prose": range(30, 60), "technical again": range(60, 90)}),
    ("half and half", "prose", (0.4,), [],
     {"all": range(30), "prose": [window for window in range(30) if window % 10 < 5],
      "technical": [window for window in range(30) if window % 10 >= 5]}),
    ("technical", "prose", (0.4,), ONE_PROBED, {"not probed": NOT_PROBED}),
    ("shuffled", "prose", (0.4,), ONE_PROBED, {"not probed": NOT_PROBED}),
]


def digest(paths):
    """A short digest of files."""
    of_all = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as f:
            of_all.update(hashlib.file_digest(f, "sha256").digest())
    return of_all.hexdigest()[:12]


def remembering(path, run):
    """`run`, a function of a command's words, with its results kept in the JSON file `path`, where later ones find them.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "results.json")
    ...     [remembering(path, run)("perplexity", "--help") for run in (lambda *words: len(words), None)]
    [2, 2]
    """
    results = {}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            results = json.load(f)

    def result(*words):
        command = " ".join(words)
        if command not in results:
            results[command] = run(*words)
            with open(path + ".new", "w", encoding="utf-8") as f:
                json.dump(results, f, indent=1)
            os.replace(path + ".new", path)
        return results[command]

    return result


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
    >>> streams(p[:, :1], numpy.arange(100)[:, None])["shuffled"][:5, 0]
    array([ 2, 13, 53, 41, 66])
    """
    halves = [part[5 * i:5 * i + 5] for i in range(3) for part in (prose, technical)]
    return {
        "prose": prose[:30],
        "technical": technical[:30],
        "long": technical[:90],
        # Numpy keeps what RandomState draws as it is.
        "shuffled": technical[numpy.random.RandomState(0).permutation(90)[:30]],
        "there and back": numpy.concatenate([technical[:30], prose[:30], technical[:30]]),
        "half and half": numpy.concatenate(halves),
    }


def of_parts(losses, parts):
    """Perplexity of every part, from the losses of the stream's windows.

    >>> of_parts([0.0, math.log(4.0)], {"all": range(2), "last": [1]})
    {'all': 2.0, 'last': 4.0}
    """
    return {name: round(math.exp(sum(losses[window] for window in part) / len(part)), 4) for name, part in parts.items()}


def measure(program, model, own, other, folder, threads, ratios=None):
    """All cases for the model at `model`. `own` and `other` are (calibration, evaluation) texts of prose and of technical text;
    `ratios` limits the ratios. Histories and results in `folder` are not made again."""
    tokenizer = Tokenizer.from_file(os.path.join(model, "tokenizer.json"))
    save(os.path.join(folder, "streams.safetensors"),
         {name.replace(" ", "-"): stream for name, stream
          in streams(windows(tokenizer, own[1]), windows(tokenizer, other[1])).items()})

    def run(*command):
        return subprocess.run([program, *command, "--model", model, "--threads", threads, "--seq-len", str(SEQ_LEN), "--batch-size",
                               str(BATCH)], check=True, stdout=subprocess.PIPE, text=True, cwd=folder).stdout

    def history(calibration):
        file = f"{calibration}.safetensors"
        if not os.path.exists(os.path.join(folder, file)):
            texts = {"prose": own[:1], "mixed": [own[0], other[0]]}[calibration]
            run("calibrate", "--text", *texts, "--fold", "--compensate", "linear:32", "--out", file)
        return file

    perplexity = remembering(os.path.join(folder, "results.json"),
                             lambda *flags: json.loads(run("perplexity", "--format", "json", *flags)))

    rows = []
    for stream, calibration, all_ratios, further, parts in CASES:
        for ratio in [r for r in all_ratios if ratios is None or r in ratios]:
            for method, flags in METHODS.items():
                pruned = ["--prune-ratio", str(ratio), "--history", history(calibration), *flags, *further]
                result = perplexity("--tokens", f"streams.safetensors:{stream.replace(' ', '-')}", *(pruned if flags else []))
                rows.append({"stream": stream, "calibration": calibration, "prune_ratio": ratio if flags else 0.0, "of_ratio": ratio,
                             "method": method, "perplexity": of_parts(result["window_losses"], parts),
                             "flops_share": result["flops_share"], "probed_share": result["probed_share"],
                             "excess_error": result["excess_error"]})
                print(json.dumps(rows[-1]), flush=True)
    return rows
