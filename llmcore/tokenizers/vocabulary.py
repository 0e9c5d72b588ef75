"""What the metadata says about tokens, checked: their texts, types and roles, and which end a generation.

The facts come from llama.cpp's src/llama-vocab.cpp, as shipped with llama-cpp-python 0.3.36. What is wrong
in a file but does no harm is a warning, as it is there.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UnsupportedModel
from ..metadata import Keys

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # tokenizer.ggml.token_type
# tokenizer.ggml.model -> algorithm
MODELS = {
    "llama": "sentencepiece.SentencePiece",
    "gpt2": "bytepairs.BytePairs",
    "gemma4": "bytepairs.BytePairs",
}
BYTE_TEXTS = [f"<0x{byte:02X}>" for byte in range(256)]  # for the bytes of characters without a token

# What a chat model says when its turn is over has many names, and files tend to give only one of them.
END_TEXTS = (
    "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> <|endoftext|> </s>"
    " <|eom_id|> <EOT> _<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance> <eos> <turn|> <|tool_response>"
    " [e~[ <｜end▁of▁sentence｜>"  # noqa: RUF001
)
# Tokens for filling in the middle: their role, and the texts to look for where the file gives none.
FILL_TEXTS = {
    "fim_pre": "<|fim_prefix|> <fim-prefix> <fim_prefix> <｜fim▁begin｜> <PRE> ▁<PRE> <|code_prefix|>"  # noqa: RUF001
    " <|prefix|>",
    "fim_suf": "<|fim_suffix|> <fim-suffix> <fim_suffix> <｜fim▁hole｜> <SUF> ▁<SUF> <|code_suffix|>"  # noqa: RUF001
    " <|suffix|>",
    "fim_mid": "<|fim_middle|> <fim-middle> <fim_middle> <｜fim▁end｜> <MID> ▁<MID> <|code_middle|>"  # noqa: RUF001
    " <|middle|>",
    "fim_pad": "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]",
    "fim_rep": "<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>",
    "fim_sep": "<|file_sep|>",
}
ROLES = ("bos", "eos", "unknown", "eot", "eom", *FILL_TEXTS)  # {role}_token_id


def bytes_of(text: str) -> bytes:
    """The bytes of a token in whose text ▁ stands for a space."""
    return text.replace("▁", " ").encode("utf-8", "surrogateescape")


class Vocabulary:
    """The `tokens` of a file, their `ids`, `types` and `roles`, and the `split` into words."""

    def __init__(self, metadata: dict[str, Any], path: Path | str):
        """Read what every algorithm needs; `path` is for messages.

        Raises ModelFileError where a key is missing or contradicts another, UnsupportedModel for an
        algorithm or a split that we lack.
        """
        self.keys = Keys(metadata, path, "tokenizer.ggml")
        self.model = self.keys.get("model", str)
        if self.model not in MODELS:
            raise UnsupportedModel(
                f"{path}: tokenizer.ggml.model is {self.model!r}; we have {', '.join(MODELS)}"
            )
        if self.model == "gemma4":  # whatever the file says, as in llama.cpp
            told = {"tokenizer.ggml.pre": "gemma4", "tokenizer.ggml.add_bos_token": True}
            self.keys = Keys(metadata | told, path, "tokenizer.ggml")
        self.split: Any = None if self.model == "llama" else self._split()
        self.tokens = [text or f"[EMPTY_{i}]" for i, text in enumerate(self.keys.strings("tokens"))]
        if not self.tokens:
            raise self.keys.error("tokens", "is empty")
        self.ids = {text: i for i, text in enumerate(self.tokens)}
        if len(self.ids) < len(self.tokens):
            twice = next(text for i, text in enumerate(self.tokens) if self.ids[text] != i)
            raise self.keys.error("tokens", f"holds {twice!r} twice")
        self.types = self._types()
        self.roles = {role: self._role(role) for role in ROLES}
        # Phi-3 learned its special tokens with the white space after them removed; no key says so.
        phi3 = re.search("phi-?3", str(metadata.get("general.name")), re.IGNORECASE)
        self.strips = self.ids.keys() - {"<unk>", "<s>", "<|endoftext|>"} if phi3 else frozenset()

    def numbers(self, name: str, default: float) -> np.ndarray:
        """One number a token from `tokenizer.ggml.{name}`; a longer list is cut, as in llama.cpp."""
        size = len(self.tokens)
        values = self.keys.numbers(name, np.full(size, default))
        if len(values) < size:
            raise self.keys.error(name, f"has shape {values.shape}, but there are {size} tokens")
        if len(values) > size:
            self.keys.warn(name, f"has {len(values)} numbers for {size} tokens: the rest is left out")
        return values[:size]

    def adds(self, role: str, default: bool) -> bool:
        """Whether each text gets the token that has a role."""
        token_id = self.roles[role]
        wanted = self.keys.get(f"add_{role}_token", bool, default and token_id is not None)
        if wanted and token_id is None:
            self.keys.warn(f"{role}_token_id", f"is missing: texts get no {role} token, although they shall")
        return wanted and token_id is not None

    def _split(self):
        """The split that the file names."""
        from .splits import SPLITS  # here, because SentencePiece does without

        pre = self.keys.get("pre", str, "")
        if not pre:
            self.keys.warn("pre", "is missing, so words may be split wrongly")
        elif pre not in SPLITS:
            known = ", ".join(SPLITS)
            raise UnsupportedModel(f"{self.keys.path}: tokenizer.ggml.pre is {pre!r}; we have {known}")
        return SPLITS[pre or "default"]

    def _types(self):
        """NORMAL ... BYTE for each token; its text says whether it is a byte (files of early 2024 err)."""
        types = self.numbers("token_type", NORMAL)
        is_byte = np.zeros(len(types), bool)
        is_byte[[self.ids[text] for text in BYTE_TEXTS if text in self.ids]] = True
        if self.split and self.split.bytewise:  # has letters for bytes; "<0x0A>" may be a text like any other
            is_byte &= types == BYTE
        return np.select([is_byte, types == BYTE], [BYTE, NORMAL], types).tolist()

    def _role(self, role):
        """Id of the token that has a role, or None."""
        default = {"bos": 1, "eos": 2, "unknown": 0}.get(role) if self.model == "llama" else None
        default = default if default in range(len(self.tokens)) else None
        return self.keys.index(f"{role}_token_id", len(self.tokens), default)


def end_of_generation(vocab: Vocabulary) -> frozenset[int]:
    """Ids that end a generation. Tokens whose text we know become control tokens, whatever the file says."""
    ids, types, roles = vocab.ids, vocab.types, vocab.roles
    for role, texts in FILL_TEXTS.items():
        if roles[role] is None and (found := [ids[text] for text in texts.split() if text in ids]):
            roles[role] = found[0]
            types[found[0]] = CONTROL
    ends = {ids[text] for text in END_TEXTS.split() if text in ids}
    for token_id in ends:
        types[token_id] = CONTROL
    ends |= {roles[role] for role in ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")} - {None}

    present = {vocab.tokens[token_id] for token_id in ends}
    markup = {
        "<|channel|>",
        "<|message|>",
        "<|start|>",
        "<|constrain|>",
    } & ids.keys()  # of gpt-oss: in the text
    if present & {"<|call|>", "<|calls|>"} and present & {"<|return|>", "<|flush|>"}:
        markup |= {"<|end|>"} & present  # ends one of gpt-oss's messages, not its turn
    for text in markup:
        types[ids[text]] = USER_DEFINED
    if "</s>" in present and present & {"<|tool_response>", "<|plamo:eos|>"}:
        markup.add("</s>")  # struck-through HTML
        types[ids["</s>"]] = NORMAL
    return frozenset(ends - {ids[text] for text in markup})
