"""The oracle: Probe Pruning and its baselines in plain float32 PyTorch, slow and simple.

Written from the method's description alone, to make and check the tests' golden data; it shares
no code with the crate. oracle_model.py has the models, oracle_method.py pruning,
oracle_generate.py decoding.

Usage: python tools/golden/oracle.py check FOLDER... [-v]
  Compares with each FOLDER's reference.json and reference.safetensors (see make_golden.py), or
  dense logits alone where there is no reference.json (see make_transformers_logits.py).
"""
import json
import os
import sys

from safetensors.torch import load_file

from oracle_generate import check_generation
from oracle_method import calibrate, key_of, run_setting
from oracle_model import Model


def check_dense(folder, data):
    """Compare the dense logits of a transformers-logits folder."""
    got = Model(folder).dense(data["tokens"].long(), data["mask"].bool()) * data["mask"][..., None]
    worst = float((got - data["logits"]).abs().max())
    print(f"{os.path.basename(folder):24s} logits differ by {worst:.1e}: {'OK' if worst < 1e-4 else 'DIFFERENT'}")
    return worst < 1e-4


def check(folder, verbose=False):
    """Compare every setting of a folder with its reference; True if all agree."""
    data = load_file(os.path.join(folder, "reference.safetensors"))
    if not os.path.exists(os.path.join(folder, "reference.json")):
        return check_dense(folder, data)
    with open(os.path.join(folder, "reference.json"), encoding="utf-8") as f:
        ref, m = json.load(f), Model(folder)
    if "generate" in ref:
        return check_generation(folder, m, ref, data)
    batch, fine = ref["batch_size"], True
    state = calibrate(m, data["calib_tokens"].long(), batch) if "calib_tokens" in data else {}
    for name, cfg in ref["settings"].items():
        mask = data.get("eval_mask")
        kept, losses, logits = run_setting(m, cfg, state, data["eval_tokens"].long(), mask, batch, ref["num_batches"])
        sets = {key_of(name, f"batch{i}", l, b): v for (i, l, b), v in kept.items()}
        stored = {k for k in data if k.startswith(name + ".") and "kept" in k}
        wrong = [k for k in stored if k not in sets or data[k].tolist() != sets[k].tolist()]
        blocks = {k.split(".", 2)[2] for k in stored}  # the fixed methods' sets may be stored once
        wrong += [k for k in sets if k.split(".", 2)[2] not in blocks]
        last = ref["num_batches"] - 1
        want, got = data[f"{name}.batch{last}.logits"], logits[last][:2]
        if mask is not None:
            got = got * mask[last * batch:last * batch + 2, :, None]
        nmse = float((got - want).double().pow(2).sum() / want.double().pow(2).sum())
        loss = max((abs(a - b) for a, b in zip(losses, cfg.get("batch_losses", []))), default=0.0)
        ok = not wrong and nmse < 1e-9 and loss < 1e-4
        fine &= ok
        print(f"{os.path.basename(folder):14s} {name:20s} {len(stored):3d} sets, {len(wrong)} differ, "
              f"NMSE {nmse:.1e}, loss difference {loss:.1e}: {'OK' if ok else 'DIFFERENT'}")
        if verbose:
            print("\n".join(f"    {k}" for k in sorted(wrong)))
    return fine


def main(args):
    given = [a.rstrip("/") for a in args[1:] if a != "-v"]
    if not given or args[0] != "check":
        sys.exit(__doc__)
    # What a shell pattern brings along (a README, a folder of folders) is passed over.
    folders = [a for a in given if os.path.exists(os.path.join(a, "config.json")) or not os.path.exists(a)]
    results = [check(f, "-v" in args) for f in folders]
    sys.exit(0 if results and all(results) else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
