"""Random JSON schemas of the kinds that people write (those of JSONSchemaBench, arXiv:2501.10868): nested
objects, enums, patterns, numbers with bounds, arrays with lengths, anyOf, $ref and formats.
"""

import random

FORMATS = ("date", "time", "date-time", "email", "ipv4", "ipv6", "uuid", "hostname", "uri", "duration")
PATTERNS = (
    r"^[a-z]{2,8}$",
    r"^\d{3}-\d{4}$",
    r"^(red|green|blue)$",
    r"^[A-Z][a-z]{1,10}( [A-Z][a-z]{1,10}){0,2}$",
)
WORDS = [
    "name",
    "age",
    "city",
    "price",
    "tags",
    "id",
    "kind",
    "items",
    "note",
    "color",
    "email",
    "size",
    "owner",
    "first",
    "last",
]


def schema(seed: int, bounded: bool = False) -> dict:
    """The schema of a seed; `bounded`: a text of it is short, whoever writes it."""
    rng = random.Random(seed)
    root = _object(rng, depth=3, bounded=bounded)
    if seed % 4 == 0:  # a reference into definitions, half of them to itself
        root["$defs"] = {"node": _object(rng, depth=1, bounded=bounded)}
        if seed % 8 == 0:
            again = {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}
            root["$defs"]["node"]["properties"]["next"] = again
        root["properties"]["node"] = {"$ref": "#/$defs/node"}
        root["required"] = [*root["required"], "node"]
    return root


def _object(rng, depth, bounded):
    names = rng.sample(WORDS, rng.randint(1, 4))
    properties = {name: _value(rng, depth - 1, bounded) for name in names}
    required = [name for name in names if rng.random() < 0.7]
    closed = {"additionalProperties": False} if bounded or rng.random() < 0.8 else {}
    return {"type": "object", "properties": properties, "required": required} | closed


def _value(rng, depth, bounded):
    simple = [_string, _number, _enum, _string, _number, lambda *_: {"type": rng.choice(["boolean", "null"])}]
    nested = [_object, _array, _any_of]
    if depth > 0 and rng.random() < 0.5:
        return rng.choice(nested)(rng, depth, bounded)
    return rng.choice(simple)(rng, bounded)


def _string(rng, bounded):
    kind = rng.randrange(4)
    if kind == 0:
        return {"type": "string", "pattern": rng.choice(PATTERNS)}
    if kind == 1:
        return {"type": "string", "format": rng.choice(FORMATS[:7] if bounded else FORMATS)}
    if kind == 2 or bounded:
        least = rng.randint(0, 3)
        return {"type": "string", "minLength": least, "maxLength": least + rng.randint(0, 12)}
    return {"type": "string"}


def _number(rng, bounded):
    low, kind = rng.randint(-50, 50), rng.choice(["integer", "number"])
    bounds = [
        {"minimum": low},
        {"maximum": low},
        {"minimum": low, "maximum": low + rng.randint(0, 1000)},
        {"exclusiveMinimum": low, "exclusiveMaximum": low + rng.randint(2, 9)},
        {},
        {"multipleOf": rng.choice([2, 5, 10])} if kind == "integer" else {"maximum": low + 0.5},
    ]
    return {"type": kind} | rng.choice(bounds)


def _enum(rng, bounded):
    values = ["red", "green", "a b", 'say "no"', "żółw", 1, 2.5, True, None]
    return rng.choice([{"enum": rng.sample(values, rng.randint(1, 5))}, {"const": rng.choice(values)}])


def _array(rng, depth, bounded):
    least = rng.randint(0, 2)
    limits = {"minItems": least, "maxItems": least + rng.randint(0, 3)}
    if rng.random() < 0.2:
        items = [_value(rng, depth - 1, bounded) for _ in range(2)]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": 2}
    return {"type": "array", "items": _value(rng, depth - 1, bounded)} | limits


def _any_of(rng, depth, bounded):
    return {"anyOf": [_value(rng, depth - 1, bounded) for _ in range(rng.randint(2, 3))]}
