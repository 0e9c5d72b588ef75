"""Each model with recurrent layers is the same model in steps, in drafts, in batches and after going back."""

import numpy as np
import pytest
import test_recurrent
import test_state_space
from same_model import LONG, SHORT, assert_close, in_steps, logits_of

from llmcore.mixers.state import MARKS
from llmcore.model import forward, prefill, unembed
from llmcore.sampling import Sampling
from llmcore.writing import Writer, write

MODELS = {name: room.model for room in (test_recurrent, test_state_space) for name in room.FAMILIES}
FAMILIES = tuple(MODELS)


def model(name):
    return MODELS[name](name)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("sizes", [[1] * 40, [7, 1, 13, 19], [39, 1]], ids=["ones", "mixed", "last"])
def test_steps_equal_one_pass(name, sizes):
    assert_close(in_steps(model(name), SHORT, sizes), in_steps(model(name), SHORT, [40]))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    "sizes", [[300, *[1] * 40, 260], [64] * 9 + [24], [599, 1]], ids=["some", "chunks", "last"]
)
def test_a_text_of_600_tokens(name, sizes):
    llm = model(name)
    chunks = prefill(llm.weights, llm.config, LONG, llm.empty_cache())
    by_chunks = np.concatenate([unembed(llm.weights, llm.config, x_TD) for x_TD in chunks])
    whole = in_steps(llm, LONG, [600])
    assert_close(by_chunks, whole)
    assert_close(in_steps(llm, LONG, sizes), whole)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    "sampling", [Sampling(temperature=0), Sampling(temperature=2, top_p=1)], ids=["cold", "hot"]
)
def test_drafts_equal_no_drafts(name, sampling):
    """Guesses of which some are right, some wrong in the first token, some later."""
    llm = model(name)

    def text(guesser=lambda ids, n: []):
        writer = Writer([5, 6, 7], sampling, 1, max_tokens=60, context_length=512, end_ids=())
        return [token.id for token in write(llm.weights, llm.config, writer, llm.empty_cache(), guesser)]

    plain, wrong = text(), []
    known = [5, 6, 7, *plain]

    def guess(ids, n_most):
        draft = known[len(ids) : len(ids) + min(5, n_most)]
        at = int(np.random.default_rng(len(ids)).integers(8))
        if at < len(draft):
            draft[at] = (draft[at] + 1) % 288
            wrong.append(at)
        return draft

    assert text(guess) == plain
    assert {0, 2, 3} <= set(wrong)


@pytest.mark.parametrize("name", FAMILIES)
def test_truncate_to_every_length_and_on(name):
    """The answer is heeded: what the cache then lacks is processed again."""
    llm = model(name)
    for length in range(41):
        cache = llm.empty_cache()
        for size in (20, 10, 1, 1, 8):
            logits_of(llm, SHORT[cache.length : cache.length + size], cache)
        reached = cache.truncate(length)
        assert reached == cache.length == (40 if length == 40 else 32 if length >= 32 else 0)
        other = [*SHORT[:length], 9, 8, 7]
        assert_close(logits_of(llm, other[reached:], cache), llm.logits(other)[reached:])


@pytest.mark.parametrize("name", FAMILIES)
def test_places_that_were_asked_for_are_kept(name):
    llm, cache = model(name), model(name).empty_cache()
    for n in range(1, MARKS + 3):
        logits_of(llm, SHORT[cache.length : 5 * n], cache)
        cache.keep()
        logits_of(llm, SHORT[:2], cache)
        assert cache.truncate(5 * n) == 5 * n
    assert cache.truncate(5 * n - 3) == 5 * n - 5
    assert_close(logits_of(llm, SHORT[5 * n - 5 :], cache), llm.logits(SHORT)[5 * n - 5 :])


@pytest.mark.parametrize("name", FAMILIES)
def test_texts_that_share_a_pass_do_not_see_each_other(name):
    llm, one, two = model(name), model(name).empty_cache(), model(name).empty_cache()
    alone, other = llm.logits(SHORT), llm.logits(LONG[::-1][:200])
    for a, b, c, d in ((0, 9, 0, 1), (9, 10, 1, 100), (10, 40, 100, 101), (40, 40, 101, 200)):
        texts = [(ids, cache) for ids, cache in ((SHORT[a:b], one), (LONG[::-1][c:d], two)) if len(ids)]
        logits_TV = unembed(llm.weights, llm.config, forward(llm.weights, llm.config, texts))
        if b > a:
            assert_close(logits_TV[: b - a], alone[a:b])
        assert_close(logits_TV[b - a :], other[c:d])


@pytest.mark.parametrize("name", FAMILIES)
def test_texts_written_together_are_those_written_alone(name):
    prompts = [[5, 6, 7], [9] * 80, [3, 100, 4, 200]]
    options = {"max_tokens": 20, "temperature": 0, "ignore_eos": True}
    alone = ["".join(model(name).generate(prompt, **options)) for prompt in prompts]
    assert list(model(name).generate_batch(prompts, batch=2, **options)) == alone
