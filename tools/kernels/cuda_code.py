"""CUDA sources as tokens: brackets, operands, statements. For mutations.py.

Binary operators have spaces on both sides in cuda/, and brackets of templates, pointers, references and signs have not: that
is how they are told apart.
"""

import re

PRECEDENCE = {
    "||": 1, "&&": 2, "|": 3, "^": 4, "&": 5, "==": 6, "!=": 6, "<": 7, "<=": 7, ">": 7, ">=": 7, "<<": 8, ">>": 8,
    "+": 9, "-": 9, "*": 10, "/": 10, "%": 10,
}
ASSIGNMENTS = {"=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>="}
HEADS = {"if", "for", "while"}
KEYWORDS = HEADS | {"return", "else", "do", "case", "continue", "break", "struct", "using", "typedef", "constexpr"}

TOKEN = re.compile(
    r"0[xX][0-9a-fA-F]+[uUlL]*|(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?[fF]?|\d+[eE][-+]?\d+[fF]?|\d+[uUlL]*|[A-Za-z_]\w*"
    r"|<<=|>>=|<=|>=|==|!=|&&|\|\||\+\+|--|->|[-+*/%&|^]=|<<|>>|::|##|[^\s\w]"
)


def blank(text):
    return re.sub(r"[^\n]", " ", text)


def blank_comments(text):
    """The same text, as long, without comments and with strings emptied.

    >>> blank_comments('a; // b()\\n/* c\\n */ d("e//f")')
    'a;       \\n    \\n    d("    ")'
    """
    pattern = re.compile(r'//[^\n]*|/\*.*?\*/|"((?:\\.|[^"\\\n])*)"', re.S)
    return pattern.sub(lambda m: f'"{blank(m[1])}"' if m[1] is not None else blank(m[0]), text)


def blank_fixed(code):
    """Code without what is not to be changed; of macros their bodies stay.

    >>> blank_fixed('#pragma unroll\\n#define A(x) \\\\\\n  x + 1\\ntemplate <class T, int N> f<N>(); asm volatile("" : "=r"(y));')
    '              \\n              \\n  x + 1\\n                          f<N>();                           ;'
    """
    def preprocessor(match):
        head = re.match(r"\s*#\s*define\s+\w+(?:\([^)]*\))?", match[0])
        if not head:
            return blank(match[0])
        return blank(head[0]) + re.sub(r"\\(?=\n)", " ", match[0][head.end():])

    code = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", preprocessor, code, flags=re.M)
    fixed = r"\btemplate\s*(<)|\b(?:asm(?:\s+volatile)?|__launch_bounds__|alignas|__align__|static_assert)\s*(\()"
    for match in re.finditer(fixed, code):
        end = closing(code, match.start(1) if match[1] else match.start(2)) + 1
        code = code[:match.start()] + blank(code[match.start():end]) + code[end:]
    return code


def closing(text, at):
    """The position of the bracket that closes the one at `at`; `->` and `>=` close nothing.

    >>> closing("f<(A > B ? 1 : 2) - 1>()", 1)
    21
    """
    opening, depth = "([{<", [text[at]]
    for i in range(at + 1, len(text)):
        c = text[i]
        if c in "([{" or (c == "<" and depth[-1] == "<"):
            depth.append(c)
        elif c in ")]}" or (c == ">" and depth[-1] == "<" and text[i - 1] != "-"):
            if depth and ")]}>".index(c) == opening.index(depth[-1]):
                depth.pop()
            if not depth:
                return i
    raise ValueError(f"nothing closes {text[at:at + 40]!r}")


class Code:
    """A file's tokens, with partners of brackets."""

    def __init__(self, text):
        self.code = blank_comments(text)
        self.found = list(TOKEN.finditer(blank_fixed(self.code)))
        self.tokens = [match[0] for match in self.found]
        self.partner = self.brackets()

    def spaced(self, i):
        before, after = self.code[self.found[i].start() - 1], self.code[self.found[i].end():][:1]
        return before.isspace() and after.isspace()

    def binary(self, i):
        return self.tokens[i] in PRECEDENCE and self.spaced(i)

    def brackets(self):
        """Partners of brackets; `around` has the innermost bracket that each token is in."""
        partner, opened = {}, []
        self.around = {}
        for i, token in enumerate(self.tokens):
            if opened:
                self.around[i] = opened[-1]
            template = i > 0 and self.found[i].start() == self.found[i - 1].end() and self.is_name(i - 1)
            if token in "([{" or (token == "<" and template):
                opened.append(i)
            elif token in (")", "]", "}") or (token in (">", ">>") and not self.spaced(i)):
                for _ in range(len(token) if token[0] == ">" else 1):
                    if opened and "([{<".find(self.tokens[opened[-1]]) == ")]}>".find(token[0]):
                        partner[opened[-1]] = i
                        partner[i] = opened.pop()
        return partner

    def is_name(self, i):
        return re.match(r"[A-Za-z_]", self.tokens[i]) is not None

    def is_operand(self, i):
        return self.closes(i) or self.tokens[i][0].isalnum() and self.tokens[i] not in KEYWORDS

    def opens(self, i):
        return self.partner.get(i, -1) > i

    def closes(self, i):
        return i in self.partner and self.partner[i] < i

    def left(self, i, precedence):
        """The first token of what an operator has on its left."""
        j, after_group = i - 1, i
        while j >= 0:
            token = self.tokens[j]
            if token in HEADS:
                return after_group
            if self.closes(j) and (token != "}" or self.is_name(self.partner[j] - 1)):
                after_group = j + 1
                j = self.partner[j] - 1
                continue
            if token in "([{},;?:" or token in ASSIGNMENTS or token in KEYWORDS:
                break
            if self.binary(j) and PRECEDENCE[token] < precedence:
                break
            j -= 1
        return j + 1

    def right(self, i, precedence):
        """The token after what an operator has on its right."""
        j = i + 1
        while j < len(self.tokens):
            token = self.tokens[j]
            if self.opens(j):
                j = self.partner[j] + 1
                continue
            if self.closes(j) or token in ",;?:" or token in ASSIGNMENTS:
                break
            if self.binary(j) and PRECEDENCE[token] <= precedence:
                break
            j += 1
        return j

    def at_depth(self, start, end):
        """Tokens that no bracket from start on encloses."""
        i = start
        while i < end:
            yield i
            i = self.partner[i] if self.opens(i) else i + 1

    def text(self, start, end):
        """What tokens start .. end - 1 stand for."""
        return self.code[self.found[start].start():self.found[end - 1].end()] if end > start else ""

    def statement_start(self, i):
        while i > 0 and not (self.tokens[i - 1] in (";", "{", "}") and not self.is_value(i - 1)):
            i = self.partner[i - 1] if self.closes(i - 1) else i - 1
        return i

    def is_value(self, i):
        """Whether a closing brace ends a value, not statements."""
        before = self.partner.get(i, 0) - 1
        return self.closes(i) and before >= 0 and (self.is_name(before) or self.tokens[before] == "=")

    def dimension(self, i):
        """Whether a number is within the brackets of an array that is declared."""
        j = self.around.get(i, i)
        if self.tokens[j] != "[":
            return False
        while self.closes(j - 1) and self.tokens[j - 1] == "]":
            j = self.partner[j - 1]
        if self.closes(j - 1):  # float (&x)[8]
            return self.tokens[self.partner[j - 1] + 1] == "&"
        before = self.tokens[j - 2]
        if before == "," and self.tokens[self.around.get(j, j)] != "(":
            return self.declares(self.statement_start(j))
        return before in ("*", "&", ">") and not self.spaced(j - 2) or (
            self.is_name(j - 2) and before not in KEYWORDS and self.is_name(j - 1)
        )

    def declares(self, i):
        """Whether a statement that begins with this token declares something: a type is followed by a name."""
        while i < len(self.tokens) and self.tokens[i] not in ASSIGNMENTS and self.tokens[i] not in "([{;":
            if self.opens(i):
                i = self.partner[i]
            elif self.is_name(i) and self.tokens[i] in ("const", "static", "constexpr", "explicit", "extern"):
                return True
            following = i + 1
            while following < len(self.tokens) and self.tokens[following] in "*&" and not self.spaced(following):
                following += 1
            if (self.is_name(i) or self.closes(i)) and following < len(self.tokens) and self.is_name(following):
                return True
            i += 1
        return False
