"""How text becomes numbers: the merges of each word, one after another.

Only ids come in, so the words are found again: the text between special tokens is cut into words as the
tokenizer does it, and their ids must be those of the prompt. Inside a token merges go the same way whatever
stands beside it, since nothing was merged across its ends.
"""

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

from ....tokenizers.bytepairs import CHAR_BYTES, BytePairs, merge_pairs
from ....tokenizers.sentencepiece import SentencePiece
from ....tokenizers.splits import split_words
from ....tokenizers.vocabulary import BYTE, NORMAL
from ...recording import Run

WANTED: frozenset[str] = frozenset()
LONGEST = 40  # symbols of a word whose merges are shown


def part(run: Run) -> dict | None:
    """The words of the prompt that have a row: their first position, ids, and the merges."""
    tokenizer = run.llm.tokenizer
    wanted, words, text = {int(position) for position in run.rows}, [], bytearray()
    for start, ids in words_of(tokenizer, run.ids[: run.n_prompt]):
        text += b"".join(tokenizer.token_bytes(i) for i in ids)
        if wanted & {*range(start, start + len(ids))}:
            words.append({"start": start, "ids": ids} | merges_of(tokenizer, ids))
    pieces = isinstance(tokenizer.algorithm, SentencePiece)
    return {
        "pieces": pieces,
        "words": words,
        "characters": len(text.decode("utf-8", "replace")),
        "special": any(tokenizer.types[i] not in (NORMAL, BYTE) for i in run.ids[: run.n_prompt]),
        "list": tokenizer.vocab_size if pieces else len(tokenizer.algorithm.ranks),
    }


def code(run: Run) -> list:
    """What merges; sentencepiece does it in its own library."""
    bpe = isinstance(run.llm.tokenizer.algorithm, BytePairs)
    return [merge_pairs] if bpe else [SentencePiece.encode]


def words_of(tokenizer, ids: list[int]) -> list[tuple[int, list[int]]]:
    """The ids in words, each with its first position; where they cannot be told, each token for itself."""
    found: list[tuple[int, list[int]]] = []
    algorithm, at = tokenizer.algorithm, 0
    while at < len(ids):
        end = at
        while end < len(ids) and tokenizer.types[ids[end]] in (NORMAL, BYTE):
            end += 1
        words = [[i] for i in ids[at:end]]
        if isinstance(algorithm, BytePairs) and end > at:
            text = tokenizer.decode(ids[at:end])
            if not algorithm.split.bytewise:
                text = text.replace(" ", "▁")
            split = [list(algorithm.word_ids(word)) for word in split_words(text, algorithm.patterns)]
            if [i for word in split for i in word] == ids[at:end]:
                words = split
        elif end > at:
            words = joined_bytes(tokenizer, words)
        words = words or [[ids[at]]]
        for word in words:
            found.append((at, word))
            at += len(word)
    return found


def joined_bytes(tokenizer, words: list[list[int]]) -> list[list[int]]:
    """Tokens of single bytes that follow one another belong together: they spell characters."""
    out: list[list[int]] = []
    for (i,) in words:
        if out and tokenizer.types[i] == tokenizer.types[out[-1][-1]] == BYTE:
            out[-1].append(i)
        else:
            out.append([i])
    return out


def merges_of(tokenizer, ids: list[int]) -> dict:
    """{"how": "special" or "whole" or "bytes"} of a word without merges, else "merged" with its steps.

    A step: the symbols before it, the place of the pair that is joined, and its rank (or score).
    """
    if tokenizer.types[ids[0]] not in (NORMAL, BYTE):
        return {"how": "special"}
    if tokenizer.types[ids[0]] == BYTE:
        return {"how": "bytes"}
    algorithm = tokenizer.algorithm
    text = "".join(tokenizer.tokens[i] for i in ids)
    if isinstance(algorithm, BytePairs) and len(ids) == 1 and algorithm.split.ignore_merges:
        return {"how": "whole"}
    if isinstance(algorithm, BytePairs):
        rank, show = algorithm.ranks.get, shown_bytes if algorithm.split.bytewise else str
        steps, symbols = merge_slowly(text, lambda a, b: rank(f"{a} {b}"))
    else:
        known, show = ids_of(tokenizer), str
        score = algorithm.processor.get_score

        def worth(a, b):
            i = known.get(a + b)
            return None if i is None or tokenizer.types[i] != NORMAL else -score(i)

        steps, symbols = merge_slowly(text, worth)
    if len(text) > LONGEST or symbols != [tokenizer.tokens[i] for i in ids]:
        return {"how": "whole"}
    rows = [[[show(symbol) for symbol in before], at, rank] for before, at, rank in steps]
    return {"how": "merged", "steps": rows, "last": [show(symbol) for symbol in symbols]}


@lru_cache(maxsize=1)
def ids_of(tokenizer) -> dict[str, int]:
    """{text: id} of a vocabulary."""
    return {text: i for i, text in enumerate(tokenizer.tokens)}


def merge_slowly(text: str, rank: Callable) -> tuple[list, list[str]]:
    """The merges of a word as a plain loop: join the pair of the least rank, the leftmost, until none is
    left.

    >>> merge_slowly("abc", lambda a, b: {"bc": 3, "abc": 5}.get(a + b))
    ([(['a', 'b', 'c'], 1, 3), (['a', 'bc'], 0, 5)], ['abc'])
    """
    symbols, steps = list(text), []
    while pairs := [
        (found, i) for i, (a, b) in enumerate(pairwise(symbols)) if (found := rank(a, b)) is not None
    ]:
        least, at = min(pairs)
        steps.append((symbols, at, least))
        symbols = [*symbols[:at], symbols[at] + symbols[at + 1], *symbols[at + 2 :]]
    return steps, symbols


def shown_bytes(symbol: str) -> str:
    """A symbol of letters for bytes as text; bytes that are no whole characters in hexadecimal."""
    raw = b"".join(CHAR_BYTES.get(char, char.encode("utf-8", "replace")) for char in symbol)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return " ".join(f"{byte:02X}" for byte in raw)
