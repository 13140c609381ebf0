"""The GPU goals whose rival is PyTorch, measured in one process: this project's runs and PyTorch's in turns on one stream.

Usage: python tools/peers/goals.py LIBRARY [--goals 1,2,7,10,11] [--rows FILE] [--step NAME] [--rounds N] [--reduced]

LIBRARY is the example `goals` (cargo build --release --example goals: target/release/examples/libgoals.so). It measures, and
calls back for a rival's runs; see benches/kernels/torch.rs. A row whose rival is not here is "not run" and says why.
Exit code: 0 unless a row failed (1) or nothing could be measured (2).

--no-torch runs everything but the rivals, at --reduced shapes: to see that it works where there is no GPU.
"""
import argparse
import ctypes
import json
import os
import sys
import traceback

MISSING, FAILED = -1, -2

PREPARE = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int64), ctypes.c_size_t,
                           ctypes.POINTER(ctypes.c_char), ctypes.c_size_t)
ISSUE = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int64)
RELEASE = ctypes.CFUNCTYPE(None, ctypes.c_int64)


class Callbacks(ctypes.Structure):
    _fields_ = [("prepare", PREPARE), ("issue", ISSUE), ("release", RELEASE)]


class Table:
    """Rivals by handle. `make(what, *numbers)` returns a name and a function that runs once; it may raise `missing`."""

    def __init__(self, make, missing, released):
        self.make, self.missing, self.released = make, missing, released
        self.runs, self.next = {}, 0
        self.callbacks = Callbacks(PREPARE(self.prepare), ISSUE(self.issue), RELEASE(self.release))

    def prepare(self, what, numbers, count, text, room):
        try:
            said, self.runs[self.next] = self.make(what.decode(), *numbers[:count])
            handle, self.next = self.next, self.next + 1
        except self.missing as error:
            handle, said = MISSING, f"needs {error}"
        except Exception as error:  # nothing may leave a callback
            traceback.print_exc()
            handle, said = FAILED, f"{type(error).__name__}: {error}"
        said = said.encode()[:room - 1] + b"\0"
        ctypes.memmove(text, said, len(said))
        return handle

    def issue(self, handle):
        try:
            self.runs[handle]()
            return 0
        except Exception:
            traceback.print_exc()
            return 1

    def release(self, handle):
        del self.runs[handle]
        self.released()


def idle(what, *numbers):
    return f"nothing in place of {what} (--no-torch)", lambda: None


def measure(library, options, stream, table):
    call = ctypes.CDLL(os.path.abspath(library)).probeprune_goals
    call.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.POINTER(Callbacks)]
    call.restype = ctypes.c_int
    return call(json.dumps(options).encode(), stream, ctypes.byref(table.callbacks) if table else None)


def on_torch(args, options):
    """All on one stream of PyTorch's; without a GPU that it can use, without it."""
    try:
        import torch
        usable = torch.cuda.is_available()
    except ImportError as error:
        print(f"without PyTorch: {error}", flush=True)
        return measure(args.library, options, None, None)
    if not usable:
        print(f"without PyTorch: {torch.__version__} finds no GPU", flush=True)
        return measure(args.library, options, None, None)
    from rivals import Missing, Rivals
    torch.set_grad_enabled(False)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        rivals = Rivals()
        make = lambda what, *numbers: getattr(rivals, what)(*numbers)
        table = Table(make, (Missing, ImportError), torch.cuda.empty_cache)
        return measure(args.library, options, stream.cuda_stream, table)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library")
    parser.add_argument("--goals", default="1,2,7,10,11", help="numbers of rows")
    parser.add_argument("--rows", help="file to append a JSON line to for each row")
    parser.add_argument("--step", default="goals", help="the step that the lines belong to")
    parser.add_argument("--rounds", type=int, default=15, help="interleaved repetitions")
    parser.add_argument("--reduced", action="store_true", help="small shapes, whose numbers mean nothing")
    parser.add_argument("--no-torch", action="store_true", help="with --reduced: rivals that do nothing")
    args = parser.parse_args()
    if args.no_torch and not args.reduced:
        parser.error("--no-torch needs --reduced: without rivals there is nothing to measure")
    options = {"goals": [int(number) for number in args.goals.split(",")], "rows": args.rows, "step": args.step,
               "rounds": args.rounds, "reduced": args.reduced}
    if args.no_torch:
        # None is the legacy default stream.
        sys.exit(measure(args.library, options, None, Table(idle, (), lambda: None)))
    sys.exit(on_torch(args, options))


if __name__ == "__main__":
    main()
