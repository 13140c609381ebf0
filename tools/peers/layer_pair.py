"""Checks two pruned layers that a GPU computed against float32 in PyTorch, on the same kept heads and channels.

Usage: python tools/peers/layer_pair.py FOLDER [--device cuda]

FOLDER is what the test gpu_large::layer_pair left with PROBEPRUNE_LAYER_PAIR=FOLDER: the model, tokens, kept sets, logits.
Prints the normalised error of every sample and the worst row; exit code 1 if one is too large.
"""
import argparse
import json
import os
import sys

import torch
from safetensors.torch import load_file

HERE = os.path.dirname(os.path.abspath(__file__))
# What bfloat16 may do to the logits of a sample, and of one row.
SAMPLE, ROW = 1e-4, 1e-3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    args = parser.parse_args()
    # In the repository the model lies in tools/golden, in the package beside this file.
    sys.path.append(os.path.join(os.path.dirname(HERE), "golden"))
    from oracle_model import BLOCKS, Model, context

    torch.set_grad_enabled(False)
    torch.backends.cuda.matmul.allow_tf32 = False
    model = Model(args.folder)
    torch.set_default_device(args.device)
    model.w = {name: tensor.to(args.device) for name, tensor in model.w.items()}
    run = {name: tensor.to(args.device) for name, tensor in load_file(os.path.join(args.folder, "run.safetensors")).items()}
    with open(os.path.join(args.folder, "kept.json"), encoding="utf-8") as f:
        kept = [[None if of is None else torch.tensor(of) for of in layer] for layer in json.load(f)]
    worst_sample = worst_row = 0.0
    for sample, (tokens, got) in enumerate(zip(run["tokens"].long(), run["logits"].double())):
        tokens = tokens[None]
        ctx = context(torch.ones_like(tokens, dtype=torch.bool))
        r = model.embed(tokens, ctx)
        for layer in range(model.L):
            for block, keep in zip(BLOCKS, kept[layer]):
                a = model.inter(model.entry(r, layer, block), layer, block, ctx, keep)
                r = model.leave(r, a, layer, block, model.channels(keep, block))
        want = model.logits(r)[0].double()
        errors, sizes = (got - want).pow(2).sum(1), want.pow(2).sum(1)
        of_sample, of_row = float(errors.sum() / sizes.sum()), float((errors / sizes).max())
        print(f"sample {sample}: NMSE {of_sample:.1e}, worst row {of_row:.1e}")
        # max() would drop a NaN.
        if not (of_sample <= SAMPLE and of_row <= ROW):
            print(f"sample {sample}: expected at most {SAMPLE:.0e} and {ROW:.0e}")
            return False
        worst_sample, worst_row = max(worst_sample, of_sample), max(worst_row, of_row)
    print(f"{len(run['tokens'])} samples agree with PyTorch {torch.__version__}: NMSE up to {worst_sample:.1e}, "
          f"rows up to {worst_row:.1e}")
    return True


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
