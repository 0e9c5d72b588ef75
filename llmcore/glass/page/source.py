"""The very lines that compute what a scene shows, so that they can stand beside the numbers."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[2]
LONGEST = 60  # lines that are shown of one function


def lines_of(function: Callable[..., Any]) -> dict:
    """Name, file, first line and text of a function or class of this package."""
    function = inspect.unwrap(function)
    lines, first = inspect.getsourcelines(function)
    path = Path(inspect.getsourcefile(function) or "").resolve()
    shown = lines[:LONGEST] + ["    ...\n"] * (len(lines) > LONGEST)
    return {
        "name": function.__qualname__,
        "file": path.relative_to(PACKAGE.parent).as_posix(),
        "line": first,
        "text": inspect.cleandoc("".join(shown)) if lines[0][:1] == " " else "".join(shown).rstrip(),
    }
