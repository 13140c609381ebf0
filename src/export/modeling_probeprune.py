"""Models whose layers have fewer heads and channels than config.json says, as `probeprune export` writes them.

The key "probeprune" of config.json has the shape of every layer: the key/value head of each query head, the number of MLP
channels, and which of its projections have a bias. Load with

    AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)
"""
import transformers
from torch import nn


class KeyValueProjection(nn.Linear):
    """k_proj or v_proj: gives every query head the key/value head that it reads."""

    def __init__(self, in_features, kv_head_of, head_dim, bias):
        super().__init__(in_features, (max(kv_head_of) + 1) * head_dim, bias=bias)
        self.kv_head_of, self.head_dim = kv_head_of, head_dim

    def forward(self, x):
        heads = super().forward(x).unflatten(-1, (-1, self.head_dim))
        return heads[..., self.kv_head_of, :].flatten(-2)


def shrink_attention(attention, kv_head_of, out_name, biases):
    """Leaves the heads of a layer."""
    heads, head_dim, hidden = len(kv_head_of), attention.head_dim, attention.q_proj.in_features
    attention.q_proj = nn.Linear(hidden, heads * head_dim, bias="q_proj" in biases)
    attention.k_proj = KeyValueProjection(hidden, kv_head_of, head_dim, "k_proj" in biases)
    attention.v_proj = KeyValueProjection(hidden, kv_head_of, head_dim, "v_proj" in biases)
    setattr(attention, out_name, nn.Linear(heads * head_dim, hidden, bias=out_name in biases))
    attention.num_heads = attention.num_key_value_heads = heads
    attention.num_key_value_groups = 1
    for width in ("hidden_size", "embed_dim"):  # What older versions reshape their output to.
        if hasattr(attention, width):
            setattr(attention, width, heads * head_dim)


def shrink(model):
    """Gives every layer the shape that the config has for it."""
    decoder = model.model.decoder if hasattr(model.model, "decoder") else model.model
    for layer, shape in zip(decoder.layers, model.config.probeprune["layers"]):
        channels, biases = shape["channels"], shape["biases"]
        is_opt = hasattr(layer, "fc1")
        shrink_attention(layer.self_attn, shape["kv_head_of"], "out_proj" if is_opt else "o_proj", biases)
        mlp, first, last = (layer, ["fc1"], "fc2") if is_opt else (layer.mlp, ["gate_proj", "up_proj"], "down_proj")
        hidden = getattr(mlp, first[0]).in_features
        for name in first:
            setattr(mlp, name, nn.Linear(hidden, channels, bias=name in biases))
        setattr(mlp, last, nn.Linear(channels, hidden, bias=last in biases))


class ProbepruneLlamaForCausalLM(transformers.LlamaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        shrink(self)


class ProbepruneMistralForCausalLM(transformers.MistralForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        shrink(self)


class ProbepruneQwen2ForCausalLM(transformers.Qwen2ForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        shrink(self)


class ProbepruneOPTForCausalLM(transformers.OPTForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        shrink(self)
