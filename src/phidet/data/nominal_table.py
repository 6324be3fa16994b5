"""The columns and rows of nominal lists, whatever program wrote them.

Lines before the header and comments may say the unit; the header is the first line with columns for x and y, in any of
the usual spellings, separated by commas, semicolons, tabs or spaces. Eagle's and Fusion's lists have no header: name,
x, y, angle, value, package; Eagle's part lists have both coordinates in one column, "(41.5 -39.4)".
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from phidet.core.errors import InputError
from phidet.data.text import unicode_encoding

Unit = Literal["mm", "mil", "inch"]
UNITS: dict[str, tuple[Unit, float]] = {
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres", "metric"), ("mm", 1.0)),
    **dict.fromkeys(("um", "µm", "micron", "microns"), ("mm", 1e-3)),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), ("mm", 10.0)),
    **dict.fromkeys(("mil", "mils", "thou"), ("mil", 1.0)),
    **dict.fromkeys(("in", "inch", "inches", "imperial"), ("inch", 1.0)),
}
"""Spelling → unit that places are given in, and its factor."""
MILLIMETRES: dict[Unit, float] = {"mm": 1.0, "mil": 0.0254, "inch": 25.4}
_AXIS = (
    *("pos{}", "mid{}", "center{}", "centre{}", "{}center", "{}", "{}loc", "location{}", "{}pos", "{}coord"),
    *("{}location", "sym{}", "ref{}", "position"),
)
_COLUMNS: dict[str, tuple[str, ...]] = {
    "reference": ("ref", "refdes", "reference", "designator", "name", "part", "component", "refdesignator", "item"),
    "label": ("class", "label", "type", "kind"),
    "value": ("val", "value", "comment", "parttype", "compdevicetype"),
    "package": ("package", "footprint", "pattern", "outline", "devicepackage", "partdecal", "symname"),
    "x": tuple(spelling.format("x") for spelling in _AXIS),
    "y": tuple(spelling.format("y") for spelling in _AXIS),
    "rotation": ("rot", "rotation", "angle", "orientation", "orient", "rotate", "rotationdeg", "symrotate"),
    "side": (
        *("side", "layer", "tb", "topbottom", "boardside", "mountside", "boardlayer", "mountingside"),
        *("symmirror", "mirror", "mirrored"),
    ),
}
"""Meaning → spellings of a column's name without case, spaces, signs and units; the first that a file has counts."""
_UNIT_LINE = re.compile(r"\bunits?\b(?:\s+used)?\s*[:=,;]?\s*\"?([a-z]+)", re.IGNORECASE)
_UNIT_OF_COLUMN = re.compile(r"[(\[]\s*([a-zµ]+)\s*[)\]]", re.IGNORECASE)
_NUMBER = re.compile(r"[-+−]?[.,]?\d.*")
_ROTATION = re.compile(r"[SMR]*[-+−]?[.,]?\d.*")
_COMMENTS = ("#", "*", "//", "%")
_SEPARATORS = (";", "\t", ",", None)  # None: runs of spaces
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx and .ods, .xls
_HEADERLESS = ("reference", "x", "y", "rotation", "value", "package")
# Names of two words, which spaces as separators would cut in two: "Mid X", "Position (mm)".
_SPACED_NAMES = re.compile(r"\b(?:mid|ref|pad|cent(?:er|re)) [xy]\b|\S+ [(\[]\w+[)\]]", re.IGNORECASE)
_CELLS = re.compile(r'"[^"]*"|\([^)]*\)|\S+')


@dataclass(frozen=True)
class NominalTable:
    """A file's columns and rows.

    Attributes:
        path: for messages.
        header: names as they stand there.
        columns: meaning → number of its column.
        rows: number of the line, from 1, and its cells.
        unit: that the file says, and the factor of its numbers; ``None`` where it says none.
    """

    path: Path
    header: tuple[str, ...]
    columns: dict[str, int]
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    unit: tuple[Unit, float] | None


def read_table(path: Path) -> NominalTable:
    """The table in a file.

    Raises:
        InputError: the file cannot be read, has no header, a unit that is not known, or a row that is too short.
    """
    lines = _text(path).splitlines()
    unit: tuple[Unit, float] | None = None
    for number, line in enumerate(lines):
        said = _UNIT_LINE.search(line)
        if said and said[1].lower() in UNITS:
            unit = UNITS[said[1].lower()]
        # The marks of a comment become spaces, so that columns stay where they are.
        bare = re.sub(r"^[#*;\s]+", lambda marks: " " * len(marks[0]), line)
        for separator in _SEPARATORS:
            cells = _header_cells(bare, separator)
            columns = {meaning: found for meaning in _COLUMNS if (found := _column(cells, meaning)) is not None}
            if {"x", "y"} <= columns.keys():
                if "reference" not in columns:
                    shown = ", ".join(cells)
                    raise InputError(
                        f"{path}:{number + 1}: no column for the parts' names (Ref, Designator) among {shown}"
                    )
                unit = _unit_of(path, number + 1, cells[columns["x"]]) or unit
                starts = [] if separator else _starts(bare)
                rows = _rows(path, lines[number + 1 :], number + 2, (separator, len(cells), starts))
                return NominalTable(path, cells, columns, rows, unit)
    return _headerless(path, lines, unit)


def _text(path: Path) -> str:
    """The file's text: Unicode, or else Windows-1252, in which many layout programs write "µ" and "±"."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: expected a list of parts or an image of a right assembly, then images")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if content.startswith(_WORKBOOKS):
        raise InputError(f"{path} is a workbook or an archive: save the list as CSV")
    try:
        return content.decode(unicode_encoding(content))
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _headerless(path: Path, lines: Sequence[str], unit: tuple[Unit, float] | None) -> NominalTable:
    """A list without a header, whose lines all begin with a name and three numbers."""
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not _is_comment(line)]
    for separator in _SEPARATORS:
        rows = [(number, _split(line, separator)) for number, line in numbered]
        if rows and all(len(cells) >= 4 and _is_part(cells) for _, cells in rows):
            break
    else:
        shown = next((line.strip() for line in lines if line.strip()), "")[:80]
        raise InputError(
            f"{path}: no header with columns for x and y, as in 'Ref,Val,Package,PosX,PosY,Rot,Side'; "
            + (f"the file begins {shown!r}" if shown else "the file is empty")
        )
    width = len(_HEADERLESS)
    # The last column may hold spaces; what is missing at the end is empty.
    padded = tuple((n, (*c[: width - 1], " ".join(c[width - 1 :]), *[""] * (width - len(c)))) for n, c in rows)
    return NominalTable(path, _HEADERLESS, {name: i for i, name in enumerate(_HEADERLESS)}, padded, unit)


def _is_part(cells: Sequence[str]) -> bool:
    x, y, rotation = cells[1:4]
    return all(map(_NUMBER.fullmatch, (x, y))) and bool(_ROTATION.fullmatch(rotation))


def _rows(
    path: Path, lines: Sequence[str], first: int, layout: tuple[str | None, int, list[int]]
) -> tuple[tuple[int, tuple[str, ...]], ...]:
    separator, width, starts = layout
    numbered = [(n, line) for n, line in enumerate(lines, first) if line.strip() and not _is_comment(line)]
    if not numbered:
        raise InputError(f"{path} has a header, but no parts")
    # Columns of a fixed width may be empty or hold spaces; where numbers are set flush right they begin before their
    # names, and only spaces tell cells apart.
    if separator is None and all(_fits(line, starts) for _, line in numbered):
        ends = [*starts[1:], None]
        return tuple((n, tuple(_bare(line[a:b]) for a, b in zip(starts, ends, strict=True))) for n, line in numbered)
    rows = []
    for number, line in numbered:
        cells = _split(line, separator)
        if len(cells) < width and separator is not None:
            raise InputError(f"{path}:{number}: {len(cells)} columns, expected {width} as in the header")
        if any(cells[width:]) and separator is not None:
            raise InputError(
                f"{path}:{number}: {len(cells)} columns, expected {width} as in the header: values with {separator!r} "
                "in them, such as decimal commas, need quotes, or other separators between columns"
            )
        rows.append((number, cells))
    return tuple(rows)


def _header_cells(line: str, separator: str | None) -> tuple[str, ...]:
    if separator is not None:
        return _split(line, separator)
    return tuple(line[a:b].strip(" \"'") for a, b in zip(_starts(line), [*_starts(line)[1:], None], strict=True))


def _starts(header: str) -> list[int]:
    """Where the names begin in a header that spaces separate; the first column begins with the line."""
    joined = _SPACED_NAMES.sub(lambda name: name[0].replace(" ", "_"), header)
    found = [cell.start() for cell in re.finditer(r'"[^"]*"|\S+', joined)]
    return [0, *found[1:]]


def _fits(line: str, starts: Sequence[int]) -> bool:
    """Whether no cell of the line crosses the beginning of a column."""
    return all(start == 0 or line[start - 1 : start] in (" ", "") for start in starts)


def _split(line: str, separator: str | None) -> tuple[str, ...]:
    """Cells without quotes and the spaces around them."""
    if separator is None:
        return tuple(_bare(cell) for cell in _CELLS.findall(line))
    return tuple(cell.strip() for cell in next(csv.reader([line], delimiter=separator, skipinitialspace=True), []))


def _bare(cell: str) -> str:
    return cell.strip().strip("\"'")


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith(_COMMENTS)


def _column(cells: Sequence[str], meaning: str) -> int | None:
    """The number of the column with that meaning."""
    plain = [re.sub(r"[^a-z]", "", _UNIT_OF_COLUMN.sub("", cell.lower())) for cell in cells]
    return next((plain.index(spelling) for spelling in _COLUMNS[meaning] if spelling in plain), None)


def _unit_of(path: Path, line: int, column: str) -> tuple[Unit, float] | None:
    """The unit in brackets behind a column's name."""
    said = _UNIT_OF_COLUMN.search(column)
    if said is None:
        return None
    if said[1].lower() not in UNITS:
        raise InputError(f"{path}:{line}: column {column!r}: expected a unit such as mm, mil or inch, got {said[1]!r}")
    return UNITS[said[1].lower()]
