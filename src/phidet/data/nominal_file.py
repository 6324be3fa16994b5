"""Nominal lists: centroid and pick-and-place files as KiCad, Altium, Eagle and others write them, and JSON.

Text files are tables (:mod:`phidet.data.nominal_table`). JSON is a list of parts, or an object with ``unit``, ``y``
("up" or "down") and ``parts``; a part has ``reference``, ``label``, ``x``, ``y``, ``rotation``, ``side``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from phidet.core.errors import InputError
from phidet.data.nominal_table import MILLIMETRES, UNITS, NominalTable, Unit, read_table
from phidet.data.text import read_text
from phidet.detections.alignment.nominal import Nominal, Side

_SIDES: dict[str, Side] = {
    **dict.fromkeys(("top", "t", "toplayer", "fcu", "front", "f", "componentside", "toptype", "tople", "1"), "top"),
    **dict.fromkeys(("bottom", "bot", "b", "bottomlayer", "bcu", "back", "solderside", "2"), "bottom"),
    # Of a column that says whether a part is mirrored.
    **dict.fromkeys(("no", "n", "false"), "top"),
    **dict.fromkeys(("yes", "y", "true"), "bottom"),
}
_NUMBER = re.compile(r"\s*([-+]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:e[-+]?\d+)?)\s*([a-zµ\"]*)\s*", re.IGNORECASE)
_FARTHEST = 1e9  # beyond, squares of places are no longer exact
_USUAL_SPACING = 0.25, 60.0  # mm: mil read as mm, or mm read as mil, are far outside
_PLACE = re.compile(r"\(\s*(\S+?)[,;]?\s+(\S+?)\s*\)")
"""Both coordinates in one column, as in Eagle's part lists."""
_ROTATION = re.compile(r"([SMR]*)(.*?)\s*(?:°|deg)?", re.IGNORECASE)
"""Eagle's "MR90" is turned and on the bottom side; S spins text only."""


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


def read_nominal(path: Path, options: NominalOptions | None = None) -> Nominal:
    """The parts of a list, with places in the file's unit and y upwards, unless JSON says otherwise.

    Raises:
        InputError: the file cannot be read; no header, a column or number that is missing or none, a reference that
            comes twice. The message names file, line and column.
    """
    options = options or NominalOptions()
    if path.suffix.lower() == ".json":
        return _read_json(path, options)
    table = read_table(path)
    label = _label_column(table, options.label_column)
    parts = [_part(table, line, cells, (label, _unit(table, options))) for line, cells in table.rows]
    # Every result names parts by their references, so that each comes once.
    lines: dict[str, int] = {}
    for (line, _), part in zip(table.rows, parts, strict=True):
        if part.reference in lines:
            first = lines[part.reference]
            raise InputError(f"{path}:{line}: the reference {part.reference!r} comes twice, first in line {first}")
        lines[part.reference] = line
    return _nominal(path, parts, _unit(table, options), y_up=True)


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


def doubtful_unit(nominal: Nominal) -> str | None:
    """A sentence if parts stand so near or so far that the list's unit is likely another one; else ``None``."""
    if len(nominal) < 2 or nominal.unit not in MILLIMETRES:
        return None
    places = nominal.places[:1000]  # of a longer list, so many are enough
    apart = np.hypot(*(places[:, None] - places).transpose(2, 0, 1))
    np.fill_diagonal(apart, np.inf)
    usual = float(np.median(apart.min(axis=1))) * MILLIMETRES[nominal.unit]
    low, high = _USUAL_SPACING
    if usual == 0 or low <= usual <= high:
        return None
    return f"parts stand {usual:.2g} mm apart if {nominal.source} is in {nominal.unit}: is that the unit of its places?"


def _nominal(path: Path, parts: Sequence[_Part], unit: str, y_up: bool) -> Nominal:
    far = next((part for part in parts if max(abs(part.x), abs(part.y)) > _FARTHEST), None)
    if far is not None:
        raise InputError(f"{path}: {far.reference} is at {far.x:g}, {far.y:g}: expected places below {_FARTHEST:g}")
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


def _unit(table: NominalTable, options: NominalOptions) -> Unit:
    """The unit of the places as they are returned."""
    return table.unit[0] if table.unit else options.unit or "mm"


def _label_column(table: NominalTable, wanted: str | None) -> int:
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


def _part(table: NominalTable, line: int, cells: tuple[str, ...], said: tuple[int, Unit]) -> _Part:
    """A row as a part; ``said`` is the column of its label, and the unit of its place."""
    label, unit = said

    def cell(column: int) -> str:
        if column >= len(cells):
            name = table.header[column]
            raise InputError(f"{table.path}:{line}: column {column + 1} ({name}) is missing: the line has {len(cells)}")
        return cells[column]

    def optional(meaning: str) -> str:
        return cell(table.columns[meaning]) if meaning in table.columns else ""

    reference = cell(table.columns["reference"])
    if not reference:
        raise InputError(f"{table.path}:{line}: the part has no name")
    x, y = cell(table.columns["x"]), cell(table.columns["y"])
    if table.columns["x"] == table.columns["y"] and (both := _PLACE.fullmatch(x)):
        x, y = both[1], both[2]
    turned = _ROTATION.fullmatch(optional("rotation"))
    marks, degrees = (turned[1], turned[2]) if turned else ("", optional("rotation"))
    mirrored: Side = "bottom" if "m" in marks.lower() else "top"
    return _Part(
        reference,
        cell(label),
        _number(table, (line, "x"), x, unit),
        _number(table, (line, "y"), y, unit),
        _number(table, (line, "rotation"), degrees, None) if degrees else None,
        _side(table, line, optional("side")) if "side" in table.columns else mirrored,
    )


def _number(table: NominalTable, place: tuple[int, str], text: str, unit: Unit | None) -> float:
    """A number with a point or a comma, and perhaps a unit behind it; lengths in ``unit``.

    Args:
        table: that it stands in.
        place: line and meaning of the column, for messages.
        text: of the cell.
        unit: to return a length in; ``None`` for a number that is none.
    """
    line, meaning = place
    column = table.columns[meaning]
    found = _NUMBER.fullmatch(text.replace("−", "-"))  # a minus sign, which some programs write for the hyphen
    where = f"{table.path}:{line}: column {column + 1} ({table.header[column]})"
    if found is None:
        raise InputError(f"{where}: expected a number, got {text!r}")
    value = float(found[1].replace(",", "."))
    suffix = found[2].lower().strip('"') or ("in" if found[2] else "")
    # What has no unit of length is an angle, in degrees.
    if unit is None and not suffix:
        return value
    if unit is None:
        raise InputError(f"{where}: expected degrees, got {text!r}")
    if not suffix:
        return value * (table.unit[1] if table.unit else 1.0)
    if suffix not in UNITS:
        raise InputError(f"{where}: expected mm, mil or in after the number, got {text!r}")
    own, factor = UNITS[suffix]
    return value * factor * MILLIMETRES[own] / MILLIMETRES[unit]


def _side(table: NominalTable, line: int, text: str) -> Side:
    side = _SIDES.get(re.sub(r"[^a-z0-9]", "", text.lower()))
    if side is None:
        column = table.columns["side"]
        where = f"{table.path}:{line}: column {column + 1} ({table.header[column]})"
        raise InputError(f"{where}: expected top or bottom, got {text!r}")
    return side
