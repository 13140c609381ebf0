"""The kernels in a module's PTX."""

import hashlib
import re

from mutants import Refused


def instructions(ptx):
    """PTX without what only says where in the source it comes from."""
    ptx = re.sub(r"^\s*\.section\s+\.debug.*", "", ptx, flags=re.M | re.S)
    lines = (line.strip() for line in ptx.split("\n"))
    return [line for line in lines if line and not re.match(r"\.(loc|file)\b|\$L__tmp\d+:|//(?! ptx-emu)", line)]


ENTRY = re.compile(r"^\.visible \.entry (\w+)\(.*?^\}$", re.M | re.S)


def with_entries(ptx, mutated, kernels):
    """A module with some kernels of a mutated one, which need not have the others.

    >>> ptx = ".version 7.4\\n.visible .entry a(\\n)\\n{\\nret;\\n}\\n.visible .entry b(\\n)\\n{\\nret;\\n}\\n"
    >>> print(with_entries(ptx, ptx.replace("ret", "exit"), {"b"}))
    .version 7.4
    .visible .entry a(
    )
    {
    ret;
    }
    .visible .entry b(
    )
    {
    exit;
    }
    <BLANKLINE>
    """
    outside = [instructions(ENTRY.sub("", text)) for text in (ptx, mutated)]
    if not set(outside[1]) <= set(outside[0]):
        raise Refused("what is outside the kernels differs")
    entries = {match[1]: match[0] for match in ENTRY.finditer(mutated)}
    return ENTRY.sub(lambda match: entries[match[1]] if match[1] in kernels else match[0], ptx)


def digest(lines):
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
