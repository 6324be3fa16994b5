"""The confusion matrix of a detector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from phidet.data.dataset import Dataset
from phidet.detections.detections import Detections
from phidet.evaluation.matching import MATCHED, countable, match_all


def confusion_matrix(
    dataset: Dataset, detections: Sequence[Detections], min_score: float, min_iou: float = MATCHED
) -> npt.NDArray[np.int64]:
    """Counts of objects by true class (rows) and detected class (columns); the last row and column are the background.

    The last column counts objects that were missed, the last row detections where no object is. Boxes decide which
    detection belongs to which object, an object of its own class first; crowds and difficult objects are ignored.

    Args:
        dataset: with C classes.
        detections: one for each image.
        min_score: detections with a lower score are ignored; see :func:`~phidet.evaluation.curves.best_threshold`.
        min_iou: the overlap with which a detection belongs to an object, 0…1.

    Returns:
        (C + 1, C + 1); row c sums up to the objects of class c.

    Raises:
        InputError: the detections do not belong to the data set.
    """
    background = len(dataset.class_names)
    size = background + 1
    # Each event becomes the flat index row · size + column, so that one bincount at the end fills the matrix.
    cells = [np.zeros(0, np.int64)]
    for found, truth, (objects, ignored, _) in match_all(
        dataset, detections, min_score, across_classes=True, min_iou=min_iou
    ):
        # A detection on a difficult object or a crowd, and such an object that is missed, are in no cell.
        hit = objects >= 0
        missed = countable(truth)
        missed[objects[hit]] = False
        cells.append(truth.class_ids[objects[hit]] * size + found.class_ids[hit])
        cells.append(truth.class_ids[missed] * size + background)
        cells.append(background * size + found.class_ids[~hit & ~ignored])
    return np.bincount(np.concatenate(cells), minlength=size**2).reshape(size, size).astype(np.int64)
