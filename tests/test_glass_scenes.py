"""What the page tells of a run is what the run did: votes, lens, shares, states, in every family."""

import numpy as np
import pytest
from conftest import family_model
from make_tiny_model import FAMILIES, make
from same_model import LONG, SHORT

import llmcore
from llmcore import glass
from llmcore.glass.keeping import keep
from llmcore.glass.lens import best_of, row_lens
from llmcore.glass.memory import Memory, conv_shares, recurrent_of
from llmcore.glass.page import told
from llmcore.glass.page.arrays import unpack
from llmcore.glass.page.scenes import (
    attention,
    experts,
    ffn,
    latent,
    lens,
    memory,
    scenes,
    shortconv,
    wanted,
)
from llmcore.glass.page.scenes import layer as layer_scene
from llmcore.glass.page.scenes import votes as votes_scene
from llmcore.glass.recording import BETWEEN, record
from llmcore.glass.stream import POINTS, points_in
from llmcore.glass.votes import row_votes
from llmcore.loader import read_gguf
from llmcore.mixers.kda import KDA
from llmcore.mixers.mamba import Mamba
from llmcore.mixers.mamba2 import Mamba2
from llmcore.mixers.rwkv7 import Rwkv7
from llmcore.mixers.shortconv import ShortConv
from llmcore.model import prefill
from llmcore.ops import softmax

IDS = SHORT[:12]


@pytest.fixture(scope="module", params=FAMILIES)
def llm(request):
    return family_model(request.param)


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
    following, seen = Memory(llm, np.asarray(rows)), {}

    def see(name, layer, array):
        seen.setdefault((name, layer), []).append(array.copy())

    watched = llm.watched(following.see, following.names).watched(see)
    cache = watched.empty_cache()
    for part in np.split(np.asarray(ids), cuts):
        list(prefill(watched.weights, llm.config, part, cache))
    return following, seen


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
    found, seen = followed(llm, IDS, range(12), [9, 10, 11])
    for layer, plan, weights in layers_of(llm, False):
        states, _ = recurrence(plan, weights, seen, layer)
        size = np.abs(states[-1]).max()
        np.testing.assert_allclose(seen["new_state", layer][-1], states[-1], atol=2e-6 * size, rtol=1e-5)
        np.testing.assert_allclose(found.states[layer], states[-1], atol=2e-6 * size, rtol=1e-5)
        kept = found.kept[layer]
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
    found, seen = followed(llm, IDS, range(12), [])
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
        assert found.kept[layer].read[-1][3] == pytest.approx(share, abs=1e-4)
        wrote = np.linalg.norm(states[3] - without[3])
        left = np.linalg.norm(states[-1] - without[-1]) / wrote
        assert found.kept[layer].left[-1][3] == pytest.approx(left, abs=1e-4)


def test_tokens_that_are_not_followed_are_in_the_state_all_the_same(llm):
    if not layers_of(llm, False):
        pytest.skip("no recurrent layer")
    rows = np.array([0, *range(90, 100)])
    found, seen = followed(llm, LONG[:100], rows, [])
    whole, _ = followed(llm, LONG[:100], range(100), [98])
    for layer, _, _ in layers_of(llm, False):
        size = np.abs(seen["new_state", layer][-1]).max()
        np.testing.assert_allclose(found.states[layer], seen["new_state", layer][-1], atol=1e-5 * size)
        np.testing.assert_allclose(found.kept[layer].size, np.array(whole.kept[layer].size)[rows], rtol=1e-4)
        np.testing.assert_allclose(
            found.kept[layer].left[-1], whole.kept[layer].left[-1][rows], rtol=1e-3, atol=1e-6
        )


def test_shares_of_a_short_convolution(llm):
    """The shares of its tokens are parts of what it found, which a plain sum gives."""
    if not layers_of(llm, True):
        pytest.skip("no short convolution")
    found, seen = followed(llm, IDS, range(12), [9, 10, 11])
    for layer, plan, weights in layers_of(llm, True):
        b, c, u = np.split(np.concatenate(seen["bcx", layer]).astype(np.float64), 3, axis=1)
        out = np.concatenate(seen["conv_output_gated", layer])
        for t in range(12):
            parts = [
                c[t] * weights.conv[:, w] * (b[s] * u[s] if (s := t - plan.kernel_width + 1 + w) >= 0 else 0)
                for w in range(plan.kernel_width)
            ]
            np.testing.assert_allclose(sum(parts), out[t], rtol=1e-4, atol=1e-6)
            want = [part @ out[t] / (out[t] @ out[t]) for part in parts]
            np.testing.assert_allclose(found.convs[layer][t][: plan.kernel_width], want, atol=1e-5)
    np.testing.assert_array_equal(conv_shares(np.zeros((2, 3)), np.zeros(3), np.zeros((3, 2))), [0, 0])


def test_kda_has_lanes_for_its_heads(tmp_path):
    make("kimi-linear", tmp_path / "m.gguf")
    llm = llmcore.load(tmp_path / "m.gguf")
    found, _ = followed(llm, IDS, range(12), [])
    layer, plan, _ = next(one for one in layers_of(llm, False) if isinstance(one[1], KDA))
    assert found.kept[layer].lanes[0].shape == (plan.n_heads,)


# What the scenes put into the page


def run_of(llm, ids, max_tokens=3, more=()):
    path = llm.weights.token_embd.path
    options = {"max_tokens": max_tokens, "seed": 3, "sampling": llm.sampling(), "ignore_eos": True}
    return record(llm, read_gguf(path), np.asarray(ids).tolist(), wanted() | set(more), **options)


@pytest.fixture(scope="module")
def run(llm):
    return run_of(llm, IDS, more=["new_state", "new_conv"])


@pytest.fixture(scope="module")
def long_run(llm):
    return run_of(llm, LONG[:90])


def rows_of_triangle(flat_NK, run, start):
    """(N, K) as rows [(N, columns up to the row's own)], from row `start` on."""
    gap, at = int(run.n_between > 0), 0
    for row in range(start, len(run.rows)):
        width = row + 1 + (gap if row else 0)
        yield row, flat_NK[..., at : at + width]
        at += width
    assert at == flat_NK.shape[-1]


def test_shares_on_the_page_are_those_of_the_run(run, long_run):
    assert BETWEEN in long_run.columns
    for one in (run, long_run):
        assert_shares_of(one)


def assert_shares_of(run):
    part = attention.part(run)
    if part is None:
        assert not run.stack("kq_soft_max")
        return
    for i, one in part["layers"].items():
        want_NRC, flat_NK = run.kept["kq_soft_max", i], unpack(one["shares"])
        for row, shares_NC in rows_of_triangle(flat_NK, run, part["start"]):
            np.testing.assert_allclose(shares_NC, want_NRC[:, row, : shares_NC.shape[1]], atol=0.51 / 65535)
            assert not want_NRC[:, row, shares_NC.shape[1] :].any()
            if not one["sinks"]:
                np.testing.assert_allclose(shares_NC.sum(axis=1), 1, atol=shares_NC.shape[1] * 0.51 / 65535)


def test_single_products_give_the_shares_and_the_shares_what_the_head_found(run):
    part = attention.part(run)
    if part is None:
        return
    for one in part["single"]:
        q_H, k_RH = unpack(one["query"]).astype(np.float64), unpack(one["keys"]).astype(np.float64)
        scores_R = one["scale"] * (k_RH @ q_H)
        if one["softcap"]:
            scores_R = one["softcap"] * np.tanh(scores_R / one["softcap"])
        shares_R = run.kept["kq_soft_max", one["layer"]][one["head"], one["row"], : len(scores_R)]
        seen = shares_R > 0
        want = softmax(scores_R[seen]) * shares_R.sum()  # with sinks the rest of 1 goes nowhere
        np.testing.assert_allclose(shares_R[seen], want, atol=2e-5)
        if "values" in one:
            found_V = unpack(one["found"])
            np.testing.assert_allclose(
                found_V, shares_R @ unpack(one["values"]), atol=1e-4 * np.abs(found_V).max()
            )
    assert [one["row"] for one in part["single"]] == sorted(run.step_rows)


def test_the_stream_on_the_page(run):
    part, points = layer_scene.part(run), told.points(run)
    sizes_PR, added_PR = unpack(part["sizes"]), unpack(part["added"])
    np.testing.assert_allclose(sizes_PR, [np.linalg.norm(p.x_TD, axis=1) for p in points], rtol=1e-5)
    np.testing.assert_allclose(added_PR[0], sizes_PR[0], rtol=1e-5)
    np.testing.assert_allclose(
        added_PR[1], np.linalg.norm(points[1].x_TD - points[0].x_TD, axis=1), rtol=1e-4
    )
    strips_WLD = unpack(part["strips"])
    assert strips_WLD.shape[1] == 1 + len(run.llm.config.layers)
    want_D = run.kept["l_out", len(run.llm.config.layers) - 1][part["strip_rows"][0]]
    np.testing.assert_allclose(strips_WLD[0, -1], want_D, atol=np.abs(want_D).max() / 250)
    assert len(part["mixers"]) == len(part["ffns"]) == len(run.llm.config.layers)


def test_votes_and_lens_on_the_page_end_in_the_logits_of_the_run(run):
    part, seen = votes_scene.part(run), lens.part(run)
    cap = run.llm.config.final_softcap
    pieces_PR2, logits_R2 = unpack(part["pieces"]), unpack(part["logits"])
    sums_R2 = pieces_PR2.sum(axis=0, dtype=np.float64) + unpack(part["bias"])
    size = np.abs(run.logits).max()
    np.testing.assert_allclose(sums_R2, logits_R2, atol=1e-5 * max(size, np.abs(pieces_PR2).max()))
    for row, step in run.step_rows.items():
        want = before_softcap(run.logits[step, told.targets(run)[row]], cap)
        np.testing.assert_allclose(logits_R2[row - part["start"]], want, atol=5e-5 * size)
        at = row - seen["start"]
        best = np.sort(run.logits[step])[::-1][:5]
        np.testing.assert_allclose(unpack(seen["last"])[at], best, atol=5e-5 * size)
        followed = unpack(seen["followed"])[at]
        assert followed[:2].tolist() == told.targets(run)[row].tolist()
        ranks = unpack(seen["ranks"])[-1, at]
        assert ranks[0] == (run.logits[step] > run.logits[step, followed[0]]).sum()
    assert {"layer", "head"} == set(part["first"])


def test_hidden_numbers_on_the_page(run):
    part = ffn.part(run)
    if part is None:
        assert not run.stack("ffn_hidden")
        return
    assert part["rows"] == sorted(run.step_rows)
    for i, one in part["layers"].items():
        hidden_WF = run.kept["ffn_hidden", i][part["rows"]]
        np.testing.assert_allclose(unpack(one["squares"]), hidden_WF, atol=np.abs(hidden_WF).max() / 250)
        best_WB = unpack(one["best"])
        np.testing.assert_array_equal(best_WB[:, 0], np.abs(hidden_WF).argmax(axis=1))
        np.testing.assert_array_equal(unpack(one["values"]), np.take_along_axis(hidden_WF, best_WB, 1))
        for half, one_F in zip(unpack(one["half"]), np.abs(hidden_WF), strict=True):
            by_size = np.sort(one_F)[::-1]
            assert by_size[:half].sum() >= one_F.sum() / 2 * (1 - 1e-6)
            assert by_size[: half - 1].sum() <= one_F.sum() / 2 * (1 + 1e-6)
        if "gate" in one:
            np.testing.assert_allclose(
                unpack(one["through"]) * unpack(one["up"]), unpack(one["values"]), rtol=1e-4, atol=1e-6
            )


def test_neighbours_that_share_a_square_show_the_furthest_from_0():
    found = ffn.strongest_of(np.float32([[1, -3, 2, 0, 5]]), 2)
    np.testing.assert_array_equal(found, [[-3, 2, 5]])


def test_experts_on_the_page(run):
    part = experts.part(run)
    if part is None:
        assert not run.stack("ffn_moe_topk")
        return
    for i, one in part["layers"].items():
        ids_RU, logits_RE = unpack(one["ids"]), run.kept["ffn_moe_logits", i]
        np.testing.assert_array_equal(ids_RU, run.kept["ffn_moe_topk", i])
        np.testing.assert_array_equal(unpack(one["chosen_scores"]), np.take_along_axis(logits_RE, ids_RU, 1))
        if one["sum"] is not None:
            np.testing.assert_allclose(unpack(one["weights"]).sum(axis=1), one["sum"], rtol=1e-5)


def test_states_are_followed_through_the_passes_of_the_run(run):
    """The passes of the run, gone through once more, leave the very states that it left."""
    part = memory.part(run)
    found = run.stack("bcx") or {i: s for (name, i), s in run.states.items() if name == "new_state"}
    if part is None:
        assert "new_state" not in {name for name, _ in run.states}
        return
    assert found
    for i, one in part["layers"].items():
        want = run.states["new_state", i][-1]
        np.testing.assert_allclose(told.memory(run).states[i], want, atol=2e-6 * np.abs(want).max())
        assert unpack(one["size"])[-1] == pytest.approx(np.linalg.norm(want), rel=1e-5)
        left_K, read_K = unpack(one["left"]), unpack(one["read"])
        for row, shares in rows_of_triangle(read_K, run, part["start"]):
            assert shares.sum() == pytest.approx(1, abs=1e-3 * max(1.0, float(np.abs(shares).sum())))
            start = row * (row + 1) // 2 - part["start"] * (part["start"] + 1) // 2
            assert left_K[start + row] == pytest.approx(1, abs=1e-4)


def test_what_lies_between_is_told_of_states_as_well(long_run):
    part = memory.part(long_run)
    if part is None:
        return
    assert long_run.n_between == 26
    for one in part["layers"].values():
        for _, shares in rows_of_triangle(unpack(one["read"]), long_run, part["start"]):
            assert shares.sum() == pytest.approx(1, abs=1e-3 * max(1.0, float(np.abs(shares).sum())))


def test_short_convolutions_and_latent_rows_on_the_page(run):
    part = shortconv.part(run)
    for packed in [] if part is None else part["layers"].values():
        found_RX = unpack(packed)
        assert len(found_RX) == len(run.rows)
        np.testing.assert_allclose(found_RX[:, : part["tokens_seen"]].sum(axis=1), 1, atol=1e-5)
    part = latent.part(run)
    for i, packed in ({} if part is None else part["kept"]).items():
        want = run.kept["Kcur", i][part["rows"], 0]
        np.testing.assert_allclose(unpack(packed), want, atol=np.abs(want).max() / 250)
        assert part["rank"] + part["position"] == want.shape[1]


def test_what_does_not_fit_is_kept_for_fewer_rows(long_run, monkeypatch):
    """At least for those that the model wrote after; every scene says from which row on."""
    monkeypatch.setattr(attention, "PATTERNS", 1)
    monkeypatch.setattr(attention, "SINGLE", 1)
    monkeypatch.setattr(memory, "PATTERNS", 1)
    monkeypatch.setattr(memory, "LANES", 1)
    monkeypatch.setattr(layer_scene, "STRIPS", 1)
    monkeypatch.setattr(ffn, "PICTURES", 1)
    monkeypatch.setattr(told, "LENS_PRODUCTS", 1)
    monkeypatch.setattr(told, "HEAD_PRODUCTS", 1)
    long_run.worked_out.clear()
    first = min(long_run.step_rows)
    parts = {name: scene.part(long_run) for name, scene in scenes().items()}
    for name in ("attention", "memory", "lens", "votes"):
        if parts[name] and (name != "votes" or parts[name]["heads"]):
            assert parts[name]["start"] == first
    assert parts["layer"]["strip_rows"] == [first]
    assert parts["ffn"] is None or parts["ffn"]["rows"] == [first]
    if parts["attention"]:
        assert len(parts["attention"]["single"]) == 1
    long_run.worked_out.clear()


def test_a_prompt_of_several_chunks_is_kept_by_position(tmp_path):
    """550 tokens run in two passes; the shares of the last row are those of one pass over all."""
    make("llama", tmp_path / "m.gguf", context=1024)
    llm = llmcore.load(tmp_path / "m.gguf")
    run = run_of(llm, LONG[:550], max_tokens=2)
    part, seen = attention.part(run), []
    llm.watch(
        run.ids[:550],
        lambda name, i, array: seen.append(array[:, -1].copy()) if i == 0 else None,
        ["kq_soft_max"],
    )
    row = min(run.step_rows)
    shares_NC = dict(rows_of_triangle(unpack(part["layers"][0]["shares"]), run, part["start"]))[row]
    last_NS = seen[-1]
    np.testing.assert_allclose(shares_NC[:, 0], last_NS[:, 0], atol=1e-4)
    np.testing.assert_allclose(shares_NC[:, 1], last_NS[:, 1:487].sum(axis=1), atol=1e-4)
    np.testing.assert_allclose(shares_NC[:, 2:], last_NS[:, 487:], atol=1e-4)
