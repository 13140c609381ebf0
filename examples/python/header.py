"""What probeprune.h declares, for ctypes: the library, its structs and its errors.

The library is PROBEPRUNE_LIBRARY, or the system's libprobeprune.
"""

import ctypes as c
import ctypes.util
import os

ABI_VERSION = 1
COMPENSATIONS = ["none", "probe-mean", "linear"]
METHODS = ["none", "pp", "full-batch", "wanda-sp", "flap", "magnitude", "random", "fold"]
FOLD_CHOICES = ["pivot", "score"]
ADAPTATIONS = ["none", "probe"]
ADAPT_METRICS = ["full", "diagonal"]
PREFILLS = ["pruned", "dense"]
PROBE_TOKENS_AUTO = -1.0
DENSE_BELOW_AUTO = 2**32 - 1
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
        check(getattr(library, f"{name}_init")(c.byref(self), c.c_uint32(c.sizeof(self))))
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
    + [("adapt", c.c_int32), ("adapt_metric", c.c_int32), ("seed", c.c_uint64)]
    + [("skip_layers", c.POINTER(c.c_uint32))]
    + [(name, c.c_uint64) for name in ["skip_layer_count", "prior_tokens", "adapt_tokens", "adapt_prior_tokens", "adapt_every"]]
    + [("adapt_forgetting", c.c_double), ("adapt_threshold", c.c_double), ("allocation", c.c_int32), ("prefill", c.c_int32),
       ("probe_from", c.c_uint64)],
)
CalibrateOptions = _struct(
    "probeprune_calibrate_options",
    [("flap", c.c_int32), ("batch_size", c.c_uint64), ("progress", Progress), ("user", c.c_void_p)]
    + [("linear_rank", c.c_uint32), ("fold", c.c_int32)],
)
LayerShape = _struct(
    "probeprune_layer_shape",
    [("reserved", c.c_uint32)] + [(name, c.c_uint64) for name in ["heads", "kv_heads", "channels"]],
)
Corrections = _struct(
    "probeprune_corrections",
    [("adapting", c.c_int32), ("probed_share", c.c_double), ("excess_error", c.c_double)],
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


library = _load()


def check(status):
    if status != 0:
        name = library.probeprune_status_name(status).decode()
        raise Error(name, library.probeprune_last_error().decode())
