"""Metrics of a classifier: accuracy, confusion matrix, precision and recall."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from phidet.data.summary import DataSummary
from phidet.evaluation.class_counts import ClassCounts, counts_of


class ClassificationReport(msgspec.Struct, frozen=True, kw_only=True):
    """Metrics of a classifier on labelled images.

    Attributes:
        images: number of images.
        top1: share whose best class is the right one; ``None`` without images.
        top5: share whose right class is among the best five.
        per_class: top-1 of the images of each class, by name; ``None`` where there are none.
        confusion: row by row the images of each class by predicted class.
        classes: counts, precision, recall (as ``per_class``) and F1 of the top-1 predictions, class by class.
        summary: what is in the data, and what was left out of them; ``None`` where the data are not known.
        trained_on: images that the model has learned from; ``None`` where that is not known.
    """

    images: int
    top1: float | None
    top5: float | None
    per_class: dict[str, float | None]
    confusion: list[list[int]]
    classes: tuple[ClassCounts, ...]
    summary: DataSummary | None = None
    trained_on: int | None = None


def classification_report(
    class_ids: npt.NDArray[np.int64], ranked: npt.NDArray[np.int64], class_names: Sequence[str]
) -> ClassificationReport:
    """Metrics from true and predicted classes.

    Args:
        class_ids: (N,), the true classes.
        ranked: (N, K), the predicted classes, best first; K is 5, or the number of classes where that is less.
        class_names: of all C classes.
    """
    count = len(class_names)
    # Each class stands once in a row of ``ranked``, so that a row has one hit at most.
    hits = ranked == class_ids[:, None]
    confusion = np.zeros((count, count), np.int64)
    # add.at, since a plain += counts repeated index pairs only once.
    np.add.at(confusion, (class_ids, ranked[:, 0]), 1)
    totals, answers, right = confusion.sum(1), confusion.sum(0), confusion.diagonal()
    counts = zip(class_names, totals.tolist(), answers.tolist(), right.tolist(), strict=True)
    return ClassificationReport(
        images=len(class_ids),
        top1=float(hits[:, 0].mean()) if len(hits) else None,
        top5=float(hits[:, :5].any(1).mean()) if len(hits) else None,
        per_class={name: float(r / n) if n else None for name, r, n in zip(class_names, right, totals, strict=True)},
        confusion=confusion.tolist(),
        classes=tuple(counts_of(*row) for row in counts),
    )
