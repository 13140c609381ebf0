"""Make tests/golden/transformers-logits: very small models, one for each feature of Hugging Face folders.

Each folder has config.json, the weights, and reference.safetensors with `tokens` and `mask`
(B, S) int32 (the mask has left padding) and `logits` (B, S, V) float32, zeroed at pads. The logits
are computed by Hugging Face transformers in float32 with eager attention, from the weights as
stored: not by the oracle, which is only compared with them. Needs transformers 4.46.

Usage: python tools/golden/make_transformers_logits.py OUT_FOLDER
"""
import json
import os
import sys

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM
from transformers import OPTConfig, OPTForCausalLM, Qwen2Config, Qwen2ForCausalLM

from oracle_model import Model

torch.set_grad_enabled(False)
torch.set_num_threads(1)

LLAMA = {"vocab_size": 41, "hidden_size": 24, "intermediate_size": 37, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 32,
         "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False}
OPT = {"vocab_size": 37, "hidden_size": 20, "ffn_dim": 33, "num_hidden_layers": 2, "num_attention_heads": 4,
       "max_position_embeddings": 24, "do_layer_norm_before": True, "word_embed_proj_dim": 20,
       "tie_word_embeddings": True, "bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}
WIDE = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}  # more frequencies
SCALE3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}

# name: (family, changes to the config, options). Options: written: the config file's own keys, given
# to transformers under the older names of `changes` (None drops a key); dtypes; seq; pads; drop: tensors
# left out of the file; prefix: False drops "model."; shards; buffers: old rotary buffers.
CASES = {
    "rope-linear": ("llama", {"rope_scaling": {"type": "linear", "factor": 3.0}}, {}),
    "rope-dynamic": ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}, **WIDE}, {"seq": 45}),
    "rope-dynamic-within": ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, {}),
    "rope-llama3": ("llama", {"rope_scaling": {"rope_type": "llama3", **SCALE3}, **WIDE}, {}),
    "rope-yarn": ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, **WIDE}, {}),
    "rope-yarn-original": ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 0.9,
                                                      "beta_fast": 16.0, "beta_slow": 2.0}, **WIDE},
                           {"written": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 0.9,
                                                         "beta_fast": 16.0, "beta_slow": 2.0,
                                                         "original_max_position_embeddings": 32},
                                        "max_position_embeddings": 128}}),
    "rope-parameters": ("llama", {"rope_scaling": {"rope_type": "llama3", **SCALE3}, "rope_theta": 500.0, **WIDE},
                        {"written": {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500.0, **SCALE3},
                                     "rope_theta": None, "rope_scaling": None}}),
    "rope-parameters-default": ("llama", {"rope_theta": 300.0},
                                {"written": {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
                                             "rope_theta": None, "rope_scaling": None}}),
    "head-dim": ("llama", {"head_dim": 10, "hidden_size": 25, "num_attention_heads": 3, "num_key_value_heads": 1},
                 {}),
    "kv-default": ("llama", {"num_key_value_heads": 4}, {"written": {"num_key_value_heads": None, "head_dim": None}}),
    "llama-bias": ("llama", {"attention_bias": True, "mlp_bias": True}, {}),
    "old-buffers": ("llama", {}, {"buffers": True, "dtypes": ["float16"]}),
    "untied": ("llama", {}, {"dtypes": ["bfloat16"]}),
    "tied-embed-only": ("llama", {"tie_word_embeddings": True}, {"drop": "lm_head.weight"}),
    "tied-head-only": ("llama", {"tie_word_embeddings": True}, {"drop": "model.embed_tokens.weight"}),
    "mixed-dtypes": ("llama", {}, {"dtypes": ["bfloat16", "float16", "float32"]}),
    "sharded": ("llama", {"tie_word_embeddings": True}, {"shards": 3, "drop": "lm_head.weight"}),
    "mistral": ("mistral", {"sliding_window": 5}, {"seq": 17}),
    "qwen2": ("qwen2", {"head_dim": None}, {}),
    "opt": ("opt", {}, {"drop": "lm_head.weight"}),
    "opt-no-prefix": ("opt", {}, {"prefix": False, "drop": "lm_head.weight", "dtypes": ["float16"]}),
    "opt-gelu": ("opt", {"activation_function": "gelu"}, {"drop": "lm_head.weight"}),
    "opt-no-bias": ("opt", {"enable_bias": False}, {"drop": "lm_head.weight"}),
    "opt-no-affine": ("opt", {"layer_norm_elementwise_affine": False}, {"drop": "lm_head.weight"}),
    "opt-no-final-norm": ("opt", {"_remove_final_layer_norm": True}, {"drop": "lm_head.weight"}),
    "opt-350m": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 12}, {"drop": "lm_head.weight"}),
    "opt-untied": ("opt", {"tie_word_embeddings": False}, {}),
}
FAMILIES = {"llama": (LlamaConfig, LlamaForCausalLM, LLAMA), "mistral": (MistralConfig, MistralForCausalLM, LLAMA),
            "qwen2": (Qwen2Config, Qwen2ForCausalLM, LLAMA), "opt": (OPTConfig, OPTForCausalLM, OPT)}


def fill(model, dtypes, gen):
    """Random weights, rounded to the dtypes they are stored in (in turn); returns those dtypes."""
    stored, seen = {}, {}
    for i, (name, w) in enumerate(model.state_dict(keep_vars=True).items()):
        if id(w) in seen:
            stored[name] = seen[id(w)]
            continue
        dtype = seen[id(w)] = stored[name] = getattr(torch, dtypes[i % len(dtypes)])
        norm = "norm" in name
        value = torch.randn(w.shape, generator=gen)
        if norm and name.endswith("weight"):
            value = 1 + 0.3 * value
        elif w.dim() == 1:
            value = 0.3 * value
        elif "embed" not in name:
            value = value * (2.0 if "lm_head" in name or "q_proj" in name else 1.2) / w.shape[1] ** 0.5
        w.data.copy_(value.to(dtype).float())
    return stored


def batch(vocab, seq, pads, gen):
    """Tokens and a left-padded mask of three samples; the first has no padding."""
    tokens = torch.randint(3, vocab, (3, seq), generator=gen)
    mask = torch.ones_like(tokens)
    for row, n in enumerate(pads):
        mask[row, :n], tokens[row, :n] = 0, 1
    return tokens, mask


def write_weights(folder, tensors, shards):
    """One model.safetensors, or shards with an index."""
    if not shards:
        save_file(tensors, os.path.join(folder, "model.safetensors"), {"format": "pt"})
        return
    names, where = sorted(tensors), {}
    for i in range(shards):
        part = names[i::shards]
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        save_file({n: tensors[n] for n in part}, os.path.join(folder, file), {"format": "pt"})
        where.update({n: file for n in part})
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    write_json(folder, "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})


def write_json(folder, name, value):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
        json.dump(value, f, indent=1)
        f.write("\n")


def make(out, name, number):
    """Make one folder; the largest difference of the oracle's logits from transformers'."""
    family, changes, options = CASES[name]
    make_config, make_model, base = FAMILIES[family]
    keys = {k: v for k, v in {**base, **changes}.items() if v is not None}
    gen = torch.Generator().manual_seed(1000 + number)
    model = make_model(make_config(**keys, attn_implementation="eager")).float().eval()
    stored = fill(model, options.get("dtypes", ["float32"]), gen)
    tokens, mask = batch(keys["vocab_size"], options.get("seq", 13), (0, 4, 1), gen)
    extra = {} if family == "opt" else {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    logits = model(tokens, attention_mask=mask, use_cache=False, **extra).logits * mask[..., None]

    tensors = {k: w.detach().to(stored[k]).contiguous().clone() for k, w in model.state_dict().items()}
    tensors.pop(options.get("drop"), None)
    if not options.get("prefix", True):
        tensors = {k.removeprefix("model."): w for k, w in tensors.items()}
    if options.get("buffers"):
        for l in range(keys["num_hidden_layers"]):
            tensors[f"model.layers.{l}.self_attn.rotary_emb.inv_freq"] = torch.full((3,), 7.0)
    folder = os.path.join(out, name)
    os.makedirs(folder)
    write_weights(folder, tensors, options.get("shards"))
    written = {"architectures": [make_model.__name__], "model_type": family, **keys, **options.get("written", {})}
    write_json(folder, "config.json", {k: v for k, v in written.items() if v is not None})
    save_file({"tokens": tokens.int(), "mask": mask.int(), "logits": logits.contiguous()},
              os.path.join(folder, "reference.safetensors"))
    got = Model(folder).dense(tokens, mask.bool()) * mask[..., None]
    return float((got - logits).abs().max()), float(logits.std())


def main(out):
    os.makedirs(out)
    worst = 0.0
    for number, name in enumerate(CASES):
        diff, spread = make(out, name, number)
        worst = max(worst, diff)
        print(f"{name:24s} oracle differs by {diff:.1e} (logits' deviation {spread:.2f})")
    if worst > 1e-4:
        sys.exit("the oracle disagrees with transformers")


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) == 2 else sys.exit(__doc__)
