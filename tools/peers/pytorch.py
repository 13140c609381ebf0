"""PyTorch's speed on a LLaMA folder: dense prefill and decode, and Probe Pruning by plain operations (reference.py).

A plain forward pass: each weight is loaded once, q/k/v and gate/up run as one matrix product each, and nothing is copied
that need not be. Prefill computes all logits of a block of tokens; decode makes sequences longer, their cache allocated
beforehand. In bfloat16 weights, activations and cache are bfloat16, which PyTorch multiplies through oneDNN on a CPU;
norms and softmax compute in float32 inside.

Usage:
  python tools/peers/pytorch.py FOLDER [--dtype float32|bfloat16] [--threads 2] [--prompt 16] [--decode 32] [--compile]

--compile has PyTorch compile the layers, which needs a C++ compiler; where that fails they run as they are.

Prints "ready" and then answers every line of stdin with one line, so that another program's runs can take turns with it:
  prefill B S     seconds of B sequences of S tokens, all logits included
  decode B        seconds of all --decode steps of B sequences, behind --prompt tokens each
  sdpa S          seconds of causal attention alone, one sequence of S tokens, 9 heads of 64
  reference B S   as prefill, pruned by 40 %
  counts          the heads and channels that each pruned layer of that keeps

The numbers mean something only with a PyTorch whose matrix product is fast: some distributions link it to the reference
BLAS, which is some 20 times slower. Hence a warning where it is; on such a system put the folder of an OpenBLAS
libblas.so.3 into LD_LIBRARY_PATH.
"""
import argparse
import glob
import json
import os
import sys
import time


def arguments():
    """The command line, read before PyTorch starts its threads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--decode", type=int, default=32, help="tokens to decode")
    parser.add_argument("--prompt", type=int, default=16, help="prompt tokens before decoding")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser.parse_args()


if __name__ == "__main__":
    ARGS = arguments()
    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ[f"{library}_NUM_THREADS"] = str(ARGS.threads)

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from reference import Reference  # noqa: E402

RATIO = 0.4
# Positions that the rotary tables have.
LONGEST = 8192


class Llama:
    """Weights on a device, with the first projections of each block fused."""

    # Layers of prefill and of decoding, where they are compiled.
    compiled = None

    def __init__(self, folder, device="cpu", dtype=torch.float32):
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
            c = json.load(f)
        if c["model_type"] != "llama" or c.get("rope_scaling"):
            sys.exit("only plain LLaMA folders without rope_scaling are benchmarked")
        w = {}
        for path in sorted(glob.glob(os.path.join(folder, "*.safetensors"))):
            w.update({k: t.to(device, dtype) for k, t in load_file(path).items()})
        self.hidden, self.vocab, self.layers = c["hidden_size"], c["vocab_size"], c["num_hidden_layers"]
        self.heads = c["num_attention_heads"]
        self.kv_heads = c.get("num_key_value_heads") or self.heads
        self.head_dim = c.get("head_dim") or self.hidden // self.heads
        self.inter, self.eps = c["intermediate_size"], c["rms_norm_eps"]
        self.theta = c.get("rope_theta", 10000.0)
        self.embed, self.norm = w["model.embed_tokens.weight"], w["model.norm.weight"]
        self.head = w.get("lm_head.weight", self.embed)
        self.blocks = [self.block(w, f"model.layers.{i}.") for i in range(self.layers)]

    @staticmethod
    def block(w, p):
        cat = lambda *names: torch.cat([w[p + n + ".weight"] for n in names])
        return {
            "norm1": w[p + "input_layernorm.weight"],
            "qkv": cat("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "o": w[p + "self_attn.o_proj.weight"],
            "norm2": w[p + "post_attention_layernorm.weight"],
            "gate_up": cat("mlp.gate_proj", "mlp.up_proj"),
            "down": w[p + "mlp.down_proj.weight"],
        }

    def rms(self, x, weight):
        return F.rms_norm(x, weight.shape, weight, self.eps)

    def angles(self, length):
        """cos and sin of all positions, (length, head_dim)."""
        inv = 1.0 / self.theta ** (torch.arange(0, self.head_dim, 2).float() / self.head_dim)
        a = torch.outer(torch.arange(length).float(), inv)
        a = torch.cat([a, a], -1)
        return a.cos(), a.sin()

    def rotate(self, x, cos, sin):
        a, b = x.chunk(2, -1)
        return (x * cos).add_(torch.cat([-b, a], -1).mul_(sin))

    def attend(self, q, k, v, causal):
        """q (B, heads, S, D) over k, v (B, kv_heads, T, D); causal only if S == T."""
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=self.heads > self.kv_heads)

    def mlp(self, r, w):
        gate, up = F.linear(self.rms(r, w["norm2"]), w["gate_up"]).split(self.inter, -1)
        return r.add_(F.linear(F.silu(gate).mul_(up), w["down"]))

    def layer(self, r, w, cos, sin, start, cache):
        """A decoder layer on r (B, S, H); with a cache, of tokens placed from position `start` on."""
        b, s, _ = r.shape
        nq, nk = self.heads * self.head_dim, self.kv_heads * self.head_dim
        split = lambda t: t.view(b, s, -1, self.head_dim).transpose(1, 2)
        q, k, v = F.linear(self.rms(r, w["norm1"]), w["qkv"]).split([nq, nk, nk], -1)
        q, k, v = self.rotate(split(q), cos, sin), self.rotate(split(k), cos, sin), split(v)
        if cache is not None:
            keys, values = cache
            keys[:, :, start:start + s], values[:, :, start:start + s] = k, v
            k, v = keys[:, :, :start + s], values[:, :, :start + s]
        a = self.attend(q, k, v, causal=s > 1)
        r = r.add_(F.linear(a.transpose(1, 2).reshape(b, s, -1), w["o"]))
        return self.mlp(r, w)

    def forward(self, tokens, start=0, cache=None):
        """Logits of all positions; with a cache, of `tokens` placed from position `start` on."""
        cos, sin = (table[start:start + tokens.shape[1]] for table in (self.cos, self.sin))
        r = F.embedding(tokens, self.embed)
        layer = self.layer
        if self.compiled and (cache is None or tokens.shape[1] == 1):
            layer = self.compiled[cache is not None]
        for i, w in enumerate(self.blocks):
            r = layer(r, w, cos, sin, start, cache and cache[i])
        return F.linear(self.rms(r, self.norm), self.head)

    def compile(self):
        """Has layers compiled: for each shape of a prefill, and for steps at any place of the cache."""
        self.compiled = (torch.compile(self.layer, dynamic=False), torch.compile(lambda *operands: self.layer(*operands)))

    def prepare(self, length):
        """Tables for sequences of up to `length` tokens."""
        self.cos, self.sin = (t.to(self.embed) for t in self.angles(length))

    def new_cache(self, batch, length):
        shape = (batch, self.kv_heads, length, self.head_dim)
        new = lambda: torch.zeros(shape, dtype=self.embed.dtype, device=self.embed.device)
        return [(new(), new()) for _ in range(self.layers)]


class Bench:
    """The measurements on fixed pseudo-random tokens."""

    def __init__(self, model, args):
        self.model, self.decode_tokens, self.prompt = model, args.decode, args.prompt
        model.prepare(LONGEST)
        self.pruned, self.shape = Reference(model, RATIO), None

    def random(self, batch, seq):
        gen = torch.Generator().manual_seed(0)
        return torch.randint(self.model.vocab, (batch, seq), generator=gen).to(self.model.embed.device)

    def seconds(self, run):
        """Of one run, whatever of it a GPU still has to do included."""
        wait = torch.cuda.synchronize if self.model.embed.is_cuda else lambda: None
        wait()
        begin = time.perf_counter()
        run()
        wait()
        return time.perf_counter() - begin

    def prefill(self, batch, seq):
        tokens = self.random(batch, seq)
        return self.seconds(lambda: self.model.forward(tokens))

    def decode(self, batch):
        """Seconds for the decode steps alone; the prompts' prefill is not counted."""
        cache = self.model.new_cache(batch, self.prompt + self.decode_tokens)
        first = self.model.forward(self.random(batch, self.prompt), 0, cache)[:, -1:].argmax(-1)

        def steps(token=first):
            for i in range(self.decode_tokens):
                token = self.model.forward(token, self.prompt + i, cache)[:, -1:].argmax(-1)
        return self.seconds(steps)

    def sdpa(self, seq):
        like = self.model.embed
        new = lambda: torch.randn(1, 9, seq, 64, dtype=like.dtype, device=like.device)
        q, k, v = new(), new(), new()
        return self.seconds(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True))

    def reference(self, batch, seq):
        """Of a pruned prefill; history goes on while the shape stays."""
        if self.shape != (batch, seq):
            self.shape, self.batch = (batch, seq), self.random(batch, seq)
            self.pruned.reset(seq)
        return self.seconds(lambda: self.pruned.forward(self.batch))


def warn_of_slow_products(n=1024):
    """Measures a float32 matrix product, best of three."""
    a, best = torch.rand(n, n), float("inf")
    for _ in range(3):
        begin = time.perf_counter()
        torch.matmul(a, a)
        best = min(best, time.perf_counter() - begin)
    gflops = 2e-9 * n ** 3 / best
    if gflops < 10.0:
        print(f"warning: {gflops:.1f} GFLOP/s: this PyTorch uses a slow BLAS", file=sys.stderr, flush=True)


def main(args):
    torch.set_grad_enabled(False)
    torch.set_num_threads(args.threads)
    warn_of_slow_products()
    model = Llama(args.folder, args.device, getattr(torch, args.dtype))
    bench = Bench(model, args)
    if args.compile:
        model.compile()
        try:
            bench.prefill(1, 8)
        except Exception as error:  # whatever a compiler that is missing or too old may say
            print(f"not compiled: {error}", file=sys.stderr, flush=True)
            model.compiled = None
    print("ready", flush=True)
    for line in sys.stdin:
        what, *numbers = line.split()
        if what == "counts":
            print(*bench.pruned.counts, flush=True)
        else:
            print(f"{getattr(bench, what)(*map(int, numbers)):.9f}", flush=True)


if __name__ == "__main__":
    main(ARGS)
