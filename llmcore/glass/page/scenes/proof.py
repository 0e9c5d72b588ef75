"""Is all this true? Equalities that the page works out again, from what stands in it."""

from importlib.metadata import PackageNotFoundError, version

from ...recording import Run

WANTED: frozenset[str] = frozenset()


def part(run: Run) -> dict | None:
    """What made the page."""
    try:
        made_by = version("llmcore")
    except PackageNotFoundError:  # run from its folder, without being installed
        made_by = ""
    return {"version": made_by}


def code(run: Run) -> list:
    """None: the checks are the page's own."""
    return []
