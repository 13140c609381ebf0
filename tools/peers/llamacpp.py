"""llama.cpp's speed on a LLaMA folder: dense prefill and decode.

Usage:
  python tools/peers/llamacpp.py --convert FOLDER OUT.gguf [--dtype float32|bfloat16]
  python tools/peers/llamacpp.py FILE.gguf [--threads 2] [--prompt 16] [--decode 32]

The first form writes the model's matrices in that type and its norms as float32, without a tokenizer. The second prints
"ready" and then answers every line of stdin, "prefill B S" or "decode B", with the seconds of one run, as pytorch.py does.
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


def convert(folder, out, dtype):
    """Write the GGUF file."""
    from gguf import GGMLQuantizationType, GGUFWriter, quants
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
        if weight.ndim == 2 and dtype == "bfloat16":
            kind = GGMLQuantizationType.BF16
            writer.add_tensor(gguf_name(name), quants.quantize(weight, kind), raw_dtype=kind)
        else:
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
        self.model = llama_cpp.llama_model_load_from_file(args.file.encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            sys.exit(f"llama.cpp cannot load {args.file}")
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.contexts = {}

    def context(self, batch, seq):
        """A context for so many sequences of so many tokens, and a batch that holds all of them; made once."""
        if (batch, seq) not in self.contexts:
            rows, params = batch * seq, self.api.llama_context_default_params()
            params.n_ctx, params.n_batch, params.n_ubatch = rows, rows, rows
            params.n_seq_max, params.n_threads, params.n_threads_batch = batch, self.args.threads, self.args.threads
            context = self.api.llama_init_from_model(self.model, params)
            if not context:
                sys.exit(f"llama.cpp has no room for {batch} sequences of {seq} tokens")
            self.contexts[batch, seq] = context, self.api.llama_batch_init(rows, 0, 1)
        context, room = self.contexts[batch, seq]
        self.api.llama_memory_clear(self.api.llama_get_memory(context), True)
        return context, room

    def random(self, rows):
        return np.random.default_rng(0).integers(self.vocab, size=rows).tolist()

    def run(self, context, room, tokens, length, start=0, all_logits=True):
        """Seconds of one call on sequences of `length` tokens, whose first has position `start`."""
        room.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            room.token[i], room.pos[i] = token, start + i % length
            room.n_seq_id[i], room.seq_id[i][0] = 1, i // length
            room.logits[i] = all_logits or i % length == length - 1
        begin = time.perf_counter()
        if self.api.llama_decode(context, room) != 0:
            sys.exit("llama.cpp failed")
        self.api.llama_get_logits_ith(context, -1)
        return time.perf_counter() - begin

    def prefill(self, batch, seq):
        return self.run(*self.context(batch, seq), self.random(batch * seq), seq)

    def decode(self, batch):
        """Seconds for the decode steps alone; choosing the tokens is not counted."""
        prompt, steps = self.args.prompt, self.args.decode
        context, room = self.context(batch, prompt + steps)
        self.run(context, room, self.random(batch * prompt), prompt, all_logits=False)
        total, rows = 0.0, [(i + 1) * prompt - 1 for i in range(batch)]
        for i in range(steps):
            logits = (self.api.llama_get_logits_ith(context, row) for row in rows)
            tokens = [int(np.ctypeslib.as_array(row, shape=(self.vocab,)).argmax()) for row in logits]
            total += self.run(context, room, tokens, 1, prompt + i)
            rows = range(batch)
        return total


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?")
    parser.add_argument("--convert", nargs=2, metavar=("FOLDER", "OUT"))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of --convert")
    for name, default in (("threads", 2), ("prompt", 16), ("decode", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    if args.convert:
        return convert(*args.convert, args.dtype)
    if not args.file:
        parser.error("expected FILE.gguf or --convert")
    # Its log would come between the lines.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    bench = Bench(args)
    print("ready", flush=True)
    for line in sys.stdin:
        what, *numbers = line.split()
        print(f"{getattr(bench, what)(*map(int, numbers)):.9f}", flush=True)


if __name__ == "__main__":
    main()
