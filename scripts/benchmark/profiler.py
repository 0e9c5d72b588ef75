"""Where a token's time goes: a timer around every function of llmcore, and a table that adds up to the whole.

Time is exclusive: while a function runs another that has a timer, its own stands still. Each moment of the
whole is thus counted once, in the function on top of the stack, or in REST where there is none. What timers
cost is part of what they measure (some microseconds a call, of which most fall to the caller); the same run
without them is reported beside. A function that runs in another thread is not timed: its time falls to the
one in the main thread that waits for it.
"""

import functools
import inspect
import sys
import threading
import time
from collections import defaultdict
from contextlib import contextmanager

from benchmark.roof import matrices
from llmcore.linear import Matrix

REST = "not in the functions above (Python between them, and the timers)"


class Stopwatch:
    """Nanoseconds and calls of each label; time goes to the label on top of the stack."""

    def __init__(self):
        self.spent, self.calls = defaultdict(int), defaultdict(int)
        self.stack, self.thread = [], threading.get_ident()

    @contextmanager
    def whole(self):
        """All that is to be accounted for happens in here, as often as you like."""
        self.stack.append(REST)
        begin = self.mark = time.perf_counter_ns()
        yield
        now = time.perf_counter_ns()
        self.spent[REST] += now - self.mark
        self.spent["whole"] += now - begin
        self.stack.pop()

    def timed(self, function, label, names=None):
        """The same function, with a timer; `names` says more of its second argument, by `id`."""

        @functools.wraps(function)
        def with_timer(*args, **kwargs):
            if not self.stack or threading.get_ident() != self.thread:
                return function(*args, **kwargs)
            name = label if names is None else f"{label} {names.get(id(args[1]), '')}"
            now = time.perf_counter_ns()
            self.spent[self.stack[-1]] += now - self.mark
            self.stack.append(name)
            self.mark = now
            try:
                return function(*args, **kwargs)
            finally:
                now = time.perf_counter_ns()
                self.spent[name] += now - self.mark
                self.calls[name] += 1
                self.stack.pop()
                self.mark = now

        return with_timer


@contextmanager
def timers(watch, weights):
    """Every function of the package has a timer while the body of the `with` runs."""
    names = {
        id(m): name
        for name, value in matrices(weights)
        for m in ([value] if isinstance(value, Matrix) else value)
    }
    undo = []
    try:
        for function, room in functions():
            label = f"{room} {function.__qualname__}"
            _replace(
                function, watch.timed(function, label, names if label == "linear linear" else None), undo
            )
        yield
    finally:
        for put_back in reversed(undo):
            put_back()


def rooms():
    """(name, module) of the package's modules that are in use."""
    return [
        (name.split(".", 1)[1], module) for name, module in sys.modules.items() if name.startswith("llmcore.")
    ]


def functions():
    """(function, room) of all functions and methods of the package; generators run between their calls: not
    those.
    """
    for room, module in rooms():
        for value in list(vars(module).values()):
            of_class = list(vars(value).values()) if inspect.isclass(value) else [value]
            for function in of_class:
                if (
                    inspect.isfunction(function)
                    and function.__module__ == module.__name__
                    and not inspect.isgeneratorfunction(inspect.unwrap(function))
                    and not function.__name__.startswith("__")
                ):
                    yield function, room


def _replace(function, timed, undo):
    """Put `timed` wherever the package holds `function`: modules that import it, their tables, classes."""
    for _, module in rooms():
        for name, value in list(vars(module).items()):
            if value is function:
                setattr(module, name, timed)
                undo.append(functools.partial(setattr, module, name, function))
            elif isinstance(value, dict) and not name.startswith("__"):
                for key, held in list(value.items()):
                    if held is function:
                        value[key] = timed
                    elif isinstance(held, tuple):
                        value[key] = tuple(timed if one is function else one for one in held)
                    undo.append(functools.partial(value.__setitem__, key, held))
            elif inspect.isclass(value) and vars(value).get(function.__name__) is function:
                setattr(value, function.__name__, timed)
                undo.append(functools.partial(setattr, value, function.__name__, function))


def profile(driver, p, n, runs) -> dict:
    """{"prefill p": table, "decode n": table}, each that of the run of median length; for engines.Llmcore."""
    ids = [i % driver.vocab_size() for i in range(100, 100 + max(p, 8))]
    tests = {
        f"prefill {p}": (p, lambda: None, lambda: driver.begin(ids[:p])),
        f"decode {n}": (n, lambda: driver.begin(ids[:8]), lambda: driver.go(n)),
    }
    driver.begin(ids[:p])  # a first run that does not count: pages, threads, caches
    return {test: _profile(driver.llm.weights, *work, runs) for test, work in tests.items()}


def _profile(weights, tokens, prepare, run, runs):
    """The table of the run of median length, and the median of as many runs without timers, taking turns."""
    watches, plain = [], []
    for _ in range(runs):
        prepare()
        begin = time.perf_counter_ns()
        run()
        plain.append(time.perf_counter_ns() - begin)
        prepare()
        watches.append(Stopwatch())
        with timers(watches[-1], weights), watches[-1].whole():
            run()
    median = sorted(watches, key=lambda watch: watch.spent["whole"])[(runs - 1) // 2]
    return table(median, tokens) | {"ms_without_timers": sorted(plain)[(runs - 1) // 2] / 1e6 / tokens}


def table(watch, tokens) -> dict:
    """Milliseconds and calls a token, rooms and their functions from the dearest down; the rows and REST add
    up.
    """
    rows = defaultdict(dict)
    for name in watch.calls:
        room, function = name.split(" ", 1)
        rows[room][function] = {
            "ms": watch.spent[name] / 1e6 / tokens,
            "calls": watch.calls[name] / tokens,
            "share": watch.spent[name] / watch.spent["whole"],
        }
    dearest = sorted(rows.items(), key=lambda room: -sum(row["ms"] for row in room[1].values()))
    return {
        "tokens": tokens,
        "whole_ms": watch.spent["whole"] / 1e6 / tokens,
        "rest_ms": watch.spent[REST] / 1e6 / tokens,
        "rooms": {room: dict(sorted(held.items(), key=lambda row: -row[1]["ms"])) for room, held in dearest},
    }


def lines(test, result, least=0.002):
    """The table as text; functions with less than the share `least` are added up. Its figures add up as
    printed.
    """
    whole, without = result["whole_ms"], result["ms_without_timers"]
    yield f"{test}: {whole:.4f} ms a token with timers, {without:.4f} without"
    figures = f"{'ms a token':>11}{'calls':>9}{'share':>7}{'room: ms':>12}{'share':>7}"
    yield f"{'room':<18}{'function':<38}{figures}"
    rest = whole = round(whole, 4)
    for room, held in result["rooms"].items():
        few = [name for name, row in held.items() if row["share"] < least]
        shown = {name: row for name, row in held.items() if name not in few}
        if few:
            name = f"{len(few)} more" if shown else f"all {len(few)}"
            shown[name] = {key: sum(held[name][key] for name in few) for key in ("ms", "calls", "share")}
        room_ms = sum(round(row["ms"], 4) for row in shown.values())
        rest -= room_ms
        ends = f"{room_ms:>12.4f}{room_ms / whole:>7.1%}"
        for name, row in shown.items():
            yield f"{room:<18}{name:<38}{row['ms']:>11.4f}{row['calls']:>9.2f}{row['share']:>7.1%}{ends}"
            room = ends = ""
    yield f"{REST:<65}{'':>3}{'':>15}{rest:>12.4f}{rest / whole:>7.1%}"
    yield f"{'whole':<65}{'':>18}{whole:>12.4f}{1:>7.1%}"
