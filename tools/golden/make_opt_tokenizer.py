"""Make tests/golden/opt-tokenizer: a small tokenizer in the files that facebook/opt-125m has, and what Hugging Face
transformers makes of some hundreds of texts.

ids.json is a list of [text, ids], special tokens included. With --all FILE, more texts go into FILE in the same form,
and are not kept: `PROBEPRUNE_TOKENIZER_IDS=FILE cargo test --release --test tokenizer_files` compares them.

Usage: python tools/golden/make_opt_tokenizer.py OUT_FOLDER [--all FILE]
"""
import json
import os
import random
import sys

from tokenizers import ByteLevelBPETokenizer
from transformers import AutoTokenizer

SPECIAL = {"content": "</s>", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
WORDS = ("the model of a house, and then it's there; she'll say they've been naive over 1234567890 years. Don't! "
         "naïve café über straße Привет мир 日本語 テキスト 한국어 שלום مرحبا हिन्दी 🦀 🎉 👩‍👩‍👧").split()


def text(rng):
    """A text of words, white space, digits, control characters, emoji, special tokens and any code points."""
    pieces = []
    for _ in range(rng.randrange(12)):
        kind = rng.randrange(9)
        if kind <= 2:
            pieces.append(" " * rng.randrange(2) + rng.choice(WORDS))
        elif kind == 3:
            pieces.append("".join(rng.choice(" \t\n\r\u00a0\u3000\u2028\x0b") for _ in range(rng.randrange(1, 9))))
        elif kind == 4:
            pieces.append("".join(rng.choice("0123456789٣५Ⅷ²") for _ in range(rng.randrange(1, 30))))
        elif kind == 5:
            pieces.append(rng.choice(("</s>", "<pad>", "<s>", "<unk>", "</S>", " </s>", "<|endoftext|>", "</s></s>")))
        elif kind == 6:
            pieces.append("".join(chr(rng.randrange(32)) for _ in range(rng.randrange(1, 4))))
        elif kind == 7:
            pieces.append("".join(chr(rng.randrange(32, 127)) for _ in range(rng.randrange(1, 10))))
        else:
            points = (rng.choice((rng.randrange(0x3000), rng.randrange(0xE000, 0x110000), rng.randrange(0xD800)))
                      for _ in range(rng.randrange(1, 6)))
            pieces.append("".join(map(chr, points)))
    return "".join(pieces)


def write(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=True, separators=(",", ":"))
        file.write("\n")


def main(out, whole):
    os.makedirs(out, exist_ok=True)
    rng = random.Random(17)
    corpus = [" ".join(rng.choice(WORDS) for _ in range(20)) for _ in range(400)]
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(corpus, vocab_size=620, special_tokens=["<s>", "<pad>", "</s>", "<unk>"])
    trained.save_model(out)
    write(f"{out}/config.json", {"model_type": "opt", "vocab_size": trained.get_vocab_size()})
    typed = {"__type": "AddedToken", **SPECIAL}
    write(f"{out}/tokenizer_config.json", {
        "errors": "replace", "unk_token": typed, "bos_token": typed, "eos_token": typed, "add_prefix_space": False,
        "add_bos_token": True, "tokenizer_class": "GPT2Tokenizer"})
    write(f"{out}/special_tokens_map.json", {
        "bos_token": SPECIAL, "eos_token": SPECIAL, "unk_token": SPECIAL, "pad_token": {**SPECIAL, "content": "<pad>"}})
    tokenizer = AutoTokenizer.from_pretrained(out)
    ids = lambda count: [[t, tokenizer(t)["input_ids"]] for t in (text(rng) for _ in range(count))]
    write(f"{out}/ids.json", ids(300))
    if whole:
        write(whole, ids(10_000))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 4):
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[3] if len(sys.argv) == 4 else None)
