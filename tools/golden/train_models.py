#!/usr/bin/env python3
"""Trains the two bundled models, models/tiny-llama and models/tiny-opt, and their tokenizer, on our own corpus.

    train="python3 tools/golden/train_models.py"  # each line is 5 to 15 minutes on one core
    $train tokenizer                              # writes tokenizer.json into both folders
    $train llama
    $train opt
    $train opt --resume --seed 2 --steps 2600 --batch-tokens 1024 --lr 2e-3
    for model in llama opt; do                    # texts that change their topic, too
        $train $model --resume --seed 3 --steps 1500 --batch-tokens 1024 --lr 1.5e-3 --mixed 2
    done

Needs torch, safetensors, tokenizers and numpy; a torch that is linked to the reference BLAS instead of OpenBLAS or MKL
takes ten times as long. All text comes from `probeprune corpus` with the seeds below; calibration and held-out text
of this project use other seeds. Training is in float32, the saved weights are bf16.
"""

import argparse
import json
import math
import pathlib
import shlex
import subprocess
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOPICS = "stories recall modular brackets sorting dialogue tables code logs music".split()
VOCAB, MAX_POSITIONS = 768, 512
PAD, BOS, EOS = "<pad>", "<s>", "</s>"  # ids 0, 1, 2
TRAIN_SEED, TOKENIZER_SEED, HELD_OUT_SEED = 1_000, 2_000, 3_000

COMMON = dict(
    vocab_size=VOCAB, hidden_size=128, num_attention_heads=8, max_position_embeddings=MAX_POSITIONS,
    pad_token_id=0, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True, torch_dtype="bfloat16", use_cache=True,
)
CONFIGS = {
    "llama": COMMON | dict(
        architectures=["LlamaForCausalLM"], model_type="llama", num_hidden_layers=10, intermediate_size=384,
        num_key_value_heads=4, head_dim=16, hidden_act="silu", rms_norm_eps=1e-5, rope_theta=10000.0,
        rope_scaling=None, attention_bias=False, attention_dropout=0.0, mlp_bias=False, initializer_range=0.02,
    ),
    "opt": COMMON | dict(
        architectures=["OPTForCausalLM"], model_type="opt", num_hidden_layers=10, ffn_dim=384,
        word_embed_proj_dim=128, activation_function="relu", do_layer_norm_before=True,
        _remove_final_layer_norm=False, enable_bias=True, layer_norm_elementwise_affine=True, dropout=0.0,
        attention_dropout=0.0, layerdrop=0.0, init_std=0.02,
    ),
}  # fmt: skip


def documents(command, topic, seed, lines):
    """The documents that `probeprune corpus` prints: blank lines stand between them."""
    call = [*shlex.split(command), "--topic", topic, "--seed", str(seed), "--lines", str(lines)]
    text = subprocess.run(call, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [document.rstrip("\n") + "\n" for document in text.split("\n\n")]


def train_tokenizer(command):
    """Byte-level BPE; every digit is a token of its own; <s> before each text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = [document for topic in TOPICS for document in documents(command, topic, TOKENIZER_SEED, 10_000)]
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, 1)]
    )
    return tokenizer


def token_stream(tokenizer, command, topic, seed, lines):
    """One topic's documents end to end. Between two of them stands a blank line, or (one time in four) </s><s>."""
    between = np.random.default_rng(seed)
    newline = tokenizer.token_to_id("Ċ")
    ids = [1]
    for encoding in tokenizer.encode_batch(documents(command, topic, seed, lines), add_special_tokens=False):
        ids += encoding.ids
        ids += [2, 1] if between.random() < 0.25 else [newline]
    return torch.tensor(ids)


class Model:
    """A decoder whose weights carry their Hugging Face names, so that saving is all there is to exporting."""

    def __init__(self, config):
        self.c, self.opt, self.w = config, config["model_type"] == "opt", {}
        self.prefix = "model.decoder." if self.opt else "model."
        hidden, layers = config["hidden_size"], config["num_hidden_layers"]
        self.heads, self.head_dim = config["num_attention_heads"], hidden // config["num_attention_heads"]
        self.kv_heads = config.get("num_key_value_heads", self.heads)
        kv, out = self.kv_heads * self.head_dim, (2 * layers) ** -0.5
        self.matrix("embed_tokens", VOCAB, hidden, 0.05)
        if self.opt:
            self.matrix("embed_positions", MAX_POSITIONS + 2, hidden, 0.02)
        for i in range(layers):
            for name, rows in (("q", hidden), ("k", kv), ("v", kv)):
                self.linear(f"layers.{i}.self_attn.{name}_proj", rows, hidden)
            self.linear(f"layers.{i}.self_attn.{'out' if self.opt else 'o'}_proj", hidden, hidden, out)
            if self.opt:
                self.linear(f"layers.{i}.fc1", config["ffn_dim"], hidden)
                self.linear(f"layers.{i}.fc2", hidden, config["ffn_dim"], out)
            else:
                self.linear(f"layers.{i}.mlp.gate_proj", config["intermediate_size"], hidden)
                self.linear(f"layers.{i}.mlp.up_proj", config["intermediate_size"], hidden)
                self.linear(f"layers.{i}.mlp.down_proj", hidden, config["intermediate_size"], out)
            for name in self.block_norms():
                self.norm_weights(f"layers.{i}.{name}")
        self.norm_weights("final_layer_norm" if self.opt else "norm")

    def block_norms(self):
        if self.opt:
            return "self_attn_layer_norm", "final_layer_norm"
        return "input_layernorm", "post_attention_layernorm"

    def put(self, name, value):
        self.w[self.prefix + name] = value.requires_grad_()

    def matrix(self, name, rows, columns, std):
        self.put(name + ".weight", torch.randn(rows, columns) * std)

    def linear(self, name, rows, columns, scale=1.0):
        self.matrix(name, rows, columns, scale * columns**-0.5)
        if self.opt:
            self.put(name + ".bias", torch.zeros(rows))

    def norm_weights(self, name):
        self.put(name + ".weight", torch.ones(self.c["hidden_size"]))
        if self.opt:
            self.put(name + ".bias", torch.zeros(self.c["hidden_size"]))

    def apply(self, x, name):
        return F.linear(x, self.w[self.prefix + name + ".weight"], self.w.get(self.prefix + name + ".bias"))

    def norm(self, x, name):
        weight, bias = self.w[self.prefix + name + ".weight"], self.w.get(self.prefix + name + ".bias")
        if self.opt:
            return F.layer_norm(x, weight.shape, weight, bias, 1e-5)
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.c["rms_norm_eps"]) * weight

    def attention(self, x, name, rope, mask):
        batch, length, _ = x.shape
        q, k, v = (
            self.apply(x, f"{name}.{part}_proj").view(batch, length, -1, self.head_dim).transpose(1, 2)
            for part in "qkv"
        )
        if not self.opt:
            q, k = ((y * rope[0] + y.roll(self.head_dim // 2, -1) * rope[1]) for y in (q, k))
            k, v = (y.repeat_interleave(self.heads // self.kv_heads, 1) for y in (k, v))
        weights = (q @ k.transpose(2, 3) * self.head_dim**-0.5 + mask).softmax(-1)
        return self.apply((weights @ v).transpose(1, 2).reshape(x.shape), f"{name}.{'out' if self.opt else 'o'}_proj")

    def mlp(self, x, name):
        if self.opt:
            return self.apply(F.relu(self.apply(x, f"{name}.fc1")), f"{name}.fc2")
        gate = F.silu(self.apply(x, f"{name}.mlp.gate_proj"))
        return self.apply(gate * self.apply(x, f"{name}.mlp.up_proj"), f"{name}.mlp.down_proj")

    def loss(self, tokens):
        """Mean cross-entropy of tokens[:, 1:] (batch, length)."""
        x = F.embedding(tokens[:, :-1], self.w[self.prefix + "embed_tokens.weight"])
        positions = torch.arange(x.shape[1])
        mask = torch.full((len(positions), len(positions)), float("-inf")).triu(1)
        rope = None
        if self.opt:
            x = x + self.w[self.prefix + "embed_positions.weight"][positions + 2]
        else:
            half = self.head_dim // 2
            angle = positions[:, None] * self.c["rope_theta"] ** (-torch.arange(half) / half)
            rope = torch.cat([angle.cos()] * 2, -1), torch.cat([-angle.sin(), angle.sin()], -1)
        first, second = self.block_norms()
        for i in range(self.c["num_hidden_layers"]):
            x = x + self.attention(self.norm(x, f"layers.{i}.{first}"), f"layers.{i}.self_attn", rope, mask)
            x = x + self.mlp(self.norm(x, f"layers.{i}.{second}"), f"layers.{i}")
        logits = self.apply(self.norm(x, "final_layer_norm" if self.opt else "norm"), "embed_tokens")
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    def save(self, folder):
        weights = {name: value.detach().bfloat16().contiguous() for name, value in self.w.items()}
        save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
        (folder / "model.safetensors").chmod(0o644)
        (folder / "config.json").write_text(json.dumps(self.c, indent=2) + "\n")


def batch(streams, rng, tokens):
    """So many tokens in windows of single topics; one window in four begins at a document's <s>."""
    length = int(rng.choice([128, 256, 512], p=[0.5, 0.3, 0.2]))
    rows = []
    for _ in range(tokens // length):
        stream, starts = streams[rng.integers(len(streams))]
        at = int(rng.integers(len(stream) - length))
        if rng.random() < 0.25:
            at = int(starts[min(np.searchsorted(starts, at), len(starts) - 1)])
        rows.append(stream[at : at + length + 1])
    return torch.stack(rows)


def train(name, folder, tokenizer, args):
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    streams = []
    for topic in [*TOPICS, *["all"] * args.mixed]:
        stream = token_stream(tokenizer, args.corpus_command, topic, TRAIN_SEED, args.lines)
        starts = (stream == 1).nonzero().flatten().numpy()
        streams.append((stream, starts[starts < len(stream) - 513]))
    held_out = {
        topic: token_stream(tokenizer, args.corpus_command, topic, HELD_OUT_SEED, 1000)[: 16 * 129].view(16, 129)
        for topic in [*TOPICS, "all"]
    }
    model = Model(CONFIGS[name])
    if args.resume:
        for key, value in load_file(str(folder / "model.safetensors")).items():
            model.w[key].data = value.float()
    matrices = [p for p in model.w.values() if p.dim() > 1]
    vectors = [p for p in model.w.values() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98), foreach=True)
    count, tokens = sum(p.numel() for p in model.w.values()), sum(len(stream) for stream, _ in streams)
    print(f"{name}: {count} parameters, {tokens} training tokens", flush=True)
    begin = time.time()
    for step in range(args.steps):  # warm-up over 100 steps, then a cosine to 0
        rate = min((step + 1) / 100, 0.5 + 0.5 * math.cos(math.pi * step / args.steps))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * rate
        loss = model.loss(batch(streams, rng, args.batch_tokens))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(matrices + vectors, 1.0)
        optimizer.step()
        if (step + 1) % 20 == 0:
            print(f"step {step + 1} loss {loss.item():.3f} {time.time() - begin:.0f} s", flush=True)
        if (step + 1) % 250 == 0 or step + 1 == args.steps:
            with torch.no_grad():
                each = {topic: math.exp(model.loss(rows)) for topic, rows in held_out.items()}
            print(" ".join(f"{topic} {perplexity:.2f}" for topic, perplexity in each.items()), flush=True)
            model.save(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["tokenizer", *CONFIGS])
    parser.add_argument("--corpus-command", default="cargo run --release --quiet -- corpus")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "models")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--lines", type=int, default=40_000, help="lines of training text per topic")
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--mixed", type=int, default=0, help="shares of all-topic text; each topic has 1")
    parser.add_argument("--resume", action="store_true", help="start from the weights in the folder, not from nothing")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)  # the attention weights of far tokens underflow: twice as fast
    folders = {name: args.out / f"tiny-{name}" for name in CONFIGS}
    if args.what == "tokenizer":
        tokenizer = train_tokenizer(args.corpus_command)
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
            tokenizer.save(str(folder / "tokenizer.json"))
    else:
        folder = folders[args.what]
        train(args.what, folder, Tokenizer.from_file(str(folder / "tokenizer.json")), args)


if __name__ == "__main__":
    main()
