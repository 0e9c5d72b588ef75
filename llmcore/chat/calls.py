"""Readers of calls that are JSON, a name and JSON, or written as Python and Gemma 4 do.

Each `read(text, at, types)` gives the calls that stand at `at` and the end of their markup, or raises
NotACall. JSON decides where a JSON call ends, so a marker inside of a string is no marker. Closing markers
may be missing.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from .literals import json_of, read_fields, read_json


@dataclass(frozen=True)
class Call:
    """A call, and where it stands in the answer; with a `problem` it is none, and stays text."""

    name: str
    arguments: dict
    start: int
    end: int
    problem: str = ""


class NotACall(ValueError):
    """What stands from `start` to `end` is no call, for the reason given; `calls` are those before it that
    are sound.

    Without a reason it does not even look like one: an answer in JSON is no broken call.
    """

    def __init__(self, reason: str, start: int, end: int, calls=()):
        super().__init__(reason)
        self.start, self.end, self.calls = start, end, calls


def past(close: str, text: str, at: int, opening: str = "") -> int:
    """Past the closing marker behind `at`, or up to the next call: what a broken one takes with it.

    Without either, all the rest.
    """
    ends = [close, f"(?={opening})" if opening else ""]
    found = re.compile("|".join(filter(None, ends)) or "(?!)").search(text, at)
    return found.end() if found else len(text)


def ahead(pattern: str, text: str, at: int) -> int:
    """Past the white space and the pattern at `at`, or `at` if it does not stand there."""
    found = re.compile(rf"\s*(?:{pattern})").match(text, at) if pattern else None
    return found.end() if found else at


def objects(opening: str, close: str = "") -> tuple[str, Callable]:
    """The `begin` and `read` of JSON between two markers, which are regular expressions."""
    return opening, partial(read_objects, opening, close)


def read_objects(opening, close, text, at, types):
    """{"name": ..., "arguments": {...}}, one or more, or lists of them."""
    start, at = at, re.compile(opening).match(text, at).end()
    calls = []
    while text.startswith("{", item := _item(text, at)):
        value, at = _json(text, item, close, opening, item if calls else start, calls)
        try:
            calls.append(_call(value, item, at))
        except ValueError as error:
            calls.append(Call("", {}, item, at, problem=str(error)))
    if not calls:
        end = past(close, text, at, opening)
        raise NotACall("there is no JSON object where a call should be", start, end)
    end = ahead(rf"[\s\]}}]*(?:{close})", text, at) if close else at  # one "}" too many is a common slip
    return calls, end if end > at else ahead(r"\]", text, at)


def _item(text, at):
    return re.compile(r"[\s,;\[\]]*").match(text, at).end()


def _json(text, at, close, opening, start, calls):
    """The JSON object at `at` and its end; what is no call begins at `start`."""
    try:
        value, end = read_json(text, at)
    except ValueError as error:
        reason = f"the JSON of a call is cut off or broken ({getattr(error, 'msg', error)})"
        raise NotACall(reason, start, past(close, text, at, opening), calls) from None
    if not isinstance(value, dict):
        after = past(close, text, end, opening)
        raise NotACall("the arguments of a call are no JSON object", start, after, calls)
    return value, end


def _call(value, start, end):
    """A Call of a JSON object, whichever words its writer uses; ValueError if it is none."""
    inner = value.get("function")
    value = inner if isinstance(inner, dict) and "name" not in value else value
    name = next(
        (value[key] for key in ("name", "tool_name", "function") if isinstance(value.get(key), str)), None
    )
    arguments = next((value[key] for key in ("arguments", "parameters") if key in value), None)
    if name is None and len(value) == 1:  # Apertus: {"add": {"a": 1}}
        [(name, arguments)] = value.items()
    if isinstance(arguments, str):  # the JSON text of the arguments, as in OpenAI's API
        try:
            arguments = json_of(arguments.strip() or "{}")
        except ValueError:
            raise ValueError(f"the arguments of {name!r} are no JSON") from None
    elif arguments is None and not value.keys() <= BESIDE:
        raise ValueError("the JSON of a call has neither arguments nor parameters")
    if name is None or not isinstance(arguments, dict | None):
        raise ValueError("the JSON of a call has no name, or its arguments are no object")
    return Call(name, arguments or {}, start, end)


BESIDE = {"name", "tool_name", "function", "arguments", "parameters", "id", "tool_call_id", "type", "index"}
BARE = r'<\|python_tag\|>\s*|(?m:^)[ \t]*(?=\{\s*"(?:name|type|function|parameters|arguments|id)"\s*:)'


def read_bare(text, at, types):
    """Llama 3 writes nothing but {"name": ..., "parameters": {...}}, so other JSON must stay what it is."""
    begin = re.compile(BARE).match(text, at).end()
    if builtin := re.compile(r"([\w.]+)\.call\(").match(
        text, begin
    ):  # <|python_tag|>brave_search.call(query="x")
        call = _python_call(text, begin, builtin[1], builtin.end(), types, at, [])
        return [call], call.end
    calls, end = read_objects(BARE, "", text, at, types)
    value, _ = read_json(text, calls[0].start)
    inner = value.get("function")
    if not {"parameters", "arguments"} & (inner if isinstance(inner, dict) else value).keys():
        raise NotACall("", at, end)
    return calls, end


def named(head: str, close: str, section: str = ""):
    """The `read` of calls that are a name, then JSON: `head` up to the JSON has the group "name"."""
    return partial(_read_named, head, close, section)


def _read_named(head, close, section, text, at, types):
    begin, calls = at, []
    while match := re.compile(rf"\s*{head}").match(text, at):
        start = match.start() if calls else begin
        value, end = _json(text, match.end(), close, head, start, calls)
        calls.append(Call(match["name"].strip().removeprefix("functions."), value, start, end))
        at = ahead(close, text, ahead("```", text, end))
    if not calls:
        end = past(close, text, begin + 1, head)
        raise NotACall("a call has no name or no arguments", begin, end)
    return calls, ahead(section, text, at)


MISTRAL = named(
    r"\[TOOL_CALLS\]\s*(?P<name>[^\[\]{}\s]+)\s*(?:\[CALL_ID\]\s*\w*\s*)?(?:\[ARGS\])?\s*(?=\{)",
    close=r"\[/TOOL_CALLS\]|(?=\[TOOL_CALLS\])",
)


def read_mistral(text, at, types):
    """Three ways: a list of objects, name[ARGS]{...}, name[CALL_ID]id[ARGS]{...}."""
    if re.compile(r"\[TOOL_CALLS\]\s*[\[{]").match(text, at):
        return read_objects(r"\[TOOL_CALLS\]", r"\[/TOOL_CALLS\]", text, at, types)
    return MISTRAL(text, at, types)


PYTHON_END = r"<\|tool_call_end\|>"


def read_python(text, at, types):
    """LFM2: <|tool_call_start|>[f(a=1), g()]<|tool_call_end|>."""
    opening = r"<\|tool_call_start\|>"
    start, at, calls = at, ahead(opening, text, at), []
    if re.compile(r"\s*\[?\s*\{").match(text, at):  # a system prompt can ask for JSON
        return read_objects(opening, PYTHON_END, text, start, types)
    while name := re.compile(r"[\s,;\[]*([\w.-]+)\(").match(text, at):
        begin = name.start(1) if calls else start
        calls.append(_python_call(text, name.start(1), name[1], name.end(), types, begin, list(calls)))
        at = calls[-1].end
    if not calls:
        raise NotACall("there is no call like name(argument=1)", start, past(PYTHON_END, text, at))
    return calls, ahead(PYTHON_END, text, ahead(r"\]", text, at))


def _python_call(text, begin, name, at, types, start, calls):
    try:
        arguments, end = read_fields(text, at, ")", "=", names=types.properties(name))
    except (ValueError, RecursionError) as error:
        reason = f"the arguments of {name!r} cannot be read: {error}"
        raise NotACall(reason, start, past(PYTHON_END, text, at), calls) from None
    return Call(name, arguments, begin, end)


def read_gemma(text, at, types):
    """Gemma 4: <|tool_call>call:name{key:<|"|>text<|"|>,n:1}<tool_call|>."""
    opening, close = r"<\|tool_call>", r"<tool_call\|>"
    head = re.compile(rf"{opening}\s*(?:call:)?\s*([^\s{{<]+)\s*\{{").match(text, at)
    if head is None:
        end = past(close, text, at + 1, opening)
        raise NotACall("a call does not begin with call:name{", at, end)
    try:
        arguments, end = read_fields(text, head.end(), "}", ":")
    except (ValueError, RecursionError) as error:
        reason = f"the arguments of {head[1]!r} cannot be read: {error}"
        raise NotACall(reason, at, past(close, text, at + 1, opening)) from None
    for key, value in arguments.items():  # a bare 123 is text where the schema allows nothing else
        if types.kinds(head[1], key) == {"string"} and type(value) in (int, float):
            arguments[key] = json.dumps(value)
    return [Call(head[1], arguments, at, end)], ahead(close, text, end)
