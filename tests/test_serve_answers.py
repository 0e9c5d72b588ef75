"""A streamed answer is the whole one: thoughts, calls and text, however the tokens cut them."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
from test_tools import CASES, RECORD, TEMPLATES

from llmcore.chat import parse_answer
from llmcore.ops import log_softmax
from llmcore.serve.answers import Answer, Chat, Listener, Over, Plain, logprobs_of
from llmcore.serve.metrics import Metrics
from llmcore.tokenizers.streaming import END_OF_TEXT, MAX_TOKENS, Token


class Letters:
    """A tokenizer of pieces of one text; those in <|...|> or [...] capitals are control tokens."""

    def __init__(self, pieces, control):
        self.pieces, self.control = pieces, control

    def token_bytes(self, i, *, special=False):
        return b"" if i in self.control and not special else self.pieces[i]

    def token_text(self, i):
        return self.pieces[i].decode("utf-8", "replace")


def streamed(text, template, *, tools=None, prompt_end="", stops=(), seed=0, control=(), end=MAX_TOKENS):
    """(the deltas, the answer) of a text in random pieces, cut between bytes too; texts in `control` come in
    one piece each, as hidden tokens.
    """
    rng, pieces, hidden, rest = random.Random(seed), [], set(), text
    while rest:
        mark = next((mark for mark in control if rest.startswith(mark)), None)
        upto = min((at for m in control if (at := rest.find(m)) > 0), default=len(rest))
        n = len(mark) if mark else min(rng.randint(1, 6), upto)
        if mark:
            hidden.add(len(pieces))
            pieces.append(mark.encode())
        else:
            data = rest[:n].encode()
            cut = rng.randint(1, len(data))
            pieces += [part for part in (data[:cut], data[cut:]) if part]
        rest = rest[n:]
    tokenizer = Letters(pieces, hidden)
    chat = Chat(tokenizer, template, prompt_end, list(stops), tools)
    heard, answer = [], Answer(chat)
    llm = SimpleNamespace(tokenizer=tokenizer)
    listener = Listener(llm, chat.told(), heard.append, Metrics(), control=bool(tools))
    ids = []
    for i in range(len(pieces)):
        ids.append(i)
        if listener.take(Token(i, None, MAX_TOKENS if i + 1 == len(pieces) else None)):
            break
    listener.close(SimpleNamespace(ids=ids, n_prompt=0), end, None)
    deltas = [answer.finish(h.text, h.end) if isinstance(h, Over) else answer.feed(h) for h in heard]
    return deltas, answer


def joined(deltas):
    calls = [call for delta in deltas for call in delta.tool_calls]
    return "".join(d.content for d in deltas), "".join(d.reasoning for d in deltas), calls


@pytest.mark.parametrize("name", CASES)
def test_what_streams_is_what_the_whole_answer_says(name):
    """Recorded answers with calls, in every format: the text that streams, and the calls at the end."""
    case = CASES[name]
    template, text = TEMPLATES[case["template"].removesuffix(".jinja")], case["output"]
    tools = [RECORD["tools"][tool] for tool in case["tools"]]
    inside = case["starts_in_reasoning"]
    want = parse_answer(text, template, tools=tools, in_reasoning=inside)
    for seed in range(5):
        chat = Chat(None, template, "", [], tools)
        deltas, answer = streamed(
            text, template, tools=tools, seed=seed, prompt_end=chat.markers.open if inside else ""
        )
        content, _, calls = joined(deltas)
        assert calls == want["tool_calls"]
        assert content.strip() == want["content"].strip()
        assert answer.content == content


CHATML = "<|im_start|>{{ messages }}<think>"


@pytest.mark.parametrize(
    ("text", "prompt_end", "content", "reasoning"),
    [
        ("Hello there, żółw 🐢!", "", "Hello there, żółw 🐢!", ""),
        ("<think>\nhm, so\n</think>\n\nWell. ", "", "Well. ", "hm, so"),
        ("hm <b>\n</think>\n\nWell", "assistant\n<think>\n", "Well", "hm <b>"),
        ("Say <think> aloud</think>", "", "Say <think> aloud</think>", ""),
        ("<think>cut", "", "", "cut"),
        (" <think>a</think>b", "", "b", "a"),
        ("\n \n", "", "\n \n", ""),
        ("  \n spaces \n", "", "  \n spaces \n", ""),
    ],
)
def test_thoughts_without_their_markers(text, prompt_end, content, reasoning):
    for seed in range(20):
        deltas, _ = streamed(text, CHATML, prompt_end=prompt_end, seed=seed)
        assert joined(deltas) == (content, reasoning, [])


def test_an_answer_ends_before_its_stop_string():
    for seed in range(20):
        deltas, _ = streamed("one two three", CHATML, stops=["two", "ee"], seed=seed)
        assert joined(deltas) == ("one ", "", [])


def test_text_streams_until_a_call_may_begin():
    """With tools, too: a bracket is held back until it is clear that no call follows."""
    hermes = next(t for t in TEMPLATES.values() if "<tool_call>" in t and "<think>" not in t)
    tools = [RECORD["tools"][next(iter(RECORD["tools"]))]]
    text = "First a < b in words. " + "And so it goes on and on. " * 8
    deltas, answer = streamed(text, hermes, tools=tools)
    assert joined(deltas)[0] == text
    early = "".join(d.content for d in deltas[: len(deltas) // 2])
    assert len(early) > len(text) // 4
    assert answer.content == text


def test_half_a_character_at_the_end_is_left_out():
    data = "ab🐢".encode()
    tokenizer = Letters([data[:3], data[3:4]], set())
    heard = []
    listener = Listener(SimpleNamespace(tokenizer=tokenizer), Plain([]), heard.append, Metrics())
    listener.take(Token(0, None))
    listener.take(Token(1, None, END_OF_TEXT))
    assert "".join(piece for said in heard for piece, _ in said.pieces) == "ab"


@pytest.mark.parametrize("n", [0, 1, 5, 50])
def test_log_probabilities_of_the_most_likely(n):
    logits_V = np.random.default_rng(n).normal(size=50).astype(np.float32)
    told = logprobs_of(Token(7, logits_V), n)
    want = log_softmax(logits_V.astype(np.float64))
    assert told.logprob == want[7]
    assert told.top == sorted(enumerate(want.tolist()), key=lambda pair: -pair[1])[:n]
