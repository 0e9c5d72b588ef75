"""BPE by score: the best pair of neighbours is the one whose union has the highest score in the vocabulary.

A space is a letter, written ▁; a character without a token falls to its bytes, <0x00> to <0xFF>. The
sentencepiece library does it, on a model that we rebuild from the metadata. Kudo & Richardson 2018,
arXiv:1808.06226.
"""

import numpy as np

from .vocabulary import BYTE, BYTE_TEXTS, CONTROL, NORMAL, UNKNOWN, Vocabulary, bytes_of


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
        return bytes_of(text)


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
