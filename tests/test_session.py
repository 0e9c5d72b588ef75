"""A conversation without a screen: what its events tell, who may read them, what it keeps between answers."""

import functools
import re
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import FOLDER, make, tiny_llama
from record_delta import VARIANTS
from test_conversation import CHATML, make_model

import llmcore
from llmcore.chat import encode_chat
from llmcore.chat.session import CLOSED, Done, Dropped, Session, Text
from llmcore.errors import ContextOverflow, ModelFileError
from llmcore.sampling import Sampling
from llmcore.tokenizers.streaming import MAX_TOKENS, STOP_STRING

GREEDY = Sampling(temperature=0)
# Leaves earlier thoughts out, as the templates of reasoning models do.
FORGETFUL = CHATML.replace("m.content", "m.content.split('</think>')[-1]")
FAMILIES = ("llama", "lfm2", "qwen35")  # rows alone; rows and short convolutions; rows and a recurrent state


@functools.cache
def plain(family):
    """The path of a random model without a chat template."""
    if family == "llama":
        return tiny_llama()
    path, (kind, options) = Path(FOLDER.name) / f"session-{family}.gguf", VARIANTS[family]
    make(kind, path, **options)
    return path


@functools.cache
def model(family="llama", template=CHATML, **options):
    name = "-".join(map(str, (family, [CHATML, FORGETFUL].index(template), *options.values())))
    path = make_model(Path(FOLDER.name) / f"session-{name}-chat.gguf", template, source=plain(family))
    return llmcore.load(path, **options)


def talk(llm, *texts, **options):
    messages = [{"role": "user", "content": text} for text in texts]
    return Session(llm, **{"sampling": GREEDY, "max_tokens": 12, "messages": messages} | options)


def say(session, text):
    session.messages.append({"role": "user", "content": text})
    return list(session.answer())


def text_of(events):
    return "".join(event.piece for event in events if isinstance(event, Text))


def alone(session, text, **options):
    """What a session that has never answered, and so holds nothing, answers to the same conversation."""
    fresh = Session(
        session.llm, GREEDY, 12, messages=[dict(message) for message in session.messages], **options
    )
    return text_of(say(fresh, text))


def test_the_events_of_an_answer():
    session = talk(model(), "hello")
    prompt = encode_chat(session.llm.tokenizer, session.messages)
    *pieces, done = session.answer()
    assert {type(event) for event in pieces} == {Text}
    assert done == session.last
    assert (done.end, done.n_prompt, done.n_cached, len(done.times)) == (MAX_TOKENS, len(prompt), 0, 1 + 12)
    assert list(done.times) == sorted(done.times)
    assert text_of(pieces) == "".join(session.llm.generate(prompt, max_tokens=12, temperature=0))
    assert session.messages[1:] == [{"role": "assistant", "content": text_of(pieces)}]


@pytest.mark.parametrize("draft", [None, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_cache_holds_changes_no_answer(family, draft):
    session = talk(model(family), draft=draft)
    for text in ("hello there", "and again", "and again and again", "x"):
        expected, before = alone(session, text), session.last
        events = say(session, text)
        assert text_of(events) == expected
        assert (
            before is None or events[-1].n_cached >= before.n_prompt
        )  # at least up to the end of that prompt
    session.messages.pop()
    assert text_of(session.answer()) == expected  # once more, from a cache that is past it
    del session.messages[2:]
    expected = alone(session, "another")
    events = say(session, "another")  # the talk takes another way
    assert (text_of(events), events[-1].n_cached > 0) == (expected, True)


@pytest.mark.parametrize("family", FAMILIES)
def test_thoughts_that_the_template_drops(family):
    """The next prompt parts from the cache at the end of the last: even recurrent layers get there."""
    session = talk(model(family, FORGETFUL))
    first = say(session, "hello")[-1]
    session.messages[-1]["content"] = "<think>" + session.messages[-1]["content"] + "</think>so"
    expected = alone(session, "more")
    events = say(session, "more")
    assert text_of(events) == expected
    assert events[-1].n_cached == first.n_prompt


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n", [1, 5, 12])
def test_closing_stops_the_answer_and_keeps_it(family, n):
    session = talk(model(family), "hello", draft=3)
    events = session.answer()
    read = [next(events) for _ in range(n)]
    events.close()
    assert session.messages[-1] == {"role": "assistant", "content": text_of(read)}
    assert session.last.end == (CLOSED if n < 12 else MAX_TOKENS)
    expected = alone(session, "more")
    assert text_of(say(session, "more")) == expected


def test_an_answer_that_nobody_began_to_read_changes_nothing():
    session = talk(model(), "hello")
    session.answer().close()
    assert (session.messages, session.last) == ([{"role": "user", "content": "hello"}], None)


def test_any_thread_may_read_and_signals_are_left_alone():
    session, found = talk(model(), "hello"), []
    expected, before = text_of(talk(model(), "hello").answer()), signal.getsignal(signal.SIGINT)

    def read():
        events = session.answer()
        found.extend(next(events) for _ in range(3))
        assert signal.getsignal(signal.SIGINT) is before
        other = threading.Thread(target=lambda: found.extend(events))  # one begins, another goes on
        other.start()
        other.join()

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert text_of(found) == expected
    assert isinstance(found[-1], Done)


def test_a_full_context_is_told_in_plain_words_and_dropping_is_an_event():
    session = talk(model(context_length=120))
    say(session, "one " * 8)
    session.messages.append({"role": "user", "content": "two " * 10})
    before = list(session.messages)
    with pytest.raises(ContextOverflow) as overflow:
        next(session.answer())
    assert not re.search(r"--|/\w|python", str(overflow.value))  # neither a command line nor a slash command
    assert session.messages == before
    dropped, *pieces, done = session.answer(drop_oldest=True)
    assert (dropped, done.end) == (Dropped(1), MAX_TOKENS)
    assert [message["content"] for message in session.messages] == ["two " * 10, text_of(pieces)]


def test_a_model_that_cannot_answer_says_so_in_plain_words():
    session = talk(llmcore.load(tiny_llama()), "hello")
    with pytest.raises(ValueError, match="no chat template") as error:
        next(session.answer())
    assert not re.search(r"--|/\w|python", str(error.value))


def test_a_stop_string_that_spans_tokens_and_what_comes_after():
    whole = text_of(talk(model(), "hello").answer())
    stop = whole[4:7]
    session = talk(model(), "hello", stop=[stop])
    *pieces, done = session.answer()
    assert text_of(pieces) == whole[: whole.index(stop)] == session.messages[-1]["content"]
    assert done.end == STOP_STRING
    expected = alone(session, "more", stop=[stop])
    assert text_of(say(session, "more")) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_an_error_in_a_pass_leaves_a_session_that_can_go_on(family, monkeypatch):
    """Of a token's pass, after some are written: the caller takes the message back and asks again."""
    session = talk(model(family), "hello")
    whole = text_of(talk(session.llm, "hello").answer())
    choose, n = llmcore.writing.Writer.choose, iter(range(100))

    def fails(self, logits_V):
        return choose(self, np.full_like(logits_V, np.nan) if next(n) == 5 else logits_V)

    monkeypatch.setattr(llmcore.writing.Writer, "choose", fails)
    with pytest.raises(ModelFileError, match="not finite"):
        list(session.answer())
    monkeypatch.undo()
    del session.messages[1:]
    assert text_of(session.answer()) == whole
