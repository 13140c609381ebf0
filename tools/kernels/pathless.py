#!/usr/bin/env python3
"""Rewrites PTX files so that they are the same whatever folder they were compiled in: pathless.py FILE..."""

import re
import sys

MODULE = re.compile(r"(_INTERNAL_)[0-9a-f]{8}_")


def pathless(text):
    r"""Source files keep only their names; the hash of the path in names of internal symbols becomes zeros, also where
    -lineinfo wrote such a name as bytes.

    >>> print(pathless(' .file 1 "/some/where/norm.cu"\n_ZN37_INTERNAL_8e5cde60_7_norm_cu_da2f63'))
     .file 1 "norm.cu"
    _ZN37_INTERNAL_00000000_7_norm_cu_da2f63
    >>> print(pathless('$L__info_string0:\n.b8 95,73,78,84,69,82,78,65,76,95,56,101,53,99\n.b8 100,101,54,48,95,55,0\n'))
    $L__info_string0:
    .b8 95,73,78,84,69,82,78,65,76,95,48,48,48,48
    .b8 48,48,48,48,95,55,0
    <BLANKLINE>
    """
    text = re.sub(r'^(\s*\.file\s+\d+ ")[^"]*/', r"\1", text, flags=re.M)
    text = MODULE.sub(r"\g<1>00000000_", text)
    return re.sub(r"(?:^\.b8 [\d,]+\n)+", lambda found: pathless_bytes(found[0]), text, flags=re.M)


def pathless_bytes(lines):
    numbers = bytes(int(n) for n in re.findall(r"(?<![.b\d])\d+", lines)).decode("latin1")
    kept = iter(MODULE.sub(r"\g<1>00000000_", numbers).encode("latin1"))
    return re.sub(r"(?<![.b\d])\d+", lambda _: str(next(kept)), lines)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        with open(name) as file:
            text = file.read()
        with open(name, "w") as file:
            file.write(pathless(text))
