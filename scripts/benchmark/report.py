"""What bench.py tells: a dictionary of all that was measured (--json), the table of it, and a picture."""

import os
import platform
import statistics
import subprocess
from contextlib import suppress
from pathlib import Path

from benchmark.engines import Machine
from llmcore.speed.machine import blas_core

ROOT = Path(__file__).resolve().parents[2]


def result(bench) -> dict:
    """All that was measured; speeds are medians of the runs."""
    args, tests = bench.args, {name: summary(test) for name, test in bench.tests.items()}
    seconds = {name: tests.pop(name)["engines"]["machine"]["median"] for name in ("multiply", "read")}
    prefill, decode = (tests[name]["engines"] for name in (f"prefill {args.p}", bench.decode))
    for test in tests.values():
        compare(test, tests)
    return {
        "model": args.model,
        "options": {
            key: getattr(args, key)
            for key in ("p", "n", "r", "weights", "threads", "context", "draft", "batch")
        },
        "prefill_tokens_per_second": prefill["llmcore"]["median"],
        "decode_tokens_per_second": decode["llmcore"]["median"],
        "roof_prefill_tokens_per_second": prefill["roof"]["median"],
        "roof_decode_tokens_per_second": decode["roof"]["median"],
        "start_seconds": tests["start"]["engines"]["llmcore"]["median"],
        "load_seconds": tests["load"]["engines"]["llmcore"]["median"],
        "peak_bytes": bench.memory["llmcore"]["peak_bytes"],
        "roof": roof(bench.work, args.p, prefill, decode, seconds),
        "tests": tests,
        "memory": bench.memory,
        "versions": bench.versions,
        "left_out": bench.left_out,
        "machine": machine() | {"blas": bench.blas},
    }


def summary(test) -> dict:
    """One test: each engine's runs, and the median, worst and best of its speed (or of its seconds)."""
    engines = {}
    for engine, runs in test.seconds.items():
        values = (
            sorted(runs, reverse=True) if test.tokens is None else sorted(test.tokens / run for run in runs)
        )
        shown = {"median": statistics.median(values), "worst": values[0], "best": values[-1]}
        engines[engine] = shown | {"seconds": runs}
    unit = "s" if test.tokens is None else "tokens/s"
    return {"tokens": test.tokens, "unit": unit, "base": test.base, "engines": engines}


def compare(test, tests) -> None:
    """How many times as fast llmcore is as each engine, and each engine as it is in the base test."""
    ours = test["engines"].get("llmcore")
    base = tests.get(test["base"], {"engines": {}})["engines"]
    for engine, speed in test["engines"].items():
        if ours and engine != "llmcore":
            ratio = ours["median"] / speed["median"]
            speed["llmcore_is"] = ratio if test["tokens"] else 1 / ratio
        if engine in base:
            speed["of_base"] = speed["median"] / base[engine]["median"]


def roof(work, p, prefill, decode, seconds) -> dict:
    """What share of the roof is reached, and what share of the machine the roof is."""
    multiply_adds = p * work["layer_weights"] + work["head_weights"]
    return {
        "prefill_share": prefill["llmcore"]["median"] / prefill["roof"]["median"],
        "decode_share": decode["llmcore"]["median"] / decode["roof"]["median"],
        "prefill_gflops": 2e-9 * multiply_adds * prefill["roof"]["median"] / p,
        "machine_gflops": 2e-9 * Machine.width**3 / seconds["multiply"],
        "decode_gb_per_second": 1e-9 * work["held_bytes"] * decode["roof"]["median"],
        "machine_gb_per_second": 4e-9 * Machine.floats / seconds["read"],
        "decode_of_array": work["held_bytes"]
        * decode["llmcore"]["median"]
        * seconds["read"]
        / (4 * Machine.floats),
    } | work


def machine() -> dict:
    """What it was measured on, and which llmcore."""
    cpu = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line for line in lines if line.startswith("model name")).split(":", 1)[1].strip()
    revision = None
    with suppress(OSError):
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
        revision = subprocess.run(command, capture_output=True, text=True).stdout.strip() or None
    python = platform.python_version()
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "kernel": blas_core(),
        "system": platform.system(),
        "python": python,
        "llmcore": revision,
    }


def lines(result):
    """The table, and below it the roof, the memory, and the machine."""
    options, roof = result["options"], result["roof"]
    weights = options["weights"] or "auto"
    yield f"{Path(result['model']).name}, weights {weights}, {options['r']} alternating runs"
    yield f"{'test':<40}{'engine':<14}{'median':>9}{'worst':>9}{'best':>9}  {'':<10}{'llmcore is':>11}"
    for name, test in result["tests"].items():
        for engine, speed in test["engines"].items():
            digits = 1 if test["tokens"] else 2
            figures = "".join(f"{speed[key]:>9.{digits}f}" for key in ("median", "worst", "best"))
            ratio = f"{speed['llmcore_is']:.2f} x" if "llmcore_is" in speed else ""
            of_base = f"   {speed['of_base']:.2f} x {test['base']}" if "of_base" in speed else ""
            yield f"{name:<40}{engine:<14}{figures}  {test['unit']:<10}{ratio:>11}{of_base}".rstrip()
            name = ""
    yield (
        f"roof of prefill: {roof['prefill_share']:.0%} reached; "
        f"it computes {roof['prefill_gflops']:.0f} GFLOP/s, "
        f"one large product {roof['machine_gflops']:.0f}"
    )
    yield (
        f"roof of decode: {roof['decode_share']:.0%} reached; "
        f"it reads {roof['held_bytes'] / 1e6:.0f} MB a token at "
        f"{roof['decode_gb_per_second']:.1f} GB/s, one large array {roof['machine_gb_per_second']:.1f}"
    )
    yield (
        f"machine: kernels for {result['machine']['kernel'] or 'nobody says what'}, "
        f"one large array {roof['machine_gb_per_second']:.1f} GB/s, "
        f"one large product {roof['machine_gflops']:.0f} GFLOP/s; "
        f"decode reads its matrices at {roof['decode_of_array']:.2f} of the array's speed"
    )
    for engine, memory in result["memory"].items():
        above = ", ".join(f"{gb(n)} for {c} tokens" for c, n in memory.get("above_loaded_bytes", {}).items())
        yield (
            f"memory of {engine}: peak {gb(memory['peak_bytes'])} "
            f"(anonymous {gb(memory['peak_anonymous_bytes'])}, "
            f"mapped files {gb(memory['peak_file_bytes'])}); {gb(memory['loaded_bytes'])} after load"
            + (f", and above that {above}" if above else "")
        )
    yield " | ".join(machine_parts(result))


def gb(n_bytes) -> str:
    """Bytes as gigabytes."""
    return f"{n_bytes / 1e9:.2f} GB"


def machine_parts(result):
    """The machine and the engines, part by part."""
    held = result["machine"]
    blas = " ".join(str(part) for part in held["blas"].values())
    engines = [version for engine, version in result["versions"].items() if engine != "llmcore"]
    ours = f"llmcore {held['llmcore'] or ''}, {result['versions']['llmcore']}".replace(" ,", ",")
    return [
        f"{held['cpu']}, {held['cores']} cores",
        f"Python {held['python']}",
        ours,
        f"BLAS {blas}",
        *engines,
    ]


COLORS = {"llmcore": "#1f5fa8", "llama.cpp": "#d9822b", "transformers": "#5f8f4e"}


def plot(result, path) -> None:
    """Bars of prefill and decode under the roof, and where --context was given, speed against context."""
    from matplotlib.figure import Figure

    options, contexts = result["options"], result["options"]["context"]
    names = [f"prefill {options['p']}", f"decode {options['n']}"]
    figure = Figure(figsize=(4.2 * (2 + bool(contexts)), 4.4), layout="constrained")
    panels = figure.subplots(1, 2 + bool(contexts))
    for axes, name in zip(panels, names, strict=False):
        bars(axes, name, result["tests"][name]["engines"])
    if contexts:
        curves(panels[2], result["tests"], names[1], contexts)
    figure.suptitle(f"{Path(result['model']).stem}, median of {options['r']} alternating runs", fontsize=12)
    about = " | ".join([*machine_parts(result)[:3], "roof: llmcore's matrix products alone"])
    figure.supxlabel(about, fontsize=8, color="#555555")
    figure.savefig(path, dpi=150)


def bars(axes, name, engines):
    """One bar an engine, with its spread; around llmcore's its roof, the matrix products alone."""
    shown = [engine for engine in engines if engine != "roof"]
    for i, engine in enumerate(shown):
        speed = engines[engine]
        spread = [[speed["median"] - speed["worst"]], [speed["best"] - speed["median"]]]
        axes.bar(i, speed["median"], 0.6, color=COLORS[engine], yerr=spread, capsize=3, ecolor="#444444")
        axes.annotate(
            f"{speed['median']:.0f}", (i, 0), (0, 6), textcoords="offset points", ha="center", color="white"
        )
    top, at = engines["roof"]["median"], shown.index("llmcore")
    axes.bar(at, top, 0.72, fill=False, edgecolor="#777777", linestyle="--", linewidth=1)
    roof = f"roof {top:.0f}\n{engines['llmcore']['median'] / top:.0%} reached"
    axes.annotate(
        roof, (at, top), (0, 4), textcoords="offset points", ha="center", fontsize=9, color="#555555"
    )
    axes.set(title=name, ylabel="tokens per second", xticks=range(len(shown)), xticklabels=shown)
    axes.set(xlim=(-0.6, len(shown) - 0.4), ylim=(0, 1.12 * max(top, *(engines[e]["best"] for e in shown))))
    axes.spines[["top", "right"]].set_visible(False)


def curves(axes, tests, name, contexts):
    """Tokens per second against the tokens before, a line an engine."""
    for engine in (engine for engine in tests[name]["engines"] if engine != "roof"):
        speeds = {8: tests[name]["engines"][engine]["median"]}
        speeds |= {c: tests[f"{name} after {c}"]["engines"][engine]["median"] for c in sorted(contexts)}
        axes.plot(*zip(*speeds.items(), strict=True), marker="o", color=COLORS[engine], label=engine)
        for c, speed in speeds.items():
            axes.annotate(
                f"{speed:.0f}", (c, speed), (0, 6), textcoords="offset points", ha="center", fontsize=8
            )
    axes.set(
        title="decode against context",
        xlabel="tokens before",
        ylabel="tokens per second",
        xticks=[8, *contexts],
    )
    axes.set_ylim(bottom=0, top=1.12 * axes.get_ylim()[1])
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
