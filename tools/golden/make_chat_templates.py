"""Writes what transformers makes of the chat templates in tests/golden/chat-templates.

    pip install transformers==5.24.0 jinja2==3.1.6
    python tools/golden/make_chat_templates.py tests/golden/chat-templates

`templates/` and `conversations.json` are inputs, `rendered.json` is written; `constructs.json` and `folders.json` hold
inputs with what they gave when they were last written. An error is {"error": message}.
"""

import json
import pathlib
import sys
import tempfile

from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import render_jinja_template

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
CONSTRUCTS_CONVERSATION = [["system", 'Be "kind"'], ["user", " Hi é<&>' \n two"], ["assistant", "Well\r\nok"]]


def messages(conversation):
    return [{"role": role, "content": content} for role, content in conversation]


def outcome(make):
    try:
        return make()
    except Exception as error:
        return {"error": str(error)}


def render(template, conversation, add_generation_prompt):
    def make():
        rendered, _ = render_jinja_template(
            [messages(conversation)], None, None, template, add_generation_prompt=add_generation_prompt, **TOKENS
        )
        return rendered[0]

    return outcome(make)


def byte_level_tokenizer():
    """As small as it can be; what is between a text and its ids does not matter here."""
    return {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
    }


def from_folder(files):
    with tempfile.TemporaryDirectory() as folder:
        files = {"tokenizer.json": byte_level_tokenizer(), "config.json": {"model_type": "llama"}, **files}
        for name, content in files.items():
            path = pathlib.Path(folder, name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8", newline="")

        def make():
            tokenizer = AutoTokenizer.from_pretrained(folder)
            return tokenizer.apply_chat_template(messages([["user", "Hi"]]), tokenize=False)

        return outcome(make)


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=True, indent=0) + "\n", encoding="utf-8")


def main():
    root = pathlib.Path(sys.argv[1])
    conversations = json.loads((root / "conversations.json").read_text(encoding="utf-8"))
    rendered = {}
    for path in sorted((root / "templates").glob("*.jinja")):
        with open(path, encoding="utf-8", newline="") as file:
            template = file.read()
        rendered[path.stem] = {
            name: [render(template, conversation, prompt) for prompt in (False, True)]
            for name, conversation in conversations.items()
        }
    write(root / "rendered.json", rendered)
    constructs = json.loads((root / "constructs.json").read_text(encoding="utf-8"))
    constructs = [[template, render(template, CONSTRUCTS_CONVERSATION, True)] for template, _ in constructs]
    write(root / "constructs.json", constructs)
    folders = json.loads((root / "folders.json").read_text(encoding="utf-8"))
    folders = {name: {"files": case["files"], "rendered": from_folder(case["files"])} for name, case in folders.items()}
    write(root / "folders.json", folders)


if __name__ == "__main__":
    main()
