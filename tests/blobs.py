"""A detector for tests: it finds what is painted red ("person") and blue ("dog"), exactly, at any size of image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from phidet.core.errors import InputError
from phidet.detections.detections import Detections
from phidet.detections.settings import PostprocessSettings

Pixels = npt.NDArray[np.uint8]
NAMES = ("person", "dog")
COLOURS = ((230, 20, 20), (20, 20, 230))
RED, BLUE = range(2)
Box = tuple[int, int, int, int]


def painted(height: int, width: int, *objects: tuple[Box, int]) -> Pixels:
    """A grey image with a rectangle for each object; at most one of each class, for the detector to tell apart."""
    image = np.full((height, width, 3), 120, np.uint8)
    for (x1, y1, x2, y2), class_id in objects:
        image[y1:y2, x1:x2] = COLOURS[class_id]
    return image


class BlobDetector:
    """In the place of :class:`phidet.Detector`."""

    class_names = NAMES

    def __init__(self, model: Any = "person", *, runtime: str = "auto", threads: int | None = None) -> None:
        self.model = model
        self.batches: list[int] = []

    def detect(self, arrays: Sequence[Pixels], settings: PostprocessSettings | None = None) -> list[Detections]:
        self.batches.append(len(arrays))
        return [self._one(array, settings or PostprocessSettings()) for array in arrays]

    def close(self) -> None:
        """Nothing to give back."""

    def _one(self, image: Pixels, settings: PostprocessSettings) -> Detections:
        if image.shape == (13, 13, 3):  # what no real detector does: an image that it refuses
            raise InputError("expected a luckier picture")
        boxes, class_ids = [], []
        for class_id, colour in enumerate(COLOURS):
            near = np.abs(image.astype(np.int16) - np.array(colour, np.int16)).max(axis=-1) < 60
            if near.any():
                rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
                boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
                class_ids.append(class_id)
        scores = np.array([0.9, 0.6], np.float32)[class_ids]
        found = Detections(
            np.array(boxes, np.float32).reshape(-1, 4), scores, np.array(class_ids, np.int64), NAMES, image.shape[:2]
        )
        return found.filter(settings.score, settings.classes)[: settings.max_detections]
