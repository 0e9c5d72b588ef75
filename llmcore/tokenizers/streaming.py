"""Text that arrives token by token: characters may span tokens, and stop strings may span pieces."""

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import compress

import numpy as np

# How a text ends.
END_OF_TEXT, MAX_TOKENS, CONTEXT_FULL = "end of text", "max tokens reached", "context full"
STOP_STRING = "stop string"


@dataclass(frozen=True)
class Token:
    """One step of generation."""

    id: int
    logits: np.ndarray  # (V,) as the model gave them, before any filter
    end: str | None = None  # on the last token: how the text ends; END_OF_TEXT itself has no text


class TextDecoder:
    """Token ids -> text, piece by piece. A character may span tokens: its bytes wait until it is whole."""

    def __init__(self, tokenizer):
        """A decoder at the beginning of a text."""
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token: Token) -> tuple[str, bool]:
        """The text that is certain with this token, and whether it is shown: that of a control token is not.

        A character that the end of the text cuts in two is left out.
        """
        if token.end == END_OF_TEXT:
            return "", True
        new = self._tokenizer.token_bytes(token.id)
        return (self._utf8.decode(new), True) if new else (self._tokenizer.token_text(token.id), False)


class Splitter:
    """Finds marks (stop strings, tags) in a text that arrives in pieces; how it is cut into pieces makes no
    difference.

    What may be the beginning of a mark is kept back until that is decided. Text that is not shown can be part
    of a mark.

    >>> splitter = Splitter(["STOP"])
    >>> list(splitter.feed("Hello S")), list(splitter.feed("TOP and")), splitter.rest()
    ([('Hello ', None)], [('', 'STOP'), (' and', None)], '')
    """

    def __init__(self, marks: Iterable[str]):
        """`marks` may be replaced while the text goes on, as after the tag that opens another."""
        self.marks = list(marks)
        self._pending, self._shown = "", bytearray()  # for each character whether it is shown

    def feed(self, piece: str, shown: bool = True) -> Iterator[tuple[str, str | None]]:
        """The text that is certain now, cut at the marks: (text, the mark that follows it, or None)."""
        self._pending += piece
        self._shown += bytes([shown]) * len(piece)
        while found := [
            (at + len(mark), at, mark) for mark in self.marks if (at := self._pending.find(mark)) >= 0
        ]:
            end, at, mark = min(found)  # the mark that is complete first
            text = self._take(at)
            self._take(end - at)
            yield text, mark
        if text := self._take(
            len(self._pending) - max((overlap(self._pending, m) for m in self.marks), default=0)
        ):
            yield text, None

    def rest(self) -> str:
        """What was kept back, at the end of the text."""
        return self._take(len(self._pending))

    def _take(self, n):
        """Remove the first n characters; returns those that are shown."""
        text, shown = self._pending[:n], self._shown[:n]
        self._pending, self._shown = self._pending[n:], self._shown[n:]
        return "".join(compress(text, shown)) if 0 in shown else text


def overlap(text: str, mark: str) -> int:
    """The length of the longest end of `text` with which `mark` begins, short of all of it.

    >>> overlap("a <th", "<think>")
    3
    """
    return next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:n])), 0)


def stop_strings(stop: str | Iterable[str] | None) -> list[str]:
    """Stop strings as a list. Raises ValueError for an empty one and for what is no string."""
    if not isinstance(stop, str | Iterable | None):
        raise ValueError(f"stop is {stop!r}; it must be a text or a list of texts")
    stops = [] if stop is None else [stop] if isinstance(stop, str) else list(stop)
    for text in stops:
        if not isinstance(text, str) or not text:
            raise ValueError(f"a stop string is {text!r}; it must be a text of at least one character")
    return stops


def decode_tokens(tokenizer, tokens: Iterable[Token], stop: str | Iterable[str] | None = ()) -> Iterator[str]:
    """The text of tokens in pieces, each as soon as it is certain, up to the first complete stop string."""
    return _decode(TextDecoder(tokenizer), Splitter(stop_strings(stop)), tokens)


def _decode(decoder, splitter, tokens):
    for token in tokens:
        for text, mark in splitter.feed(*decoder.feed(token)):
            if text:
                yield text
            if mark:
                return
    if rest := splitter.rest():
        yield rest
