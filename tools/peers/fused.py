"""The element-wise parts of a LLaMA layer as single kernels: RMSNorm, rotary positions with the cache write, SwiGLU.

`pieces(device)` gives the best that runs here: Triton's kernels on a GPU where Triton can compile them, else plain PyTorch.
Both have `name`, `norm`, `rotate` and `swiglu`, and compute in float32.
"""
import torch
import torch.nn.functional as F

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None


class Plain:
    name = "norm, rotation and SwiGLU by plain PyTorch operations"

    def norm(self, x, weight, eps):
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + eps) * weight.float()
        return y.to(x.dtype)

    def rotate(self, qkv, cos, sin, heads, past, cache=None):
        """qkv (B, S, 3 heads D): q and k in place, each head's halves; with `cache` (keys and values, (B, heads, slots, D)),
        k and v to the slots from `past` on as well."""
        b, s, width = qkv.shape
        q, k, v = qkv.view(b, s, 3, heads, width // (3 * heads)).unbind(2)
        c, d = (table[past:past + s, None] for table in (cos, sin))
        for part in (q, k):
            first, second = (half.float() for half in part.chunk(2, -1))
            part.copy_(torch.cat([first * c - second * d, second * c + first * d], -1))
        for kept, new in zip(cache or (), (k, v)):
            kept[:, :, past:past + s] = new.transpose(1, 2)

    def swiglu(self, gate_up):
        gate, up = gate_up.chunk(2, -1)
        return (F.silu(gate.float()) * up.float()).to(gate_up.dtype)


if triton is not None:
    @triton.jit
    def norm_kernel(x, weight, out, width, eps, BLOCK: tl.constexpr):
        row = tl.program_id(0).to(tl.int64) * width
        at = tl.arange(0, BLOCK)
        inside = at < width
        v = tl.load(x + row + at, mask=inside, other=0.0).to(tl.float32)
        scale = 1.0 / tl.sqrt(tl.sum(v * v, 0) / width + eps)
        w = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + row + at, (v * scale * w).to(out.dtype.element_ty), mask=inside)

    @triton.jit
    def rotate_kernel(qkv, cos, sin, keys, values, heads, tokens, past, slots, CACHED: tl.constexpr,
                      HEADS: tl.constexpr, HALF: tl.constexpr):
        row, part = tl.program_id(0), tl.program_id(1)
        head, i = tl.arange(0, HEADS)[:, None], tl.arange(0, HALF)[None, :]
        inside = (head < heads) & (i < HALF)
        width = heads * 2 * HALF
        at = qkv + row.to(tl.int64) * 3 * width + part * width + head * 2 * HALF + i
        position = past + row % tokens
        a = tl.load(at, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(at + HALF, mask=inside, other=0.0).to(tl.float32)
        if part < 2:
            c, s = tl.load(cos + position * HALF + i), tl.load(sin + position * HALF + i)
            a, b = a * c - b * s, b * c + a * s
            tl.store(at, a.to(qkv.dtype.element_ty), mask=inside)
            tl.store(at + HALF, b.to(qkv.dtype.element_ty), mask=inside)
        if CACHED:
            if part > 0:
                to = keys if part == 1 else values
                to += (((row // tokens).to(tl.int64) * heads + head) * slots + position) * 2 * HALF + i
                tl.store(to, a.to(keys.dtype.element_ty), mask=inside)
                tl.store(to + HALF, b.to(keys.dtype.element_ty), mask=inside)

    @triton.jit
    def swiglu_kernel(gate_up, out, channels, BLOCK: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = at < channels
        g = tl.load(gate_up + row * 2 * channels + at, mask=inside, other=0.0).to(tl.float32)
        u = tl.load(gate_up + (row * 2 + 1) * channels + at, mask=inside, other=0.0).to(tl.float32)
        v = g / (1.0 + tl.exp(-g)) * u
        tl.store(out + row * channels + at, v.to(out.dtype.element_ty), mask=inside)


class Fused:
    def __init__(self):
        self.name = f"norm, rotation and SwiGLU by one Triton {triton.__version__} kernel each"

    def norm(self, x, weight, eps):
        width, out = x.shape[-1], torch.empty_like(x)
        block = triton.next_power_of_2(width)
        norm_kernel[(x.numel() // width,)](x, weight, out, width, eps, BLOCK=block, num_warps=8)
        return out

    def rotate(self, qkv, cos, sin, heads, past, cache=None):
        b, s, width = qkv.shape
        half = width // (6 * heads)
        keys, values = cache or (qkv, qkv)
        slots = keys.shape[2] if cache else 0
        rotate_kernel[(b * s, 3 if cache else 2)](
            qkv, cos, sin, keys, values, heads, s, past, slots, CACHED=cache is not None,
            HEADS=triton.next_power_of_2(heads), HALF=half)

    def swiglu(self, gate_up):
        rows, channels = gate_up.shape[0], gate_up.shape[1] // 2
        out = gate_up.new_empty(rows, channels)
        swiglu_kernel[(rows, triton.cdiv(channels, 1024))](gate_up, out, channels, BLOCK=1024)
        return out


def pieces(device):
    """Triton's where it compiles: it needs a C compiler too."""
    if triton is None or device == "cpu":
        return Plain()
    fused = Fused()
    try:
        fused.swiglu(torch.ones(1, 32, device=device, dtype=torch.bfloat16))
    except Exception as error:  # whatever a compiler or a driver may say
        print(f"Triton does not compile here, so plain operations stand in: {error}", flush=True)
        return Plain()
    return fused
