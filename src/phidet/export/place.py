"""Puts exported files in their place once they are finished and checked; until then what was there stays."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from phidet.core.errors import ExportError
from phidet.core.files import raising_write_errors


@contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """A temporary folder beside ``target``, on the same disk, so that files can be renamed into place.

    Raises:
        ExportError: it cannot be made.
    """
    with raising_write_errors(target, ExportError):
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.")
    with folder:
        yield Path(folder.name)


def put_in_place(files: Sequence[Path], folder: Path) -> list[Path]:
    """Moves finished files on the same disk into ``folder``, the last one first; their paths there, in their order.

    Raises:
        ExportError: one of them cannot be moved.
    """
    # The main file is first in the list and moved last: it is not there before what it refers to.
    for path in reversed(files):
        with raising_write_errors(folder / path.name, ExportError):
            with path.open("rb") as file:
                # The content must be on disk before the name is: otherwise a crash could leave an empty file.
                os.fsync(file.fileno())
            path.replace(folder / path.name)
    return [folder / path.name for path in files]
