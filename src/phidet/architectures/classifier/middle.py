"""The centre crop on which a classifier is evaluated."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from phidet.architectures.classifier.config import ClassifierConfig

_BORDER = 32  # pixels that ImageNet's evaluation crops off an input's side (1905.11946, official code)


def middle(image: npt.NDArray[np.uint8], size_hw: tuple[int, int]) -> Tensor:
    """(H, W, 3) → (3, h, w) uint8: the largest window of the input's shape in the middle, without a border."""
    height, width = image.shape[:2]
    # ImageNet's evaluation resizes to a side that is 32 pixels longer, and crops. Both in one: a window of the image,
    # resized.
    side = min(height / (size_hw[0] + _BORDER), width / (size_hw[1] + _BORDER))
    window = max(1, round(side * size_hw[0])), max(1, round(side * size_hw[1]))
    return cut(image, ((height - window[0]) // 2, (width - window[1]) // 2), window, size_hw)


def cut(
    image: npt.NDArray[np.uint8], corner: tuple[int, int], window: tuple[int, int], size_hw: tuple[int, int]
) -> Tensor:
    """(H, W, 3) → (3, h, w) uint8: the window at ``corner`` (top, left), resized bicubically."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    bicubic = InterpolationMode.BICUBIC
    cut: Tensor = F.resized_crop(pixels, *corner, *window, list(size_hw), interpolation=bicubic, antialias=True)
    return cut


def classifier_input(image: npt.NDArray[np.uint8], config: ClassifierConfig) -> Tensor:
    """(H, W, 3) RGB → (3, h, w) float32, the centre crop for a classifier of ``config``."""
    pixels = middle(image, config.image_size_hw).float()
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (config.preprocess.mean_rgb, config.preprocess.std_rgb)
    )
    return (pixels - mean) / std
