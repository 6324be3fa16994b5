"""Tables as CSV (RFC 4180), for spreadsheets and scripts."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from phidet.core.files import write_atomic


def csv_bytes(rows: Iterable[Iterable[object]], line_end: str = "\r\n") -> bytes:
    """Rows as CSV in UTF-8; ``None`` becomes an empty cell."""
    # The csv module quotes as RFC 4180 asks, line breaks in names included.
    text = io.StringIO()
    csv.writer(text, lineterminator=line_end).writerows(rows)
    # Names of classes and files may not be UTF-8; spreadsheets take a readable form.
    return text.getvalue().encode("utf-8", "backslashreplace")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """Writes a table, atomically, and returns its path; fractions have six significant digits.

    Raises:
        PhidetError: the file cannot be written.
    """
    shown = ([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in rows)
    write_atomic(path, csv_bytes([header, *shown], "\n"))
    return path
