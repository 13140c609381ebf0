"""Time of a 2:4-sparse LLaMA-2-7B MLP block (cuSPARSELt through PyTorch) beside the dense one, on a GPU.

Usage: python tools/peers/cusparselt.py [--rows 20480] [--repeat 20]

Prints one JSON object: milliseconds (medians of interleaved runs) and their ratio. 2:4 halves the products, as pruning
half of the channels does; a pruned block of this program at equal FLOPs is to take at most 0.75 of the sparse time.
"""
import argparse
import json
import statistics
import sys

import torch
import torch.nn.functional as F
from torch.sparse import to_sparse_semi_structured

HIDDEN, INTERMEDIATE = 4096, 11008


def halved(weight):
    """The weight with the two smaller of every four neighbours in a row set to 0."""
    groups = weight.view(-1, 4)
    smaller = groups.abs().argsort(1)[:, :2]
    return groups.scatter(1, smaller, 0).view_as(weight)


def block(x, gate, up, down):
    return F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)


def milliseconds(run):
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20480)
    parser.add_argument("--repeat", type=int, default=20)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("row 13 was not measured: there is no GPU")
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    new = lambda *shape: torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * 0.02
    x, dense = new(args.rows, HIDDEN), [new(INTERMEDIATE, HIDDEN), new(INTERMEDIATE, HIDDEN), new(HIDDEN, INTERMEDIATE)]
    sparse = [to_sparse_semi_structured(halved(weight)) for weight in dense]
    times = {"dense": [], "sparse": []}
    for _ in range(args.repeat + 3):
        times["dense"].append(milliseconds(lambda: block(x, *dense)))
        times["sparse"].append(milliseconds(lambda: block(x, *sparse)))
    medians = {name: statistics.median(values[3:]) for name, values in times.items()}
    print(json.dumps({"device": torch.cuda.get_device_name(), "rows": args.rows, "dense_ms": medians["dense"],
                      "sparse_ms": medians["sparse"], "sparse_over_dense": medians["sparse"] / medians["dense"]}))


if __name__ == "__main__":
    main()
