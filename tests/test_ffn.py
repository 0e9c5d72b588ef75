"""Routing against choices worked out by hand, and a mixture against its experts one at a time."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import make, step_of
from rewrite import rewrite

import llmcore
from llmcore.ffn.dense import Dense
from llmcore.ffn.experts import Experts, keep_best_groups, route, run
from llmcore.linear import Float32
from llmcore.loader import read_gguf
from llmcore.quants import dequantize

PLAIN = Experts(
    count=4,
    used=2,
    expert=Dense(8, "swiglu", gated=True),
    shared=None,
    shared_gate=False,
    gating="softmax",
    renormalize=False,
    scale=1.0,
    groups=1,
    groups_used=1,
)
LOGITS = np.log(np.float32([[4, 1, 3, 2]]))  # probabilities 0.4, 0.1, 0.3, 0.2


@pytest.mark.parametrize(
    ("changes", "ids", "weights"),
    [
        ({}, [0, 2], [0.4, 0.3]),
        ({"renormalize": True}, [0, 2], [4 / 7, 3 / 7]),
        ({"gating": "softmax of the chosen"}, [0, 2], [4 / 7, 3 / 7]),
        ({"gating": "sigmoid"}, [0, 2], [4 / 5, 3 / 4]),
        ({"scale": 2.5, "used": 1}, [0], [1.0]),
        # 0.4 + 0.1 and 0.3 + 0.2 tie: the first group wins
        ({"groups": 2, "groups_used": 1}, [0, 1], [0.4, 0.1]),
    ],
    ids=str,
)
def test_route(changes, ids, weights):
    chosen_TU, weights_TU = route(LOGITS, replace(PLAIN, **changes))
    assert chosen_TU.tolist() == [ids]
    np.testing.assert_allclose(weights_TU, [weights], rtol=1e-6)


def test_the_bias_takes_part_in_the_choice_and_not_in_the_weights():
    chosen_TU, weights_TU = route(LOGITS, PLAIN, np.float32([0, 0.5, 0, 0]))
    assert chosen_TU.tolist() == [[1, 0]]
    np.testing.assert_allclose(weights_TU, [[0.1, 0.4]], rtol=1e-6)


def test_groups_are_judged_by_their_two_best():
    scores = np.float32([[9, 0, 0, 5, 5, 0, 4, 3, 3]])  # three groups of three: 9 + 0, 5 + 5, 4 + 3
    kept = keep_best_groups(scores, 3, 2)
    np.testing.assert_array_equal(kept, [[9, 0, 0, 5, 5, 0, -np.inf, -np.inf, -np.inf]])


def test_weights_that_sum_to_nothing_do_not_divide_by_zero():
    _, weights_TU = route(
        np.float32([[-200, -200, -200, -200]]), replace(PLAIN, gating="sigmoid", renormalize=True)
    )
    assert np.isfinite(weights_TU).all()


@pytest.fixture
def mixture(tmp_path):
    """The weights and the plan of one mixture."""
    make("qwen3moe", tmp_path / "m.gguf", experts=8, experts_used=3)
    llm = llmcore.load(tmp_path / "m.gguf")
    return llm.weights.layers[0].ffn, llm.config.layers[0].ffn


def test_a_mixture_is_the_weighted_sum_of_its_experts(mixture):
    w, plan = mixture
    x_TD = np.random.default_rng(0).standard_normal((20, w.ffn_gate_inp.n_in)).astype(np.float32)
    want_TD = np.zeros_like(x_TD, dtype=np.float64)
    for t, x_D in enumerate(x_TD.astype(np.float64)):
        probs_E = np.exp(x_D @ w.ffn_gate_inp.held.w_OI.T)
        probs_E /= probs_E.sum()
        chosen = sorted(range(8), key=lambda e: -probs_E[e])[:3]
        for e in chosen:
            gate_F, up_F = np.split(x_D @ w.ffn_up_exps[e].held.w_OI.T, 2)
            out_D = (gate_F / (1 + np.exp(-gate_F)) * up_F) @ w.ffn_down_exps[e].held.w_OI.T
            want_TD[t] += probs_E[e] / probs_E[chosen].sum() * out_D
    np.testing.assert_allclose(run(x_TD, w, plan, None, step_of(), 0), want_TD, rtol=1e-4, atol=1e-5)


def test_experts_that_nobody_chose_are_not_touched(mixture):
    w, plan = mixture
    x_TD = np.random.default_rng(1).standard_normal((1, w.ffn_gate_inp.n_in)).astype(np.float32)
    (chosen_U,), _ = route(x_TD @ w.ffn_gate_inp.held.w_OI.T, plan)
    poison = replace(w.ffn_up_exps[0], held=Float32(np.full_like(w.ffn_up_exps[0].held.w_OI, np.nan)))
    poisoned = replace(w, ffn_up_exps=[m if e in chosen_U else poison for e, m in enumerate(w.ffn_up_exps)])
    np.testing.assert_array_equal(
        run(x_TD, poisoned, plan, None, step_of(), 0), run(x_TD, w, plan, None, step_of(), 0)
    )


def test_the_layout_of_one_tensor_an_expert_is_the_same_model(tmp_path):
    """Mixtral files of before April 2024 have ffn_up.0.weight, ffn_up.1.weight and so on."""
    make("llama-moe", tmp_path / "new.gguf", experts=4, experts_used=2)
    tensors = read_gguf(tmp_path / "new.gguf").tensors
    merged = [name for name in tensors if "_exps." in name]
    old = {
        name.replace("_exps", f".{e}"): dequantize(part.data, part.type)
        for name in merged
        for e, part in enumerate(tensors[name].part(e) for e in range(4))
    }
    path = rewrite(tmp_path / "new.gguf", tmp_path / "old.gguf", tensors=old, drop=merged)
    assert "blk.0.ffn_gate.3.weight" in read_gguf(path).tensors
    ids = list(range(3, 40))
    np.testing.assert_array_equal(
        llmcore.load(path).logits(ids), llmcore.load(tmp_path / "new.gguf").logits(ids)
    )
