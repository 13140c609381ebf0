"""Checks that reference.py computes what this program computes: the same kept sets and logits of one batch.

Usage: python tools/peers/check.py FOLDER [--program target/release/probeprune]
"""
import argparse
import os
import subprocess
import sys
import tempfile

import torch
from pytorch import Llama, RATIO
from reference import SKIP, Reference
from safetensors.torch import load_file, save_file

BATCH, SEQ = 4, 64


def ours(program, folder, tokens):
    """The program's dump of the batch."""
    with tempfile.TemporaryDirectory() as scratch:
        file, dump = os.path.join(scratch, "tokens.safetensors"), os.path.join(scratch, "dump.safetensors")
        save_file({"t": tokens.to(torch.int32)}, file)
        subprocess.run([program, "perplexity", "--model", folder, "--device", "cpu", "--tokens", f"{file}:t", "--seq-len",
                        str(SEQ), "--batch-size", str(BATCH), "--prune-ratio", str(RATIO), "--dump", dump],
                       check=True, stdout=subprocess.DEVNULL)
        return load_file(dump)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--program", default="target/release/probeprune")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    model = Llama(args.folder)
    model.prepare(SEQ)
    tokens = torch.randint(model.vocab, (BATCH, SEQ), generator=torch.Generator().manual_seed(1))
    pruned, kept = Reference(model, RATIO), []
    pruned.reset(SEQ)
    for history in pruned.history:
        for block in history:
            block.zero_()
    keep = pruned.keep

    def recorded(*arguments):
        kept.append(keep(*arguments))
        return kept[-1]

    pruned.keep = recorded
    logits, dump = pruned.forward(tokens)[:2], ours(args.program, args.folder, tokens)
    names = [f"batch0.layers.{layer}.{kind}" for layer in range(SKIP, model.layers)
             for kind in ("attention.kept_heads", "mlp.kept_channels")]
    other = [name for name, units in zip(names, kept, strict=True) if not torch.equal(dump[name].long(), units)]
    error = float((dump["batch0.logits"] - logits).abs().max() / logits.abs().max())
    print(f"{len(names) - len(other)} of {len(names)} kept sets are the same; logits differ by {error:.1e} of the largest")
    sys.exit(bool(other) or error > 1e-4)


if __name__ == "__main__":
    main()
