"""Random augmentation for training: flips, scale jitter, crops, mosaics and colour changes of images and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms.v2 import functional as F

from phidet.data.dataset import Annotations
from phidet.detections.masks import FIELD as MASKS
from phidet.detections.masks import Masks, nearest
from phidet.images.prepare import fit_scale, needed_to_fit, scaled_size
from phidet.training.augmentation.mask_tensors import FITS, UNKNOWN, sampled_masks, tightened
from phidet.training.augmentation.multi_scale import multi_scale
from phidet.training.augmentation.operations import GREY, Sample, move, rotate, shear
from phidet.training.augmentation.policies import apply_policy
from phidet.training.recipe import Augmentation


class Example(NamedTuple):
    """One image as it enters a batch.

    Attributes:
        pixels: (3, H, W) uint8.
        valid_hw: height and width of the part that is image; the rest, right and below, is padding.
        boxes_xyxy: (N, 4) float32 in pixels of the input.
        class_ids: (N,) int64.
        masks: (N, h, w) uint8, at a fraction of the size; see :mod:`phidet.training.augmentation.mask_tensors`;
            ``None`` where the network learns no masks.
        soft: (N, C) float32, probabilities of the classes that a teacher gave; ``None`` without one.
    """

    pixels: Tensor
    valid_hw: tuple[int, int]
    boxes_xyxy: Tensor
    class_ids: Tensor
    soft: Tensor | None = None
    masks: Tensor | None = None


class Labelled(NamedTuple):
    """A decoded image, (H, W, 3) RGB, and its objects."""

    image: npt.NDArray[np.uint8]
    annotations: Annotations


def needed_hw(image_hw: tuple[int, int], size_hw: tuple[int, int], settings: Augmentation) -> tuple[int, int]:
    """The least height and width at which an image of ``image_hw`` pixels may be decoded for :func:`augment` and
    :func:`mosaic`: as large as it may be resized to."""
    if settings.sizes == "multi-scale":
        return image_hw
    return needed_to_fit(image_hw, size_hw, max(settings.scale_jitter))


def augment(
    image: npt.NDArray[np.uint8],
    annotations: Annotations,
    size_hw: tuple[int, int],
    settings: Augmentation,
    rng: np.random.Generator,
    varying: bool = False,
) -> Example:
    """One image and its objects at random; the same ``rng`` state gives the same example.

    Crowd regions are no targets and are left out.

    Args:
        image: (H, W, 3) RGB.
        annotations: its objects.
        size_hw: the network's input in pixels.
        settings: which changes, how strong and how likely.
        rng: the random generator.
        varying: the input's size varies, ``size_hw`` being its limits: multi-scale examples are not padded.
    """
    sample = windowed(Labelled(image, annotations), size_hw, settings, rng, varying)
    return finish(sample, padded_hw(size_hw, settings, varying), settings, rng)


def windowed(
    labelled: Labelled,
    size_hw: tuple[int, int],
    settings: Augmentation,
    rng: np.random.Generator,
    varying: bool = False,
) -> Sample:
    """What the network sees of one image, before policy and colours; see :func:`augment`."""
    if settings.sizes == "multi-scale":
        return multi_scale(_sample(labelled), size_hw, settings, rng, varying)
    return _window(labelled, size_hw, size_hw, settings, rng)


def padded_hw(size_hw: tuple[int, int], settings: Augmentation, varying: bool) -> tuple[int, int] | None:
    """The size that examples are padded to; ``None`` where it varies."""
    return None if varying and settings.sizes == "multi-scale" else size_hw


def turned(sample: Sample, settings: Augmentation, rng: np.random.Generator) -> Sample:
    """The sample rotated and slanted by chance, up to the settings' ``rotate`` and ``shear``."""
    # Chance is only asked for what may happen, so that other runs stay what they were.
    if settings.rotate > 0:
        sample = rotate(sample, rng.uniform(-settings.rotate, settings.rotate))
    if settings.shear > 0:
        slopes = rng.uniform(-settings.shear, settings.shear, 2)
        sample = shear(shear(sample, slopes[0], 0.0), 0.0, slopes[1])
    return sample


def mosaic(
    images: Sequence[Labelled], size_hw: tuple[int, int], settings: Augmentation, rng: np.random.Generator
) -> Example:
    """Four images in one, otherwise as :func:`augment`; see :func:`joined`."""
    return finish(joined(images, size_hw, settings, rng), size_hw, settings, rng)


def joined(
    images: Sequence[Labelled], size_hw: tuple[int, int], settings: Augmentation, rng: np.random.Generator
) -> Sample:
    """Four images in one, around a point in the middle half of the input, before policy and colours.

    Each is resized as it would be by itself, so that objects keep their sizes; a quarter shows a window of it. Where an
    image is smaller than its quarter, the border of the input is grey.
    """
    split_y, split_x = (round(side * rng.uniform(0.25, 0.75)) for side in size_hw)
    pixels = torch.full((3, *size_hw), GREY, dtype=torch.uint8)
    boxes, class_ids, masks = [], [], []
    for image, (below, right) in zip(images, ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True):
        room = size_hw[0] - split_y if below else split_y, size_hw[1] - split_x if right else split_x
        part = _window(image, size_hw, room, settings, rng)
        # A part smaller than its quarter sits at the split point, so that the grey border is outside.
        height, width = part.pixels.shape[1:]
        top, left = split_y if below else split_y - height, split_x if right else split_x - width
        pixels[:, top : top + height, left : left + width] = part.pixels
        boxes.append(part.boxes_xyxy + part.boxes_xyxy.new_tensor([left, top, left, top]))
        class_ids.append(part.class_ids)
        if part.masks is not None:
            around = left, size_hw[1] - left - width, top, size_hw[0] - top - height
            masks.append(pad(part.masks, around))
    return Sample(pixels, torch.cat(boxes), torch.cat(class_ids), torch.cat(masks) if masks else None)


def _window(
    labelled: Labelled,
    size_hw: tuple[int, int],
    room_hw: tuple[int, int],
    settings: Augmentation,
    rng: np.random.Generator,
) -> Sample:
    """An image flipped, resized for an input of ``size_hw`` and cut to ``room_hw``."""
    image, annotations = labelled
    # Crowd regions have no single extent, so they cannot be targets; copies, as from_numpy shares memory.
    seen = annotations.take(~annotations.crowd)
    boxes, class_ids = torch.from_numpy(seen.boxes_xyxy.copy()), torch.from_numpy(seen.class_ids.copy())
    image_hw = image.shape[0], image.shape[1]
    flipped = rng.random() < settings.flip
    # Scale jitter (1911.09070, section 5.1): a random factor beyond fitting, then a random window.
    scale = fit_scale(image_hw, size_hw) * rng.uniform(*settings.scale_jitter)
    height, width = scaled_size(image_hw, scale)
    # Where the image is smaller than the window there is nothing to choose.
    top = int(rng.uniform() * max(height - room_hw[0], 0) + 0.5)
    left = int(rng.uniform() * max(width - room_hw[1], 0) + 0.5)

    def transform(image_or_boxes: Any) -> Any:
        resized = F.resize(image_or_boxes, [height, width], antialias=bool(settings.antialias))
        if flipped:  # not before resizing, which a photo of many megapixels would make slow
            resized = F.horizontal_flip(resized)
        return F.crop(resized, top, left, min(height, room_hw[0]), min(width, room_hw[1]))

    pixels = torch.from_numpy(image).permute(2, 0, 1)
    moved = move(Sample(pixels, boxes, torch.arange(len(boxes))), transform)
    kept = moved.class_ids.numpy()
    # Masks are read at the pixels that are seen, which costs less than to scale whole ones.
    rows, columns = nearest(image_hw[0], height), nearest(image_hw[1], width)[:: -1 if flipped else 1]
    masks = sampled_masks(seen.take(kept), rows[top : top + room_hw[0]], columns[left : left + room_hw[1]])
    if masks is not None:
        whole = seen.fields[MASKS]
        assert isinstance(whole, Masks)
        fitted = np.abs(whole.boxes_xyxy - seen.boxes_xyxy).max(1, initial=0)[kept] <= FITS
        moved = moved._replace(boxes_xyxy=tightened(moved.boxes_xyxy, masks, torch.from_numpy(fitted)), masks=masks)
    return moved._replace(class_ids=class_ids[moved.class_ids])


def _sample(labelled: Labelled) -> Sample:
    """The image as it is, with the objects that can be targets."""
    image, annotations = labelled
    seen = annotations.take(~annotations.crowd)
    height, width = image.shape[:2]
    masks = sampled_masks(seen, nearest(height, height), nearest(width, width))
    boxes, class_ids = torch.from_numpy(seen.boxes_xyxy.copy()), torch.from_numpy(seen.class_ids.copy())
    return Sample(torch.from_numpy(image).permute(2, 0, 1), boxes, class_ids, masks)


def finish(
    sample: Sample, size_hw: tuple[int, int] | None, settings: Augmentation, rng: np.random.Generator
) -> Example:
    """Policy, colours and grid mask on the visible part, then padding to ``size_hw``; none if that is ``None``."""
    # A resized image lies in memory as (H, W, 3); operations are faster on contiguous channels.
    sample = apply_policy(sample._replace(pixels=sample.pixels.contiguous()), settings, rng)
    pixels = sample.pixels
    if settings.colour > 0:
        pixels = _colour(pixels, settings.colour, rng)
    if settings.hue > 0:
        pixels = F.adjust_hue(pixels, rng.uniform(-settings.hue, settings.hue))
    if settings.grid_mask > 0 and rng.random() < settings.grid_mask:
        pixels = _grid_mask(pixels, rng)
    height, width = pixels.shape[1:]
    padded_hw = (height, width) if size_hw is None else size_hw
    masks = None if sample.masks is None else pad_masks(sample.masks, padded_hw)
    return Example(pad_to(pixels, padded_hw), (height, width), sample.boxes_xyxy, sample.class_ids, masks=masks)


def pad_masks(masks: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Masks (N, h, w) padded to ``size_hw``: with 0, those that are not known with what says so."""
    padded = pad_to(masks, size_hw).clone()
    # What was not known is not known about the parts that came in from outside the image either.
    padded[(masks == UNKNOWN).flatten(1).any(1)] = UNKNOWN
    return padded


def pad_to(pixels: Tensor, size_hw: tuple[int, int], fill: float = 0) -> Tensor:
    """(…, h, w) padded right and below with ``fill`` to ``size_hw``."""
    if tuple(pixels.shape[-2:]) == size_hw:
        return pixels
    return pad(pixels, (0, size_hw[1] - pixels.shape[-1], 0, size_hw[0] - pixels.shape[-2]), value=fill)


def _colour(pixels: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3)
    pixels = F.adjust_brightness(pixels, brightness)
    pixels = F.adjust_contrast(pixels, contrast)
    coloured: Tensor = F.adjust_saturation(pixels, saturation)
    return coloured


def _grid_mask(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """A grid of grey squares that hides a quarter of the image (arXiv 2001.04086); its period and phase are random."""
    # Squares are half a period wide, so a quarter of the area is hidden whatever the period.
    period = rng.uniform(1 / 8, 1 / 2) * min(pixels.shape[1:])
    rows, columns = ((torch.arange(side) / period + rng.uniform()) % 1 < 0.5 for side in pixels.shape[1:])
    return torch.where(rows[:, None] & columns, GREY, pixels).to(torch.uint8)
