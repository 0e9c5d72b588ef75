"""Text to token ids and back.

Two algorithms cover almost every open model. Both are byte pair encoding: begin with single characters and keep joining
the best pair of neighbours until none is left to join.

- `SentencePiece` (Kudo & Richardson 2018, arXiv:1808.06226): the best pair is the one whose union has the highest score
  in the vocabulary. A space is a letter, written ▁; a character without a token falls to its bytes, <0x00> to <0xFF>.
- `BytePairs` (Sennrich et al. 2016, arXiv:1508.07909; over bytes since GPT-2): regular expressions first cut the text
  into words; inside a word the best pair is the one that comes first in the file's list of merges.

`Tokenizer` wraps either: it takes special tokens (<s>, <|im_end|>, ...) out of the text first. Ids equal llama.cpp's;
the facts come from its src/llama-vocab.cpp and src/unicode.cpp, as shipped with llama-cpp-python 0.3.36.
"""

import re
import warnings
from dataclasses import dataclass
from functools import lru_cache
from heapq import heappop, heappush
from itertools import chain

import numpy as np

from .errors import ModelFileError, UnsupportedModel
from .splits import SPLITS, split_words

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # tokenizer.ggml.token_type


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
    def from_metadata(cls, metadata, path):
        """Build the tokenizer that a GGUF file's `metadata` describes; `path` is for messages.

        Raises ModelFileError where a key is missing or contradicts another, UnsupportedModel for an algorithm we lack.
        """
        vocab = _Vocabulary(metadata, path)
        eog_ids = _end_of_generation(vocab)  # corrects some types, hence before all that depends on them
        algorithm = ALGORITHMS[vocab.model](vocab)
        special = {vocab.tokens[i]: i for i, kind in enumerate(vocab.types) if kind in (CONTROL, UNKNOWN, USER_DEFINED)}
        user_defined = {text: i for text, i in special.items() if vocab.types[i] == USER_DEFINED}
        bos_id, eos_id = vocab.special_id("bos"), vocab.special_id("eos")
        add_bos = vocab.get("add_bos_token", bool, algorithm.add_bos and bos_id is not None)
        add_eos = vocab.get("add_eos_token", bool, False)
        for name, add, token_id in (("bos", add_bos, bos_id), ("eos", add_eos, eos_id)):
            if add and token_id is None:
                raise vocab.error(f"{name}_token_id", f"is missing, but each text shall get a {name} token")
        return cls(
            tokens=vocab.tokens,
            types=vocab.types,
            algorithm=algorithm,
            special=SpecialTokens(special, vocab.strips),
            user_defined=SpecialTokens(user_defined, vocab.strips),
            bos_id=bos_id,
            eos_id=eos_id,
            add_bos=add_bos,
            add_eos=add_eos,
            eog_ids=eog_ids,
            chat_template=metadata.get("tokenizer.chat_template"),
        )

    @property
    def vocab_size(self):
        """Number of tokens."""
        return len(self.tokens)

    def encode(self, text, *, add_special=True, parse_special=False):
        """Ids of `text`; `add_special` puts bos and eos around it where the model wants them.

        With `parse_special`, text like "<|im_end|>" becomes that control token: right for what a template wrote, wrong
        for the words of a user. User-defined tokens are found in any case. A lone surrogate counts as U+FFFD.
        """
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        ids = [self.bos_id] if add_special and self.add_bos else []
        for piece in (self.special if parse_special else self.user_defined).split(text):
            ids += self.algorithm.encode(piece) if isinstance(piece, str) else [piece]
        return [*ids, self.eos_id] if add_special and self.add_eos else ids

    def decode(self, ids, *, special=False):
        """Text of `ids`; control tokens show only with `special`, broken UTF-8 as U+FFFD.

        The space that encode puts before a text (`algorithm.space_prefix`) is taken off the first token, or the first
        after bos: decode(encode(s)) == s for each s that the vocabulary has bytes for, without special tokens and ▁.
        Spaces that encode puts after special tokens further on stay, as in llama.cpp.
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

    def token_bytes(self, token_id, *, special=False):
        """The bytes that one token adds to a text; they need not be whole UTF-8 characters."""
        text, kind = self.tokens[token_id], self.types[token_id]
        if kind == NORMAL:
            return self.algorithm.token_bytes(text)
        if kind == BYTE:
            return bytes([int(text[3:5], 16)])  # <0x0A>
        if kind == USER_DEFINED or (special and kind in (CONTROL, UNKNOWN)):
            return text.encode("utf-8", "surrogateescape")
        return b""

    def token_text(self, token_id):
        """The token for display."""
        return self.token_bytes(token_id, special=True).decode("utf-8", "replace")


class SpecialTokens:
    """Takes tokens that stand for themselves out of a text, the longest first wherever they are."""

    def __init__(self, ids, strips):
        """`ids`: text -> id; `strips`: texts that swallow the white space after them."""
        self.ids, self.strips = ids, strips
        self.heads = {}  # first characters -> tokens, so that Gemma's 6,242 tokens <unused..> cost one look at the text
        for token in ids:
            self.heads.setdefault(token[:5], []).append(token)

    def split(self, text):
        """Cut `text` into ids of special tokens and the non-empty strings between them."""
        present = [token for head, tokens in self.heads.items() if head in text for token in tokens if token in text]
        pieces = [text] if text else []
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

    def __init__(self, vocab):
        """Hand the vocabulary to the library."""
        import sentencepiece  # here, because models with byte-level BPE do without it

        self.space_prefix = vocab.get("add_space_prefix", bool, True)
        self.processor = sentencepiece.SentencePieceProcessor()
        try:
            self.processor.LoadFromSerializedProto(_model_proto(vocab))
        except (RuntimeError, UnicodeDecodeError) as error:  # the latter where its message quotes bytes of a token
            raise vocab.error("tokens", f"is refused by sentencepiece: {str(error)!r:.200}") from error

    def encode(self, text):
        """Ids of a text without special tokens."""
        return self.processor.encode(" " + text if self.space_prefix else text)

    @staticmethod
    def token_bytes(text):
        """Bytes of a normal token."""
        return text.replace("▁", " ").encode("utf-8", "surrogateescape")


def _model_proto(vocab):
    """The vocabulary as bytes of a sentencepiece ModelProto (sentencepiece_model.proto) in protobuf wire format.

    A field is a tag (number << 3 | type) and a value; type 0 is a varint, 2 a length and that many bytes, 5 four bytes.
    Of the types three matter here: bytes are the last resort, there must be exactly one unknown token, while some files
    mark dozens, and control tokens never come from plain text, not even where joined pieces would spell one.
    """

    def varint(n):
        return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)

    def message(number, body):
        return varint(number << 3 | 2) + varint(len(body)) + body

    types = np.asarray(vocab.types)
    tails = np.empty(len(types), [("tag2", "u1"), ("score", "<f4"), ("tag3", "u1"), ("type", "u1")])
    tails["tag2"], tails["score"] = 2 << 3 | 5, vocab.numbers("scores", 0)
    tails["tag3"] = 3 << 3
    tails["type"] = np.select([types == BYTE, (types == CONTROL) | (types == UNKNOWN)], [BYTE, CONTROL], NORMAL)
    if (unknown := vocab.special_id("unknown")) is not None:
        tails["type"][unknown] = UNKNOWN
    tails, size = tails.tobytes(), tails.itemsize

    texts = [text.encode("utf-8", "surrogateescape") for text in vocab.tokens]
    heads = {}  # length of text -> what stands before it; leaves little to the loop over up to 262,144 tokens (0.1 s)
    for n in {*map(len, texts)}:
        field = bytes([1 << 3 | 2]) + varint(n)
        heads[n] = bytes([1 << 3 | 2]) + varint(len(field) + n + size) + field
    pieces = b"".join([heads[len(text)] + text + tails[i * size : (i + 1) * size] for i, text in enumerate(texts)])
    trainer = bytes([3 << 3, 2]) + varint(35 << 3) + bytes([BYTE in vocab.types])  # model_type BPE, byte_fallback
    normalizer = bytes([3 << 3, 0, 4 << 3, 0, 5 << 3, 1])  # no dummy_prefix, all white space stays, spaces become ▁
    return pieces + message(2, trainer) + message(3, normalizer)


# GPT-2 writes bytes as visible characters: printable Latin-1 as itself, the other 68 from U+0100 on (a space is Ġ).
VISIBLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
BYTE_CHARS = {byte: chr(byte) for byte in VISIBLE}
BYTE_CHARS |= {byte: chr(0x100 + i) for i, byte in enumerate(sorted({*range(256)} - VISIBLE))}
CHAR_BYTES = {char: bytes([byte]) for byte, char in BYTE_CHARS.items()}


class BytePairs:
    """Words by regular expression, then merges by rank: of bytes, or for Gemma 4 of characters with ▁ for space."""

    space_prefix = False

    def __init__(self, vocab):
        """Read and check the merges; the rank of a merge is its place in the list."""
        pre = vocab.get("pre", str, "")
        if not pre:
            warnings.warn(f"{vocab.path}: tokenizer.ggml.pre is missing, so words may be split wrongly", stacklevel=3)
            pre = "default"
        if pre not in SPLITS:
            raise UnsupportedModel(f"{vocab.path}: tokenizer.ggml.pre is {pre!r}; we have {', '.join(SPLITS)}")
        merges = vocab.get("merges", list)
        for merge in merges:
            if merge.count(" ") != 1 or merge[0] == " " or merge[-1] == " ":
                raise vocab.error("merges", f"holds {merge!r}, which is not two symbols with a space between")
        self.ids, (self.patterns, self.ignore_merges, self.add_bos) = vocab.ids, SPLITS[pre]
        self.bytewise = pre != "gemma4"
        # A symbol without a token falls to these. The first form is of the letters for bytes, and lacks all past ASCII.
        self.byte_text = (lambda byte: chr(byte) if byte < 128 else "") if self.bytewise else "<0x{:02X}>".format
        if not self.bytewise and not re.search("[^▁] ▁", "\n".join(merges)):
            self.patterns = (*self.patterns, r"▁+[^▁]*")  # where no merge reaches across: short words, hence faster
        self.ranks = dict(zip(reversed(merges), reversed(range(len(merges))), strict=True))  # of doubles, the first
        self.word_ids = lru_cache(maxsize=1 << 16)(self._word_ids)  # few words make up most of a text

    def encode(self, text):
        """Ids of a text without special tokens."""
        words = split_words(text if self.bytewise else text.replace(" ", "▁"), self.patterns)
        return list(chain.from_iterable(map(self.word_ids, words)))

    def _word_ids(self, word):
        symbols = word.encode().decode("latin-1").translate(BYTE_CHARS) if self.bytewise else word
        if symbols in self.ids and (self.ignore_merges or (not self.bytewise and word[0] == "\n")):
            return [self.ids[symbols]]
        ids = []
        for symbol in merge_pairs(symbols, self.ranks):
            # A byte that is no token is dropped, as in llama.cpp.
            parts = [symbol] if symbol in self.ids else map(self.byte_text, symbol.encode())
            ids += [self.ids[part] for part in parts if part in self.ids]
        return ids

    def token_bytes(self, text):
        """Bytes of a normal token."""
        if not self.bytewise:
            return SentencePiece.token_bytes(text)
        return b"".join([CHAR_BYTES.get(char) or char.encode("utf-8", "surrogateescape") for char in text])


def merge_pairs(symbols, ranks):
    """Join neighbours a, b in the order of ranks["a b"], the leftmost on ties, until no pair has a rank.

    A heap of ranks, for each rank the places that have it, and a doubly linked list of symbols make this O(n log n) for
    n symbols, and as fast as a plain loop for short words. A pair that another merge broke shows when its turn comes.
    """
    symbols = [*symbols, ""]  # the empty symbol stands before the first (at -1) and after the last; no pair has it
    right, left = list(range(1, len(symbols) + 1)), list(range(-1, len(symbols) - 1))
    heap, places = [], {}

    def push(i, j):
        if (rank := ranks.get(f"{symbols[i]} {symbols[j]}")) is not None:
            if rank not in places:
                heappush(heap, rank)
            places.setdefault(rank, []).append(i)

    for i in range(len(symbols) - 1):
        push(i, i + 1)
    while heap:
        rank = heappop(heap)
        waiting = sorted(places.pop(rank), reverse=True)
        while waiting and not (heap and heap[0] < rank):
            i = waiting.pop()
            j = right[i]
            if ranks.get(f"{symbols[i]} {symbols[j]}") == rank:
                symbols[i], symbols[j] = symbols[i] + symbols[j], ""
                right[i] = right[j]
                left[right[i]] = i
                push(left[i], i)
                push(i, right[i])
        if waiting:  # a merge made a pair of lower rank
            places[rank] = waiting
            heappush(heap, rank)
    return [symbol for symbol in symbols if symbol]


ALGORITHMS = {"llama": SentencePiece, "gpt2": BytePairs, "gemma4": BytePairs}  # tokenizer.ggml.model


class _Vocabulary:
    """What the metadata says about tokens, checked: `model`, `tokens`, their `types`, `ids` (token -> id), `strips`."""

    def __init__(self, metadata, path):
        self.metadata, self.path = metadata, path
        self.model = self.get("model", str)
        if self.model == "gemma4":  # whatever the file says, as in llama.cpp
            self.metadata = metadata | {"tokenizer.ggml.pre": "gemma4", "tokenizer.ggml.add_bos_token": True}
        if self.model not in ALGORITHMS:
            raise UnsupportedModel(f"{path}: tokenizer.ggml.model is {self.model!r}; we have {', '.join(ALGORITHMS)}")
        self.tokens = [text or f"[EMPTY_{i}]" for i, text in enumerate(self.get("tokens", list))]
        self.types = self.numbers("token_type", NORMAL).tolist()
        self.ids = {text: i for i, text in enumerate(self.tokens)}
        if len(self.ids) < len(self.tokens):
            twice = next(text for i, text in enumerate(self.tokens) if self.ids[text] != i)
            raise self.error("tokens", f"holds {twice!r} twice")
        # Phi-3 learned its special tokens with the white space after them removed; no key says so.
        phi3 = re.search("phi-?3", str(metadata.get("general.name")), re.IGNORECASE)
        self.strips = self.ids.keys() - {"<unk>", "<s>", "<|endoftext|>"} if phi3 else frozenset()

    def error(self, name, problem):
        return ModelFileError(f"{self.path}: tokenizer.ggml.{name} {problem}")

    def get(self, name, kind, default=None):
        """The value of tokenizer.ggml.`name`, of type `kind`; else the default, which None says there is not."""
        value = self.metadata.get(f"tokenizer.ggml.{name}", default)
        if value is None:
            raise self.error(name, "is missing")
        if not isinstance(value, kind):
            raise self.error(name, f"is of type {type(value).__name__}, not {kind.__name__}")
        return value

    def numbers(self, name, default):
        values = np.asarray(self.metadata.get(f"tokenizer.ggml.{name}", np.full(len(self.tokens), default)))
        if values.shape != (len(self.tokens),):
            raise self.error(name, f"has shape {values.shape}, but there are {len(self.tokens)} tokens")
        return values

    def special_id(self, role):
        """Id of the token that has a role (bos, eos, unknown, ...), or None."""
        if f"tokenizer.ggml.{role}_token_id" not in self.metadata:
            default = {"bos": 1, "eos": 2, "unknown": 0}.get(role) if self.model == "llama" else None
            return default if default is not None and default < len(self.tokens) else None
        token_id = self.get(f"{role}_token_id", int)
        if not 0 <= token_id < len(self.tokens):
            raise self.error(f"{role}_token_id", f"is {token_id}, but there are {len(self.tokens)} tokens")
        return token_id


# What a chat model says when its turn is over has many names, and files tend to give only one of them.
END_TEXTS = (
    "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> <|endoftext|> </s> <|eom_id|>"
    " <EOT> _<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance> <eos> <turn|> <|tool_response> [e~["
    " <｜end▁of▁sentence｜>"  # noqa: RUF001
)
FILL_TEXTS = {  # tokens for filling in the middle: the metadata's name, and the texts to look for where it has none
    "fim_pre": "<|fim_prefix|> <fim-prefix> <fim_prefix> <｜fim▁begin｜> <PRE> ▁<PRE> <|code_prefix|> <|prefix|>",  # noqa: RUF001
    "fim_suf": "<|fim_suffix|> <fim-suffix> <fim_suffix> <｜fim▁hole｜> <SUF> ▁<SUF> <|code_suffix|> <|suffix|>",  # noqa: RUF001
    "fim_mid": "<|fim_middle|> <fim-middle> <fim_middle> <｜fim▁end｜> <MID> ▁<MID> <|code_middle|> <|middle|>",  # noqa: RUF001
    "fim_pad": "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]",
    "fim_rep": "<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>",
    "fim_sep": "<|file_sep|>",
}


def _end_of_generation(vocab):
    """Ids that end a generation. Tokens whose text we know become control tokens in `vocab`, whatever the file says."""
    ids, types = vocab.ids, vocab.types
    roles = {role: vocab.special_id(role) for role in ("eos", "eot", "eom", *FILL_TEXTS)}
    for role, texts in FILL_TEXTS.items():
        if roles[role] is None and (found := [ids[text] for text in texts.split() if text in ids]):
            roles[role] = found[0]
            types[found[0]] = CONTROL
    ends = {ids[text] for text in END_TEXTS.split() if text in ids}
    for token_id in ends:
        types[token_id] = CONTROL
    ends |= {roles[role] for role in ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")} - {None}

    present = {vocab.tokens[token_id] for token_id in ends}
    markup = {"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"} & ids.keys()  # of gpt-oss: part of the text
    if present & {"<|call|>", "<|calls|>"} and present & {"<|return|>", "<|flush|>"}:
        markup |= {"<|end|>"} & present  # ends one of gpt-oss's messages, not its turn
    for text in markup:
        types[ids[text]] = USER_DEFINED
    if "</s>" in present and present & {"<|tool_response>", "<|plamo:eos|>"}:
        markup.add("</s>")  # struck-through HTML
        types[ids["</s>"]] = NORMAL
    return frozenset(ends - {ids[text] for text in markup})
