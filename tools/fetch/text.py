"""Make two public-domain text files for calibration and evaluation: prose.txt and technical.txt.

Prose is the novel Botchan (Natsume Soseki, 1906, English by Yasotaro Morri, 1919), which
sentencepiece's source package carries as test data. Technical text is the documentation inside
docutils' source package. Wrapped lines are joined, reStructuredText markup is stripped, and code,
tables and directives are left out: UTF-8, one paragraph a line, an empty line between paragraphs.

Usage: python tools/fetch/text.py OUT_FOLDER [--sdists FOLDER]

Needs only Python and pip. The packages are not installed: their sources are read.
"""
import argparse
import glob
import os
import re
import subprocess
import sys
import tarfile

from new_folder import new_folder

PROSE = "sentencepiece==0.2.0", ["test/botchan.txt"]
TECHNICAL = "docutils==0.20.1", [f"docs/{name}.txt" for name in (
    "ref/rst/introduction", "user/rst/quickstart", "user/tools", "user/config", "ref/rst/directives", "ref/doctree",
    "peps/pep-0256", "peps/pep-0257", "peps/pep-0258", "peps/pep-0287", "ref/rst/restructuredtext", "ref/rst/roles",
    "user/html", "user/latex", "user/odt", "user/slide-shows", "user/smartquotes", "dev/policies", "dev/hacking",
    "dev/repository", "dev/testing", "dev/rst/problems", "dev/rst/alternatives", "dev/todo", "dev/enthought-plan",
    "api/publisher", "howto/rst-directives", "howto/rst-roles")]
LEAST_BYTES = {"prose.txt": 240_000, "technical.txt": 400_000}


def sources(package, paths, folder):
    """The text of each of `paths` in the package's source archive, fetched into `folder` unless it lies there."""
    stem = package.replace("==", "-")
    archive = os.path.join(folder, stem + ".tar.gz")
    if not os.path.exists(archive):
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", package.split("==")[0],
               "-d", folder, package]
        if subprocess.run(pip).returncode != 0 or not os.path.exists(archive):
            sys.exit(f"pip could not fetch {stem}.tar.gz, the source package of {package}")
    with tarfile.open(archive) as tar:
        try:
            files = [tar.extractfile(f"{stem}/{path}").read() for path in paths]
        except KeyError as error:
            sys.exit(f"{archive}: {error.args[0]}")
    return [data.decode("utf-8-sig").replace("\r\n", "\n") for data in files]


def novel_paragraphs(text):
    """The novel's paragraphs. A line ends one where the next line's first word would still have fitted in."""
    body = text[text.index("\nCHAPTER I\n"):text.index("--(THE END)--")]
    lines = [line.strip() for line in body.split("\n") if line.strip()]
    paragraphs, words = [], []
    for line, following in zip(lines, lines[1:] + [""]):
        words.append(line)
        if not following or len(line) + 1 + len(following.split()[0]) <= 71:
            paragraphs.append(" ".join(words))
            words = []
    return [p for p in paragraphs if not re.match(r"CHAPTER [IVX]+\.?$", p)]


def without_inline_markup(text):
    """Plain words for literals, references, emphasis, roles and substitutions."""
    text = re.sub(r"\[[^\]]+\]_", "", text)
    text = re.sub(r":[a-z]+:`([^`]*)`", r"\1", text)
    text = re.sub(r"``(.+?)``", r"\1", text)
    text = re.sub(r"`([^`<]+?)\s*(?:<[^`]*>)?`_{0,2}", r"\1", text)
    text = re.sub(r"\*{1,2}(\S(?:[^*]*\S)?)\*{1,2}", r"\1", text)
    text = re.sub(r"\|([^|]+)\|", r"\1", text)
    text = re.sub(r"(?<=\w)_{1,2}(?=[\s.,;:)]|$)", "", text)
    return re.sub(r"\s+", " ", text.replace("\\", "")).strip()


def rst_paragraphs(text):
    """The running text of a reStructuredText document: paragraphs and list items of six words or more."""
    paragraphs, literal = [], None
    for block in re.split(r"\n(?:[ \t]*\n)+", text.expandtabs()):
        lines = [line for line in block.split("\n") if line.strip()]
        if not lines:
            continue
        indent = len(lines[0]) - len(lines[0].lstrip())
        if literal is not None and indent > literal:
            continue
        literal = None
        first = lines[0].strip()
        adorned = any(re.match(r"\s*([^\w\s])\1{2,}\s*$", line) for line in lines)
        if lines[-1].rstrip().endswith("::") or first.startswith(".. "):
            literal = indent
        if adorned or re.match(r"(\.\. |\.\.$|__ |:[^:]+:|>>> |[+|])", first) or any(re.search(r"[^.!?:]  ", line.strip()) for line in lines):
            continue
        for item in re.split(r"\n\s*(?:[-*+]|\d+\.|\w\)|\(\w+\)) ", "\n" + "\n".join(lines)):
            plain = without_inline_markup(re.sub(r"::\s*$", ":", item))
            if len(plain.split()) >= 6:
                paragraphs.append(plain)
    return paragraphs


def write(path, paragraphs):
    """The paragraphs as a text file; an error where they are too few to be what was meant."""
    data = ("\n\n".join(paragraphs) + "\n").encode()
    if len(data) < LEAST_BYTES[os.path.basename(path)]:
        sys.exit(f"{os.path.basename(path)}: only {len(data)} bytes of text found")
    with open(path, "wb") as f:
        f.write(data)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", help="folder to make; must not exist yet")
    parser.add_argument("--sdists", help="look for the source packages in this folder first, and keep them there")
    args = parser.parse_args()
    with new_folder(args.out) as (folder, scratch):
        sdists = args.sdists or scratch
        write(os.path.join(folder, "prose.txt"), [p for t in sources(*PROSE, sdists) for p in novel_paragraphs(t)])
        write(os.path.join(folder, "technical.txt"),
              [p for t in sources(*TECHNICAL, sdists) for p in rst_paragraphs(t)])


if __name__ == "__main__":
    main()
