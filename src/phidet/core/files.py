"""Files that are there as a whole or not at all."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from phidet.core.errors import DownloadError, PhidetError


class AtomicFile:
    """A file that is written beside its place and appears there, whole, when it is kept; an older one stays until then.

    Args:
        path: where it will be; folders are made.

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
        """Puts the file in its place; raises PhidetError where that fails."""
        with raising_write_errors(self.path):
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            self.part.replace(self.path)

    def discard(self) -> None:
        """Leaves nothing behind."""
        self.file.close()
        self.part.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes) -> None:
    """Writes ``content`` to ``path``, in one piece.

    Raises:
        PhidetError: it cannot be written there.
    """
    file = AtomicFile(path)
    try:
        file.write(content)
        file.keep()
    except BaseException:
        file.discard()
        raise


def write_atomic_with(path: Path, make: Callable[[BinaryIO], object]) -> Path:
    """Writes what ``make`` writes to a stream, in one piece: pictures, figures.

    Raises:
        PhidetError: it cannot be written there.
    """
    content = io.BytesIO()
    make(content)
    write_atomic(path, content.getvalue())
    return path


def part_of(path: Path) -> Path:
    """Where this process writes what will be at ``path``."""
    return path.with_name(f".{cut(path.name)}.{os.getpid()}.part")


def cut(name: str) -> str:
    """What goes into a longer name, which has at most 255 bytes."""
    return name.encode("utf-8", "surrogatepass")[:100].decode("utf-8", "ignore")


@contextmanager
def raising_write_errors(path: Path) -> Iterator[None]:
    """Says of what goes wrong in the block that ``path`` cannot be written."""
    try:
        yield
    except OSError as error:
        raise PhidetError(f"cannot write {path}: {error.strerror or error}") from error


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
        raise DownloadError(f"cannot tell which folder {folder} is ({error}): set PHIDET_CACHE to one") from error
