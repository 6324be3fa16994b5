"""Assignment of detections to objects, image by image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from phidet.core.errors import InputError
from phidet.data.dataset import Annotations, Dataset
from phidet.detections.boxes import area, pairwise_iou
from phidet.detections.detections import Detections

MATCHED = 0.5
"""Default IoU from which a detection matches an object."""


class Matches(NamedTuple):
    """The assignment of N detections to the M objects of one image.

    Attributes:
        objects: (N,) int64, index of the matched object, −1 for none.
        ignored: (N,) bool, neither true nor false: lies on a difficult object or in a crowd.
        ious: (N, M) float64 of every detection with every object.
    """

    objects: npt.NDArray[np.int64]
    ignored: npt.NDArray[np.bool_]
    ious: npt.NDArray[np.float64]

    @property
    def false(self) -> npt.NDArray[np.bool_]:
        """(N,) false positives."""
        return (self.objects < 0) & ~self.ignored


def countable(truth: Annotations) -> npt.NDArray[np.bool_]:
    """(M,) objects that must be found: neither crowds nor difficult."""
    return ~(truth.crowd | truth.difficult)


def match_image(
    found: Detections, truth: Annotations, across_classes: bool = False, min_iou: float = MATCHED
) -> Matches:
    """Assigns to each detection, by descending score, the free object that it overlaps most, with IoU ≥ ``min_iou``.

    A detection without a match on a difficult object (with that IoU), or with that share of it in a crowd of its class,
    is ignored.

    Args:
        found: best first; of equal scores the earlier is the better one.
        truth: the image's objects.
        across_classes: match an object of another class if none of its own is free.
        min_iou: 0…1.
    """
    boxes, others = found.boxes_xyxy.astype(np.float64), truth.boxes_xyxy.astype(np.float64)
    ious: npt.NDArray[np.float64] = pairwise_iou(boxes, others)
    # Only pairs that overlap enough, of one class unless ``across_classes``, can be matches.
    own = found.class_ids[:, None] == truth.class_ids[None, :]
    overlaps = (ious >= min_iou) & (own | across_classes)
    detection, candidate = np.nonzero(overlaps & countable(truth))
    # lexsort's last key is the first criterion: by detection, then own class before others, then falling IoU.
    order = np.lexsort((-ious[detection, candidate], ~own[detection, candidate], detection))
    objects = np.full(len(boxes), -1, np.int64)
    # Greedy, as COCO and VOC evaluate: the best detection chooses first, and every object is found once.
    taken: set[int] = set()
    for d, o in zip(detection[order].tolist(), candidate[order].tolist(), strict=True):
        if objects[d] < 0 and o not in taken:
            objects[d] = o
            taken.add(o)
    # Difficult objects may be found by several detections, none of which counts.
    on_difficult = (overlaps & truth.difficult & ~truth.crowd).any(axis=1)
    # A crowd is larger than a detection in it, so that their IoU says little.
    in_crowd = ((covered(ious, boxes, others) >= min_iou) & own & truth.crowd).any(axis=1)
    return Matches(objects, (objects < 0) & (on_difficult | in_crowd), ious)


class Judged(NamedTuple):
    """The N detections of a whole data set that count: all but those on crowds and difficult objects.

    Attributes:
        scores: (N,) float64, as thresholds are: a score that was written as text must be equal to itself.
        class_ids: (N,) int64.
        right: (N,) bool, whether each is the detection of an object of its class.
    """

    scores: npt.NDArray[np.float64]
    class_ids: npt.NDArray[np.int64]
    right: npt.NDArray[np.bool_]


def judge(
    dataset: Dataset, detections: Sequence[Detections], min_score: float = 0.0, min_iou: float = MATCHED
) -> Judged:
    """Which detections of at least ``min_score`` are right, matched with objects of their classes.

    Raises:
        InputError: the detections do not belong to the data set.
    """
    scores, class_ids, right = [np.zeros(0, np.float32)], [np.zeros(0, np.int64)], [np.zeros(0, np.bool_)]
    # Image by image, as an object is found once in its image; the order of the scores is the caller's business.
    for found, _, matches in match_all(dataset, detections, min_score, min_iou=min_iou):
        counts = ~matches.ignored
        scores.append(found.scores[counts])
        class_ids.append(found.class_ids[counts])
        right.append(matches.objects[counts] >= 0)
    return Judged(np.concatenate(scores).astype(np.float64), np.concatenate(class_ids), np.concatenate(right))


def match_all(
    dataset: Dataset,
    detections: Sequence[Detections],
    min_score: float = 0.0,
    across_classes: bool = False,
    min_iou: float = MATCHED,
) -> Iterator[tuple[Detections, Annotations, Matches]]:
    """For each image, the detections of at least ``min_score``, the objects, and their assignment.

    Raises:
        InputError: the detections do not belong to the data set.
    """
    check_detections(dataset, detections)
    for i, found in enumerate(detections):
        seen = found.filter(score=min_score)
        truth = dataset.annotations(i)
        yield seen, truth, match_image(seen, truth, across_classes, min_iou)


def covered(
    ious: npt.NDArray[np.float64], boxes: npt.NDArray[np.float64], regions: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """(N, M) share of each box that lies in each region, from their IoUs: COCO's measure for crowds."""
    own, other = area(boxes)[:, None], area(regions)[None, :]
    common = ious * (own + other) / (1 + ious)  # i / (a + b − i) solved for i
    return np.divide(common, own, out=np.zeros_like(ious), where=own > 0)


def check_detections(dataset: Dataset, detections: Sequence[Detections]) -> None:
    """Raises InputError unless there are detections for every image, all of known classes."""
    if len(detections) != len(dataset):
        raise InputError(
            f"expected detections for each of the {len(dataset)} images of {dataset.name!r}, got {len(detections)}: "
            "an image in which nothing is found has empty arrays"
        )
    classes = len(dataset.class_names)
    for i, found in enumerate(detections):
        if len(found) and found.class_ids.max() >= classes:
            raise InputError(
                f"detections of image {i} ({dataset.names[i]}) have classes {found.class_ids.min()}…"
                f"{found.class_ids.max()}, expected 0…{classes - 1}: does the model have the data's classes?"
            )
