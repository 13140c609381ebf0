"""Make tests/torch-files: what torch.save writes, and the same tensors as safetensors.

tensors.bin has every dtype and layout that is read, and expected.safetensors what they hold. opt/ is the weights of
golden/transformers-logits/opt as facebook/opt-125m has them: names without "model.", and the head as the embedding's own storage.
sharded/ is two shards with an index. legacy.bin is the format of PyTorch before 1.6; nested.bin a training checkpoint.

Usage: python tools/golden/make_torch_files.py tests
"""
import json
import os
import sys

import torch
from safetensors.torch import load_file, save_file

tests = sys.argv[1]
out = os.path.join(tests, "torch-files")
for folder in ["opt", "sharded"]:
    os.makedirs(os.path.join(out, folder), exist_ok=True)
torch.manual_seed(1)


def save(name, value, **options):
    torch.save(value, os.path.join(out, name), **options)


base = torch.randn(4, 6)
tensors = {
    "f32": torch.randn(3, 5),
    "f16": torch.randn(7).half(),
    "bf16": torch.randn(2, 3).bfloat16(),
    "f64": torch.randn(2).double(),
    "i64": torch.tensor([[-1, 2**40]]),
    "i32": torch.tensor([-7, 8], dtype=torch.int32),
    "i16": torch.tensor([-300], dtype=torch.int16),
    "i8": torch.tensor([-5, 5], dtype=torch.int8),
    "u8": torch.arange(5, dtype=torch.uint8),
    "bool": torch.tensor([True, False]),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 3),
    "parameter": torch.nn.Parameter(torch.randn(2, 2)),
    "base": base,
    "transposed": base.t(),
    "rows": base[1:3],
    "every second column": base[:, ::2],
    "permuted": torch.randn(2, 3, 4).permute(2, 0, 1),
    "one column": base[:, 1:2],
}
save("tensors.bin", tensors)
save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()},
          os.path.join(out, "expected.safetensors"))

module = torch.nn.Linear(2, 3)
save("legacy.bin", module.state_dict(), _use_new_zipfile_serialization=False)
save("nested.bin", {"epoch": 3, "lr": [0.5], "state_dict": module.state_dict()})

opt = load_file(os.path.join(tests, "golden", "transformers-logits", "opt", "model.safetensors"))
opt = {name.removeprefix("model."): tensor for name, tensor in opt.items()}
opt["lm_head.weight"] = opt["decoder.embed_tokens.weight"]
save("opt/pytorch_model.bin", opt)

weight_map = {}
for shard, names in enumerate([["a.weight", "a.bias"], ["b.weight"]], 1):
    file = f"pytorch_model-{shard:05}-of-00002.bin"
    save(f"sharded/{file}", {name: torch.randn(3) for name in names})
    weight_map |= {name: file for name in names}
with open(os.path.join(out, "sharded", "pytorch_model.bin.index.json"), "w") as index:
    json.dump({"metadata": {"total_size": 36}, "weight_map": weight_map}, index, indent=1)
