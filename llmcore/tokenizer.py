"""Text to token ids and back.

Two algorithms cover almost every open model, `tokenizers/bytepairs.py` and `tokenizers/sentencepiece.py`.
Both are byte pair encoding: begin with single characters and keep joining the best pair of neighbours until
none is left to join. `Tokenizer` wraps either: it takes special tokens (<s>, <|im_end|>, ...) out of the text
first. Ids equal those of llama.cpp (src/llama-vocab.cpp, as shipped with llama-cpp-python 0.3.36), but where
splits.py says otherwise.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from .metadata import Keys
from .tokenizers.special import SpecialTokens
from .tokenizers.vocabulary import (
    BYTE,
    CONTROL,
    MODELS,
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
    algorithm: Any  # SentencePiece or BytePairs
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
        file, name = MODELS[vocab.model].split(".")
        algorithm = getattr(import_module(f".tokenizers.{file}", __package__), name)(vocab)
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
