"""The gated short convolution against a plain loop in float64, and what it costs."""

import doctest

import numpy as np
import pytest
from conftest import step_of

from llmcore.cache import KVCache
from llmcore.linear import Float32, Matrix
from llmcore.mixers import shortconv

D = 12


def layer(W, seed=0):
    """The plan and the weights of a random layer."""
    rng = np.random.default_rng(seed)
    into, out = (rng.standard_normal((n, D)).astype(np.float32) / 3 for n in (3 * D, D))
    kernel = rng.standard_normal((D, W)).astype(np.float32)
    weights = shortconv.Weights(Matrix(D, 3 * D, Float32(into)), kernel, Matrix(D, D, Float32(out)))
    return shortconv.ShortConv(D, W), weights


def plain_loop(x, w):
    """c * conv(b * u), token by token and channel by channel, in float64."""
    x, W = x.astype(np.float64), w.conv.shape[1]
    b, c, u = np.split(x @ w.in_proj.held.w_OI.T, 3, axis=1)
    y = np.zeros_like(c)
    for t in range(len(x)):
        for d in range(D):
            for back in range(min(W, t + 1)):
                y[t, d] += w.conv[d, W - 1 - back] * b[t - back, d] * u[t - back, d]
    return (c * y) @ w.out_proj.held.w_OI.T


def run(x, w, plan, cache):
    step = step_of([(slice(0, len(x)), cache)])
    y = shortconv.run(x, w, plan, step, 0)
    cache.commit(len(x))
    return y


@pytest.mark.parametrize("W", [2, 3, 7])
@pytest.mark.parametrize(
    "sizes", [[30], [1] * 30, [2, 1, 9, 18], [29, 1]], ids=["one", "ones", "mixed", "last"]
)
def test_it_is_the_plain_loop_in_steps_of_any_size(W, sizes):
    plan, w = layer(W)
    x = np.random.default_rng(1).standard_normal((30, D)).astype(np.float32)
    cache, y = KVCache([shortconv.state(plan)]), []
    for size in sizes:
        y.append(run(x[cache.length : cache.length + size], w, plan, cache))
    # Up to 7 products of three numbers of order 1, and a product of 12 such sums.
    np.testing.assert_allclose(np.concatenate(y), plain_loop(x, w), rtol=1e-4, atol=1e-4)


def test_a_token_is_seen_by_the_next_ones_and_by_no_other():
    plan, w = layer(3)
    x = np.random.default_rng(1).standard_normal((9, D)).astype(np.float32)
    other = x.copy()
    other[4] += 1
    y, z = (run(x, w, plan, KVCache([shortconv.state(plan)])) for x in (x, other))
    assert [bool((y[t] != z[t]).any()) for t in range(9)] == [t in (4, 5, 6) for t in range(9)]


def test_two_texts_do_not_mix():
    plan, w = layer(3)
    x = np.random.default_rng(1).standard_normal((9, D)).astype(np.float32)
    caches = [KVCache([shortconv.state(plan)]) for _ in range(2)]
    step = step_of([(slice(0, 4), caches[0]), (slice(4, 9), caches[1])])
    together = shortconv.run(x, w, plan, step, 0)
    alone = [run(part, w, plan, KVCache([shortconv.state(plan)])) for part in (x[:4], x[4:])]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-5, atol=1e-6)


def test_the_cache_holds_as_many_rows_as_the_kernel_looks_back():
    """4 D (W - 1) bytes, after any number of tokens."""
    cache = KVCache([shortconv.state(shortconv.ShortConv(2048, 3))])
    assert cache.nbytes == 16_384
    plan, w = layer(5)
    cache = KVCache([shortconv.state(plan)])
    for n in (1, 2, 30):
        run(np.ones((n, D), np.float32), w, plan, cache)
        assert cache.nbytes == 4 * D * 4


def test_worked_example():
    assert doctest.testmod(shortconv) == doctest.TestResults(failed=0, attempted=3)
