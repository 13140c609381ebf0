"""Probe Pruning and its baselines, batch by batch, in plain float32 PyTorch. Part of the oracle
(see oracle.py); the section numbers are those of the method's description."""
import math

import torch
import torch.nn.functional as F

from oracle_model import BLOCKS, context

torch.set_grad_enabled(False)
torch.set_num_threads(1)

DEFAULTS = {
    "method": "pp", "ratio": 0.4, "skip_layers": [0], "probe_tokens": 0.5, "probe_samples": 0.05,
    "probe_order": "tokens,samples", "round_channels": 64, "parallel": False, "metric": "ppsp",
    "fixed_probe_weight": None, "momentum": 0.99, "calibrated": True, "flap_attention_factor": 4,
}


class Gaps:
    """The smallest relative gap between what a selection kept and what it left, over all selections."""

    def __init__(self):
        self.reset(0.0)

    def reset(self, least):
        """Start anew; a gap below `least` is an error."""
        self.least, self.worst, self.where = least, float("inf"), None

    def add(self, kept, left, where, scale=None):
        scale = max(abs(float(kept if scale is None else scale)), 1e-30)
        gap = abs(float(kept) - float(left)) / scale
        if gap < self.worst:
            self.worst, self.where = gap, where
        if gap < self.least:
            raise TooClose(f"{where}: gap {gap:.1e}")


class TooClose(Exception):
    """A selection that rounding could turn."""


GAPS = Gaps()


def top(v, k, where="probe"):
    """The k largest, ties to the lower index, ascending."""
    order = torch.argsort(v, descending=True, stable=True)
    if k < len(v) and v[order[k]].isfinite():
        GAPS.add(v[order[k - 1]], v[order[k]], where)
    return order[:k].sort().values


def calibrate(m, tokens, batch):
    """Dense pass: per (layer, block) history h and FLAP's beta and phi, each (S, C)."""
    state, n = {}, 0
    for t in tokens.split(batch):
        ctx = context(torch.ones_like(t, dtype=torch.bool))
        r, b = m.embed(t, ctx), len(t)
        for l in range(m.L):
            for block in BLOCKS:
                a = m.inter(m.entry(r, l, block), l, block, ctx)
                zero = torch.zeros_like(a[0])
                h, beta, phi = state.get((l, block), (zero, zero, zero))
                h = h * (n / (n + b)) + a.pow(2).sum(0) / (n + b)
                old, beta = beta, beta * (n / (n + b)) + a.mean(0) / (n + b)
                if n > 0:
                    cross = ((a - beta.mean(0)) * (a - old.mean(0))).sum(0)
                    phi = phi * ((n - 1) / (n + b - 1)) + cross / (n + b)
                state[l, block] = h, beta, phi
                r = m.leave(r, a, l, block)
        n += b
    return state


def probe_select(r, mask, cfg):
    """Samples and tokens of the probe, by residual importance (section 1)."""
    n = r.norm(dim=-1) * mask
    batch, seq = n.shape
    samples, tokens = torch.arange(batch), torch.arange(seq)
    for what in cfg["probe_order"].split(","):
        grid, real = n[samples][:, tokens], mask[samples][:, tokens]
        if what == "tokens":
            t = grid.norm(dim=0).masked_fill(~real.any(0), float("-inf"))
            k = min(seq, max(math.ceil(cfg["probe_tokens"] * seq), 2))
            tokens = top(t, k, "probe tokens")
            if k <= 10:
                tokens[0] = int(real.any(0).nonzero()[0])
        else:
            k = min(batch, max(math.ceil(cfg["probe_samples"] * batch), 1))
            samples = top(grid.norm(dim=1).masked_fill(~real.any(1), float("-inf")), k, "probe samples")
    return samples, tokens


def mean_square(a, mask, padded):
    """Mean over samples of a squared, (S, C); `padded`: the batch's mask has a 0 somewhere."""
    if not padded:
        return a.pow(2).mean(0)
    total = (a * mask[..., None]).pow(2).sum(0)
    return total / (mask.sum(0)[:, None] + 1e-3)


def slots_of(h, slots):
    """h at the given slots; slots it has not seen are 0."""
    if int(slots.max()) >= len(h):
        h = torch.cat([h, torch.zeros(int(slots.max()) + 1 - len(h), h.shape[1])])
    return h[slots]


def fuse(p, h, fixed=None):
    """Energy per channel from the probe's p and history h (section 3)."""
    w = p / (p + h + 1e-6) if fixed is None else fixed
    return (w * p + (1 - w) * h).sum(0)


def score(m, energy, l, block, metric):
    """Scores of channels, or of heads for attention (section 4)."""
    w = m.last_weight(l, block)
    if metric == "ppsp":
        s = energy * w.pow(4).sum(0).sqrt()
    elif metric == "wanda-sp":
        s = energy.sqrt() * w.abs().sum(0)
    elif metric == "flap":
        s = energy * w.pow(2).sum(0)
    else:
        s = w.norm(dim=0)  # magnitude
    if block == "mlp":
        return s
    s = s.view(m.N, m.D)
    return s.norm(dim=1) if metric in ("ppsp", "magnitude") else s.sum(1)


def kept_count(n, ratio, block, rounding):
    """How many of n heads or channels stay (section 5); never none."""
    k = n - int(ratio * n)
    if block == "attention":
        return max(k, 1)
    return min(max(-(-k // rounding), 1) * rounding, n)


def select(s, block, ratio, rounding, where="scores"):
    if not s.isfinite().all():
        raise ValueError(f"non-finite score: {where}")
    return top(s, kept_count(len(s), ratio, block, rounding), where)


def pruned_layers(m, cfg):
    """Layers that are pruned, and their raised ratio."""
    layers = [l for l in range(m.L) if l not in cfg["skip_layers"]]
    ratio = round(m.L / len(layers) * cfg["ratio"], 2) if layers else 0.0
    if ratio >= 1 or layers and m.N == int(ratio * m.N):
        raise ValueError(f"ratio {cfg['ratio']} too large for {m.L} layers, skipping {cfg['skip_layers']}")
    return layers, ratio


def flap_ratios(m, state, layers, ratio, factor):
    """Each block's own ratio from FLAP's global threshold (section 7)."""
    seq = len(next(iter(state.values()))[0])
    q = (factor * seq * m.H * m.D + 2 * seq * seq * m.D) / ((2 if m.opt else 3) * seq * m.H)
    values, weights = {}, []
    for l in layers:
        for block in BLOCKS:
            v = (state[l, block][2].sum(0) * m.last_weight(l, block).pow(2).sum(0)).double()
            v = (v - v.mean()) / v.std()
            values[l, block] = v.view(m.N, m.D).mean(1) if block == "attention" else v
            weights.append(torch.full_like(values[l, block], q if block == "attention" else 1.0))
    v, order = torch.cat(list(values.values())).sort()
    weights = torch.cat(weights)
    cumulative, limit = weights[order].cumsum(0), ratio * weights.sum()
    i = int((cumulative > limit).nonzero()[0])
    GAPS.add(v[i], v[min(i + 1, len(v) - 1)], "flap threshold")
    GAPS.add(limit, cumulative[i], "flap budget")
    if i:
        GAPS.add(limit, cumulative[i - 1], "flap budget")
    return {key: float((e <= v[i]).sum()) / len(e) for key, e in values.items()}


def static_sets(m, cfg, state):
    """Kept sets and compensation biases of the methods that fix them beforehand."""
    layers, ratio = pruned_layers(m, cfg)
    method, kept, bias = cfg["method"], {}, {}
    own = flap_ratios(m, state, layers, ratio, cfg["flap_attention_factor"]) if method == "flap" else {}
    for l in layers:
        for block in BLOCKS:
            energy = None if method == "magnitude" else state[l, block][2 if method == "flap" else 0].sum(0)
            keep = kept[l, block] = select(score(m, energy, l, block, method), block, own.get((l, block), ratio),
                                           cfg["round_channels"], f"{method} layer {l} {block}")
            if method == "flap":
                v = state[l, block][1].mean(0).clone()
                v[m.channels(keep, block)] = 0
                bias[l, block] = m.last_weight(l, block) @ v
    return kept, bias


class Pruner:
    """Runs batches under one setting and carries the history from one to the next."""

    def __init__(self, m, cfg, state):
        self.m, self.cfg = m, {**DEFAULTS, **cfg}
        self.layers, self.ratio = pruned_layers(m, self.cfg)
        self.fixed, self.bias = {}, {}
        if self.cfg["method"] in ("wanda-sp", "flap", "magnitude"):
            self.fixed, self.bias = static_sets(m, self.cfg, state)
        width = lambda block: m.N * m.D if block == "attention" else m.I
        self.h = {(l, b): torch.zeros(0, width(b)) for l in range(m.L) for b in BLOCKS}
        if self.cfg["calibrated"] and state:
            self.h = {key: v[0].clone() for key, v in state.items()}

    def probe(self, src, l, block, ctx):
        """Kept heads or channels by probing with the residual `src`."""
        m, cfg, padded = self.m, self.cfg, not bool(ctx.mask.all())
        if cfg["method"] == "full-batch":
            sub, r = ctx, src
        else:
            samples, tokens = probe_select(src, ctx.mask, cfg)
            sub, r = ctx.sub(samples, tokens), src[samples][:, tokens]
        p = mean_square(m.inter(m.entry(r, l, block), l, block, sub), sub.mask, padded)
        if cfg["method"] == "full-batch":
            energy = p.sum(0)
        else:
            energy = fuse(p, slots_of(self.h[l, block], sub.slots), cfg["fixed_probe_weight"])
        return select(score(m, energy, l, block, cfg["metric"]), block, self.ratio, cfg["round_channels"],
                      f"layer {l} {block}")

    def choose(self, r, prev, l, block, ctx):
        """The kept set of a block, None for dense."""
        src = prev if self.cfg["parallel"] else r
        if l not in self.layers or self.cfg["method"] == "none":
            return None
        if self.fixed:
            return self.fixed[l, block]
        return None if src is None else self.probe(src, l, block, ctx)

    def update(self, a, l, block, ctx, cols):
        """Fold the batch's intermediate states into the history of kept channels (section 6)."""
        mu, seq = self.cfg["momentum"], a.shape[1]
        h = self.h[l, block]
        if len(h) < seq:
            h = torch.cat([h, torch.zeros(seq - len(h), h.shape[1])])
        new = mean_square(a, ctx.mask, not bool(ctx.mask.all()))
        h[:seq, cols] = mu * h[:seq, cols] + (1 - mu) * new
        self.h[l, block] = h

    def run(self, tokens, mask=None, update=True, cache=None):
        """Logits and kept sets {(layer, block): indices} of one batch."""
        m = self.m
        ctx = context(torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.bool())
        r, prev, kept = m.embed(tokens, ctx), None, {}
        for l in range(m.L):
            for block in BLOCKS:
                keep = self.choose(r, prev, l, block, ctx)
                a = m.inter(m.entry(r, l, block), l, block, ctx, keep, cache)
                cols = m.channels(keep, block)
                prev, r = r, m.leave(r, a, l, block, cols, self.bias.get((l, block), 0.0))
                if keep is not None:
                    kept[l, block] = keep
                    if update:
                        self.update(a, l, block, ctx, cols)
        return m.logits(r), kept


def mean_loss(logits, tokens):
    """Mean cross-entropy of each next token."""
    return float(F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), tokens[:, 1:].reshape(-1)))


def run_setting(m, cfg, state, tokens, mask, batch, batches):
    """Warm-up on batch 0, then the batches in order: kept sets, losses, all batches' logits."""
    pruner = Pruner(m, cfg, state)
    kept, losses, logits = {}, [], []
    for step, i in enumerate([0] + list(range(batches))):
        t = tokens[i * batch:(i + 1) * batch]
        masked = None if mask is None else mask[i * batch:(i + 1) * batch]
        out, sets = pruner.run(t, masked, update=step > 0)
        if step > 0:
            kept.update({(i, *key): v for key, v in sets.items()})
            losses.append(mean_loss(out, t))
            logits.append(out)
    return kept, losses, logits


def key_of(setting, part, l, block):
    """Name of a kept set in reference.safetensors."""
    return f"{setting}.{part}.layers.{l}." + ("attention.kept_heads" if block == "attention" else "mlp.kept_channels")
