"""Gemma 4: what differs by layer, rows that layers share, embeddings for every layer."""

import numpy as np
import pytest
from conftest import make, step_of
from rewrite import rewrite

import llmcore
from llmcore.loader import read_gguf
from llmcore.model import forward
from llmcore.speed.holding import bytes_needed

IDS = np.random.default_rng(1).integers(3, 288, 300)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Layers 2 and 5 of 8 see everything, the others 8 tokens; the last five read layers 1 and 2."""
    path = tmp_path_factory.mktemp("gemma4") / "model.gguf"
    make("gemma4", path, layers=8, shared_layers=5, per_layer=4)
    return path


def test_plans_differ_by_kind_of_layer(path):
    plans = [layer.mixer for layer in llmcore.load(path).config.layers]
    assert [plan.window for plan in plans] == [8, 8, None, 8, 8, None, 8, 8]
    assert [plan.rows_of for plan in plans] == [None, None, None, 1, 1, 2, 1, 1]
    assert [plan.key_length for plan in plans] == [8, 8, 16, 8, 8, 16, 8, 8]
    assert [plan.value_length for plan in plans] == [8, 8, 16, 8, 8, 16, 8, 8]
    assert [plan.n_kv_heads for plan in plans] == [2, 2, 1, 2, 2, 1, 2, 2]
    assert {(plan.rope.n_rot, plan.rope.base, plan.rope.divided) for plan in plans} == {
        (8, 500.0, False),
        (16, 10000.0, True),
    }
    assert {plan.scale for plan in plans} == {1.0}


def test_shared_rows_take_no_memory(path):
    """Keys and values of two heads of 8 in two windowed layers, of one head of 16 in the one that sees
    everything.
    """
    llm = llmcore.load(path)
    cache = llm.empty_cache()
    forward(llm.weights, llm.config, [(IDS[:1], cache)])
    room = 256  # tokens at first
    assert cache.nbytes == 4 * room * (2 * 2 * 2 * 8 + 2 * 16)
    assert [len(layer.arrays) for layer in cache.layers] == [2, 2, 2, 0, 0, 0, 0, 0]


def test_a_layer_reads_what_its_source_wrote_in_this_pass(path):
    """In chunks that are longer than the room of a windowed layer, and in which rows move."""
    llm = llmcore.load(path)
    whole = llm.logits(IDS)
    for sizes in ([1, 299], [260, 1, 39], [100, 100, 100]):
        cache, at = llm.empty_cache(), 0
        for size in sizes:
            x_TD = forward(llm.weights, llm.config, [(IDS[at : at + size], cache)])
            at += size
        ours = llmcore.model.unembed(llm.weights, llm.config, x_TD)
        np.testing.assert_allclose(ours, whole[-sizes[-1] :], rtol=1e-4, atol=2e-5 * np.abs(whole).max())


def test_keys_that_a_reading_layer_has_in_the_file_are_passed_over(path, tmp_path):
    """Checkpoints hold keys and values of all layers."""
    rng = np.random.default_rng(0)
    shapes = {"attn_k.weight": (16, 32), "attn_v.weight": (16, 32), "attn_k_norm.weight": (8,)}
    more = {f"blk.3.{name}": rng.standard_normal(shape) for name, shape in shapes.items()}
    again = rewrite(path, tmp_path / "more.gguf", tensors=more)
    np.testing.assert_array_equal(llmcore.load(again).logits(IDS[:20]), llmcore.load(path).logits(IDS[:20]))


def test_a_kind_of_layer_without_rows_to_read_is_refused(path, tmp_path):
    again = rewrite(path, tmp_path / "m.gguf", keys={"gemma4.attention.shared_kv_layers": 6})
    with pytest.raises(
        llmcore.ModelFileError, match="shared_kv_layers leaves no keys and values that layer 2"
    ):
        llmcore.load(again)


def test_the_table_of_per_layer_embeddings_stays_in_the_file(path, monkeypatch):
    monkeypatch.setenv("LLMCORE_PANELS", "0")  # which fill up the last panel of a matrix
    file = read_gguf(path)
    table = file.tensors["per_layer_token_embd.weight"]
    matrices = sum(np.prod(t.shape) for t in file.tensors.values() if len(t.shape) > 1 and t is not table)
    assert table.shape == (288, 8 * 4)
    assert bytes_needed(file, "float32") == 4 * matrices


def test_rope_freqs_are_needed(path, tmp_path):
    with pytest.raises(llmcore.ModelFileError, match=r"'rope_freqs\.weight' is missing"):
        llmcore.load(rewrite(path, tmp_path / "m.gguf", drop=["rope_freqs.weight"]))


def test_missing_values_are_the_keys_before_norm_and_rope(tmp_path):
    """The same model as one whose values are a copy of its keys."""
    make("gemma4", tmp_path / "m.gguf", keys_as_values=True, layers=6)
    file = read_gguf(tmp_path / "m.gguf")
    copies = {f"blk.{i}.attn_v.weight": file.tensors[f"blk.{i}.attn_k.weight"].data for i in (2, 5)}
    copies = {name: data.view("<f4").reshape(16, 32) for name, data in copies.items()}
    copied = rewrite(tmp_path / "m.gguf", tmp_path / "copied.gguf", tensors=copies)
    ours, theirs = llmcore.load(tmp_path / "m.gguf").logits(IDS[:30]), llmcore.load(copied).logits(IDS[:30])
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_experts_beside_a_dense_feed_forward_by_a_plain_loop(tmp_path):
    """In float64, token by token, straight from the formula."""
    make("gemma4", tmp_path / "m.gguf", layers=3, experts=5, experts_used=2, expert_ff=6)
    llm = llmcore.load(tmp_path / "m.gguf")
    t = {
        name.removeprefix("blk.1."): tensor.data.view("<f4").reshape(tensor.shape).astype(np.float64)
        for name, tensor in read_gguf(tmp_path / "m.gguf").tensors.items()
        if name.startswith("blk.1.")
    }

    def rms(x, gain=1.0):
        return x / np.sqrt(np.mean(x * x) + 1e-5) * gain

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    def feed(x, gate, up, down):
        return down @ (gelu(gate @ x) * (up @ x))

    x_TD = np.random.default_rng(0).standard_normal((7, 32)).astype(np.float32)
    expected = []
    for x in x_TD.astype(np.float64):
        dense = feed(
            rms(x, t["ffn_norm.weight"]), *(t[f"ffn_{name}.weight"] for name in ("gate", "up", "down"))
        )
        scores = t["ffn_gate_inp.weight"] @ (rms(x) / np.sqrt(32) * t["ffn_gate_inp.scale"])
        chosen = np.argsort(-scores)[:2]
        weights = np.exp(scores[chosen]) / np.exp(scores[chosen]).sum()
        read = rms(x, t["pre_ffw_norm_2.weight"])
        said = sum(
            w
            * t["ffn_down_exps.scale"][e]
            * feed(read, *(t[f"ffn_{n}_exps.weight"][e] for n in ("gate", "up", "down")))
            for w, e in zip(weights, chosen, strict=True)
        )
        expected.append(rms(dense, t["post_ffw_norm_1.weight"]) + rms(said, t["post_ffw_norm_2.weight"]))
    layer, plan = llm.weights.layers[1], llm.config.layers[1]
    ours = llmcore.ffn.run(x_TD, layer.ffn, plan.ffn, x_TD, step_of(), 1)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
