"""Make tests/golden: seeded random small models and what the oracle computes with them.

Every folder has config.json, model.safetensors, reference.json (settings) and
reference.safetensors (tokens, kept sets, logits). Seeds are tried until no selection, in any
setting, has a relative gap below 1e-4 between the last kept and the first pruned, so that other
orders of summation give the same kept sets. make_transformers_logits.py makes transformers-logits/.

Usage: python tools/golden/make_golden.py OUT_FOLDER [NAME...]
"""
import json
import math
import os
import sys

import torch
from safetensors.torch import save_file

from oracle_generate import generate, generation_tensors
from oracle_method import DEFAULTS, GAPS, TooClose, calibrate, key_of, run_setting
from oracle_model import Model

LEAST_GAP = 1e-4
NOTE = ("Made by tools/golden/make_golden.py in float32 on the CPU. Calibration: dense pass over calib_tokens in batches "
        "of batch_size. Then eval batch 0 runs once as a warm-up without history update, then batches 0.. in order, each "
        "updating history after it ran. keys: SETTING.batchN.layers.L.attention.kept_heads | mlp.kept_channels (batch 0 "
        "only where the sets are fixed beforehand); SETTING.batchLAST.logits holds samples 0 and 1, zero at pads.")
GENERATE_NOTE = (
    "Made by tools/golden/make_golden.py in float32 on the CPU. Calibration as in the other folders; then the prompts "
    "(prompt_tokens, prompt_mask) are prefilled, which updates history, without a warm-up, and `generate` tokens are "
    "decoded greedily, eos ignored. The first token comes from the prefill's last logits; with reprobe_every n the MLP "
    "channels are chosen anew after every n decode steps. keys: SETTING.tokens (B, generate); SETTING.prefill_logits and "
    "SETTING.last_logits (B, V): those of the first and of the last token; SETTING.batch0.layers.L....: the prefill's "
    "kept sets; SETTING.reprobeK.layers.L.mlp.kept_channels: after decode step K*n, K from 1.")
RUN = {"batch": 5, "calib": 17, "seq": 22, "calib_seq": 22, "batches": 3}

LLAMA_SETTINGS = {
    "dense": {"method": "none", "ratio": 0.0},
    "pp20": {"ratio": 0.2}, "pp40": {}, "pp60": {"ratio": 0.6}, "pp40_round64": {"round_channels": 64},
    "pp40_round1": {"round_channels": 1}, "pp30_noskip": {"ratio": 0.3, "skip_layers": [], "round_channels": 1},
    "pp20_skip3": {"ratio": 0.2, "skip_layers": [0, 1, 2]}, "pp30_skip2": {"ratio": 0.3, "skip_layers": [1, 3]},
    "pp40_wandasp": {"metric": "wanda-sp"}, "pp40_flap": {"metric": "flap"},
    "pp40_probe": {"probe_tokens": 0.2, "probe_samples": 0.5},
    "pp40_samples_first": {"probe_order": "samples,tokens", "probe_samples": 0.4},
    "pp40_tokens": {"probe_order": "tokens", "probe_tokens": 0.3},
    "pp40_samples": {"probe_order": "samples", "probe_samples": 0.3},
    "pp40_fixed30": {"fixed_probe_weight": 0.3}, "pp40_fixed100": {"fixed_probe_weight": 1.0},
    "pp40_uncalibrated": {"calibrated": False}, "pp40_momentum": {"momentum": 0.6},
    "par40": {"parallel": True}, "par30_noskip": {"parallel": True, "ratio": 0.3, "skip_layers": []},
    "full40": {"method": "full-batch"}, "wandasp40": {"method": "wanda-sp"}, "flap40": {"method": "flap"},
    "flap40_gqa": {"method": "flap", "flap_attention_factor": 2}, "flap72": {"method": "flap", "ratio": 0.72},
    "flap40_round1": {"method": "flap", "round_channels": 1},
    "magnitude40": {"method": "magnitude"},
}
OPT_NAMES = ("dense", "pp20", "pp40", "pp40_samples_first", "pp40_wandasp", "pp40_uncalibrated", "par40", "par30_noskip",
             "full40", "wandasp40", "flap40", "magnitude40")
SMALL_NAMES = ("dense", "pp20", "pp40", "par40", "full40")
PADDED_NAMES = ("dense", "pp20", "pp40", "pp40_probe", "pp40_samples_first", "pp40_flap", "pp40_uncalibrated", "par40",
                "full40", "wandasp40")
GENERATE_SETTINGS = {"dense": {"method": "none", "ratio": 0.0}, "pp40": {}, "pp40_reprobe3": {"reprobe_every": 3},
                     "flap40": {"method": "flap"}}

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 131, "hidden_size": 45,
         "intermediate_size": 109, "num_hidden_layers": 5, "num_attention_heads": 6, "num_key_value_heads": 3,
         "head_dim": 8, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
         "tie_word_embeddings": False, "torch_dtype": "float32"}
OPT = {"architectures": ["OPTForCausalLM"], "model_type": "opt", "vocab_size": 113, "hidden_size": 42, "ffn_dim": 90,
       "num_hidden_layers": 4, "num_attention_heads": 6, "max_position_embeddings": 64, "do_layer_norm_before": True,
       "word_embed_proj_dim": 42, "activation_function": "relu", "tie_word_embeddings": True, "torch_dtype": "float32"}

pick = lambda names: {n: LLAMA_SETTINGS[n] for n in names}
# name: (config, dtype, settings, run)
FOLDERS = {
    "llama-gqa": (LLAMA, "float32", LLAMA_SETTINGS, RUN),
    "llama-padded": ({**LLAMA, "vocab_size": 97, "hidden_size": 40, "intermediate_size": 75, "num_hidden_layers": 4,
                      "num_key_value_heads": 2, "torch_dtype": "bfloat16"}, "bfloat16", pick(PADDED_NAMES),
                     {**RUN, "seq": 24, "calib_seq": 20, "padded": True}),
    "opt": (OPT, "float32", pick(OPT_NAMES), {**RUN, "batch": 4, "seq": 19, "calib_seq": 19}),
    "opt-350m": ({**OPT, "hidden_size": 40, "ffn_dim": 72, "num_attention_heads": 5, "do_layer_norm_before": False,
                  "word_embed_proj_dim": 24, "torch_dtype": "float16"}, "float16", pick(SMALL_NAMES),
                 {**RUN, "batch": 3, "seq": 13, "calib_seq": 13}),
    "opt-padded": ({**OPT, "vocab_size": 97, "ffn_dim": 77}, "float32", pick(SMALL_NAMES),
                   {**RUN, "seq": 16, "calib_seq": 12, "padded": True}),
    "generate-llama": ({**LLAMA, "num_hidden_layers": 4, "hidden_size": 43}, "float32", GENERATE_SETTINGS,
                       {**RUN, "batch": 3, "seq": 15, "calib_seq": 30, "generate": 12}),
    "generate-opt": ({**OPT, "ffn_dim": 101, "tie_word_embeddings": False}, "float32", GENERATE_SETTINGS,
                     {**RUN, "batch": 3, "seq": 15, "calib_seq": 30, "generate": 12}),
}


def random_weights(c, gen):
    """Weights whose residual norms, heads and channels differ clearly in size."""
    opt, w = c["model_type"] == "opt", {}
    randn = lambda *shape: torch.randn(shape, generator=gen)
    spread = lambda n, by: torch.exp((torch.rand(n, generator=gen) * 2 - 1) * by)
    h, inter, n = c["hidden_size"], c["ffn_dim"] if opt else c["intermediate_size"], c["num_attention_heads"]
    d = c.get("head_dim") or h // n
    width, kv = n * d, c.get("num_key_value_heads", n) * d
    embed = c["word_embed_proj_dim"] if opt else h
    pre = "model.decoder." if opt else "model."

    def linear(name, rows, cols, gain, scale=1.0):
        w[name + ".weight"] = randn(rows, cols) * (gain / cols ** 0.5) * scale
        if opt:
            w[name + ".bias"] = 0.2 * randn(rows)

    def norm(name):
        w[name + ".weight"] = 1 + 0.25 * randn(h)
        if opt:
            w[name + ".bias"] = 0.2 * randn(h)

    sizes = 1.5 * torch.exp(torch.linspace(-0.9, 0.9, c["vocab_size"]))
    w[pre + "embed_tokens.weight"] = randn(c["vocab_size"], embed) * sizes[:, None]
    for l in range(c["num_hidden_layers"]):
        p = f"{pre}layers.{l}."
        linear(p + "self_attn.q_proj", width, h, 1.3)
        linear(p + "self_attn.k_proj", kv, h, 1.3)
        linear(p + "self_attn.v_proj", kv, h, 1.0)
        heads = spread(n, 0.5).repeat_interleave(d)
        linear(p + ("self_attn.out_proj" if opt else "self_attn.o_proj"), h, width, 0.8, heads)
        for name in ("fc1",) if opt else ("mlp.gate_proj", "mlp.up_proj"):
            linear(p + name, inter, h, 1.2)
        linear(p + ("fc2" if opt else "mlp.down_proj"), h, inter, 0.8, spread(inter, 0.9))
        for name in ("self_attn_layer_norm", "final_layer_norm") if opt else ("input_layernorm", "post_attention_layernorm"):
            norm(p + name)
    if opt:
        w[pre + "embed_positions.weight"] = 0.3 * randn(c["max_position_embeddings"] + 2, h)
        if c["do_layer_norm_before"]:
            norm(pre + "final_layer_norm")
            w[pre + "final_layer_norm.weight"] *= 0.25  # the tied head is large
        if embed != h:
            w[pre + "project_in.weight"] = randn(h, embed) / embed ** 0.5
            w[pre + "project_out.weight"] = randn(embed, h) * (0.25 / h ** 0.5)
    else:
        norm("model.norm")
    if not c["tie_word_embeddings"]:
        w["lm_head.weight"] = randn(c["vocab_size"], h) * (2 / h ** 0.5)
    return w


def random_tokens(rows, seq, batch, vocab, gen):
    """Rows of tokens; at each position a batch's rows draw from neighbouring ids, which have
    embeddings of about one size, so that positions differ clearly in importance."""
    out = []
    for _ in range(0, rows, batch):
        low = torch.randperm(seq, generator=gen) * (vocab - 16) // seq + 4
        out.append(low + torch.randint(12, (batch, seq), generator=gen))
    return torch.cat(out)[:rows]


def pad(tokens, batch, gen):
    """Left-pad: batch 0 mixed, batch 1 not at all, batch 2 every sample by 2 or more (and pads are token 1)."""
    rows, seq = tokens.shape
    n = torch.randint(1, seq // 2, (rows,), generator=gen)
    n[1] = n[batch:2 * batch] = 0
    n[2 * batch:] = n[2 * batch:].clamp(min=3)
    n[2 * batch + 1] = 2
    mask = (torch.arange(seq)[None] >= n[:, None])
    return torch.where(mask, tokens, torch.ones_like(tokens)), mask


def run_folder(m, settings, run, gen):
    """Everything of an ordinary folder: reference.json's content and the tensors."""
    batch, batches, vocab = run["batch"], run["batches"], m.c["vocab_size"]
    calib = random_tokens(run["calib"], run["calib_seq"], batch, vocab, gen)
    tokens, mask = random_tokens(batch * batches, run["seq"], batch, vocab, gen), None
    data = {"calib_tokens": calib}
    if run.get("padded"):
        tokens, mask = pad(tokens, batch, gen)
        data["eval_mask"] = mask
    data["eval_tokens"] = tokens
    state, out = calibrate(m, calib, batch), {}
    last = batches - 1
    for name, changes in settings.items():
        cfg = setting(m, changes)
        kept, losses, logits = run_setting(m, cfg, state, tokens, mask, batch, batches)
        fixed = cfg["method"] in ("wanda-sp", "flap", "magnitude")
        data.update({key_of(name, f"batch{i}", l, b): v for (i, l, b), v in kept.items() if i == 0 or not fixed})
        two = logits[last][:2]
        if mask is None:
            cfg.update(batch_losses=losses, perplexity=math.exp(sum(losses) / len(losses)))
        else:
            two = two * mask[last * batch:last * batch + 2, :, None]
        data[f"{name}.batch{last}.logits"] = two
        out[name] = cfg
    top = {"batch_size": batch, "seq_len": run["seq"], "calib_seq_len": run["calib_seq"], "num_batches": batches}
    return {**top, "note": NOTE, "settings": out}, data


def generation_folder(m, settings, run, gen):
    """The same of a generation folder."""
    vocab, batch = m.c["vocab_size"], run["batch"]
    calib = random_tokens(run["calib"], run["calib_seq"], batch, vocab, gen)
    tokens = random_tokens(batch, run["seq"], batch, vocab, gen)
    mask = torch.arange(run["seq"])[None] >= torch.tensor([4, 0, 7])[:, None]
    tokens = torch.where(mask, tokens, torch.ones_like(tokens))
    data = {"calib_tokens": calib, "prompt_tokens": tokens, "prompt_mask": mask}
    state, out = calibrate(m, calib, batch), {}
    for name, changes in settings.items():
        cfg = setting(m, {"reprobe_every": None, **changes})
        g, new = generate(m, cfg, state, tokens, mask, run["generate"])
        other, again = generate(m, {**cfg, "divisor_slack": 1e-3}, state, tokens, mask, run["generate"])
        if not torch.equal(new, again) or str(g.reprobes) != str(other.reprobes):
            raise TooClose("the re-probe's divisor matters")
        if cfg["reprobe_every"] and any(torch.equal(g.prefill_kept[key], v) for key, v in g.reprobes[-1].items()):
            raise TooClose("a re-probe changed nothing")
        if min(len(set(row)) for row in new.tolist()) < 6:
            raise TooClose("dull text")
        data.update(generation_tensors(name, g, new))
        out[name] = cfg
    top = {"batch_size": batch, "seq_len": run["seq"], "calib_seq_len": run["calib_seq"], "generate": run["generate"]}
    return {**top, "note": GENERATE_NOTE, "settings": out}, data


def setting(m, changes):
    """A setting with all its keys; rounding is 8 and layer 0 stays dense unless it says otherwise."""
    cfg = {**DEFAULTS, "round_channels": 8, **changes}
    if cfg["method"] == "none":
        cfg["skip_layers"] = list(range(m.L))
    if cfg["method"] == "full-batch":
        cfg.update(probe_tokens=1.0, probe_samples=1.0)
    if cfg["method"] in ("wanda-sp", "flap", "magnitude"):
        cfg["metric"] = cfg["method"]
    return cfg


def make(out, name):
    """Make one folder with the first seed whose selections are all clear."""
    config, dtype, settings, run = FOLDERS[name]
    folder = os.path.join(out, name)
    os.makedirs(folder)
    write = lambda file, tensors: save_file(tensors, os.path.join(folder, file), {"format": "pt"})
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
        f.write(json.dumps(config, indent=1) + "\n")
    for seed in range(1, 1000):
        gen = torch.Generator().manual_seed(seed)
        weights = {k: t.to(getattr(torch, dtype)) for k, t in random_weights(config, gen).items()}
        write("model.safetensors", weights)
        GAPS.reset(LEAST_GAP)
        try:
            ref, data = (generation_folder if "generate" in run else run_folder)(Model(folder), settings, run, gen)
        except TooClose as why:
            print(f"{name} seed {seed}: {why}", flush=True)
            continue
        break
    else:
        raise SystemExit(f"{name}: no seed will do")
    ref = {"seed": seed, "smallest_gap": GAPS.worst, **ref}
    with open(os.path.join(folder, "reference.json"), "w", encoding="utf-8") as f:
        f.write(json.dumps(ref, indent=1) + "\n")
    write("reference.safetensors", {k: (t if t.is_floating_point() else t.int()).contiguous() for k, t in data.items()})
    print(f"{name}: seed {seed}, smallest gap {GAPS.worst:.1e} ({GAPS.where})", flush=True)


def main(args):
    if not args:
        sys.exit(__doc__)
    for name in args[1:] or FOLDERS:
        make(args[0], name)


if __name__ == "__main__":
    main(sys.argv[1:])
