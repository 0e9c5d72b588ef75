"""How fast: `python scripts/bench.py --model M` measures llmcore; `--peers llama.cpp=PYTHON` beside it, in one run.

Tests, each done -r times, the engines taking turns, since only ratios from one run mean much on a shared machine:
  start     process start to the first token of text, prompt "Hello" (seconds)
  open      reading HEAD and mapping BODY; the peer is gguf.GGUFReader, once, since it takes so long (seconds)
  load      opening the file and making it ready (seconds)
  prefill   reading a prompt of -p tokens (tokens/s)
  decode    writing -n tokens, one at a time, after a prompt of 8 (tokens/s)
PYTHON is the interpreter of the environment that has the peer (llama.cpp: the package llama-cpp-python).
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

FIRST_IDS = range(100, 108)  # a prompt of 8; which ids does not matter to the speed


class Llmcore:
    """Our own engine, as a worker process drives it."""

    start = ("-m", "llmcore.generate", "--model", "{model}", "--prompt", "Hello", "--max-tokens", "1", "--quiet")

    def __init__(self, model, context):
        from llmcore.llm import load

        self.llm = load(model, context_length=context)

    def feed(self, ids, fresh):
        """Run tokens through the model, after those before them unless `fresh`; leaves the last logits behind."""
        import numpy as np

        from llmcore.cache import KVCache
        from llmcore.model import prefill, unembed

        if fresh:
            self.cache = KVCache(self.llm.config)
        for x_TD in prefill(self.llm.weights, self.llm.config, np.array(ids), self.cache):
            last_1D = x_TD[-1:]
        unembed(self.llm.weights, self.llm.config, last_1D)


class LlamaCpp:
    """llama.cpp through llama-cpp-python, with its own choice of kernels and one thread a core."""

    start = (
        "-c",
        "import llama_cpp, sys; llm = llama_cpp.Llama(sys.argv[1], verbose=False)\n"
        "print(next(iter(llm('Hello', max_tokens=1, stream=True)))['choices'][0]['text'])",
        "{model}",
    )

    def __init__(self, model, context):
        import os

        import llama_cpp

        self.llm = llama_cpp.Llama(model, n_ctx=context, n_threads=os.cpu_count(), verbose=False)

    def feed(self, ids, fresh):
        """Run tokens through the model, after those before them unless `fresh`."""
        if fresh:
            self.llm.reset()
        self.llm.eval(list(ids))


ENGINES = {"llmcore": Llmcore, "llama.cpp": LlamaCpp}


def work(engine: str, model: str, context: int) -> None:
    """The worker: answers each line on standard input, a test and its size, with the seconds it took."""
    begin = time.perf_counter()
    driver = ENGINES[engine](model, context)
    print(json.dumps(time.perf_counter() - begin), flush=True)
    for line in sys.stdin:
        test, n = json.loads(line)
        if test == "decode":
            driver.feed(FIRST_IDS, fresh=True)
        begin = time.perf_counter()
        if test == "prefill":
            driver.feed([100 + i % 1000 for i in range(n)], fresh=True)
        else:
            for i in range(n):
                driver.feed([200 + i], fresh=False)
        print(json.dumps(time.perf_counter() - begin), flush=True)


class Worker:
    """An engine in a process of its own, which does one test at a time and sleeps in between."""

    def __init__(self, engine, python, model, context):
        command = [python, __file__, "--worker", engine, "--model", model, "--context", str(context)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.load_seconds = json.loads(self.process.stdout.readline())

    def seconds(self, test, n):
        """How long the test took."""
        self.process.stdin.write(json.dumps([test, n]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def start_seconds(engine, python, model):
    """From process start to the first byte of text."""
    begin = time.perf_counter()
    command = [part.format(model=model) if part == "{model}" else part for part in ENGINES[engine].start]
    with subprocess.Popen([python, *command], stdout=subprocess.PIPE) as process:
        if not process.stdout.read(1):
            sys.exit(f"error: {engine} wrote no text; the command was {' '.join([python, *command])}")
        return time.perf_counter() - begin


def open_seconds(model):
    """{engine: [seconds]} of reading the file's HEAD, ours three times and GGUFReader's once."""
    import gguf

    from llmcore.loader import read_gguf

    times = {"llmcore": [], "gguf": []}
    for engine, read in (("llmcore", read_gguf),) * 3 + (("gguf", gguf.GGUFReader),):
        begin = time.perf_counter()
        read(model)
        times[engine].append(time.perf_counter() - begin)
    return times


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Measure llmcore, and peers beside it.")
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("-p", type=int, default=512, metavar="N", help="tokens of the prefill test (default 512)")
    parser.add_argument("-n", type=int, default=64, metavar="N", help="tokens of the decode test (default 64)")
    parser.add_argument("-r", type=int, default=5, metavar="N", help="runs of each test (default 5)")
    parser.add_argument("--peers", action="append", default=[], metavar="NAME=PYTHON", help="llama.cpp=PYTHON")
    parser.add_argument("--worker", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--context", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work(args.worker, args.model, args.context)
    pythons = {"llmcore": sys.executable}
    for peer in args.peers:
        name, _, python = peer.partition("=")
        if name not in ENGINES or not python:
            parser.error(f"--peers {peer}: say NAME=PYTHON with one of {', '.join(ENGINES)}")
        pythons[name] = python
    results = measure(pythons, args)
    report(results, args)


def measure(pythons, args):
    """{test: {engine: [seconds, ...]}}"""
    results = {test: {engine: [] for engine in pythons} for test in ("start", "load", "prefill", "decode")}
    for _ in range(args.r):
        for engine, python in pythons.items():
            results["start"][engine].append(start_seconds(engine, python, args.model))
    workers = {engine: Worker(engine, python, args.model, args.p + args.n + 8) for engine, python in pythons.items()}
    if args.peers:
        results["open"] = open_seconds(args.model)
    for engine, worker in workers.items():
        results["load"][engine].append(worker.load_seconds)
        worker.seconds("prefill", args.p)  # a first run that does not count: pages, threads, caches
    for _ in range(args.r):
        for test, n in (("prefill", args.p), ("decode", args.n)):
            for engine, worker in workers.items():
                results[test][engine].append(worker.seconds(test, n))
    return results


def report(results, args):
    """One line a test and engine: the median, the spread, and the ratio to llmcore's."""
    sizes = {"prefill": args.p, "decode": args.n}
    print(f"{args.model}, medians of {args.r} alternating runs")
    print(f"{'test':<12}{'engine':<12}{'median':>10}{'worst':>10}{'best':>10}  {'':<10}{'llmcore is':>12}")
    for test, engines in results.items():
        ours = statistics.median(engines["llmcore"])
        for engine, seconds in engines.items():
            median, best, worst = statistics.median(seconds), min(seconds), max(seconds)
            ratio = "" if engine == "llmcore" else f"{median / ours:.2f} x as fast"
            n = sizes.get(test)
            shown = [n / value if n else value for value in (median, worst, best)]
            name, unit = (f"{test} {n}", "tokens/s") if n else (test, "s")
            figures = "".join(f"{value:>10.{1 if n else 2}f}" for value in shown)
            print(f"{name:<12}{engine:<12}{figures}  {unit:<10}{ratio:>16}")


if __name__ == "__main__":
    main()
