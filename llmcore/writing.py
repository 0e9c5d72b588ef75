"""The loop at the heart of every engine: predict, choose, append, again, until something ends the text."""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from .cache import KVCache
from .config import Config
from .errors import ModelFileError, whole
from .model import CHUNK, prefill, unembed
from .sampling import Sampling, sample
from .tokenizers.streaming import CONTEXT_FULL, END_OF_TEXT, MAX_TOKENS, Token
from .weights import Weights

# A guesser gets the ids so far and how many tokens it may guess at most; it returns its guess.
Guesser = Callable[[Sequence[int], int], list[int]]


def finite(logits: np.ndarray, n_tokens: int) -> None:
    """Raises ModelFileError for logits that are not finite: whatever followed from them would be noise."""
    if not np.isfinite(logits.max()):
        raise ModelFileError(
            f"the logits after {n_tokens} tokens are not finite numbers: weights of the model are damaged"
            " (a scale of a block may be infinite or no number); fetch the file again"
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
        prepared: Iterable = (),
    ):
        """`end_ids` are the tokens that end the text, `prepared` is what `samplers.prepare` made for it.

        Raises ValueError for a number out of range.
        """
        max_tokens = whole("max_tokens", max_tokens)
        seed = None if seed is None else whole("seed", seed, least=0)
        self.ids, self.n_prompt = array("i", prompt_ids), len(prompt_ids)
        self.sampling, self.rng, self.end_ids = sampling, np.random.default_rng(seed), end_ids
        self.prepared = prepared
        room = context_length - self.n_prompt + 1  # the last token is never read, so it needs no room
        self.n_left, self.last_end = (max_tokens, MAX_TOKENS) if max_tokens <= room else (room, CONTEXT_FULL)

    def choose(self, logits_V: np.ndarray) -> Token:
        """The next token, from the logits after the last; appended to the ids. Raises as `finite` does."""
        finite(logits_V, len(self.ids))
        token_id = sample(logits_V, self.ids, self.sampling, self.rng, *self.prepared)
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

    Every pass reads what the cache lacks (first the prompt, then one token a pass) and a guess at what comes
    next. The logits after each token that was read choose the token that follows, as long as that is the one
    guessed. A guess that was wrong is forgotten. Where one was right the cache is ahead of the text: who uses
    it again truncates it.
    """
    ids, draft = writer.ids, list[int]()
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
        caught_up = cache.length == len(ids) - 1  # else the next pass is for what a recurrent layer forgot
        draft = guesser(ids, min(writer.n_left, CHUNK) - 1) if caught_up else []
