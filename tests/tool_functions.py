"""Functions as tools. data/tool_schemas.json has what transformers makes of them (record_tools.py)."""

from enum import Enum
from typing import Any, Literal, Optional, Union


class Unit(Enum):
    C = "celsius"
    F = "fahrenheit"


def weather(city: str, days: int = 1, unit: Literal["celsius", "fahrenheit"] = "celsius"):
    """Weather in a city.

    It looks out of the window: "today" & <tomorrow>.

    Args:
        city: City name, e.g. Łódź
        days: How many days,
            counted from today
        unit: Unit of the temperature
    """


def everything(
    a: Optional[int],  # noqa: UP045
    b: list[str],
    c: dict[str, float],
    d: tuple[int, str],
    e: Union[int, str],  # noqa: UP007
    f: list[dict],
    g: Any,
    h: bool = False,
    i: int | None = None,
    j: Literal[1, "two", None] = 1,
    k: float = 1.5,
    m: list[int] | dict[str, int] = (),
) -> str:
    """Every type.

    Args:
        a: an optional number
        b: a list
        c: a table
        d: a pair
        e: one or the other
        f: tables
        g: anything
        h: a flag
        i: maybe
        j: one of three
        k: a real number
        m: two containers

    Returns:
        What came out.
    """


def paint(colour: str, unit: Unit = Unit.C):
    """Paint it

    Args:
        colour: The colour (choices: ["red", "green"])
        unit: Which unit
    """


def todo():
    """Show the to-do list."""


FUNCTIONS = (weather, everything, paint, todo)
