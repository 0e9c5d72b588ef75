"""The tools of an agent: those that are built in can do no harm, and say how far their answer reaches.

A tool is its JSON schema, which the model is shown, and what answers a call. Answers are texts; what a model
did wrong is told in its answer, so that it can do better.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from ..chat.arguments import Types, value_in
from ..chat.tools import CONTAINERS, NAMES, schema_of
from .allowed import LARGEST, Allowed, read_text
from .calculator import calculate as value_of

CHARACTERS = 8000  # of an answer
ENTRIES, HITS, FILES, WIDTH = 200, 50, 5000, 200  # listed; found; searched; characters of a line found


@dataclass(frozen=True)
class Tool:
    """`answer(arguments)` raises ValueError or OSError for a call that cannot be answered."""

    schema: dict  # {"type": "function", "function": {"name", "description", "parameters"}}
    answer: Callable[[dict], str]

    @property
    def name(self) -> str:
        """What the model calls it."""
        return self.schema["function"]["name"]


def built_in(allowed: Allowed) -> list[Tool]:
    """The tools without files, and if some are allowed those for files, too."""
    functions: list[Callable] = [calculate, current_time]
    files = Files(allowed)
    functions += [files.read_file, files.list_files, files.search_text] if allowed.roots else []
    return [tool_of(function) for function in functions]


def tool_of(function: Callable) -> Tool:
    """A Python function as a tool: the arguments of a call are checked against its signature."""
    schema = schema_of(function)
    types = Types([schema])

    def answer(arguments):
        """What the function returns for these. Raises ValueError for those it cannot take."""
        try:
            bound = inspect.signature(function).bind(**arguments)
        except TypeError as error:
            known = ", ".join(types.properties(function.__name__)) or "none"
            raise ValueError(f"{error}; the arguments of {function.__name__} are: {known}") from None
        given = bound.arguments.items()
        return function(
            **{key: _fitted(key, value, types.kinds(function.__name__, key)) for key, value in given}
        )

    return Tool(schema, answer)


def _fitted(name, value, kinds):
    """The value as one of the types that its schema allows, "3" as 3. Raises ValueError if it is of none."""
    if isinstance(value, str):
        value = value_in(kinds, value)
    elif type(value) in (int, float) and kinds == {"string"}:
        value = str(value)
    elif isinstance(value, float) and value.is_integer() and "number" not in kinds:
        value = int(value)
    kind = NAMES.get(type(value)) or CONTAINERS.get(type(value))
    if kind not in kinds and not (kind == "integer" and "number" in kinds):
        raise ValueError(f"{name} must be of type {' or '.join(sorted(kinds))}, not {kind}")
    return value


def calculate(expression: str) -> str:
    """Compute the value of an arithmetic expression.

    Args:
        expression: numbers, + - * / // % **, parentheses, and functions such as sqrt(2), round(2.567, 2)
    """
    return value_of(expression)


def current_time(zone: str = "") -> str:
    """Tell the date and the time.

    Args:
        zone: a time zone such as Europe/Warsaw or UTC; without it the zone of this computer
    """
    try:
        now = datetime.now(ZoneInfo(zone)) if zone else datetime.now().astimezone()
    except (OSError, ValueError, KeyError):
        raise ValueError(f"there is no time zone {zone!r}; they are named like Europe/Warsaw") from None
    return f"{now:%A, %Y-%m-%d %H:%M:%S} {now.tzname()} (UTC{now:%z})"


@dataclass(frozen=True)
class Files:
    """What may be done with allowed files: reading."""

    allowed: Allowed

    def read_file(self, path: str, start: int = 1) -> str:
        """Read a text file.

        Args:
            path: the file, as list_files names it
            start: the number of the first line wanted
        """
        text, cut = self.allowed.read(path)
        lines = text.splitlines()
        if not 1 <= start <= max(1, len(lines)):
            raise ValueError(f"start is {start}, but the lines of {path!r} are 1 to {len(lines)}")
        shown: list[str] = []
        size = 0
        for line in lines[start - 1 :]:
            size += len(line) + 1
            if size > CHARACTERS and shown:
                break
            shown.append(line if len(line) <= CHARACTERS else f"{line[:CHARACTERS]} [the line goes on]")
        end = start + len(shown) - 1
        head = f"{path}, lines {start} to {end} of {len(lines)}"
        head += f" in its first {LARGEST:,} bytes" if cut else ""
        head += f"; start={end + 1} reads on" if end < len(lines) else ""
        return "\n".join([f"[{head}]", *shown])

    def list_files(self, path: str = ".") -> str:
        """List what is in a folder.

        Args:
            path: the folder; without it all that may be read
        """
        roots, path = self.allowed.roots, path if path not in ("", "/") else "."
        if path == "." and (len(roots) > 1 or not roots[0].is_dir()):
            return "\n".join(self._entry(root, root) for root in roots)
        root, folder = self.allowed.find(path)
        if not folder.is_dir():
            raise ValueError(f"{path!r} is a file; read_file reads it")
        entries = sorted(folder.iterdir())
        named = [self._entry(root, entry) for entry in entries[:ENTRIES]]
        more = [f"[{ENTRIES} of {len(entries)}]"] if len(entries) > ENTRIES else []
        return "\n".join([*named, *more]) or "[the folder is empty]"

    def _entry(self, root, entry):
        name = self.allowed.name(root, entry)
        if entry.is_symlink():
            return f"{name} (link)"
        return f"{name}/" if entry.is_dir() else f"{name} ({entry.stat().st_size:,} bytes)"

    def search_text(self, text: str, path: str = ".") -> str:
        """Find the lines of text files, but hidden ones, in which a text stands, in capital letters or small.

        Args:
            text: what to look for, as it stands in the file
            path: the file or folder to search; without it all that may be read
        """
        if not text:
            raise ValueError("text is empty: give a word to look for")
        hits: list[str] = []
        n_files = 0
        for root, file in self._searched(path):
            n_files += 1
            if n_files > FILES:
                return "\n".join([*hits, f"[the first {FILES} files were searched]"])
            for where, line in _lines_with(text.lower(), root, file):
                if len(hits) == HITS:
                    return "\n".join([*hits, f"[the first {HITS} lines; there are more]"])
                hits.append(f"{self.allowed.name(root, file)}:{where}: {line}")
        return "\n".join(hits) or f"[{text!r} does not stand in any of {n_files} files]"

    def _searched(self, path):
        paths: Iterable[str] = [path]
        if path in (".", "", "/"):
            paths = map(str, self.allowed.roots)
        for each in paths:
            yield from self.allowed.walk(each)


def _lines_with(text, root, file):
    """(number, line) of the lines with the text in small letters; none of what is no text file."""
    try:
        content, _ = read_text(root, file)
    except (OSError, ValueError):
        return
    for number, line in enumerate(content.splitlines(), 1):
        if text in line.lower():
            yield number, line.strip()[:WIDTH]


def cut(text: str, characters: int) -> str:
    """The text, or as much of it as there is room for, which it says."""
    if len(text) <= characters:
        return text
    return f"{text[:characters]}\n[cut: {characters:,} of {len(text):,} characters]"
