"""From an image to the network's input and back: one specification for training, evaluation and deployment.

As the official evaluation: normalise, resize bilinearly (without antialiasing) so that the image fits into the input,
keeping its aspect, and pad right and below with zeros.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from phidet.config import Preprocess


def fit_scale(image_hw: tuple[int, int], size_hw: tuple[int, int]) -> float:
    """The factor that makes an image of ``image_hw`` pixels just fit into ``size_hw``."""
    return min(size_hw[0] / image_hw[0], size_hw[1] / image_hw[1])


def scaled_size(image_hw: tuple[int, int], scale: float) -> tuple[int, int]:
    """Height and width of the resized image, whole pixels, cut off as in the official code, at least 1."""
    # The small term undoes what division lost: 480 · (512 / 640) is 384, whatever floating point makes of it.
    return max(1, int(image_hw[0] * scale + 1e-6)), max(1, int(image_hw[1] * scale + 1e-6))


def resize(image: npt.NDArray[np.uint8], size_hw: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Bilinear, pixel centres at ½, without antialiasing, as ``tf.image.resize``: (H, W, C) → (h, w, C) float32."""
    height, width = image.shape[:2]
    top, bottom, y = _neighbours(height, size_hw[0])
    left, right, x = _neighbours(width, size_hw[1])
    rows = image[top].astype(np.float32)
    rows += (image[bottom] - rows) * y[:, None, None]  # first the axis whose memory is contiguous
    resized: npt.NDArray[np.float32] = rows[:, left]
    resized += (rows[:, right] - resized) * x[None, :, None]
    return resized


def prepare(
    image: npt.NDArray[np.uint8], size_hw: tuple[int, int], spec: Preprocess
) -> tuple[npt.NDArray[np.float32], float]:
    """One image as the network wants it.

    Args:
        image: (H, W, 3) RGB.
        size_hw: the network's input in pixels.
        spec: mean and standard deviation.

    Returns:
        (3, h, w) float32 with (h, w) = ``size_hw``, and the scale: pixels of the input per pixel of the image. Boxes
        found in the input, divided by it, are boxes in the image.
    """
    image_hw = image.shape[0], image.shape[1]
    scale = fit_scale(image_hw, size_hw)
    height, width = scaled_size(image_hw, scale)
    pixels = image.astype(np.float32) if image_hw == (height, width) else resize(image, (height, width))
    pixels -= np.array(spec.mean_rgb, np.float32)
    pixels /= np.array(spec.std_rgb, np.float32)
    padded = np.zeros((3, *size_hw), np.float32)
    padded[:, :height, :width] = pixels.transpose(2, 0, 1)
    return padded, scale


def _neighbours(
    length: int, wanted: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """For each new pixel: the two old ones beside it and the weight of the second."""
    centres = np.clip((np.arange(wanted) + 0.5) * (length / wanted) - 0.5, 0, length - 1)
    first = np.floor(centres).astype(np.int64)
    return first, np.minimum(first + 1, length - 1), (centres - first).astype(np.float32)
