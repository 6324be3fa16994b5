"""What every measure asks of the detections that it is given."""

from __future__ import annotations

from collections.abc import Sequence

from phidet.core.errors import InputError
from phidet.data.dataset import Dataset
from phidet.detections.detections import Detections


def check_detections(dataset: Dataset, detections: Sequence[Detections]) -> None:
    """Does nothing if there are detections for every image, and all are of known classes.

    Raises:
        InputError: another number of images, or an unknown class.
    """
    if len(detections) != len(dataset):
        raise InputError(
            f"expected detections for each of the {len(dataset)} images of {dataset.name!r}, got {len(detections)}: "
            "an image in which nothing is found has empty arrays"
        )
    classes = len(dataset.class_names)
    for i, found in enumerate(detections):
        if len(found) and found.class_ids.max() >= classes:
            raise InputError(
                f"detections of image {i} ({dataset.names[i]}) have classes "
                f"{found.class_ids.min()}…{found.class_ids.max()}, "
                f"expected 0…{classes - 1}: does the model know the data's classes?"
            )
