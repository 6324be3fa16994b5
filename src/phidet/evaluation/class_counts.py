"""Precision, recall and F1 of each class at one score: counted, not averaged."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from phidet.data.dataset import Dataset
from phidet.detections.detections import Detections
from phidet.evaluation.matching import MATCHED, countable, judge


class ClassCounts(msgspec.Struct, frozen=True, kw_only=True):
    """One class, or all of them together.

    Attributes:
        name: of the class.
        objects: number of objects without crowds and difficult ones: true positives plus false negatives.
        detections: number of detections except those on crowds and difficult objects: true plus false positives.
        true_positives, false_positives, false_negatives: correct, wrong and missed.
        precision: share of correct ones among the detections, ``None`` without any.
        recall: share of the objects that were found, ``None`` without any.
        f1: harmonic mean of both, ``None`` where there are neither objects nor detections.
    """

    name: str
    objects: int
    detections: int
    true_positives: int
    false_positives: int
    false_negatives: int
    precision: float | None
    recall: float | None
    f1: float | None


def counts_of(name: str, objects: int, detections: int, right: int) -> ClassCounts:
    """The metrics of one class from its three counts."""
    return ClassCounts(
        name=name,
        objects=objects,
        detections=detections,
        true_positives=right,
        false_positives=detections - right,
        false_negatives=objects - right,
        precision=right / detections if detections else None,
        recall=right / objects if objects else None,
        # 2PR / (P + R), written in counts: defined also where precision or recall is not.
        f1=2 * right / (objects + detections) if objects + detections else None,
    )


def class_counts(
    dataset: Dataset, detections: Sequence[Detections], min_score: float, min_iou: float = MATCHED
) -> tuple[ClassCounts, ...]:
    """The counts of each class of ``dataset``, in its order.

    Args:
        dataset: the ground truth.
        detections: one for each image.
        min_score: the lowest score of detections that count.
        min_iou: the overlap with which a detection finds an object of its class, 0…1.

    Raises:
        InputError: the detections do not belong to the data set.
    """
    classes = len(dataset.class_names)
    truth = dataset.all_annotations
    objects = np.bincount(truth.class_ids[countable(truth)], minlength=classes)
    # Without detections on crowds and difficult objects, which are neither right nor wrong.
    found = judge(dataset, detections, min_score, min_iou)
    counted, right = (np.bincount(ids, minlength=classes) for ids in (found.class_ids, found.class_ids[found.right]))
    rows = zip(dataset.class_names, objects.tolist(), counted.tolist(), right.tolist(), strict=True)
    return tuple(counts_of(*row) for row in rows)


def sum_counts(classes: Sequence[ClassCounts]) -> ClassCounts:
    """All classes as one: every object and every detection weighs the same (micro-averaged)."""
    rows = [(c.objects, c.detections, c.true_positives) for c in classes]
    return counts_of("all classes", *(sum(row[i] for row in rows) for i in range(3)))
