"""Tools: Python functions or JSON schemas -> what a chat template gets as `tools`.

A tool is described to a model as a JSON schema. `schema_of` makes one of a function's signature and
docstring, as transformers' get_json_schema does (utils/chat_template_utils.py):

>>> def add(a: int, b: int = 0):
...     '''Add two numbers.
...
...     Args:
...         a: the first
...         b: the second
...     '''
>>> schema_of(add)["function"]["parameters"]["properties"]["b"]
{'type': 'integer', 'description': 'the second'}
"""

import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Iterable
from enum import Enum

NAMES = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
CONTAINERS = {list: "array", tuple: "array", dict: "object"}
SECTION = re.compile(
    r"\n\s*(Args|Arguments|Parameters|Returns?|Raises|Yields|Examples?|Notes?):[ \t]*(?=\n|$)"
)
PARAMETER = re.compile(r"^([ \t]*)\*{0,2}(\w+)[ \t]*(?:\([^)\n]*\))?:[ \t]*", re.MULTILINE)
CHOICES = re.compile(r"\(choices:\s*(.*?)\)\s*$", re.DOTALL | re.IGNORECASE)


def tools_for(tools: Iterable[Callable | dict] | None) -> list[dict] | None:
    """What `render_template` takes as `tools`: schemas of functions, schemas as they are, None for none.

    Raises ValueError for what is neither, a function that cannot be described, or two tools of one name.
    """
    schemas = [schema_of(tool) if callable(tool) else _checked(tool) for tool in tools or ()]
    names = [schema["function"]["name"] for schema in schemas]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two tools are called {min(twice)!r}; a model could not tell them apart")
    return schemas or None


def schema_of(function: Callable) -> dict:
    """{"type": "function", "function": {"name", "description", "parameters"}} of a function.

    The types come from the signature; what has a default is not required. The descriptions come from the
    docstring, in Google's style; "(choices: ["a", "b"])" at the end of one lists the values allowed. Raises
    ValueError if the docstring, a type or a description is missing, or a type has no counterpart in JSON.
    """
    name = getattr(function, "__name__", type(function).__name__)
    doc = inspect.getdoc(function)
    if not doc:
        raise ValueError(f"{name} has no docstring; a model decides by it when to call a tool")
    description, arguments, returns = _read_docstring(doc)
    hints = typing.get_type_hints(function)
    properties, required = {}, []
    for parameter in inspect.signature(function).parameters.values():
        where = f"{name}: the argument {parameter.name!r}"
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise ValueError(
                f"{where} has no name that a model could use; give each argument a name of its own"
            )
        if parameter.name not in hints:
            raise ValueError(f"{where} has no type; write it as in {parameter.name}: str")
        if parameter.name not in arguments:
            raise ValueError(f"{where} is not described; add it to the section Args: of the docstring")
        properties[parameter.name] = _property(hints[parameter.name], arguments[parameter.name], where)
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    parameters = {"type": "object", "properties": properties} | ({"required": required} if required else {})
    schema = {"name": name, "description": description, "parameters": parameters}
    if returns and "return" in hints:
        schema["return"] = _type(hints["return"], f"{name}: what it returns") | {"description": returns}
    return {"type": "function", "function": schema}


def _read_docstring(doc):
    """Google's style -> the description, {argument: description}, what it returns."""
    description, *sections = SECTION.split("\n" + doc)
    bodies = dict(zip(sections[::2], sections[1::2], strict=True))
    body = next((bodies[title] for title in ("Args", "Arguments", "Parameters") if title in bodies), "")
    found = list(PARAMETER.finditer(body))
    # Deeper lines continue a description, even if they look like "name: text".
    found = [match for match in found if len(match[1].expandtabs()) == len(found[0][1].expandtabs())]
    ends = [*(match.start() for match in found[1:]), len(body)][: len(found)]
    arguments = {m[2]: _one_line(body[m.end() : end]) for m, end in zip(found, ends, strict=True)}
    returns = next((bodies[title] for title in ("Returns", "Return") if title in bodies), "")
    return description.strip(), arguments, returns.strip()


def _one_line(text):
    return re.sub(r"\s*\n\s*", " ", text.strip())


def _property(hint, description, where):
    """The schema of one argument."""
    schema = _type(hint, where)
    if choices := CHOICES.search(description):
        try:
            schema["enum"] = [
                item.strip() if isinstance(item, str) else item for item in json.loads(choices[1])
            ]
        except ValueError:
            raise ValueError(
                f'{where}: its choices are not a JSON list like ["a", "b"]: {choices[1]}'
            ) from None
        description = description[: choices.start()].strip()
    return schema | {"description": description}


def _type(hint, where):
    """The JSON schema of a type hint."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is typing.Any or hint is inspect.Parameter.empty:
        return {}
    if hint in NAMES or hint in CONTAINERS:
        return {"type": NAMES.get(hint) or CONTAINERS[hint]}
    if origin in (typing.Union, types.UnionType):
        return _union(parts, where)
    if origin is typing.Literal or (isinstance(hint, type) and issubclass(hint, Enum)):
        values = list(parts) or [member.value for member in hint]
        if values and all(type(value) in NAMES for value in values):
            kinds = list(dict.fromkeys(NAMES[type(value)] for value in values))
            return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": values}
    if origin is list:
        return {"type": "array", "items": _type(parts[0], where)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type(parts[1], where)}
    if origin is tuple and ... not in parts and len(parts) > 1:
        return {"type": "array", "prefixItems": [_type(part, where) for part in parts]}
    raise ValueError(
        f"{where} has the type {hint!r}, which JSON has not; use str, int, float, bool, list, dict, Literal"
    )


def _union(parts, where):
    """X | Y; X | None is X, and may be null."""
    schemas = [_type(part, where) for part in parts if part is not type(None)]
    if len(schemas) == 1:
        schema = schemas[0]
    elif all(schema.keys() == {"type"} and isinstance(schema["type"], str) for schema in schemas):
        kinds = sorted({schema["type"] for schema in schemas})
        schema = {"type": kinds[0] if len(kinds) == 1 else kinds}
    else:
        schema = {"anyOf": schemas}
    return schema | ({"nullable": True} if type(None) in parts else {})


def function_of(schema) -> dict | None:
    """The inner part of a tool's schema, which some write alone; None if it is no such schema."""
    inner = schema.get("function", schema) if isinstance(schema, dict) else None
    return inner if isinstance(inner, dict) and isinstance(inner.get("name"), str) else None


def _checked(schema):
    if function_of(schema) is None:
        raise ValueError(
            'a tool is a Python function or a schema like {"type": "function", "function": {"name": "add", '
            f'"description": "Add numbers", "parameters": {{"type": "object", ...}}}}}}, not {schema!r:.80}'
        )
    return {"type": "function"} | (schema if "function" in schema else {"function": schema})
