"""Mamba-2 and Mamba against plain loops in float64, written from the papers' recurrences."""

from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import make, step_of

import llmcore
from llmcore.mixers import duality, mamba, mamba2


def recurrence(x_THP, dt_TH, b_TGN, c_TGN, a_H, s_HPN):
    """S <- e^(D A) S + D x B^T; y = S C: head by head, token by token."""
    x_THP, dt_TH, b_TGN, c_TGN, a_H = (np.float64(array) for array in (x_THP, dt_TH, b_TGN, c_TGN, a_H))
    s_HPN, y_THP = s_HPN.astype(np.float64), np.zeros(x_THP.shape)
    T, H, _ = x_THP.shape
    for t in range(T):
        for h in range(H):
            g = h // (H // b_TGN.shape[1])
            s_HPN[h] = np.exp(dt_TH[t, h] * a_H[h]) * s_HPN[h] + dt_TH[t, h] * np.outer(
                x_THP[t, h], b_TGN[t, g]
            )
            y_THP[t, h] = s_HPN[h] @ c_TGN[t, g]
    return y_THP, s_HPN


def random_input(T, H=6, P=4, G=2, N=5, fade=1.0):
    rng = np.random.default_rng(T)
    shapes = (T, H, P), (T, H), (T, G, N), (T, G, N), (H,), (H, P, N)
    x_THP, dt_TH, b_TGN, c_TGN, a_H, s_HPN = (
        rng.standard_normal(shape).astype(np.float32) for shape in shapes
    )
    return x_THP, np.abs(dt_TH), b_TGN, c_TGN, -np.abs(a_H) * np.float32(fade), s_HPN


def assert_close(ours, theirs, digits=1e-6):
    """Sums of some hundred float32 terms that partly cancel: so much of the largest."""
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=10 * digits * np.abs(theirs).max())


@pytest.mark.parametrize("fade", [1e-3, 1.0, 300.0], ids=["hardly", "some", "at once"])
@pytest.mark.parametrize("T", [1, 2, 63, 64, 65, 200])
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunks_of_any_size_are_the_recurrence(T, chunk, fade, monkeypatch):
    """The matrix form; a single token goes by the recurrence."""
    monkeypatch.setattr(duality, "CHUNK", chunk)
    arrays = random_input(T, fade=fade)
    before = [array.copy() for array in arrays]
    for ours, theirs in zip(duality.scan(*arrays), recurrence(*arrays), strict=True):
        assert ours.dtype == np.float32
        assert_close(ours, theirs)
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)  # the state before is still needed if a guess was wrong


@pytest.mark.parametrize("T", [1, 2, 200])
def test_tokens_one_by_one_are_the_recurrence(T):
    *arrays, s_HPN = random_input(T)
    want_THP, want_HPN = recurrence(*arrays, s_HPN)
    y_THP, before = [], s_HPN.copy()
    a_H = arrays.pop()
    for t in range(T):
        y_1HP, after_HPN = duality.scan(*(array[t : t + 1] for array in arrays), a_H, s_HPN)
        np.testing.assert_array_equal(s_HPN, before)  # the state before is still needed if a guess was wrong
        s_HPN, before = after_HPN, after_HPN.copy()
        y_THP.append(y_1HP)
    assert_close(np.concatenate(y_THP), want_THP)
    assert_close(s_HPN, want_HPN)


@pytest.mark.parametrize(("G", "H"), [(1, 1), (1, 4), (4, 4), (3, 6)])
def test_heads_find_their_group(G, H):
    arrays = random_input(70, H=H, G=G)
    for ours, theirs in zip(duality.scan(*arrays), recurrence(*arrays), strict=True):
        assert_close(ours, theirs)


def test_a_sum_that_is_large_loses_no_digits():
    """After 60 tokens that fade by e^-400 each, float32 sums are 0.002 off: 2 parts in a thousand."""
    x_THP, dt_TH, b_TGN, c_TGN, a_H, s_HPN = random_input(64)
    dt_TH[:60], dt_TH[60:], a_H[:] = 400, 0.01, -1
    arrays = x_THP, dt_TH, b_TGN, c_TGN, a_H, s_HPN
    for ours, theirs in zip(duality.scan(*arrays), recurrence(*arrays), strict=True):
        assert_close(ours[60:] if len(ours) == 64 else ours, theirs[60:] if len(theirs) == 64 else theirs)


def layer_of(family, tmp_path, **options):
    """Weights and plan of the first layer of a random model, and its cache."""
    make(family, tmp_path / "m.gguf", **options)
    llm = llmcore.load(tmp_path / "m.gguf")
    return llm.weights.layers[0].mixer, llm.config.layers[0].mixer, llm.empty_cache()


def float64(weights):
    """The same numbers; matrices as they are in float32."""
    values = {field.name: getattr(weights, field.name) for field in fields(weights)}
    matrices = {name: value.held.w_OI if hasattr(value, "held") else value for name, value in values.items()}
    return SimpleNamespace(**{name: np.float64(value) for name, value in matrices.items()})


def silu(x):
    return x / (1 + np.exp(-x))


def convolved(x_TC, w):
    """Tokens before the first are zeros."""
    T, W = len(x_TC), w.ssm_conv1d.shape[1]
    padded = np.concatenate([np.zeros((W - 1, x_TC.shape[1])), x_TC])
    sums = [sum(padded[t + k] * w.ssm_conv1d[:, k] for k in range(W)) for t in range(T)]
    return silu(np.array(sums) + w.ssm_conv1d_bias)


def steps_of(run, x_TD, weights, plan, cache, sizes):
    """What a mixer says of a text that comes in pieces."""
    parts = []
    for start, stop in zip(np.cumsum([0, *sizes]), np.cumsum(sizes), strict=False):
        step = step_of([(slice(0, stop - start), cache)])
        parts.append(run(x_TD[start:stop], weights, plan, step, 0))
        cache.layers[0].commit(cache.length, stop)
        cache.length = int(stop)
    return np.concatenate(parts)


@pytest.mark.parametrize("sizes", [[80], [1] * 80, [64, 16], [2, 1, 70, 7]], ids=str)
def test_the_mamba2_layer_is_its_formula(sizes, tmp_path):
    weights, plan, cache = layer_of("mamba2", tmp_path, ssm_groups=2, ssm_state=5, conv=3)
    x_TD = np.random.default_rng(0).standard_normal((80, 32)).astype(np.float32)
    w, H, G, N, U = float64(weights), 4, 2, 5, 64
    z, xbc, dt = np.split(np.float64(x_TD) @ w.ssm_in.T, [U, 2 * U + 2 * G * N], axis=1)
    x, b, c = np.split(convolved(xbc, w), [U, U + G * N], axis=1)
    x, dt = x.reshape(-1, H, U // H), np.log1p(np.exp(dt + w.ssm_dt))
    b, c = b.reshape(-1, G, N), c.reshape(-1, G, N)
    y, _ = recurrence(x, dt, b, c, w.ssm_a, np.zeros((H, U // H, N)))
    y = ((y + w.ssm_d[:, None] * x).reshape(-1, U) * silu(z)).reshape(-1, G, U // G)
    y = y / np.sqrt((y**2).mean(axis=-1, keepdims=True) + plan.eps) * w.ssm_norm
    assert_close(steps_of(mamba2.run, x_TD, weights, plan, cache, sizes), y.reshape(-1, U) @ w.ssm_out.T)
    s_HPN, before_WC = cache.state(0)
    assert (s_HPN.shape, before_WC.shape) == ((H, U // H, N), (2, U + 2 * G * N))
    np.testing.assert_allclose(before_WC, xbc[-2:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", [None, True])
@pytest.mark.parametrize("sizes", [[30], [1] * 30, [2, 1, 20, 7]], ids=str)
def test_the_mamba_layer_is_its_formula(sizes, norm, tmp_path):
    options = {"ssm_state": 5, "conv": 3, "set": {"ssm.dt_b_c_rms": norm}}
    weights, plan, cache = layer_of("mamba", tmp_path, **options)
    x_TD = np.random.default_rng(0).standard_normal((30, 32)).astype(np.float32)
    w, N, R = float64(weights), 5, 4
    u, z = np.split(np.float64(x_TD) @ w.ssm_in.T, 2, axis=1)
    u = convolved(u, w)
    parts = np.split(u @ w.ssm_x.T, [R, R + N], axis=1)
    if norm:
        parts = [part / np.sqrt((part**2).mean(axis=1, keepdims=True) + plan.eps) for part in parts]
    dt = np.log1p(np.exp(parts[0] @ w.ssm_dt.T + weights.ssm_dt.bias))
    s_UN, want = np.zeros((64, N)), []
    for t in range(30):
        s_UN = np.exp(dt[t][:, None] * w.ssm_a) * s_UN + np.outer(dt[t] * u[t], parts[1][t])
        want.append((s_UN @ parts[2][t] + w.ssm_d * u[t]) * silu(z[t]) @ w.ssm_out.T)
    assert_close(steps_of(mamba.run, x_TD, weights, plan, cache, sizes), np.array(want))
