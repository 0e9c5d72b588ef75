"""The tests of bench.py: which engine does what, in which order, in alternating runs."""

import sys
import time
from dataclasses import dataclass, field

from benchmark.engines import ENGINES
from benchmark.process import EngineFailed, Worker, start_seconds

PEERS = ("llama.cpp", "transformers", "gguf")
PATIENCE = 10  # seconds an engine may spend on starting or loading before it is not asked again
SHORT = 8  # tokens of the prompt of decode
REPEATING = (
    "".join(f"{day}: open from 9 to 5\n" for day in ("Monday", "Tuesday", "Wednesday", "Thursday")) * 4
)


@dataclass
class Test:
    """The runs of one test: the seconds of each engine's, for so many tokens (None: it has no tokens)."""

    name: str
    tokens: int | None
    base: str | None = None  # the test that this one shall be compared with
    seconds: dict[str, list[float]] = field(default_factory=dict)


class Bench:
    """One run of the benchmark: the engines that still take part, their workers, and what was measured."""

    def __init__(self, args, pythons: dict[str, str]):
        self.args, self.pythons, self.workers = args, pythons, {}
        self.tests, self.memory, self.versions, self.left_out = {}, {}, {}, {}
        self.blas, self.work, self.vocab_size = {}, {}, None
        longest = max([args.p, SHORT + args.n, *(n + args.r * args.n for n in args.context)])
        if args.draft:
            longest = max(longest, len(REPEATING) + args.n + args.draft)
        self.options = {"weights": args.weights, "threads": args.threads, "context": longest + SHORT}

    @property
    def decode(self) -> str:
        """The name of the test that others are compared with."""
        return f"decode {self.args.n}"

    def measure(self) -> None:
        """All tests, in order."""
        self.start_and_load()
        ours = self.workers["llmcore"]
        self.vocab_size, self.work = ours.ask("vocab_size"), ours.ask("work")
        self.prefill_and_decode()
        for n in self.args.context:
            self.context(n)
        if self.args.draft:
            self.draft(ours)
        if self.args.batch:
            self.batch(ours)
        if "gguf" in self.pythons:
            self.read_head()
        for engine, worker in self.workers.items():
            self.memory.setdefault(engine, {}).update(worker.memory.summary())

    def turn(self, name, tokens, run, engines=None, base=None) -> None:
        """One run of a test by each engine in turn; run(engine) gives its seconds."""
        test = self.tests.setdefault(name, Test(name, tokens, base))
        for engine in list(self.workers if engines is None else engines):
            try:
                test.seconds.setdefault(engine, []).append(run(engine))
            except EngineFailed as error:
                self.leave_out(engine, f"{name}: {error}")

    def leave_out(self, engine: str, why: str) -> None:
        """Go on without a peer; without our own engine there is nothing to go on with."""
        if engine not in PEERS:
            raise EngineFailed(f"{engine}: {why}")
        print(f"{engine} is left out: {why}", file=sys.stderr, flush=True)
        self.left_out[engine] = why
        self.pythons.pop(engine)
        if worker := self.workers.pop(engine, None):
            worker.close()
        for test in self.tests.values():
            test.seconds.pop(engine, None)

    def close(self) -> None:
        """End all processes."""
        for worker in self.workers.values():
            worker.close()

    def ids(self, n: int, first: int = 100) -> list[int]:
        """A prompt of n tokens; which they are does not matter to the speed."""
        return [(first + i % 1000) % self.vocab_size for i in range(n)]

    def start_and_load(self) -> None:
        """Start and load as often as patience lasts; all tests use each engine's last worker."""
        where = self.args.model, self.options

        def load(engine):
            self.workers[engine] = Worker(engine, self.pythons[engine], *where)
            return self.workers[engine].load_seconds

        for _ in range(self.args.r):
            self.turn(
                "start", None, lambda e: start_seconds(e, self.pythons[e], *where), self.patient("start")
            )
        for i in range(self.args.r):
            self.turn("load", None, load, self.patient("load"))
            for engine in self.patient("load") if i < self.args.r - 1 else ():
                self.workers.pop(engine).close()
        self.versions = {engine: worker.version for engine, worker in self.workers.items()}

    def patient(self, name: str) -> list[str]:
        """The engines that have not spent their patience on a test yet."""
        spent = self.tests[name].seconds if name in self.tests else {}
        return [e for e in self.pythons if e in ENGINES and sum(spent.get(e, [])) < PATIENCE]

    def prefill_and_decode(self) -> None:
        """Prefill and decode of every engine beside the roof of each, and what the machine gives without a
        model.
        """
        p, n, ours = self.args.p, self.args.n, self.workers["llmcore"]
        machine = Worker("machine", sys.executable, "", self.options)
        try:
            self.blas = machine.ask("blas")
            for i in range(self.args.r + 1):
                self.turn(f"prefill {p}", p, self.prefilling(self.ids(p)))
                self.turn(f"prefill {p}", p, lambda _: ours.ask("roof", rows=p, passes=1), ["roof"])
                self.turn("multiply", None, lambda _: machine.ask("multiply"), ["machine"])
                self.turn(self.decode, n, self.decoding(self.ids(SHORT)))
                self.turn(self.decode, n, lambda _: ours.ask("roof", rows=1, passes=n), ["roof"])
                self.turn("read", None, lambda _: machine.ask("read"), ["machine"])
                if i == 0:  # a first run that does not count: pages, threads, caches
                    for test in [f"prefill {p}", "multiply", self.decode, "read"]:
                        del self.tests[test]
        finally:
            machine.close()

    def prefilling(self, ids):
        """A run that reads a prompt."""
        return lambda engine: self.workers[engine].seconds("begin", ids=ids)

    def decoding(self, ids, **options):
        """A run that writes -n tokens after a prompt."""

        def run(engine):
            self.workers[engine].ask("begin", ids=ids, **options)
            return self.workers[engine].seconds("go", n=self.args.n)

        return run

    def context(self, n_before: int) -> None:
        """Read a long prompt, then decode behind it, each engine in turn; and the memory that this takes."""
        name, n = f"{self.decode} after {n_before}", self.args.n
        for worker in self.workers.values():
            worker.memory.reset()
        self.turn(
            f"prefill {n_before}",
            n_before,
            self.prefilling(self.ids(n_before)),
            base=f"prefill {self.args.p}",
        )
        for _ in range(self.args.r):
            self.turn(name, n, lambda engine: self.workers[engine].seconds("go", n=n), base=self.decode)
        for engine, worker in self.workers.items():
            above = worker.memory.since_reset - worker.memory.loaded
            self.memory.setdefault(engine, {}).setdefault("above_loaded_bytes", {})[str(n_before)] = above

    def draft(self, ours: Worker) -> None:
        """Decode a text that repeats itself, plain and with drafts."""
        ids, name = ours.ask("encode", text=REPEATING), f"{self.decode}, text that repeats itself"
        drafting = self.decoding(ids, draft=self.args.draft)
        for _ in range(self.args.r):
            self.turn(name, self.args.n, self.decoding(ids))
            self.turn(name, self.args.n, lambda _: drafting("llmcore"), [f"--draft {self.args.draft}"])

    def batch(self, ours: Worker) -> None:
        """Decode several prompts together, and one alone in the same way."""
        n, k = self.args.n, self.args.batch
        prompts = [self.ids(SHORT, 100 + 10 * i) for i in range(k)]
        together = {"prompts": prompts, "n": n, "rows": k}
        alone = {"prompts": prompts[:1], "n": n, "rows": 1}
        for _ in range(self.args.r):
            self.turn(f"1 x {self.decode}", n, lambda _: ours.seconds("batch", **alone), ["llmcore"])
            run = lambda _: ours.seconds("batch", **together)  # noqa: E731
            self.turn(f"{k} x {self.decode}", n * k, run, ["llmcore"], base=f"1 x {self.decode}")

    def read_head(self) -> None:
        """Read the file's HEAD: our own reader three times, gguf.GGUFReader once, since it takes so long."""
        import gguf

        from llmcore.loader import read_gguf

        def run(read):
            begin = time.perf_counter()
            read(self.args.model)
            return time.perf_counter() - begin

        for engine, read in (("llmcore", read_gguf),) * 3 + (("gguf", gguf.GGUFReader),):
            self.turn("head", None, lambda _, read=read: run(read), [engine])
