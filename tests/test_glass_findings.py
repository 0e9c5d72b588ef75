"""What the glass box finds in a real model: how SmolLM2 knows the capital of a country.

Layer 23's head 4 looks from the last word at the country and brings its capital. Three ways to see it, which
need not agree: its direct vote, what is lost without it, and what another country's brings. Probabilities are
told to 0.02: rounding, and kernels of a BLAS, move them by less than 1e-4.
"""

import numpy as np
import pytest
from conftest import real_model

from llmcore import glass
from llmcore.ops import softmax

LAYER, HEAD = 23, 4


@pytest.fixture(scope="module")
def smollm2():
    return real_model("SmolLM2-135M-Instruct.Q4_1.gguf")


def ask(llm, country):
    return llm.tokenizer.encode(f"The capital of {country} is")


def answer(llm, logits_TV):
    """The likeliest next word, and its probability."""
    best = int(logits_TV[-1].argmax())
    return llm.tokenizer.decode([best]), float(softmax(logits_TV[-1])[best])


def test_a_head_carries_paris_to_france(smollm2):
    ids = ask(smollm2, "France")
    paris, the = smollm2.tokenizer.encode(" Paris the")
    votes = glass.votes(smollm2, ids, paris, rather_than=the)
    best = max((vote, layer, head) for layer, of in votes.heads.items() for head, vote in enumerate(of))
    assert best == (pytest.approx(3.16, abs=0.02), LAYER, HEAD)
    shares_S = glass.keep(smollm2, ids, ["kq_soft_max"], [-1])["kq_soft_max", LAYER][HEAD, 0]
    assert smollm2.tokenizer.decode([ids[shares_S.argmax()]]) == " France"
    assert shares_S.max() == pytest.approx(0.90, abs=0.02)


@pytest.mark.parametrize(
    ("country", "capital", "left"),
    [("Italy", " Rome", " the"), ("Russia", " Moscow", " the"), ("China", " Beijing", " New")],
)
def test_without_the_head_the_answer_is_lost(smollm2, country, capital, left):
    ids = ask(smollm2, country)
    assert answer(smollm2, smollm2.logits(ids))[0] == capital
    lost = glass.ablate(smollm2, ids, "kqv_out", LAYER, glass.head_at(smollm2, LAYER, HEAD))
    assert answer(smollm2, lost)[0] == left


def test_without_the_head_paris_falls_from_three_quarters_to_one_seventh(smollm2):
    ids = ask(smollm2, "France")
    without = glass.ablate(smollm2, ids, "kqv_out", LAYER, glass.head_at(smollm2, LAYER, HEAD))
    assert answer(smollm2, smollm2.logits(ids)) == (" Paris", pytest.approx(0.77, abs=0.02))
    assert answer(smollm2, without)[1] == pytest.approx(0.14, abs=0.02)


def test_the_head_of_another_prompt_brings_its_answer(smollm2):
    france, italy = ask(smollm2, "France"), ask(smollm2, "Italy")
    _, numbers = glass.head_at(smollm2, LAYER, HEAD)
    patched = glass.patch(smollm2, france, italy, "kqv_out", LAYER, (slice(-1, None), numbers))
    assert answer(smollm2, patched) == (" Rome", pytest.approx(0.47, abs=0.02))


def test_the_country_is_handed_on_between_layers_22_and_24(smollm2):
    """Before, the stream of the country's word decides the answer; after, that of the last word does."""
    france, italy = ask(smollm2, "France"), ask(smollm2, "Italy")
    for layer, (at_country, at_last) in {22: (" Rome", " Paris"), 24: (" Paris", " Rome")}.items():
        for word, want in ((-2, at_country), (-1, at_last)):
            row = [len(france) + word]
            assert answer(smollm2, glass.patch(smollm2, france, italy, "l_out", layer, row))[0] == want


def test_rows_are_those_of_other_runs(smollm2):
    """A patch in the embedding is the other prompt itself."""
    france, italy = ask(smollm2, "France"), ask(smollm2, "Italy")
    patched = glass.patch(smollm2, france, italy, "inp_embd", -1, [len(france) - 2])
    np.testing.assert_array_equal(patched, smollm2.logits(italy))
