#!/usr/bin/env python3
"""What include/probeprune.h promises to programs that are already compiled: functions, constants, fields and their offsets.

    tools/capi/abi.py check     include/abi.txt lists what the header has, and lost nothing since the last tag that has one
    tools/capi/abi.py update    writes include/abi.txt; refuses what existing programs would not survive
    tools/capi/abi.py symbols   the names of all functions

New lines are compatible. A line that goes or changes breaks programs: PROBEPRUNE_ABI_VERSION has to change with it.
"""
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEADER = ROOT / "include/probeprune.h"
SNAPSHOT = ROOT / "include/abi.txt"


def without_comments(text):
    return re.sub(r"/\*.*?\*/", "", text, flags=re.S)


def functions(text):
    found = re.findall(r"^([a-z][\w ]*?[ *]+)(probeprune_\w+)\(([^()]*)\);", text, flags=re.M)
    squeeze = lambda part: re.sub(r"\s+", " ", part).strip()
    return {name: f"{squeeze(result)} {name}({squeeze(parameters)})" for result, name, parameters in found}


def structs(text):
    """Name and declared fields of every struct."""
    for body, name in re.findall(r"typedef struct \w* ?\{(.*?)\} (\w+);", text, flags=re.S):
        declared = [re.sub(r"\s+", " ", field).strip() for field in body.split(";") if field.strip()]
        fields = []
        for field in declared:
            callback = re.search(r"\(\*(\w+)\)", field)
            fields.append((callback.group(1) if callback else re.search(r"(\w+)(\[\d+\])?$", field).group(1), field))
        yield name, fields


def listing():
    text = without_comments(HEADER.read_text())
    flat = re.sub(r"\n[ \t]+", " ", text)
    lines = [f"function {signature}" for signature in functions(flat).values()]
    lines += [f"callback {re.sub(chr(92) + 's+', ' ', line)}" for line in re.findall(r"typedef (\w+ \(\*probeprune_\w+\)\([^;]*\));", text)]
    program = ["#include <stdio.h>", '#include "probeprune.h"', "int main(void) {"]
    for name in re.findall(r"\b(PROBEPRUNE_[A-Z0-9_]+|kDL\w+) = ", text):
        program.append(f'printf("constant {name} = %d\\n", (int){name});')
    for name, fields in structs(text):
        for field, declared in fields:
            if field == "reserved":  # promises nothing
                continue
            place = f"(unsigned)offsetof({name}, {field}), (unsigned)sizeof((({name} *)0)->{field})"
            program.append(f'printf("field {name} offset %u, %u bytes: {declared}\\n", {place});')
    program += ['printf("version %d\\n", PROBEPRUNE_ABI_VERSION);', "return 0; }"]
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder, "abi.c")
        source.write_text("\n".join(program))
        subprocess.run(["cc", "-std=c99", f"-I{HEADER.parent}", source, "-o", source.with_suffix("")], check=True)
        lines += subprocess.run([source.with_suffix("")], check=True, capture_output=True, text=True).stdout.splitlines()
    return sorted(lines)


def broken(before, after):
    version = lambda lines: [line for line in lines if line.startswith("version ")]
    return [] if version(before) != version(after) else sorted(set(before) - set(after))


def refuse(lines, since):
    if lines:
        print(f"breaks programs compiled for {since}; change PROBEPRUNE_ABI_VERSION, or put back:", file=sys.stderr)
        sys.exit("\n".join(lines))


def main():
    command = sys.argv[1] if len(sys.argv) == 2 else ""
    if command == "symbols":
        print("\n".join(sorted(functions(re.sub(r"\n[ \t]+", " ", without_comments(HEADER.read_text()))))))
        return
    lines = listing()
    committed = SNAPSHOT.read_text().splitlines() if SNAPSHOT.exists() else []
    if command == "update":
        refuse(broken(committed, lines), "include/abi.txt")
        SNAPSHOT.write_text("\n".join(lines) + "\n")
    elif command == "check":
        refuse(broken(committed, lines), "include/abi.txt")
        if committed != lines:
            sys.exit("include/abi.txt lacks what the header has: run tools/capi/abi.py update")
        git = lambda *arguments: subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True)
        tag = git("describe", "--tags", "--abbrev=0").stdout.strip()
        tagged = git("show", f"{tag}:include/abi.txt") if tag else None
        if tagged and tagged.returncode == 0:
            refuse(broken(tagged.stdout.splitlines(), lines), tag)
        print(f"{len(lines)} promises kept" + (f", those of {tag} among them" if tagged and tagged.returncode == 0 else ""))
    else:
        sys.exit(__doc__)


main()
