"""Atomic file writes: a file appears complete or not at all."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from phidet.core.errors import DownloadError, PhidetError


class AtomicFile:
    """A file written under a temporary name beside ``path`` and renamed to it by ``keep``; until then an old one stays.

    Args:
        path: where the finished file goes; missing folders are created.

    Raises:
        PhidetError: it cannot be written there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = part_of(path)
        with raising_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file: BinaryIO = self.part.open("wb")

    def write(self, content: bytes) -> None:
        """Appends; raises PhidetError where the disk is full."""
        with raising_write_errors(self.path):
            self.file.write(content)

    def keep(self) -> None:
        """Renames the file to its final path; raises PhidetError where that fails."""
        with raising_write_errors(self.path):
            self.file.flush()
            # Without fsync, a power failure after the rename could leave an empty file under the final name.
            os.fsync(self.file.fileno())
            self.file.close()
            self.part.replace(self.path)

    def discard(self) -> None:
        """Deletes the temporary file."""
        self.file.close()
        self.part.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes) -> None:
    """Writes ``content`` to ``path`` atomically.

    Raises:
        PhidetError: it cannot be written there.
    """
    file = AtomicFile(path)
    try:
        file.write(content)
        file.keep()
    # BaseException: Ctrl-C must not leave a temporary file behind either.
    except BaseException:
        file.discard()
        raise


def write_atomic_with(path: Path, make: Callable[[BinaryIO], object]) -> Path:
    """Writes atomically what ``make`` writes to a stream, for libraries that save to a stream (Pillow, Matplotlib).

    Raises:
        PhidetError: it cannot be written there.
    """
    content = io.BytesIO()
    make(content)
    write_atomic(path, content.getvalue())
    return path


def part_of(path: Path) -> Path:
    """The temporary name under which this process writes the file that will be at ``path``."""
    # In the same folder, since a rename is atomic only within one file system; with the process id, since two processes
    # may write the same file at once.
    return path.with_name(f".{cut(path.name)}.{os.getpid()}.part")


def cut(name: str) -> str:
    """The first 100 bytes of a file name, so that a longer name made of it stays below the usual limit of 255 bytes."""
    # The limit counts bytes, not characters; "ignore" drops a character that the cut splits.
    return name.encode("utf-8", "surrogatepass")[:100].decode("utf-8", "ignore")


@contextmanager
def raising_write_errors(path: Path, kind: type[PhidetError] = PhidetError) -> Iterator[None]:
    """Turns an OSError in the block into an error of a kind of phidet's that names ``path``."""
    try:
        yield
    except OSError as error:
        raise kind(f"cannot write {path}: {error.strerror or error}") from error


def cache_dir() -> Path:
    """$PHIDET_CACHE, else $XDG_CACHE_HOME/phidet, else ~/.cache/phidet.

    Raises:
        DownloadError: neither is set and there is no home folder.
    """
    chosen = os.environ.get("PHIDET_CACHE")
    folder = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "phidet")
    try:
        return folder.expanduser().absolute()
    except RuntimeError as error:
        raise DownloadError(f"cannot expand the cache folder {folder} ({error}): set PHIDET_CACHE") from error
