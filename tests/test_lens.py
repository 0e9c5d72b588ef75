"""The command `lens`: what its tables say is what the engine computes."""

import re

import numpy as np
import pytest

from llmcore import glass
from llmcore.cli.lens import main
from llmcore.ops import softmax


def lens(capsys, *argv):
    status = main([*map(str, argv)])
    out, err = capsys.readouterr()
    return status, out.splitlines(), err


def test_the_tables(llama_path, llama, capsys):
    status, lines, err = lens(capsys, "--model", llama_path, "--prompt", "hello", "--votes", "3", "--quiet")
    assert (status, err) == (0, "")
    logits_V = llama.logits(llama.encode_prompt("hello"))[-1]
    best = int(logits_V.argmax())
    (last,) = (line for line in lines if re.match(r" +2  ", line))
    assert last.split()[-1] == "1"
    assert f"{softmax(logits_V)[best]:.1%}" in last
    embedding, *layers = (line for line in lines if re.match(r" +(embd|\d+)  ", line))
    assert embedding.startswith(" embd")
    assert len(layers) == 3
    (votes,) = (line for line in lines if line.startswith("Votes for"))
    second = int(np.argsort(-logits_V)[1])
    assert float(re.search(r"[+-]\d+\.\d+", votes)[0]) == pytest.approx(
        float(logits_V[best] - logits_V[second]), abs=1e-3
    )
    assert sum("head" in line and "layer" in line for line in lines) == 3


def test_a_model_without_attention_has_no_heads(tmp_path, capsys):
    from conftest import make

    make("mamba2", tmp_path / "m.gguf")
    status, lines, _ = lens(capsys, "--model", tmp_path / "m.gguf", "--prompt", "hello")
    assert status == 0
    assert not any("head" in line for line in lines)


def test_a_text_of_several_tokens_is_refused(llama_path, capsys):
    status, lines, err = lens(
        capsys, "--model", llama_path, "--prompt", "hello", "--token", "hello", "--quiet"
    )
    assert (status, lines) == (1, [])
    assert re.match(r"error: --token 'hello' is not one token of this model but \d+: ", err)
    assert err.count("\n") == 1


def test_a_long_prompt_keeps_one_row(llama_path, llama, capsys):
    status, lines, _ = lens(capsys, "--model", llama_path, "--prompt", "ab" * 200, "--quiet")
    assert status == 0
    assert len(llama.encode_prompt("ab" * 200)) > 100
    assert any(line.startswith("Votes for") for line in lines)


def test_the_best_are_in_order():
    np.testing.assert_array_equal(glass.best_of(np.float32([[1, 5, 5, 2]]), 3), [[1, 2, 3]])
