"""scripts/bench.py on a tiny model: what it reports hangs together. Never how fast anything is."""

import json
import subprocess
import sys
from argparse import Namespace

import pytest
from benchmark import engines, profiler, report, roof
from benchmark.process import EngineFailed, Memory, Worker
from benchmark.runs import Bench
from benchmark.runs import Test as BenchTest
from conftest import ROOT
from make_tiny_model import make

import llmcore
from llmcore import model
from llmcore.ffn import dense, experts
from llmcore.mixers import attention, latent

SCRIPT = ROOT / "scripts" / "bench.py"
OPTIONS = {"weights": None, "threads": None, "context": 64}


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def result(llama_path):
    done = run(
        "--model", llama_path, "-p", 16, "-n", 4, "-r", 2, "--context", "24,40", "--peers", "gguf", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return json.loads(done.stdout)


def test_json_has_the_promised_keys(result):
    for key in (
        "prefill_tokens_per_second",
        "decode_tokens_per_second",
        "roof_prefill_tokens_per_second",
        "roof_decode_tokens_per_second",
        "load_seconds",
        "peak_bytes",
    ):
        assert result[key] > 0
    assert {"cpu", "cores", "blas", "kernel", "llmcore"} <= set(result["machine"])
    roof = result["roof"]
    read = roof["held_bytes"] * result["decode_tokens_per_second"]  # bytes a second
    assert roof["decode_of_array"] == pytest.approx(1e-9 * read / roof["machine_gb_per_second"])


def test_every_test_ran_as_often_as_asked(result):
    runs = {
        name: {e: len(speed["seconds"]) for e, speed in t["engines"].items()}
        for name, t in result["tests"].items()
    }
    assert runs == {
        "start": {"llmcore": 2},
        "load": {"llmcore": 2},
        "prefill 16": {"llmcore": 2, "roof": 2},
        "decode 4": {"llmcore": 2, "roof": 2},
        "prefill 24": {"llmcore": 1},
        "decode 4 after 24": {"llmcore": 2},
        "prefill 40": {"llmcore": 1},
        "decode 4 after 40": {"llmcore": 2},
        "head": {"llmcore": 3, "gguf": 1},
    }


def test_speeds_follow_from_the_runs(result):
    tests = result["tests"]
    prefill = tests["prefill 16"]["engines"]
    first, second = prefill["llmcore"]["seconds"]
    assert prefill["llmcore"]["median"] == pytest.approx((16 / first + 16 / second) / 2)
    assert prefill["llmcore"]["worst"] <= prefill["llmcore"]["median"] <= prefill["llmcore"]["best"]
    assert result["prefill_tokens_per_second"] == prefill["llmcore"]["median"]
    assert prefill["roof"]["llmcore_is"] * prefill["roof"]["median"] == pytest.approx(
        prefill["llmcore"]["median"]
    )
    assert result["roof"]["prefill_share"] == pytest.approx(prefill["roof"]["llmcore_is"])
    after = tests["decode 4 after 40"]["engines"]["llmcore"]
    assert after["of_base"] * result["decode_tokens_per_second"] == pytest.approx(after["median"])


def test_seconds_and_speeds_are_compared_the_same_way():
    faster = {"start": BenchTest("start", None), "decode 8": BenchTest("decode 8", 8)}
    for test in faster.values():
        test.seconds = {"llmcore": [1.0, 3.0, 2.0], "llama.cpp": [4.0, 4.0, 4.0]}
    tests = {name: report.summary(test) for name, test in faster.items()}
    for test in tests.values():
        report.compare(test, tests)
        assert test["engines"]["llama.cpp"]["llmcore_is"] == pytest.approx(2)
    assert [tests["start"]["engines"]["llmcore"][key] for key in ("worst", "median", "best")] == [3, 2, 1]
    assert [tests["decode 8"]["engines"]["llmcore"][key] for key in ("worst", "median", "best")] == [
        8 / 3,
        4,
        8,
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="the parts of a process's memory are in Linux's /proc")
def test_memory_has_parts(result):
    memory = result["memory"]["llmcore"]
    assert result["peak_bytes"] == memory["peak_bytes"] >= memory["loaded_bytes"] > 0
    assert memory["peak_anonymous_bytes"] + memory["peak_file_bytes"] >= memory["loaded_bytes"]
    assert set(memory["above_loaded_bytes"]) == {"24", "40"}


@pytest.mark.skipif(sys.platform != "linux", reason="the parts of a process's memory are in Linux's /proc")
def test_memory_of_a_process_that_takes_some():
    code = "import time; held = bytearray(b'x') * 50_000_000; print('ready', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        memory = Memory(process.pid)
        memory.look()
        process.kill()
    assert 50_000_000 < memory.anonymous < 80_000_000
    assert memory.peak >= memory.anonymous


@pytest.mark.parametrize("family", ["llama", "qwen2moe", "deepseek2"])
def test_the_roof_multiplies_what_the_model_does(family, tmp_path, monkeypatch):
    """The products of one token, counted where the model makes them."""
    path = tmp_path / "model.gguf"
    make(family, path)
    llm, made = llmcore.load(path), []
    linear = llmcore.linear.linear
    for module in (attention, latent, dense, experts, model):
        monkeypatch.setattr(
            module, "linear", lambda x, m: made.append((len(x), m.n_in, m.n_out)) or linear(x, m)
        )
    llm.logits([5])
    planned = [(len(x), matrix.n_in, matrix.n_out) for x, matrix in roof.products(llm, 1)]
    assert sorted(planned) == sorted(made)
    weights = roof.work(llm)
    assert weights["layer_weights"] + weights["head_weights"] == sum(n * i * o for n, i, o in made)


def test_the_roof_of_a_prompt(llama):
    """All rows go through the layers, and the last one through the head."""
    assert [n for _, n in roof.multiplied(llama, 16)] == [16] * (4 * 3) + [1]


def test_the_roof_of_a_prompt_spreads_over_experts(tmp_path):
    path = tmp_path / "model.gguf"
    make("qwen2moe", path)
    llm = llmcore.load(path)
    used, held = llm.config.layers[0].ffn.used, len(llm.weights.layers[0].ffn.ffn_up_exps)
    rows = {id(matrix): n for matrix, n in roof.multiplied(llm, held)}
    assert [rows[id(matrix)] for matrix in llm.weights.layers[0].ffn.ffn_up_exps] == [used] * held


def test_held_bytes(llama):
    matrix = llama.weights.output
    assert roof.held_bytes(matrix) == 4 * matrix.n_in * matrix.n_out


@pytest.fixture(scope="module")
def tables(llama_path):
    driver = engines.Llmcore(str(llama_path), OPTIONS)
    before = {name: getattr(module, name) for _, module in profiler.rooms() for name in vars(module)}
    tables = driver.profile(16, 4, 2)
    after = {name: getattr(module, name) for _, module in profiler.rooms() for name in vars(module)}
    assert before == after  # every timer is taken out again
    return tables


@pytest.mark.slow
@pytest.mark.parametrize("test", ["prefill 16", "decode 4"])
def test_the_profile_adds_up_to_the_whole(tables, test):
    table = tables[test]
    rows = [row for held in table["rooms"].values() for row in held.values()]
    assert sum(row["ms"] for row in rows) + table["rest_ms"] == pytest.approx(table["whole_ms"])
    assert sum(row["share"] for row in rows) + table["rest_ms"] / table["whole_ms"] == pytest.approx(1)
    printed = list(profiler.lines(test, table))
    assert printed[-1].split()[-2] == f"{table['whole_ms']:.4f}"
    functions = [float(line[56:67]) for line in printed[2:-2]]
    rooms = [float(line[83:95]) for line in printed[2:-1] if line[83:95].strip()]
    assert sum(rooms) == pytest.approx(float(printed[-1][83:95]), abs=1e-9)
    assert sum(functions) + rooms[-1] == pytest.approx(sum(rooms), abs=1e-9)


@pytest.mark.slow
def test_the_profile_counts_calls(tables):
    """Three layers, and one token at a time in decode."""
    linear = {name: row["calls"] for name, row in tables["decode 4"]["rooms"]["linear"].items()}
    for name in ("attn_qkv", "attn_output", "ffn_up", "ffn_down"):
        assert linear[f"linear {name}"] == 3
    assert linear["linear output"] == 1
    assert tables["prefill 16"]["rooms"]["linear"]["linear ffn_up"]["calls"] == 3 / 16
    assert (
        tables["decode 4"]["rooms"]["ffn.activations"]["swiglu"]["calls"] == 3
    )  # which is called through a table


def test_time_in_a_callee_is_not_the_caller_s(monkeypatch):
    """A clock that goes on by one at each look: every look closes one unit, and the next one opens."""
    now = iter(range(100))
    monkeypatch.setattr(profiler.time, "perf_counter_ns", lambda: next(now))
    watch = profiler.Stopwatch()
    inner = watch.timed(lambda: None, "inner")
    outer = watch.timed(lambda: (inner(), inner()), "outer")
    with watch.whole():
        outer()
    assert watch.spent == {profiler.REST: 2, "outer": 3, "inner": 2, "whole": 7}
    assert watch.calls == {"outer": 1, "inner": 2}


def test_no_part_of_a_script_hides_a_module_of_the_standard_library():
    """Files that stand beside one that runs are found first, in any interpreter."""
    parts = [path.stem for path in (ROOT / "scripts").rglob("*.py") if path.stem != "__init__"]
    assert "engines" in parts
    assert not set(parts) & sys.stdlib_module_names


def test_a_worker_starts_in_a_folder_with_anything_in_it(llama_path, tmp_path, monkeypatch):
    for name in ("json", "numpy", "benchmark"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong file')")
    monkeypatch.chdir(tmp_path)
    Worker("llmcore", sys.executable, str(llama_path), OPTIONS).close()


def test_a_worker_that_dies_says_why(llama_path, tmp_path):
    with pytest.raises(EngineFailed, match=r"ModelFileError: .*nothing\.gguf"):
        Worker("llmcore", sys.executable, str(_empty(tmp_path / "nothing.gguf")), OPTIONS)
    worker = Worker("llmcore", sys.executable, str(llama_path), OPTIONS)
    worker.process.kill()
    with pytest.raises(EngineFailed, match="killed by signal 9"):
        worker.ask("vocab_size")
    worker.close()


def _empty(path):
    path.write_bytes(b"")
    return path


class FakeWorker:
    """Takes a second for whatever it is asked, and two for a batch."""

    def __init__(self):
        self.asked = []

    def ask(self, method, **arguments):
        self.asked.append((method, arguments))
        return [1, 2, 3] if method == "encode" else None

    def seconds(self, method, **arguments):
        self.ask(method, **arguments)
        return 2.0 if len(arguments.get("prompts", ())) > 1 else 1.0


def test_drafts_and_batches_are_compared_with_their_like():
    args = Namespace(p=16, n=4, r=3, context=[], draft=7, batch=8, weights=None, threads=None)
    run = Bench(args, {"llmcore": "python", "llama.cpp": "python"})
    run.workers, run.vocab_size = {"llmcore": FakeWorker(), "llama.cpp": FakeWorker()}, 256
    run.draft(run.workers["llmcore"])
    run.batch(run.workers["llmcore"])
    tests = {name: report.summary(test) for name, test in run.tests.items()}
    for test in tests.values():
        report.compare(test, tests)
    repeats = tests["decode 4, text that repeats itself"]["engines"]
    assert {engine: len(speed["seconds"]) for engine, speed in repeats.items()} == {
        "llmcore": 3,
        "llama.cpp": 3,
        "--draft 7": 3,
    }
    drafted = [
        arguments.get("draft") for method, arguments in run.workers["llmcore"].asked if method == "begin"
    ]
    assert drafted == [None, 7] * 3
    assert all("draft" not in arguments for _, arguments in run.workers["llama.cpp"].asked)
    together = tests["8 x decode 4"]["engines"]["llmcore"]
    assert together["median"] == 8 * 4 / 2.0
    assert together["of_base"] == pytest.approx(4)  # of 4 tokens in a second
    prompts = next(
        a["prompts"] for method, a in run.workers["llmcore"].asked if method == "batch" and a["rows"] == 8
    )
    assert len({tuple(ids) for ids in prompts}) == 8


def test_the_calls_of_drafting_and_batches(llama_path, monkeypatch):
    calls = []

    def tokens(self, ids, draft=None, **options):
        calls.append(draft)
        return iter(range(10))

    def generate_batch(self, prompts, *, max_tokens, batch, temperature, ignore_eos):
        calls.append((len(prompts), max_tokens, batch, temperature, ignore_eos))
        return iter(["text"] * len(prompts))

    monkeypatch.setattr("llmcore.llm.LLM.tokens", tokens)
    monkeypatch.setattr("llmcore.llm.LLM.generate_batch", generate_batch, raising=False)
    driver = engines.Llmcore(str(llama_path), OPTIONS)
    driver.begin([1, 2], draft=7)
    driver.go(4)
    assert next(driver.stream) == 5
    assert driver.batch([[1], [2], [3]], n=4, rows=2) == 3
    assert calls == [7, (3, 4, 2, 0, True)]


def test_a_peer_that_is_not_installed_is_left_out(llama_path, tmp_path):
    peers = f"llama.cpp={tmp_path / 'python'}"
    done = run("--model", llama_path, "-p", 8, "-n", 2, "-r", 1, "--peers", peers)
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("llama.cpp is left out: ")
    assert "--peers llama.cpp=PYTHON" in done.stderr
    assert "prefill 8 " in done.stdout
    assert "roof of decode" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--model", "nowhere.gguf"], "no such file"),
        (["--model", SCRIPT, "-p", "0"], "not a whole number of 1 or more"),
        (["--model", SCRIPT, "--context", "8,x"], "not a whole number"),
        (["--model", SCRIPT, "--peers", "vllm"], "with one of llama.cpp"),
        (["--model", SCRIPT, "--draft", "guess"], "lookup nor lookup:N"),
        (["--model", SCRIPT, "--profile", "--batch", "8"], "stands alone"),
        (["--model", SCRIPT, "--plot", "nowhere/x.png"], "--plot"),
    ],
)
def test_bad_arguments(arguments, why):
    done = run(*arguments)
    assert done.returncode == 2
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_no_model_ends_with_one_line():
    done = run("--model", SCRIPT, "-r", 1, "--profile")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: llmcore: ModelFileError: ")


def test_plot(result, tmp_path):
    pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")
    report.plot(result, tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
