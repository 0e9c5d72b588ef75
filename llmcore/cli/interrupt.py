"""Ctrl-C while a command is being imported, which takes a third of a second, or while it ends."""

import os
import signal
import threading


def leave_at_once() -> None:
    """Until a command handles Ctrl-C itself, it ends the process: nothing was done yet that needs an end."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else the caller wants it otherwise
        signal.signal(signal.SIGINT, _leave)


def raise_interrupts() -> tuple[object, list]:
    """From now on Ctrl-C raises KeyboardInterrupt; what it did before, and a list that gets an item each
    time.

    The list tells of the interrupts that end as another error: a library that is being imported turns them
    into its own.
    """
    interrupts: list[bool] = []

    def on_interrupt(*_):
        interrupts.append(True)
        raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()  # only that one may say what Ctrl-C does
    return (signal.signal(signal.SIGINT, on_interrupt) if is_main else None), interrupts


def handle_again(before) -> None:
    """Once a command has run, Ctrl-C does what it did before; where the process ends now, it lets it."""
    if before is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN if before is _leave else before)


def _leave(*_):
    os._exit(130)
