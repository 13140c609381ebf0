"""PyTorch on a GPU, one measurement per line of input, for `cargo bench --bench kernels -- --goals --pytorch COMMAND`.

Usage: python tools/peers/gpu.py [--device cuda]

Prints "ready" and then answers each line with the seconds of one run, in LLaMA-2-7B's shape with random weights:
  topk N K          torch.topk of N float32 scores
  sparse ROWS       a 2:4-sparse MLP block (cuSPARSELt) on so many rows
  reference B S     a prefill of B x S tokens by the authors' operations (reference.py), pruned by 40 %, with all logits
"""
import argparse
import statistics
import sys
import time

import torch

from cusparselt import block, halved, milliseconds
from pytorch import RATIO, Llama
from reference import Reference


class RandomLlama(Llama):
    """Random weights in a known shape."""

    def __init__(self, device, dtype, hidden=4096, inter=11008, heads=32, layers=32, vocab=32000):
        self.hidden, self.inter, self.layers, self.vocab = hidden, inter, layers, vocab
        self.heads = self.kv_heads = heads
        self.head_dim, self.eps, self.theta = hidden // heads, 1e-5, 10000.0
        new = lambda *shape: torch.empty(*shape, device=device, dtype=dtype).normal_(std=0.02)
        one = lambda: torch.ones(hidden, device=device, dtype=dtype)
        self.embed, self.head, self.norm = new(vocab, hidden), new(vocab, hidden), one()
        self.blocks = [{"norm1": one(), "qkv": new(3 * hidden, hidden), "o": new(hidden, hidden), "norm2": one(),
                        "gate_up": new(2 * inter, hidden), "down": new(hidden, inter)} for _ in range(layers)]


class Bench:
    """The measurements; what one needs is made when it is first asked for."""

    def __init__(self, device, **shape):
        self.device, self.shape = device, shape
        self.dtype = torch.bfloat16 if device == "cuda" else torch.float32
        self.made = {}

    def seconds(self, run, times=1):
        """The median of so many runs, on a GPU by its own events."""
        return statistics.median(self.one(run) for _ in range(times))

    def one(self, run):
        if self.device == "cuda":
            return milliseconds(run) / 1e3
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin

    def once(self, key, make):
        """What `make` makes; of all else only the model is kept, so that memory is there."""
        if key not in self.made:
            self.made = {kept: value for kept, value in self.made.items() if kept == "model"}
            self.made[key] = make()
        return self.made[key]

    def topk(self, n, k):
        scores = self.once(("topk", n), lambda: torch.rand(n, device=self.device))
        return self.seconds(lambda: torch.topk(scores, k), 9)

    def sparse(self, rows):
        from torch.sparse import to_sparse_semi_structured
        new = lambda *shape: torch.randn(*shape, device=self.device, dtype=self.dtype) * 0.02

        def make():
            weights = [new(11008, 4096), new(11008, 4096), new(4096, 11008)]
            return new(rows, 4096), [to_sparse_semi_structured(halved(weight)) for weight in weights]
        x, weights = self.once(("sparse", rows), make)
        return self.seconds(lambda: block(x, *weights), 5)

    def reference(self, batch, seq):
        model = self.once("model", lambda: RandomLlama(self.device, self.dtype, **self.shape))

        def make():
            model.prepare(seq)
            pruned = Reference(model, RATIO)
            pruned.reset(seq)
            tokens = torch.randint(model.vocab, (batch, seq), device=self.device)
            pruned.forward(tokens)
            return pruned, tokens
        pruned, tokens = self.once(("reference", batch, seq), make)
        return self.seconds(lambda: pruned.forward(tokens))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--layers", type=int, default=32)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no GPU that PyTorch can use")
    torch.set_grad_enabled(False)
    bench = Bench(args.device, layers=args.layers)
    print("ready", flush=True)
    for line in sys.stdin:
        what, *numbers = line.split()
        print(f"{getattr(bench, what)(*map(int, numbers)):.9f}", flush=True)


if __name__ == "__main__":
    main()
