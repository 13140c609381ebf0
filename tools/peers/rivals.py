"""What a user could run instead, on PyTorch: for the goals of benches/kernels/goals.rs.

A rival is made for its sizes and is then a function that runs once. What differs between a GPU and a CPU (streams, graphs,
times) is in `Device`, so that everything else is tested without a GPU (check_rivals.py).
"""
import time

import torch
import torch.nn.functional as F

from fused import pieces
from pytorch import RATIO, Llama
from reference import Reference

EPS = 1e-5


class Missing(Exception):
    """A package or library that is not here."""


class Device:
    """Where tensors are, and how a run is repeated there."""

    def __init__(self, kind):
        self.kind = kind
        self.dtype = torch.bfloat16 if kind == "cuda" else torch.float32
        self.generator = torch.Generator(kind).manual_seed(1)

    def random(self, *shape, scale=1.0):
        new = torch.empty(*shape, device=self.kind, dtype=self.dtype)
        return new.normal_(std=scale, generator=self.generator)

    def weight(self, outputs, inputs):
        return self.random(outputs, inputs, scale=inputs ** -0.5)

    def graph(self, run):
        """`run` as one CUDA graph; on a CPU, itself."""
        if self.kind != "cuda":
            return run
        for _ in range(3):
            run()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return graph.replay

    def fastest(self, candidates):
        """Of (name, run), the one that takes least; those that cannot run here are left out."""
        times = []
        for name, run in candidates:
            try:
                times.append((min(self.seconds(run) for _ in range(4)), name, run))
            except RuntimeError:
                continue
        if not times:
            raise Missing("a backend of scaled_dot_product_attention for this shape")
        return min(times, key=lambda entry: entry[0])[1:]

    def seconds(self, run):
        if self.kind != "cuda":
            begin = time.perf_counter()
            run()
            return time.perf_counter() - begin
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3


def attentions(causal):
    """Names of PyTorch's attention kernels, and each as a function of q, k, v (B, heads, S, D)."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def by(backend):
        def run(q, k, v):
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return run
    backends = {"flash attention": SDPBackend.FLASH_ATTENTION, "cuDNN's attention": SDPBackend.CUDNN_ATTENTION,
                "memory-efficient attention": SDPBackend.EFFICIENT_ATTENTION, "plain attention": SDPBackend.MATH}
    return [(name, by(backend)) for name, backend in backends.items()]


class DenseLayer:
    """The best dense layer: q, k, v in one product, gate and up in one, the fastest attention, the rest fused, residuals
    added by the products themselves. With `past`, a decoding step behind so many cached tokens."""

    def __init__(self, device, samples, tokens, past, hidden, inter, heads, head_dim):
        new, n = device.weight, heads * head_dim
        self.grid, self.past, self.heads, self.head_dim = (samples, tokens), past, heads, head_dim
        self.qkv, self.o = new(3 * n, hidden), new(hidden, n)
        self.gate_up, self.down = new(2 * inter, hidden), new(hidden, inter)
        self.norms = [1 + device.random(hidden, scale=0.1) for _ in range(2)]
        self.r = device.random(samples * tokens, hidden)
        inverse = 1e4 ** -(torch.arange(0, head_dim, 2, device=device.kind).float() / head_dim)
        angles = torch.outer(torch.arange(past + tokens, device=device.kind).float(), inverse)
        self.cos, self.sin = angles.cos().contiguous(), angles.sin().contiguous()
        slots = (samples, heads, past + tokens, head_dim)
        self.cache = tuple(device.random(*slots) for _ in range(2)) if past else None
        self.pieces = pieces(device.kind)
        q, k, v = self.split(device.random(samples, tokens, 3 * n))
        made = attentions(causal=not past)
        trial = [(name, lambda run=run: run(q, k, v)) for name, run in made]
        self.attention, _ = device.fastest(trial)
        self.attend = dict(made)[self.attention]

    @property
    def flops(self):
        weights = (self.qkv, self.o, self.gate_up, self.down)
        return 2 * self.r.shape[0] * sum(weight.numel() for weight in weights)

    @property
    def name(self):
        return f"products by PyTorch {torch.__version__}, {self.attention}, {self.pieces.name}"

    def split(self, qkv):
        """q, k, v (B, heads, S, D); keys and values of the whole cache where there is one."""
        q, k, v = qkv.view(*self.grid, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        return (q, *self.cache) if self.cache else (q, k, v)

    def run(self):
        """Adds the layer to the residual, in place."""
        r, (attention_norm, mlp_norm) = self.r, self.norms
        qkv = F.linear(self.pieces.norm(r, attention_norm, EPS), self.qkv).view(*self.grid, -1)
        self.pieces.rotate(qkv, self.cos, self.sin, self.heads, self.past, self.cache)
        a = self.attend(*self.split(qkv)).transpose(1, 2).reshape(r.shape[0], -1)
        r.addmm_(a, self.o.t())
        a = self.pieces.swiglu(F.linear(self.pieces.norm(r, mlp_norm, EPS), self.gate_up))
        r.addmm_(a, self.down.t())


class RandomLlama(Llama):
    """Random weights in a known shape."""

    def __init__(self, device, hidden, inter, heads, head_dim, layers, vocab):
        self.hidden, self.inter, self.layers, self.vocab = hidden, inter, layers, vocab
        self.heads = self.kv_heads = heads
        self.head_dim, self.eps, self.theta = head_dim, EPS, 10000.0
        new, n = device.weight, heads * head_dim
        one = lambda: torch.ones(hidden, device=device.kind, dtype=device.dtype)
        self.embed, self.head, self.norm = new(vocab, hidden), new(vocab, hidden), one()
        self.blocks = [{"norm1": one(), "qkv": new(3 * n, hidden), "o": new(hidden, n), "norm2": one(),
                        "gate_up": new(2 * inter, hidden), "down": new(hidden, inter)} for _ in range(layers)]


def halved(weight):
    """The weight with the two smaller of every four neighbours in a row set to 0."""
    groups = weight.view(-1, 4)
    smaller = groups.abs().argsort(1)[:, :2]
    return groups.scatter(1, smaller, 0).view_as(weight)


class Rivals:
    """Each method takes the sizes that benches/kernels/torch.rs passes, and returns a name and a function that runs once."""

    def __init__(self, kind="cuda"):
        self.device, self.models = Device(kind), {}

    def layer(self, samples, tokens, past, hidden, inter, heads, head_dim, flops):
        layer = DenseLayer(self.device, samples, tokens, past, hidden, inter, heads, head_dim)
        if layer.flops != flops:
            raise ValueError(f"this layer's products have {layer.flops} FLOPs, the program's {flops}")
        return layer.name + ", one CUDA graph", self.device.graph(layer.run)

    def gated(self, rows, channels, hidden):
        x, weight = self.device.random(rows, hidden), self.device.weight(2 * channels, hidden)
        fused = pieces(self.device.kind)
        name = f"gate and up in one product by PyTorch {torch.__version__}, {fused.name}, one CUDA graph"
        return name, self.device.graph(lambda: fused.swiglu(F.linear(x, weight)))

    def topk(self, of, k):
        scores = self.device.random(of).float()
        return f"torch.topk of PyTorch {torch.__version__}, a CUDA graph", self.device.graph(lambda: torch.topk(scores, k))

    def sparse(self, rows, hidden, inter):
        from torch.sparse import to_sparse_semi_structured
        if self.device.kind == "cuda" and not torch.backends.cusparselt.is_available():
            raise Missing(f"cuSPARSELt: PyTorch {torch.__version__} does not find it")
        new = lambda *shape: to_sparse_semi_structured(halved(self.device.weight(*shape)))
        gate, up, down = new(inter, hidden), new(inter, hidden), new(hidden, inter)
        r, fused = self.device.random(rows, hidden), pieces(self.device.kind)
        norm = torch.ones(hidden, device=self.device.kind, dtype=self.device.dtype)

        def run():
            x = fused.norm(r, norm, EPS)
            r.add_(F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down))
        run()
        version = torch.backends.cusparselt.version() if self.device.kind == "cuda" else "none"
        return f"2:4 products by cuSPARSELt {version} of PyTorch {torch.__version__}, SiLU and product apart", run

    def authors(self, batch, seq, hidden, inter, heads, head_dim, layers, vocab, kept_heads, kept_channels):
        sizes = (hidden, inter, heads, head_dim, layers, vocab)
        if sizes not in self.models:
            self.models = {sizes: RandomLlama(self.device, *sizes)}
        model = self.models[sizes]
        model.prepare(seq)
        pruned = Reference(model, RATIO)
        if pruned.counts != (kept_heads, kept_channels):
            raise ValueError(f"these operations keep {pruned.counts}, the program {(kept_heads, kept_channels)}")
        pruned.reset(seq)
        tokens = torch.randint(vocab, (batch, seq), device=self.device.kind, generator=self.device.generator)
        pruned.forward(tokens)
        return f"the authors' operations on PyTorch {torch.__version__}", lambda: pruned.forward(tokens)
