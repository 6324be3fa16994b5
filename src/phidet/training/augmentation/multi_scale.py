"""Images in several sizes, some of them cropped first, as the official DETR trains on them.

Sizes are shares of the input, so that they mean the same for any: at 800 pixels these are 480, 512 … 800 for images,
400, 500 and 600 for those to be cropped, and 384 to 600 for the sides of a crop.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from phidet.detections.masks import nearest
from phidet.images.prepare import fit_scale, scaled_size, shorter_side_size
from phidet.training.augmentation.operations import Sample
from phidet.training.recipe import Augmentation

SCALES = tuple(0.6 + 0.04 * i for i in range(11))
CROP_SCALES = (0.5, 0.625, 0.75)
CROP_SIDES = (0.48, 0.75)


def multi_scale(
    sample: Sample, size_hw: tuple[int, int], settings: Augmentation, rng: np.random.Generator, varying: bool
) -> Sample:
    """The sample flipped, cropped and resized at random.

    Args:
        sample: a whole image.
        size_hw: the network's input in pixels.
        settings: ``flip`` and ``crop`` are probabilities.
        rng: the random generator.
        varying: ``size_hw`` limits the shorter and the longer side, however the image lies; otherwise images are fitted
            into it.
    """
    flipped, cropped = rng.random() < settings.flip, rng.random() < settings.crop
    if cropped:
        share = float(rng.choice(CROP_SCALES))
        least, most = (round(side * min(size_hw)) for side in CROP_SIDES)
        sample = resize(sample, _resized_hw(sample, size_hw, share, varying, longest=False))
        height, width = sample.pixels.shape[1:]
        # As the official code: each side by itself, between fixed limits that the image may undercut.
        crop_w = int(rng.integers(min(least, width), min(width, most) + 1))
        crop_h = int(rng.integers(min(least, height), min(height, most) + 1))
        top, left = int(rng.integers(height - crop_h + 1)), int(rng.integers(width - crop_w + 1))
        sample = crop(sample, (top, left), (crop_h, crop_w))
    sample = resize(sample, _resized_hw(sample, size_hw, float(rng.choice(SCALES)), varying))
    return flip(sample) if flipped else sample  # last, where the image is smallest


def resize(sample: Sample, size_hw: tuple[int, int]) -> Sample:
    """The sample in another size, with antialiasing; boxes follow each axis by itself."""
    height, width = sample.pixels.shape[1:]
    if (height, width) == size_hw:
        return sample
    pixels: Tensor = F.resize(sample.pixels, list(size_hw), antialias=True)
    y, x = size_hw[0] / height, size_hw[1] / width
    masks = sample.masks
    if masks is not None:
        rows, columns = nearest(height, size_hw[0]), nearest(width, size_hw[1])
        masks = masks[:, torch.from_numpy(rows)][:, :, torch.from_numpy(columns)]
    return sample._replace(pixels=pixels, boxes_xyxy=sample.boxes_xyxy * torch.tensor([x, y, x, y]), masks=masks)


def crop(sample: Sample, top_left: tuple[int, int], size_hw: tuple[int, int]) -> Sample:
    """A part of the sample; of an object stays what is in it, however little."""
    (top, left), (height, width) = top_left, size_hw
    moved = sample.boxes_xyxy - torch.tensor([left, top, left, top])
    inside = moved.clamp(min=0).minimum(torch.tensor([width, height, width, height]))
    kept = (inside[:, 2:] > inside[:, :2]).all(1)
    pixels = sample.pixels[:, top : top + height, left : left + width]
    masks = None if sample.masks is None else sample.masks[kept, top : top + height, left : left + width]
    return Sample(pixels, inside[kept], sample.class_ids[kept], masks)


def flip(sample: Sample) -> Sample:
    """The sample mirrored left to right."""
    width = sample.pixels.shape[2]
    x1, y1, x2, y2 = sample.boxes_xyxy.unbind(1)
    boxes = torch.stack([width - x2, y1, width - x1, y2], 1)
    masks = None if sample.masks is None else sample.masks.flip(2)
    return sample._replace(pixels=sample.pixels.flip(2), boxes_xyxy=boxes, masks=masks)


def _resized_hw(
    sample: Sample, size_hw: tuple[int, int], share: float, varying: bool, longest: bool = True
) -> tuple[int, int]:
    """Height and width of the sample as it is resized to a share of the input."""
    image_hw = sample.pixels.shape[1], sample.pixels.shape[2]
    if not varying:
        return scaled_size(image_hw, fit_scale(image_hw, size_hw) * share)
    return shorter_side_size(image_hw, round(min(size_hw) * share), max(size_hw) if longest else None)
