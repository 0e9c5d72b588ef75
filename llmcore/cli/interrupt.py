"""Ctrl-C while a command is being imported, which takes a third of a second, or while it ends."""

import os
import signal


def leave_at_once() -> None:
    """Until a command handles Ctrl-C itself, it ends the process: nothing was done yet that needs an end."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else the caller wants it otherwise
        signal.signal(signal.SIGINT, _leave)


def handle_again(before) -> None:
    """Once a command has run, Ctrl-C does what it did before; where the process ends now, it lets it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN if before is _leave else before)


def _leave(*_):
    os._exit(130)
