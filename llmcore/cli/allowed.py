"""Files under the paths that a user allowed, and no others, whatever path a model writes.

A path is followed to its real end first, so that neither ".." nor a symbolic link leads out. Then the file is
opened folder by folder without following links, so that nobody can put a link in its place meanwhile.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LARGEST = 2_000_000  # bytes that are read of a file
# O_NONBLOCK: a pipe without a writer would wait for ever
FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True)
class Allowed:
    """The real paths of folders and files that may be read, with all that is below them."""

    roots: tuple[Path, ...]

    @classmethod
    def of(cls, paths: Iterable[str]) -> "Allowed":
        """The paths of a command line. Raises ValueError for one that is not there."""
        roots = []
        for path in paths:
            try:
                roots.append(Path(path).resolve(strict=True))
            except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
                why = getattr(error, "strerror", None) or error
                raise ValueError(f"--allow {path}: {why}; name a folder or a file that is there") from None
        return cls(tuple(roots))

    def find(self, path: str) -> tuple[Path, Path]:
        """(the allowed path, the real path below it) of what a model calls `path`, which may be relative to
        any of the allowed ones. Raises ValueError if it is not there or not allowed.
        """
        for root in self.roots:
            base = root if root.is_dir() else root.parent
            with suppress(OSError, ValueError, RuntimeError):  # not there, a null character, a circle
                real = (base / path).resolve(strict=True)
                if real == root or root in real.parents:
                    return root, real
        shown = ", ".join(map(str, self.roots))
        raise ValueError(f"{path!r} is not there, or not under what may be read: {shown}")

    def read(self, path: str) -> tuple[str, bool]:
        """(the text of a file, whether it was cut at LARGEST bytes). Raises ValueError and OSError."""
        return read_text(*self.find(path))

    def walk(self, path: str) -> Iterator[tuple[Path, Path]]:
        """(allowed path, file) of a file, or of all files below a folder but hidden ones; links are not
        followed."""
        root, real = self.find(path)
        if not real.is_dir():
            yield root, real
            return
        for folder, folders, files in os.walk(real):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                file = Path(folder, name)
                if not name.startswith(".") and not file.is_symlink():
                    yield root, file

    def name(self, root: Path, real: Path) -> str:
        """A path as a model may write it: relative to the allowed one, if that is the only one."""
        base = root if root.is_dir() else root.parent
        return str(real if len(self.roots) > 1 else real.relative_to(base))


def read_text(root: Path, real: Path) -> tuple[str, bool]:
    """(the text of a regular file below `root`, whether it was cut). Raises ValueError for any other."""
    descriptor = _opened(root, real)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{real.name!r} is a folder, a pipe or a device, not a file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(LARGEST + 1)
    finally:
        os.close(descriptor)
    if b"\0" in data[:8192]:
        raise ValueError(f"{real.name!r} is not a text file")
    return data[:LARGEST].decode("utf-8-sig", "replace"), len(data) > LARGEST


def _opened(root, real):
    """A descriptor of the real path, reached from `root` without following a link."""
    if os.open not in os.supports_dir_fd:
        return os.open(real, FLAGS)
    descriptor = os.open(root, FLAGS)
    for name in real.relative_to(root).parts:
        folder = descriptor
        try:
            descriptor = os.open(name, FLAGS | os.O_NOFOLLOW, dir_fd=folder)
        finally:
            os.close(folder)
    return descriptor
