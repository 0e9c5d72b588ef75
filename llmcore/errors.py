"""The errors a user can put right, and the check of what a user counts.

Each message says what is wrong, where, and what to do; the command line prints it as one line.
"""

from operator import index
from typing import Any


class ModelFileError(ValueError):
    """The model file is damaged or contradicts itself; the message names the file and the key or tensor."""


class UnsupportedModel(ModelFileError):
    """The file is sound, but of an architecture, tokenizer or tensor type that we lack; it lists ours."""


class ContextOverflow(ValueError):
    """The prompt does not fit into the context; the message gives both numbers."""


class HubError(ValueError):
    """The hub has no such model, refuses it or cannot be reached; the message says what to do."""


def whole(name: str, value: Any, least: int = 1) -> int:
    """A count that a caller gave, as an int of Python. Raises ValueError if it is not a whole number of at
    least `least`.

    >>> whole("max_tokens", 2.5)
    Traceback (most recent call last):
    ValueError: max_tokens is 2.5; it must be a whole number, 1 or more
    """
    try:
        number = index(value)  # what NumPy counts with, too; neither 2.0 nor "3"
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ValueError(f"{name} is {value!r}; it must be a whole number, {least} or more")
    return number
