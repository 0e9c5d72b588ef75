"""How a server does under load: python scripts/benchmark/server.py --model M [--peer PYTHON]

Clients ask for texts that they stream, each the next as soon as one has ended. For each number of clients:
tokens a second of all together, and for one client the time to the first token and between tokens, at the
50th and 95th percentile. A last scene has one client read a text while a prompt of 2,000 tokens arrives.

PYTHON is the interpreter of an environment with llama-cpp-python[server], whose server is measured on the
same file in alternating runs.
"""

import argparse
import asyncio
import json
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from itertools import pairwise
from pathlib import Path

COMMON = "the of and to in a is that for it was on are as with his they at be this from have or by one had"
WORDS = COMMON.split()


def prompt(n_words: int, rng: random.Random) -> str:
    """A text that no other begins like."""
    return " ".join(rng.choice(WORDS) for _ in range(n_words))


def command(engine: str, args: argparse.Namespace, port: int) -> list[str]:
    """What starts the server of an engine."""
    if engine == "llmcore":
        more = ["--threads", str(args.threads)] if args.threads else []
        names = ["--alias", "m", "--quiet", "--parallel", str(args.parallel)]
        return [
            sys.executable,
            "-m",
            "llmcore",
            "serve",
            "--model",
            args.model,
            "--port",
            str(port),
            *names,
            *more,
        ]
    more = ["--n_threads", str(args.threads), "--n_threads_batch", str(args.threads)] if args.threads else []
    options = ["--n_ctx", "8192", "--interrupt_requests", "false", "--model_alias", "m", "--verbose", "false"]
    return [args.peer, "-m", "llama_cpp.server", "--model", args.model, "--port", str(port), *options, *more]


class Server:
    """A server in a process of its own, for a `with`."""

    def __init__(self, engine: str, args: argparse.Namespace):
        """Start it, and wait until it listens."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen(
            command(engine, args, self.port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(1200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/models", timeout=5).read()
                return
            except OSError:
                time.sleep(0.1)
                if self.process.poll() is not None:
                    raise SystemExit(f"the server of {engine} ended: {' '.join(self.process.args)}") from None
        raise SystemExit(f"the server of {engine} does not listen")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


async def stream(port: int, text: str, n_tokens: int, times: list[float] | None = None) -> list[float]:
    """When the request went out and when each token came in, in seconds; told in `times` as they come."""
    times = [] if times is None else times
    body = json.dumps(
        {"model": "m", "prompt": text, "max_tokens": n_tokens, "temperature": 0, "stream": True}
    ).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    times.append(time.perf_counter())
    writer.write(f"{head}Content-Type: application/json\r\nConnection: close\r\n\r\n".encode() + body)
    status = await reader.readline()
    if b" 200 " not in status:
        raise SystemExit(f"the server answers {status!r} {await reader.read()!r}")
    async for line in reader:
        if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0].get("text"):
            times.append(time.perf_counter())
    writer.close()
    return times


async def load(port: int, n_clients: int, args: argparse.Namespace, seed: int) -> dict[str, float]:
    """The figures of so many clients, each with `args.requests` requests."""
    rng = random.Random(seed)
    prompts = [[prompt(args.words, rng) for _ in range(args.requests)] for _ in range(n_clients)]

    async def client(own):
        return [await stream(port, text, args.tokens) for text in own]

    begin = time.perf_counter()
    texts = [times for own in await asyncio.gather(*map(client, prompts)) for times in own]
    seconds = time.perf_counter() - begin
    first = [times[1] - times[0] for times in texts]
    between = [b - a for times in texts for a, b in pairwise(times[1:])]
    return {
        "tokens/s": sum(len(times) - 1 for times in texts) / seconds,
        "first p50": percentile(first, 50), "first p95": percentile(first, 95),
        "between p50": percentile(between, 50), "between p95": percentile(between, 95),
    }  # fmt: skip


async def interrupted(port: int, args: argparse.Namespace) -> dict[str, float]:
    """One client reads; a prompt of about 2,000 tokens arrives: the longest wait before and after that."""
    rng, times = random.Random(9), list[float]()
    reads = asyncio.create_task(stream(port, prompt(20, rng), 4 * args.tokens, times))
    while len(times) < args.tokens // 2:
        await asyncio.sleep(0.01)
    arrived = time.perf_counter()
    late = await stream(port, prompt(1900, rng), 2)
    await reads
    gaps = [(b - a, b) for a, b in pairwise(times[1:])]
    return {
        "longest gap before": max(gap for gap, at in gaps if at < arrived),
        "longest gap after": max((gap for gap, at in gaps if at >= arrived), default=0.0),
        "first token of the long prompt": late[1] - late[0],
    }


def percentile(values: list[float], p: int) -> float:
    """The p-th percentile; 0 of none."""
    return sorted(values)[min(len(values) - 1, len(values) * p // 100)] if values else 0.0


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: round(statistics.median(run[name] for run in runs), 4) for name in runs[0]}


def main(argv: list[str] | None = None) -> int:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("--peer", metavar="PYTHON", help="measure llama-cpp-python's server as well")
    parser.add_argument("--clients", default="1,4,8,16", help="numbers of clients (%(default)s)")
    parser.add_argument("--requests", type=int, default=2, help="... of each client (%(default)s)")
    parser.add_argument("--words", type=int, default=100, help="... in a prompt (%(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="... of a text (%(default)s)")
    parser.add_argument("--parallel", type=int, default=16, help="texts that llmcore writes together")
    parser.add_argument("--threads", type=int, help="of each engine; else its own choice")
    parser.add_argument("--runs", type=int, default=3, help="... of each engine, alternating (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    args.model = str(Path(args.model).absolute())
    engines = ["llmcore", *(["llama-cpp-python"] if args.peer else [])]
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for run in range(args.runs):
        for engine in engines:
            with Server(engine, args) as server:
                asyncio.run(stream(server.port, "warm up", 8))
                for n in map(int, args.clients.split(",")):
                    figures = asyncio.run(load(server.port, n, args, 100 * run + n))
                    found.setdefault((engine, f"{n} clients"), []).append(figures)
                figures = asyncio.run(interrupted(server.port, args))
                found.setdefault((engine, "a long prompt arrives"), []).append(figures)
    told = [{"engine": engine, "scene": scene, **medians(runs)} for (engine, scene), runs in found.items()]
    if args.json:
        print(json.dumps(told))
    else:
        for row in sorted(
            told, key=lambda row: [found_row["scene"] for found_row in told].index(row["scene"])
        ):
            print(" | ".join(f"{name} {value}" for name, value in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
