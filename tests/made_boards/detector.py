"""A detector for tests, in the place of :class:`phidet.Detector`: it knows the made images that it is shown."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from made_boards.board import CLASSES
from made_boards.nominal import as_detections
from made_boards.observing import ClutterShares, observe
from made_boards.scene import Scene
from phidet.detections.detections import Detections
from phidet.detections.settings import PostprocessSettings

Pixels = npt.NDArray[np.uint8]


class TruthDetector:
    """Finds the parts of images that were shown to :meth:`learn`, with boxes as inexact as it is told.

    Attributes:
        class_names: of made parts.
        clutter: quality of its detections.
    """

    class_names = CLASSES

    def __init__(self, clutter: ClutterShares) -> None:
        self.clutter = clutter
        self._scenes: dict[str, Scene] = {}

    def __call__(self, model: Any, *, runtime: str = "auto", threads: int | None = None) -> TruthDetector:
        """As the constructor of a detector; whatever the model, it is this one."""
        return self

    def learn(self, pixels: Pixels, scene: Scene) -> None:
        """Makes an image known."""
        self._scenes[_key(pixels)] = scene

    def detect(self, arrays: Sequence[Pixels], settings: PostprocessSettings | None = None) -> list[Detections]:
        """Boxes of known images, none of others."""
        return [self._detect(pixels) for pixels in arrays]

    def _detect(self, pixels: Pixels) -> Detections:
        size_hw = pixels.shape[0], pixels.shape[1]
        scene = self._scenes.get(_key(pixels))
        if scene is None:
            return Detections.empty(CLASSES, size_hw)
        # The same boxes each time that the image is seen, others for other images.
        return as_detections(observe(scene, int(_key(pixels)[:7], 16), self.clutter), size_hw)


def _key(pixels: Pixels) -> str:
    return hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=8).hexdigest()
