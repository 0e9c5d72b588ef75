"""The loop and its edges: stop strings, split characters, the end of the context, what is refused."""

import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rewrite import rewrite

import llmcore
from llmcore.llm import LLM
from llmcore.loader import read_gguf
from llmcore.quants import dequantize
from llmcore.sampling import Sampling
from llmcore.tokenizers.streaming import (
    CONTEXT_FULL,
    END_OF_TEXT,
    MAX_TOKENS,
    Splitter,
    Token,
    decode_tokens,
    stop_strings,
)

GREEDY = Sampling(temperature=0)


def until_stop(pieces, stop):
    """The text in pieces up to the first stop string."""
    splitter = Splitter(stop_strings(stop))
    for piece in pieces:
        for text, mark in splitter.feed(piece):
            if text:
                yield text
            if mark:
                return
    if rest := splitter.rest():
        yield rest


def test_a_stop_string_may_span_pieces():
    assert list(until_stop(["Hel", "lo, wo", "rld! EN", "D of it"], "END")) == ["Hel", "lo, wo", "rld! "]


def test_what_only_looked_like_a_stop_string_is_released():
    assert list(until_stop(["a E", "N", "d"], ["END"])) == ["a ", "ENd"]
    assert list(until_stop(["a EN"], ["END"])) == ["a ", "EN"]


def test_the_stop_string_that_is_complete_first_wins():
    assert "".join(until_stop(["one two three"], ["three", "two"])) == "one "
    assert "".join(until_stop(["one two three"], ["one two three", "two"])) == "one "
    assert "".join(until_stop(["one two three"], ["two", "e two"])) == "on"


@given(st.lists(st.text("ab", max_size=4)), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_stop_strings_cut_the_joined_text(pieces, stops):
    text = ""
    for character in "".join(pieces):
        text += character
        if complete := [stop for stop in stops if text.endswith(stop)]:
            text = text.removesuffix(max(complete, key=len))
            break
    assert "".join(until_stop(pieces, stops)) == text


def test_a_text_is_not_read_on_after_its_stop_string():
    def pieces():
        yield "a stop b"
        raise AssertionError("asked for more")

    assert list(until_stop(pieces(), "stop")) == ["a "]


@pytest.mark.parametrize("stop", ["", ["a", ""]])
def test_an_empty_stop_string_is_refused_at_once(stop):
    with pytest.raises(ValueError, match="a stop string is ''; it must be a text of at least one character"):
        stop_strings(stop)


def streamed(token_bytes):
    """The pieces of tokens that have these bytes."""
    tokenizer, last = (
        SimpleNamespace(token_bytes=lambda i: token_bytes[i], token_text=lambda i: ""),
        len(token_bytes) - 1,
    )
    return list(
        decode_tokens(tokenizer, (Token(i, None, MAX_TOKENS if i == last else None) for i in range(last + 1)))
    )


def test_a_character_waits_until_its_bytes_are_whole():
    wave, l_stroke = "👋".encode(), "ł".encode()
    assert streamed([b"hi ", wave[:1], wave[1:3], wave[3:] + l_stroke[:1], l_stroke[1:]]) == [
        "hi ",
        "👋",
        "ł",
    ]


def test_a_character_that_the_end_cuts_in_two_is_left_out():
    assert streamed([b"hi ", "👋".encode()[:2]]) == ["hi "]


def test_bytes_that_never_become_a_character_are_shown():
    assert streamed([b"hi ", "👋".encode()[:2], b"!"]) == ["hi ", "\ufffd!"]


@given(st.text(), st.lists(st.integers(1, 5)))
def test_pieces_join_to_the_text_however_it_is_cut(text, sizes):
    data, cut = text.encode(), [0]
    for size in sizes:
        cut.append(cut[-1] + size)
    assert "".join(streamed([data[a:b] for a, b in zip(cut, [*cut[1:], None], strict=True)])) == text


@pytest.mark.parametrize(
    "value", [2.5, 2.0, "3", None, True, np.float32(2), [2], 0, -1, np.int64(-1)], ids=repr
)
@pytest.mark.parametrize("name", ["max_tokens", "draft", "batch", "context_length", "threads"])
def test_a_count_that_is_not_whole_is_refused_by_name(llama, llama_path, name, value):
    if value is None and name != "max_tokens" and name != "batch":
        pytest.skip("None is the default")
    calls = dict.fromkeys(["max_tokens", "draft"], lambda options: llama.generate("a", **options))
    calls |= dict.fromkeys(
        ["context_length", "threads"], lambda options: llmcore.load(llama_path, **{name: options[name]})
    )
    calls["batch"] = lambda options: list(llama.generate_batch(["a"], **options))
    with pytest.raises(ValueError, match=rf"^{name} is .*; it must be a whole number, 1 or more$"):
        calls[name]({"max_tokens": 1} | {name: value})


def test_numpy_counts_too(llama):
    options = {"temperature": 0, "ignore_eos": True}
    plain = "".join(llama.generate([1, 2], max_tokens=5, **options))
    assert (
        "".join(
            llama.generate([1, 2], max_tokens=np.uint8(5), seed=np.int32(3), draft=np.int64(2), **options)
        )
        == plain
    )


@pytest.mark.parametrize(
    "tensor", ["token_embd", "blk.1.ffn_down", "blk.2.attn_norm", "output_norm", "output"]
)
@pytest.mark.parametrize("damage", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_told(llama_path, tmp_path, tensor, damage):
    weights = read_gguf(llama_path).tensors[f"{tensor}.weight"]
    values = dequantize(weights.data, weights.type).copy()
    values.flat[: values.size // 2] = damage
    llm = llmcore.load(rewrite(llama_path, tmp_path / "m.gguf", tensors={f"{tensor}.weight": values}))
    with (
        np.errstate(all="ignore"),
        pytest.raises(llmcore.ModelFileError, match="logits after 2 tokens are not finite"),
    ):
        list(llm.generate([1, 2], max_tokens=3, temperature=0))
    with (
        np.errstate(all="ignore"),
        pytest.raises(llmcore.ModelFileError, match="logits after 2 tokens are not finite"),
    ):
        list(llm.generate_batch([[1, 2], [1, 5]], max_tokens=3, seed=0))


def test_greedy_text_is_the_argmax_of_logits(llama):
    ids = [1, 50, 60]
    for _ in range(10):
        ids.append(int(llama.logits(ids)[-1].argmax()))
    tokens = list(llama.tokens([1, 50, 60], max_tokens=10, sampling=GREEDY, seed=None, ignore_eos=True))
    assert [token.id for token in tokens] == ids[3:]
    assert [token.end for token in tokens] == [None] * 9 + [MAX_TOKENS]


def test_generation_ends_with_any_token_of_the_end_set(llama):
    ids = [
        token.id for token in llama.tokens([1, 50], max_tokens=8, sampling=GREEDY, seed=None, ignore_eos=True)
    ]
    third = ids.index(ids[2])  # where that token comes first
    tokenizer = replace(llama.tokenizer, eog_ids={ids[2]})
    ending = LLM(llama.config, tokenizer, llama.weights, 512)
    tokens = list(ending.tokens([1, 50], max_tokens=8, sampling=GREEDY, seed=None))
    assert [token.id for token in tokens] == ids[: third + 1]
    assert tokens[-1].end == END_OF_TEXT
    # ... and that token is no text, unless the caller wants to go on
    text = "".join(ending.generate([1, 50], max_tokens=8, temperature=0))
    whole = "".join(ending.generate([1, 50], max_tokens=8, temperature=0, ignore_eos=True))
    assert text == "".join(decode_tokens(llama.tokenizer, (Token(i, None) for i in ids[:third])))
    assert whole == "".join(decode_tokens(llama.tokenizer, (Token(i, None) for i in ids)))


def test_a_seed_repeats_itself(llama):
    def text(seed):
        return "".join(
            llama.generate("hello", max_tokens=20, temperature=2, top_p=1, top_k=0, min_p=0, seed=seed)
        )

    assert text(7) == text(7)
    assert len({text(seed) for seed in range(5)}) == 5


def test_a_full_context_ends_the_text_and_says_so(llama_path):
    llm = llmcore.load(llama_path, context_length=8)
    tokens = list(llm.tokens([1] * 5, max_tokens=50, sampling=GREEDY, seed=None, ignore_eos=True))
    assert [token.end for token in tokens] == [None, None, None, CONTEXT_FULL]  # the last is never read
    with pytest.warns(UserWarning, match="context of 8 tokens is full"):
        list(llm.generate([1] * 8, max_tokens=50, ignore_eos=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(llm.generate([1] * 7, max_tokens=2, ignore_eos=True))


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(llama_path):
    llm = llmcore.load(llama_path, context_length=8)
    for call in (llm.logits, lambda ids: llm.generate(ids, max_tokens=1)):
        with pytest.raises(llmcore.ContextOverflow, match=r"9 tokens.* 8"):
            call([1] * 9)


def test_a_context_past_the_trained_one_is_warned_of(llama_path):
    with pytest.warns(UserWarning, match="1000 tokens is more than the 512"):
        llmcore.load(llama_path, context_length=1000)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prompt": []}, "prompt is empty"),
        ({"prompt": [1, 288]}, "token id 288 is not in the vocabulary of 288"),
        ({"prompt": [-1]}, "token id -1"),
        ({"prompt": [0.5]}, "whole numbers"),
        ({"prompt": [[1, 2]]}, "whole numbers"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"top_p": 2.0}, "top_p is 2.0"),
        ({"stop": ["a", ""]}, "a stop string is ''"),
        ({"stop": [3]}, "a stop string is 3"),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused_before_anything_runs(llama, arguments, words):
    with pytest.raises(ValueError, match=words):
        llama.generate(**({"prompt": [1], "max_tokens": 1} | arguments))


def test_load_refuses_what_it_cannot_do(llama_path):
    with pytest.raises(ValueError, match=r"weights is 'int4'; it must be one of auto, float32"):
        llmcore.load(llama_path, weights="int4")
    with pytest.raises(ValueError, match="context_length is 0"):
        llmcore.load(llama_path, context_length=0)
    with pytest.raises(ValueError, match="threads is 0; it must be a whole number, 1 or more"):
        llmcore.load(llama_path, threads=0)


def test_a_model_that_does_not_fit_is_refused_before_memory_is_taken(llama_path, monkeypatch):
    monkeypatch.setattr("llmcore.llm.available_memory", lambda: 100_000)
    monkeypatch.setattr("llmcore.llm.map_weights", None)
    with pytest.raises(MemoryError, match=r"takes 0\.0 GB as float32, and 0\.0 GB of memory are free"):
        llmcore.load(llama_path, weights="float32")


def test_a_prompt_has_one_bos_even_if_it_brings_its_own(llama):
    assert llama.tokenizer.add_bos
    bos = llama.tokenizer.token_text(llama.tokenizer.bos_id)
    assert llama.encode_prompt(bos + "a").count(llama.tokenizer.bos_id) == 1
    assert llama.encode_prompt("a").count(llama.tokenizer.bos_id) == 1


def test_a_vocabulary_without_tensors_opens_as_a_tokenizer_only(llama_path, tmp_path):
    data, kept = llama_path.read_bytes(), tmp_path / "vocabulary.gguf"
    # the tensor count follows the magic and the version; the list of tensors then counts as BODY
    kept.write_bytes(data[:8] + bytes(8) + data[16:])
    assert llmcore.load_tokenizer(kept).vocab_size == 288
    with pytest.raises(llmcore.ModelFileError, match=r"no tensors; llmcore\.load_tokenizer"):
        llmcore.load(kept)


def test_logits_of_every_position_keep_no_state(llama):
    first = llama.logits([1, 2, 3])
    assert first.shape == (3, 288)
    assert first.dtype == np.float32
    llama.logits([9] * 30)
    np.testing.assert_array_equal(llama.logits([1, 2, 3]), first)
