"""probeprune.h through ctypes (header.py): models, sessions, tokenizers, and single operations on any library's DLPack tensors.

Nothing is copied between libraries: arrays of NumPy, PyTorch and CuPy are passed as they are, and exported tensors are views of the
library's memory.
"""

import ctypes as c
import os

import numpy as np

from header import (
    ADAPT_METRICS,
    ADAPTATIONS,
    COMPENSATIONS,
    CPU,
    CUDA,
    DENSE_BELOW_AUTO,
    FOLD_CHOICES,
    METHODS,
    OPERATIONS,
    PROBE_TOKENS_AUTO,
    CalibrateOptions,
    Corrections,
    DeviceOptions,
    DLTensor,
    Error,
    GenerateOptions,
    LayerShape,
    Limits,
    Managed,
    ModelInfo,
    ModelOptions,
    Settings,
    check as _check,
    library as _library,
)


class _Handle:
    """An object of the library, freed with its Python owner."""

    def __init__(self, free, make):
        self._free, self.pointer = getattr(_library, free), c.c_void_p()
        _check(make(c.byref(self.pointer)))

    def __del__(self):
        if getattr(self, "pointer", None):
            self._free(self.pointer)


def _tokens(tokens):
    array = np.ascontiguousarray(tokens, dtype=np.uint32)
    return array, array.ctypes.data_as(c.c_void_p)


def _filled(dtype, call):
    """The output of a function with (out, capacity, count)."""
    count = c.c_size_t()
    _check(call(None, c.c_size_t(0), c.byref(count)))
    out = np.empty(count.value, dtype)
    _check(call(out.ctypes.data_as(c.c_void_p), c.c_size_t(out.size), c.byref(count)))
    return out[: count.value]


class Model(_Handle):
    """A Hugging Face folder, "org/name" in the local cache, or "bundled:tiny-llama".

    `channel_order`, a History, sorts its channels, as channel groups require.
    """

    def __init__(self, name, channel_order=None, **options):
        options = ModelOptions(**options)
        options.channel_order = channel_order and channel_order.pointer
        self._take(name, lambda out: _library.probeprune_model_load(name.encode(), c.byref(options), out))

    def _take(self, name, make):
        self.name = name
        super().__init__("probeprune_model_free", make)
        self.info = ModelInfo()
        _check(_library.probeprune_model_get_info(self.pointer, c.byref(self.info)))

    def fold(self, settings, history):
        """The model folded by Settings with method "fold", and a History that was calibrated for that."""
        folded = Model.__new__(Model)
        make = lambda out: _library.probeprune_model_fold(
            self.pointer, c.byref(settings), history.pointer, None, None, out
        )
        folded._take(self.name, make)
        return folded

    def export(self, folder):
        """Writes a folded model as a new Hugging Face folder; whether transformers needs trust_remote_code for it."""
        needs_code = c.c_int32()
        _check(_library.probeprune_model_export(self.pointer, os.fsencode(folder), c.byref(needs_code)))
        return bool(needs_code.value)

    def tensor_names(self):
        """As in the checkpoint."""
        count, name = c.c_size_t(), c.c_char_p()
        _check(_library.probeprune_model_tensor_count(self.pointer, c.byref(count)))
        names = []
        for index in range(count.value):
            _check(_library.probeprune_model_tensor_name(self.pointer, c.c_size_t(index), c.byref(name)))
            names.append(name.value.decode())
        return names

    def tensors(self):
        """Names, and read-only DLPack tensors in host memory."""
        for name in self.tensor_names():
            call = lambda out: _library.probeprune_model_tensor(self.pointer, name.encode(), out)
            yield name, Exported(call)

    def layer_shape(self, layer):
        """A layer's numbers of heads and channels, and the key/value head of every query head."""
        shape = LayerShape()
        _check(_library.probeprune_model_layer_shape(self.pointer, c.c_uint64(layer), c.byref(shape)))
        call = lambda *out: _library.probeprune_model_kv_head_of(self.pointer, c.c_uint64(layer), *out)
        return shape, _filled(np.uint32, call)

    def eos_tokens(self):
        return _filled(np.uint32, lambda *out: _library.probeprune_model_eos_tokens(self.pointer, *out))


class History(_Handle):
    """A history file from `probeprune calibrate` for this Model, or for the model with this name."""

    def __init__(self, model, path):
        named = isinstance(model, str)
        open_ = _library.probeprune_calibration_open if named else _library.probeprune_calibration_load
        make = lambda out: open_(model.encode() if named else model.pointer, os.fsencode(path), out)
        super().__init__("probeprune_calibration_free", make)

    @classmethod
    def calibrated(cls, model, tokens, **options):
        """From tokens (samples, length) instead of a file; `options` are fields of probeprune_calibrate_options."""
        tokens, pointer = _tokens(tokens)
        samples, length = map(c.c_size_t, tokens.shape)
        options, history = CalibrateOptions(**options), cls.__new__(cls)
        make = lambda out: _library.probeprune_calibrate(
            model.pointer, pointer, samples, length, c.byref(options), out
        )
        _Handle.__init__(history, "probeprune_calibration_free", make)
        return history

    def with_corrections(self, session):
        """A copy with what the session learned about its fold, with which other sessions of the fold begin."""
        history = History.__new__(History)
        make = lambda out: _library.probeprune_calibration_with_corrections(self.pointer, session.pointer, out)
        _Handle.__init__(history, "probeprune_calibration_free", make)
        return history

    def save(self, path):
        _check(_library.probeprune_calibration_save(self.pointer, os.fsencode(path)))


class Tokenizer(_Handle):
    """The model's tokenizer.json."""

    def __init__(self, name):
        super().__init__(
            "probeprune_tokenizer_free", lambda out: _library.probeprune_tokenizer_load(name.encode(), out)
        )

    def encode(self, text, special=True):
        data = text.encode()
        call = lambda *out: _library.probeprune_tokenizer_encode(
            self.pointer, data, c.c_size_t(len(data)), c.c_int32(special), *out
        )
        return _filled(np.uint32, call)

    def decode(self, tokens):
        tokens, pointer = _tokens(tokens)
        call = lambda *out: _library.probeprune_tokenizer_decode(
            self.pointer, pointer, c.c_size_t(tokens.size), c.c_int32(1), *out
        )
        return _filled(np.uint8, call).tobytes().decode()


class Session(_Handle):
    """A run of a model with its own settings; one thread at a time."""

    def __init__(self, model, settings, limits, history=None):
        self.model = model
        make = lambda out: _library.probeprune_session_create(
            model.pointer, c.byref(settings), c.byref(limits), history and history.pointer, out
        )
        super().__init__("probeprune_session_free", make)

    def losses(self, tokens, mask=None, update_history=True):
        """-log p of every token's successor, (samples, length) like `tokens`."""
        tokens, pointer = _tokens(tokens)
        mask = None if mask is None else _tokens(mask)
        samples, length = tokens.shape
        out, count = np.empty(tokens.shape, np.float32), c.c_size_t()
        _check(
            _library.probeprune_session_losses(
                self.pointer,
                pointer,
                mask and mask[1],
                c.c_size_t(samples),
                c.c_size_t(length),
                c.c_int32(update_history),
                out.ctypes.data_as(c.c_void_p),
                c.c_size_t(out.size),
                c.byref(count),
            )
        )
        return out

    def corrections(self):
        """Whether probes correct the fold, the share of batches that were probed, and the fold's excess error."""
        corrections = Corrections()
        _check(_library.probeprune_session_corrections(self.pointer, c.byref(corrections)))
        return corrections

    def set_adapting(self, active):
        """False: the fold stays as it is corrected now."""
        _check(_library.probeprune_session_set_adapting(self.pointer, c.c_int32(active)))

    def reset_corrections(self):
        """Back to the fold as calibration made it."""
        _check(_library.probeprune_session_reset_corrections(self.pointer))

    def logits(self, samples):
        """Logits (samples, length, V) of the last batch, as a DLPack tensor on the model's device."""
        return Exported(lambda out: _library.probeprune_session_export_logits(self.pointer, c.c_size_t(samples), out))

    def logits_at(self, samples, slots):
        """Logits (samples, slots, V) of the last batch at these token slots, which ascend; no others are computed."""
        slots, count = np.ascontiguousarray(slots, np.uint32), c.c_size_t()
        call = lambda out, capacity: _check(
            _library.probeprune_session_logits_at(
                self.pointer,
                c.c_size_t(samples),
                slots.ctypes.data_as(c.c_void_p),
                c.c_size_t(slots.size),
                out,
                c.c_size_t(capacity),
                c.byref(count),
            )
        )
        call(None, 0)
        out = np.empty(count.value, np.float32)
        call(out.ctypes.data_as(c.c_void_p), out.size)
        return out.reshape(samples, slots.size, -1)

    def kept(self, layer, block):
        """A layer's kept heads (block 0) or channels (block 1), as a DLPack tensor."""
        call = lambda out: _library.probeprune_session_export_kept(
            self.pointer, c.c_uint64(layer), c.c_int32(block), out
        )
        return Exported(call)

    def generate(self, prompts, max_new_tokens, eos=(), temperature=0.0, seed=0):
        """New tokens of every prompt, up to and including one of `eos`."""
        prompts, eos = [_tokens(prompt)[0] for prompt in prompts], _tokens(eos)[0]
        options = GenerateOptions(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        options.eos_tokens = eos.ctypes.data_as(c.POINTER(c.c_uint32))
        options.eos_token_count = eos.size
        pointers = (c.c_void_p * len(prompts))(*(prompt.ctypes.data for prompt in prompts))
        lengths = (c.c_size_t * len(prompts))(*(prompt.size for prompt in prompts))
        counts = (c.c_size_t * len(prompts))()
        out = np.empty((len(prompts), max_new_tokens), np.uint32)
        _check(
            _library.probeprune_session_generate(
                self.pointer,
                pointers,
                lengths,
                c.c_size_t(len(prompts)),
                c.byref(options),
                out.ctypes.data_as(c.c_void_p),
                counts,
            )
        )
        return [row[:count] for row, count in zip(out, counts)]


_capsule_pointer = c.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype, _capsule_pointer.argtypes = c.c_void_p, [c.py_object, c.c_char_p]
_capsule_is = c.pythonapi.PyCapsule_IsValid
_capsule_is.restype, _capsule_is.argtypes = c.c_int, [c.py_object, c.c_char_p]
_capsule_new = c.pythonapi.PyCapsule_New
_capsule_new.restype, _capsule_new.argtypes = c.py_object, [c.c_void_p, c.c_char_p, c.c_void_p]


class Exported:
    """A tensor of the library, for numpy.from_dlpack or torch.from_dlpack, once, without a copy."""

    def __init__(self, make):
        self._managed = c.POINTER(Managed)()
        _check(make(c.byref(self._managed)))
        self._ours = True

    def __dlpack_device__(self):
        tensor = self._managed.contents.dl_tensor
        return tensor.device_type, tensor.device_id

    def __dlpack__(self, **_):
        if not self._ours:
            raise BufferError("this tensor has already been taken")
        self._ours = False
        return _capsule_new(c.cast(self._managed, c.c_void_p), b"dltensor_versioned", None)

    def __del__(self):
        if getattr(self, "_ours", False):
            _library.probeprune_tensor_free(self._managed)


class Borrowed:
    """A DLTensor view of another library's array or tensor, which it keeps alive."""

    def __init__(self, array, writable):
        try:
            self._capsule = array.__dlpack__(max_version=(1, 0))
        except TypeError:  # from before DLPack 1.0
            self._capsule = array.__dlpack__()
        if _capsule_is(self._capsule, b"dltensor_versioned"):
            managed = _capsule_pointer(self._capsule, b"dltensor_versioned")
            self.tensor = c.POINTER(DLTensor)()
            _check(
                _library.probeprune_tensor_import(c.c_void_p(managed), c.c_int32(writable), c.byref(self.tensor))
            )
        else:  # DLManagedTensor begins with its DLTensor
            self.tensor = c.cast(_capsule_pointer(self._capsule, b"dltensor"), c.POINTER(DLTensor))


class Device(_Handle):
    """A device for single operations."""

    def __init__(self, **options):
        options = DeviceOptions(**options)
        super().__init__(
            "probeprune_device_free", lambda out: _library.probeprune_device_open(c.byref(options), out)
        )

    def run(self, name, workspace=None, stream=None, **arguments):
        """Runs operation `name` of the header, with its tensors, outputs (out, kept, energy, ...) included, by name.
        `workspace(bytes)` returns an address aligned to 256 bytes; by default in host memory."""
        outputs = ("out", "kept", "energy", "fault", "history") if name == "topk_keep" else ("out", "energy", "history")
        held, fields = [], {}
        for field, value in arguments.items():
            if hasattr(value, "__dlpack__"):
                held.append(Borrowed(value, field in outputs))
                value = held[-1].tensor
            fields[field] = value
        args = OPERATIONS[name](**fields)
        size = c.c_size_t()
        _check(getattr(_library, f"probeprune_{name}_workspace_size")(self.pointer, c.byref(args), c.byref(size)))
        space = None
        if size.value and workspace:
            space = workspace(size.value)
        elif size.value:
            memory = np.empty(size.value + 255, np.uint8)
            space = memory.ctypes.data + -memory.ctypes.data % 256
        run = getattr(_library, f"probeprune_{name}")
        _check(run(self.pointer, c.byref(args), c.c_void_p(space), size, c.c_void_p(stream)))
