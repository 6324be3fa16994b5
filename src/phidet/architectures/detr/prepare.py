"""From an image to DETR's input, as the official evaluation does it: Pillow's bilinear resizing, which antialiases."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from phidet.architectures.detr.config import DetrConfig
from phidet.architectures.prepared import Placement, Prepared
from phidet.images.prepare import antialiased, fit_scale, scaled_size, shorter_side_size


def resized_hw(image_hw: tuple[int, int], config: DetrConfig) -> tuple[int, int]:
    """Height and width that an image of ``image_hw`` pixels has in the input, without padding."""
    if config.input_size == "fixed":
        return scaled_size(image_hw, fit_scale(image_hw, config.image_size_hw))
    return shorter_side_size(image_hw, min(config.image_size_hw), max(config.image_size_hw))


def prepare_image(image: npt.NDArray[np.uint8], config: DetrConfig) -> Prepared:
    """(H, W, 3) RGB as input; padded right and below only where the input's size is fixed."""
    image_hw = image.shape[0], image.shape[1]
    height, width = resized_hw(image_hw, config)
    resized = image
    if (height, width) != image_hw:
        resized = antialiased(image, (height, width))
    size_hw = config.image_size_hw if config.input_size == "fixed" else (height, width)
    padded = np.zeros((3, *size_hw), np.float32)
    inside = padded[:, :height, :width]
    inside[:] = resized.transpose(2, 0, 1)
    # In place, in the part that is image: padding stays 0, as in training.
    inside -= np.array(config.preprocess.mean_rgb, np.float32)[:, None, None]
    inside /= np.array(config.preprocess.std_rgb, np.float32)[:, None, None]
    return Prepared(padded, Placement(height / image_hw[0], image_hw), (height, width))
