"""Checks the rivals of the GPU goals without a GPU: each computes what its plain formula says, at a small shape.

Usage: python tools/peers/check_rivals.py

Where Triton is installed its kernels run too, in its interpreter.
"""
import os
import sys

os.environ.setdefault("TRITON_INTERPRET", "1")

import torch  # noqa: E402

import fused  # noqa: E402
from reference import kept_counts, layer_ratio  # noqa: E402
from rivals import EPS, DenseLayer, Device, Rivals, halved  # noqa: E402

HIDDEN, INTER, HEADS, HEAD_DIM = 48, 80, 3, 16


def formula(layer, samples, tokens, past):
    """The layer in float64, operation by operation; what it adds to the residual, and the caches' new entries."""
    wide = lambda t: t.double()
    n = HEADS * HEAD_DIM

    def norm(x, weight):
        return x / (x.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * wide(weight)

    def rotate(x):
        out = torch.empty_like(x)
        for token in range(tokens):
            for i in range(HEAD_DIM // 2):
                angle = torch.tensor((past + token) * 1e4 ** (-2 * i / HEAD_DIM), dtype=torch.float64)
                a, b = x[:, token, :, i], x[:, token, :, i + HEAD_DIM // 2]
                out[:, token, :, i] = a * angle.cos() - b * angle.sin()
                out[:, token, :, i + HEAD_DIM // 2] = b * angle.cos() + a * angle.sin()
        return out

    r = wide(layer.r)
    x = norm(r, layer.norms[0])
    q, k, v = ((x @ wide(w).t()).view(samples, tokens, HEADS, HEAD_DIM) for w in layer.qkv.split(n))
    q, k = rotate(q), rotate(k)
    out = torch.zeros(samples, tokens, HEADS, HEAD_DIM, dtype=torch.float64)
    for b in range(samples):
        for h in range(HEADS):
            keys, values = k[b, :, h], v[b, :, h]
            if past:
                keys = torch.cat([wide(layer.cache[0][b, h, :past]), keys])
                values = torch.cat([wide(layer.cache[1][b, h, :past]), values])
            for token in range(tokens):
                seen = past + token + 1
                scores = keys[:seen] @ q[b, token, h] / HEAD_DIM ** 0.5
                out[b, token, h] = torch.softmax(scores, 0) @ values[:seen]
    r = r + out.reshape(-1, n) @ wide(layer.o).t()
    x = norm(r, layer.norms[1])
    gate, up = ((x @ wide(w).t()) for w in layer.gate_up.split(INTER))
    return r + (gate * torch.sigmoid(gate) * up) @ wide(layer.down).t()


def layers(pieces):
    for samples, tokens, past in ((2, 5, 0), (3, 1, 7)):
        layer = DenseLayer(Device("cpu"), samples, tokens, past, HIDDEN, INTER, HEADS, HEAD_DIM)
        layer.pieces = pieces
        want = formula(layer, samples, tokens, past)
        layer.run()
        error = float((layer.r.double() - want).abs().max() / want.abs().max())
        print(f"layer {samples}x{tokens} behind {past}, {pieces.name}: differs by {error:.1e} of the largest")
        assert error < 1e-5
        assert layer.flops == 2 * samples * tokens * HIDDEN * (4 * HEADS * HEAD_DIM + 3 * INTER)


def others():
    rivals = Rivals("cpu")
    weight = torch.tensor([[1.0, -3.0, 2.0, 0.5, 4.0, 0.0, -5.0, 1.0]])
    assert halved(weight).tolist() == [[0.0, -3.0, 2.0, 0.0, 4.0, 0.0, -5.0, 0.0]]
    _, run = rivals.topk(100, 10)
    assert run().indices.numel() == 10
    name, run = rivals.gated(6, 20, HIDDEN)
    assert run().shape == (6, 20), name
    flops = 2 * 10 * HIDDEN * (4 * HEADS * HEAD_DIM + 3 * INTER)
    name, _ = rivals.layer(2, 5, 0, HIDDEN, INTER, HEADS, HEAD_DIM, flops)
    assert "attention" in name
    try:
        rivals.layer(2, 5, 0, HIDDEN, INTER, HEADS, HEAD_DIM, flops + 1)
    except ValueError as error:
        assert str(flops) in str(error)
    else:
        raise AssertionError("another layer is refused")
    kept = kept_counts(HEADS, INTER, layer_ratio(8, 0.4))
    name, run = rivals.authors(2, 6, HIDDEN, INTER, HEADS, HEAD_DIM, 8, 64, *kept)
    assert run().shape == (2, 6, 64), name


def main():
    torch.set_grad_enabled(False)
    layers(fused.Plain())
    if fused.triton is None:
        print("without Triton's kernels: it is not installed")
    else:
        layers(fused.Fused())
    others()
    print("the rivals compute what they should")


if __name__ == "__main__":
    sys.exit(main())
