"""Precision and recall as functions of the score threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from phidet.data.dataset import Dataset
from phidet.detections.detections import Detections
from phidet.evaluation.matching import MATCHED, countable, judge

RECALLS = np.linspace(0, 1, 101)


class PrCurve(NamedTuple):
    """One class.

    Attributes:
        class_name: of the data set.
        objects: number of objects, without crowds and difficult ones.
        scores: (K,) float64, the distinct scores of the detections, descending.
        precision: (K,) share of correct ones among the detections with at least that score.
        recall: (K,) share of the objects that they find; 0 where there are none.
    """

    class_name: str
    objects: int
    scores: npt.NDArray[np.float64]
    precision: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]

    @property
    def f1(self) -> npt.NDArray[np.float64]:
        """(K,) harmonic mean of precision and recall."""
        both = self.precision + self.recall
        return np.divide(2 * self.precision * self.recall, both, out=np.zeros_like(both), where=both > 0)

    @property
    def best(self) -> int | None:
        """Index of the threshold with the highest F1; ``None`` where nothing was found."""
        # Without a right detection F1 is 0 at every threshold, and none of them is the best.
        return int(self.f1.argmax()) if self.recall.any() else None

    @property
    def best_score(self) -> float | None:
        """The score threshold with the highest F1."""
        return None if self.best is None else float(self.scores[self.best])

    @property
    def threshold(self) -> float | None:
        """The same between that score and the next lower one, so that rounding elsewhere changes nothing."""
        if self.best is None:
            return None
        lower = self.scores[self.best + 1] if self.best + 1 < len(self.scores) else 0.0
        return float((self.scores[self.best] + lower) / 2)

    @property
    def envelope(self) -> npt.NDArray[np.float64]:
        """(101,) the best precision with at least recall 0, 0.01 … 1; their mean is AP at that IoU (COCO's AP50)."""
        # Running maximum from the right: the best precision at this recall or any higher one; 0 where it is never
        # reached.
        highest = np.append(np.maximum.accumulate(self.precision[::-1])[::-1], 0.0)
        return highest[np.searchsorted(self.recall, RECALLS)]


def pr_curves(dataset: Dataset, detections: Sequence[Detections], min_iou: float = MATCHED) -> list[PrCurve]:
    """A curve for each class, in their order. Difficult objects are neither right nor wrong.

    Args:
        dataset: the ground truth.
        detections: one for each image.
        min_iou: the overlap with which a detection finds an object, 0…1.

    Raises:
        InputError: the detections do not belong to the data set.
    """
    found = judge(dataset, detections, min_iou=min_iou)
    truth = dataset.all_annotations
    objects = np.bincount(truth.class_ids[countable(truth)], minlength=len(dataset.class_names))
    return [
        _curve(name, int(objects[c]), found.scores[found.class_ids == c], found.right[found.class_ids == c])
        for c, name in enumerate(dataset.class_names)
    ]


def _curve(name: str, objects: int, scores: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]) -> PrCurve:
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(right[order])
    # Detections of equal score enter together, so only the last of each group of ties is a point of the curve.
    last = np.flatnonzero(np.append(np.diff(scores) != 0, True)[: len(scores)])
    return PrCurve(name, objects, scores[last], hits[last] / (last + 1), hits[last] / max(1, objects))


def best_threshold(curves: Sequence[PrCurve]) -> float:
    """The score threshold, in steps of 0.001, with the highest mean F1 over classes with objects; else 0.5."""
    # Of three digits, as people copy it from a report into a command.
    grid = np.linspace(0, 1, 1001)
    # F1 is a step function of the threshold: each grid point takes the value of the lowest score that still passes.
    with_objects = [curve for curve in curves if curve.objects]
    f1s = [np.append(0.0, c.f1)[np.searchsorted(-c.scores, -grid, side="right")] for c in with_objects]
    mean = np.mean(f1s, axis=0) if f1s else np.zeros(len(grid))
    return float(grid[mean.argmax()]) if mean.any() else 0.5
