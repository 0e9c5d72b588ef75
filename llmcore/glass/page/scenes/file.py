"""What is in the file: HEAD and BODY, to scale."""

from ...recording import Run

WANTED: frozenset[str] = frozenset()


def part(run: Run) -> dict | None:
    """Sizes."""
    return {"tensors": len(run.file.tensors)}


def code(run: Run) -> list:
    """What reads the list of tensors."""
    from ....loader import _read_entry, _read_tensors

    return [_read_tensors, _read_entry]
