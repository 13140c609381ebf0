"""A source with only some of its kernels, which compiles in a fraction of the time."""

import re

from cuda_code import closing

DEFINE = re.compile(r"^#define (\w+)\(([^)]*)\)((?:.*\\\n)*.*)", re.M)
KERNEL = re.compile(r'extern "C" __global__ [^;{]*?\b(\w+)\(\w+ p\) \{')


def macros(texts):
    r"""Macros that define kernels: {name: (parameters, body)}.

    >>> macros(['#define K(name, T) \\\n  extern "C" __global__ void name##_a(Args p) { f<T>(p); }\n#define N 4\n'])
    {'K': (['name', 'T'], ' extern "C" __global__ void name##_a(Args p) { f<T>(p); }')}
    """
    found = {}
    for text in texts:
        for match in DEFINE.finditer(text):
            body = re.sub(r"\s+", " ", match[3].replace("\\\n", " "))
            found[match[1]] = [parameter.strip() for parameter in match[2].split(",")], body
    kernels = {}
    while more := {
        name: macro for name, macro in found.items()
        if name not in kernels and ("__global__" in macro[1] or any(f"{other}(" in macro[1] for other in kernels))
    }:
        kernels |= more
    return kernels


def arguments(text):
    """
    >>> arguments("a, (f<T, 32>), b")
    ['a', '(f<T, 32>)', 'b']
    """
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "(<") - (letter in ")>")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def expanded(text, kernels):
    r"""With macros that define kernels replaced by what they stand for.

    >>> expanded("K(b, f16)\\n", {"K": (["name", "T"], "void name##_a(Args p) { f<T>(p); }")})
    'void b_a(Args p) { f<f16>(p); }\\n'
    """
    text = DEFINE.sub(lambda match: "" if match[1] in kernels else match[0], text)
    use = re.compile(rf"\b({'|'.join(kernels)})\(") if kernels else None
    while use and (match := use.search(text)):
        end = closing(text, match.end() - 1)
        parameters, body = kernels[match[1]]
        body = re.sub(r" *## *", "\0", body)
        for parameter, argument in zip(parameters, arguments(text[match.end():end])):
            body = re.sub(rf"\b{parameter}\b", lambda _: argument, body)
        text = text[:match.start()] + body.replace("\0", "") + text[end + 1:]
    return text


def only(text, kernels, wanted):
    r"""Without the kernels that are not wanted.

    >>> source = 'K(b)\nextern "C" __global__ void c(Args p) { if (p.x) { g(p); } }\n'
    >>> only(source, {"K": (["name"], 'extern "C" __global__ void name##_a(Args p) { f(p); }')}, {"b_a"})
    'extern "C" __global__ void b_a(Args p) { f(p); }\n\n'
    """
    text, at = expanded(text, kernels), 0
    while match := KERNEL.search(text, at):
        end = closing(text, match.end() - 1) + 1
        if match[1] in wanted:
            at = end
        else:
            text, at = text[:match.start()] + text[end:], match.start()
    return text


def one_of_each(names):
    """Of kernels that differ in dtype and the last number alone, the one with the least number.

    >>> sorted(one_of_each(["a_f16", "a_64_bf16", "a_32_bf16", "a_32_f16", "b_q64_d32", "b_q128_d32"]))
    ['a_32_bf16', 'b_q128_d32', 'b_q64_d32']
    """
    kinds = {}
    for name in names:
        kind, number = re.fullmatch(r"(.*?)(?:_[a-z]?(\d+))?", re.sub(r"_b?f16$", "", name)).groups()
        # The largest tile's kernel has no number in its name.
        kinds.setdefault(kind, []).append((int(number or 1 << 31), name))
    return {min(kernels)[1] for kernels in kinds.values()}
