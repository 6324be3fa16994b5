"""Activation maps: where in an image the evidence for a prediction lies."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor

from phidet.core.errors import ConfigError
from phidet.images.prepare import Preprocess


class ActivationMap(NamedTuple):
    """Where in an image the evidence for a prediction lies.

    Attributes:
        heat: (H, W) float32 of the image's size, 0…1; negative evidence is set to 0.
        label: the class.
        score: 0…1.
        box_xyxy: of a detection, in pixels of the image.
    """

    heat: npt.NDArray[np.float32]
    label: str
    score: float
    box_xyxy: tuple[float, float, float, float] | None = None


def check_point(point_xy: tuple[float, float], image: npt.NDArray[np.uint8]) -> None:
    """Raises ConfigError unless the point, in pixels, is inside the image (H, W, 3)."""
    height, width = image.shape[:2]
    x, y = point_xy
    if not (0 <= x < width and 0 <= y < height):
        raise ConfigError(f"the point {x:g},{y:g} is outside the image of {width}×{height} pixels (x,y)")


def normalised(pixels: Tensor, spec: Preprocess) -> Tensor:
    mean, std = (pixels.new_tensor(values)[:, None, None] for values in (spec.mean_rgb, spec.std_rgb))
    return (pixels - mean) / std


def heat_map(evidence: Tensor, image_hw: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Positive evidence resized to the image and scaled to 0…1."""
    # What speaks against the prediction is left out.
    positive = F.interpolate(evidence[None, None].float(), image_hw, mode="bilinear", antialias=True)[0, 0].clamp(min=0)
    heat: npt.NDArray[np.float32] = (positive / positive.max().clamp(min=1e-12)).numpy()
    return heat
