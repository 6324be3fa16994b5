"""Images as network input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from phidet.detections.boxes import FloatArray

INPUT_NAMES = ("images", "valid_hw")
"""Of a network's inputs in exported files, in order; the second one is there only where the network takes it."""


class Placement(NamedTuple):
    """The position and scale of an image in the network's input.

    Attributes:
        scale: pixels of the input per pixel of the image.
        image_hw: of the original image.
    """

    scale: float
    image_hw: tuple[int, int]

    def enlarged(self, factor: int, image_hw: tuple[int, int]) -> Placement:
        """Of the whole image of ``image_hw`` pixels, where this is of one decoded ``factor`` times smaller."""
        return Placement(self.scale / factor, image_hw)


class Prepared(NamedTuple):
    """An image as network input.

    Attributes:
        image: (3, H, W) float32.
        placement: where the original lies in it.
        valid_hw: height and width of the part that is image; the rest, right and below, is padding. ``None`` where
            the network does not ask for it.
    """

    image: FloatArray
    placement: Placement
    valid_hw: tuple[int, int] | None = None


def stacked(prepared: Sequence[Prepared]) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Images of one size as a batch, (B, 3, H, W) float32, and their sizes without padding, (B, 2) int64."""
    # A single image, the usual case, needs no copy: indexing with None makes a view.
    first = prepared[0].image
    images = first[None] if len(prepared) == 1 else np.stack([one.image for one in prepared])
    return images, np.array([one.valid_hw or one.image.shape[1:] for one in prepared], np.int64)


def by_shape(shapes: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Indices of images in groups of one shape, for networks whose input varies in size.

    Only these go through a network together, so that what is found in an image never depends on the others.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, shape in enumerate(shapes):
        groups.setdefault(tuple(shape), []).append(i)
    return list(groups.values())
