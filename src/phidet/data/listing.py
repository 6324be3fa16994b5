"""Lists data folders: skips hidden files, follows links, and matches names regardless of Unicode form and case.

Archives and copies between systems silently change names: macOS decomposes "ü" into two characters,
Windows ignores case, and git writes a link as a small text file where it cannot make one.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path, PurePosixPath

from phidet.core.errors import InputError
from phidet.images.formats import EXTENSIONS

# Made by systems and tools beside the data: archives of macOS, thumbnails and bins of network drives and Windows.
_NOT_DATA = frozenset(
    {"__MACOSX", "__pycache__", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
)
_LONGEST_LINK = 512  # bytes
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


def is_hidden(name: str) -> bool:
    """Whether a file or folder of that name is not part of the data: ``.git``, ``._photo.jpg``, ``__MACOSX``."""
    return name.startswith(".") or name in _NOT_DATA


def is_image(name: str) -> bool:
    """Whether a file of that name is an image."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def has_drive(text: str) -> bool:
    """Whether a path begins with one of Windows' drives."""
    return _DRIVE.match(text) is not None


def path_parts(text: str) -> tuple[str, ...]:
    """The folders and the file of a path written on any system, without drive, root and ways up."""
    text = text[2:] if has_drive(text) else text
    return tuple(part for part in PurePosixPath(text.replace("\\", "/")).parts if part not in ("/", "//", ".."))


def visible(folder: Path, pattern: str = "*") -> list[Path]:
    """What matches ``pattern`` below ``folder`` and is not hidden, sorted."""
    depth = len(folder.parts)
    found = [path for path in folder.glob(pattern) if not any(map(is_hidden, path.parts[depth:]))]
    return sorted(found, key=attrgetter("parts"))  # tuples compare faster than paths, of which there may be very many


def subfolders(folder: Path) -> list[Path]:
    """The folders in ``folder`` that are not hidden, sorted; links count as what they lead to."""
    # A name with a dot is that of a file, and no text is looked for in it.
    return [path for path in visible(folder) if path.is_dir() or ("." not in path.name and followed(path).is_dir())]


def files_below(folder: Path, wanted: Callable[[str], bool], levels: int | None = None) -> Iterator[Path]:
    """Every file below ``folder`` whose name is ``wanted``, sorted, through links to folders, too.

    Paths are those by which the files were reached; :func:`followed` makes them paths that can be opened.

    Args:
        folder: where to begin.
        wanted: whether a file of that name is.
        levels: how many folders deep; 0 for the files in ``folder`` itself, ``None`` for all.

    Raises:
        InputError: a folder cannot be read.
    """
    yield from _below(folder, followed(folder), wanted, levels, frozenset())


def _below(
    folder: Path, real: Path, wanted: Callable[[str], bool], levels: int | None, above: frozenset[tuple[int, int]]
) -> Iterator[Path]:
    """``above`` are device and inode of the folders on the way, so that a link that leads back ends there."""
    try:
        status = real.stat()
        with os.scandir(real) as scan:
            # Sorted, because the order of scandir differs between file systems, and with it the order of a training.
            entries = sorted((entry for entry in scan if not is_hidden(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror or error}") from error
    identity = status.st_dev, status.st_ino
    # A link back to a folder above would otherwise be followed for ever.
    if identity in above:
        return
    deeper = None if levels is None else levels - 1
    for entry in entries:
        if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
            target = real / entry.name
        elif wanted(entry.name):
            yield folder / entry.name  # dangling links, too: opening them reports it
            continue
        elif "." not in entry.name:
            target = followed(real / entry.name)  # a link as text, perhaps
        else:
            continue
        if levels != 0 and target.is_dir():
            yield from _below(folder / entry.name, target, wanted, deeper, above | {identity})


def followed(path: Path) -> Path:
    """``path`` with the links in it followed that git left as small text files where it could not make links."""
    return _real(path) or path


def _real(path: Path) -> Path | None:
    """:func:`followed`, ``None`` where there is nothing; asks the system once for each of very many files."""
    status = _status(path)
    if status is not None:
        return _text_link(path, status) or path
    for ancestor in path.parents:
        status = _status(ancestor)
        if status is not None:
            target = _text_link(ancestor, status)
            real = None if target is None else target / path.relative_to(ancestor)
            return real if real is not None and _status(real) is not None else None
    return None


def _status(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError):  # also of a name that no file can have
        return None


def _text_link(path: Path, status: os.stat_result) -> Path | None:
    """Where a small text file leads that holds nothing but the path of something that is there."""
    if not stat.S_ISREG(status.st_mode) or status.st_size > _LONGEST_LINK:
        return None
    try:
        text = path.read_bytes().decode("utf-8").strip()
        target = path.parent / text
        return target if text and "\n" not in text and target.exists() else None
    except (OSError, ValueError):  # the latter: bytes that are no text, or that no path can hold
        return None


class Names:
    """Finds files by names that may differ in Unicode's form or in capital letters; lists each folder once."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, list[str]]] = {}

    def find(self, path: Path) -> Path | None:
        """``path`` in its actual spelling, through links or not; ``None`` where there is nothing of that name."""
        if _real(path) is not None:
            return path
        if path == path.parent:
            return None
        folder = self.find(path.parent)
        return None if folder is None else self.find_in(folder, path.name)

    def find_in(self, folder: Path, name: str) -> Path | None:
        """The file or folder in ``folder`` that is called ``name``, or as good as; ``None`` unless just one is."""
        names = self._listed(folder)
        same = names.get(unicodedata.normalize("NFC", name)) or names.get(same_name(name), [])
        if name in same:
            return folder / name
        return folder / same[0] if len(same) == 1 else None

    def _listed(self, folder: Path) -> dict[str, list[str]]:
        """The names in a folder by their composed form and by that in small letters."""
        if folder not in self._folders:
            names: dict[str, list[str]] = defaultdict(list)
            try:
                for entry in os.listdir(followed(folder)):
                    for key in {unicodedata.normalize("NFC", entry), same_name(entry)}:
                        names[key].append(entry)
            except OSError:
                pass  # no folder, or none that may be read: nothing is found in it
            self._folders[folder] = dict(names)
        return self._folders[folder]


def same_name(name: str) -> str:
    """A form that is equal for names that a case-insensitive file system holds to be one."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
