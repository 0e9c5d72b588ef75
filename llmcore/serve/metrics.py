"""Counters and histograms of the server, in the text format that Prometheus reads."""

import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping

BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)  # upper ends, in seconds
COUNTERS = {
    "requests": "Requests that were answered, by path and status.",
    "prompt_tokens": "Tokens of prompts.",
    "cached_tokens": "Tokens of prompts that a cache held, so that they were not read again.",
    "generated_tokens": "Tokens that were written.",
}
HISTOGRAMS = {
    "time_to_first_token_seconds": "From a request to its first token.",
    "time_between_tokens_seconds": "From one token of a text to the next.",
    "step_seconds": "One pass over the weights.",
}


class Metrics:
    """What is counted; from any thread."""

    def __init__(self):
        """Nothing yet."""
        self._lock = threading.Lock()
        self._counts: Counter = Counter({(name, ""): 0 for name in COUNTERS if name != "requests"})
        self._buckets = {name: [0] * (len(BUCKETS) + 1) for name in HISTOGRAMS}
        self._sums: dict[str, float] = defaultdict(float)

    def count(self, name: str, n: int, labels: str = "") -> None:
        """Add n to a counter; `labels` as Prometheus writes them."""
        with self._lock:
            self._counts[name, labels] += n

    def observe(self, name: str, seconds: float) -> None:
        """Add a value to a histogram."""
        with self._lock:
            self._buckets[name][bisect_left(BUCKETS, seconds)] += 1
            self._sums[name] += seconds

    def text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """All of it, and `gauges`, {name: (what it is, its value now)}."""
        lines = []
        with self._lock:
            for name, what in COUNTERS.items():
                lines += [f"# HELP llmcore_{name}_total {what}", f"# TYPE llmcore_{name}_total counter"]
                for (counted, labels), n in sorted(self._counts.items()):
                    if counted == name:
                        lines.append(f"llmcore_{name}_total{f'{{{labels}}}' if labels else ''} {n}")
            for name, what in HISTOGRAMS.items():
                lines += [f"# HELP llmcore_{name} {what}", f"# TYPE llmcore_{name} histogram"]
                n = 0
                for end, inside in zip((*BUCKETS, "+Inf"), self._buckets[name], strict=True):
                    n += inside
                    lines.append(f'llmcore_{name}_bucket{{le="{end}"}} {n}')
                lines += [f"llmcore_{name}_sum {self._sums[name]}", f"llmcore_{name}_count {n}"]
        for name, (what, value) in gauges.items():
            lines += [f"# HELP llmcore_{name} {what}", f"# TYPE llmcore_{name} gauge"]
            lines.append(f"llmcore_{name} {value}")
        return "\n".join(lines) + "\n"
