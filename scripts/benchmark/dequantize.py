"""Time of dequantization in nanoseconds a weight, one thread: llmcore.quants beside the gguf package.

The methods take turns within a run and the table shows medians over the runs, so that a busy machine slows
all alike; trust the ratios. Every method allocates its own result, as a loader does.
"""

import argparse
import time
from statistics import median

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf import quants as gguf_quants

from llmcore import quants


def seconds(function, *args):
    """Wall-clock time of one call, its result discarded."""
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def measure(name, n_weights, row, runs):
    """Median ns per weight of gguf, dequantize and unpack (None where the type has none)."""
    type = GGMLQuantizationType[name]
    weights, size = GGML_QUANT_SIZES[type]
    n_rows = max(1, n_weights // row)
    raw = np.random.default_rng(0).integers(0, 256, (n_rows, row // weights * size), dtype=np.uint8)
    methods = {
        "gguf": (gguf_quants.dequantize, raw, type),
        "ours": (quants.dequantize, raw, name),
    }
    if name in quants.FORMATS:
        methods["unpack"] = (quants.unpack, raw, name)
    if name == "F64":
        del methods["gguf"]
    times = {method: [] for method in methods}
    for _ in range(runs):
        for method, call in methods.items():
            times[method].append(seconds(*call) / (n_rows * row) * 1e9)
    return [median(times[method]) if method in times else None for method in ("gguf", "ours", "unpack")]


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--types", nargs="+", default=quants.SUPPORTED, choices=quants.SUPPORTED, metavar="TYPE"
    )
    parser.add_argument(
        "--weights", type=int, default=1 << 23, help="weights in the tensor (default %(default)s)"
    )
    parser.add_argument("--row", type=int, default=2048, help="weights in a row (default %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="alternating runs (default %(default)s)")
    args = parser.parse_args()
    for name in args.types:
        if args.row % GGML_QUANT_SIZES[GGMLQuantizationType[name]][0]:
            parser.error(f"rows of {args.row} weights do not divide into blocks of {name}")

    print(
        f"ns per weight, {args.weights:,} weights in rows of {args.row}, "
        f"median of {args.runs} alternating runs"
    )
    print(f"{'type':8} {'ours':>7} {'gguf':>7} {'ratio':>6} {'unpack':>7}")
    for name in args.types:
        with np.errstate(all="ignore"):  # random bytes hold infinities and NaNs
            theirs, ours, unpack = measure(name, args.weights, args.row, args.runs)
        columns = [
            f"{name:8} {ours:7.2f}",
            f"{theirs:7.2f} {theirs / ours:6.1f}" if theirs else " " * 14,
            f"{unpack:7.2f}" if unpack else "",
        ]
        print(*columns)


if __name__ == "__main__":
    main()
