"""An evaluation's tables as CSV, for spreadsheets: classes.csv and confusion.csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from phidet.core.csv_files import write_csv
from phidet.evaluation.class_counts import ClassCounts
from phidet.evaluation.measure import Evaluation

_COLUMNS = (
    *("objects", "detections", "true_positives", "false_positives", "false_negatives"),
    *("precision", "recall", "f1"),
)


def write_tables(folder: Path, evaluation: Evaluation) -> list[Path]:
    """Writes ``classes.csv``, with a last row for all classes, and ``confusion.csv``; returns their paths.

    Raises:
        PhidetError: a file cannot be written.
    """
    names = [counts.name for counts in evaluation.classes]
    coco, masks = evaluation.coco, evaluation.masks
    columns: dict[str, list[object]] = {
        "ap": [*(c.ap for c in coco.classes), coco.ap],
        "ap50": [*(c.ap50 for c in coco.classes), coco.ap50],
    }
    if evaluation.thresholds is not None:
        columns["threshold"] = [*evaluation.thresholds.scores, None]
    if masks is not None and masks.coco is not None:
        # Beside those of boxes: a class whose boxes are good and masks are not is what people look for here.
        columns["mask_ap"] = [*(c.ap for c in masks.coco.classes), masks.coco.ap]
        columns["mask_ap50"] = [*(c.ap50 for c in masks.coco.classes), masks.coco.ap50]
    if masks is not None:
        columns["pixel_iou"] = [*masks.semantic.ious.values(), masks.semantic.miou]
    if masks is not None and masks.panoptic is not None:
        columns["pq"] = [*(c.pq for c in masks.panoptic.classes), masks.panoptic.all.pq]
    return [
        write_classes(folder / "classes.csv", [*evaluation.classes, evaluation.all_classes], columns),
        write_confusion(folder / "confusion.csv", np.array(evaluation.confusion, np.int64), names),
    ]


def write_classes(
    path: Path, classes: Sequence[ClassCounts], others: Mapping[str, Sequence[object]] = MappingProxyType({})
) -> Path:
    """Writes counts, precision, recall and F1, a row for each class; ``others`` are further columns by their names.

    Raises:
        PhidetError: the file cannot be written.
    """
    rows = [
        [counts.name, *(getattr(counts, key) for key in _COLUMNS), *(column[i] for column in others.values())]
        for i, counts in enumerate(classes)
    ]
    return write_csv(path, ("class", *_COLUMNS, *others), rows)


def write_confusion(path: Path, matrix: npt.NDArray[np.int64], class_names: Sequence[str]) -> Path:
    """Writes a matrix with the names of its rows (true classes) and columns (predicted classes).

    Args:
        path: the CSV file.
        matrix: (C, C) of a classifier, or (C + 1, C + 1) of a detector, whose last row and column are the background.
        class_names: of all C classes.

    Raises:
        PhidetError: the file cannot be written.
    """
    detector = len(matrix) > len(class_names)
    rows, columns = ([*class_names, *([last] if detector else [])] for last in ("(background)", "(missed)"))
    return write_csv(path, ("class", *columns), ((name, *row) for name, row in zip(rows, matrix.tolist(), strict=True)))
