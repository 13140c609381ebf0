"""probeprune.h through ctypes: models, sessions, tokenizers, and single operations on any library's DLPack tensors.

Nothing is copied between libraries: arrays of NumPy, PyTorch and CuPy are passed as they are, and exported tensors are views of the
library's memory. The library is PROBEPRUNE_LIBRARY, or the system's libprobeprune.
"""

import ctypes as c
import ctypes.util
import os

import numpy as np

ABI_VERSION = 1
COMPENSATIONS = ["none", "probe-mean", "linear"]
METHODS = ["none", "pp", "full-batch", "wanda-sp", "flap", "magnitude", "random", "fold"]
CPU, CUDA = 1, 2


class DLTensor(c.Structure):
    _fields_ = [
        ("data", c.c_void_p),
        ("device_type", c.c_int32),
        ("device_id", c.c_int32),
        ("ndim", c.c_int32),
        ("code", c.c_uint8),
        ("bits", c.c_uint8),
        ("lanes", c.c_uint16),
        ("shape", c.POINTER(c.c_int64)),
        ("strides", c.POINTER(c.c_int64)),
        ("byte_offset", c.c_uint64),
    ]


class Managed(c.Structure):
    """DLManagedTensorVersioned."""

    _fields_ = [
        ("major", c.c_uint32),
        ("minor", c.c_uint32),
        ("manager_ctx", c.c_void_p),
        ("deleter", c.c_void_p),
        ("flags", c.c_uint64),
        ("dl_tensor", DLTensor),
    ]


def _struct(name, fields):
    """A struct of the header that begins with struct_size; the library's _init function fills it."""

    def init(self, **values):
        c.Structure.__init__(self)
        _check(getattr(_library, f"{name}_init")(c.byref(self), c.c_uint32(c.sizeof(self))))
        for field, value in values.items():
            if not any(field == known for known, _ in fields):
                raise TypeError(f"{name} has no field {field}")
            setattr(self, field, value)

    return type(name, (c.Structure,), {"_fields_": [("struct_size", c.c_uint32), *fields], "__init__": init})


Progress = c.CFUNCTYPE(c.c_int32, c.c_void_p, c.c_uint64, c.c_uint64)
Token = c.CFUNCTYPE(c.c_int32, c.c_void_p, c.c_uint64, c.c_uint32)

ModelOptions = _struct(
    "probeprune_model_options",
    [(name, c.c_int32) for name in ["device_type", "device_id", "threads", "dtype", "read_weights", "use_stream", "reserved"]]
    + [("stream", c.c_void_p), ("progress", Progress), ("user", c.c_void_p), ("channel_order", c.c_void_p)],
)
ModelInfo = _struct(
    "probeprune_model_info",
    [("family", c.c_int32)]
    + [
        (name, c.c_uint64)
        for name in [
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "max_position_embeddings",
            "file_bytes",
        ]
    ],
)
Settings = _struct(
    "probeprune_settings",
    [(name, c.c_int32) for name in ["method", "metric", "probe_order"]]
    + [(name, c.c_double) for name in ["prune_ratio", "probe_tokens", "probe_samples", "fixed_probe_weight", "momentum"]]
    + [(name, c.c_int32) for name in ["parallel_probe", "history_dtype", "history_bucket", "round_channels"]]
    + [(name, c.c_uint32) for name in ["flap_attention_factor", "compensate", "compensate_rank", "channel_group", "dense_below", "fold_choice"]]
    + [("reserved", c.c_uint32 * 2), ("seed", c.c_uint64)]
    + [("skip_layers", c.POINTER(c.c_uint32)), ("skip_layer_count", c.c_uint64), ("prior_tokens", c.c_uint64)],
)
Limits = _struct(
    "probeprune_limits",
    [("reserved", c.c_uint32), ("samples", c.c_uint64), ("tokens", c.c_uint64), ("capacity", c.c_uint64)],
)
GenerateOptions = _struct(
    "probeprune_generate_options",
    [("temperature", c.c_float), ("top_p", c.c_float), ("top_k", c.c_uint32)]
    + [(name, c.c_uint64) for name in ["seed", "max_new_tokens", "reprobe_every"]]
    + [("eos_tokens", c.POINTER(c.c_uint32)), ("eos_token_count", c.c_uint64), ("on_token", Token), ("user", c.c_void_p)],
)
DeviceOptions = _struct(
    "probeprune_device_options", [("device_type", c.c_int32), ("device_id", c.c_int32), ("threads", c.c_uint32)]
)


def _operation(name, settings, tensors):
    return _struct(f"probeprune_{name}_args", settings + [(tensor, c.POINTER(DLTensor)) for tensor in tensors])


# The operations of the example; the header's others are declared in the same way.
OPERATIONS = {
    "gemm_sparse_swiglu": _operation(
        "gemm_sparse_swiglu",
        [("block_width", c.c_uint32), ("activation", c.c_int32), ("reserved", c.c_uint32)],
        ["x", "gate", "up", "gate_bias", "up_bias", "kept", "energy", "energy_mask", "out"],
    ),
    "gemm_sparse_columns": _operation(
        "gemm_sparse_columns",
        [("block_width", c.c_uint32)],
        ["a", "weight", "kept", "bias", "residual", "out"],
    ),
    "topk_keep": _operation("topk_keep", [("fault_tag", c.c_uint32)], ["scores", "kept", "fault"]),
}


class Error(Exception):
    """A failed call; `status` is the status's name."""

    def __init__(self, status, message):
        super().__init__(f"{status}: {message}")
        self.status = status


def _load():
    path = os.environ.get("PROBEPRUNE_LIBRARY") or ctypes.util.find_library("probeprune")
    if path is None:
        raise OSError("libprobeprune is not installed; set PROBEPRUNE_LIBRARY to its path")
    library = c.CDLL(path)
    library.probeprune_last_error.restype = c.c_char_p
    library.probeprune_status_name.restype = c.c_char_p
    if library.probeprune_abi_version() != ABI_VERSION:
        raise OSError(f"{path} is of another ABI than this module")
    return library


_library = _load()


def _check(status):
    if status != 0:
        name = _library.probeprune_status_name(status).decode()
        raise Error(name, _library.probeprune_last_error().decode())


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
        self.name, options = name, ModelOptions(**options)
        options.channel_order = channel_order and channel_order.pointer
        make = lambda out: _library.probeprune_model_load(name.encode(), c.byref(options), out)
        super().__init__("probeprune_model_free", make)
        self.info = ModelInfo()
        _check(_library.probeprune_model_get_info(self.pointer, c.byref(self.info)))

    def eos_tokens(self):
        return _filled(np.uint32, lambda *out: _library.probeprune_model_eos_tokens(self.pointer, *out))


class History(_Handle):
    """A history file from `probeprune calibrate` for this Model, or for the model with this name."""

    def __init__(self, model, path):
        named = isinstance(model, str)
        open_ = _library.probeprune_calibration_open if named else _library.probeprune_calibration_load
        make = lambda out: open_(model.encode() if named else model.pointer, os.fsencode(path), out)
        super().__init__("probeprune_calibration_free", make)


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

    def logits(self, samples):
        """Logits (samples, length, V) of the last batch, as a DLPack tensor on the model's device."""
        return Exported(lambda out: _library.probeprune_session_export_logits(self.pointer, c.c_size_t(samples), out))

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
