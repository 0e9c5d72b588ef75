"""Attention against the definition, one query, head and key at a time."""

import numpy as np
import pytest
from conftest import make

import llmcore
from llmcore.cache import ROOM
from llmcore.config import read_config
from llmcore.loader import read_gguf
from llmcore.mixers import attend
from llmcore.model import empty_cache, forward


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
                y_KTGH[k, t, g] = sum(
                    w * v_KSH[k, s] for w, s in zip(weight / weight.sum(), seen, strict=True)
                )
    return y_KTGH


@pytest.mark.parametrize("window", [None, 1, 4, 9, 100])
@pytest.mark.parametrize(("T", "S"), [(1, 1), (1, 12), (5, 5), (12, 12), (7, 20)])
def test_attend_is_causal_and_keeps_to_its_window(T, S, window, monkeypatch):
    monkeypatch.setattr(attend, "QUERY_BLOCK", 3)  # several blocks, the last one not full
    rng = np.random.default_rng(T * S)
    q_KTGH = rng.standard_normal((2, T, 3, 8)).astype(np.float32)
    k_KSH = rng.standard_normal((2, S, 8)).astype(np.float32)
    v_KSH = rng.standard_normal((2, S, 5)).astype(np.float32)
    y_KTGH = attend.attend(q_KTGH, k_KSH, v_KSH, window)
    np.testing.assert_allclose(y_KTGH, one_at_a_time(q_KTGH, k_KSH, v_KSH, window), rtol=1e-4, atol=1e-6)


# Three queries at the last three of five positions: what they see (o) and what is hidden (-).
SEEN = {
    None: ["ooo--", "oooo-", "ooooo"],
    5: ["ooo--", "oooo-", "ooooo"],
    4: ["ooo--", "oooo-", "-oooo"],
    2: ["-oo--", "--oo-", "---oo"],
    1: ["--o--", "---o-", "----o"],
}


@pytest.mark.parametrize("window", SEEN)
def test_hide_by_hand(window):
    scores_KBGS = np.arange(60, dtype=np.float32).reshape(2, 3, 2, 5)
    hidden_KBGS = scores_KBGS.copy()
    attend.hide(hidden_KBGS, window)
    seen_B1S = np.array([[[mark == "o" for mark in row]] for row in SEEN[window]])
    np.testing.assert_array_equal(hidden_KBGS, np.where(seen_B1S, scores_KBGS, -np.inf))


@pytest.mark.parametrize("window", [None, 2])
def test_hide_where_there_is_nothing_before(window):
    scores_KBGS = np.zeros((1, 2, 1, 2), np.float32)
    attend.hide(scores_KBGS, window)
    assert scores_KBGS[0, :, 0].tolist() == [[0, -np.inf], [0, 0]]


def test_sinks_take_weight_and_give_nothing():
    # scores 0 and ln 2 with a sink of ln 5: weights 1/8, 2/8 and 5/8 for nothing
    q_KTGH, k_KSH = np.float32([[[[1]]]]), np.log(np.float32([[[1], [2]]]))
    y_KTGH = attend.attend(q_KTGH, k_KSH, np.float32([[[8], [16]]]), sinks_N=np.log(np.float32([5])))
    np.testing.assert_allclose(y_KTGH, [[[[1 + 4]]]], rtol=1e-6)


def cache_of(family, path, **options):
    """An empty cache for a random model."""
    make(family, path, **options)
    return empty_cache(read_config(read_gguf(path).metadata, path))


def filled(cache, n_tokens, step, shapes):
    """What a cache returns last after n_tokens rows of those shapes were appended; the rows of token t are
    all t.
    """
    views = None
    for start in range(0, n_tokens, step):
        tokens_T = np.arange(start, min(start + step, n_tokens), dtype=np.float32)
        rows = [np.broadcast_to(tokens_T[:, None, None], (len(tokens_T), *shape)) for shape in shapes]
        views = [cache.append(layer, *rows) for layer in range(len(cache.layers))]
        cache.commit(len(tokens_T))
    return views


@pytest.mark.parametrize("step", [1, 7, 512])
def test_a_windowed_layer_keeps_no_more_than_its_window_and_a_chunk(step, tmp_path):
    window, n_tokens, shapes = 24, 3000, [(1, 16), (1, 16)]
    cache = cache_of("gemma3", tmp_path / "m.gguf", layers=6, kv_heads=1, window=window, context=4096)
    views = filled(cache, n_tokens, step, shapes)
    for layer, (keys_KSH, _) in enumerate(views):
        rows = keys_KSH[0, :, 0].tolist()
        seen = n_tokens if layer == 5 else window - 1 + (n_tokens - 1) % step + 1
        assert rows[-seen:] == list(range(n_tokens - seen, n_tokens))
        kept = cache.layers[layer].arrays[0].shape[1]
        assert kept <= (2 * n_tokens if layer == 5 else max(window + ROOM, window - 1 + step))


def test_truncating_goes_back_as_far_as_the_windows_reach(tmp_path):
    cache = cache_of("gemma3", tmp_path / "m.gguf", layers=6, kv_heads=1, window=24, context=4096)
    filled(cache, 1000, 100, [(1, 16), (1, 16)])
    assert cache.truncate(1000) == 1000
    assert cache.truncate(990) == 990 == cache.length
    assert cache.truncate(10) == 0 == cache.length  # the windowed layers have forgotten tokens 0 to 9
    keys_KSH, _ = filled(cache, 30, 30, [(1, 16), (1, 16)])[0]
    assert keys_KSH[0, :, 0].tolist() == list(range(30))


def test_latent_attention_caches_one_small_row_a_token(tmp_path):
    path = tmp_path / "m.gguf"
    make("deepseek2", path)
    llm = llmcore.load(path)
    plan = llm.config.layers[0].mixer
    width = plan.rank + plan.rope.n_rot
    cache = llm.empty_cache()
    forward(llm.weights, llm.config, [(np.arange(3, 3 + ROOM), cache)])
    assert cache.nbytes == 4 * len(llm.config.layers) * ROOM * width
    assert width < plan.n_heads * (plan.key_length + plan.value_length) / 3


def test_cache_returns_what_was_appended_and_grows_with_use(llama_path):
    config = read_config(read_gguf(llama_path).metadata, llama_path)
    plan, n_layers = config.layers[0].mixer, len(config.layers)
    cache = empty_cache(config)
    assert cache.nbytes == 0
    rng = np.random.default_rng(0)
    k_SKH = rng.standard_normal((3000, plan.n_kv_heads, plan.key_length)).astype(np.float32)
    v_SKH = rng.standard_normal((3000, plan.n_kv_heads, plan.value_length)).astype(np.float32)
    for stop in (1, 2, 5, 255, 256, 257, 1000, 3000):
        for layer in range(n_layers):
            new = slice(cache.length, stop)
            k_KSH, v_KSH = cache.append(layer, k_SKH[new] + layer, v_SKH[new] - layer)
            np.testing.assert_array_equal(k_KSH.swapaxes(0, 1), k_SKH[:stop] + layer)
            np.testing.assert_array_equal(v_KSH.swapaxes(0, 1), v_SKH[:stop] - layer)
        cache.commit(stop - cache.length)
        row = 4 * n_layers * plan.n_kv_heads * (plan.key_length + plan.value_length)
        assert stop * row <= cache.nbytes <= max(256, 2 * stop) * row
