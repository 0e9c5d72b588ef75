"""BPE by rank: regular expressions cut the text into words; inside a word the pair that stands first in the
list of merges is joined first. Sennrich et al. 2016, arXiv:1508.07909; over bytes since GPT-2, over
characters for Gemma 4.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from heapq import heapify, heappop, heappush
from itertools import chain, pairwise

from ..metadata import REQUIRED
from .splits import SPLITS, split_words
from .vocabulary import BYTE_TEXTS, Vocabulary, bytes_of

# GPT-2 writes bytes as visible characters: printable Latin-1 as itself, the other 68 from U+0100 on (space:
# Ġ).
VISIBLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
BYTE_CHARS = {byte: chr(byte) for byte in VISIBLE}
BYTE_CHARS |= {byte: chr(0x100 + i) for i, byte in enumerate(sorted({*range(256)} - VISIBLE))}
CHAR_BYTES = {char: bytes([byte]) for byte, char in BYTE_CHARS.items()}


class BytePairs:
    """Words by regular expression, then merges by rank: of bytes, or of characters with ▁ for space."""

    space_prefix = False

    def __init__(self, vocab: Vocabulary):
        """Read and check the merges; the rank of a merge is its place in the list."""
        self.ids, self.split, self.patterns = vocab.ids, vocab.split, vocab.split.patterns
        self.add_bos = self.split.add_bos
        merges = vocab.keys.strings("merges", [] if self.split is SPLITS["kimi-k2"] else REQUIRED)
        # A symbol without a token falls to these. Those of the letters for bytes lack all past ASCII.
        letters = [chr(byte) if byte < 128 else "" for byte in range(256)]
        self.byte_texts = letters if self.split.bytewise else BYTE_TEXTS
        if not self.split.bytewise and not re.search("[^▁] ▁", "\n".join(merges)):
            self.patterns = (*self.patterns, r"▁+[^▁]*")  # no merge reaches across: short words, hence faster
        self.ranks = dict(
            zip(reversed(merges), reversed(range(len(merges))), strict=True)
        )  # of doubles, the first
        bad = {merge for merge in merges if merge.count(" ") != 1 or merge[0] == " " or merge[-1] == " "}
        if bad:
            vocab.keys.warn(
                "merges", f"holds {min(bad)!r}, which is not two symbols with a space between: left out"
            )
            self.ranks = {merge: rank for merge, rank in self.ranks.items() if merge not in bad}
        self.word_ids = lru_cache(maxsize=1 << 16)(self._word_ids)  # few words make up most of a text

    def encode(self, text: str) -> list[int]:
        """Ids of a text without special tokens."""
        words = split_words(text if self.split.bytewise else text.replace(" ", "▁"), self.patterns)
        return list(chain.from_iterable(map(self.word_ids, words)))

    def _word_ids(self, word):
        """Ids of one word."""
        symbols = word.encode().decode("latin-1").translate(BYTE_CHARS) if self.split.bytewise else word
        whole = self.split.ignore_merges or (self.split.whole_newlines and word[0] == "\n")
        if whole and symbols in self.ids:
            return [self.ids[symbols]]
        ids = []
        for symbol in merge_pairs(symbols, self.ranks):
            # A byte that is no token is dropped, as in llama.cpp.
            parts = [symbol] if symbol in self.ids else [self.byte_texts[byte] for byte in symbol.encode()]
            ids += [self.ids[part] for part in parts if part in self.ids]
        return ids

    def token_bytes(self, text: str) -> bytes:
        """Bytes of a normal token."""
        if not self.split.bytewise:
            return bytes_of(text)
        return b"".join([CHAR_BYTES.get(char) or char.encode("utf-8", "surrogateescape") for char in text])


def merge_pairs(word: Iterable[str], ranks: dict[str, int]) -> list[str]:
    """Join neighbours a, b in the order of ranks["a b"], the leftmost on ties, until no pair has a rank.

    >>> merge_pairs("hello", {"l l": 0, "h e": 1, "ll o": 2})
    ['he', 'llo']

    A heap of (rank, place) and a doubly linked list of symbols make this O(n log n) for n symbols. A pair
    that another merge broke stays in the heap and shows when its turn comes.
    """
    symbols = [
        *word,
        "",
    ]  # the empty symbol stands before the first (at -1) and after the last; no pair has it
    right, left = list(range(1, len(symbols) + 1)), list(range(-1, len(symbols) - 1))
    found = [ranks.get(f"{a} {b}") for a, b in pairwise(symbols)]
    heap = [(rank, i) for i, rank in enumerate(found) if rank is not None]
    heapify(heap)
    while heap:
        rank, i = heappop(heap)
        j = right[i]
        if ranks.get(f"{symbols[i]} {symbols[j]}") != rank:
            continue
        symbols[i], symbols[j] = symbols[i] + symbols[j], ""
        right[i] = right[j]
        left[right[i]] = i
        for a, b in ((left[i], i), (i, right[i])):
            if (new := ranks.get(f"{symbols[a]} {symbols[b]}")) is not None:
                heappush(heap, (new, a))
    return [symbol for symbol in symbols if symbol]
