"""A conversation without a screen: messages in, events out. A terminal, a server or a test is one reader of
it.

Each answer is one prompt, the whole conversation so far. The cache of the answer before holds nearly all of
it already, so only what is new is processed.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile

from ..errors import ContextOverflow
from ..llm import LLM
from ..sampling import Sampling
from ..tokenizers.streaming import STOP_STRING, Splitter, TextDecoder, stop_strings
from .prompt import encode_chat

THINK, THOUGHT = "<think>", "</think>"  # what reasoning models write around their reasoning
CLOSED = "closed"  # how an answer ends whose reader went away


@dataclass(frozen=True)
class Text:
    """A piece of the answer, one event a token; it may be empty."""

    piece: str
    is_reasoning: bool


@dataclass(frozen=True)
class Dropped:
    """The oldest n turns were dropped, since the conversation did not fit into the context."""

    n: int


@dataclass(frozen=True)
class Done:
    """The answer is complete, and is the last message."""

    end: str  # END_OF_TEXT, STOP_STRING, ... CLOSED
    n_prompt: int  # tokens of the prompt that were processed
    n_cached: int  # ... and those that the cache held
    times: list[float]  # when the answer began, and when each of its tokens came, in seconds


@dataclass
class Session:
    """A model, messages, and what the cache holds of them: the one thing that changes from answer to answer."""

    llm: LLM
    sampling: Sampling | None = None  # None: what the file says, else the defaults
    max_tokens: int | None = None  # of an answer; None: as many as the context holds
    draft: int | None = None  # tokens to guess ahead, see speed/drafting.py
    stop: str | list[str] = ()
    messages: list[dict] = field(default_factory=list)
    last: Done | None = None  # what the last answer cost
    template: dict = field(default_factory=dict)  # variables for the chat template

    def __post_init__(self):
        """Begin with an empty cache."""
        self._stops = stop_strings(self.stop)
        self.sampling = self.llm.sampling() if self.sampling is None else self.sampling
        self._cache, self._ids = (
            self.llm.empty_cache(),
            [],
        )  # the cache holds the first tokens of these, and no others

    def answer(
        self, *, seed: int | None = None, drop_oldest: bool = False
    ) -> Iterator[Text | Dropped | Done]:
        """Have the last message answered; the answer is appended to the messages, whole or as far as it was
        read.

        Whoever closes the iterator stops the answer. Raises ContextOverflow if the conversation does not fit
        and its oldest turns shall not be dropped, and what `encode_chat` raises; then the messages stay as
        they were.
        """
        prompt_ids, n_dropped = self._fit(drop_oldest)
        if n_dropped:
            yield Dropped(n_dropped)
        ids = self._as_written(prompt_ids)
        # One token at least is left to process: its logits choose the next.
        n_cached = self._cache.truncate(min(n_equal(self._ids, ids), len(ids) - 1))
        self._ids = list(ids)
        times, written, end = [time.perf_counter()], [], CLOSED
        thinking = self.llm.tokenizer.decode(ids[-8:], special=True).rstrip().endswith(THINK)
        if thinking:
            written.append(THINK + "\n")
        try:
            for token, event in self._events(ids, seed, thinking, times):
                end = token.end or end
                written.append(event.piece)
                yield event
            end = STOP_STRING if end == CLOSED else end
        finally:
            text = "".join(written)
            if text.rfind(THINK) > text.rfind(THOUGHT):
                text += f"\n{THOUGHT}\n\n"  # or the template would not know what to leave out
            if len(times) > 1:
                self.messages.append({"role": "assistant", "content": text})
            self.last = Done(end, len(ids) - n_cached, n_cached, times)
        yield self.last

    def _events(self, ids, seed, thinking, times):
        """(token, piece of text) for each token, until the answer ends or a stop string comes."""
        max_tokens = self.max_tokens or self.llm.context_length
        options = {"sampling": self.sampling, "seed": seed, "draft": self.draft, "cache": self._cache}
        decoder, stops = TextDecoder(self.llm.tokenizer), Splitter(self._stops)
        tags = Splitter([THOUGHT if thinking else THINK])
        for token in self.llm.tokens(ids, max_tokens=max_tokens, **options):
            if len(times) == 1:
                self._cache.keep()  # the next answer may have to come back to the end of this prompt
            times.append(time.perf_counter())
            self._ids.append(token.id)
            found = list(stops.feed(*decoder.feed(token)))
            stopped = any(mark for _, mark in found)
            pieces = [text for text, _ in found[: 1 if stopped else None]]
            if token.end and not stopped:
                pieces.append(stops.rest())
            for piece in pieces or [""]:
                for text, is_reasoning in told_apart(tags, piece):
                    yield token, Text(text, is_reasoning)
            if token.end or stopped:
                yield token, Text(tags.rest(), tags.marks == [THOUGHT])
                return

    def _fit(self, drop_oldest):
        """(the ids of the conversation, how many turns were dropped so that they fit)."""
        ids, size = self._encoded(self.messages), self.llm.context_length
        room = min(self.max_tokens or size, size // 4)  # for the answer
        problem = f"the conversation has {len(ids)} tokens with this message, the context holds {size}"
        messages, n_dropped = list(self.messages), 0
        while drop_oldest and len(ids) > size - room and len(starts := turns(messages)) > 1:
            del messages[starts[0] : starts[1]]
            n_dropped += 1
            ids = self._encoded(messages)
        if len(ids) > size:
            raise ContextOverflow(problem)
        self.messages = messages
        return ids, n_dropped

    def _encoded(self, messages):
        return encode_chat(self.llm.tokenizer, messages, template=self.template)

    def _as_written(self, ids: list[int]) -> list[int]:
        """The same text in the tokens of the last prompt and answer as far as these spell it, control tokens
        aside.

        A model may write "Hello" as He, llo; read anew, in the one token Hello, the text would not match the
        cache.
        """
        bytes_of, known, spelled, n = self.llm.tokenizer.token_bytes, self._ids, list(ids), 0
        while (n := n + n_equal(known[n:], spelled[n:])) < min(len(known), len(spelled)):
            run = list(takewhile(bytes_of, known[n:]))  # a control token has no bytes
            text, end, other = b"".join(map(bytes_of, run)), n, b""
            while len(other) < len(text) and end < len(spelled) and (piece := bytes_of(spelled[end])):
                other, end = other + piece, end + 1
            if not run or text != other:
                break
            spelled[n:end] = run
        return spelled if len(spelled) <= self.llm.context_length else ids


def told_apart(tags: Splitter, piece: str) -> Iterator[tuple[str, bool]]:
    """(text, whether it is reasoning); the tags count as reasoning and may span pieces."""
    any_text = False
    for text, tag in tags.feed(piece):
        any_text, thinking = True, tags.marks == [THOUGHT]
        if tag:
            tags.marks = [THINK if thinking else THOUGHT]
        yield (text + tag if tag and thinking else text), thinking
        if tag and not thinking:
            yield tag, True
    if not any_text:
        yield "", tags.marks == [THOUGHT]


def n_equal(a: list, b: list) -> int:
    """How many items two lists begin with in common.

    >>> n_equal([1, 2, 3], [1, 2, 4, 5])
    2
    """
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def turns(messages: list[dict]) -> list[int]:
    """Where the turns of talk begin: the places of the user's messages."""
    return [i for i, message in enumerate(messages) if message["role"] == "user"]
