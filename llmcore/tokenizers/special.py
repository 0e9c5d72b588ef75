"""Tokens that stand for themselves: <s>, <|im_end|>, and those that a model's makers defined."""

import re
from collections.abc import Set
from itertools import chain


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
