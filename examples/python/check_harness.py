"""The harness's model gives the log-likelihoods of `probeprune perplexity`; with lm_eval, a task on a local file runs too.

    check_harness.py PROBEPRUNE        the command line program
"""

import json
import pathlib
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import numpy as np

import probeprune as pp
from harness import LM, ProbePrune

MODEL, LENGTH, RANK = "bundled:tiny-llama", 32, 8
HERE = pathlib.Path(__file__).resolve().parent


def request(*args):
    return SimpleNamespace(args=args)


def run(*command):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


def same_as_the_program(program, text, method, ratio, history, compensate="none", channel_group=1, adapt="none"):
    """Windows of LENGTH tokens, one after another."""
    flags = ["--method", method, "--prune-ratio", ratio, "--seq-len", LENGTH, "--batch-size", 1, "--max-tokens", 12 * LENGTH]
    flags += ["--history", history] if history else []
    flags += ["--compensate", f"linear:{RANK}" if compensate == "linear" else compensate, "--channel-group", channel_group]
    flags += ["--adapt", adapt]
    report = run(program, "perplexity", "--model", MODEL, "--device", "cpu", "--text", text, "--format", "json", *flags)
    expected = json.loads(report)["batch_losses"]
    more = {"compensate": pp.COMPENSATIONS.index(compensate), "compensate_rank": RANK, "channel_group": channel_group}
    more["adapt"] = pp.ADAPTATIONS.index(adapt)
    model = ProbePrune(MODEL, method=method, prune_ratio=ratio, history=history, max_length=LENGTH, threads=2, **more)
    tokens = model.tokenizer.encode(text.read_text())[: 12 * LENGTH].reshape(-1, LENGTH)
    scores = model.score_tokens([(window[:1], window[1:]) for window in tokens])
    losses = [-score / (LENGTH - 1) for score, _ in scores]
    difference = np.abs(np.subtract(losses, expected)).max()
    print(f"{method} at {ratio}, {compensate}, groups of {channel_group}, adapt {adapt}: {len(losses)} windows, largest difference of mean losses {difference:.1e}")
    # Both add the same float32 losses in float64.
    assert len(losses) == len(expected) and difference < 1e-12


def consistent():
    """The three kinds of request agree with each other."""
    model = ProbePrune(MODEL, max_length=48, threads=2)
    text = "The river runs past the old mill and the village."
    (rolling,) = model.loglikelihood_rolling([request(text)])
    ((whole, _),) = model.loglikelihood([request("", text)])
    assert abs(rolling - whole) < 1e-9, (rolling, whole)
    (generated,) = model.generate_until([request("The river runs", {"until": ["\n\n"], "max_gen_toks": 8})])
    ((_, greedy),) = model.loglikelihood([request("The river runs", generated)])
    assert generated and greedy, generated
    other = generated[:-1] + ("x" if generated[-1] != "x" else "y")
    ((_, greedy),) = model.loglikelihood([request("The river runs", other)])
    assert not greedy, other
    # Requests of different lengths in one batch are padded; a dense model does not mind.
    pairs = [request("The river runs", " past the old mill"), request("The", " hill")]
    alone = [score for score, _ in model.loglikelihood(pairs)]
    together = ProbePrune(MODEL, max_length=48, batch_size=2, threads=2).loglikelihood(pairs)
    assert np.allclose(alone, [score for score, _ in together], rtol=1e-4), (alone, together)
    print(f"log-likelihood {whole:.4f}; greedy: {generated!r}")


def harness_task(program, folder, text):
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager
    except ImportError:
        print("lm_eval is not installed: its task was not run")
        return
    assert issubclass(ProbePrune, LM) and LM is not object
    lines = [line for line in text.read_text().split("\n") if len(line) > 40][:20]
    documents = [
        {"text": line[:20], "choices": [line[20:], line[20:][::-1]], "target": 0, "line": line} for line in lines
    ]
    data = folder / "records.jsonl"
    data.write_text("\n".join(json.dumps(document) for document in documents))
    tasks = folder / "tasks"
    tasks.mkdir()
    (tasks / "records.yaml").write_text((HERE / "tasks/records.yaml").read_text().replace("DATA", str(data)))
    model = ProbePrune(MODEL, method="pp", prune_ratio=0.4, threads=2)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    results = lm_eval.simple_evaluate(model=model, tasks=["records"], task_manager=manager, bootstrap_iters=0)
    accuracy = results["results"]["records"]["acc,none"]
    print(f"lm_eval {lm_eval.__version__}: accuracy {accuracy} on {len(documents)} lines")
    assert accuracy > 0.9, "a line read forwards is likelier than backwards"


def main():
    program = pathlib.Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        text, history = folder / "text.txt", folder / "history.safetensors"
        text.write_text(run(program, "corpus", "--topic", "all", "--seed", 5, "--bytes", 6000))
        other = folder / "other.txt"
        other.write_text(run(program, "corpus", "--topic", "all", "--seed", 6, "--bytes", 6000))
        calibrate = ["calibrate", "--model", MODEL, "--device", "cpu", "--calibrate-text", other]
        calibrate += ["--compensate", f"linear:{RANK}", "--fold", "--calibrate-samples", 8]
        run(program, *calibrate, "--seq-len", LENGTH, "--out", history)
        for method, ratio, calibrated in [("none", 0.0, None), ("pp", 0.4, None), ("pp", 0.6, history), ("flap", 0.4, history)]:
            same_as_the_program(program, text, method, ratio, calibrated)
        same_as_the_program(program, text, "pp", 0.4, history, compensate="linear")
        same_as_the_program(program, text, "pp", 0.4, history, compensate="probe-mean", channel_group=8)
        for adapt in pp.ADAPTATIONS:
            same_as_the_program(program, text, "fold", 0.4, history, adapt=adapt)
        consistent()
        harness_task(program, folder, text)


main()
