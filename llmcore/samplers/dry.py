"""DRY, don't repeat yourself: a token that would make a repetition longer is less likely, the more the
longer.

Proposed in text-generation-webui's pull request 5677 (2024); the details are llama.cpp's
(src/llama-sampler.cpp, as shipped with llama-cpp-python 0.3.36).
"""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np

LARGEST = 1e30  # penalty: no token is drawn after it, and it does not overflow
# Tokenizer -> {texts: their breakers}, which take a second to find
KNOWN: WeakKeyDictionary = WeakKeyDictionary()
LONGEST_BREAKER, LONGEST_TAIL = 40, 20  # bytes of a breaker, and tokens of its rest, that are looked at


def keep(ids, logits, sampling, text):
    """All candidates, each that would lengthen a repetition of n tokens, n >= dry_allowed_length, with its
    logit lower by dry_multiplier x dry_base^(n - dry_allowed_length); single-token breakers aside.
    """
    s = sampling
    if s.dry_base < 1 or s.dry_penalty_last_n == 0:
        return ids, logits
    so_far = list(text.so_far[-s.dry_penalty_last_n :])
    penalties = np.zeros(int(ids.max()) + 1)
    for token_id, n in repetitions(so_far, s.dry_allowed_length, text.breakers).items():
        if token_id < len(penalties) and () not in text.breakers.get(token_id, ()):
            exponent = min(n - s.dry_allowed_length, 88.7 / np.log(s.dry_base) if s.dry_base > 1 else 0)
            penalties[token_id] = min(s.dry_multiplier * s.dry_base**exponent, LARGEST)
    return ids, logits - penalties[ids]


def repetitions(so_far: list[int], allowed: int, breakers) -> dict[int, int]:
    """{token: n}: after the last n tokens, n >= allowed, this token once followed; the largest n of each.

    >>> repetitions([1, 2, 3, 9, 2, 3, 8, 1, 2, 3], 2, {})
    {9: 3, 8: 2}
    """
    if len(so_far) <= allowed:
        return {}
    limit = since_breaker(so_far, breakers)
    found: dict[int, int] = {}
    if limit < allowed:
        return found
    for end, n in enumerate(suffix_lengths(so_far)[:-1]):
        n = min(n, limit)
        if n >= allowed and n > found.get(so_far[end + 1], -1):
            found[so_far[end + 1]] = n
    return found


def suffix_lengths(so_far: list[int]) -> list[int]:
    """For each place, how many tokens up to it are those that the text ends with; the Z algorithm, backwards.

    >>> suffix_lengths([7, 1, 2, 5, 1, 2])
    [0, 0, 2, 0, 0, 6]
    """
    text = so_far[::-1]
    lengths, begin, end = [len(text)], 0, 0  # text[begin:end] is the match that reaches furthest
    for i in range(1, len(text)):
        n = min(lengths[i - begin], end - i) if i < end else 0
        while i + n < len(text) and text[n] == text[i + n]:
            n += 1
        lengths.append(n)
        if i + n > end:
            begin, end = i, i + n
    return lengths[::-1]


def since_breaker(so_far: list[int], breakers) -> int:
    """How many tokens the text has after its last breaker; `breakers` as of `find_breakers`."""
    for n_after in range(len(so_far)):
        place = len(so_far) - 1 - n_after
        tails = [
            len(tail)
            for tail in breakers.get(so_far[place], ())
            if tuple(so_far[place + 1 : place + 1 + len(tail)]) == tail
        ]
        if tails:
            return n_after - max(tails)
    return len(so_far)


def find_breakers(tokenizer, texts: Sequence[str]) -> dict[int, list[tuple[int, ...]]]:
    """{head: tails}: a breaker is a token, or one that begins it with the tokens of the rest after it.

    The rest is spelled in the tokens that `encode` gives it. Tokens whose text holds a whole breaker have the
    empty tail.
    """
    known = KNOWN.setdefault(tokenizer, {})
    if texts not in known:
        known[texts] = _find_breakers(tokenizer, [text.encode()[:LONGEST_BREAKER] for text in texts])
    return known[texts]


def _find_breakers(tokenizer, breakers):
    found: dict[int, list[tuple[int, ...]]] = {}
    for token_id in range(tokenizer.vocab_size):
        piece = tokenizer.token_bytes(token_id, special=True)
        tails = {tail for breaker in breakers for tail in _tails(piece, breaker, tokenizer)}
        if tails:
            found[token_id] = sorted(tails)
    return found


def _tails(piece, breaker, tokenizer):
    """The tokens of what a breaker lacks after each end of `piece` that it begins with."""
    if breaker in piece:
        return [()]
    rests = [breaker[n:] for n in range(1, len(breaker)) if piece.endswith(breaker[:n])]
    return [
        tuple(tokenizer.encode(rest.decode("utf-8", "replace"), add_special=False)[:LONGEST_TAIL])
        for rest in rests
    ]
