"""What the engine works on: texts that are written, and texts that are only read."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from ..cache import KVCache
from ..tokenizers.streaming import STOP_STRING, Token
from ..writing import Writer

CANCELLED, FAILED, READ = "cancelled", "failed", "read"  # further ways in which a text ends


class Waiter(Protocol):
    """Who asked for a text; called on the engine's thread."""

    def close(self, text: Any, end: str, error: Exception | None) -> None:
        """The text is over. Called once for every text."""


class Listener(Waiter, Protocol):
    """Who asked for a text to be written."""

    def take(self, token: Token) -> bool:
        """The next token; returns whether the text is over, as at a stop string."""


class Writing:
    """A text that is written: its prompt is read, then one token after another is chosen."""

    writes = True

    def __init__(self, writer: Writer, listener: Listener, first: "Writing | None" = None):
        """A text of which nothing is read. It begins once the prompt of `first`, which is the same, is."""
        self.writer, self.first = writer, first
        self.listener: Any = listener  # None once the text is over
        self.ids: Sequence[int] = writer.ids
        self.cache: KVCache | None = None
        self.n_prompt, self.n_cached, self.cancelled = writer.n_prompt, 0, False
        self.begun = self.over = False  # begun: the prompt is read

    def take(self, x_TD: np.ndarray) -> None:
        """The hidden states of ids that were read; another text may come back to where a piece ended."""
        assert self.cache is not None
        if not self.begun:
            self.cache.keep()

    def choose(self, logits_V: np.ndarray) -> str | None:
        """Choose the next token; returns how the text ends, or None. Raises what `Writer.choose` does."""
        self.begun = True
        token = self.writer.choose(logits_V)
        stopped = self.listener.take(token)
        return token.end or (STOP_STRING if stopped else None)


class Reading:
    """A text that is only read: what remains of it is a vector, the last or the mean hidden state."""

    writes, begun, first = False, False, None

    def __init__(self, ids: Sequence[int], pool: Callable, listener: Waiter):
        """`pool(sum_D, x_TD)`, of what it returned before and new hidden states, is what remains."""
        self.ids, self._pool = ids, pool
        self.listener: Any = listener  # None once the text is over
        self.cache: KVCache | None = None
        self.n_prompt, self.n_cached, self.cancelled, self.over = len(ids), 0, False, False
        self.pooled_D: Any = 0.0

    def take(self, x_TD: np.ndarray) -> None:
        """The hidden states of ids that were read."""
        self.pooled_D = self._pool(self.pooled_D, x_TD)
