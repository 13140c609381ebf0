#!/usr/bin/env python3
"""Gives PTX files the version that the oldest driver to run them takes: ptx_version.py VERSION FILE...

nvcc writes its own version whatever the code needs, and a driver takes no PTX that is newer than itself. Whether the code
is within the older version is for ptxas to say, which assembles no instruction that the version does not have.
"""

import re
import sys

VERSION = re.compile(r"^\.version (\d+\.\d+)$", flags=re.M)


def with_version(text, version):
    r"""PTX with another version.

    >>> with_version("//\n.version 9.0\n.target sm_80\n", "7.4")
    '//\n.version 7.4\n.target sm_80\n'
    >>> with_version(".target sm_80\n", "7.4")
    Traceback (most recent call last):
    ValueError: expected one .version, got []
    """
    if len(found := VERSION.findall(text)) != 1:
        raise ValueError(f"expected one .version, got {found}")
    return VERSION.sub(f".version {version}", text)


if __name__ == "__main__":
    for name in sys.argv[2:]:
        with open(name) as file:
            text = file.read()
        with open(name, "w") as file:
            file.write(with_version(text, sys.argv[1]))
