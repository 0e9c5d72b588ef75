"""Tokens -> what a client is told: pieces of text, of a thought, calls of tools, log-probabilities.

A `Listener` works on the engine's thread, since a stop string ends a text there and then; what it hears goes
to the thread of the requests, where an `Answer` puts it together.
"""

import codecs
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..chat import parse_answer
from ..chat.formats import format_of
from ..chat.reasoning import TAGS, reasoning_of
from ..chat.session import Told
from ..llm import LLM
from ..ops import log_softmax
from ..tokenizers.streaming import END_OF_TEXT, Splitter, TextDecoder, Token, overlap

# Where a call of a tool may begin, beside control tokens
SUSPECT = re.compile(r"[<\[{`]|>>>|functools|function call|to=")
WORDS = (">>>", "functools", "function call", "to=")
WIDE = 80  # characters after which a suspicion that has not proved true is dropped


class Logprobs(NamedTuple):
    """A token's id and log-probability, and those of the most likely ones."""

    id: int
    logprob: float
    top: list[tuple[int, float]]


class Said(NamedTuple):
    """One token: the text that is certain with it, (piece, is a thought); `control` is a hidden token."""

    pieces: list[tuple[str, bool]]
    control: str = ""
    logprobs: Logprobs | None = None
    thought: bool = False
    is_end: bool = False  # the end-of-text token, which is no part of the text


class Over(NamedTuple):
    """A text is over."""

    text: Any
    end: str
    error: Exception | None


class Plain:
    """A text without thoughts, read as `chat.session.Told` reads one with them."""

    thinking = False

    def __init__(self, stops: list[str]):
        """Nothing is read."""
        self.stops, self.stopped = stops, False
        self._splitter = Splitter(stops)

    def feed(self, piece: str, shown: bool = True):
        """(text that is certain now, False)."""
        for text, mark in self._splitter.feed(piece, shown):
            if text:
                yield text, False
            if mark:
                self.stopped = True
                return

    def rest(self) -> tuple[str, bool]:
        """What was kept back, at the end of the text."""
        return self._splitter.rest(), False


class Listener:
    """Hears the tokens of one text, on the engine's thread, and puts what they say for another."""

    def __init__(self, llm: LLM, told, put: Callable, metrics, n_top: int | None = None, control=False):
        """`told`: Told or Plain; `n_top`: tell log-probabilities, and so many of the most likely tokens;
        `control`: show control tokens.
        """
        self._told, self._put, self._metrics = told, put, metrics
        self._tokenizer, self._n_top, self._control = llm.tokenizer, n_top, control
        self._decoder, self._last = TextDecoder(llm.tokenizer), time.perf_counter()
        self._n_tokens = 0

    def take(self, token: Token) -> bool:
        """The next token; returns whether a stop string ends the text."""
        self._observe()
        thought = self._told.thinking
        text, shown = self._decoder.feed(token)
        pieces = list(self._told.feed(text, shown or self._control))
        if token.end and not self._told.stopped:
            pieces.append(self._told.rest())
        is_end = token.end == END_OF_TEXT
        logprobs = None if self._n_top is None or is_end else logprobs_of(token, self._n_top)
        self._put(Said(pieces, "" if shown else text, logprobs, thought or self._told.thinking, is_end))
        return self._told.stopped

    def close(self, text, end: str, error: Exception | None) -> None:
        """The text is over."""
        self._put(Over(text, end, error))

    def _observe(self):
        now = time.perf_counter()
        name = "time_between_tokens_seconds" if self._n_tokens else "time_to_first_token_seconds"
        self._metrics.observe(name, now - self._last)
        self._last, self._n_tokens = now, self._n_tokens + 1


def logprobs_of(token: Token, n: int) -> Logprobs:
    """The log-probabilities of a token and of the n most likely, before any filter of sampling."""
    logprobs_V = log_softmax(token.logits.astype(np.float64))
    best = np.argpartition(-logprobs_V, n - 1)[:n] if n else np.array([], int)
    best = best[np.lexsort((best, -logprobs_V[best]))]
    return Logprobs(token.id, float(logprobs_V[token.id]), [(int(i), float(logprobs_V[i])) for i in best])


@dataclass
class Delta:
    """What is new in an answer."""

    content: str = ""
    reasoning: str = ""
    logprobs: list[Logprobs] = field(default_factory=list)
    tool_calls: list[dict] = field(default_factory=list)

    def __bool__(self):
        return bool(self.content or self.reasoning or self.logprobs or self.tool_calls)


class Answer:
    """Puts one answer together: the thought without its markers, and what is surely no call of a tool."""

    def __init__(self, chat: "Chat | None" = None):
        """`chat`: how the model thinks and calls; None for a text that is only continued."""
        self.chat = chat
        self.n_tokens = self.n_thought = 0
        self.content = self.reasoning = ""
        self._pending = ""  # white space that may be the end of a thought
        self._lead: str | None = ""  # white space before anything else is said; None once something is
        self._watch = Watch(chat.template) if chat and chat.tools else None

    def feed(self, said: Said) -> Delta:
        """What a token adds."""
        self.n_tokens += not said.is_end
        self.n_thought += said.thought and not said.is_end
        before = len(self.content), len(self.reasoning)
        for piece, is_thought in said.pieces:
            if self.chat is None:
                self.content += piece
            elif is_thought:
                self.reasoning += self._thought(piece)
            else:
                self.content += self._said(piece, said.control)
        logprobs = [said.logprobs] if said.logprobs and not said.thought else []
        return Delta(self.content[before[0] :], self.reasoning[before[1] :], logprobs)

    def finish(self, text, end: str) -> Delta:
        """What the end adds: calls, and text that looked like one."""
        if self._watch is None or self.chat is None:
            rest = "" if self.reasoning else self._lead or ""
            self.content += rest
            return Delta(rest)
        self.tool_calls, content = self.chat.read(text, end)
        rest = content[len(self.content) :] if content.startswith(self.content) else ""
        self.content += rest
        return Delta(rest, tool_calls=self.tool_calls)

    def _thought(self, piece):
        """A piece of a thought; white space at its ends and its markers are left out."""
        if piece in (self.chat.markers.open, self.chat.markers.close):
            self._lead = self._lead and ""
            return ""
        piece = self._pending + piece if self.reasoning else piece.lstrip()
        kept = piece.rstrip()
        self._pending = piece[len(kept) :]
        return kept

    def _said(self, piece, control):
        """A piece of what is said; white space before the thought, and line ends behind it, are left out."""
        if self._lead is not None:
            piece = self._lead + piece
            if not piece.strip():
                self._lead = piece
                return ""
            piece = piece.lstrip("\n" if self._watch is None else None) if self.reasoning else piece
            self._lead = None
        return piece if self._watch is None else self._watch.feed(piece, control)


class Watch:
    """Keeps back what may be the beginning of a call, from there on to the end of the answer.

    Only all of an answer can be read for calls (`chat.parse_answer`); until then what is surely text goes on.
    """

    def __init__(self, template: str):
        """Nothing is kept back."""
        form = format_of(template)
        begin = form.begin if form else r"(?!)"
        if form and form.messages:  # their headers
            begin = r"\A\s*to=|<\|"
        self._begin, self._text, self._controls = re.compile(begin), "", set[str]()
        self._calling = r"(?:\A|" in begin  # any word at the start may be the name of a tool

    def feed(self, piece: str, control: str = "") -> str:
        """What is surely text now."""
        self._text += piece
        self._controls |= {control} - {""}
        if self._calling:
            return ""
        found = self._begin.search(self._text)
        starts = [self._text.find(control) for control in self._controls if control in self._text]
        starts += [found.start()] if found else []
        self._calling = bool(starts)
        end = min(starts, default=len(self._text))
        suspect = SUSPECT.search(self._text, max(0, len(self._text) - WIDE))
        end = min(end, suspect.start() if suspect else end)
        if not starts:
            end = min(end, len(self._text) - max(overlap(self._text, word) for word in WORDS))
        sure = self._text[:end].rstrip()
        self._text = self._text[len(sure) :]
        return sure


@dataclass(frozen=True)
class Chat:
    """What it takes to read the answer of a chat model."""

    tokenizer: Any
    template: str
    prompt_end: str
    stops: list[str]
    tools: list | None = None

    @property
    def markers(self):
        """The markers around a thought."""
        return reasoning_of(self.template) or TAGS

    @property
    def thinking(self) -> bool:
        """Whether the prompt has opened a thought."""
        return self.prompt_end.rstrip().endswith(self.markers.open)

    def told(self) -> Told:
        """What tells the thought from the rest, token by token."""
        return Told(self.markers, self.stops, thinking=self.thinking)

    def read(self, text, end: str) -> tuple[list[dict], str]:
        """(the calls, the rest of what is said) in all of an answer."""
        ids = text.ids[text.n_prompt : -1 if end == END_OF_TEXT else None]
        data = b"".join(self.tokenizer.token_bytes(i, special=True) for i in ids)
        written = codecs.getincrementaldecoder("utf-8")("replace").decode(data)  # not half a character
        for stop in self.stops:
            written = written.partition(stop)[0]
        answer = parse_answer(written, self.template, tools=self.tools, in_reasoning=self.thinking)
        return answer["tool_calls"], answer["content"]
