"""What a detector says about one image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Detections(NamedTuple):
    """The objects found in one image, best first.

    Attributes:
        boxes_xyxy: (N, 4) float32, pixels of the original image.
        scores: (N,) float32, 0…1.
        class_ids: (N,) int64, 0…C−1.
    """

    boxes_xyxy: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int64]
