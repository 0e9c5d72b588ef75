"""A recurrent layer in the house of attention layers: a toy mixer, and what must hold for every kind of
layer.

The toy is a leaky running sum, s <- decay * s + x W_in, y = s W_out. It needs a file of its own (this one)
and a row in `ARCHITECTURES`, and nothing else.
"""

import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import tiny_llama
from rewrite import rewrite

import llmcore
from llmcore import families
from llmcore.cache import State
from llmcore.linear import Matrix, linear
from llmcore.mixers import attention
from llmcore.model import forward, unembed
from llmcore.sampling import Sampling
from llmcore.writing import Writer, write

GREEDY = Sampling(temperature=0)
IDS = np.random.default_rng(0).integers(3, 288, 40)


@dataclass(frozen=True)
class Leaky:
    """The plan of a leaky running sum."""

    width: int
    decay: float
    rope: None = None


@dataclass(frozen=True)
class Weights:
    """The numbers of one."""

    attn_q: Matrix  # D -> W
    attn_output: Matrix  # W -> D


def read(keys, family, i):
    """Every second layer is one, the others attend."""
    if i % 2:
        return attention.read(keys, family, i)
    return Leaky(keys.get("embedding_length", int), 0.9)


def take(tensors, plan, d_model, blk):
    return Weights(
        tensors.matrix(blk + "attn_q", d_model, plan.width),
        tensors.matrix(blk + "attn_output", plan.width, d_model),
    )


def state(plan):
    return State((plan.width,))


def run(x_TD, w, plan, step, i):
    u_TW = linear(x_TD, w.attn_q)
    y_TW = np.empty_like(u_TW)
    for rows, cache in step.texts:
        (sum_W,) = cache.state(i)
        for t in range(rows.start, rows.stop):
            sum_W = y_TW[t] = np.float32(plan.decay) * sum_W + u_TW[t]
        cache.layers[i].replace(sum_W)
    return linear(y_TW, w.attn_output)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A random llama of which layers 0 and 2 are leaky sums."""
    here = sys.modules[__name__]
    unread = [f"blk.{i}.attn_{x}.weight" for i in (0, 2) for x in "kv"]
    path = rewrite(tiny_llama(), tmp_path_factory.mktemp("toy") / "toy.gguf", drop=unread)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "llmcore.mixers.leaky", here)
        patch.setitem(
            families.ARCHITECTURES, "llama", replace(families.ARCHITECTURES["llama"], mixer="leaky")
        )
        yield llmcore.load(path)


def logits_of(llm, ids, cache):
    return unembed(llm.weights, llm.config, forward(llm.weights, llm.config, [(np.asarray(ids), cache)]))


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=3e-6 * np.abs(theirs).max())


def test_the_toy_is_the_sum_that_its_formula_says(toy):
    """The first layer against a plain loop in float64."""
    step_rows = np.random.default_rng(1).standard_normal((6, 64)).astype(np.float32)
    cache = toy.empty_cache()
    w, plan = toy.weights.layers[0].mixer, toy.config.layers[0].mixer
    step = SimpleNamespace(texts=[(slice(0, 6), cache)])
    got_TD = run(step_rows, w, plan, step, 0)
    sum_W, want = np.zeros(64), []
    for x_D in step_rows.astype(np.float64):
        sum_W = plan.decay * sum_W + w.attn_q.held.w_OI @ x_D
        want.append(w.attn_output.held.w_OI @ sum_W)
    np.testing.assert_allclose(got_TD, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [[1] * 40, [7, 1, 13, 19], [39, 1]], ids=["ones", "mixed", "last"])
def test_steps_equal_one_pass(toy, steps):
    cache, logits = toy.empty_cache(), []
    for size in steps:
        logits.append(logits_of(toy, IDS[cache.length : cache.length + size], cache))
    assert_close(np.concatenate(logits), toy.logits(IDS))


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=2, top_p=1)], ids=["greedy", "hot"])
def test_drafts_equal_no_drafts(toy, sampling):
    """Guesses of which some are right, some wrong in the first token, some later."""

    def text(guesser=lambda ids, n: []):
        writer = Writer([5, 6, 7], sampling, 1, max_tokens=60, context_length=512, end_ids=())
        return [token.id for token in write(toy.weights, toy.config, writer, toy.empty_cache(), guesser)]

    plain, wrong = text(), []
    known = [5, 6, 7, *plain]

    def guess(ids, n_most):
        draft = known[len(ids) : len(ids) + min(5, n_most)]
        at = int(np.random.default_rng(len(ids)).integers(8))
        if at < len(draft):
            draft[at] = (draft[at] + 1) % 288
            wrong.append(at)
        return draft

    assert text(guess) == plain
    assert {0, 2, 3} <= set(wrong)


@pytest.mark.parametrize("length", range(41))
def test_truncate_to_every_length_and_on(toy, length):
    """The answer is heeded: what the cache then lacks is processed again."""
    cache = toy.empty_cache()
    for size in (20, 10, 1, 1, 8):
        logits_of(toy, IDS[cache.length : cache.length + size], cache)
    reached = cache.truncate(length)
    assert reached == cache.length <= length
    if length >= 32:
        assert reached == (40 if length == 40 else 32)  # the start of the last pass is kept
    other = [*IDS[:length], 9, 8, 7]
    assert_close(logits_of(toy, other[reached:], cache), toy.logits(other)[reached:])


def test_a_place_that_was_asked_for_is_kept(toy):
    cache = toy.empty_cache()
    for n in range(1, 7):
        logits_of(toy, IDS[cache.length : 5 * n], cache)
        cache.keep()
        for i in range(3):
            logits_of(toy, [IDS[i]], cache)
        cache.truncate(5 * n)
    assert cache.truncate(22) == 20
    assert cache.truncate(17) == 15
    assert cache.truncate(14) == 0  # of six places the last four are kept
    assert_close(logits_of(toy, IDS, cache), toy.logits(IDS))


@pytest.mark.parametrize("layer", range(3))
def test_an_exception_inside_a_layer_leaves_all_as_it_was(toy, layer, monkeypatch):
    cache = toy.empty_cache()
    logits_of(toy, IDS[:20], cache)
    real, calls = llmcore.ffn.run, []

    def broken(*arguments):
        calls.append(1)
        return 1 / 0 if len(calls) > layer else real(*arguments)

    monkeypatch.setattr("llmcore.ffn.run", broken)
    with pytest.raises(ZeroDivisionError):
        logits_of(toy, [4, 4, 4], cache)
    monkeypatch.undo()
    assert cache.length == 20
    assert_close(logits_of(toy, IDS[20:], cache), toy.logits(IDS)[20:])


def test_two_texts_in_a_batch_do_not_see_each_other(toy):
    one, two = toy.empty_cache(), toy.empty_cache()
    for a, b, c, d in ((0, 9, 0, 1), (9, 10, 1, 30), (10, 40, 30, 31)):
        x_TD = forward(toy.weights, toy.config, [(IDS[a:b], one), (IDS[::-1][c:d], two)])
        logits_TV = unembed(toy.weights, toy.config, x_TD)
        assert_close(logits_TV[: b - a], toy.logits(IDS)[a:b])
        assert_close(logits_TV[b - a :], toy.logits(IDS[::-1])[c:d])


def test_texts_written_together_are_those_written_alone(toy):
    prompts = [[5, 6, 7], [9] * 20, [3, 100, 4, 200]]
    options = {"max_tokens": 20, "temperature": 0, "ignore_eos": True}
    alone = ["".join(toy.generate(prompt, **options)) for prompt in prompts]
    assert list(toy.generate_batch(prompts, batch=2, **options)) == alone


def test_bytes_of_the_state_are_counted(toy):
    cache = toy.empty_cache()
    logits_of(toy, IDS[:3], cache)
    rows = cache.layers[1]
    assert cache.nbytes == 2 * 4 * 64 + sum(array.nbytes for array in rows.arrays)
