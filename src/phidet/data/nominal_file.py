"""Nominal lists: centroid and pick-and-place files as KiCad, Altium, Eagle and others write them, and JSON.

Text files are read line by line: lines before the header and comments may say the unit; the header is the first line
with columns for x and y, in any of the usual spellings, separated by commas, semicolons, tabs or spaces. Eagle's lists
have no header: name, x, y, angle, value, package. JSON is a list of parts, or an object with ``unit``, ``y`` ("up" or
"down") and ``parts``; a part has ``reference``, ``label``, ``x``, ``y``, ``rotation``, ``side``.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from phidet.core.errors import InputError
from phidet.data.text import read_text
from phidet.detections.alignment.nominal import Nominal, Side

Unit = Literal["mm", "mil", "inch"]
_COLUMNS: dict[str, tuple[str, ...]] = {
    "reference": ("ref", "refdes", "reference", "designator", "name", "part", "component", "refdesignator", "item"),
    "label": ("class", "label", "type", "kind"),
    "value": ("val", "value", "comment"),
    "package": ("package", "footprint", "pattern", "outline", "devicepackage"),
    "x": (
        *("posx", "midx", "centerx", "centrex", "xcenter", "x"),
        *("xloc", "locationx", "xpos", "xcoord", "xlocation", "refx"),
    ),
    "y": (
        *("posy", "midy", "centery", "centrey", "ycenter", "y"),
        *("yloc", "locationy", "ypos", "ycoord", "ylocation", "refy"),
    ),
    "rotation": ("rot", "rotation", "angle", "orientation", "rotate", "rotationdeg"),
    "side": ("side", "layer", "tb", "boardside", "mountside", "boardlayer", "mountingside"),
}
"""Meaning → spellings of a column's name without case, spaces, signs and units; the first that a file has counts."""
_SIDES: dict[str, Side] = {
    **dict.fromkeys(("top", "t", "toplayer", "fcu", "front", "f", "componentside", "toptype", "tople", "1"), "top"),
    **dict.fromkeys(("bottom", "bot", "b", "bottomlayer", "bcu", "back", "solderside", "2"), "bottom"),
}
_UNITS: dict[str, Unit] = {
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres", "metric"), "mm"),
    **dict.fromkeys(("mil", "mils", "thou"), "mil"),
    **dict.fromkeys(("in", "inch", "inches", "imperial"), "inch"),
}
_UNIT_LINE = re.compile(r"\bunits?\b(?:\s+used)?\s*[:=,;]?\s*\"?([a-z]+)", re.IGNORECASE)
_UNIT_OF_COLUMN = re.compile(r"[(\[]\s*([a-z]+)\s*[)\]]", re.IGNORECASE)
_NUMBER = re.compile(r"\s*([-+]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:e[-+]?\d+)?)\s*([a-z\"]*)\s*", re.IGNORECASE)
_COMMENTS = ("#", "*", "//", "%")
_SEPARATORS = (";", "\t", ",", None)  # None: runs of spaces
_EAGLE = ("reference", "x", "y", "rotation", "value", "package")


class NominalOptions(NamedTuple):
    """What a file does not say itself.

    Attributes:
        unit: of places without one; ``None`` for that of the file, else millimetres.
        label_column: name of the column with the parts' labels; ``None`` for a class, label or type, else the value.
    """

    unit: Unit | None = None
    label_column: str | None = None


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    reference: str
    label: str
    x: float
    y: float
    rotation: float | None = None
    side: Side = "top"


class _List(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    parts: list[_Part]
    unit: Unit = "mm"
    y: Literal["up", "down"] = "up"


@dataclass(frozen=True)
class _Table:
    """A file's columns and rows.

    Attributes:
        path: for messages.
        header: names as they stand there.
        columns: meaning → number of its column.
        rows: number of the line, from 1, and its cells.
        unit: that the file says, or ``None``.
    """

    path: Path
    header: tuple[str, ...]
    columns: dict[str, int]
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    unit: Unit | None

    def place(self, line: int, column: int) -> str:
        """A cell, for messages."""
        return f"{self.path}:{line}: column {column + 1} ({self.header[column]})"


def read_nominal(path: Path, options: NominalOptions | None = None) -> Nominal:
    """The parts of a list, with places in the file's unit and y upwards, unless JSON says otherwise.

    Raises:
        InputError: the file cannot be read; no header, a column or number that is missing or none, a reference that
            comes twice. The message names file, line and column.
    """
    options = options or NominalOptions()
    if path.suffix.lower() == ".json":
        return _read_json(path, options)
    table = _read_table(path, options)
    label = _label_column(table, options.label_column)
    parts = [_part(table, line, cells, label) for line, cells in table.rows]
    lines: dict[str, int] = {}
    for (line, _), part in zip(table.rows, parts, strict=True):
        if part.reference in lines:
            first = lines[part.reference]
            raise InputError(f"{path}:{line}: the reference {part.reference!r} comes twice, first in line {first}")
        lines[part.reference] = line
    return _nominal(path, parts, options.unit or table.unit or "mm", y_up=True)


def _read_json(path: Path, options: NominalOptions) -> Nominal:
    text = read_text(path)
    try:
        read = msgspec.json.decode(text, type=list[_Part] | _List)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {error}; expected parts with reference, label, x and y") from error
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: not valid JSON: {error}") from error
    parts = _List(read) if isinstance(read, list) else read
    if not parts.parts:
        raise InputError(f"{path} has no parts")
    return _nominal(path, parts.parts, options.unit or parts.unit, y_up=parts.y == "up")


def _nominal(path: Path, parts: Sequence[_Part], unit: str, y_up: bool) -> Nominal:
    return Nominal(
        tuple(part.reference for part in parts),
        tuple(part.label for part in parts),
        np.array([(part.x, part.y) for part in parts], np.float64),
        np.array([np.nan if part.rotation is None else part.rotation for part in parts], np.float64),
        tuple(part.side for part in parts),
        unit,
        y_up,
        str(path),
    )


def _read_table(path: Path, options: NominalOptions) -> _Table:
    lines = read_text(path).splitlines()
    unit: Unit | None = None
    for number, line in enumerate(lines):
        said = _UNIT_LINE.search(line)
        if said and said[1].lower() in _UNITS:
            unit = _UNITS[said[1].lower()]
        for separator in _SEPARATORS:
            cells = _split(line.lstrip("#*; "), separator)
            columns = _recognise(cells)
            if {"x", "y"} <= columns.keys():
                if "reference" not in columns:
                    missing = "no column for the parts' names (Ref, Designator)"
                    raise InputError(f"{path}:{number + 1}: {missing} among {', '.join(cells)}")
                rows = _rows(path, lines[number + 1 :], number + 2, (separator, len(cells)))
                return _Table(path, cells, columns, rows, _unit_of(cells[columns["x"]]) or unit)
    return _eagle(path, lines, unit)


def _eagle(path: Path, lines: Sequence[str], unit: Unit | None) -> _Table:
    """A list without a header, whose lines all begin with a name and three numbers."""
    rows = tuple(
        (number, _split(line, None)) for number, line in enumerate(lines, 1) if line.strip() and not _is_comment(line)
    )
    good = rows and all(len(cells) >= 4 and all(map(_NUMBER.fullmatch, cells[1:4])) for _, cells in rows)
    if not good:
        shown = next((line.strip() for line in lines if line.strip()), "")[:80]
        raise InputError(
            f"{path}: no header with columns for x and y, as in 'Ref,Val,Package,PosX,PosY,Rot,Side'; "
            + (f"the file begins {shown!r}" if shown else "the file is empty")
        )
    width = len(_EAGLE)
    # The last column may hold spaces; what is missing at the end is empty.
    padded = tuple((n, (*c[: width - 1], " ".join(c[width - 1 :]), *[""] * (width - len(c)))) for n, c in rows)
    return _Table(path, _EAGLE, {name: i for i, name in enumerate(_EAGLE)}, padded, unit)


def _rows(
    path: Path, lines: Sequence[str], first: int, layout: tuple[str | None, int]
) -> tuple[tuple[int, tuple[str, ...]], ...]:
    separator, width = layout
    rows = []
    for number, line in enumerate(lines, first):
        if not line.strip() or _is_comment(line):
            continue
        cells = _split(line, separator)
        if len(cells) < width and separator is not None:
            raise InputError(f"{path}:{number}: {len(cells)} columns, expected {width} as in the header")
        rows.append((number, cells))
    if not rows:
        raise InputError(f"{path} has a header, but no parts")
    return tuple(rows)


def _split(line: str, separator: str | None) -> tuple[str, ...]:
    """Cells without quotes and the spaces around them."""
    if separator is None:
        return tuple(cell.strip("\"'") for cell in re.findall(r'"[^"]*"|\S+', line))
    return tuple(cell.strip() for cell in next(csv.reader([line], delimiter=separator, skipinitialspace=True), []))


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith(_COMMENTS)


def _plain(name: str) -> str:
    """A column's name as :data:`_COLUMNS` spells it."""
    return re.sub(r"[^a-z]", "", _UNIT_OF_COLUMN.sub("", name.lower()))


def _recognise(cells: Sequence[str]) -> dict[str, int]:
    plain = [_plain(cell) for cell in cells]
    return {
        meaning: plain.index(spelling)
        for meaning, spellings in _COLUMNS.items()
        if (spelling := next((one for one in spellings if one in plain), None)) is not None
    }


def _unit_of(column: str) -> Unit | None:
    said = _UNIT_OF_COLUMN.search(column)
    return _UNITS.get(said[1].lower()) if said else None


def _label_column(table: _Table, wanted: str | None) -> int:
    """The number of the column with the parts' labels.

    Raises:
        InputError: there is none.
    """
    if wanted is not None:
        names = [name.casefold() for name in table.header]
        if wanted.casefold() not in names:
            raise InputError(f"{table.path}: no column {wanted!r}; it has {', '.join(table.header)}")
        return names.index(wanted.casefold())
    for meaning in ("label", "value", "package"):
        if meaning in table.columns:
            return table.columns[meaning]
    raise InputError(f"{table.path}: no column for the parts' labels (Class, Val) among {', '.join(table.header)}")


def _part(table: _Table, line: int, cells: tuple[str, ...], label: int) -> _Part:
    def cell(column: int) -> str:
        if column >= len(cells):
            raise InputError(f"{table.place(line, column)} is missing: the line has {len(cells)}")
        return cells[column]

    def number(meaning: str) -> float:
        column = table.columns[meaning]
        return _number(table, line, column, cell(column))

    reference = cell(table.columns["reference"])
    if not reference:
        raise InputError(f"{table.path}:{line}: the part has no name")
    rotation = cell(table.columns["rotation"]) if "rotation" in table.columns else ""
    return _Part(
        reference,
        cell(label),
        number("x"),
        number("y"),
        number("rotation") if rotation else None,
        _side(table, line, cell(table.columns["side"])) if "side" in table.columns else "top",
    )


def _number(table: _Table, line: int, column: int, text: str) -> float:
    """A number with a point or a comma, and perhaps a unit behind it."""
    found = _NUMBER.fullmatch(text)
    if found is None:
        raise InputError(f"{table.place(line, column)}: expected a number, got {text!r}")
    value = float(found[1].replace(",", "."))
    suffix = found[2].lower().strip('"') or ("in" if found[2] else "")
    if suffix in ("", "deg"):
        return value
    if suffix not in _UNITS:
        raise InputError(f"{table.place(line, column)}: expected mm, mil or in after the number, got {text!r}")
    # All in the unit that the file says, millimetres unless it does.
    millimetres = {"mm": 1.0, "mil": 0.0254, "inch": 25.4}
    return value * millimetres[_UNITS[suffix]] / millimetres[table.unit or "mm"]


def _side(table: _Table, line: int, text: str) -> Side:
    side = _SIDES.get(re.sub(r"[^a-z0-9]", "", text.lower()))
    if side is None:
        raise InputError(f"{table.place(line, table.columns['side'])}: expected top or bottom, got {text!r}")
    return side
