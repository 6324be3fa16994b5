"""The interface of a detector: :class:`phidet.Detector`, or a class of the user's own in its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from phidet.detections.detections import Detections
from phidet.detections.settings import PostprocessSettings


class SupportsDetect(Protocol):
    """Finds objects of ``class_names`` in batches of images."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    def detect(
        self, arrays: Sequence[npt.NDArray[np.uint8]], settings: PostprocessSettings | None = None
    ) -> list[Detections]:
        """The objects in each of a batch of images, (H, W, 3) uint8 RGB, in pixels of the image."""
