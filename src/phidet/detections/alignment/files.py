"""Alignments as CSV and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from phidet.core.csv_files import write_csv
from phidet.core.files import write_atomic
from phidet.detections.alignment.results import Alignment, PartResult
from phidet.detections.alignment.statistics import AxisStatistics, SeriesStatistics

_PAIRS = ("nominal_xy", "xy", "deviation_xy", "sigma_xy", "xy_px", "expected_px")
PART_COLUMNS = (
    *("image", "reference", "label", "verdict", "found_label", "score"),
    *(f"{axis}{name}" for name in ("_nominal", "", "_deviation", "_sigma", "_px", "_expected_px") for axis in "xy"),
    *("deviation", "correlation", "rotation_deviation", "unit"),
)
"""Columns of ``parts.csv``."""


def write_parts(path: Path, series: Sequence[Alignment]) -> Path:
    """A line for each part of each image; an image without a pose has one line, with its reason as the verdict."""
    rows: list[Sequence[object]] = []
    for one in series:
        if one.pose is None:
            rows.append([one.image, "", "", f"no pose: {one.reason}"] + [None] * (len(PART_COLUMNS) - 4))
        rows += [_row(one, part) for part in one.parts]
    return write_csv(path, PART_COLUMNS, rows)


def write_statistics(path: Path, statistics: SeriesStatistics) -> Path:
    """A line for each part of the series: numbers of images and faults; mean, sigma, Cp, Cpk and drift of x and y."""
    fields = AxisStatistics.__struct_fields__
    header = ["reference", "label", "measured", "faults", *(f"{axis}_{name}" for axis in "xy" for name in fields)]
    rows = [
        [
            part.reference,
            part.label,
            part.measured,
            sum(part.faults.values()),
            *(None if axis is None else getattr(axis, name) for axis in (part.x, part.y) for name in fields),
        ]
        for part in statistics.parts
    ]
    return write_csv(path, [*header, "unit"], [[*row, statistics.unit] for row in rows])


def write_json(path: Path, series: Sequence[Alignment], statistics: SeriesStatistics) -> Path:
    """Everything: ``images``, a list of :class:`Alignment`, and ``statistics``."""
    content = {"images": list(series), "statistics": statistics}
    write_atomic(path, msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")
    return path


def _row(one: Alignment, part: PartResult) -> list[object]:
    pairs = [value for name in _PAIRS for value in (getattr(part, name) or (None, None))]
    return [
        *(one.image, part.reference, part.label, part.verdict, part.found_label, part.score),
        *pairs,
        *(part.deviation, part.correlation, part.rotation_deviation, one.unit),
    ]
