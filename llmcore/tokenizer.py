"""Text to token ids and back.

Two algorithms cover almost every open model. Both are byte pair encoding: begin with single characters and
keep joining the best pair of neighbours until none is left to join.

- `SentencePiece` (Kudo & Richardson 2018, arXiv:1808.06226): the best pair is the one whose union has the
  highest score in the vocabulary. A space is a letter, written ▁; a character without a token falls to its
  bytes, <0x00> to <0xFF>.
- `BytePairs` (Sennrich et al. 2016, arXiv:1508.07909; over bytes since GPT-2): regular expressions first
  cut the text into words; inside a word the best pair is the one that comes first in the file's list of
  merges.

`Tokenizer` wraps either: it takes special tokens (<s>, <|im_end|>, ...) out of the text first. Ids equal
those of llama.cpp (src/llama-vocab.cpp, as shipped with llama-cpp-python 0.3.36), but where splits.py says
otherwise.
"""

import re
from collections.abc import Iterable, Set
from dataclasses import dataclass
from functools import lru_cache
from heapq import heapify, heappop, heappush
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .metadata import REQUIRED, Keys
from .splits import SPLITS, split_words
from .vocabulary import (
    BYTE,
    BYTE_TEXTS,
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    Vocabulary,
    end_of_generation,
)


@dataclass(frozen=True, eq=False, repr=False)
class Tokenizer:
    """A vocabulary and the rules that turn text into its ids; made by `Tokenizer.from_metadata`."""

    tokens: list[str]  # as the file writes them
    types: list[int]  # NORMAL ... BYTE, one for each token
    algorithm: "SentencePiece | BytePairs"
    special: "SpecialTokens"  # all tokens that stand for themselves
    user_defined: "SpecialTokens"  # those of them that are found without parse_special too
    bos_id: int | None
    eos_id: int | None
    add_bos: bool  # encode begins with bos_id
    add_eos: bool  # encode ends with eos_id
    eog_ids: frozenset[int]  # each of these ends a generation
    chat_template: str | None  # Jinja source

    @classmethod
    def from_metadata(cls, metadata: dict[str, Any], path: Path | str) -> "Tokenizer":
        """Build the tokenizer that a GGUF file's `metadata` describes; `path` is for messages.

        Raises what `Vocabulary` raises, and ModelFileError for merges that are missing or a vocabulary that
        SentencePiece refuses.
        """
        vocab = Vocabulary(metadata, path)
        eog_ids = end_of_generation(vocab)  # corrects some types, hence before all that depends on them
        algorithm = ALGORITHMS[vocab.model](vocab)
        kinds = (CONTROL, UNKNOWN, USER_DEFINED)
        special = {vocab.tokens[i]: i for i, kind in enumerate(vocab.types) if kind in kinds}
        user_defined = {text: i for text, i in special.items() if vocab.types[i] == USER_DEFINED}
        return cls(
            tokens=vocab.tokens,
            types=vocab.types,
            algorithm=algorithm,
            special=SpecialTokens(special, vocab.strips),
            user_defined=SpecialTokens(user_defined, vocab.strips),
            bos_id=vocab.roles["bos"],
            eos_id=vocab.roles["eos"],
            add_bos=vocab.adds("bos", algorithm.add_bos),
            add_eos=vocab.adds("eos", False),
            eog_ids=eog_ids,
            chat_template=Keys(metadata, path, "tokenizer").get("chat_template", str, None) or None,
        )

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Ids of `text`; `add_special` puts bos and eos around it where the model wants them.

        With `parse_special`, text like "<|im_end|>" becomes that control token: right for what a template
        wrote, wrong for the words of a user. User-defined tokens are found in any case. A lone surrogate
        counts as U+FFFD.
        """
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        ids: list[Any] = [self.bos_id] if add_special and self.add_bos else []
        for piece in (self.special if parse_special else self.user_defined).split(text):
            ids += self.algorithm.encode(piece) if isinstance(piece, str) else [piece]
        return ids + ([self.eos_id] if add_special and self.add_eos else [])

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """Text of `ids`; control tokens show only with `special`, broken UTF-8 as U+FFFD.

        The space that encode puts before a text (`algorithm.space_prefix`) is taken off the first token, or
        the first after bos: decode(encode(s)) == s for each s that the vocabulary has bytes for, without
        special tokens and ▁. Spaces that encode puts after special tokens further on stay, as in llama.cpp.
        """
        ids = list(ids)
        for token_id in ids:
            if not 0 <= token_id < self.vocab_size:
                raise ValueError(f"token id {token_id} is not in the vocabulary of {self.vocab_size} tokens")
        pieces = [self.token_bytes(token_id, special=special) for token_id in ids]
        start = 1 if ids[:1] == [self.bos_id] else 0
        if self.algorithm.space_prefix and start < len(ids) and self.types[ids[start]] == NORMAL:
            pieces[start] = pieces[start].removeprefix(b" ")
        return b"".join(pieces).decode("utf-8", "replace")

    def token_bytes(self, token_id: int, *, special: bool = False) -> bytes:
        """The bytes that one token adds to a text; they need not be whole UTF-8 characters."""
        text, kind = self.tokens[token_id], self.types[token_id]
        if kind == NORMAL:
            return self.algorithm.token_bytes(text)
        if kind == BYTE:
            return bytes([int(text[3:5], 16)])  # <0x0A>
        if kind == USER_DEFINED or (special and kind in (CONTROL, UNKNOWN)):
            return text.encode("utf-8", "surrogateescape")
        return b""

    def token_text(self, token_id: int) -> str:
        """The token for display."""
        return self.token_bytes(token_id, special=True).decode("utf-8", "replace")


class SpecialTokens:
    """Takes tokens that stand for themselves out of a text, the longest first wherever they are."""

    def __init__(self, ids: dict[str, int], strips: Set[str]):
        """`ids`: text -> id; `strips`: texts that swallow the white space after them."""
        self.ids, self.strips = ids, strips
        # First characters -> tokens, so that Gemma's 6,242 tokens <unused..> cost one look at the text.
        self.heads: dict[str, list[str]] = {}
        for token in ids:
            self.heads.setdefault(token[:5], []).append(token)

    def split(self, text: str) -> list[int | str]:
        """Cut `text` into ids of special tokens and the non-empty strings between them."""
        present = [
            token for head, tokens in self.heads.items() if head in text for token in tokens if token in text
        ]
        pieces: list[int | str] = [text] if text else []
        for token in sorted(present, key=lambda token: (-len(token.encode()), self.ids[token])):
            uncut, pieces = pieces, []
            for piece in uncut:
                if isinstance(piece, str) and token in piece:
                    pieces += self._cut(piece, token)
                else:
                    pieces.append(piece)
        return pieces

    def _cut(self, text, token):
        strip = r"[ \t\n\v\f\r]*" if token in self.strips else ""
        head, *rest = re.split(re.escape(token) + strip, text)
        pieces = [head, *chain.from_iterable((self.ids[token], piece) for piece in rest)]
        return [piece for piece in pieces if piece != ""]


class SentencePiece:
    """BPE by score, run by the sentencepiece library on a model that we rebuild from the metadata."""

    add_bos = True

    def __init__(self, vocab: Vocabulary):
        """Hand the vocabulary to the library."""
        import sentencepiece  # here, because models with byte-level BPE do without it

        self.space_prefix = vocab.keys.get("add_space_prefix", bool, True)
        self.n_tokens = len(vocab.tokens)
        # The library needs an unknown token that never comes from text, and tokens for all bytes or for none.
        # What the vocabulary lacks of these stands behind it; `instead` are the ids that we give for them.
        missing = [byte for byte, text in enumerate(BYTE_TEXTS) if text not in vocab.ids]
        missing = [] if len(missing) == 256 else missing
        if missing:
            vocab.keys.warn(
                "tokens", f"lacks {len(missing)} of the 256 bytes, such as {BYTE_TEXTS[missing[0]]}"
            )
        unknown = vocab.roles["unknown"]
        self.instead = [unknown, *(vocab.ids.get(chr(byte), unknown) for byte in missing)]
        self.processor = sentencepiece.SentencePieceProcessor()
        try:
            proto = _model_proto(vocab, [BYTE_TEXTS[byte] for byte in missing])
            self.processor.LoadFromSerializedProto(proto)
        # The second kind comes where the library's message quotes bytes of a token.
        except (RuntimeError, UnicodeDecodeError) as error:
            raise vocab.keys.error("tokens", f"is refused by sentencepiece: {str(error)!r:.200}") from error

    def encode(self, text: str) -> list[int]:
        """Ids of a text without special tokens."""
        ids = self.processor.encode(" " + text if self.space_prefix else text)
        if max(ids, default=0) < self.n_tokens:
            return ids
        return [i if i < self.n_tokens else self.instead[i - self.n_tokens] for i in ids]

    @staticmethod
    def token_bytes(text: str) -> bytes:
        """Bytes of a normal token."""
        return text.replace("▁", " ").encode("utf-8", "surrogateescape")


def _model_proto(vocab, more_bytes):
    """The vocabulary, an unknown token and `more_bytes` as a ModelProto in protobuf's wire format.

    The fields are those of sentencepiece_model.proto. A field is a tag (number << 3 | type) and a
    value; type 0 is a varint, 2 a length and that many bytes, 5 four bytes. Of the tokens' types two matter:
    bytes are the last resort, and control tokens never come from plain text, not even where joined pieces
    spell one.
    """

    def varint(n):
        return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)

    def message(number, body):
        return varint(number << 3 | 2) + varint(len(body)) + body

    types = np.array(vocab.types + [UNKNOWN] + [BYTE] * len(more_bytes))
    scores = vocab.numbers("scores", 0)
    tails = np.zeros(len(types), [("tag2", "u1"), ("score", "<f4"), ("tag3", "u1"), ("type", "u1")])
    tails["tag2"], tails["score"][: len(scores)] = 2 << 3 | 5, scores
    tails["tag3"], tails["type"] = 3 << 3, NORMAL
    tails["type"][types == BYTE] = BYTE
    tails["type"][(types == CONTROL) | (types == UNKNOWN)] = CONTROL
    tails["type"][len(vocab.tokens)] = UNKNOWN
    tails, size = tails.tobytes(), tails.itemsize

    texts = [text.encode("utf-8", "surrogateescape") for text in [*vocab.tokens, " unknown ", *more_bytes]]
    heads = {}  # length of text -> what stands before it; leaves little to the loop over up to 262,144 tokens
    for n in {*map(len, texts)}:
        field = bytes([1 << 3 | 2]) + varint(n)
        heads[n] = bytes([1 << 3 | 2]) + varint(len(field) + n + size) + field
    pieces = b"".join(
        [heads[len(text)] + text + tails[i * size : (i + 1) * size] for i, text in enumerate(texts)]
    )
    trainer = bytes([3 << 3, 2]) + varint(35 << 3) + bytes([BYTE in types])  # model_type BPE, byte_fallback
    normalizer = bytes(
        [3 << 3, 0, 4 << 3, 0, 5 << 3, 1]
    )  # no dummy_prefix, all white space stays, spaces become ▁
    return pieces + message(2, trainer) + message(3, normalizer)


# GPT-2 writes bytes as visible characters: printable Latin-1 as itself, the other 68 from U+0100 on (space
# is Ġ).
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
            return SentencePiece.token_bytes(text)
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


# tokenizer.ggml.model -> algorithm
ALGORITHMS: dict[str, Any] = {"llama": SentencePiece, "gpt2": BytePairs, "gemma4": BytePairs}
