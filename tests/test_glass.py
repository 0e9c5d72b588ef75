"""The glass box: what is seen is what the engine computes, and what is changed goes on changed."""

import numpy as np
import pytest
from conftest import family_model
from make_tiny_model import FAMILIES
from same_model import SHORT, in_steps

import llmcore
from llmcore import glass
from llmcore.glass.stream import pieces_of, points_of
from llmcore.mixers.step import NOBODY
from llmcore.model import unembed
from llmcore.ops import softmax

IDS = SHORT[:12]


@pytest.fixture(scope="module", params=FAMILIES)
def llm(request):
    return family_model(request.param)


def seen_in(llm, ids):
    """Every array of a run, and its logits."""
    seen = {}

    def see(name, layer, array):
        seen.setdefault((name, layer), array.copy("K"))

    logits = llm.watch(ids, see)
    return seen, logits


def test_who_only_looks_changes_no_bit(llm):
    seen, logits = seen_in(llm, IDS)
    np.testing.assert_array_equal(logits, llm.logits(IDS))
    assert {name for name, _ in seen} <= set(glass.NAMES)
    assert {("inp_embd", -1), ("result_norm", -1), ("result_output", -1)} <= set(seen)
    assert all(("l_out", i) in seen for i in range(len(llm.config.layers)))
    np.testing.assert_array_equal(seen["result_output", -1], logits)
    assert llm.weights.watcher is NOBODY


def test_steps_and_texts_together_are_seen_and_are_the_same(llm):
    count = []
    watched = llm.watched(lambda name, layer, array: count.append(name))
    np.testing.assert_array_equal(in_steps(watched, IDS, [5, 1, 1, 5]), in_steps(llm, IDS, [5, 1, 1, 5]))
    assert count.count("inp_embd") == 4
    options = {"max_tokens": 4, "temperature": 0, "ignore_eos": True}
    prompts = [IDS[:3].tolist(), IDS[3:10].tolist()]
    assert list(watched.generate_batch(prompts, **options)) == list(llm.generate_batch(prompts, **options))


def test_the_stream_after_the_last_layer_is_what_the_output_reads(llm):
    seen, logits = seen_in(llm, IDS)
    last_TD = seen["l_out", len(llm.config.layers) - 1]
    np.testing.assert_array_equal(unembed(llm.weights, llm.config, last_TD), logits)


def test_shares_sum_to_one_see_nothing_ahead_and_give_what_the_heads_found(llm):
    """Heads times values in float64; with sinks, or a head's own gate or norm, shares alone do not tell."""
    seen, _ = seen_in(llm, IDS)
    for i, plan in enumerate(llm.config.layers):
        if ("kq_soft_max", i) not in seen:
            continue
        shares_NTS = seen["kq_soft_max", i]
        attention = getattr(plan.mixer, "attention", plan.mixer)
        sums_NT = shares_NTS.sum(axis=2)
        assert (sums_NT < 1 + 1e-6).all()
        if not getattr(attention, "sinks", False):
            np.testing.assert_allclose(sums_NT, 1, rtol=1e-6)
        assert not shares_NTS[:, np.triu(np.ones((len(IDS),) * 2, bool), 1)].any()
        window = getattr(attention, "window", None)
        if window is not None and not attention.chunked:
            assert not shares_NTS[:, np.tril(np.ones((len(IDS),) * 2, bool), -window)].any()
        if (
            ("Vcur", i) not in seen
            or attention.rows_of is not None
            or attention.gated
            or attention.sub_norm_eps
        ):
            continue
        v_TKV = seen["Vcur", i].astype(np.float64)
        G = len(shares_NTS) // v_TKV.shape[1]
        found_NTV = shares_NTS.astype(np.float64) @ np.repeat(v_TKV.swapaxes(0, 1), G, axis=0)
        found_TF = found_NTV.swapaxes(0, 1).reshape(len(IDS), -1)
        np.testing.assert_allclose(
            seen["kqv_out", i], found_TF, rtol=1e-4, atol=1e-5 * np.abs(found_TF).max()
        )


def test_pieces_sum_to_the_stream(llm):
    points = points_of(llm, IDS)
    x_TD = points[-1].x_TD
    np.testing.assert_allclose(
        pieces_of(llm, points).sum(axis=0), x_TD, rtol=1e-9, atol=1e-9 * np.abs(x_TD).max()
    )


def before_softcap(logit, cap):
    return logit if cap is None else cap * np.arctanh(np.float64(logit) / cap)


def test_votes_sum_to_the_logit_and_heads_to_their_layer(llm):
    logits_V = llm.logits(IDS)[-1]
    target, other = (int(i) for i in np.argsort(-logits_V)[:2])
    size = float(np.abs(logits_V).max())
    for rather_than in (None, other):
        votes = glass.votes(llm, IDS, target, rather_than=rather_than)
        cap = llm.config.final_softcap
        want = before_softcap(logits_V[target], cap)
        if rather_than is not None:
            want -= before_softcap(logits_V[other], cap)
        assert votes.logit == pytest.approx(want, abs=2e-5 * size)
        assert votes.total == pytest.approx(votes.logit, abs=1e-6 * size)
        said = {layer: vote for piece, layer, vote in votes.pieces if piece == "mixer"}
        for layer, heads_N in votes.heads.items():
            mixer = llm.weights.layers[layer].mixer
            if hasattr(mixer, "attention") or mixer.attn_output.bias is not None:
                continue  # the rest is another mixer's, or the bias
            assert heads_N.sum() == pytest.approx(said[layer], abs=2e-5 * size)


def test_the_lens_ends_in_the_logits(llm):
    lens = glass.logit_lens(llm, IDS, best=5, follow=[7])
    logits_TV = llm.logits(IDS)
    order_TV = np.argsort(-logits_TV, axis=1, kind="stable")
    np.testing.assert_allclose(
        lens.top_logits[-1], np.take_along_axis(logits_TV, order_TV[:, :5], 1), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(lens.probabilities[-1][:, 0], softmax(logits_TV)[:, 7], rtol=1e-3, atol=1e-7)
    np.testing.assert_array_equal(lens.ranks[-1][:, 0], (logits_TV > logits_TV[:, [7]]).sum(axis=1))
    assert len(lens.points) == len(points_of(llm, IDS))


def test_what_is_changed_goes_on_changed(llm):
    """The stream set to that of another text at the last layer gives the other text's logits."""
    last = len(llm.config.layers) - 1
    other = SHORT[20:32]
    got = glass.patch(llm, IDS, other, "l_out", last)
    np.testing.assert_array_equal(got, llm.logits(other))
    zeros = glass.ablate(llm, IDS, "result_output", -1)
    assert not zeros.any()


@pytest.mark.parametrize("weights", ["int8", "mapped"])
def test_other_ways_to_hold_weights_are_watched_alike(weights, llama_path):
    llm = llmcore.load(llama_path, weights=weights)
    _, logits = seen_in(llm, IDS)
    np.testing.assert_array_equal(logits, llm.logits(IDS))
    votes = glass.votes(llm, IDS, int(logits[-1].argmax()))
    assert votes.logit == pytest.approx(float(logits[-1].max()), abs=1e-4)


def test_changed_shares_are_what_heads_find(llama):
    """All heads of layer 1 look at the first token alone: they find its value."""

    def first(name, layer, shares_NTS):
        if layer != 1:
            return None
        new = np.zeros_like(shares_NTS)
        new[:, :, 0] = 1
        return new

    found = glass.keep(llama.watched(first, ["kq_soft_max"]), IDS, ["kqv_out", "Vcur"])
    value_KV = found["Vcur", 1][0]
    want_F = np.repeat(value_KV, llama.config.layers[1].mixer.n_heads // len(value_KV), axis=0).ravel()
    np.testing.assert_allclose(found["kqv_out", 1], np.tile(want_F, (len(IDS), 1)), rtol=1e-6)


def test_long_texts_are_kept_whole(llama):
    """600 tokens run in two chunks; shares and rows are those of a run token by token."""
    ids = np.random.default_rng(0).integers(3, 250, 600)[: llama.context_length]
    rows = [0, 87, 88, len(ids) - 1]
    kept = glass.keep(llama, ids, ["kq_soft_max", "l_out"], rows)
    assert kept["kq_soft_max", 0].shape == (4, 4, len(ids))
    np.testing.assert_allclose(kept["kq_soft_max", 0].sum(axis=2), 1, rtol=1e-6)
    assert not kept["kq_soft_max", 0][:, 1, 88:].any()
    whole = glass.keep(llama, ids, ["l_out"])
    for i in range(len(llama.config.layers)):
        np.testing.assert_array_equal(kept["l_out", i], whole["l_out", i][rows])


def test_wrong_wishes_are_refused(llama):
    with pytest.raises(ValueError, match="nothing is named 'l_in' in a pass; there are inp_embd"):
        llama.watch(IDS, print, ["l_in"])
    with pytest.raises(ValueError, match=r"l_out of layer 0 has the shape \(12, 64\)"):
        llama.watch(IDS, lambda *_: np.zeros(3), ["l_out"])
    with pytest.raises(ValueError, match="read-only"):
        llama.watch(IDS, lambda name, layer, array: array.fill(0), ["l_out"])
    with pytest.raises(ValueError, match="layer 7 has no l_out"):
        glass.ablate(llama, IDS, "l_out", 7)
    with pytest.raises(ValueError, match="no attention head 9"):
        glass.head_at(llama, 0, 9)


def test_what_see_returns_is_copied(llama):
    """The pass adds into its arrays; what the watcher keeps stays as it was."""
    mine = np.ones((len(IDS), 64), np.float32)
    llama.watch(IDS, lambda name, layer, array: mine, ["attn_out"])
    assert (mine == 1).all()
