"""A pruned MLP block on NumPy arrays and, where installed, PyTorch tensors, without copies; and a folded model's weights."""

import pathlib
import tempfile

import numpy as np

import probeprune as pp


def check(name, got, expected):
    error = np.abs(np.asarray(got) - expected).max()
    print(f"{name}: largest difference {error:.1e}")
    assert error < 1e-5, name


def block(device, library, zeros, array):
    """Keeps 12 of 32 channels by score and runs them; `zeros` and `array` create the library's tensors."""
    random = np.random.default_rng(0)
    x, gate, up, down = (random.standard_normal(shape, np.float32) * 0.3 for shape in [(6, 16), (32, 16), (32, 16), (16, 32)])
    scores = random.random(32, np.float32)
    kept, a, out = zeros(12, np.int32), zeros((6, 12), np.float32), zeros((6, 16), np.float32)
    lent = [array(values) for values in (x, gate, up, down, scores)]
    device.run("topk_keep", scores=lent[4], kept=kept)
    device.run("gemm_sparse_swiglu", x=lent[0], gate=lent[1], up=lent[2], kept=kept, out=a)
    device.run("gemm_sparse_columns", a=a, weight=lent[3], kept=kept, residual=lent[0], out=out)
    chosen = np.sort(np.argsort(-scores, kind="stable")[:12])
    assert (np.asarray(kept) == chosen).all()
    gated = x @ gate[chosen].T
    intermediate = gated / (1 + np.exp(-gated)) * (x @ up[chosen].T)
    check(library, out, x + intermediate @ down[:, chosen].T)


def refusals(device):
    x = np.ones((6, 16), np.float32)
    cases = [
        ("a dtype", dict(x=x.astype(np.float64)), "expected float32, got float64"),
        ("strides", dict(x=np.ones((16, 6), np.float32).T), "x: strides"),
        ("a shape", dict(gate=np.ones((32, 8), np.float32)), "gate: shape"),
    ]
    for what, change, message in cases:
        weight = np.ones((32, 16), np.float32)
        arguments = dict(x=x, gate=weight, up=weight, out=np.zeros((6, 32), np.float32)) | change
        try:
            device.run("gemm_sparse_swiglu", **arguments)
        except pp.Error as error:
            assert error.status == "PROBEPRUNE_INVALID_TENSOR" and message in str(error), error
            continue
        raise AssertionError(f"{what} was not refused")
    frozen = np.zeros((6, 32), np.float32)
    frozen.flags.writeable = False
    try:
        device.run("gemm_sparse_swiglu", x=x, gate=np.ones((32, 16), np.float32), up=np.ones((32, 16), np.float32), out=frozen)
    except (pp.Error, BufferError) as error:
        print("refused:", error)
    else:
        raise AssertionError("read-only memory was written")


def exports():
    model = pp.Model("bundled:tiny-llama", threads=2)
    settings = pp.Settings(method=pp.METHODS.index("pp"), prune_ratio=0.4)
    session = pp.Session(model, settings, pp.Limits(samples=2, tokens=16))
    losses = session.losses(np.arange(32).reshape(2, 16))
    logits = np.from_dlpack(session.logits(2))
    assert logits.shape == (2, 16, model.info.vocab_size)
    check("logits at some slots", session.logits_at(2, [3, 9]), logits[:, [3, 9]])
    shifted = logits - logits.max(-1, keepdims=True)
    logarithms = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    expected = -np.take_along_axis(logarithms[:, :-1], np.arange(32).reshape(2, 16)[:, 1:, None], 2)[..., 0]
    check("losses against exported logits", losses[:, :-1], expected)
    channels = np.from_dlpack(session.kept(5, 1))
    print(f"layer 5 keeps {channels.size} channels, the first is {channels[0]}")
    unused = session.kept(5, 0)
    del unused, session, model
    assert np.isfinite(logits).all(), "tensors outlive what made them"


def folds():
    """Two sessions of a folded model, each with its own corrections; its weights and its folder."""
    model = pp.Model("bundled:tiny-llama", threads=2)
    tokens = np.random.default_rng(1).integers(0, 250, (20, 16))
    history = pp.History.calibrated(model, tokens, fold=1)
    fold, probe = pp.METHODS.index("fold"), pp.ADAPTATIONS.index("probe")
    settings = pp.Settings(method=fold, prune_ratio=0.4, round_channels=1, adapt=probe, adapt_tokens=24, adapt_every=1)
    folded, limits = model.fold(settings, history), pp.Limits(samples=4, tokens=16)
    first, second = (pp.Session(folded, settings, limits) for _ in range(2))
    losses = first.losses(tokens[:4])
    assert (second.losses(tokens[:4]) == losses).all()
    first.set_adapting(False)
    known = first.corrections()
    assert not known.adapting and known.probed_share == 1 and np.isfinite(known.excess_error)
    learned = history.with_corrections(first)
    first.set_adapting(True)
    assert (pp.Session(folded, settings, limits, learned).losses(tokens[4:8]) == first.losses(tokens[4:8])).all()
    second.reset_corrections()
    assert (second.losses(tokens[:4]) == losses).all() and second.corrections().adapting

    names = folded.tensor_names()
    for name, tensor in folded.tensors():
        # NumPy has no bfloat16; PyTorch takes these too.
        if name.endswith("norm.weight"):
            values = np.from_dlpack(tensor)
            assert values.shape == (model.info.hidden_size,) and not values.flags.writeable
    assert "model.layers.5.mlp.down_proj.bias" in names and "model.layers.5.mlp.down_proj.bias" not in model.tensor_names()
    (whole, _), (shape, kv_head_of) = model.layer_shape(5), folded.layer_shape(5)
    assert shape.channels < whole.channels and len(kv_head_of) == shape.heads
    print(f"folded: {len(names)} tensors, layer 5 has {shape.heads} heads and {shape.channels} channels")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name, "folded")
        needs_code = folded.export(folder)
        loaded = pp.Session(pp.Model(str(folder)), pp.Settings(), limits)
        plain = pp.Session(folded, pp.Settings(), limits)
        assert (loaded.losses(tokens[:4]) == plain.losses(tokens[:4])).all()
        assert needs_code == folder.joinpath("modeling_probeprune.py").exists()


def main():
    device = pp.Device(threads=2)
    block(device, "NumPy", np.zeros, np.ascontiguousarray)
    refusals(device)
    exports()
    folds()
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed")
        return
    of = {np.float32: torch.float32, np.int32: torch.int32}
    block(device, "PyTorch", lambda shape, dtype: torch.zeros(shape, dtype=of[dtype]), torch.from_numpy)


main()
