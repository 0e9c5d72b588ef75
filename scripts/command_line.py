"""How every script ends: llmcore's own way, one line for what goes wrong and an exit status."""

import sys
from collections.abc import Callable
from typing import NoReturn

from llmcore.cli.command import on_one_line, status_of


def run(work: Callable[[], int | None]) -> NoReturn:
    """Do the work and end the process: with the status that it returns (None is 0), 1 for an error, 130 for
    Ctrl-C.
    """
    sys.exit(status_of(work))


def refuse(message) -> NoReturn:
    """End the process because of its arguments, in one line; for `ArgumentParser.error`, which prints a
    summary too.
    """
    print(f"error: {on_one_line(str(message))}", file=sys.stderr)
    sys.exit(2)
