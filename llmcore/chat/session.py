"""A conversation without a screen: messages in, events out. A terminal, a server or a test is one reader of
it.

Each answer is one prompt, the whole conversation so far. The cache of the answer before holds nearly all of
it already, so only what is new is processed.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

from ..errors import ContextOverflow
from ..llm import LLM
from ..sampling import Sampling
from ..speed.cache_file import CacheFile, kept, read_ahead, save
from ..tokenizers.streaming import STOP_STRING, Splitter, TextDecoder, stop_strings
from .prompt import encode_chat
from .reasoning import TAGS, Reasoning, reasoning_of

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
    """A model, messages, and what the cache holds of them: what changes from answer to answer."""

    llm: LLM
    sampling: Sampling | None = None  # None: what the file says, else the defaults
    max_tokens: int | None = None  # of an answer; None: as many as the context holds
    draft: int | None = None  # tokens to guess ahead, see speed/drafting.py
    stop: str | Sequence[str] = ()
    messages: list[dict] = field(default_factory=list)
    last: Done | None = None  # what the last answer cost
    template: dict = field(default_factory=dict)  # variables for the chat template
    draft_model: LLM | None = None  # a smaller model that guesses ahead
    tools: list | None = None  # functions or schemas that the model may call, see `chat.tools_for`
    written: str = ""  # the last answer with its control tokens, which are the markup of calls
    opened: bool = False  # whether its prompt had opened a thought

    def __post_init__(self):
        """Begin with an empty cache."""
        self._stops = stop_strings(self.stop)
        self._thought = reasoning_of(self.llm.tokenizer.chat_template or "")
        self._markers = self._thought or TAGS
        self._cache, self._ids = (
            self.llm.empty_cache(),
            [],
        )  # the cache holds the first tokens of these, and no others

    def answer(
        self, *, seed: int | None = None, drop_oldest: bool = False
    ) -> Generator[Text | Dropped | Done, None, None]:
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
        said: list[str] = []
        thought: list[str] = []
        times, end = [time.perf_counter()], CLOSED
        try:
            for token, event in self._events(ids, seed, times):
                end = token.end or end
                (thought if event.is_reasoning else said).append(event.piece)
                yield event
            end = STOP_STRING if end == CLOSED else end
        finally:
            if len(times) > 1:
                self.messages.append(as_message("".join(said), "".join(thought), self._markers))
            self.last = Done(end, len(ids) - n_cached, n_cached, times)
        yield self.last

    def read_ahead(self, path) -> tuple[int, int]:
        """Read what these messages and any next one begin with, from the file at `path` as far as that has
        it; returns how many tokens these are, and how many the file had.

        Raises what `speed.cache_file.CacheFile` raises.
        """
        one, other = (self._encoded([*self.messages, {"role": "user", "content": x}]) for x in ("?", "A b"))
        ids = one[: n_equal(one, other)]
        self._cache, n_known = read_ahead(self.llm, path, ids)
        self._ids = ids
        return len(ids), n_known

    def save_cache(self, path) -> int:
        """Write what the cache holds to a file; returns of how many tokens that is, none for no file."""
        n = self._cache.truncate(len(self._ids))
        if n:
            save(path, self.llm, self._ids[:n], [kept(self._cache)])
        return n

    def load_cache(self, path) -> int:
        """Have the cache that a file holds, for messages that were loaded; returns of how many tokens.

        Raises what `speed.cache_file.CacheFile` raises.
        """
        file = CacheFile(path, self.llm)
        self._cache = file.cache_for(file.ids)
        self._ids = file.ids[: self._cache.length]
        return self._cache.length

    def _events(self, ids, seed, times):
        """(token, piece of text) for each token, until the answer ends or a stop string comes."""
        max_tokens = self.max_tokens or self.llm.context_length
        sampling = replace(self.sampling or self.llm.sampling(), thought=self._thought)
        options = {"sampling": sampling, "seed": seed, "draft": self.draft, "cache": self._cache}
        options["draft_model"] = self.draft_model
        prompt_end = self.llm.tokenizer.decode(ids[-16:], special=True).rstrip()
        self.written, self.opened = "", prompt_end.endswith(self._markers.open)
        text = Told(self._markers, self._stops, thinking=self.opened)
        decoder = TextDecoder(self.llm.tokenizer)
        for token in self.llm.tokens(ids, max_tokens=max_tokens, **options):
            if len(times) == 1:
                self._cache.keep()  # the next answer may have to come back to the end of this prompt
            times.append(time.perf_counter())
            self._ids.append(token.id)
            piece, shown = decoder.feed(token)
            self.written += piece
            pieces = list(text.feed(piece, shown))
            if token.end and not text.stopped:
                pieces.append(text.rest())
            for piece, is_reasoning in pieces or [("", text.thinking)]:
                yield token, Text(piece, is_reasoning)
            if token.end or text.stopped:
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
        return encode_chat(self.llm.tokenizer, messages, template=self.template, tools=self.tools)

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


class Told:
    """Tells the thought from the answer in a text that arrives in pieces, and finds its stop strings.

    The markers count as reasoning, so that a terminal shows where a thought begins and ends. A marker of
    plain letters opens a thought only where nothing was said before.
    """

    def __init__(self, markers: Reasoning, stops: list[str], thinking: bool = False):
        """`thinking`: the prompt has opened a thought."""
        self.markers, self.stops, self.thinking = markers, stops, thinking
        self.stopped, self._said = False, False
        self._splitter = Splitter(self._marks())

    def feed(self, piece: str, shown: bool = True) -> Iterator[tuple[str, bool]]:
        """(text that is certain now, whether it is reasoning); `piece` may be a hidden control token."""
        for text, mark in self._splitter.feed(piece, shown):
            if not self.thinking and text.strip():
                self._said = True
                self._splitter.marks = self._marks()
            if text:
                yield text, self.thinking
            if mark in self.stops:
                self.stopped = True
                return
            if mark == self.markers.open and self._said and not self.markers.anywhere:
                yield mark, False
            elif mark in (self.markers.open, self.markers.close):
                self.thinking = not self.thinking
                self._splitter.marks = self._marks()
                if shown:
                    yield mark, True

    def rest(self) -> tuple[str, bool]:
        """What was kept back, at the end of the text."""
        return self._splitter.rest(), self.thinking

    def _marks(self):
        if self.thinking:
            return [*self.stops, self.markers.close]
        opens = [self.markers.open] if self.markers.anywhere or not self._said else []
        return [*self.stops, *opens, *self.markers.silent]


def as_message(said: str, thought: str, markers: Reasoning) -> dict:
    """An answer as a message, its thought apart: the template decides which of these it repeats."""
    thought = thought.strip().removeprefix(markers.open).removesuffix(markers.close).strip()
    if not thought:
        return {"role": "assistant", "content": said}
    return {"role": "assistant", "content": said.lstrip("\n"), "reasoning_content": thought}


def n_equal(a: list, b: list) -> int:
    """How many items two lists begin with in common.

    >>> n_equal([1, 2, 3], [1, 2, 4, 5])
    2
    """
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def turns(messages: list[dict]) -> list[int]:
    """Where the turns of talk begin: the places of the user's messages."""
    return [i for i, message in enumerate(messages) if message["role"] == "user"]
