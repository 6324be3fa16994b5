"""What every measure asks of the detections that it is given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from phidet.data.dataset import Dataset
from phidet.errors import InputError
from phidet.results import Detections


def check_detections(dataset: Dataset, detections: Sequence[Detections]) -> None:
    """Does nothing if there are detections for every image, and all are numbers of known classes.

    Raises:
        InputError: another number of images, arrays that do not belong together, NaN, or an unknown class.
    """
    if len(detections) != len(dataset):
        raise InputError(
            f"expected detections for each of the {len(dataset)} images of {dataset.name!r}, got {len(detections)}: "
            "an image in which nothing is found has empty arrays"
        )
    classes = len(dataset.class_names)
    for i, (boxes, scores, class_ids) in enumerate(detections):
        count = len(scores)
        if boxes.shape != (count, 4) or scores.shape != (count,) or class_ids.shape != (count,):
            raise InputError(
                f"detections of image {i} ({dataset.names[i]}): expected boxes (N, 4), scores (N,), classes (N,), got "
                f"{boxes.shape}, {scores.shape}, {class_ids.shape}"
            )
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise InputError(
                f"detections of image {i} ({dataset.names[i]}) hold NaN or infinity: the network is broken; "
                "look at its weights or its training"
            )
        if count and not 0 <= class_ids.min() <= class_ids.max() < classes:
            raise InputError(
                f"detections of image {i} ({dataset.names[i]}) have classes {class_ids.min()}…{class_ids.max()}, "
                f"expected 0…{classes - 1}: does the model know the data's classes?"
            )
