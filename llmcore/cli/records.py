"""A file of requests -> its lines, as they stand: JSON lines, or the rows of a parquet file."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ENVELOPE = ("custom_id", "method", "url", "body")  # the fields of OpenAI's batch format
PARQUET, ROWS = b"PAR1", 256  # how such a file begins; rows that are in memory at a time


@dataclass(frozen=True)
class Record:
    """A line: its number, its JSON, and what is wrong with it among the others."""

    n: int
    data: bytes
    problem: str = ""


def read_records(path: Path) -> Iterator[Record]:
    """The lines of a file; empty ones are left out. Raises ValueError, OSError, ImportError."""
    first_line: dict[str, int] = {}  # custom_id -> the first line that has it
    with open(path, "rb") as file:
        is_parquet = file.read(4) == PARQUET
    for n, data in enumerate(_rows(path) if is_parquet else _lines(path), 1):
        if not data.strip():
            continue
        problem = ""
        if b'"custom_id"' in data:
            name = _custom_id(data)
            if name is not None and (first := first_line.setdefault(name, n)) != n:
                problem = f"the custom_id {name!r:.60} is that of line {first}, too"
        yield Record(n, data, problem)


def is_enveloped(fields: dict) -> bool:
    """Whether a line is in OpenAI's format; a plain one may have fields of the same names."""
    return "prompt" not in fields and "messages" not in fields and any(name in fields for name in ENVELOPE)


def _lines(path):
    with open(path, "rb") as file:
        for n, line in enumerate(file):
            line = line.rstrip(b"\r\n")
            yield line if n else line.removeprefix(b"\xef\xbb\xbf")


def _custom_id(data):
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        return None  # told when the line's turn comes
    name = fields.get("custom_id") if isinstance(fields, dict) and is_enveloped(fields) else None
    return name if isinstance(name, str) else None


def _rows(path):
    """The rows of a parquet file as JSON; a null is a field that is not there."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ImportError('parquet needs pyarrow; get it with: pip install "llmcore[parquet]"') from None
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(ROWS):
            for row in batch.to_pylist():
                for name in ("messages", "body"):  # a column of texts can hold them, as JSON
                    if isinstance(text := row.get(name), str) and text[:1] in ("[", "{"):
                        row[name] = _json_or_text(text)
                yield json.dumps(_without_nulls(row), ensure_ascii=False, default=str).encode()
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path}: this parquet file cannot be read: {error}") from None


def _json_or_text(text):
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _without_nulls(value):
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
