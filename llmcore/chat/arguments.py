"""The types of the arguments of tools: a value that a model wrote as bare text is read as its schema says.

>>> kinds_of_schema({"anyOf": [{"type": "integer"}, {"type": "null"}]}) == {"integer", "null"}
True
>>> value_in({"string", "null"}, "null"), value_in({"string", "null"}, "1 Main St"), value_in({"string"}, "7")
(None, '1 Main St', '7')
"""

from collections.abc import Callable, Iterable

from .literals import json_of, read_literal
from .tools import CONTAINERS, NAMES, function_of, tools_for


class Types:
    """The names of the tools, and the types of their arguments."""

    def __init__(self, tools: Iterable[Callable | dict] | None):
        functions = [function_of(schema) for schema in tools_for(tools) or ()]
        schemas = {function["name"]: function.get("parameters") for function in functions if function}
        self.parameters = {
            name: schema if isinstance(schema, dict) else {} for name, schema in schemas.items()
        }

    def knows(self, name: str) -> bool:
        """Whether there is a tool of this name; yes if no tools were given."""
        return not self.parameters or name in self.parameters

    def properties(self, name: str) -> dict:
        """{argument: schema} of a tool, {} if that is not known."""
        properties = self.parameters.get(name, {}).get("properties")
        return properties if isinstance(properties, dict) else {}

    def kinds(self, name: str, argument: str) -> set[str]:
        """The types of JSON that an argument may have; empty if anything."""
        return kinds_of_schema(self.properties(name).get(argument), self.parameters.get(name))


def value_in(kinds: set[str], text: str):
    """The value that `text` writes, if its type is among `kinds`; else the text, and whoever runs the tool
    may refuse it.

    An empty set allows everything. Where a string is allowed, other values are only what is surely one.
    """
    if kinds == {"string"}:
        return text
    value = _value_of(text)
    fits = not isinstance(value, str) and ("string" not in kinds or kinds & _kinds_of(value))
    return value if fits else text


def kinds_of_schema(schema, root=None, depth=8) -> set[str]:
    """The types that a schema allows, empty for any; `root` has the definitions that its "$ref" speaks of."""
    if not isinstance(schema, dict) or depth == 0:
        return set()
    if isinstance(reference := schema.get("$ref"), str):
        found = root
        for step in reference.removeprefix("#/").split("/"):
            found = found.get(step) if isinstance(found, dict) else None
        return kinds_of_schema(found, root, depth - 1)
    named = schema.get("type")
    kinds = {named} if isinstance(named, str) else {kind for kind in _list(named) if isinstance(kind, str)}
    if not kinds:
        kinds = kinds.union(
            *map(_kinds_of, [schema["const"]] if "const" in schema else _list(schema.get("enum")))
        )
    for some in ("anyOf", "oneOf", "allOf"):
        for part in _list(schema.get(some)):
            kinds |= kinds_of_schema(part, root, depth - 1)
    return kinds | ({"null"} if kinds and schema.get("nullable") else set())


def _list(value):
    """The value if it is a list; a schema that says something else there says nothing."""
    return value if isinstance(value, list) else []


def _value_of(text):
    """What text writes as JSON, or as Python does (some templates write {'a': True}); else the text."""
    for read in (json_of, _python):
        try:
            return read(text.strip())
        except (ValueError, RecursionError):
            continue
    return text


def _python(text):
    value, end = read_literal(text, 0)
    if end < len(text):
        raise ValueError("something follows the value")
    return value


def _kinds_of(value):
    """The types of JSON that a value has: 2.0 is an integer, too."""
    kind = NAMES.get(type(value)) or CONTAINERS.get(type(value))
    whole = kind == "integer" or (kind == "number" and value.is_integer())
    return {"integer", "number"} if whole else {kind}
