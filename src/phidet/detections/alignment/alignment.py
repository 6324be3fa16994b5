"""Detections of an image against a nominal list: pose, places, verdicts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import msgspec
import numpy as np

from phidet.detections.alignment.assign import Radii, assign
from phidet.detections.alignment.locate import Located, LocateSettings, NotLocated, locate, relocate
from phidet.detections.alignment.nominal import SIDES, Nominal, Side
from phidet.detections.alignment.pose import Floats
from phidet.detections.alignment.results import Alignment
from phidet.detections.alignment.search import Ints, Points, SearchSettings
from phidet.detections.alignment.settings import AlignSettings
from phidet.detections.alignment.verdicts import Measured, judge, pose_result
from phidet.detections.boxes import pairwise_iou
from phidet.detections.detections import Detections

Refine: TypeAlias = Callable[[Nominal, Measured], Floats]
"""Better centres (M, 2) of detections, given the parts and what was measured with the boxes' centres."""
_DOUBLED_IOU = 0.6
_LEAST_SIGMA = 0.05  # px; residuals are not believed to be smaller
_LEAST_POINTS = 4
_OTHER_CLASS = 0.3  # of the median distance of neighbours: so near to a part's place another class is in it


@dataclass(frozen=True, eq=False)
class _Seen:
    """A side of the board that has a pose."""

    side: Side
    nominal: Nominal
    located: Located


def align_detections(
    nominal: Nominal,
    found: Detections,
    settings: AlignSettings | None = None,
    *,
    image: str = "",
    refine: Refine | None = None,
    located: Located | NotLocated | None = None,
) -> Alignment:
    """Finds how the board lies in an image, and where each part is.

    Args:
        nominal: parts whose labels are classes of the detections (:meth:`Nominal.with_classes`).
        found: detections of one image, with its size and the class names.
        settings: what counts as right.
        image: its name, for the result.
        refine: improves the centres of the paired detections, for instance from pixels.
        located: the pose, where it is known from something else than the parts.

    Returns:
        Without a pose, and with the reason, if none is found that chance does not explain, or two are equally good.
    """
    settings = settings or AlignSettings()
    size_hw = found.image_size_hw or _extent(found)
    single = without_doubles(found)
    answer = Alignment(image=image, unit=nominal.unit, image_size_hw=size_hw, doubled=len(found) - len(single))
    # Detections are sorted by score, so the strong ones have the same numbers among all.
    strong = single.filter(settings.score)
    seen = _locate_sides(nominal, strong, size_hw, settings) if located is None else _known(nominal, strong, located)
    if isinstance(seen, NotLocated):
        return _with(answer, reason=seen.reason, message=seen.text)
    measured = _measure(seen, single, _centres(single), settings)
    if refine is not None and len(measured.ours):
        centres = refine(seen.nominal, measured)
        if located is None:
            classes, found_classes = _class_numbers(seen.nominal.labels, single)
            points = Points.of(seen.nominal.downward, classes), Points.of(centres, found_classes)
            better = relocate(*points, seen.located, LocateSettings(settings.least_share, _LEAST_SIGMA, size_hw))
            seen = _Seen(seen.side, seen.nominal, better)
        else:
            seen = _scattered(seen, centres[measured.theirs] - measured.expected[measured.ours])
        measured = _measure(seen, single, centres, settings)
    parts = judge(seen.nominal, single, measured, settings, size_hw)
    pose = pose_result(seen.located, seen.nominal, seen.side)
    if isinstance(located, Located):
        pose = msgspec.structs.replace(pose, parts=len(located.ours))
    return _with(answer, pose=pose, parts=tuple(parts))


def _known(nominal: Nominal, found: Detections, located: Located | NotLocated) -> _Seen | NotLocated:
    """A pose from something else than the parts, with the scatter of the parts' own places."""
    if isinstance(located, NotLocated):
        return located
    nothing = np.zeros(0, np.int64)
    seen = _Seen(SIDES[0], nominal, replace(located, ours=nothing, theirs=nothing))
    if min(len(nominal), len(found)) == 0:
        return seen
    expected, centres = located.pose.project(nominal.downward), _centres(found)
    classes, found_classes = _class_numbers(nominal.labels, found)
    apart = np.linalg.norm(expected[:, None] - centres[None], axis=2)
    apart[classes[:, None] != found_classes[None]] = np.inf
    nearest = apart.argmin(axis=1)
    offsets = centres[nearest] - expected
    sizes = found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2]
    # Farther away than half a part, it is not the part.
    kept = apart.min(axis=1) < 0.5 * float(np.median(sizes))
    return _scattered(seen, offsets[kept])


def _scattered(seen: _Seen, offsets: Floats) -> _Seen:
    """With the robust standard deviation of parts around their places, which is not that of the pose's corners."""
    if len(offsets) < _LEAST_POINTS:
        return seen
    sigma = max(_LEAST_SIGMA, float(np.median(np.linalg.norm(offsets, axis=1))) / 1.1774)  # of a Rayleigh distribution
    return _Seen(seen.side, seen.nominal, replace(seen.located, sigma=sigma, gate=3.5 * sigma))


def _locate_sides(
    nominal: Nominal, found: Detections, size_hw: tuple[int, int], settings: AlignSettings
) -> _Seen | NotLocated:
    """The side that is seen; the reason if none or both fit."""
    sides = SIDES if settings.side == "auto" else (settings.side,)
    answers: list[_Seen | NotLocated] = []
    for side in sides:
        one = nominal.on(side)
        if not len(one) and (settings.side == "auto" and len(one) < len(nominal)):
            continue
        located = _locate(one, found, size_hw, settings)
        answers.append(located if isinstance(located, NotLocated) else _Seen(side, one, located))
    seen = [one for one in answers if isinstance(one, _Seen)]
    if len(seen) == 2 and abs(seen[0].located.false_alarms - seen[1].located.false_alarms) < 6:
        return NotLocated("ambiguous", "the parts of both sides agree equally well: say which side it is")
    if seen:
        return min(seen, key=lambda one: one.located.false_alarms)
    # Two equally good poses of one side say more than nothing found on the other.
    reasons = [one for one in answers if isinstance(one, NotLocated)]
    return next((one for one in reasons if one.reason == "ambiguous"), reasons[0])


def _locate(
    nominal: Nominal, found: Detections, size_hw: tuple[int, int], settings: AlignSettings
) -> Located | NotLocated:
    if min(len(nominal), len(found)) < _LEAST_POINTS:
        return NotLocated(
            "few",
            f"{len(nominal)} nominal parts and {len(found)} detections: at least {_LEAST_POINTS} of each are needed",
        )
    places = nominal.downward
    length, width = np.linalg.svd(places - places.mean(0), compute_uv=False)
    if width <= 1e-6 * length:
        return NotLocated("few", "the nominal parts lie on one line or in one place, which does not determine a pose")
    classes, found_classes = _class_numbers(nominal.labels, found)
    return locate(
        Points.of(places, classes),
        Points.of(_centres(found), found_classes),
        max(int(classes.max()), int(found_classes.max())) + 1,
        SearchSettings.of(settings, places, size_hw),
        LocateSettings(settings.least_share, _LEAST_SIGMA, size_hw),
    )


def _measure(seen: _Seen, found: Detections, centres: Floats, settings: AlignSettings) -> Measured:
    """The final pairs, and everything in pixels."""
    classes, found_classes = _class_numbers(seen.nominal.labels, found)
    located, places = seen.located, seen.nominal.downward
    local = located.pose.local(places)
    scale = np.sqrt(np.abs(np.linalg.det(local)))
    pixels_per_unit = float(np.median(scale)) if len(scale) else 1.0
    spacing = Points.of(places, classes).spacing if len(places) > 1 else 0.0
    tolerance = 0.0 if settings.tolerance is None else settings.tolerance * pixels_per_unit
    reach = (0.75 * spacing if settings.reach is None else settings.reach) * pixels_per_unit
    near = max(located.gate, tolerance, 4 * located.sigma)
    expected = located.pose.project(places)
    # Another part on the same pads need not have its centre where the right one has it.
    other = max(near, _OTHER_CLASS * spacing * pixels_per_unit)
    radii = Radii(max(located.sigma, near / 6), near, other, max(reach, near))
    weak = found.scores < settings.score
    ours, theirs = assign(expected, classes, centres, found_classes, radii, weak)
    return Measured(located, ours, theirs, centres, found.boxes_xyxy.astype(np.float64), expected, local)


def _class_numbers(labels: Sequence[str], found: Detections) -> tuple[Ints, Ints]:
    """Integers for the labels of parts and of detections."""
    numbers: dict[str, int] = {}
    ours = [numbers.setdefault(label, len(numbers)) for label in labels]
    theirs = [numbers.setdefault(label, len(numbers)) for label in found.labels]
    return np.array(ours, np.int64), np.array(theirs, np.int64)


def without_doubles(found: Detections) -> Detections:
    """Without detections that cover the same object as one with a higher score, of whatever class."""
    overlaps = np.triu(pairwise_iou(found.boxes_xyxy, found.boxes_xyxy) > _DOUBLED_IOU, 1)
    kept = np.ones(len(found), bool)
    for i in np.flatnonzero(overlaps.any(1)).tolist():
        if kept[i]:
            kept &= ~overlaps[i]
    return found[kept]


def _centres(found: Detections) -> Floats:
    boxes = found.boxes_xyxy.astype(np.float64)
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _extent(found: Detections) -> tuple[int, int]:
    """The size of an image that would hold the detections, where its own is not known."""
    if not len(found):
        return 1, 1
    return math.ceil(float(found.boxes_xyxy[:, 3].max())), math.ceil(float(found.boxes_xyxy[:, 2].max()))


def _with(answer: Alignment, **changes: object) -> Alignment:
    return msgspec.structs.replace(answer, **changes)
