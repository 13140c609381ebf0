"""Checks that transformers computes the same with the folders that `probeprune export` writes.

Folds a small random model of every class, once with layers of one shape and once with others, exports it, and compares the
logits of transformers (float32, eager attention) with those of `probeprune perplexity --dump`. Works with transformers 4.46
and 5. Needs torch, safetensors and transformers.

Usage: python tools/golden/check_export.py [PROBEPRUNE]
"""
import os
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM
from transformers import OPTConfig, OPTForCausalLM, Qwen2Config, Qwen2ForCausalLM

torch.set_grad_enabled(False)
torch.set_num_threads(1)

LLAMA = {"vocab_size": 41, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 6,
         "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 32, "tie_word_embeddings": False}
OPT = {"vocab_size": 41, "hidden_size": 24, "ffn_dim": 40, "num_hidden_layers": 3, "num_attention_heads": 6,
       "max_position_embeddings": 32, "word_embed_proj_dim": 24, "pad_token_id": 1}
# Model class, config, layers that stay dense, and whether the folder needs a modelling file.
CASES = {
    "llama, all layers alike": (LlamaForCausalLM, LlamaConfig(**{**LLAMA, "num_key_value_heads": 6}), "none", False),
    "llama, grouped queries": (LlamaForCausalLM, LlamaConfig(**LLAMA), "none", True),
    "llama, one dense layer": (LlamaForCausalLM, LlamaConfig(**LLAMA), "1", True),
    "mistral": (MistralForCausalLM, MistralConfig(**LLAMA, sliding_window=5), "0", True),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**LLAMA), "0", True),
    "opt": (OPTForCausalLM, OPTConfig(**OPT), "0", True),
}


def check(program, name, folder):
    """The largest difference of logits, over the size of the largest."""
    model_class, config, skip, needs_code = CASES[name]
    torch.manual_seed(len(name))
    config._attn_implementation = "eager"
    model = model_class(config).float().eval()
    for parameter in model.parameters():
        parameter.add_(0.15 * torch.randn_like(parameter))
    dense, exported, tokens, dump = (os.path.join(folder, part) for part in ("dense", "exported", "tokens.safetensors", "dump.safetensors"))
    model.save_pretrained(dense)
    ids = torch.randint(3, 41, (24, 16), dtype=torch.int32)
    save_file({"ids": ids}, tokens)
    method = ["--prune-ratio", "0.34", "--skip-layers", skip, "--round-channels", "1"]
    subprocess.run([program, "export", "--model", dense, "--calibrate-tokens", f"{tokens}:ids", "--seq-len", "16", *method, "--out",
                    exported], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([program, "perplexity", "--model", exported, "--tokens", f"{tokens}:ids", "--seq-len", "16", "--batch-size", "2",
                    "--max-tokens", "32", "--dump", dump], check=True, stdout=subprocess.DEVNULL)
    if os.path.exists(os.path.join(exported, "modeling_probeprune.py")) != needs_code:
        sys.exit(f"{name}: a modelling file was{'' if needs_code else ' not'} expected")
    theirs = AutoModelForCausalLM.from_pretrained(exported, trust_remote_code=needs_code, torch_dtype=torch.float32,
                                                  attn_implementation="eager").eval()
    if sum(p.numel() for p in theirs.parameters()) >= sum(p.numel() for p in model.parameters()):
        sys.exit(f"{name}: the export is not smaller")
    want = theirs(ids[:2].long()).logits
    got = load_file(dump)["batch0.logits"]
    return ((got - want).abs().max() / want.abs().max()).item()


def main():
    program = sys.argv[1] if len(sys.argv) > 1 else os.path.join("target", "release", "probeprune")
    for name in CASES:
        with tempfile.TemporaryDirectory() as folder:
            difference = check(program, name, folder)
        print(f"{name}: {difference:.1e}")
        if not difference < 1e-5:
            sys.exit(f"{name}: transformers computes something else")


if __name__ == "__main__":
    main()
