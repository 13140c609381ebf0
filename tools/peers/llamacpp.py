"""llama.cpp's speed on a LLaMA folder, float32 weights: dense prefill and decode.

Usage:
  python tools/peers/llamacpp.py --convert FOLDER OUT.gguf
  python tools/peers/llamacpp.py FILE.gguf [--threads 2] [--batch 4] [--seq 256] [--prompt 16] [--decode 64]

The first form writes the model's weights as float32, without a tokenizer. The second prints "ready" and then answers
every line of stdin, "prefill" or "decode", with the seconds of one run, as pytorch.py --interactive does.
"""
import argparse
import json
import os
import sys
import time

import numpy as np

BLOCK_NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}
OTHER_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_name(name):
    """llama.cpp's name of a Hugging Face tensor.

    >>> gguf_name("model.layers.3.mlp.up_proj.weight"), gguf_name("model.norm.weight")
    ('blk.3.ffn_up.weight', 'output_norm.weight')
    """
    stem = name.removesuffix(".weight")
    if stem.startswith("model.layers."):
        _, _, layer, rest = stem.split(".", 3)
        return f"blk.{layer}.{BLOCK_NAMES[rest]}.weight"
    return f"{OTHER_NAMES[stem]}.weight"


def permute(weight, heads):
    """Interleave each head's two rotary halves, as llama.cpp has them.

    >>> permute(np.arange(4).reshape(4, 1), 1).ravel().tolist()
    [0, 2, 1, 3]
    """
    rows, columns = weight.shape
    half = rows // heads // 2
    return np.ascontiguousarray(weight.reshape(heads, 2, half, columns).swapaxes(1, 2).reshape(rows, columns))


def convert(folder, out):
    """Write the GGUF file."""
    from gguf import GGUFWriter
    from safetensors.torch import load_file
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        c = json.load(f)
    heads, kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
    writer = GGUFWriter(out, "llama")
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(c["hidden_size"])
    writer.add_block_count(c["num_hidden_layers"])
    writer.add_feed_forward_length(c["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    writer.add_rope_freq_base(c["rope_theta"])
    writer.add_rope_dimension_count(c["hidden_size"] // heads)
    writer.add_vocab_size(c["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    for name, tensor in load_file(os.path.join(folder, "model.safetensors")).items():
        weight = tensor.float().numpy()
        if "q_proj" in name or "k_proj" in name:
            weight = permute(weight, heads if "q_proj" in name else kv_heads)
        writer.add_tensor(gguf_name(name), weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Bench:
    """The two measurements on fixed pseudo-random tokens."""

    def __init__(self, args):
        import llama_cpp
        self.api, self.args = llama_cpp, args
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(args.file.encode(), llama_cpp.llama_model_default_params())
        if not model:
            sys.exit(f"llama.cpp cannot load {args.file}")
        rows = args.batch * args.seq
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = max(rows, args.prompt + args.decode), rows, rows
        params.n_seq_max, params.n_threads, params.n_threads_batch = args.batch, args.threads, args.threads
        self.context = llama_cpp.llama_init_from_model(model, params)
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self.room = llama_cpp.llama_batch_init(rows, 0, 1)
        self.tokens = np.random.default_rng(0).integers(self.vocab, size=rows).tolist()

    def run(self, tokens, length, start=0, all_logits=True):
        """One call on sequences of `length` tokens, whose first has position `start`."""
        room = self.room
        room.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            room.token[i], room.pos[i] = token, start + i % length
            room.n_seq_id[i], room.seq_id[i][0] = 1, i // length
            room.logits[i] = all_logits or i == len(tokens) - 1
        begin = time.perf_counter()
        if self.api.llama_decode(self.context, room) != 0:
            sys.exit("llama.cpp failed")
        logits = self.api.llama_get_logits_ith(self.context, -1)
        return time.perf_counter() - begin, logits

    def clear(self):
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)

    def prefill(self):
        self.clear()
        return self.run(self.tokens, self.args.seq)[0]

    def decode(self):
        """Seconds for the decode steps alone; choosing the token is not counted."""
        self.clear()
        prompt, total = self.tokens[:self.args.prompt], 0.0
        _, logits = self.run(prompt, len(prompt), all_logits=False)
        for i in range(self.args.decode):
            token = int(np.ctypeslib.as_array(logits, shape=(self.vocab,)).argmax())
            seconds, logits = self.run([token], 1, len(prompt) + i)
            total += seconds
        return total


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?")
    parser.add_argument("--convert", nargs=2, metavar=("FOLDER", "OUT"))
    for name, default in (("threads", 2), ("batch", 4), ("seq", 256), ("prompt", 16), ("decode", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    if args.convert:
        return convert(*args.convert)
    if not args.file:
        parser.error("expected FILE.gguf or --convert")
    # Its log would come between the lines.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    bench = Bench(args)
    bench.prefill()
    print("ready", flush=True)
    for line in sys.stdin:
        print(f"{getattr(bench, line.strip())():.9f}", flush=True)


if __name__ == "__main__":
    main()
