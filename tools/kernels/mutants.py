"""The mutants of cuda/: which there are, which need no test (mutants.txt), a sample of them, and results. For mutate.py."""

import collections
import dataclasses
import hashlib
import json
import re

from cuda_code import blank_comments
from mutations import edits

VERDICT = re.compile(r"(equivalent|accepted): (\S.*)")


class Failed(Exception):
    """Something that makes the result worthless."""


class Refused(Exception):
    """A mutant about which nothing can be said."""


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One edit of a file, in all of its kernels or (module, kernel) only in one."""

    file: str
    line: int
    text: str  # the source line
    start: int
    end: int
    replacement: str
    operator: str
    what: str  # with a number where it is not the first of its kind on such a line
    entry: tuple[str, str] | None = None

    @property
    def key(self):
        """What names it whatever line it is on."""
        return self.file, self.text, self.what

    def __str__(self):
        only = f", only in {self.entry[1]}" if self.entry else ""
        return f"cuda/{self.file}:{self.line}: {self.operator}: {self.what}{only}"


def mutants(file, text):
    """Every mutant of a file.

    >>> [(m.line, m.text, m.what) for m in mutants("x.cu", "a = b;  // no\\n  c(1, 1);\\na = b;")]  # doctest: +NORMALIZE_WHITESPACE
    [(1, 'a = b;', 'without a = b;'), (2, 'c(1, 1);', 'without c(1, 1);'), (2, 'c(1, 1);', '1 -> 2'),
     (2, 'c(1, 1);', '1 -> 0'), (2, 'c(1, 1);', '1 -> 2 (2)'), (2, 'c(1, 1);', '1 -> 0 (2)'), (3, 'a = b;', 'without a = b; (2)')]
    """
    lines, seen, found = blank_comments(text).split("\n"), collections.Counter(), []
    for edit in edits(text):
        line = text.count("\n", 0, edit.start)
        source = " ".join(lines[line].rstrip("\\").split())
        seen[source, edit.what] += 1
        number = seen[source, edit.what]
        what = edit.what + (f" ({number})" if number > 1 else "")
        found.append(Mutant(file, line + 1, source, edit.start, edit.end, edit.replacement, edit.operator, what))
    return found


def known(text):
    """What needs no test, by (file, source line, mutation): entries of mutants.txt, which are blocks of a line `FILE: SOURCE
    LINE`, a line for each mutation, and `equivalent: WHY` or `accepted: WHY`, perhaps over several lines.

    >>> known("# head\\n\\nx.cu: a < b\\n  a < b -> a <= b\\n  0 -> 1 (2)\\n  equivalent: a is\\n    odd\\n")
    {('x.cu', 'a < b', 'a < b -> a <= b'): 'equivalent: a is odd', ('x.cu', 'a < b', '0 -> 1 (2)'): 'equivalent: a is odd'}
    >>> known("x.cu: a < b\\n  0 -> 1\\n")
    Traceback (most recent call last):
    mutants.Failed: mutants.txt: 'x.cu: a < b' has no mutation or no reason
    """
    verdicts = {}
    for block in re.split(r"\n\s*\n", "\n".join(l for l in text.split("\n") if not l.startswith("#")).strip()):
        if not block.strip():
            continue
        head, *rest = block.strip().split("\n")
        rest = [line.strip() for line in rest]
        at = next((i for i, line in enumerate(rest) if VERDICT.match(line)), 0)
        file, _, source = head.partition(": ")
        if not at or not source:
            raise Failed(f"mutants.txt: {head!r} has no mutation or no reason")
        for what in rest[:at]:
            verdicts[file, source, what] = " ".join(rest[at:])
    return verdicts


def check_known(verdicts, every):
    """Demands that every entry of mutants.txt still is a mutant."""
    there = {mutant.key for mutant in every}
    if gone := [key for key in verdicts if key not in there]:
        raise Failed("mutants.txt: no such mutant (any more):\n" + "\n".join("  " + " | ".join(key) for key in gone))


def rank(*what):
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def in_one_entry(mutant, entries, seed):
    """The mutant in one of the kernels that it changes, drawn at random."""
    entry = min(entries, key=lambda entry: rank(seed, mutant.key, entry))
    return dataclasses.replace(mutant, entry=entry)


def sample(every, count, seed, entries):
    """So many mutants: of each file in turn, of its operators in turn, every other one in one kernel only. Drawn so that a
    mutant more or less changes little. `entries(file)`: modules and kernels that a file's mutants change.

    >>> every = mutants("x.cu", "a = b + 1; c(1); d(2);") + mutants("y.cu", "e(3);")
    >>> chosen = sample(every, 4, 1, lambda file: [("x", "k_bf16"), ("x", "k_f16")])
    >>> [m.file for m in chosen], len({m.operator for m in chosen if m.file == "x.cu"}), sum(m.entry is not None for m in chosen)
    (['y.cu', 'x.cu', 'y.cu', 'x.cu'], 2, 2)
    """
    waiting = collections.defaultdict(lambda: collections.defaultdict(list))
    for mutant in sorted(every, key=lambda mutant: rank(seed, mutant.key)):
        waiting[mutant.file][mutant.operator].append(mutant)
    drawn, chosen = collections.Counter(), []
    while waiting and len(chosen) < count:
        for file in sorted(waiting, key=lambda file: rank(seed, file)):
            operators = waiting[file]
            operator = min(operators, key=lambda operator: (drawn[file, operator], rank(seed, file, operator)))
            mutant = operators[operator].pop(0)
            drawn[file, operator] += 1
            drawn[file] += 1
            if drawn[file] % 2 == int(rank(seed, file), 16) % 2 and len(entries(file)) > 1:
                mutant = in_one_entry(mutant, entries(file), seed)
            chosen.append(mutant)
            if not operators[operator]:
                del operators[operator]
            if not operators:
                del waiting[file]
            if len(chosen) == count:
                break
    return chosen


class Results:
    """A file with a line of JSON for each judged mutant; the last one counts."""

    def __init__(self, path, sources):
        self.path, self.hashes, self.judged = path, {}, {}
        self.sources = sources
        if path.exists():
            for line in path.read_text().splitlines():
                entry = json.loads(line)
                self.judged[entry["file"], entry["text"], entry["what"], entry["entry"]] = entry

    def hash(self, mutant):
        """Of the code that the mutant is part of: with other code it has to be judged again."""
        if mutant.file not in self.hashes:
            files = [mutant.file, *sorted(includes(mutant.file, self.sources))]
            self.hashes[mutant.file] = rank([blank_comments(self.sources[file]).split() for file in files])[:12]
        return self.hashes[mutant.file]

    def outcome(self, mutant):
        entry = self.judged.get((*mutant.key, mutant.entry and mutant.entry[1]))
        return entry["outcome"] if entry and entry["code"] == self.hash(mutant) else None

    def add(self, mutant, outcome, why, seconds):
        entry = {
            "file": mutant.file, "line": mutant.line, "text": mutant.text, "operator": mutant.operator, "what": mutant.what,
            "entry": mutant.entry and mutant.entry[1], "code": self.hash(mutant), "outcome": outcome, "why": why,
            "seconds": round(seconds, 1),
        }
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def table(self):
        """Counts per file and per operator.

        >>> import pathlib
        >>> results = Results(pathlib.Path("no such file"), {})
        >>> results.judged = {1: {"file": "x.cu", "operator": "sign", "outcome": "caught", "seconds": 2},
        ...     2: {"file": "x.cu", "operator": "bits", "outcome": "SURVIVES", "seconds": 1}}
        >>> print(results.table())
                                    made   caught equivalent  refused SURVIVES  seconds
        x.cu                           2        1          0        0        1        3
        bits                           1        0          0        0        1        1
        sign                           1        1          0        0        0        2
        all                            2        1          0        0        1        3
        """
        columns = ["caught", "equivalent", "refused", "SURVIVES"]
        counts = collections.defaultdict(collections.Counter)
        for entry in self.judged.values():
            for row in ((0, entry["file"]), (1, entry["operator"]), (2, "all")):
                counts[row].update(["made", entry["outcome"]])
                counts[row]["seconds"] += entry["seconds"]
        heads = ["made", *columns, "seconds"]
        lines = ["".ljust(23) + "".join(f" {head:>{max(8, len(head))}}" for head in heads)]
        for row in sorted(counts):
            numbers = "".join(f" {counts[row][head]:>{max(8, len(head))}.0f}" for head in heads)
            lines.append(row[1].ljust(23) + numbers)
        return "\n".join(lines)


def includes(file, sources):
    """Files of cuda/ that `file` includes, directly or not."""
    seen, queue = set(), [file]
    while queue:
        for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', sources[queue.pop()], re.M):
            if name in sources and name not in seen:
                seen.add(name)
                queue.append(name)
    return seen
