"""Guessed tokens: where the guesses come from, and that they change nothing but the speed."""

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import FOLDER, make, real_model
from hypothesis import given, settings
from hypothesis import strategies as st
from make_tiny_model import FAMILIES
from test_model import REAL

import llmcore
from llmcore.cache import State
from llmcore.llm import LLM
from llmcore.model import forward, unembed
from llmcore.sampling import Sampling
from llmcore.speed import drafting
from llmcore.speed.drafting import DRAFT, FIRST, LONGEST, SHORTEST, Lookup, SmallModel, lookup
from llmcore.tokenizers.streaming import CONTEXT_FULL, END_OF_TEXT, MAX_TOKENS

GREEDY, HOT = (
    Sampling(temperature=0),
    Sampling(temperature=1.5, top_k=0, top_p=1, min_p=0, repeat_penalty=1.1),
)


@pytest.mark.parametrize(
    ("text", "n_most", "draft"),
    [
        ("abcdXabc", 4, "dXab"),
        ("abcdXabc", 2, "dX"),
        ("abc1abc2abc", 1, "2"),  # the most recent occurrence ...
        ("xabc1abc2xabc", 1, "1"),  # ... of the longest end that there is
        ("abcabc", 5, "abcab"),  # what followed ends with the text, so it goes round
        ("aaaa", 3, "aaa"),  # occurrences may overlap
        ("abXab", 4, ""),  # two tokens are no match
        ("abcdef", 4, ""),
        ("a", 4, ""),
    ],
)
def test_lookup_by_hand(text, n_most, draft):
    assert lookup(np.frombuffer(text.encode(), np.uint8), n_most, 3) == list(draft.encode())


def test_a_longer_match_may_be_asked_for():
    ids_S = np.array([1, 2, 3, 4, 5, 9, 1, 2, 3, 4, 5])
    assert lookup(ids_S, 1, 5) == [9]
    assert lookup(ids_S, 1, 6) == []
    assert lookup(np.array([1, 2, 9, 2]), 1, 1) == [9]


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(1, 6), st.integers(1, 5))
def test_lookup_finds_what_a_loop_finds(ids, n_most, n_match):
    best, start = 0, None
    for end in range(1, len(ids)):  # an earlier occurrence ends before this place
        n = 0
        while n < min(end, LONGEST) and ids[end - 1 - n] == ids[-1 - n]:
            n += 1
        if n >= max(best, n_match):
            best, start = n, end
    expected, longer = [], list(ids)
    while start is not None and len(expected) < n_most:
        expected.append(longer[start + len(expected)])
        longer.append(expected[-1])
    assert lookup(np.array(ids), n_most, n_match) == expected


def test_after_drafts_that_were_not_worth_it_a_longer_match_is_needed():
    assert (SHORTEST, LONGEST) == (6, 24)
    guesser, needed = Lookup(DRAFT), [6]
    for n_written in (1, 2, 1, 1, 3, 8, 3):
        after(guesser, 7, n_written)
        needed.append(guesser.n_match)
    assert needed == [6, 12, 24, 24, 24, 12, 6, 6]


def after(guesser, n_guessed, n_written):
    """What the guesser has learned once a pass that wrote so many tokens checked a guess of so many."""
    guesser.n_guessed, guesser.n_before = n_guessed, 100
    guesser(list(range(100 + n_written)), 50)  # nothing repeats itself here
    return guesser.n_next


def test_only_after_a_draft_that_was_right_comes_a_long_one():
    assert (FIRST, DRAFT) == (7, 15)
    # Tokens of the draft, and of its pass: one more than right
    written = [(7, 1), (7, 7), (7, 8), (15, 15), (15, 16)]
    assert [after(Lookup(DRAFT), *tokens) for tokens in written] == [7, 7, 15, 7, 15]
    assert after(Lookup(3), 3, 1) == after(Lookup(3), 3, 4) == 3


def run(llm, prompt, draft, **options):
    """(ids, how the text ended, rows of each pass but the prompt's); the cache holds what is true."""
    cache, rows = llm.empty_cache(), []
    commit = cache.commit

    def noting(n_tokens):
        rows.append(n_tokens)
        assert cache.length + n_tokens <= llm.context_length
        commit(n_tokens)

    cache.commit = noting
    options = {"max_tokens": 60, "sampling": GREEDY, "seed": 1, "ignore_eos": True} | options
    tokens = []
    for token in llm.tokens(prompt, draft=draft, cache=cache, **options):
        tokens.append((token.id, token.end))
    ids, ends = zip(*tokens, strict=True)
    return ids, ends, rows[1:]


@pytest.mark.parametrize("sampling", [GREEDY, HOT], ids=["greedy", "hot"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_text_is_that_without_drafts(family, sampling, tmp_path, monkeypatch):
    """With guesses of which some are right, some are wrong in the first token and some later. Windows are 8
    wide.
    """
    make(family, tmp_path / "m.gguf")
    llm = llmcore.load(tmp_path / "m.gguf")
    *plain, passes = run(llm, [5, 6, 7], None, sampling=sampling)
    known, n_wrong = [5, 6, 7, *plain[0]], []

    def guess(ids_S, n_most, n_match):
        draft = known[len(ids_S) : len(ids_S) + n_most]
        at = int(np.random.default_rng(len(ids_S)).integers(8))
        if at < len(draft):
            draft[at] = (draft[at] + 1) % 288
            n_wrong.append(at)
        return draft

    monkeypatch.setattr(drafting, "lookup", guess)
    *drafted, fewer = run(llm, [5, 6, 7], 5, sampling=sampling)
    assert drafted == plain
    assert set(passes) == {1}
    recurrent = any(isinstance(kept, State) for kept in llm.empty_cache().layers)
    assert max(fewer) == 6
    assert len(fewer) < (50 if recurrent else 30)  # a state goes back to before the guess, and catches up
    assert {0, 2, 3} <= set(n_wrong)


def almost(llm, size=0.3):
    """A model that often finds another token the most likely: its last gains are changed at random."""
    norm = llm.weights.output_norm
    noise = np.random.default_rng(3).normal(1, size, norm.gain.shape).astype(np.float32)
    return replace(llm, weights=replace(llm.weights, output_norm=replace(norm, gain=norm.gain * noise)))


@pytest.mark.parametrize("sampling", [GREEDY, HOT], ids=["greedy", "hot"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "lfm2", "mamba2", "rwkv7"])
def test_the_text_is_that_without_a_draft_model(family, sampling, tmp_path):
    """With the model itself, one that is almost the same, and a small one of other weights."""
    make(family, tmp_path / "m.gguf")
    make("llama", tmp_path / "s.gguf", layers=1)
    llm, other = llmcore.load(tmp_path / "m.gguf"), llmcore.load(tmp_path / "s.gguf")
    small = {"itself": llm, "almost": almost(llm), "other": replace(other, tokenizer=llm.tokenizer)}
    *plain, _ = run(llm, [5, 6, 7], None, sampling=sampling)
    passes = {}
    for name, model in small.items():
        for draft in (None, 4):  # with the text's own repetitions, and without
            *drafted, rows = run(llm, [5, 6, 7], draft, sampling=sampling, draft_model=model)
            assert drafted == plain
            passes[name, draft] = len(rows)
    if sampling is GREEDY:  # guesses of the model itself are right, but for roundings of likely equals
        assert passes["itself", None] < 20 < passes["other", None]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 6), max_size=12), st.sampled_from(["llama", "lfm2"]))
def test_a_small_model_guesses_what_follows_the_text(n_rights, family):
    """Whatever was right of its guesses before: the same as without a cache, a token at a time."""
    small = tiny_small(family)
    guesser, ids = SmallModel(small, 6), [5, 6, 7]
    for n_right in n_rights:
        guess = guesser(ids, 5)
        want, longer = [], list(ids)
        for _ in guess:
            want.append(int(small.logits(longer)[-1].argmax()))
            longer.append(want[-1])
        assert guess == want
        assert 1 <= len(guess) <= 5
        ids = [*ids, *guess[:n_right], (guess[min(n_right, len(guess) - 1)] + 1) % 288]


@functools.cache
def tiny_small(family):
    path = Path(FOLDER.name) / f"small-{family}.gguf"
    make(family, path)
    return llmcore.load(path)


def test_how_many_tokens_a_small_model_guesses(llama):
    guesser, ids, lengths = SmallModel(llama, 6), [5, 6, 7], []
    for n_right in (0, 0, 1, 9, 9, 9, 3):
        guess = guesser(ids, 50)
        lengths.append(len(guess))
        ids = [*ids, *guess[:n_right], 1]
    assert lengths == [6, 1, 1, 4, 6, 6, 6]  # the third guess was right: twice the two tokens it wrote
    assert len(guesser(ids, 50)) == 4
    full = SmallModel(replace(llama, context_length=len(ids) + 2), 6)
    assert len(full(ids, 50)) == 2
    assert full([*ids, 1, 2, 3], 50) == []


@pytest.fixture
def scripted(llama, monkeypatch):
    """`scripted(prompt, text, ...)`: a run of a model that says that text, whatever its logits are; three
    tokens that stood before are enough for a draft.
    """
    monkeypatch.setattr(drafting, "SHORTEST", 3)

    def start(prompt, text, draft, context_length=512, end_ids=(), **options):
        script = [*prompt, *text]
        monkeypatch.setattr("llmcore.writing.sample", lambda logits_V, ids, *_: script[len(ids)])
        tokenizer = replace(llama.tokenizer, eog_ids=frozenset(end_ids))
        llm = LLM(llama.config, tokenizer, llama.weights, context_length)
        return run(llm, prompt, draft, ignore_eos=False, **options)

    return start


def test_a_pass_writes_the_guesses_that_are_right_and_one_token_more(scripted):
    prompt, text = [4, 5, 6, 9, 4, 5, 8, 7, 4, 5], [6, 9, 4, 5, 6, 9, 4, 5, 100, 101, 102]
    ids, ends, rows = scripted(prompt, text, 4, max_tokens=len(text))
    assert list(ids) == text
    assert ends == (None,) * 10 + (MAX_TOKENS,)
    # 4 5 6 came before: 9 4 5 8 is guessed, 9 4 5 are right and 6 stands in the place of 8. Then 9 4 5 6 is a
    # guess from 4 5 6: 9 4 5 again right, and 100 in the place of 6. Nothing of that came before.
    assert rows == [5, 5, 1, 1]


@pytest.mark.parametrize("n", range(1, 25))
def test_ends_within_a_draft(scripted, n):
    """The text goes round in circles of four; it ends with its n-th token, for each reason there is."""
    circle = [5, 6, 7, 8] * 8
    for options in ({"max_tokens": n}, {"max_tokens": 99, "context_length": 12 + n - 1}):
        *plain, _ = scripted(circle[:12], circle, None, **options)
        *drafted, rows = scripted(circle[:12], circle, 7, **options)
        assert drafted == plain
        assert plain[0] == tuple(circle[:n])
        assert plain[1][-1] == (MAX_TOKENS if "context_length" not in options else CONTEXT_FULL)
        assert len(rows) <= n / 8 + 1


@pytest.mark.parametrize("n", range(20))
def test_an_end_token_may_be_guessed(scripted, n):
    passage, end = list(range(10, 10 + n)), 99
    prompt = [5, 6, 7, *passage, end, 5, 6, 7]
    *plain, _ = scripted(prompt, [*passage, end], None, end_ids={end})
    *drafted, rows = scripted(prompt, [*passage, end], 7, end_ids={end})
    assert drafted == plain
    assert plain[:2] == [(*passage, end), (None,) * n + (END_OF_TEXT,)]
    assert len(rows) == (n + 7) // 8


def test_a_stop_string_within_a_draft(llama, monkeypatch):
    options = {"max_tokens": 60, "temperature": 0, "ignore_eos": True}
    text = "".join(llama.generate("hello", **options))
    ids = llama.encode_prompt("hello")
    ids += [token.id for token in llama.tokens(ids, max_tokens=60, sampling=GREEDY, seed=0, ignore_eos=True)]
    monkeypatch.setattr(drafting, "lookup", lambda ids_S, n_most, _: ids[len(ids_S) : len(ids_S) + n_most])
    for stop in {text[at : at + 3] for at in range(0, len(text) - 3, 4)}:
        assert "".join(llama.generate("hello", stop=stop, draft=7, **options)) == text[: text.index(stop)]


def test_a_text_that_is_left_in_the_middle_of_a_draft_leaves_what_is_true(scripted, llama):
    cache = llama.empty_cache()
    scripted([5, 6, 7, 8] * 3, [5, 6, 7, 8] * 4, None, max_tokens=1)
    tokens = llama.tokens([5, 6, 7, 8] * 3, max_tokens=50, sampling=GREEDY, seed=0, draft=7, cache=cache)
    text = [5, 6, 7, 8] * 3 + [next(tokens).id for _ in range(11)]
    tokens.close()
    assert cache.length >= 12 + 10  # it may be ahead: the caller truncates it
    assert cache.truncate(len(text) - 1) == len(text) - 1
    x_TD = forward(llama.weights, llama.config, [(np.array(text[-1:]), cache)])
    np.testing.assert_allclose(
        unembed(llama.weights, llama.config, x_TD)[0], llama.logits(text)[-1], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("draft", [0, -1])
def test_a_draft_of_nothing_is_refused(llama, draft):
    with pytest.raises(ValueError, match=f"draft is {draft}; it must be a whole number, 1 or more"):
        llama.generate("x", max_tokens=1, draft=draft)


@pytest.mark.parametrize(
    ("file", "case"),
    [
        pytest.param(file, case, marks=[pytest.mark.slow] * (i > 0))
        for file in REAL
        for i, case in enumerate(REAL[file])
    ],
    ids=lambda x: x if isinstance(x, str) else x["name"],
)
def test_real_models_write_the_same_with_drafts(file, case):
    llm = real_model(file)
    ids, *_ = run(llm, case["ids"], 15, max_tokens=48)
    assert list(ids) == case["greedy"]
