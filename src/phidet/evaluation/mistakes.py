"""The worst mistakes, each with its kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from phidet.data.dataset import Annotations, Dataset
from phidet.detections.boxes import pairwise_iou
from phidet.detections.detections import Detections
from phidet.evaluation.matching import MATCHED, Matches, countable, match_all

Kind = Literal["missed", "false positive", "wrong class", "poor box", "double"]
KINDS: tuple[Kind, ...] = get_args(Kind)
POOR = 0.1  # IoU from which a box is a poor detection of an object, not a false positive
_LARGE = 96.0  # pixels; √area from which an object is COCO's "large" and missing it is worst


class Mistake(NamedTuple):
    """A mistake in one image.

    Attributes:
        image: index in the data set.
        kind: ``missed``: an object, with no detection near it. ``false positive``: a detection, with no object near it.
            ``wrong class``: a detection on an object of another class. ``poor box``: a detection of an object that
            nothing else found, from IoU 0.1 on. ``double``: another detection of an object that a better one found.
        severity: 0…1. The score; of a poor box times 1 − IoU; of a missed object its size, √area / 96 pixels, at most
            1, times 1 − the best score of a detection of it below the threshold.
        detection: index in the image's detections, ``None`` for a missed object.
        object: index in the image's objects, ``None`` for a false positive.
    """

    image: int
    kind: Kind
    severity: float
    detection: int | None
    object: int | None


def worst_mistakes(
    dataset: Dataset, detections: Sequence[Detections], min_score: float, limit: int = 40, min_iou: float = MATCHED
) -> list[Mistake]:
    """At most ``limit`` mistakes: the worst of each kind, then the second of each, and so on.

    Args:
        dataset: the ground truth; crowds and difficult objects are no mistakes, found or not.
        detections: one for each image.
        min_score: detections with a lower score are ignored; see :func:`~phidet.evaluation.curves.best_threshold`.
        limit: maximum number of mistakes.
        min_iou: the overlap with which a detection finds an object, 0…1.

    Raises:
        InputError: the detections do not belong to the data set.
    """
    of_kind: dict[Kind, list[Mistake]] = {kind: [] for kind in KINDS}
    # Across classes, so that a detection of a wrong class is told from a detection of nothing.
    matched = match_all(dataset, detections, min_score, across_classes=True, min_iou=min_iou)
    for i, (found, truth, matches) in enumerate(matched):
        numbers = np.flatnonzero(detections[i].scores >= min_score)
        unclaimed = countable(truth)
        for mistake in _of_detections(i, found, truth, matches, min_iou):
            if mistake.object is not None:
                unclaimed[mistake.object] = False
            # Matching saw only the detections above the threshold: back to the index among all of them.
            detection = int(numbers[mistake.detection]) if mistake.detection is not None else None
            of_kind[mistake.kind].append(mistake._replace(detection=detection))
        unclaimed[matches.objects[matches.objects >= 0]] = False
        of_kind["missed"] += _missed(i, detections[i], truth, unclaimed, min_iou)
    # Round robin over the kinds, so that a frequent kind does not push the others off the sheet.
    turns = [
        (turn, mistake)
        for mistakes in of_kind.values()
        for turn, mistake in enumerate(sorted(mistakes, key=lambda m: (-m.severity, m.image))[:limit])
    ]
    return [mistake for _, mistake in sorted(turns, key=lambda t: (t[0], -t[1].severity, t[1].image))[:limit]]


def _of_detections(
    image: int, found: Detections, truth: Annotations, matches: Matches, min_iou: float
) -> Iterator[Mistake]:
    hit = np.flatnonzero(matches.objects >= 0)
    for d, o in zip(hit.tolist(), matches.objects[hit].tolist(), strict=True):
        if found.class_ids[d] != truth.class_ids[o]:
            yield Mistake(image, "wrong class", float(found.scores[d]), d, o)
    free = countable(truth)
    free[matches.objects[hit]] = False
    false = np.flatnonzero(matches.false)
    for d in false.tolist():
        score, ious = float(found.scores[d]), matches.ious[d]
        own = truth.class_ids == found.class_ids[d]
        # In order of what explains a false positive best: a poor box on a free object, then a duplicate, then nothing
        # at all.
        if (poor := _nearest(ious, free & own & (ious >= POOR))) is not None:
            free[poor] = False
            yield Mistake(image, "poor box", score * (1 - float(ious[poor])), d, poor)
        elif (same := _nearest(ious, countable(truth) & (own & (ious >= POOR) | (ious >= min_iou)))) is not None:
            yield Mistake(image, "double", score, d, same)
        else:
            yield Mistake(image, "false positive", score, d, None)


def _nearest(ious: npt.NDArray[np.float64], among: npt.NDArray[np.bool_]) -> int | None:
    return int(np.where(among, ious, -1.0).argmax()) if among.any() else None


def _missed(
    image: int, found: Detections, truth: Annotations, unclaimed: npt.NDArray[np.bool_], min_iou: float
) -> Iterator[Mistake]:
    if not unclaimed.any():
        return
    own = found.class_ids[:, None] == truth.class_ids[None, :]
    near = own & (pairwise_iou(found.boxes_xyxy, truth.boxes_xyxy) >= min_iou)
    # An object that a detection just below the threshold shows is nearly found: missing it weighs less.
    faint = np.where(near, found.scores[:, None], 0.0).max(axis=0, initial=0.0)
    size = np.minimum(1.0, np.sqrt(truth.areas.astype(np.float64)) / _LARGE)
    for o in np.flatnonzero(unclaimed).tolist():
        yield Mistake(image, "missed", float(size[o] * (1 - min(1.0, faint[o]))), None, o)
