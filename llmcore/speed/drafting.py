"""Drafts: the next tokens are guessed, from the text itself or by a smaller model, and one pass checks them.

A pass over a draft of several tokens gives the logits after each of them, and takes two or three times as
long as one over a single token. As long as the tokens chosen from these logits are those of the draft, it has
done the work of many passes; the first that differs ends it. Tokens are chosen as ever, from the model's
logits: drafts change the speed, not the text.

Drafts copied from the text: "Inference with Reference", arXiv:2304.04487. Drafts by a smaller model, and that
checking keeps the distribution: "speculative sampling", arXiv:2302.01318, of which a draft that is certain is
the simple case.
"""

from collections.abc import Sequence

import numpy as np

from ..errors import whole
from ..model import prefill, unembed
from ..writing import Guesser

SHORTEST, LONGEST = 6, 24  # tokens at the end that must have stood in the text before, at first and at most
# Tokens of a draft after one that went wrong: a pass over 8 rows takes 2.8 times as long as over one.
FIRST = 7
# ... and after one that was right, where nobody says another number: 16 rows take 3.5 times as long.
DRAFT = 15
WORTH = 3  # tokens that a pass over a draft must write to pay


def lookup(ids_S: np.ndarray, n_most: int, n_match: int = SHORTEST) -> list[int]:
    """Guess the n_most tokens after a text: the longest end of it (at most LONGEST tokens) that stood in it
    before, there most recently, is followed by what followed then. Nothing is guessed from an end shorter
    than n_match.

    Where what followed runs into the end of the text, it goes round: after "a b a b" comes "a b a b a ...".

    >>> lookup(np.array([1, 2, 3, 4, 9, 1, 2, 3]), n_most=4, n_match=3)
    [4, 9, 1, 2]
    """
    n, found = 0, np.arange(len(ids_S) - 1)  # where an earlier occurrence of the last n tokens ends
    while n < LONGEST:
        longer = found[(found >= n) & (ids_S[found - n] == ids_S[-1 - n])]
        if not len(longer):
            break
        n, found = n + 1, longer
    if n < n_match:
        return []
    return np.resize(ids_S[found[-1] + 1 :], n_most).tolist()


class Lookup:
    """A guesser for `writing.write`: guesses by `lookup`, and learns from its guesses when to guess at all.

    The match that a guess needs is twice as long after one that was not worth its pass, half as long after
    one that was, so a text that does not repeat itself soon is left alone, and one that begins to is noticed.
    A long guess comes only after one that was all right.
    """

    def __init__(self, n_most: int):
        """`n_most` tokens are guessed at a time at most."""
        self.n_most = whole("draft", n_most)
        self.n_next, self.n_match = min(FIRST, n_most), SHORTEST
        self.n_guessed = self.n_before = 0

    def __call__(self, ids: Sequence[int], n_most: int) -> list[int]:
        """A guess at the next tokens, at most n_most."""
        if self.n_guessed:
            self._learn(len(ids) - self.n_before)
        guess = lookup(np.asarray(ids), min(self.n_next, n_most), self.n_match)
        self.n_guessed, self.n_before = len(guess), len(ids)
        return guess

    def _learn(self, n_written):
        """The last guess was checked by a pass that wrote n_written tokens."""
        worth_it = n_written >= WORTH
        self.n_match = max(SHORTEST, self.n_match // 2) if worth_it else min(LONGEST, self.n_match * 2)
        self.n_next = self.n_most if n_written > self.n_guessed else min(FIRST, self.n_most)


class SmallModel:
    """A guesser that has a smaller model of the same vocabulary write ahead, its most likely tokens.

    After a pass that wrote n tokens it guesses n more, or 2 n where the guess was all right.
    """

    def __init__(self, llm, n_most: int = FIRST):
        """`llm` is the small model; at most `n_most` tokens are guessed at a time."""
        self.llm, self.n_most = llm, whole("draft", n_most)
        self.n_next, self.n_before = self.n_most, 0
        self.cache = llm.empty_cache()
        self.read: list[int] = []  # the tokens whose rows the cache holds

    def __call__(self, ids: Sequence[int], n_most: int) -> list[int]:
        """A guess at the next tokens, at most n_most."""
        if self.read:
            self._learn(len(ids) - self.n_before)
        guess: list[int] = []
        n_guess = min(n_most, self.n_next, self.llm.context_length - len(ids))
        if n_guess > 0:
            unread = ids[self._known(ids) :]
            while len(guess) < n_guess:
                *_, x_TD = prefill(self.llm.weights, self.llm.config, unread, self.cache)
                logits_V = unembed(self.llm.weights, self.llm.config, x_TD[-1:])[0]
                unread = [int(logits_V[: self.llm.tokenizer.vocab_size].argmax())]
                guess += unread
        self.read, self.n_guessed, self.n_before = (
            [*ids, *guess[:-1]][: self.cache.length],
            len(guess),
            len(ids),
        )
        return guess

    def _learn(self, n_written):
        """The last guess was checked by a pass that wrote n_written tokens."""
        self.n_next = min(self.n_most, 2 * n_written if n_written > self.n_guessed else n_written)

    def _known(self, ids):
        """How many tokens of the text the cache holds once it has forgotten the guesses that were wrong."""
        n = min(self.n_before, len(self.read), len(ids) - 1)
        while n < min(len(self.read), len(ids) - 1) and self.read[n] == ids[n]:
            n += 1
        return self.cache.truncate(n)


def guesser_for(llm, draft: int | None, small) -> Guesser:
    """The guesser that a user asked for: the text's own repetitions, else a small model, or one of them.

    Raises ValueError if the small model has another vocabulary: it could not tell what it guesses.
    """
    if small is None:
        return Lookup(DRAFT if draft is None else draft)
    if small.tokenizer.tokens != llm.tokenizer.tokens:
        n, n_small = llm.tokenizer.vocab_size, small.tokenizer.vocab_size
        what = f"{n_small} tokens, and the model {n}" if n != n_small else f"{n} other tokens than the model"
        raise ValueError(f"the draft model has {what}: it must have the same vocabulary")
    by_model = SmallModel(small)
    if draft is None:
        return by_model
    by_text = Lookup(draft)
    return lambda ids, n_most: by_text(ids, n_most) or by_model(ids, n_most)
