"""`llmcore batch --ray` on two nodes of this machine: line by line the answers of one, whoever dies."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, tiny_llama
from make_tiny_model import make

from llmcore.cli import jobs

MODEL = str(tiny_llama())
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}


def test_without_ray_it_says_how_to_get_it(tmp_path, capsys):
    with suppress(ImportError):
        import ray  # noqa: F401

        pytest.skip("ray is here")
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n')
    paths = [str(tmp_path / name) for name in ("in.jsonl", "out.jsonl")]
    assert jobs.main([*paths, "--model", MODEL, "--ray"]) == 1
    assert capsys.readouterr().err == 'error: --ray needs Ray; get it with: pip install "llmcore[ray]"\n'
    assert not Path(paths[1]).exists()


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one core each."""
    pytest.importorskip("ray", reason="ray is not installed: pip install 'llmcore[ray]'")
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    memory = 100_000_000  # bytes for what is passed between processes
    cluster.add_node(num_cpus=1, object_store_memory=memory, include_dashboard=False)
    cluster.add_node(num_cpus=1, object_store_memory=memory)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """300 requests of both kinds, two of them bad, and what one machine answers."""
    folder = tmp_path_factory.mktemp("fleet")
    body = {"max_tokens": 40, "ignore_eos": True}
    requests = [{"prompt": f"tale {n}", "shelf": n, **body} for n in range(150)]
    requests += [
        {
            "custom_id": f"r{n}",
            "method": "POST",
            "url": "/v1/completions",
            "body": {"prompt": f"song {n}", "logprobs": 1, **body},
        }
        for n in range(148)
    ]
    lines = [json.dumps(request) for request in requests]
    lines[40:40] = ["nonsense"]
    lines.append(lines[-1])  # the same custom_id
    (folder / "in.jsonl").write_text("\n".join(lines) + "\n")
    done = run(folder, "one.jsonl")
    assert done.returncode == 0, done.stderr
    return folder, folder / "one.jsonl"


def run(folder, out, *more, model=MODEL):
    return subprocess.run(
        command(folder, out, *more, model=model), capture_output=True, text=True, env=ENVIRONMENT
    )


def command(folder, out, *more, model=MODEL):
    paths = [str(folder / "in.jsonl"), str(folder / out)]
    options = ["--model", str(model), "--seed", "5", "--weights", "float32", "--batch", "2"]
    return [sys.executable, "-m", "llmcore", "batch", *paths, *options, *more]


def logprobs_of(answer):
    """Take the log-probabilities out of an answer: (those of the tokens, the likeliest)."""
    if answer.get("response") is None:
        return [], []
    logprobs = answer["response"]["body"]["choices"][0].pop("logprobs")
    return logprobs["token_logprobs"], [[*top.values()] for top in logprobs["top_logprobs"]]


def assert_same(found, wanted):
    """The same lines. In log-probabilities of four digits the last differs, with what was written beside."""
    lines, wanted_lines = found.read_bytes().splitlines(), wanted.read_bytes().splitlines()
    assert len(lines) == len(wanted_lines) == 300
    for line, other in zip(lines, wanted_lines, strict=True):
        if b'"logprobs"' not in line:
            assert line == other
            continue
        answer, same = json.loads(line), json.loads(other)
        for some, others in zip(logprobs_of(answer), logprobs_of(same), strict=True):
            np.testing.assert_allclose(some, others, rtol=0, atol=1.5e-4)
        assert answer == same


def models_of(cluster):
    """The processes of the cluster that hold a model."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes()
            parent = int((process / "stat").read_text().rpartition(") ")[2].split()[1])
            raylets = [
                info.process.pid for node in nodes_of(cluster) for info in node.all_processes["raylet"]
            ]
            if words.startswith(b"ray::MapWorker") and parent in raylets:
                found.append(int(process.name))
    return found


def nodes_of(cluster):
    return [cluster.head_node, *cluster.worker_nodes]


def begun(process, out, n_bytes, cluster=None):
    """Wait until the answers have so many bytes, and both nodes have a model."""
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        if (
            out.exists()
            and out.stat().st_size >= n_bytes
            and (cluster is None or len(models_of(cluster)) > 1)
        ):
            return
        time.sleep(0.02)
    pytest.fail(f"it ended before a kill: {process.communicate()}")


@pytest.mark.slow
def test_two_nodes_answer_as_one_machine_does(cluster, work):
    folder, one = work
    done = run(folder, "two.jsonl", "--ray", cluster.address, "--cpus", "1")
    assert done.returncode == 0, done.stderr
    assert_same(folder / "two.jsonl", one)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "ray: 2 machines, 2 cores" in done.stderr


def begun_on(cluster, folder, out):
    """The command at work on the cluster, some answers on."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": ENVIRONMENT}
    process = subprocess.Popen(command(folder, out.name, "--ray", cluster.address), **pipes)
    begun(process, out, 5000, cluster)
    return process


@pytest.mark.slow
def test_a_worker_that_is_killed_changes_nothing(cluster, work):
    folder, one = work
    out = folder / "killed.jsonl"
    process = begun_on(cluster, folder, out)
    victims = models_of(cluster)
    os.kill(victims[0], signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert_same(out, one)


@pytest.mark.slow
def test_it_goes_on_with_a_cluster_where_one_machine_was_cut(cluster, work):
    """Killed itself after some answers, once on the cluster and once here; then to its end on the cluster."""
    folder, one = work
    out = folder / "mixed.jsonl"
    for more, n_bytes in ((["--ray", cluster.address], 5000), ([], 30_000)):
        process = subprocess.Popen(
            command(folder, out.name, *more), stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
        )
        begun(process, out, n_bytes)
        process.kill()
        process.communicate()
    done = run(folder, out.name, "--ray", cluster.address)
    assert done.returncode == 0, done.stderr
    assert_same(out, one)


@pytest.mark.slow
def test_a_node_that_dies_changes_nothing(cluster, work):
    folder, one = work
    out = folder / "node.jsonl"
    process = begun_on(cluster, folder, out)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    said, err = process.communicate(timeout=300)
    cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
    assert (process.returncode, said) == (0, ""), err
    assert_same(out, one)


@pytest.mark.slow
def test_what_goes_wrong_on_a_node_is_one_line(cluster, work, tmp_path):
    folder, _ = work
    make("gpt2", tmp_path / "gpt2.gguf", layers=1)
    more = ("--ray", cluster.address, "--context", "100000", "--quiet")
    done = run(folder, "wrong.jsonl", *more, model=tmp_path / "gpt2.gguf")
    assert done.returncode == 1
    problem = "context_length is 100000, but this model has 128 positions"
    assert done.stderr.endswith(f"\nerror: a machine of the cluster can answer nothing: {problem}\n")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    done = run(folder, "nobody.jsonl", "--ray", "127.0.0.1:9")
    assert done.returncode == 1
    assert "no cluster of Ray at 127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr
