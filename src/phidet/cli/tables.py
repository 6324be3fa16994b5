"""Tables, JSON and names of files for the terminal."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

log = logging.getLogger("phidet")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns under ``header``; the first column is flush left, the others flush right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [header, *rows]
    ]
    return "\n".join([lines[0], "-" * max(len(line) for line in lines), *lines[1:]])


def billions(count: int) -> str:
    """A number of multiply-adds in billions, three digits."""
    value = count / 1e9
    return f"{value:.2f}B" if value < 100 else f"{value:.0f}B"


def or_dash(value: object, form: str = "{}") -> str:
    """``value`` formatted, an en dash where there is none."""
    return "–" if value is None else form.format(value)


def print_json(value: object) -> None:
    """Prints a struct, or what is made of them, as JSON with line breaks."""
    try:
        print(msgspec.json.format(msgspec.json.encode(value)).decode())
    except UnicodeEncodeError:  # names of files that are no UTF-8, which only escapes can say
        print(json.dumps(msgspec.to_builtins(value), indent=2))


def say_written(paths: Iterable[Path], as_json: bool) -> None:
    """Names the files that were written; as notes where standard output is for JSON."""
    for path in paths:
        if as_json:
            log.info("wrote %s", path)
        else:
            print(f"wrote {path}")
