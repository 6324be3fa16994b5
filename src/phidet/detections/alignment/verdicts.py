"""From pairs of parts and detections to places in the list's unit, their uncertainty, and verdicts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phidet.detections.alignment.locate import Located
from phidet.detections.alignment.nominal import Nominal, Side
from phidet.detections.alignment.pose import Floats
from phidet.detections.alignment.results import PartResult, PoseResult, Verdict
from phidet.detections.alignment.rotation import box_rotations
from phidet.detections.alignment.search import Ints
from phidet.detections.alignment.settings import AlignSettings
from phidet.detections.detections import Detections

_FALSE_DISPLACED = 0.01  # share of right boards on which scatter alone makes a part seem displaced
_ROTATED = 20.0  # degrees away from the nominal rotation
_MISFIT = 4.0  # of a box, in units of the usual ones of its label


@dataclass(frozen=True, eq=False)
class Measured:
    """The final pairs.

    Attributes:
        located: the pose.
        ours: (K,) numbers of paired parts, rising.
        theirs: (K,) numbers of their detections.
        centres: (M, 2) pixels of all detections.
        boxes: (M, 4) of all detections, xyxy.
        expected: (N, 2) pixels where the pose puts the parts.
        local: (N, 2, 2) derivatives of pixels by nominal places, y down.
    """

    located: Located
    ours: Ints
    theirs: Ints
    centres: Floats
    boxes: Floats
    expected: Floats
    local: Floats


def judge(
    nominal: Nominal, found: Detections, measured: Measured, settings: AlignSettings, size_hw: tuple[int, int]
) -> list[PartResult]:
    """A result for each nominal part, then one for each detection that is no part's."""
    deviations, covariances = _deviations(nominal, measured)
    turned, misfit = _rotations(nominal, found, measured)
    # For k normal 2-vectors the largest squared length is beyond 2 ln(k / p) with a probability of at most p.
    limit = 2 * math.log(max(1, len(measured.ours)) / _FALSE_DISPLACED)
    flip = np.array([1.0, -1.0]) if nominal.y_up else np.ones(2)
    results: dict[int, PartResult] = {}
    for k, (i, j) in enumerate(zip(measured.ours.tolist(), measured.theirs.tolist(), strict=True)):
        verdict: Verdict = "right"
        if found.labels[j] != nominal.labels[i]:
            verdict = "wrong label"
        elif _is_displaced(deviations[k], covariances[k], limit, settings.tolerance):
            verdict = "displaced"
        elif misfit[k] >= _MISFIT and turned[k] >= _ROTATED:
            verdict = "rotated"
        sigma = np.sqrt(np.diag(covariances[k]))
        deviation = deviations[k] * flip
        results[i] = PartResult(
            reference=nominal.references[i],
            label=nominal.labels[i],
            verdict=verdict,
            found_label=found.labels[j],
            score=float(found.scores[j]),
            nominal_xy=_pair(nominal.places[i]),
            xy=_pair(nominal.places[i] + deviation),
            deviation_xy=_pair(deviation),
            deviation=float(np.hypot(*deviation)),
            sigma_xy=_pair(sigma),
            correlation=float(covariances[k][0, 1] / (sigma[0] * sigma[1]) * flip[1]),
            xy_px=_pair(measured.centres[j]),
            expected_px=_pair(measured.expected[i]),
            box_xyxy=_box(found, j),
            rotation_deviation=None if np.isnan(turned[k]) else float(turned[k]) if misfit[k] >= _MISFIT else 0.0,
        )
    parts = [results.get(i) or _unpaired(nominal, measured, i, size_hw, settings) for i in range(len(nominal))]
    strong = np.flatnonzero(found.scores >= settings.score).tolist()
    extra = sorted(set(strong) - set(measured.theirs.tolist()))
    places = measured.located.pose.back(measured.centres) * flip
    return [part for part in parts if part is not None] + [
        PartResult(
            reference="",
            label="",
            verdict="extra",
            found_label=found.labels[j],
            score=float(found.scores[j]),
            xy=_pair(places[j]),
            xy_px=_pair(measured.centres[j]),
            box_xyxy=_box(found, j),
        )
        for j in extra
    ]


def pose_result(located: Located, nominal: Nominal, side: Side) -> PoseResult:
    """The pose in the list's unit and axes, and plain pixels."""
    pose, frame = located.pose, located.pose.frame
    flip = np.diag([1.0, -1.0, 1.0]) if nominal.y_up else np.eye(3)
    to_pixels = np.array([[frame.half, 0, frame.centre[0]], [0, frame.half, frame.centre[1]], [0, 0, 1]])
    from_places = np.array(
        [[1 / frame.spread, 0, -frame.middle[0] / frame.spread], [0, 1 / frame.spread, -frame.middle[1] / frame.spread]]
    )
    matrix = to_pixels @ pose.matrix @ np.vstack([from_places, [0, 0, 1]]) @ flip
    matrix = matrix / matrix[2, 2] if abs(matrix[2, 2]) > 1e-12 else matrix
    linear = pose.local(frame.middle[None])[0]
    return PoseResult(
        kind=pose.kind,
        matrix=tuple((float(a), float(b), float(c)) for a, b, c in matrix),
        k1=float(pose.k1),
        side=side,
        mirrored=pose.mirrored,
        origin_px=_pair(pose.project(np.zeros((1, 2)))[0]),
        rotation=math.degrees(math.atan2(-linear[1, 0], linear[0, 0])),
        scale=math.sqrt(abs(float(np.linalg.det(linear)))),
        sigma_px=located.sigma,
        parts=len(located.ours),
        share=located.share,
        log10_false_alarms=located.false_alarms,
    )


def _deviations(nominal: Nominal, measured: Measured) -> tuple[Floats, Floats]:
    """(K, 2) deviations in the list's unit, y down, and their (K, 2, 2) covariances.

    A part that the pose was fitted to pulls the pose towards itself: its residual is (I − H) times its deviation, H its
    block of the hat matrix. Solving for the deviation gives what a fit to all other parts would measure, exactly for a
    linear fit; its covariance is σ² (I − H)⁻¹. For a part that was not fitted to, it is σ² (I + J C Jᵀ).
    """
    located, ours = measured.located, measured.ours
    residuals = measured.centres[measured.theirs] - measured.expected[ours]
    hat = located.pose.spread_of(nominal.downward[ours])
    pairs = set(zip(located.ours.tolist(), located.theirs.tolist(), strict=True))
    fitted = np.array([pair in pairs for pair in zip(ours.tolist(), measured.theirs.tolist(), strict=True)], bool)
    eye = np.eye(2)
    # A part that alone decides a parameter has no deviation of its own: its uncertainty is large, not infinite.
    rest = np.where(fitted[:, None, None], eye - hat, eye) + 1e-6 * eye
    moved = np.linalg.solve(rest, residuals[:, :, None])
    covariance = np.where(fitted[:, None, None], np.linalg.inv(rest), eye + hat)
    to_unit = np.linalg.inv(measured.local[ours])
    deviations: Floats = (to_unit @ moved)[:, :, 0]
    covariances: Floats = located.sigma**2 * to_unit @ covariance @ to_unit.transpose(0, 2, 1)
    return deviations, covariances


def _rotations(nominal: Nominal, found: Detections, measured: Measured) -> tuple[Floats, Floats]:
    """For the pairs, how far the boxes say that parts are turned, and how badly they fit the nominal rotation."""
    ours, theirs = measured.ours, measured.theirs
    angles = np.radians(nominal.rotations[ours])
    long = np.stack([np.cos(angles), np.sin(angles) * (-1 if nominal.y_up else 1)], 1)
    pointing = (measured.local[ours] @ long[:, :, None])[:, :, 0]
    scale = np.sqrt(np.abs(np.linalg.det(measured.local[ours])))[:, None]
    boxes = measured.boxes[theirs]
    labels = [
        nominal.labels[i] if found.labels[j] == nominal.labels[i] else ""
        for i, j in zip(ours.tolist(), theirs.tolist(), strict=True)
    ]
    return box_rotations(
        np.degrees(np.arctan2(pointing[:, 1], pointing[:, 0])),
        (boxes[:, 2:] - boxes[:, :2]) / scale,
        labels,
        None if nominal.sizes is None else nominal.sizes[ours],
    )


def _is_displaced(deviation: Floats, covariance: Floats, limit: float, tolerance: float | None) -> bool:
    if tolerance is not None:
        return bool(np.hypot(*deviation) > tolerance)
    return bool(deviation @ np.linalg.solve(covariance, deviation) > limit)


def _unpaired(
    nominal: Nominal, measured: Measured, i: int, size_hw: tuple[int, int], settings: AlignSettings
) -> PartResult | None:
    """A part without a detection: missing, or outside the image."""
    x, y = measured.expected[i].tolist()
    inside = 0 <= x < size_hw[1] and 0 <= y < size_hw[0]
    if not inside and settings.partial:
        return None
    return PartResult(
        reference=nominal.references[i],
        label=nominal.labels[i],
        verdict="missing" if inside else "outside",
        nominal_xy=_pair(nominal.places[i]),
        expected_px=(x, y),
    )


def _pair(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    return float(values[0]), float(values[1])


def _box(found: Detections, j: int) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = found.boxes_xyxy[j].tolist()
    return x1, y1, x2, y2
