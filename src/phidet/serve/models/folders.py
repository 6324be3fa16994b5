"""Version folders on disk: numbers, what is in them, and whether it has changed."""

from __future__ import annotations

import logging
from pathlib import Path

MAX_VERSION = 2**63 - 1
log = logging.getLogger("phidet.serve")

Fingerprint = tuple[tuple[str, int, int, int], ...]
"""Name, size, time of change and inode of every file of a version folder: a version that failed is tried again when
this changes."""


def version_number(text: str) -> int | None:
    """The version that ``text`` writes, with leading zeros or without; ``None`` where it is none below 2⁶³."""
    # Checked by length before int(), which is slow, and refused by Python, for thousands of digits.
    digits = text.lstrip("0") or text[-1:]
    if not (digits.isascii() and digits.isdigit()) or len(digits) > len(str(MAX_VERSION)):
        return None
    number = int(digits)
    return number if number <= MAX_VERSION else None


def version_folders(base_path: Path) -> dict[int, Path]:
    """Version → its folder; ``00001`` is 1, other names are not versions. Empty where there is no folder to read."""
    try:
        entries = sorted(base_path.iterdir())
    except OSError as error:
        log.warning("cannot look for versions in %s: %s", base_path, error.strerror)
        return {}
    numbered = [(version_number(entry.name), entry) for entry in entries if entry.is_dir()]
    return {version: entry for version, entry in numbered if version is not None}


def fingerprint(folder: Path) -> Fingerprint:
    """A value that changes when the files in ``folder`` change."""
    marks = []
    try:
        for path in sorted(folder.iterdir()):
            stat = path.stat()
            marks.append((path.name, stat.st_size, stat.st_mtime_ns, stat.st_ino))
    except OSError:
        pass  # it is being removed; loading it reports that
    return tuple(marks)
