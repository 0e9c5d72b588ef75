"""JSON schemas, as a constraint takes them: a little stricter than they say, so that a text ends."""

from collections.abc import Iterator

# Between the marks of JSON: a space, or an empty line at most and the next one's indentation. With no limit a
# weak model may write white space for ever.
SPACE = r"(\x20|\x0A{1,2}[\x20\x09]{0,20})"
# Keys of a schema beside which `properties` hold for the same object; those under which schemas have names of
# their own, and those under which there are values, no schemas
TOGETHER = {"anyOf", "oneOf", "$ref", "if", "dependentSchemas", "patternProperties", "unevaluatedProperties"}
NAMED = {"properties", "$defs", "definitions"}
NANOSECONDS = r"^[^.]*(\.[0-9]{1,9}([^0-9].*)?)?$"  # a time may have no end of digits
LONG, LONGEST = {"email", "hostname", "uri", "duration"}, 128  # formats without an end, their characters
DIGITS = 20  # after so many in JSON another digit comes only where nothing else may
VALUES = {"enum", "const", "default", "examples", "required"}


def closed(schema: dict) -> dict:
    """The same schema, but objects have no other properties than are named, where it does not say, and times
    nine digits of a second; addresses have 128 characters at most.

    A model that may add any property seldom ends. llama.cpp does so, too. Where the parts of a schema hold
    for one object together, it stays as it is: a property of one part is no property of another.

    >>> closed({"properties": {"a": {}}})
    {'additionalProperties': False, 'properties': {'a': {}}}
    """
    nodes = [schema, *(node for _, node in parts(schema))]
    if any("allOf" in node or ("properties" in node and TOGETHER & node.keys()) for node in nodes):
        return schema

    def walk(value, is_schema=True):
        """The same part of the schema, stricter."""
        if isinstance(value, list):
            return [walk(item) for item in value]
        if not isinstance(value, dict):
            return value
        # What stands under these is named by the writer of the schema, or is a value
        inner = {
            key: walk(item, key not in NAMED) if key not in VALUES else item for key, item in value.items()
        }
        if is_schema and value.get("format") in ("time", "date-time"):
            inner = {"pattern": NANOSECONDS} | inner
        elif is_schema and value.get("format") in LONG and not value.keys() & {"minLength", "pattern"}:
            inner = {"maxLength": LONGEST} | inner
        named = value.get("properties") if is_schema else None
        if isinstance(named, dict) and {*value.get("required", ())} <= named.keys():
            return {"additionalProperties": False} | inner
        return inner

    return walk(schema)


def parts(schema: dict) -> Iterator[tuple[str, dict]]:
    """(JSON pointer, object) for each object inside of a schema, as a schema with the definitions of all.

    >>> dict(parts({"items": {"type": "null"}}))
    {'/items': {'type': 'null'}}
    """
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}

    def walk(value, place):
        """The objects in this part, which stands at that place."""
        if isinstance(value, dict):
            if place and value is not schema.get("$defs") and value is not schema.get("definitions"):
                yield place, shared | value
            for key, item in value.items():
                yield from walk(item, f"{place}/{str(key).replace('~', '~0').replace('/', '~1')}")
        elif isinstance(value, list):
            for i, item in enumerate(value):
                yield from walk(item, f"{place}/{i}")

    return walk(schema, "")
