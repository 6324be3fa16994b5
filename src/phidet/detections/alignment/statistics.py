"""A series of images of the same design: each part's scatter, capability and drift."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from phidet.detections.alignment.pose import Floats
from phidet.detections.alignment.results import FAULTS, Alignment, PartResult

_LEAST_FOR_DRIFT = 5  # images
_DRIFTS = 3.5  # a slope in units of its standard error


class AxisStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One coordinate of a series.

    Attributes:
        mean: of the deviation.
        sigma: its standard deviation, with n − 1; ``None`` for a single image.
        cp: tolerance / (3 sigma): what the scatter would allow if the mean were 0; ``None`` without a tolerance.
        cpk: (tolerance − |mean|) / (3 sigma): what it allows with this mean.
        drift: slope of a line through the deviations, for one image to the next; ``None`` for fewer than 5 images.
        drift_sigma: standard error of the slope.
    """

    mean: float
    sigma: float | None = None
    cp: float | None = None
    cpk: float | None = None
    drift: float | None = None
    drift_sigma: float | None = None

    @property
    def drifts(self) -> bool:
        """Whether the slope is larger than 3.5 of its standard errors."""
        return self.drift is not None and self.drift_sigma is not None and abs(self.drift) > _DRIFTS * self.drift_sigma


class PartStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """A part over the series.

    Attributes:
        reference: its name.
        label: its class.
        measured: number of images where it was measured (a part of its class in reach of its place).
        faults: verdict → number of images, of those that occur.
        x, y: of its deviation in the unit of the list; ``None`` where it was never measured.
        noise: mean standard deviation of one measurement in x and y, part of ``sigma`` above.
    """

    reference: str
    label: str
    measured: int
    faults: dict[str, int]
    x: AxisStatistics | None = None
    y: AxisStatistics | None = None
    noise: tuple[float, float] | None = None


class SeriesStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """A series of images, in their order.

    Attributes:
        images: number of images.
        right: number of those on which everything is right.
        located: number of those with a pose.
        unit: of the list.
        tolerance: that ``cp`` and ``cpk`` refer to.
        parts: in the order of the list.
        board: deviation of the pose: x and y of the list's middle in pixels, "rotation" in degrees and "scale" in
            pixels a unit, each around its own mean, whose ``mean`` is the mean itself.
    """

    images: int
    right: int
    located: int
    unit: str
    tolerance: float | None
    parts: tuple[PartStatistics, ...]
    board: dict[str, AxisStatistics]


def series_statistics(series: Sequence[Alignment], tolerance: float | None = None) -> SeriesStatistics:
    """Statistics of images of the same nominal list, in the order in which they were taken.

    Images without a pose count, but have no places; a part's deviations are those of images where its class was found
    in reach, right or displaced.
    """
    located = [(number, one) for number, one in enumerate(series) if one.pose is not None]
    by_reference: dict[str, list[tuple[int, PartResult]]] = {}
    for number, one in located:
        for part in one.parts:
            if part.reference:
                by_reference.setdefault(part.reference, []).append((number, part))
    return SeriesStatistics(
        images=len(series),
        right=sum(one.right for one in series),
        located=len(located),
        unit=series[0].unit if series else "",
        tolerance=tolerance,
        parts=tuple(_part(parts, tolerance) for parts in by_reference.values()),
        board=_board(located),
    )


def _part(parts: Sequence[tuple[int, PartResult]], tolerance: float | None) -> PartStatistics:
    first = parts[0][1]
    verdicts = [part.verdict for _, part in parts]
    measured = [(number, p) for number, p in parts if p.deviation_xy is not None and p.verdict != "wrong label"]
    deviations = np.array([part.deviation_xy for _, part in measured], np.float64).reshape(-1, 2)
    noise = np.array([part.sigma_xy for _, part in measured], np.float64).reshape(-1, 2)
    axes = [_axis([number for number, _ in measured], deviations[:, axis], tolerance) for axis in (0, 1)]
    return PartStatistics(
        reference=first.reference,
        label=first.label,
        measured=len(measured),
        faults={fault: verdicts.count(fault) for fault in (*FAULTS, "outside") if fault in verdicts},
        x=axes[0],
        y=axes[1],
        noise=(float(noise[:, 0].mean()), float(noise[:, 1].mean())) if measured else None,
    )


def _board(located: Sequence[tuple[int, Alignment]]) -> dict[str, AxisStatistics]:
    rows = {"x": [], "y": [], "rotation": [], "scale": []}  # type: dict[str, list[float]]
    for _, one in located:
        assert one.pose is not None
        rows["x"].append(one.pose.origin_px[0])
        rows["y"].append(one.pose.origin_px[1])
        rows["rotation"].append(one.pose.rotation)
        rows["scale"].append(one.pose.scale)
    # Rotations near ±180° are made continuous, so that their mean and drift mean something.
    rows["rotation"] = np.degrees(np.unwrap(np.radians(rows["rotation"]))).tolist()
    numbers = [number for number, _ in located]
    axes = {name: _axis(numbers, np.array(values, np.float64), None) for name, values in rows.items()}
    return {name: axis for name, axis in axes.items() if axis is not None}


def _axis(numbers: Sequence[int], values: Floats, tolerance: float | None) -> AxisStatistics | None:
    if not len(values):
        return None
    mean = float(values.mean())
    if len(values) < 2:
        return AxisStatistics(mean=mean)
    sigma = float(values.std(ddof=1))
    capable = tolerance is not None and sigma > 0
    slope, error = _slope(np.array(numbers, np.float64), values)
    return AxisStatistics(
        mean=mean,
        sigma=sigma,
        cp=tolerance / (3 * sigma) if capable and tolerance is not None else None,
        cpk=(tolerance - abs(mean)) / (3 * sigma) if capable and tolerance is not None else None,
        drift=slope,
        drift_sigma=error,
    )


def _slope(numbers: Floats, values: Floats) -> tuple[float | None, float | None]:
    """The least-squares line's slope and its standard error."""
    if len(values) < _LEAST_FOR_DRIFT:
        return None, None
    around = numbers - numbers.mean()
    square = float(around @ around)
    slope = float(around @ values) / square
    residuals = values - values.mean() - slope * around
    return slope, math.sqrt(float(residuals @ residuals) / (len(values) - 2) / square)
