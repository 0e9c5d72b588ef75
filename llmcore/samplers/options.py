"""The options of sampling, their defaults (llama.cpp's) and the one check of their values."""

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any

from ..errors import whole

SEQUENCE = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")
MOST = 1e6  # of what is added to a logit, or multiplies it: far past any effect, far from overflow
ABOVE_0 = math.ulp(0)


def option(default: float, least: float, most: float, want: str) -> Any:
    """A field of `Sampling`: its default, the range of its values, and that range in words."""
    return field(default=default, metadata={"least": least, "most": most, "want": want})


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen. Raises ValueError where a value is out of range or of another type."""

    temperature: float = option(0.8, -math.inf, math.inf, "a finite number (0 takes the most likely token)")
    top_k: int = 40  # 0: off
    top_p: float = option(0.95, ABOVE_0, 1, "above 0 and at most 1 (1 is off)")
    min_p: float = option(0.05, 0, 1, "between 0 (off) and 1")
    repeat_penalty: float = option(1.0, 1 / MOST, MOST, "above 0, from a millionth to a million (1 is off)")
    presence_penalty: float = option(0.0, -MOST, MOST, "a number of at most a million (0 is off)")
    frequency_penalty: float = option(0.0, -MOST, MOST, "a number of at most a million (0 is off)")
    penalty_last_n: int = 64  # tokens that the three penalties look back over; 0: off
    logit_bias: Mapping[int, float] | None = None  # token id -> what is added to its logit; -inf bans it
    typical_p: float = option(1.0, ABOVE_0, 1, "above 0 and at most 1 (1 is off)")
    top_n_sigma: float = option(-1.0, -math.inf, math.inf, "a finite number (0 or less is off)")
    xtc_probability: float = option(0.0, 0, 1, "between 0 (off) and 1")
    xtc_threshold: float = option(0.1, 0, 1, "between 0 and 1 (above 0.5 is off)")
    dry_multiplier: float = option(0.0, 0, MOST, "between 0 (off) and a million")
    dry_base: float = option(1.75, 0, MOST, "between 0 and a million (below 1 is off)")
    dry_allowed_length: int = 2  # tokens that may repeat before the next one is penalized
    dry_penalty_last_n: int = 64  # tokens that DRY looks back over; 0: off
    dry_sequence_breakers: Sequence[str] = ("\n", ":", '"', "*")  # no repetition reaches over one of these
    sequence: Sequence[str] = SEQUENCE  # the filters in their order; one that is not named is off
    json_schema: str | None = None  # the text is JSON that this schema (a mapping, or its JSON text) allows
    regex: str | None = None  # the whole text matches
    grammar: str | None = None  # the text is one of this grammar's, in GBNF or Lark
    thought: Any = None  # markers of the thought before which neither begins, see chat/reasoning.py

    def __post_init__(self):
        for known in fields(self):
            value = getattr(self, known.name)
            if value is not known.default:
                object.__setattr__(self, known.name, checked(known, value))

    @property
    def is_constrained(self) -> bool:
        """Whether the text must be what a schema, an expression or a grammar says."""
        return not (self.json_schema is None and self.regex is None and self.grammar is None)

    def __hash__(self):
        return hash(repr(self))  # a mapping has no hash of its own


def sampling_of(file: dict, given: dict) -> Sampling:
    """The options given, else the file's, else the defaults. Raises ValueError for what is none."""
    known = [option.name for option in fields(Sampling)]
    for name in sorted(given.keys() - {*known}):
        other = "; LLM.chat takes tools" if name == "tools" else ""
        raise ValueError(f"there is no option {name!r}{other}; of sampling there are {', '.join(known)}")
    return Sampling(**file | given)


def checked(known, value):
    """The value in the type that the field has. Raises ValueError, with the name, if it cannot be one."""
    if known.name in CHECKS:
        return CHECKS[known.name](known.name, value)
    if type(known.default) is int:
        return whole(known.name, value, least=0)
    return _number(known.name, value, **known.metadata)


def _number(name, value, least, most, want):
    number = math.nan
    if isinstance(value, Real) and not isinstance(value, bool):
        with suppress(OverflowError):  # Python's whole numbers have no end
            number = float(value)
    if not (least <= number <= most and math.isfinite(number)):
        raise ValueError(f"{name} is {value!r}; it must be {want}")
    return number


def _biases(name, value):
    """{token id: bias}, each a number of at most a million, or minus infinity."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is {value!r}; it must map token ids to numbers, like {{15043: -1.0}}")
    return {
        whole(f"a token id of {name}", i, least=0): _bias(f"{name} of token {i}", value[i]) for i in value
    }


def _bias(name, value):
    if isinstance(value, Real) and value == -math.inf:
        return -math.inf
    return _number(name, value, -MOST, MOST, "a number of at most a million, or -inf")


def _texts(name, value):
    """A tuple of texts, none of them empty."""
    texts = tuple(value) if isinstance(value, list | tuple) else (None,)
    if not all(isinstance(text, str) and text for text in texts):
        raise ValueError(f"{name} is {value!r}; it must be a list of texts of at least one character")
    return texts


def _names(name, value):
    """A tuple of the names in SEQUENCE, in any order, each once at most."""
    names = _texts(name, value)
    if not names or not {*names} <= {*SEQUENCE} or len({*names}) < len(names):
        raise ValueError(
            f"{name} is {value!r}; it must name each of these once at most: {', '.join(SEQUENCE)}"
        )
    return names


def _schema(name, value):
    """The JSON text of a schema, which is an object, or true for any JSON."""
    if value is None:
        return None
    try:
        value = json.loads(value) if isinstance(value, str) else value
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name} is no JSON: {error}") from None
    if not isinstance(value, dict | bool):
        raise ValueError(f'{name} is {text:.80}; it must be an object, like {{"type": "object"}}')
    return text


def _text(name, value):
    if not isinstance(value, str | None):
        raise ValueError(f"{name} is {value!r:.80}; it must be a text")
    return value


CHECKS = {"logit_bias": _biases, "dry_sequence_breakers": _texts, "sequence": _names}
CHECKS |= {"json_schema": _schema, "regex": _text, "grammar": _text, "thought": lambda name, value: value}
