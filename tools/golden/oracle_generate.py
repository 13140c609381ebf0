"""Greedy generation of the oracle: kept heads of the prompt's prefill stay, MLP channels stay or
are chosen anew every n decode steps (section 9). See oracle.py."""
import os

import torch

from oracle_method import GAPS, Pruner, calibrate, fuse, key_of, score, select, slots_of
from oracle_model import BLOCKS, Context


class Generation:
    """A padded batch of prompts, its cache and its kept sets.

    Generated tokens lie in the slots after the padded prompt and see every real token before them.
    """

    def __init__(self, m, cfg, state, prompts, mask):
        self.m, self.pruner, self.cache = m, Pruner(m, cfg, state), {}
        self.mask = mask.bool()
        logits, self.kept = self.pruner.run(prompts, self.mask, cache=self.cache)
        self.prefill_kept, self.logits = dict(self.kept), logits[:, -1]
        self.recent, self.reprobes = {}, []
        self.slack = cfg.get("divisor_slack", 0.0)  # to see that the result does not hang on the divisor

    def step(self, tokens):
        """Feed one token per sample (B); the logits of the next."""
        m = self.m
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], 1)
        slot = torch.tensor([self.mask.shape[1] - 1])
        pos = self.mask.long().sum(1, keepdim=True) - 1
        ctx = Context(slot, pos, self.mask[:, -1:], torch.arange(self.mask.shape[1]), self.mask)
        r = m.embed(tokens[:, None], ctx)
        for l in range(m.L):
            for block in BLOCKS:
                keep = self.kept.get((l, block))
                a = m.inter(m.entry(r, l, block), l, block, ctx, keep, self.cache)
                if block == "mlp" and keep is not None:
                    full = torch.zeros(len(a), m.I)
                    full[:, keep] = a[:, 0]
                    self.recent.setdefault(l, []).append(full)
                r = m.leave(r, a, l, block, m.channels(keep, block), self.pruner.bias.get((l, block), 0.0))
        self.logits = m.logits(r)[:, 0]
        return self.logits

    def reprobe(self, n):
        """Choose the MLP channels anew from the last n tokens fed; not computed counts as 0."""
        m, pr = self.m, self.pruner
        slots = torch.arange(self.mask.shape[1] - n, self.mask.shape[1])
        chosen = {}
        for l, rows in self.recent.items():
            p = torch.stack(rows[-n:]).pow(2).sum(1) / (self.mask.shape[0] + self.slack)
            energy = fuse(p, slots_of(pr.h[l, "mlp"], slots), pr.cfg["fixed_probe_weight"])
            s = score(m, energy, l, "mlp", pr.cfg["metric"])
            chosen[l, "mlp"] = select(s, "mlp", pr.ratio, pr.cfg["round_channels"], f"reprobe layer {l}")
        self.kept.update(chosen)
        self.reprobes.append(chosen)


def generate(m, cfg, state, prompts, mask, new_tokens):
    """Greedy decoding; the Generation (its first and last logits kept) and the tokens (B, new_tokens)."""
    g = Generation(m, cfg, state, prompts, mask)
    g.prefill_logits, every, out = g.logits, cfg.get("reprobe_every") or 0, []
    for i in range(new_tokens):
        best = g.logits.sort(dim=-1, descending=True)
        for row in best.values:
            GAPS.add(row[0], row[1], "greedy token", row.std())
        out.append(best.indices[:, 0])
        if i + 1 < new_tokens:
            g.step(out[-1])
            if every and (i + 1) % every == 0 and cfg["method"] != "none":
                g.reprobe(every)
    return g, torch.stack(out, 1)


def generation_tensors(name, g, tokens):
    """What reference.safetensors holds of one setting."""
    data = {f"{name}.tokens": tokens, f"{name}.prefill_logits": g.prefill_logits, f"{name}.last_logits": g.logits}
    data.update({key_of(name, "batch0", l, b): v for (l, b), v in g.prefill_kept.items()})
    for i, chosen in enumerate(g.reprobes, 1):
        data.update({key_of(name, f"reprobe{i}", l, b): v for (l, b), v in chosen.items()})
    return data


def check_generation(folder, m, ref, data):
    """Compare all settings of a generation folder; True if all agree."""
    state = calibrate(m, data["calib_tokens"].long(), ref["batch_size"])
    fine = True
    for name, cfg in ref["settings"].items():
        g, tokens = generate(m, cfg, state, data["prompt_tokens"].long(), data["prompt_mask"], ref["generate"])
        got = generation_tensors(name, g, tokens)
        stored = {k: v for k, v in data.items() if k.startswith(name + ".")}
        wrong = sorted(set(got) ^ set(stored))
        for k in set(got) & set(stored):
            same = torch.allclose(got[k], stored[k], atol=1e-4) if "logits" in k else bool((got[k] == stored[k]).all())
            wrong += [] if same else [k]
        fine &= not wrong
        print(f"{os.path.basename(folder):14s} {name:20s} {len(stored):3d} tensors: {wrong or 'OK'}")
    return fine
