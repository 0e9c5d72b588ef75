"""Readers of calls that are written in tags: a value is bare text, so its type comes from the tool's schema.

`read(text, at, types)` as in calls.py. A value may hold its own closing tag: it ends at the first one that is
followed by what can follow a value.
"""

import re
from dataclasses import dataclass

from .arguments import kinds_of_schema, value_in
from .calls import Call, NotACall, ahead, past
from .literals import json_of


@dataclass(frozen=True)
class Tags:
    """The tags of a call, all regular expressions.

    `call` has the group "name", `key` the group "key" and may have "kind", where the model itself says the
    value's type. `section`, which may hold several calls, and `end_section` are empty if there is no outer
    tag. `cdata`: the template tells the model to write what has tags of its own as <![CDATA[...]]>.
    """

    section: str
    call: str
    key: str
    end_value: str
    end_call: str
    end_section: str
    cdata: bool = False

    @property
    def begin(self) -> str:
        """Where a call may begin: some models leave the outer tag out."""
        return f"{self.section}|{self.call}" if self.section else self.call


def read_tags(tags: Tags, lines: bool, text, at, types):
    """Calls in tags. `lines`: the template puts each value on lines of its own, so a newline at each end is
    markup."""
    begin = at
    calls: list[Call] = []
    at = ahead(tags.section, text, at)
    while call := re.compile(rf"\s*(?:{tags.call})").match(text, at):
        name, start = call["name"].strip(), call.start() if calls else begin
        try:
            values, at = _read_values(tags, lines, text, call.end(), name, types)
        except ValueError as error:
            end = past(tags.end_section or tags.end_call, text, call.end(), _unnamed(tags.begin))
            raise NotACall(str(error), start, end, calls) from None
        calls.append(Call(name, values, start, at))
    if not calls:
        raise NotACall("no call follows the opening tag", begin, max(at, begin + 1))
    return calls, ahead(tags.end_section, text, at)


def _read_values(tags, lines, text, at, name, types):
    """{key: value} up to the end of the call, and that end."""
    values = {}
    while key := re.compile(rf"\s*(?:{tags.key})").match(text, at):
        name_of_value = key["key"].strip()
        if name_of_value in values:
            raise ValueError(f"{name!r} has the argument {name_of_value!r} twice")
        raw, cdata, at = _raw_value(tags, text, key.end())
        kind, kinds = key.groupdict().get("kind"), types.kinds(name, name_of_value)
        values[name_of_value] = raw if cdata else _value(_without_newlines(raw, lines), kind, kinds)
    if (end := ahead(tags.end_call, text, at)) > at:
        return values, end
    if ahead(tags.end_section, text, at) > at:  # some leave the inner closing tag out
        return values, at
    raise ValueError(f"the call of {name!r} is cut off, or holds what is no argument")


def _raw_value(tags, text, at):
    """The text of a value, whether it stands in <![CDATA[...]]>, and the end of its closing tag."""
    begin, section = _unnamed(tags.call), tags.section or r"(?!)"
    follows = "|".join(filter(None, (_unnamed(tags.key), tags.end_call, tags.end_section)))
    end_value = rf"{tags.end_value}(?=\s*(?:{follows}))"
    if tags.cdata and (
        cdata := re.compile(rf"\s*<!\[CDATA\[(.*?)\]\]>\s*{end_value}", re.DOTALL).match(text, at)
    ):
        return cdata[1], True, cdata.end()
    next_call = rf"{tags.end_call}\s*(?:{tags.end_section})\s*(?:{section}|{begin})"
    end = re.compile(rf"(?P<end>{end_value})|{next_call}").search(text, at)
    if end is None or end["end"] is None:
        raise ValueError("a value is cut off")
    return text[at : end.start()], False, end.end()


def _unnamed(pattern):
    """The pattern without the names of its groups, of which one may hold each only once."""
    return re.sub(r"\(\?P<\w+>", "(?:", pattern)


def _without_newlines(raw, lines):
    """One newline at each end is markup where the template writes it, or where the model wrote it at both
    ends."""
    if lines or (len(raw) > 1 and raw[0] == raw[-1] == "\n"):
        return raw.removeprefix("\n").removesuffix("\n")
    return raw


def _value(raw, kind, kinds):
    """`kind`: what the model itself says of the type, string="true" in DeepSeek's and type="string" in Kimi
    K3's tags."""
    if kind in ("true", "string"):
        return raw
    if kind is not None:
        try:
            return json_of(raw)
        except ValueError:
            pass
    return value_in(kinds, raw)


TOKEN = r"\]<\]minimax\[>\["  # MiniMax-M3 writes this control token before each tag
NESTED = Tags(
    rf"{TOKEN}<tool_call>", rf'{TOKEN}<invoke name="(?P<name>[^"]*)">', "", "", "", rf"{TOKEN}</tool_call>"
)  # fmt: skip


def read_nested(text, at, types):
    """MiniMax-M3: an argument's name is its tag; objects and lists are tags in tags, a list's are called
    "item"."""
    begin, calls = at, []
    at = ahead(NESTED.section, text, at)
    while call := re.compile(rf"\s*{NESTED.call}").match(text, at):
        name, start = call["name"], call.start() if calls else begin
        schema = {"type": "object", "properties": types.properties(name)}
        try:
            values, at = _nested(text, call.end(), "invoke", schema, types.parameters.get(name))
        except (ValueError, RecursionError) as error:
            end = past(NESTED.end_section, text, call.end(), _unnamed(NESTED.begin))
            raise NotACall(str(error), start, end, calls) from None
        calls.append(Call(name, values, start, at))
    if not calls:
        raise NotACall("no call follows the opening tag", begin, max(at, begin + 1))
    return calls, ahead(NESTED.end_section, text, at)


def _nested(text, at, tag, schema, root):
    """The value between a tag and its end, by the schema: text, an object or a list."""
    schema = schema if isinstance(schema, dict) else {}
    kinds, fields = kinds_of_schema(schema, root), []
    closing = re.compile(rf"{TOKEN}</{re.escape(tag)}>")
    begin = at
    while "string" not in kinds and (child := re.compile(rf"\s*{TOKEN}<([^/>][^>]*)>").match(text, at)):
        properties = schema.get("properties")
        below = schema.get("items") if child[1] == "item" else (properties or {}).get(child[1])
        value, at = _nested(text, child.end(), child[1], below, root)
        fields.append((child[1], value))
    end = closing.search(text, at)
    if end is None:
        raise ValueError(f"<{tag}> is cut off")
    if text[at : end.start()].strip() and (fields or tag == "invoke"):
        raise ValueError(f"<{tag}> holds what is no argument")
    if fields and all(key == "item" for key, _ in fields) and kinds != {"object"}:
        return [value for _, value in fields], end.end()
    if fields or (kinds == {"object"} and at == end.start()):
        return dict(fields), end.end()
    if kinds == {"array"} and at == end.start():
        return [], end.end()
    return value_in(kinds, text[begin : end.start()]), end.end()
