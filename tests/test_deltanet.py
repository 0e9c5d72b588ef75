"""The delta rule by chunks, token by token, and as a plain loop in float64."""

import doctest

import numpy as np
import pytest
from conftest import step_of

from llmcore.cache import KVCache
from llmcore.linear import Float32, Matrix
from llmcore.mixers import delta_rule, deltanet, kda
from llmcore.mixers.delta_rule import of_length_1, scan

H, P = 3, 8


def random_inputs(T, X, fade, seed=0):
    """q, k, v, g, beta and a state, of T tokens; `fade` is how much of the past a token forgets, about."""
    rng = np.random.default_rng(seed)
    q, k, v = rng.standard_normal((3, T, H, P)).astype(np.float32)
    g = -fade * rng.exponential(size=(T, H, X)).astype(np.float32)
    beta = rng.uniform(0, 1, (T, H)).astype(np.float32)
    return (
        of_length_1(q, 1e-6),
        of_length_1(k, 1e-6),
        v,
        g,
        beta,
        rng.standard_normal((H, P, P)).astype(np.float32),
    )


def plain_loop(q, k, v, g, beta, s):
    """The recurrence as the formula says it, head by head, in float64."""
    q, k, v, g, beta, s = (np.array(x, np.float64) for x in (q, k, v, g, beta, s))
    y = np.empty_like(v)
    for t in range(len(q)):
        for h in range(H):
            s[h] = np.exp(g[t, h])[:, None] * s[h]
            u = beta[t, h] * (v[t, h] - s[h].T @ k[t, h])
            s[h] += np.outer(k[t, h], u)
            y[t, h] = s[h].T @ q[t, h] / np.sqrt(P)
    return y, s


def assert_close(ours, theirs):
    """float32 against float64: a chunk adds up 64 terms of order 1, each rounded to 6e-8 of itself."""
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=64 * 6e-8 * max(1, np.abs(theirs).max()))


@pytest.mark.parametrize("X", [1, P], ids=["a head", "a channel"])
@pytest.mark.parametrize("fade", [0.0, 0.001, 0.1, 3.0, 100.0])
@pytest.mark.parametrize("T", [1, 2, 15, 16, 17, 63, 64, 65, 200])
def test_chunks_are_the_plain_loop(T, fade, X):
    inputs = random_inputs(T, X, fade)
    for ours, theirs in zip(scan(*inputs), plain_loop(*inputs), strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("X", [1, P], ids=["a head", "a channel"])
def test_chunks_are_tokens_one_by_one(X):
    *inputs, s = random_inputs(150, X, 0.05)
    whole, last = scan(*inputs, s)
    for t in range(150):
        y, s = scan(*(x[t : t + 1] for x in inputs), s)
        assert_close(y[0], whole[t])
    assert_close(s, last)


@pytest.mark.parametrize("X", [1, P], ids=["a head", "a channel"])
def test_keys_that_are_all_the_same(X):
    """The hardest equations: L is all ones, and powers of it would have entries of 1e18 in a chunk of 64."""
    q, k, v, g, beta, s = random_inputs(130, X, 0.0)
    k[:], beta[:] = k[0], 1
    for ours, theirs in zip(scan(q, k, v, g, beta, s), plain_loop(q, k, v, g, beta, s), strict=True):
        assert_close(ours, theirs)


def test_one_decay_for_all_channels_is_one_a_head():
    q, k, v, g, beta, s = random_inputs(70, 1, 0.1)
    ours = scan(q, k, v, np.repeat(g, P, axis=2), beta, s)
    for one, many in zip(scan(q, k, v, g, beta, s), ours, strict=True):
        assert_close(many, one)


def test_a_write_is_read_back_and_written_over():
    """With beta 1 and no fading the memory holds, under each of P keys, what was written there last."""
    keys = np.eye(P, dtype=np.float32)[[0, 3, 5, 3]]
    k = np.broadcast_to(keys[:, None], (4, H, P))
    v = np.random.default_rng(0).standard_normal((4, H, P)).astype(np.float32)
    _, s = scan(
        k, k, v, np.zeros((4, H, 1), np.float32), np.ones((4, H), np.float32), np.zeros((H, P, P), np.float32)
    )
    np.testing.assert_allclose(s[:, [0, 3, 5]], v[[0, 3, 2]].swapaxes(0, 1), rtol=1e-6)
    assert not s[:, [1, 2, 4, 6, 7]].any()


def test_the_state_that_is_read_is_not_written_to():
    inputs = random_inputs(70, 1, 0.1)
    before = [x.copy() for x in inputs]
    scan(*inputs)
    for now, then in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_worked_examples():
    for module in (delta_rule, deltanet):
        assert doctest.testmod(module).attempted > 0
        assert doctest.testmod(module).failed == 0


def matrix(rng, n_in, n_out):
    return Matrix(
        n_in, n_out, Float32((rng.standard_normal((n_out, n_in)) / np.sqrt(n_in)).astype(np.float32))
    )


@pytest.mark.parametrize("grouped", [False, True], ids=["tiled", "grouped"])
def test_a_whole_layer_is_its_formula(grouped):
    """Value heads share key heads; the outputs of W_in as they stand in each kind of file."""
    D, K, J, W, T, eps = 12, 3, 2, 4, 20, 1e-3
    n_heads, U = K * J, K * J * P
    C = U + 2 * K * P
    rng = np.random.default_rng(3)
    plan = deltanet.DeltaNet(n_heads, K, P, W, grouped, eps)
    order = rng.permutation(C + U + 2 * n_heads) if grouped else None
    w = deltanet.Weights(
        ssm_in=matrix(rng, D, C + U + 2 * n_heads),
        order=order,
        ssm_conv1d=rng.standard_normal((C, W)).astype(np.float32),
        ssm_dt=rng.standard_normal(n_heads).astype(np.float32),
        ssm_a=-rng.uniform(0.1, 1, n_heads).astype(np.float32),
        ssm_norm=rng.uniform(0.5, 1.5, P).astype(np.float32),
        ssm_out=matrix(rng, U, D),
    )
    x = rng.standard_normal((T, D)).astype(np.float32)
    cache = KVCache([deltanet.state(plan)])
    ours = deltanet.run(x, w, plan, step_of([(slice(0, T), cache)]), 0)

    into = x.astype(np.float64) @ w.ssm_in.held.w_OI.T.astype(np.float64)
    into = into if order is None else into[:, order]
    qkv, z, beta, alpha = np.split(into, [C, C + U, C + U + n_heads], axis=1)
    rows = np.concatenate([np.zeros((W - 1, C)), qkv])
    qkv = sum(w.ssm_conv1d[:, i] * rows[i : i + T] for i in range(W))
    qkv = (qkv / (1 + np.exp(-qkv))).reshape(T, -1, P)
    s, want = np.zeros((n_heads, P, P)), np.empty((T, n_heads, P))
    for t in range(T):
        for h in range(n_heads):
            at = h // J if grouped else h % K
            q, k, v = qkv[t, at], qkv[t, K + at], qkv[t, 2 * K + h]
            q, k = (y / np.sqrt((y * y).sum() + eps) for y in (q, k))
            s[h] *= np.exp(w.ssm_a[h] * np.log1p(np.exp(alpha[t, h] + w.ssm_dt[h])))
            s[h] += np.outer(k, (v - s[h].T @ k) / (1 + np.exp(-beta[t, h])))
            y = s[h].T @ q / np.sqrt(P)
            gate = z[t, h * P : h * P + P]
            want[t, h] = y / np.sqrt((y * y).mean() + eps) * w.ssm_norm * gate / (1 + np.exp(-gate))
    assert_close(ours, want.reshape(T, U) @ w.ssm_out.held.w_OI.T)


def test_what_the_cache_costs():
    """4 (H P P + (W - 1) C) bytes; of Kimi's 4 (H P P + 3 (W - 1) H P)."""
    qwen = KVCache([deltanet.state(deltanet.DeltaNet(32, 16, 128, 4, False, 1e-6))])
    assert qwen.nbytes == 4 * (32 * 128 * 128 + 3 * (32 + 2 * 16) * 128) == 2_195_456
    kimi = KVCache([kda.state(kda.KDA(32, 128, 4, 1e-5))])
    assert kimi.nbytes == 4 * (32 * 128 * 128 + 3 * 3 * 32 * 128)


@pytest.mark.parametrize("widths", [(1, 2), (8, 8, 16, 16), (3,)])
def test_outputs_group_by_group_are_put_kind_by_kind(widths):
    names = [
        (group, kind, n) for group in range(5) for kind, width in enumerate(widths) for n in range(width)
    ]
    wanted = sorted(names, key=lambda name: (name[1], name[0], name[2]))
    assert [names[at] for at in deltanet.by_kind(5, *widths)] == wanted
