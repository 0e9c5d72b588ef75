"""A call that must come: the grammar of one call of the tools, in the format of the model's template.

Known are the formats whose arguments are JSON. The others, in tags or as Python, have no grammar here.
"""
# ruff: noqa: RUF001 (DeepSeek's tokens have a wide bar)

import json
from collections.abc import Iterable

from ..samplers.constraint import check
from ..samplers.options import Sampling
from .formats import format_of
from .tools import function_of, tools_for

LISTED = '[{"name": "NAME", "arguments": ARGS}]'
PLAIN = LISTED[1:-1]
SOLAR = "<|tool_calls|><|tool_call:begin|>0<|tool_call:name|>NAME<|tool_call:args|>ARGS<|tool_call:end|>"
KIMI = "<|tool_calls_section_begin|><|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>ARGS"
KIMI += "<|tool_call_end|><|tool_calls_section_end|>"
DEEPSEEK = (
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>NAME<｜tool▁sep｜>ARGS<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
)
DEEPSEEK_R1 = DEEPSEEK.replace("NAME<｜tool▁sep｜>ARGS", "function<｜tool▁sep｜>NAME\n```json\nARGS\n```")
COMMAND = (
    '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "NAME", "parameters": ARGS}\n]<|END_ACTION|>'
)
# The name of a format -> (what its template has, a call as the template writes it), the first that fits
FORMS = {
    "hermes": [("", f"<tool_call>\n{PLAIN}\n</tool_call>")],
    "llama-3": [("", '{"name": "NAME", "parameters": ARGS}')],
    "mistral": [
        ("[CALL_ID]", "[TOOL_CALLS]NAME[CALL_ID]000000000[ARGS]ARGS"),
        ("[ARGS]", "[TOOL_CALLS]NAME[ARGS]ARGS"),
        ("", '[TOOL_CALLS][{"name": "NAME", "arguments": ARGS, "id": "000000000"}]'),
    ],
    "tool-calls": [
        ("<tool_calls>[", f"<tool_calls>{LISTED}</tool_calls>"),
        ("", f"<tool_calls>\n{PLAIN}\n</tool_calls>"),
    ],
    "toolcall": [("", f"<TOOLCALL>{LISTED}</TOOLCALL>")],
    "granite-3": [("", f"<|tool_call|>{LISTED}")],
    "functools": [("", f" functools{LISTED}")],
    "apertus": [("", '<|tools_prefix|>[{"NAME": ARGS}]<|tools_suffix|>')],
    "gigachat-3.1": [("", f"<|function_call|>{PLAIN}")],
    "functionary-3.1": [("", "<function=NAME>ARGS</function>")],
    "functionary-3.2": [("", "NAME\nARGS")],
    "harmony": [("", "<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>ARGS")],
    "solar": [("", SOLAR)],
    "kimi-k2": [("", KIMI)],
    "deepseek": [("```json", DEEPSEEK_R1), ("", DEEPSEEK)],
    "command": [("", COMMAND)],
}
# White space as templates write it: {"a": 1, "b": 2}
SPACED = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}


def call_grammar(tokenizer, tools: Iterable, name: str | None = None) -> str:
    """The grammar, for `grammar=`, of one call of any of the tools, or of the one called `name`.

    The arguments are those that the tool's schema names, and as it says. Raises ValueError if there is no
    such tool, if a schema cannot be used, and for a model whose template writes calls in another format.
    """
    functions = [inner for tool in tools_for(tools) or () if (inner := function_of(tool))]
    chosen = [function for function in functions if name in (None, function["name"])]
    if not chosen:
        known = ", ".join(function["name"] for function in functions)
        raise ValueError(
            f"there is no tool called {name!r}; there are {known}" if known else "there are no tools"
        )
    form, template = format_of(tokenizer.chat_template or ""), tokenizer.chat_template
    if form is None or form.name not in FORMS:
        what = f"writes calls in the format {form.name!r}" if form else "writes no calls that we know"
        raise ValueError(f"this model's chat template {what}; a call can be required in {', '.join(FORMS)}")
    text = next(text for mark, text in FORMS[form.name] if mark in template)
    calls = [_call(tokenizer.special, text, function) for function in chosen]
    rules = [f"call_{i}: {call}" for i, call in enumerate(calls)]
    return "\n".join([f"start: {' | '.join(f'call_{i}' for i in range(len(calls)))}", *rules, ""])


def _call(special, text, function):
    """The rule of one call in Lark: control tokens by their ids, text, and the JSON of a schema."""
    schema = arguments_of(function)
    try:
        check(Sampling(json_schema=schema))
    except ValueError as error:
        raise ValueError(f"the tool {function['name']!r}: {error}") from None
    name = json.dumps(function["name"], ensure_ascii=False)[1:-1]

    def written(part):
        pieces = special.split(part)  # before the name comes in, which is data
        return [
            f"<[{piece}]>" if isinstance(piece, int) else json.dumps(piece.replace("NAME", name))
            for piece in pieces
        ]

    before, _, behind = text.rpartition("ARGS")  # the last: Mistral has a token [ARGS]
    return " ".join([*written(before), "%json", json.dumps(schema), *written(behind)])


def arguments_of(function: dict) -> dict:
    """The schema of the arguments of a function: an object with no others than are named.

    `nullable`, which `schema_of` writes as transformers does, becomes the JSON schema of it.

    >>> nullable = {"properties": {"a": {"type": "string", "nullable": True}}}
    >>> arguments_of({"name": "f", "parameters": nullable})["properties"]
    {'a': {'anyOf': [{'type': 'string'}, {'type': 'null'}]}}
    """
    schema = {"type": "object", "properties": {}} | _plain(function.get("parameters") or {})
    return {"additionalProperties": False, "x-guidance": SPACED} | schema


def _plain(schema):
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _plain(value) for key, value in schema.items() if key != "nullable"}
    if schema.get("nullable") is True:
        return {"anyOf": [plain, {"type": "null"}]}
    return plain if "nullable" not in schema or isinstance(schema["nullable"], bool) else schema
