"""The loop that every engine has at its heart: predict, choose, append, again, until something ends the text.

Then the ids become text: characters may span tokens, and stop strings may span pieces.
"""

import codecs
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np

from .cache import KVCache
from .config import Config
from .errors import ModelFileError, whole
from .model import CHUNK, prefill, unembed
from .sampling import Sampling, sample
from .tokenizer import Tokenizer
from .weights import Weights

# How a text ends.
END_OF_TEXT, MAX_TOKENS, CONTEXT_FULL = "end of text", "max tokens reached", "context full"
STOP_STRING = "stop string"

# A guesser gets the ids so far and how many tokens it may guess at most; it returns its guess at the next ones.
Guesser = Callable[[Sequence[int], int], list[int]]


@dataclass(frozen=True)
class Token:
    """One step of generation."""

    id: int
    logits: np.ndarray  # (V,) as the model gave them, before any filter
    end: str | None = (
        None  # on the last token: END_OF_TEXT (the token itself says so and has no text), MAX_TOKENS, ...
    )


class Writer:
    """Writes one text: holds the ids of its prompt and its tokens so far, and chooses the next.

    Each text draws from a generator of its own, so that no other text, written beside it, can change it.
    """

    def __init__(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        seed: int | None,
        *,
        max_tokens: int,
        context_length: int,
        end_ids: Iterable[int],
    ):
        """`end_ids` are the tokens that end the text. Raises ValueError for a number out of range."""
        max_tokens, seed = (
            whole("max_tokens", max_tokens),
            seed if seed is None else whole("seed", seed, least=0),
        )
        self.ids, self.n_prompt = array("i", prompt_ids), len(prompt_ids)
        self.sampling, self.rng, self.end_ids = sampling, np.random.default_rng(seed), end_ids
        room = context_length - self.n_prompt + 1  # the last token is never read, so it needs no room
        self.n_left, self.last_end = (max_tokens, MAX_TOKENS) if max_tokens <= room else (room, CONTEXT_FULL)

    def choose(self, logits_V: np.ndarray) -> Token:
        """The next token, from the logits after the last; it is appended to the ids.

        Raises ModelFileError for logits that are not finite: whatever was chosen from them would be noise.
        """
        if not np.isfinite(logits_V.max()):
            raise ModelFileError(
                f"the logits after {len(self.ids)} tokens are not finite numbers: weights of the model are damaged"
                " (a scale of a block may be infinite or no number); fetch the file again"
            )
        token_id = sample(logits_V, self.ids, self.sampling, self.rng)
        self.ids.append(token_id)
        self.n_left -= 1
        if token_id in self.end_ids:
            return Token(token_id, logits_V, END_OF_TEXT)
        return Token(token_id, logits_V, None if self.n_left else self.last_end)


def no_guess(ids: Sequence[int], n_most: int) -> list[int]:
    """The guesser that guesses nothing: one token a pass."""
    return []


def write(
    weights: Weights, config: Config, writer: Writer, cache: KVCache, guesser: Guesser = no_guess
) -> Iterator[Token]:
    """Write the text of `writer` to its end; yields each token as it is chosen.

    Every pass reads what the cache lacks (first the prompt, then one token a pass) and a guess at what comes next. The
    logits after each token that was read choose the token that follows, as long as that is the one guessed. A guess
    that was wrong is forgotten. Where one was right the cache is ahead of the text: who uses it again truncates it.
    """
    ids, draft = writer.ids, []
    while True:
        unread = [*ids[cache.length :], *draft]
        *_, x_TD = prefill(weights, config, unread, cache)
        after_TV = unembed(weights, config, x_TD[-1 - len(draft) :])
        for logits_V, guess in zip(after_TV, [*draft, None], strict=True):
            token = writer.choose(logits_V)
            if token.id != guess:
                cache.truncate(len(ids) - 1)  # may go back further; the next pass makes it up
            yield token
            if token.end:
                return
            if token.id != guess:
                break
        draft = guesser(ids, min(writer.n_left, CHUNK) - 1)


class TextDecoder:
    """Token ids -> text, piece by piece. A character may span tokens: its bytes wait until it is whole."""

    def __init__(self, tokenizer: Tokenizer):
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
    """Finds marks (stop strings, tags) in a text that arrives in pieces; how it is cut into pieces makes no difference.

    What may be the beginning of a mark is kept back until that is decided. Text that is not shown can be part of a mark.

    >>> splitter = Splitter(["STOP"])
    >>> list(splitter.feed("Hello S")), list(splitter.feed("TOP and")), splitter.rest()
    ([('Hello ', None)], [('', 'STOP'), (' and', None)], '')
    """

    def __init__(self, marks: Iterable[str]):
        """`marks` may be replaced while the text goes on, as after the tag that opens another."""
        self.marks = list(marks)
        self._pending, self._shown = "", bytearray()  # for each character whether it is shown

    def feed(self, piece: str, shown: bool = True) -> Iterator[tuple[str, str | None]]:
        """The text that is certain now, cut at the marks: (text, the mark that follows it, None where none does yet)."""
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
    stops = [] if stop is None else [stop] if isinstance(stop, str) else list(stop)
    for text in stops:
        if not isinstance(text, str) or not text:
            raise ValueError(f"a stop string is {text!r}; it must be a text of at least one character")
    return stops


def decode_tokens(
    tokenizer: Tokenizer, tokens: Iterable[Token], stop: str | Iterable[str] | None = ()
) -> Iterator[str]:
    """The text of tokens in pieces, each as soon as it is certain, up to the stop string that is complete first."""
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
