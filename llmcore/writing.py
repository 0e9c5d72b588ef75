"""A text on its way: its tokens are chosen one after another until it ends, and a stop string cuts it."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .sampling import Sampling, sample

# How a text ends.
END_OF_TEXT, MAX_TOKENS, CONTEXT_FULL = "end of text", "max tokens reached", "context full"
STOP_STRING = "stop string"


@dataclass(frozen=True)
class Token:
    """One step of generation."""

    id: int
    logits: np.ndarray  # (V,) as the model gave them, before any filter
    end: str | None = None  # on the last token: END_OF_TEXT (the token itself says so and has no text), MAX_TOKENS, ...


class Writer:
    """Writes one text: holds the ids of its prompt and its tokens so far, and chooses the next.

    Each text draws from a generator of its own, so that no other text, written beside it, can change it.
    """

    def __init__(
        self,
        prompt_ids: Sequence[int],
        how: Sampling,
        seed: int | None,
        *,
        max_tokens: int,
        context_length: int,
        end_ids: Iterable[int],
    ):
        """`end_ids` are the tokens that end the text. Raises ValueError for a number out of range."""
        if max_tokens < 1:
            raise ValueError(f"max_tokens is {max_tokens}; it must be 1 or more")
        if seed is not None and seed < 0:
            raise ValueError(f"seed is {seed}; it must be 0 or more")
        self.ids, self.n_prompt = array("i", prompt_ids), len(prompt_ids)
        self.how, self.rng, self.end_ids = how, np.random.default_rng(seed), end_ids
        room = context_length - self.n_prompt + 1  # the last token is never read, so it needs no room
        self.n_left, self.last_end = (max_tokens, MAX_TOKENS) if max_tokens <= room else (room, CONTEXT_FULL)

    def choose(self, logits_V: np.ndarray) -> Token:
        """The next token, from the logits after the last."""
        token_id = sample(logits_V, self.ids, self.how, self.rng)
        self.ids.append(token_id)
        self.n_left -= 1
        if token_id in self.end_ids:
            return Token(token_id, logits_V, END_OF_TEXT)
        return Token(token_id, logits_V, None if self.n_left else self.last_end)


def until_stop(pieces: Iterable[str], stop: str | Sequence[str] = ()) -> Iterator[str]:
    """The text up to the stop string that is complete first; however it is cut into pieces, the result is the same.

    What may be the beginning of a stop string is held back until that is decided.
    """
    stops = [stop] if isinstance(stop, str) else list(stop)
    if not all(stops):
        raise ValueError("a stop string is empty: it would stop before the first character")
    return _until_stop(pieces, stops)


def _until_stop(pieces, stops):
    held = ""
    for piece in pieces:
        held += piece
        found = [(at + len(stop), at) for stop in stops if (at := held.find(stop)) >= 0]
        if found:
            _, start = min(found)
            if start:
                yield held[:start]
            return
        certain = len(held) - max((overlap(held, stop) for stop in stops), default=0)
        if certain:
            yield held[:certain]
            held = held[certain:]
    if held:
        yield held


def overlap(text, stop):
    """The length of the longest end of `text` with which `stop` begins."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
