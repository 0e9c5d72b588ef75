"""What the page tells of a run is what the run did: votes, lens, shares, states, in every family."""

import numpy as np
import pytest
from make_tiny_model import FAMILIES, make
from same_model import LONG, SHORT

import llmcore
from llmcore import glass
from llmcore.glass.keeping import keep
from llmcore.glass.lens import best_of, row_lens
from llmcore.glass.memory import Memory, conv_shares, recurrent_of
from llmcore.glass.stream import POINTS, points_in
from llmcore.glass.votes import row_votes
from llmcore.mixers.kda import KDA
from llmcore.mixers.mamba import Mamba
from llmcore.mixers.mamba2 import Mamba2
from llmcore.mixers.rwkv7 import Rwkv7
from llmcore.mixers.shortconv import ShortConv
from llmcore.model import prefill

IDS = SHORT[:12]


@pytest.fixture(scope="module", params=FAMILIES)
def llm(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("scenes") / "m.gguf"
    make(request.param, path)
    return llmcore.load(path)


@pytest.fixture(scope="module")
def votes(llm):
    """Logits, points of the stream, and the votes of all rows for the best and the second best."""
    logits_TV = llm.logits(IDS)
    kept = keep(llm, IDS, [*POINTS, "kqv_out", "attn_out"])
    points = points_in(kept, llm.config)
    targets_TK = np.argsort(-logits_TV, axis=1, kind="stable")[:, :2]
    return logits_TV, points, targets_TK, row_votes(llm, points, kept, targets_TK)


def before_softcap(logits, cap):
    return logits if cap is None else cap * np.arctanh(logits.astype(np.float64) / cap)


def test_votes_of_all_rows_sum_to_the_logits(llm, votes):
    logits_TV, _, targets_TK, found = votes
    want = before_softcap(np.take_along_axis(logits_TV, targets_TK, 1), llm.config.final_softcap)
    size = np.abs(logits_TV).max()
    np.testing.assert_allclose(found.logits, want, atol=3e-5 * size)
    np.testing.assert_allclose(found.pieces.sum(axis=0) + found.bias, found.logits, atol=1e-9 * size)


def test_votes_of_rows_are_those_of_one_position(llm, votes):
    _, _, targets_TK, found = votes
    for position in (0, 11):
        target, other = (int(i) for i in targets_TK[position])
        one = glass.votes(llm, IDS, target, rather_than=other, position=position)
        got_P = found.pieces[:, position, 0] - found.pieces[:, position, 1]
        np.testing.assert_allclose(got_P, [vote for _, _, vote in one.pieces], rtol=1e-6, atol=1e-7)
        for layer, votes_N in one.heads.items():
            got_N = found.heads[layer][position, :, 0] - found.heads[layer][position, :, 1]
            np.testing.assert_allclose(got_N, votes_N, rtol=1e-3, atol=1e-5)


def test_heads_and_bias_sum_to_their_layer(llm, votes):
    logits_TV, points, _, found = votes
    mixers = {p.layer: piece for p, piece in zip(points, found.pieces, strict=True) if p.piece == "mixer"}
    for layer, heads_TNK in found.heads.items():
        mixer = llm.weights.layers[layer].mixer
        if hasattr(mixer, "attention") or mixer.attn_output.bias is not None:
            continue  # the rest is the other mixer's, or the bias
        np.testing.assert_allclose(heads_TNK.sum(axis=1), mixers[layer], atol=3e-5 * np.abs(logits_TV).max())


def test_the_lens_of_rows_is_the_lens_of_positions(llm, votes):
    logits_TV, points, targets_TK, _ = votes
    found = row_lens(llm, points, targets_TK)
    whole = glass.logit_lens(llm, IDS)
    np.testing.assert_allclose(found.top_probabilities, whole.top_probabilities, rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(found.last_logits, whole.top_logits[-1], rtol=1e-4, atol=1e-4)
    assert found.followed.shape == (12, 6)
    for t in (0, 11):
        followed = [int(i) for i in found.followed[t] if i >= 0]
        assert followed[:2] == targets_TK[t].tolist()
        assert len(set(followed)) == len(followed)
        want_F = (logits_TV[t] > logits_TV[t, followed][:, None]).sum(axis=1)
        np.testing.assert_array_equal(found.ranks[-1, t, : len(followed)], want_F)
        assert ((found.top_ids[:, t, :1] == followed).any(axis=1)).mean() > 0.5  # leaders are followed


def test_the_best_are_found_in_order():
    logits_TV = np.float32([[3, 1, 3, 2], [0, 0, 0, 0]])
    np.testing.assert_array_equal(best_of(logits_TV, 3), [[0, 2, 3], [0, 1, 2]])
    many = np.random.default_rng(0).integers(0, 50, (3, 100)).astype(np.float32)
    want = np.argsort(-many, axis=1, kind="stable")
    np.testing.assert_array_equal(best_of(many, 8), want[:, :8])
    np.testing.assert_array_equal(best_of(many, 20), want[:, :20])


# Recurrent layers


def followed(llm, ids, rows, cuts):
    """The memory of a run in several passes, and the arrays that were seen in it."""
    memory, seen = Memory(llm, np.asarray(rows)), {}

    def see(name, layer, array):
        seen.setdefault((name, layer), []).append(array.copy())

    watched = llm.watched(memory.see, memory.names).watched(see)
    cache = watched.empty_cache()
    for part in np.split(np.asarray(ids), cuts):
        list(prefill(watched.weights, llm.config, part, cache))
    return memory, seen


def recurrence(plan, weights, seen, layer):
    """The state after each token, and what it reads there, by a plain loop in float64."""

    def get(name):
        return np.concatenate(seen[name, layer]).astype(np.float64)

    states, reads = [], []
    if isinstance(plan, Rwkv7):
        all_T6HK = get("rwkv")
        s = np.zeros((all_T6HK.shape[2], all_T6HK.shape[3], all_T6HK.shape[3]))
        for r, w, k, v, a, c in all_T6HK:
            for n in range(len(s)):
                s[n] = s[n] @ (np.diag(w[n]) - np.outer(c[n], a[n] * c[n])) + np.outer(v[n], k[n])
            states.append(s.copy())
            reads.append(np.stack([one @ q for one, q in zip(s, r, strict=True)]))
    elif isinstance(plan, Mamba):
        u, dt, b, c, a = get("conv_out"), get("dt"), get("B"), get("C"), weights.ssm_a.astype(np.float64)
        s = np.zeros(a.shape)
        for t in range(len(u)):
            s = np.exp(dt[t][:, None] * a) * s + np.outer(dt[t] * u[t], b[t])
            states.append(s)
            reads.append(s @ c[t])
    elif isinstance(plan, Mamba2):
        x, dt, b, c, a = get("conv_out"), get("dt"), get("B"), get("C"), weights.ssm_a.astype(np.float64)
        J = plan.n_heads // plan.n_groups
        s = np.zeros((plan.n_heads, x.shape[2], b.shape[2]))
        for t in range(len(x)):
            s = np.stack(
                [
                    np.exp(dt[t, n] * a[n]) * s[n] + np.outer(dt[t, n] * x[t, n], b[t, n // J])
                    for n in range(len(s))
                ]
            )
            states.append(s)
            reads.append(np.stack([s[n] @ c[t, n // J] for n in range(len(s))]))
    else:
        q, k, v, g, beta = (get(name) for name in ("q_conv", "k_conv", "v_conv", "gate", "beta"))
        H, P = k.shape[1:]
        s = np.zeros((H, P, P))
        for t in range(len(k)):
            for n in range(H):
                s[n] = np.diag(np.exp(np.broadcast_to(g[t, n], P))) @ s[n]
                s[n] = s[n] + np.outer(k[t, n], beta[t, n] * (v[t, n] - s[n].T @ k[t, n]))
            states.append(s.copy())
            reads.append(np.stack([one.T @ (one_q / np.sqrt(P)) for one, one_q in zip(s, q[t], strict=True)]))
    return states, reads


def layers_of(llm, kinds):
    found = [(i, *recurrent_of(llm, i)) for i in range(len(llm.config.layers))]
    return [one for one in found if one[1] is not None and isinstance(one[1], ShortConv) == kinds]


def test_a_plain_loop_gives_the_states_and_what_is_left_of_each_token(llm):
    """Followed in passes of 9, 1, 1 and 1 tokens; what all tokens leave sums to the state's reading."""
    if not layers_of(llm, False):
        pytest.skip("no recurrent layer")
    memory, seen = followed(llm, IDS, range(12), [9, 10, 11])
    for layer, plan, weights in layers_of(llm, False):
        states, _ = recurrence(plan, weights, seen, layer)
        size = np.abs(states[-1]).max()
        np.testing.assert_allclose(seen["new_state", layer][-1], states[-1], atol=2e-6 * size, rtol=1e-5)
        np.testing.assert_allclose(memory.states[layer], states[-1], atol=2e-6 * size, rtol=1e-5)
        kept = memory.kept[layer]
        np.testing.assert_allclose(kept.size, [np.linalg.norm(s) for s in states], rtol=1e-4)
        for t, (read_M, left_M) in enumerate(zip(kept.read, kept.left, strict=True)):
            assert len(read_M) == len(left_M) == t + 1
            assert read_M.sum() == pytest.approx(1, abs=1e-4)
            assert left_M[-1] == pytest.approx(1, abs=1e-6)
        assert all(((lanes > 0) & (lanes <= 1)).all() for lanes in kept.lanes)
        # Without the last token's write, the state is that before, faded
        assert kept.written[0] == pytest.approx(np.linalg.norm(states[0]), rel=1e-4)


def test_what_is_left_of_a_token_is_what_its_absence_takes_away(llm):
    """A run of the recurrence in which token 3 writes nothing differs in the state by what is left of it."""
    if not layers_of(llm, False):
        pytest.skip("no recurrent layer")
    memory, seen = followed(llm, IDS, range(12), [])
    for layer, plan, weights in layers_of(llm, False):
        states, reads = recurrence(plan, weights, seen, layer)
        silent = {key: [array.copy() for array in arrays] for key, arrays in seen.items()}
        if isinstance(plan, Rwkv7):
            silent["rwkv", layer][0][3, 3] = 0
        else:
            name = "conv_out" if isinstance(plan, Mamba | Mamba2) else "v_conv"
            silent[name, layer][0][3] = 0
        without, reads_without = recurrence(plan, weights, silent, layer)
        part = reads[-1] - reads_without[-1]
        share = (part * reads[-1]).sum() / (reads[-1] ** 2).sum()
        assert memory.kept[layer].read[-1][3] == pytest.approx(share, abs=1e-4)
        wrote = np.linalg.norm(states[3] - without[3])
        left = np.linalg.norm(states[-1] - without[-1]) / wrote
        assert memory.kept[layer].left[-1][3] == pytest.approx(left, abs=1e-4)


def test_tokens_that_are_not_followed_are_in_the_state_all_the_same(llm):
    if not layers_of(llm, False):
        pytest.skip("no recurrent layer")
    rows = np.array([0, *range(90, 100)])
    memory, seen = followed(llm, LONG[:100], rows, [])
    whole, _ = followed(llm, LONG[:100], range(100), [98])
    for layer, _, _ in layers_of(llm, False):
        size = np.abs(seen["new_state", layer][-1]).max()
        np.testing.assert_allclose(memory.states[layer], seen["new_state", layer][-1], atol=1e-5 * size)
        np.testing.assert_allclose(memory.kept[layer].size, np.array(whole.kept[layer].size)[rows], rtol=1e-4)
        np.testing.assert_allclose(
            memory.kept[layer].left[-1], whole.kept[layer].left[-1][rows], rtol=1e-3, atol=1e-6
        )


def test_shares_of_a_short_convolution(llm):
    """The shares of its tokens are parts of what it found, which a plain sum gives."""
    if not layers_of(llm, True):
        pytest.skip("no short convolution")
    memory, seen = followed(llm, IDS, range(12), [9, 10, 11])
    for layer, plan, weights in layers_of(llm, True):
        b, c, u = np.split(np.concatenate(seen["bcx", layer]).astype(np.float64), 3, axis=1)
        found = np.concatenate(seen["conv_output_gated", layer])
        for t in range(12):
            parts = [
                c[t] * weights.conv[:, w] * (b[s] * u[s] if (s := t - plan.kernel_width + 1 + w) >= 0 else 0)
                for w in range(plan.kernel_width)
            ]
            np.testing.assert_allclose(sum(parts), found[t], rtol=1e-4, atol=1e-6)
            want = [part @ found[t] / (found[t] @ found[t]) for part in parts]
            np.testing.assert_allclose(memory.convs[layer][t][: plan.kernel_width], want, atol=1e-5)
    np.testing.assert_array_equal(conv_shares(np.zeros((2, 3)), np.zeros(3), np.zeros((3, 2))), [0, 0])


def test_kda_has_lanes_for_its_heads(tmp_path):
    make("kimi-linear", tmp_path / "m.gguf")
    llm = llmcore.load(tmp_path / "m.gguf")
    memory, _ = followed(llm, IDS, range(12), [])
    layer, plan, _ = next(one for one in layers_of(llm, False) if isinstance(one[1], KDA))
    assert memory.kept[layer].lanes[0].shape == (plan.n_heads,)
