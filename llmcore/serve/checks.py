"""Checks of what a request holds, each (name, value) -> the value in the type that we use; and its errors.

All but those that raise RequestError raise ValueError, which names the field.
"""

import json
from collections.abc import Callable

from ..errors import whole
from ..tokenizers.streaming import stop_strings

MOST_INPUTS = 2048
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class RequestError(Exception):
    """What is wrong with a request, as OpenAI's protocol tells it."""

    def __init__(self, message, param=None, code=None, status=400, headers=None):
        """`param`: the field; `code`: for programs."""
        super().__init__(message)
        self.status, self.headers = status, headers or {}
        kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def read_json(data: bytes) -> dict:
    """The object in the body of a request."""
    try:
        body = json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is no JSON: {error}", code="invalid_json") from None
    if not isinstance(body, dict):
        raise RequestError("the body must be a JSON object", code="invalid_json")
    return body


def _no_number(word):
    raise ValueError(f"{word} is not a number of JSON")


def flag(name: str, value) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r:.60}; it must be true or false")
    return value


def text(name: str, value) -> str:
    """A text."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r:.60}; it must be a text")
    return value


def mapping(name: str, value) -> dict:
    """An object."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {value!r:.60}; it must be an object")
    return value


def between(least: int, most: int) -> Callable:
    """A whole number from `least` to `most`."""

    def check(name, value):
        number = whole(name, value, least)
        if number > most:
            raise ValueError(f"{name} is {number}; it must be at most {most}")
        return number

    return check


def any_whole(name: str, value) -> int:
    """A whole number; a negative one stands for a positive one, as a seed of 64 bits."""
    return whole(name, value, least=-(1 << 63)) % (1 << 64)


def biases(name: str, value) -> dict:
    """{token id: bias}; JSON writes the ids as texts."""
    try:
        return {int(i): bias for i, bias in mapping(name, value).items()}
    except ValueError:
        raise ValueError(f"{name} is {value!r:.60}; it must map token ids to numbers") from None


def one_of(*allowed) -> Callable:
    """One of these values, which say nothing new: what we cannot do otherwise."""

    def check(name, value):
        if value not in allowed:
            known = ", ".join(json.dumps(one) for one in allowed)
            raise ValueError(f"{name} is {value!r:.60}; here it can only be {known}")
        return value

    return check


def refused(why: str) -> Callable:
    """No value at all."""

    def check(name, value):
        if value not in ([], {}, ""):
            raise ValueError(f"{name} is not supported: {why}")

    return check


def choice_of_tool(name: str, value) -> str | tuple:
    """none, auto, required, or the name of a tool in a tuple."""
    if isinstance(value, dict):
        function = value.get("function")
        if (
            value.get("type") == "function"
            and isinstance(function, dict)
            and isinstance(function.get("name"), str)
        ):
            return (function["name"],)
        raise ValueError(
            f'{name} is {value!r:.60}; it must be {{"type": "function", "function": {{"name": ...}}}}'
        )
    return named(name, value, ("none", "auto", "required"))


def schema_of_format(name: str, value):
    """The JSON schema that a response_format asks for; None where it asks for text."""
    kind = mapping(name, value).get("type")
    if kind == "json_object":
        return {"type": "object"}
    if kind != "json_schema":
        return one_of("text", "json_object", "json_schema")(f"{name}.type", kind) and None
    inner = value.get("json_schema")
    if not (isinstance(inner, dict) and isinstance(inner.get("schema"), dict | bool)):
        raise ValueError(f'{name} is {value!r:.60}; it must have "json_schema": {{"schema": ...}}')
    return inner["schema"]


def ignored(name: str, value) -> None:
    """Anything: it has no effect on the text."""


def as_it_is(name: str, value):
    """Anything; whoever uses it checks it."""
    return value


def stops(name: str, value) -> list[str]:
    """A text or a list of texts."""
    if not isinstance(value, str | list):
        raise ValueError(f"{name} is {value!r:.60}; it must be a text or a list of texts")
    return stop_strings(value)


def texts_or_ids(name: str, value) -> list:
    """A text, its ids, or a list of either, as a list. Raises ValueError."""
    if isinstance(value, str) or (isinstance(value, list) and value and is_id(value[0])):
        value = [value]
    if not (isinstance(value, list) and 0 < len(value) <= MOST_INPUTS):
        raise ValueError(
            f"{name} must be a text, a list of token ids, or up to {MOST_INPUTS} of them in a list"
        )
    for one in value:
        if not (isinstance(one, str) or (isinstance(one, list) and all(map(is_id, one)))):
            raise ValueError(f"{name} holds {one!r:.60}; it must be a text or a list of token ids")
    return value


def is_id(value) -> bool:
    """Whether it can be a token id."""
    return isinstance(value, int) and not isinstance(value, bool)


def named(name: str, value, names) -> str:
    """One of these names."""
    if value not in names:
        raise ValueError(f"{name} is {value!r:.60}; it must be {' or '.join(names)}")
    return value
