"""Probe Pruning as the operations of a plain PyTorch implementation: what its authors' published one does, written anew
from the method's description. Each step is what an eager program runs: attention with its whole score matrix,
key/value heads repeated, SiLU and product apart, residual norms in a pass of their own, scores that read the weight
again, full sorts, weights copied by index, history updated by advanced indexing.

Settings: the method's defaults (probe: 50 % of tokens, 5 % of samples; layers 0 to 2 dense; channels rounded up to 64;
momentum 0.99), heads and channels pruned alike.
"""
import math

import torch
import torch.nn.functional as F

SKIP, MOMENTUM, ROUND = 3, 0.99, 64


def layer_ratio(layers, ratio):
    """The ratio of the layers that are pruned, so that the mean over all is `ratio`.

    >>> layer_ratio(32, 0.4), layer_ratio(30, 0.4)
    (0.44, 0.44)
    """
    return round(layers / (layers - SKIP) * ratio, 2)


def kept_counts(heads, channels, ratio):
    """How many heads and channels of a pruned layer stay.

    >>> kept_counts(32, 11008, 0.44)
    (18, 6208)
    """
    return heads - int(ratio * heads), min(-(-(channels - int(ratio * channels)) // ROUND) * ROUND, channels)


def probe_counts(batch, seq):
    """Samples and tokens of the probe.

    >>> probe_counts(20, 64), probe_counts(4, 256)
    ((1, 32), (1, 128))
    """
    return min(batch, max(math.ceil(0.05 * batch), 1)), min(seq, max(math.ceil(0.5 * seq), 2))


class Reference:
    """A model pruned by a probe. `model` is pytorch.py's: its fused weights are taken apart into views."""

    def __init__(self, model, ratio):
        self.m = model
        self.counts = kept_counts(model.heads, model.inter, layer_ratio(model.layers, ratio))
        nq, nk = model.heads * model.head_dim, model.kv_heads * model.head_dim
        self.blocks = []
        for w in model.blocks:
            q, k, v = w["qkv"].split([nq, nk, nk])
            gate, up = w["gate_up"].split(model.inter)
            self.blocks.append({"norm1": w["norm1"], "norm2": w["norm2"], "q": q, "k": k, "v": v, "o": w["o"],
                                "gate": gate, "up": up, "down": w["down"]})

    def reset(self, seq):
        """History as if calibrated: the same small energy everywhere."""
        like = self.m.embed
        new = lambda width: torch.full((seq, width), 0.01, dtype=torch.float32, device=like.device)
        self.history = [(new(self.m.heads * self.m.head_dim), new(self.m.inter)) for _ in self.blocks]

    def rms(self, x, weight):
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.m.eps)
        return weight * y.to(x.dtype)

    def split(self, x):
        return x.view(*x.shape[:2], -1, self.m.head_dim).transpose(1, 2)

    def rotate(self, x, positions):
        cos, sin = self.m.cos[positions].to(x.dtype), self.m.sin[positions].to(x.dtype)
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat([-b, a], -1) * sin

    def attend(self, x, q_weight, w, positions, heads=None):
        """Eager attention; with `heads`, of those query heads only, whose rows `q_weight` holds."""
        q, k, v = (self.split(F.linear(x, weight)) for weight in (q_weight, w["k"], w["v"]))
        q, k = self.rotate(q, positions), self.rotate(k, positions)
        groups = self.m.heads // self.m.kv_heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        if heads is not None:
            k, v = k[:, heads], v[:, heads]
        s = x.shape[1]
        mask = torch.full((s, s), torch.finfo(q.dtype).min, dtype=q.dtype, device=q.device).triu(1)
        scores = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(self.m.head_dim) + mask
        scores = F.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        return torch.matmul(scores, v).transpose(1, 2).reshape(*x.shape[:2], -1)

    def probe(self, r):
        """Samples and slots with the largest residual, by full sorts."""
        n = torch.linalg.vector_norm(r, dim=-1)
        samples, tokens = probe_counts(*n.shape)
        order = torch.sort(torch.linalg.vector_norm(n, dim=0), descending=True).indices
        slots = torch.sort(order[:tokens]).values
        if tokens <= 10:
            slots[0] = 0
        order = torch.sort(torch.linalg.vector_norm(n[:, slots], dim=1), descending=True).indices
        return torch.sort(order[:samples]).values, slots

    def keep(self, a, slots, history, weight, count, head_dim=1):
        """The units with the highest PPsp score, ascending."""
        p = a.float().pow(2).mean(0)
        h = history[slots]
        share = p / (p + h + 1e-6)
        energy = (share * p + (1 - share) * h).sum(0)
        score = (weight.float().pow(2) * energy).pow(2).sum(0).sqrt()
        if head_dim > 1:
            score = score.view(-1, head_dim).pow(2).sum(1).sqrt()
        return torch.sort(torch.sort(score, descending=True).indices[:count]).values

    def update(self, history, a, channels):
        new = a.float().pow(2).mean(0)
        history[:, channels] = MOMENTUM * history[:, channels] + (1 - MOMENTUM) * new

    def attention(self, r, x, w, history, pruned):
        every = torch.arange(r.shape[1], device=r.device)
        if not pruned:
            return F.linear(self.attend(x, w["q"], w, every), w["o"])
        samples, slots = self.probe(r)
        a = self.attend(x[samples][:, slots], w["q"], w, slots)
        heads = self.keep(a, slots, history, w["o"], self.counts[0], self.m.head_dim)
        one = torch.arange(self.m.head_dim, device=r.device)
        channels = (heads[:, None] * self.m.head_dim + one).reshape(-1)
        a = self.attend(x, w["q"][channels], w, every, heads)
        out = F.linear(a, w["o"][:, channels])
        self.update(history, a, channels)
        return out

    def mlp(self, r, x, w, history, pruned):
        if not pruned:
            return F.linear(F.silu(F.linear(x, w["gate"])) * F.linear(x, w["up"]), w["down"])
        samples, slots = self.probe(r)
        px = x[samples][:, slots]
        a = F.silu(F.linear(px, w["gate"])) * F.linear(px, w["up"])
        channels = self.keep(a, slots, history, w["down"], self.counts[1])
        a = F.silu(F.linear(x, w["gate"][channels])) * F.linear(x, w["up"][channels])
        out = F.linear(a, w["down"][:, channels])
        self.update(history, a, channels)
        return out

    def forward(self, tokens):
        """Logits of all positions of (batch, seq) tokens."""
        r = F.embedding(tokens, self.m.embed)
        for layer, (w, history) in enumerate(zip(self.blocks, self.history)):
            pruned = layer >= SKIP
            r = r + self.attention(r, self.rms(r, w["norm1"]), w, history[0], pruned)
            r = r + self.mlp(r, self.rms(r, w["norm2"]), w, history[1], pruned)
        return F.linear(self.rms(r, self.m.norm), self.m.head)
