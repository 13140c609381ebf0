"""Writes a LLaMA model in SmolLM2-135M's shape with random weights: speed depends on shapes, and needs no download.

Usage: python tools/peers/random_model.py FOLDER

Makes FOLDER/config.json and FOLDER/model.safetensors (269 MB, bfloat16, always the same). Needs numpy.
"""
import argparse
import json
import os

import numpy as np

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49152,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-05, "rope_theta": 100000.0, "hidden_act": "silu",
    "tie_word_embeddings": True, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
}


def shapes(c):
    """Every tensor's name and shape."""
    h, i, n = c["hidden_size"], c["intermediate_size"], c["num_attention_heads"] * c["head_dim"]
    k = c["num_key_value_heads"] * c["head_dim"]
    yield "model.embed_tokens.weight", (c["vocab_size"], h)
    for layer in range(c["num_hidden_layers"]):
        parts = {"input_layernorm": (h,), "self_attn.q_proj": (n, h), "self_attn.k_proj": (k, h),
                 "self_attn.v_proj": (k, h), "self_attn.o_proj": (h, n), "post_attention_layernorm": (h,),
                 "mlp.gate_proj": (i, h), "mlp.up_proj": (i, h), "mlp.down_proj": (h, i)}
        for part, shape in parts.items():
            yield f"model.layers.{layer}.{part}.weight", shape
    yield "model.norm.weight", (h,)


def values(rng, shape):
    """bfloat16 bits: matrices that keep the variance of what is multiplied with them, norms around 1."""
    if len(shape) == 1:
        new = rng.uniform(0.9, 1.1, shape)
    else:
        new = rng.standard_normal(shape, dtype=np.float32) / np.sqrt(shape[1])
    return (new.astype(np.float32).view(np.uint32) >> 16).astype("<u2")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    folder = parser.parse_args().folder
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
        json.dump(CONFIG, f, indent=1)
    header, end = {}, 0
    for name, shape in shapes(CONFIG):
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(1)
    with open(os.path.join(folder, "model.safetensors"), "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for _, shape in shapes(CONFIG):
            f.write(values(rng, shape).tobytes())


if __name__ == "__main__":
    main()
