"""The operators of mutate.py: what can be wrong in a kernel's text, one small edit each.

Nothing is changed in comments, strings, inline PTX, template heads and preprocessor lines other than the bodies of macros.
"""

import dataclasses
import re

from cuda_code import ASSIGNMENTS, HEADS, KEYWORDS, PRECEDENCE, Code, blank_comments, closing

NOTHING = "((void)0)"
RELATIONS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
OTHER = {"&&": "||", "||": "&&", "&": "|", "|": "&", "<<": ">>", ">>": "<<"}
COMPOUND = {
    "+=": ["=", "-="], "-=": ["=", "+="], "*=": ["=", "/="], "/=": ["=", "*="], "|=": ["=", "&="], "&=": ["=", "|="],
    "<<=": [">>="], ">>=": ["<<="], "%=": ["="], "^=": ["="],
}
EXTREMES = {"min": "max", "max": "min", "fminf": "fmaxf", "fmaxf": "fminf"}

BARRIER = re.compile(
    r"\b(__syncthreads(?:_and|_or|_count)?|__syncwarp|__threadfence(?:_block|_system)?)\s*(\()|\b(cp_async_wait)\s*(<)"
)


@dataclasses.dataclass(frozen=True)
class Edit:
    """Text that replaces what lies between two positions."""

    start: int
    end: int
    replacement: str
    operator: str
    what: str


class Edits(Code):
    """The edits of a file but for its barriers."""

    def __init__(self, text):
        super().__init__(text)
        self.edits = []

    def add(self, operator, start, end, replacement, what=None):
        old = " ".join(self.text(start, end).replace("\\\n", " ").split())
        what = what or f"{old} -> {' '.join(replacement.split())}"
        self.edits.append(Edit(self.found[start].start(), self.found[end - 1].end(), replacement, operator, what))

    def operators(self, i):
        token, level = self.tokens[i], PRECEDENCE[self.tokens[i]]
        start, end = self.left(i, level), self.right(i, level)
        a, b = self.text(start, i), self.text(i + 1, end)
        if not a or not b:
            return
        if token in RELATIONS:
            self.add("relation", start, end, f"{a} {RELATIONS[token]} {b}")
        elif token in ("<<", ">>"):
            self.add("bits", start, end, f"{a} {OTHER[token]} {b}")
        elif token in OTHER:
            self.add("logic" if len(token) == 2 else "bits", start, end, f"(({a}) {OTHER[token]} ({b}))")
        else:
            self.add("drop term", start, end, a)
        if token in "+-":
            self.add("sign", start, end, f"{a} {'-' if token == '+' else '+'} {b}")
        if token in "-/":
            self.add("swap", start, end, f"({b}) {token} ({a})")

    def ternary(self, i):
        depth, colon = 1, i
        while depth:
            colon += 1
            if self.opens(colon):
                colon = self.partner[colon]
            depth += {"?": 1, ":": -1}.get(self.tokens[colon], 0)
        start, end = self.left(i, 0), colon + 1
        while end < len(self.tokens) and self.tokens[end] not in ",;" and not self.closes(end):
            if self.tokens[end] == ":" and self.tokens[end - 1] != "?":
                nested = self.tokens[colon + 1:end]
                if nested.count("?") <= nested.count(":"):
                    break
            end = self.partner[end] + 1 if self.opens(end) else end + 1
        for branch in (self.text(i + 1, colon), self.text(colon + 1, end)):
            self.add("ternary", start, end, f"({branch})")

    def heads(self, i):
        if self.tokens[i + 1] != "(":
            return
        start, end = i + 2, self.partner[i + 1]
        if self.tokens[i] == "for":
            parts = [j for j in self.at_depth(start, end) if self.tokens[j] == ";"]
            if len(parts) != 2 or parts[1] == parts[0] + 1:
                return
            start, end = parts[0] + 1, parts[1]
        old = " ".join(self.text(start, end).split())
        for forced in ("true", "false") if self.tokens[i] == "if" else ("false",):
            self.add("condition", start, end, forced, f"{self.tokens[i]} ({old}) -> {forced}")

    def number(self, i):
        token = self.tokens[i]
        if "##" in self.tokens[max(0, i - 1):i + 2] or self.dimension(i):
            return
        if not token.startswith(("0x", "0X")) and re.search(r"[.eEfF]", token):
            values = [f"(2 * {token})", "0.f"] if float(token.rstrip("fF")) else ["1.f"]
            for value in values:
                self.add("constant", i, i + 1, value)
            return
        digits = token.rstrip("uUlL")
        suffix, hexadecimal = token[len(digits):], digits.lower().startswith("0x")
        # What another operator makes of the expression as well is left to that.
        before, old = self.tokens[i - 1] if i and self.binary(i - 1) else "", int(digits, 0)
        same = {"<": old + 1, ">=": old + 1, "<=": old - 1, ">": old - 1, "*": 1, "/": 1, "+": 0, "-": 0}.get(before)
        for value in (old + 1, old - 1):
            if value != same and 0 <= value <= 0xffffffff:
                self.add("constant", i, i + 1, (hex(value) if hexadecimal else str(value)) + suffix)

    def statement(self, i):
        """Drops an assignment or a call that begins here."""
        before = self.tokens[i - 1] if i else ";"
        head = before == ")" and self.closes(i - 1) and self.tokens[self.partner[i - 1] - 1] in HEADS
        if before not in (";", "{", "}", "else") and not head or self.tokens[self.around.get(i, i)] == "(":
            return
        if self.tokens[i] in KEYWORDS or not (self.is_name(i) or self.tokens[i] == "*") or self.declares(i):
            return
        if re.match(r"__sync|__threadfence|cp_async_wait", self.tokens[i]):
            return
        assigns, end = False, i
        while end < len(self.tokens) and self.tokens[end] != ";":
            if self.closes(end):
                return
            assigns = assigns or self.tokens[end] in ASSIGNMENTS or self.tokens[end] in ("++", "--")
            end = self.partner[end] + 1 if self.opens(end) else end + 1
        if end < len(self.tokens) and (assigns or self.tokens[end - 1] == ")"):
            old = " ".join(self.text(i, end + 1).split())
            self.add("drop statement", i, end + 1, ";", f"without {old}")

    def all(self):
        for i, token in enumerate(self.tokens):
            self.statement(i)
            if self.binary(i):
                self.operators(i)
            elif token == "?":
                self.ternary(i)
            elif token in HEADS:
                self.heads(i)
            elif token[0].isdigit() or (token[0] == "." and len(token) > 1):
                self.number(i)
            elif token in ("true", "false"):
                self.add("constant", i, i + 1, "false" if token == "true" else "true")
            elif token in EXTREMES and self.tokens[i + 1] == "(":
                end = self.partner[i + 1] + 1
                self.add("extreme", i, end, EXTREMES[token] + self.text(i + 1, end))
            elif token in COMPOUND:
                start, end = self.left(i, 0), self.right(i, 0)
                for other in COMPOUND[token]:
                    self.add("compound", start, end, f"{self.text(start, i)} {other} {self.text(i + 1, end)}")
            elif token in "!~" or (token == "-" and not self.spaced(i) and not self.is_operand(i - 1)):
                end = self.right(i, 11)
                self.add("unary", i, end, self.text(i + 1, end))
        return self.edits


def barriers(text):
    """Barriers, waits and fences without effect, and waits for one copy less.

    >>> show(barriers('''template <int N> PRIMITIVE void cp_async_wait() { asm(""); }
    ... __syncthreads();  // __syncwarp()
    ... if (__syncthreads_or(a[f(i)] > 0)) cp_async_wait<STAGES - 2>();'''))
    barrier: without __syncthreads()
    barrier: without __syncthreads_or(a[f(i)] > 0)
    barrier: without cp_async_wait<STAGES - 2>()
    barrier: cp_async_wait<STAGES - 2>() waits for one less
    """
    code, edits = blank_comments(text), []
    for match in BARRIER.finditer(code):
        bracket = match.start(2) if match[2] else match.start(4)
        end = closing(code, bracket)
        inside = text[bracket + 1:end]
        if match[4]:
            end = closing(code, code.index("(", end))
        call = " ".join(text[match.start():end + 1].split())
        add = lambda replacement, what: edits.append(Edit(match.start(), end + 1, replacement, "barrier", what))
        # A vote becomes this thread's own: nothing is waited for.
        voting = match[1] and match[1].startswith("__syncthreads_")
        add(f"(int)({inside})" if voting else NOTHING, f"without {call}")
        if match[4]:
            add(f"cp_async_wait<({inside}) + 1>()", f"{call} waits for one less")
    return edits


def edits(text):
    """Every edit of a file, in order, none twice.

    >>> show(edits("const int a[2] = {x[i + 8] * s - 1};"))
    drop term: x[i + 8] * s - 1 -> x[i + 8] * s
    sign: x[i + 8] * s - 1 -> x[i + 8] * s + 1
    swap: x[i + 8] * s - 1 -> (1) - (x[i + 8] * s)
    drop term: x[i + 8] * s -> x[i + 8]
    drop term: i + 8 -> i
    sign: i + 8 -> i - 8
    constant: 8 -> 9
    constant: 8 -> 7
    constant: 1 -> 2
    >>> show(edits("if (f<A, B>(p) <= q || !r) m |= min(p, ~q) << 1.5e-6f;"))
    condition: if (f<A, B>(p) <= q || !r) -> true
    condition: if (f<A, B>(p) <= q || !r) -> false
    logic: f<A, B>(p) <= q || !r -> ((f<A, B>(p) <= q) && (!r))
    relation: f<A, B>(p) <= q -> f<A, B>(p) < q
    unary: !r -> r
    drop statement: without m |= min(p, ~q) << 1.5e-6f;
    compound: m |= min(p, ~q) << 1.5e-6f -> m = min(p, ~q) << 1.5e-6f
    compound: m |= min(p, ~q) << 1.5e-6f -> m &= min(p, ~q) << 1.5e-6f
    bits: min(p, ~q) << 1.5e-6f -> min(p, ~q) >> 1.5e-6f
    extreme: min(p, ~q) -> max(p, ~q)
    unary: ~q -> q
    constant: 1.5e-6f -> (2 * 1.5e-6f)
    constant: 1.5e-6f -> 0.f
    >>> show(edits("for (T* p = q; p != end; p++) return a ? -b : c ? d : e;"))
    condition: for (p != end) -> false
    relation: p != end -> p == end
    ternary: a ? -b : c ? d : e -> (-b)
    ternary: a ? -b : c ? d : e -> (c ? d : e)
    unary: -b -> b
    ternary: c ? d : e -> (d)
    ternary: c ? d : e -> (e)
    >>> show(edits("Tile<M> t; float x[8], (&y)[4]; cp_async_wait<1>(); f<T>(true);"))
    barrier: without cp_async_wait<1>()
    barrier: cp_async_wait<1>() waits for one less
    constant: 1 -> 2
    constant: 1 -> 0
    drop statement: without f<T>(true);
    constant: true -> false
    """
    every = {(edit.start, -edit.end, edit.replacement): edit for edit in Edits(text).all() + barriers(text)}
    return sorted(every.values(), key=lambda edit: (edit.start, -edit.end))


def show(found):
    for edit in found:
        print(f"{edit.operator}: {edit.what}")
