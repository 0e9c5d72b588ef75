"""Constraint: candidates are only the tokens with which the text can still become what was asked for: JSON of
a schema, a match of a regular expression, a text of a grammar.

The llguidance library says which these are (Earley's algorithm over the bytes of tokens). It is asked for one
token after another, and is told only of those that were chosen, so a guess that is checked or a text beside
this one needs no care. The end of the text is one of its tokens: it comes when the grammar allows it.
"""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ..tokenizers.vocabulary import CONTROL, UNKNOWN
from .schemas import DIGITS, SPACE, closed, parts

# Tokenizer -> its Guide, which takes a second to make for 262,144 tokens, and does not refer to it
KNOWN: WeakKeyDictionary = WeakKeyDictionary()


def keep(ids, logits, sampling, text):
    """The candidates that the constraint allows. Raises ValueError if none is left."""
    allowed_V = text.constraint.allowed(text.so_far)
    stays = allowed_V[ids]
    if not stays.any():
        why = "logit_bias bans each token" if allowed_V.any() else "the vocabulary has no token"
        raise ValueError(f"{_asked(sampling)[0]}: after {len(text.so_far)} tokens {why} that may come next")
    return ids[stays], logits[stays]


def constraint_of(sampling, tokenizer, ignore_eos: bool = False) -> "Constraint":
    """The constraint that one text is written under. Raises what `check` raises, and ValueError for a text
    that cannot end.
    """
    name, _ = _asked(sampling)
    if ignore_eos or not tokenizer.eog_ids:
        why = "ignore_eos is asked for" if ignore_eos else "this model has no token for it"
        raise ValueError(f"{name}: the text ends by the end-of-text token where it is complete, but {why}")
    if tokenizer not in KNOWN:
        KNOWN[tokenizer] = Guide(tokenizer)
    rules = Rules(KNOWN[tokenizer], name, check(sampling))
    if sampling.thought is None:
        return Constraint(rules)
    from .after_thought import AfterThought  # here, because few models think

    return Constraint(AfterThought(rules, tokenizer, sampling.thought))


def check(sampling) -> str:
    """The schema, expression or grammar in the form that the library reads.

    Raises ValueError, which names what is wrong with it and where, and ImportError if llguidance is missing.
    """
    return _checked(*_asked(sampling))


@lru_cache(maxsize=32)  # many texts are written under one
def _checked(name, text):
    library = _library()
    try:
        if name == "json_schema":
            return _checked_schema(text)
        kind = "gbnf" if re.search(r"^\s*[\w-]+\s*::=", text, re.MULTILINE) else "lark"
        grammar = library.grammar_from("regex" if name == "regex" else kind, text)
        if problem := _problem(grammar):
            raise ValueError(problem)
        return grammar
    except RecursionError:
        raise ValueError(f"{name}: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{name}: {_sentence(str(error))}") from None


def _asked(sampling):
    """(name, text) of the one constraint that was asked for."""
    names = ("json_schema", "regex", "grammar")
    asked = [(name, value) for name in names if (value := getattr(sampling, name)) is not None]
    if len(asked) > 1:
        raise ValueError(f"{' and '.join(name for name, _ in asked)} exclude each other; give one of them")
    return asked[0]


def _library():
    try:
        import llguidance
    except ImportError:
        raise ImportError(
            'json_schema, regex and grammar need the package llguidance: pip install "llmcore[json]"'
        ) from None
    return llguidance


def _checked_schema(text):
    schema = json.loads(text)
    schema = schema if isinstance(schema, dict) else {} if schema else {"enum": []}
    grammar = _schema_grammar(schema)
    if problem := _problem(grammar):
        places = [place for place, part in parts(schema) if _problem(_schema_grammar(part)) == problem]
        where = max(places, key=len, default="")
        raise ValueError((f"at {where}: " if where else "") + problem)
    narrower = _schema_grammar(closed(schema))
    return grammar if _problem(narrower) else narrower


def _schema_grammar(schema):
    return _library().LLMatcher.grammar_from_json_schema(
        json.dumps(schema), defaults={"whitespace_pattern": SPACE}
    )


def _problem(grammar):
    """What the library has against a grammar, on one line; "" for nothing."""
    wrong, said = _library().LLMatcher.validate_grammar_with_warnings(grammar)
    return _sentence(said[0]) if wrong else ""


def _sentence(text):
    """The library's words without its drawing of the place, on one line."""
    text = re.sub(r"^Failed to convert the grammar from GBNF to Lark: |\n +\d+ \| .*|\n +\^+(?=\n)", "", text)
    text = re.sub(r"^at \d+\(\d+\): (invalid regex .*) \(in regex\): .*error:", r"\1:", text, flags=re.DOTALL)
    return " ".join(re.sub(r"^at (\d+)\((\d+)\):", r"line \1, column \2:", text).split())


class Guide:
    """A vocabulary as the library reads it, and the grammars that were read for it."""

    def __init__(self, tokenizer):
        """Hand the library the bytes of each token; 0xFF marks a token that is none of the text."""
        library, hidden = _library(), (CONTROL, UNKNOWN)
        self.tokens = [
            b"\xff" * (kind in hidden) + tokenizer.token_bytes(i, special=True)
            for i, kind in enumerate(tokenizer.types)
        ]
        self.spelling = spelling = Spelling(tokenizer, self.tokens)
        ends = sorted(tokenizer.eog_ids)
        self.vocabulary = library.LLTokenizer(library.TokenizerWrapper(spelling), eos_token=ends)
        self.digits_V = np.array([token[:1].isdigit() for token in self.tokens])
        spelling.longest_first = self.vocabulary.greedy_tokenize
        self.line_ends = {i: len(token) for i, token in enumerate(self.tokens) if token in (b"\n", b"\n\n")}
        self._overlong: dict[bytes, dict[int, list[int]]] = {}
        self.read = lru_cache(maxsize=32)(self._read)  # a grammar may take a tenth of a second

    def text(self, token_id: int) -> bytes:
        """The bytes of a token, be it one that no text shows."""
        return self.tokens[token_id].removeprefix(b"\xff")

    def overlong(self, marker: bytes) -> dict[int, list[int]]:
        """{n: tokens} that complete the marker after its first n bytes, with more than line ends behind."""
        if marker not in self._overlong:
            found: dict[int, list[int]] = {n: [] for n in range(len(marker))}
            for i in range(len(self.tokens)):
                text = self.text(i)
                if marker[-1] in text[:-1]:
                    for n in found:
                        head, rest, more = text.partition(marker[n:])
                        if rest and more.strip(b"\n") and not (n and head):
                            found[n].append(i)
            self._overlong[marker] = found
        return self._overlong[marker]

    def _read(self, grammar):
        """The library's matcher at the beginning of a text, to be copied."""
        return _library().LLMatcher(self.vocabulary, grammar, log_level=0)


class Spelling:
    """How the model's tokenizer spells text that the grammar leaves no choice about; the library asks for
    it, and reads the fields.
    """

    def __init__(self, tokenizer, tokens: list[bytes]):
        """`tokens` are the bytes of each token, as the library gets them."""
        self.tokens, self.bos_token_id, self.eos_token_id = tokens, tokenizer.bos_id, min(tokenizer.eog_ids)
        self.special_token_ids = [i for i, token in enumerate(tokens) if token[:1] == b"\xff"]
        self.longest_first: Any = None  # the library's own spelling
        self._user_defined = tokenizer.user_defined
        # Without the space that SentencePiece gets before a text, since this stands in the midst of one
        self._encode = getattr(tokenizer.algorithm, "processor", tokenizer.algorithm).encode

    def __call__(self, text: bytes) -> list[int]:
        """The ids of plain text in the midst of another."""
        plain = text.decode("utf-8", "replace")
        ids = self.ids(plain, self._user_defined)
        spelled = b"".join(self.tokens[i] for i in ids if i < len(self.tokens))
        return ids if spelled == text or self.longest_first is None else self.longest_first(plain)

    def ids(self, text: str, special) -> list[int]:
        """The ids of a text in which these special tokens are found."""
        ids: list[int] = []
        for piece in special.split(text):
            ids += self._encode(piece) if isinstance(piece, str) else [piece]
        return ids


class Rules:
    """What one text must be, and how far it has come."""

    def __init__(self, guide: Guide, name: str, grammar: str):
        """Raises ValueError for a grammar that fails on this vocabulary."""
        self.guide, self._name = guide, name
        self._start = guide.read(grammar)
        self.begin(())

    def begin(self, prompt: Sequence[int]) -> None:
        """The text begins behind the prompt."""
        self._matcher, self._n_digits = self._start.deep_copy(), 0
        self._check()

    def mask(self) -> np.ndarray:
        """Which tokens may come next, bool (V,)."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed_V = np.unpackbits(bits, count=len(self.guide.tokens), bitorder="little").astype(bool)
        if self._n_digits >= DIGITS and self._name == "json_schema":  # a weak model would write them for ever
            others_V = allowed_V & ~self.guide.digits_V
            return others_V if others_V.any() else allowed_V
        return allowed_V

    def take(self, token_id: int) -> bool:
        """The token comes next; returns whether it may."""
        text = self.guide.text(token_id)
        n = len(text) - len(text.rstrip(b"0123456789"))
        self._n_digits = n + self._n_digits * (n == len(text))
        return self._matcher.try_consume_tokens([token_id]) == 1

    def _check(self):
        if self._matcher.is_error():
            raise ValueError(f"{self._name}: {_sentence(self._matcher.get_error())}")


class Constraint:
    """Follows one text by what is new in it from call to call."""

    def __init__(self, rules):
        """`rules` have `begin`, `mask` and `take` as `Rules`."""
        self._rules, self._n_read = rules, 0

    def allowed(self, so_far: Sequence[int]) -> np.ndarray:
        """Which tokens may come next, bool (V,); at the first call `so_far` is the prompt."""
        if self._n_read:
            for token_id in so_far[self._n_read :]:
                self._rules.take(token_id)
        else:
            self._rules.begin(so_far)
        self._n_read = len(so_far)
        return self._rules.mask()
