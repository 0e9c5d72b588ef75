"""The engines that bench.py measures, each in a worker process that process.py starts.

A worker answers each line on standard input, [method, arguments], with one line: what the method returned and
the seconds it took, or what went wrong. It runs in the interpreter of the environment that has the engine, so
that nothing but the standard library is imported before the engine is chosen.

Every engine does the same work: `begin` runs a prompt and chooses the most likely next token, `go` writes n
more.
"""

import json
import os
import sys
import time
from pathlib import Path


class Llmcore:
    """Our own engine."""

    needs, package = "llmcore", "llmcore"

    def __init__(self, model, options):
        import numpy as np

        import llmcore
        from llmcore.sampling import Sampling

        asked = {name: options[name] for name in ("weights", "threads") if options[name] is not None}
        self.llm = llmcore.load(model, context_length=options["context"], **asked)
        self.greedy = {"sampling": Sampling(temperature=0), "seed": 0, "ignore_eos": True}
        self.stream, self.version = None, f"NumPy {np.__version__}"

    @staticmethod
    def start(model, options):
        """The command that writes one token."""
        asked = [("--weights", options["weights"]), ("--threads", options["threads"])]
        more = [str(part) for flag, value in asked if value is not None for part in (flag, value)]
        arguments = [
            "--model",
            model,
            "--prompt",
            "Hello",
            "--max-tokens",
            "1",
            "--temperature",
            "0",
            "--quiet",
        ]
        return ["-m", "llmcore.generate", *arguments, *more]

    def begin(self, ids, draft=None):
        """Run a prompt; with `draft`, drafts of so many tokens."""
        asked = {} if draft is None else {"draft": draft}
        self.stream = None  # lets the cache of the text before go
        self.stream = self.llm.tokens(ids, max_tokens=self.llm.context_length, **self.greedy, **asked)
        next(self.stream)

    def go(self, n):
        """Write n more tokens."""
        for _ in range(n):
            next(self.stream)

    def batch(self, prompts, n, rows):
        """Write n tokens after each prompt, so many prompts at a time; returns how many texts there were."""
        return len(
            list(self.llm.generate_batch(prompts, max_tokens=n, batch=rows, temperature=0, ignore_eos=True))
        )

    def encode(self, text):
        """Token ids of a text."""
        return self.llm.encode_prompt(text)

    def vocab_size(self):
        """How many tokens there are."""
        return self.llm.config.vocab_size

    def work(self):
        """What its matrix products amount to."""
        from benchmark.roof import work

        return work(self.llm)

    def roof(self, rows, passes):
        """The matrix products alone, of all layers once for each pass."""
        from benchmark.roof import products, run

        self.stream = None
        ready = products(self.llm, rows)
        begin = time.perf_counter()
        for _ in range(passes):
            run(ready)
        return time.perf_counter() - begin

    def profile(self, p, n, runs):
        """Where the time of prefill and decode goes."""
        from benchmark.profiler import profile

        return profile(self, p, n, runs)


class LlamaCpp:
    """llama.cpp through llama-cpp-python."""

    needs, package = "llama_cpp", "llama-cpp-python"

    def __init__(self, model, options):
        import llama_cpp
        import numpy as np

        self.np, self.package = np, llama_cpp
        threads = options["threads"] or cores()
        arguments = {"n_ctx": options["context"], "n_threads": threads, "n_threads_batch": threads}
        self.llm = llama_cpp.Llama(model, verbose=False, **arguments)
        self.version = f"llama-cpp-python {llama_cpp.__version__}"

    @staticmethod
    def start(model, options):
        """The command that writes one token."""
        code = (
            "import llama_cpp, sys\n"
            "llm = llama_cpp.Llama(sys.argv[1], n_threads=int(sys.argv[2]), verbose=False)\n"
            "print(next(iter(llm('Hello', max_tokens=1, temperature=0, stream=True)))['choices'][0]['text'])"
        )
        return ["-c", code, model, str(options["threads"] or cores())]

    def begin(self, ids):
        """Run a prompt."""
        self.llm.reset()
        self._feed(ids)

    def go(self, n):
        """Write n more tokens."""
        for _ in range(n):
            self._feed([self.next])

    def _feed(self, ids):
        self.llm.eval(ids)
        logits = self.package.llama_get_logits(self.llm.ctx)
        self.next = int(self.np.ctypeslib.as_array(logits, (self.llm.n_vocab(),)).argmax())


class Transformers:
    """transformers and torch, in float32 on weights expanded from the same file."""

    needs, package = "transformers", "transformers, torch and gguf"

    def __init__(self, model, options):
        import torch
        import transformers

        torch.set_num_threads(options["threads"] or cores())
        self.torch, path = torch, Path(model)
        load = transformers.AutoModelForCausalLM.from_pretrained
        self.model = load(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
        self.version = f"transformers {transformers.__version__}, torch {torch.__version__}"

    @staticmethod
    def start(model, options):
        """The command that writes one token."""
        code = (
            "import sys, torch, transformers\n"
            "torch.set_num_threads(int(sys.argv[3]))\n"
            "where = dict(pretrained_model_name_or_path=sys.argv[1], gguf_file=sys.argv[2])\n"
            "model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()\n"
            "tokenizer = transformers.AutoTokenizer.from_pretrained(**where)\n"
            "given = tokenizer('Hello', return_tensors='pt')\n"
            "ids = model.generate(**given, max_new_tokens=1, do_sample=False)\n"
            "print(tokenizer.decode(ids[0]))"
        )
        return ["-c", code, str(Path(model).parent), Path(model).name, str(options["threads"] or cores())]

    def begin(self, ids):
        """Run a prompt."""
        self.cache = None
        self._feed(ids)

    def go(self, n):
        """Write n more tokens."""
        for _ in range(n):
            self._feed([self.next])

    def _feed(self, ids):
        with self.torch.inference_mode():
            ids = self.torch.tensor([ids])
            out = self.model(input_ids=ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.cache, self.next = out.past_key_values, int(out.logits[0, -1].argmax())


class Machine:
    """No engine: what memory and arithmetic give through NumPy's own products, without a model."""

    needs, package = "numpy", "numpy"
    floats, width = 2**26, 2048  # 256 MB, past any cache; 2 x 2048^3 = 17 GFLOP

    def __init__(self, model, options):
        import numpy as np

        self.long_IO = np.ones((4096, self.floats // 4096), np.float32)
        self.square_II = np.ones((self.width, self.width), np.float32)
        self.version = f"NumPy {np.__version__}"

    def read(self):
        """Read memory once: the product with one vector, the fastest way to read that NumPy has."""
        return fastest(lambda: self.long_IO @ self.long_IO[0])

    def multiply(self):
        """Multiply two large matrices."""
        return fastest(lambda: self.square_II @ self.square_II)

    def blas(self):
        """What multiplies: name, version, architecture and threads, as far as anybody says."""
        try:
            from threadpoolctl import threadpool_info
        except ImportError:
            import numpy as np

            return np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        found = next((pool for pool in threadpool_info() if pool["user_api"] == "blas"), {})
        return {
            key: found[key]
            for key in ("internal_api", "version", "architecture", "num_threads")
            if key in found
        }


ENGINES = {"llmcore": Llmcore, "llama.cpp": LlamaCpp, "transformers": Transformers, "machine": Machine}


def fastest(function, for_seconds=0.5) -> float:
    """The seconds of the fastest run that fits in some time: what a process can do once it is awake."""
    runs, end = [], time.perf_counter() + for_seconds
    while not runs or time.perf_counter() < end:
        begin = time.perf_counter()
        function()
        runs.append(time.perf_counter() - begin)
    return min(runs)


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def attempt(function, *args, **kwargs) -> dict:
    """What a call returned and the seconds it took, or what went wrong; and where there is no /proc, the
    peak.
    """
    begin = time.perf_counter()
    try:
        result = function(*args, **kwargs)
    except (Exception, SystemExit) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    reply = {"seconds": time.perf_counter() - begin, "result": result}
    if not Path("/proc/self/status").exists():
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        reply["peak_bytes"] = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return reply


def main() -> None:
    """Serve until standard input ends; the arguments are an engine, a model, and options as JSON."""
    engine, model, options = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints goes to standard error

    def answer(reply):
        print(json.dumps(reply), file=answers, flush=True)

    driver = []  # filled by the first attempt, whose time is that of the load
    loaded = attempt(lambda: driver.append(ENGINES[engine](model, json.loads(options))))
    answer(loaded | {"version": driver[0].version} if driver else loaded)
    for line in sys.stdin if driver else ():
        method, arguments = json.loads(line)
        answer(attempt(getattr(driver[0], method), **arguments))
