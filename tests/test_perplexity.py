"""scripts/perplexity.py against llama.cpp's recorded figures, and against plain loops in float64."""

import hashlib
import json
import math
import subprocess
import sys

import numpy as np
import perplexity  # conftest.py puts scripts/ on the path
import pytest
from conftest import ROOT, real_model
from make_tiny_model import make
from record_perplexity import CONTEXT, MODELS, RECORD, SHA256, TEXT
from rewrite import rewrite

import llmcore

RECORDED = json.loads(RECORD.read_text(encoding="utf-8"))["models"]
WORDS = "the tale of the old sea and of the stars above it, told by the fire to all who came\n" * 3


@pytest.fixture(scope="module")
def public_text():
    if not TEXT.exists():
        pytest.skip(f"{TEXT}, which Debian ships, is not here")
    if hashlib.sha256(TEXT.read_bytes()).hexdigest() != SHA256:
        pytest.skip(f"{TEXT} is another edition than was recorded")
    return TEXT.read_text(encoding="utf-8")


@pytest.fixture
def pair(tmp_path):
    """Two models with one vocabulary, as paths."""
    make("llama", tmp_path / "one.gguf", layers=1)
    make("llama", tmp_path / "two.gguf", layers=1, seed=1)
    return tmp_path / "one.gguf", tmp_path / "two.gguf"


def run(*arguments):
    command = [sys.executable, ROOT / "scripts" / "perplexity.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize(
    "name", [*MODELS[:1], *(pytest.param(m, marks=pytest.mark.slow) for m in MODELS[1:])]
)
def test_first_chunks_are_those_of_llama_cpp(name, public_text):
    llm = real_model(name)
    ids_CT, left = perplexity.chunks(llm, public_text, CONTEXT)
    theirs = RECORDED[name]
    assert ids_CT.size + left == theirs["tokens"]
    assert len(ids_CT) == len(theirs["chunks"])
    for i in (0, len(ids_CT) - 1):
        assert math.exp(perplexity.score(llm, ids_CT[i]).mean()) == pytest.approx(
            math.exp(theirs["chunks"][i]), rel=1e-3
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_whole_text_is_that_of_llama_cpp(name, public_text):
    llm = real_model(name)
    found = perplexity.scores(llm, perplexity.chunks(llm, public_text, CONTEXT)[0])[0]
    ppl, theirs = perplexity.Mean.of(found).exp(), RECORDED[name]
    assert len(found) == theirs["scored"]
    assert ppl.value == pytest.approx(theirs["perplexity"], rel=1e-3)
    assert ppl.error == pytest.approx(theirs["error"], rel=1e-3)


@pytest.mark.parametrize("context", [15, 16, 200])
def test_scores_by_a_plain_loop(pair, context):
    """Each logit row alone, in float64; -ln p, KL and top tokens by Python's own arithmetic."""
    model, base = map(llmcore.load, pair)
    ids = base.tokenizer.encode(WORDS * 8)[1 : context + 1]
    found = perplexity.score(model, np.array(ids), base)
    given = [base.tokenizer.bos_id, *ids[1:]]
    wanted = []
    for position in range(context // 2, context - 1)[:20]:
        p, q = (softmax(llm.logits(given[: position + 1])[-1].tolist()) for llm in (model, base))
        kl = sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
        token = ids[position + 1]
        wanted.append([-math.log(p[token]), -math.log(q[token]), kl, p.index(max(p)) == q.index(max(q))])
    np.testing.assert_allclose(found.T[: len(wanted)], wanted, rtol=2e-5, atol=1e-6)
    assert found.shape == (4, context - 1 - context // 2)


def softmax(logits):
    top = max(logits)
    weights = [math.exp(logit - top) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def test_mean_and_error_by_hand():
    """1, 2, 3, 4: mean 2.5, variance 1.25, error sqrt(1.25 / 3)."""
    mean = perplexity.Mean.of(np.array([1.0, 2.0, 3.0, 4.0]))
    assert mean.value == 2.5
    assert mean.error == pytest.approx(0.6454972)
    assert mean.exp().error == pytest.approx(0.6454972 * 12.182494)


def test_chunks_drop_the_rest_and_one_line_end(pair):
    llm = llmcore.load(pair[0])
    ids = llm.tokenizer.encode(WORDS[:-1])
    ids_CT, left = perplexity.chunks(llm, WORDS, 16)
    assert ids_CT.ravel().tolist() == ids[: len(ids) // 16 * 16]
    assert left == len(ids) % 16
    with pytest.raises(ValueError, match=rf"has {len(ids)} tokens; a context of 200 needs 400"):
        perplexity.chunks(llm, WORDS, 200)


def test_a_model_without_bos_keeps_its_first_token(pair, tmp_path):
    llm = llmcore.load(rewrite(pair[0], tmp_path / "bare.gguf", {"tokenizer.ggml.add_bos_token": False}))
    ids = np.array(llm.tokenizer.encode(WORDS)[:16])
    assert ids[0] != llm.tokenizer.bos_id
    logits = llm.logits(ids)[8].astype(np.float64)
    wanted = math.log(np.exp(logits).sum()) - logits[ids[9]]
    assert perplexity.score(llm, ids)[0, 0] == pytest.approx(wanted, rel=1e-5)


def test_the_command(pair, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(WORDS, encoding="utf-8")
    done = run("--model", pair[0], "--compare", pair[0], "--text", text, "--context", 16, "--chunks", 3)
    assert done.returncode == 0, done.stderr
    assert "3 of " in done.stdout
    assert "21 tokens scored" in done.stdout
    assert "KL:         0.000000 +/- 0.000000" in done.stdout
    assert "same top:   100.00%" in done.stdout
    other = run("--model", pair[0], "--compare", pair[1], "--text", text, "--context", 16)
    assert f"{pair[1]} (base)" in other.stdout
    assert "mean KL(base || model)" in other.stdout


def test_bad_input_is_told_in_a_line(pair, tmp_path):
    make("llama", tmp_path / "more.gguf", layers=1, vocab=300)
    text, binary = tmp_path / "text.txt", tmp_path / "binary"
    text.write_text(WORDS, encoding="utf-8")
    binary.write_bytes(b"\xff\xfe")
    common = ["--model", pair[0], "--context", 16, "--text"]
    for arguments, message in (
        ([*common, text, "--compare", tmp_path / "more.gguf"], "different vocabularies"),
        ([*common, tmp_path / "no.txt"], "No such file"),
        ([*common, binary], "not UTF-8"),
        (["--model", pair[0], "--text", text, "--context", 512], "needs 1024 at least"),
        (["--model", tmp_path / "no.gguf", "--text", text], "no such file"),
    ):
        done = run(*arguments)
        assert done.returncode == 1
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert run(*common, text, "--chunks", 0).returncode == 2
