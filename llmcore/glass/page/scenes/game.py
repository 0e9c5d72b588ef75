"""Before all else: guess which token comes next, as the model does."""

from ...recording import Run

WANTED: frozenset[str] = frozenset({"l_out"})


def part(run: Run) -> dict | None:
    """The rounds: rows whose next token the reader guesses, those of the prompt alone."""
    rows = [row for row, position in enumerate(run.rows) if position + 1 < run.n_prompt]
    return {"rows": rows[-12:]} if len(rows) > 1 else None


def code(run: Run) -> list:
    """None: this is play."""
    return []
