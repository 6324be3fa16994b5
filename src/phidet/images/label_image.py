"""Images whose values are labels: ids of instances or of classes, masks, COCO's panoptic colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from phidet.images.decoders import UnsupportedImageError, open_image


def palette_colour(number: int) -> tuple[int, int, int]:
    """RGB of a number in VOC's palette: its bits, the lowest first, become the highest bits of R, G, B in turn."""
    red = green = blue = 0
    for bit in range(7, -1, -1):
        red, green, blue = (c | (number >> i & 1) << bit for i, c in enumerate((red, green, blue)))
        number >>= 3
    return red, green, blue


PALETTE = bytes(value for number in range(256) for value in palette_colour(number))
"""Of label images of 8 bits: numbers that lie side by side have colours that do not."""
_LOSSY = frozenset({"JPEG", "MPO", "HEIF", "AVIF"})


def read_label_image(source: Path | bytes) -> npt.NDArray[np.int32]:
    """(H, W) int32, the values as they are stored: of a palette the indices, of colours R + 256 G + 256² B.

    Raises:
        InputError: it is missing, no image that is read, or of a format that changes values.
    """
    return open_image(source, _values)


def _values(image: Image.Image) -> npt.NDArray[np.int32]:
    if image.format in _LOSSY:
        raise UnsupportedImageError(f"holds labels in lossy {image.format}, which changes them: save them as PNG")
    # No conversion: it would look a palette's indices up, or scale 16 bits to 8.
    values = np.asarray(image)
    if values.ndim == 3 and values.shape[2] >= 3:
        red, green, blue = (values[..., i].astype(np.int32) for i in range(3))
        return red + 256 * green + 65_536 * blue
    grey = values if values.ndim == 2 else values[..., 0]  # the second channel is opacity
    return grey.astype(np.int32)
