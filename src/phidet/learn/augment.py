"""What the network sees in training: an image flipped, resized, cut and coloured at random, boxes alike."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as colours

from phidet.data.dataset import Annotations
from phidet.learn.recipe import Augmentation
from phidet.preprocess import fit_scale, scaled_size

MIN_VISIBLE = 0.2  # of a box's area; what is left of an object below that cannot be told from background
MIN_SIDE = 1.0  # pixels of the input


class Example(NamedTuple):
    """One image as it enters a batch.

    Attributes:
        pixels: (3, H, W) uint8.
        valid_hw: height and width of the part that is image; the rest, right and below, is padding.
        boxes_xyxy: (N, 4) float32 in pixels of the input.
        class_ids: (N,) int64.
    """

    pixels: Tensor
    valid_hw: tuple[int, int]
    boxes_xyxy: Tensor
    class_ids: Tensor


def augment(
    image: npt.NDArray[np.uint8],
    annotations: Annotations,
    size_hw: tuple[int, int],
    settings: Augmentation,
    rng: np.random.Generator,
) -> Example:
    """One image and its objects at random; the same ``rng`` state gives the same example.

    Crowd regions are no targets and are left out.

    Args:
        image: (H, W, 3) RGB.
        annotations: its objects.
        size_hw: the network's input in pixels.
        settings: what may happen.
        rng: the source of chance.
    """
    real = ~annotations.crowd
    boxes = torch.from_numpy(annotations.boxes_xyxy[real].copy())
    class_ids = torch.from_numpy(annotations.class_ids[real].copy())
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    if rng.random() < settings.flip:
        pixels, boxes = _flip(pixels, boxes)
    pixels, boxes, kept = _resize_and_cut(pixels, boxes, size_hw, settings.scale_jitter, rng)
    if settings.colour > 0:
        pixels = _colour(pixels, settings.colour, rng)
    height, width = pixels.shape[1:]
    padded = torch.zeros(3, *size_hw, dtype=torch.uint8)
    padded[:, :height, :width] = pixels
    return Example(padded, (height, width), boxes, class_ids[kept])


def _flip(pixels: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    width = pixels.shape[2]
    x1, y1, x2, y2 = boxes.unbind(1)
    return pixels.flip(2), torch.stack((width - x2, y1, width - x1, y2), 1)


def _resize_and_cut(
    pixels: Tensor, boxes: Tensor, size_hw: tuple[int, int], jitter: tuple[float, float], rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Scale jitter (1911.09070, section 5.1): resize by a random factor, then a random window of the input's size.

    Returns:
        The window without padding, its boxes, and which of the boxes are in it, (N,) bool.
    """
    image_hw = (pixels.shape[1], pixels.shape[2])
    scale = fit_scale(image_hw, size_hw) * rng.uniform(*jitter)
    height, width = scaled_size(image_hw, scale)
    top = int(rng.uniform() * max(height - size_hw[0], 0) + 0.5)
    left = int(rng.uniform() * max(width - size_hw[1], 0) + 0.5)
    resized = F.interpolate(pixels[None], (height, width), mode="bilinear", align_corners=False)[0]
    window = resized[:, top : top + size_hw[0], left : left + size_hw[1]]

    ratio = boxes.new_tensor(
        [width / image_hw[1], height / image_hw[0]] * 2
    )  # sides are whole pixels, so not ``scale``
    moved = boxes * ratio - boxes.new_tensor([left, top, left, top])
    limits = moved.new_tensor([window.shape[2], window.shape[1]] * 2)
    inside = moved.clamp(min=0).minimum(limits)
    sides, whole = inside[:, 2:] - inside[:, :2], moved[:, 2:] - moved[:, :2]
    kept = (sides.min(1).values >= MIN_SIDE) & (sides.prod(1) >= MIN_VISIBLE * whole.prod(1))
    return window, inside[kept], kept


def _colour(pixels: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3)
    pixels = colours.adjust_brightness(pixels, brightness)
    pixels = colours.adjust_contrast(pixels, contrast)
    coloured: Tensor = colours.adjust_saturation(pixels, saturation)
    return coloured
