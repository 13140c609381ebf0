"""LLaMA-like and OPT models of Hugging Face folders in plain float32 PyTorch, block by block.

Part of the oracle (see oracle.py). A model is two kinds of blocks, "attention" and "mlp", each
split where pruning needs it: norm -> intermediate states -> last projection.
"""
import glob
import json
import math
import os

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

BLOCKS = ("attention", "mlp")
ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu, "gelu_new": lambda x: F.gelu(x, approximate="tanh")}


class Context:
    """Where a grid of tokens lies: `slots` (S) in the padded sequence, `pos` (B, S) the position
    ids, `mask` (B, S) True at real tokens; `kslots`, `kmask` the same of the attention's keys."""

    def __init__(self, slots, pos, mask, kslots=None, kmask=None, length=None):
        self.slots, self.pos, self.mask = slots, pos, mask
        self.kslots = slots if kslots is None else kslots
        self.kmask = mask if kmask is None else kmask
        self.length = int(pos.max()) + 1 if length is None else length  # what dynamic RoPE goes by

    def sub(self, samples, tokens):
        """The grid samples x tokens, whose keys are its own tokens."""
        pick = lambda t: t[samples][:, tokens]
        return Context(self.slots[tokens], pick(self.pos), pick(self.mask), length=self.length)

    def allowed(self, window):
        """(B, 1, S, keys) True where a query may see a key."""
        ahead = self.slots[:, None] - self.kslots[None, :]
        ok = ahead >= 0
        if window:
            ok = ok & (ahead < window)
        return (ok[None] & self.kmask[:, None, :])[:, None]


def context(mask):
    """The context of a whole batch, from its (B, S) boolean mask."""
    pos = (mask.long().cumsum(1) - 1).clamp(min=0)
    return Context(torch.arange(mask.shape[1]), pos, mask)


def load_tensors(folder):
    """All tensors of a folder in float32, one file or shards."""
    w = {}
    for path in sorted(glob.glob(os.path.join(folder, "model*.safetensors"))):
        w.update({k: t.float() for k, t in load_file(path).items()})
    return w


def rope_frequencies(c, dim, length):
    """Inverse frequencies and the factor on cos and sin, for a batch of `length` positions."""
    p = c.get("rope_parameters") or c.get("rope_scaling") or {}
    theta = p.get("rope_theta") or c.get("rope_theta", 10000.0)
    kind = p.get("rope_type") or p.get("type") or "default"
    exponent = torch.arange(0, dim, 2, dtype=torch.int64).float() / dim
    inv = 1.0 / theta ** exponent
    trained = c.get("max_position_embeddings", 2048)
    if kind == "default":
        return inv, 1.0
    factor = p["factor"]
    if kind == "linear":
        return inv / factor, 1.0
    if kind == "dynamic":
        grown = factor * max(length, trained) / trained - (factor - 1)
        return 1.0 / (theta * grown ** (dim / (dim - 2))) ** exponent, 1.0
    if kind == "llama3":
        lo, hi, old = p["low_freq_factor"], p["high_freq_factor"], p["original_max_position_embeddings"]
        wave = 2 * math.pi / inv
        smooth = (old / wave - lo) / (hi - lo)
        mid = (1 - smooth) * inv / factor + smooth * inv
        return torch.where(wave > old / lo, inv / factor, torch.where(wave < old / hi, inv, mid)), 1.0
    if kind == "yarn":
        old = p.get("original_max_position_embeddings") or trained
        turn = lambda n: dim * math.log(old / (n * 2 * math.pi)) / (2 * math.log(theta))
        low = max(math.floor(turn(p.get("beta_fast") or 32)), 0)
        high = min(math.ceil(turn(p.get("beta_slow") or 1)), dim - 1)
        ramp = ((torch.arange(dim // 2).float() - low) / max(high - low, 0.001)).clamp(0, 1)
        scale = p.get("attention_factor") or 0.1 * math.log(factor) + 1.0
        return inv / factor * ramp + inv * (1 - ramp), scale
    raise ValueError(f"unknown RoPE type {kind}")


class Model:
    """Weights and forward pieces. r is the residual stream, x = norm(r), a the intermediate states."""

    def __init__(self, folder):
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
            c = self.c = json.load(f)
        self.opt = c["model_type"] == "opt"
        self.pre_norm = not self.opt or c.get("do_layer_norm_before", True)
        prefix = "decoder." if self.opt else ""
        w = load_tensors(folder)
        self.w = {k[6:] if k.startswith("model.") else k: t for k, t in w.items()}
        self.w = {k[len(prefix):] if k.startswith(prefix) else k: t for k, t in self.w.items()}
        self.H, self.L, self.N = c["hidden_size"], c["num_hidden_layers"], c["num_attention_heads"]
        self.I = c["ffn_dim"] if self.opt else c["intermediate_size"]
        self.D = c.get("head_dim") or self.H // self.N
        self.KV = c.get("num_key_value_heads") or self.N
        self.window = c.get("sliding_window") if c["model_type"] == "mistral" or c.get("use_sliding_window") else None
        self.act = ACTIVATIONS[c.get("activation_function", "relu") if self.opt else c.get("hidden_act", "silu")]

    def part(self, l, name):
        return self.w.get(f"layers.{l}.{name}")

    def linear(self, x, l, name, rows=None, cols=None):
        """A projection restricted to rows (with their bias) or columns (with the whole bias)."""
        w, b = self.part(l, name + ".weight"), self.part(l, name + ".bias")
        if rows is not None:
            w, b = w[rows], None if b is None else b[rows]
        return F.linear(x, w if cols is None else w[:, cols], b)

    def norm(self, x, name):
        w = self.w.get(name + ".weight")
        if self.opt:
            return F.layer_norm(x, x.shape[-1:], w, self.w.get(name + ".bias"), 1e-5)
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.c.get("rms_norm_eps", 1e-6)) * w

    def block_norm(self, r, l, block):
        """The block's own norm."""
        names = ("self_attn_layer_norm", "final_layer_norm") if self.opt else \
            ("input_layernorm", "post_attention_layernorm")
        return self.norm(r, f"layers.{l}.{names[BLOCKS.index(block)]}")

    def entry(self, r, l, block):
        """x: the input of the block's first projections."""
        return self.block_norm(r, l, block) if self.pre_norm else r

    def last(self, block):
        """Name of the block's last projection."""
        if block == "attention":
            return "self_attn.out_proj" if self.opt else "self_attn.o_proj"
        return "fc2" if self.opt else "mlp.down_proj"

    def last_weight(self, l, block):
        return self.part(l, self.last(block) + ".weight")

    def leave(self, r, a, l, block, cols=None, bias=0.0):
        """The residual after the block: last projection, residual add, norm where it comes after."""
        r = r + self.linear(a, l, self.last(block), cols=cols) + bias
        return r if self.pre_norm else self.block_norm(r, l, block)

    def embed(self, tokens, ctx):
        x = F.embedding(tokens, self.w["embed_tokens.weight" if "embed_tokens.weight" in self.w else "lm_head.weight"])
        if not self.opt:
            return x
        if "project_in.weight" in self.w:
            x = F.linear(x, self.w["project_in.weight"])
        index = torch.where(ctx.mask, ctx.pos, torch.full_like(ctx.pos, -1)) + 2
        return x + F.embedding(index, self.w["embed_positions.weight"])

    def logits(self, r):
        if not self.opt:
            r = self.norm(r, "norm")
        elif self.pre_norm and not self.c.get("_remove_final_layer_norm"):
            r = self.norm(r, "final_layer_norm")
        if "project_out.weight" in self.w:
            r = F.linear(r, self.w["project_out.weight"])
        return F.linear(r, self.w["lm_head.weight" if "lm_head.weight" in self.w else "embed_tokens.weight"])

    def rope(self, x, ctx):
        """Rotate-half RoPE of x (B, heads, S, D)."""
        inv, scale = rope_frequencies(self.c, self.D, ctx.length)
        angle = ctx.pos[:, None, :, None].float() * torch.cat([inv, inv])
        half = self.D // 2
        turned = torch.cat([-x[..., half:], x[..., :half]], -1)
        return x * (angle.cos() * scale) + turned * (angle.sin() * scale)

    def channels(self, keep, block):
        """Kept heads or channels -> columns of the last projection."""
        if keep is None or block == "mlp":
            return keep
        return (keep[:, None] * self.D + torch.arange(self.D)).reshape(-1)

    def inter(self, x, l, block, ctx, keep=None, cache=None):
        """x -> a (B, S, kept channels). A cache {layer: (k, v)} is extended by x's keys and values."""
        if block == "mlp":
            if self.opt:
                return self.act(self.linear(x, l, "fc1", keep))
            return self.act(self.linear(x, l, "mlp.gate_proj", keep)) * self.linear(x, l, "mlp.up_proj", keep)
        b, s, d = *x.shape[:2], self.D
        heads = torch.arange(self.N) if keep is None else keep
        split = lambda y: y.view(b, s, -1, d).transpose(1, 2)
        q = split(self.linear(x, l, "self_attn.q_proj", self.channels(heads, block)))
        k, v = split(self.linear(x, l, "self_attn.k_proj")), split(self.linear(x, l, "self_attn.v_proj"))
        if self.opt:
            q = q * d ** -0.5
        else:
            q, k = self.rope(q, ctx), self.rope(k, ctx)
        if cache is not None:
            if l in cache:
                k, v = torch.cat([cache[l][0], k], 2), torch.cat([cache[l][1], v], 2)
            cache[l] = k, v
        group = heads // (self.N // self.KV)
        scores = q @ k[:, group].transpose(2, 3) * (1.0 if self.opt else d ** -0.5)
        scores = scores.masked_fill(~ctx.allowed(self.window), float("-inf"))
        probs = scores.softmax(-1).nan_to_num(0.0)  # a query without any key: 0
        return (probs @ v[:, group]).transpose(1, 2).reshape(b, s, -1)

    def dense(self, tokens, mask=None):
        """Logits of the whole batch."""
        ctx = context(torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask)
        r = self.embed(tokens, ctx)
        for l in range(self.L):
            for block in BLOCKS:
                r = self.leave(r, self.inter(self.entry(r, l, block), l, block, ctx), l, block)
        return self.logits(r)
