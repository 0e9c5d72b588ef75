"""Attention against the definition, one query, head and key at a time."""

import numpy as np
import pytest

from llmcore import attention
from llmcore.cache import KVCache
from llmcore.config import read_config
from llmcore.loader import read_gguf


def one_at_a_time(q_KTGH, k_KSH, v_KSH, window):
    """softmax(q k) v with float64 dot products over just the keys that each query may see."""
    K, T, G, _ = q_KTGH.shape
    S = k_KSH.shape[1]
    y_KTGH = np.zeros((K, T, G, v_KSH.shape[2]))
    for k in range(K):
        for t in range(T):
            position = S - T + t
            seen = range(max(0, position - (window or S) + 1), position + 1)
            for g in range(G):
                weight = np.exp([float(q_KTGH[k, t, g].astype(float) @ k_KSH[k, s]) for s in seen])
                y_KTGH[k, t, g] = sum(w * v_KSH[k, s] for w, s in zip(weight / weight.sum(), seen, strict=True))
    return y_KTGH


@pytest.mark.parametrize("window", [None, 1, 4, 9, 100])
@pytest.mark.parametrize(("T", "S"), [(1, 1), (1, 12), (5, 5), (12, 12), (7, 20)])
def test_attend_is_causal_and_keeps_to_its_window(T, S, window, monkeypatch):
    monkeypatch.setattr(attention, "QUERY_BLOCK", 3)  # several blocks, the last one not full
    rng = np.random.default_rng(T * S)
    q_KTGH = rng.standard_normal((2, T, 3, 8)).astype(np.float32)
    k_KSH = rng.standard_normal((2, S, 8)).astype(np.float32)
    v_KSH = rng.standard_normal((2, S, 5)).astype(np.float32)
    y_KTGH = attention.attend(q_KTGH, k_KSH, v_KSH, window)
    np.testing.assert_allclose(y_KTGH, one_at_a_time(q_KTGH, k_KSH, v_KSH, window), rtol=1e-4, atol=1e-6)


def test_cache_returns_what_was_appended_and_grows_with_use(llama_path):
    config = read_config(read_gguf(llama_path).metadata, llama_path)
    cache = KVCache(config)
    assert cache.nbytes == 0
    rng = np.random.default_rng(0)
    k_SKH = rng.standard_normal((3000, config.n_kv_heads, config.key_length)).astype(np.float32)
    v_SKH = rng.standard_normal((3000, config.n_kv_heads, config.value_length)).astype(np.float32)
    for stop in (1, 2, 5, 255, 256, 257, 1000, 3000):
        for layer in range(config.n_layers):
            new = slice(cache.length, stop)
            k_KSH, v_KSH = cache.append(layer, k_SKH[new] + layer, v_SKH[new] - layer)
            np.testing.assert_array_equal(k_KSH.swapaxes(0, 1), k_SKH[:stop] + layer)
            np.testing.assert_array_equal(v_KSH.swapaxes(0, 1), v_SKH[:stop] - layer)
        cache.commit(stop - cache.length)
        row = 4 * config.n_layers * config.n_kv_heads * (config.key_length + config.value_length)
        assert stop * row <= cache.nbytes <= max(256, 2 * stop) * row
