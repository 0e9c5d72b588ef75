"""Prompt-lookup drafting: a text that repeats itself can be guessed ahead, and one pass checks the whole guess.

A pass over a draft of several tokens gives the logits after each of them, and takes two or three times as long as one
over a single token. As long as the tokens chosen from these logits are those of the draft, it has done the work of
many passes; the first that differs ends it. Tokens are chosen as ever, from the model's logits: drafts change the
speed, not the text.

Drafts copied from the text: "Inference with Reference", arXiv:2304.04487. That checking keeps the distribution:
"speculative sampling", arXiv:2302.01318, of which a draft that is certain is the simple case.
"""

import numpy as np

SHORTEST, LONGEST = 6, 24  # tokens at the end of the text that must have stood there before, at first and at most
FIRST = 7  # tokens of a draft after one that went wrong: a pass over 8 rows takes 2.8 times as long as over one
DRAFT = 15  # ... and where nobody says another number, of one after a draft that was right: 16 rows take 3.5 times
WORTH = 3  # tokens that a pass over a draft must write to pay


def lookup(ids_S: np.ndarray, n_most: int, n_match: int = SHORTEST) -> list[int]:
    """Guess the n_most tokens after a text: the longest end of it (at most LONGEST tokens) that stood in it before,
    there most recently, is followed by what followed then. Nothing is guessed from an end shorter than n_match.

    Where what followed runs into the end of the text, it goes round: after "a b a b" comes "a b a b a ...".
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


def next_draft(n_match: int, n_drafted: int, n_written: int, n_most: int) -> tuple[int, int]:
    """(match that the next draft needs, how long it may be), after a draft of n_drafted tokens that needed n_match, and
    whose pass wrote n_written.

    The match is twice as long if that was not worth the pass, half as long if it was, so a text that does not repeat
    itself soon is left alone, and one that begins to is noticed. A long draft comes only after one that was all right.
    """
    n_match = max(SHORTEST, n_match // 2) if n_written >= WORTH else min(LONGEST, n_match * 2)
    return n_match, n_most if n_written > n_drafted else min(FIRST, n_most)
