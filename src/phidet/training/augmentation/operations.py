"""Operations of augmentation policies: on an image and its boxes, at a level from 0 to 10.

Arguments as in the official EfficientDet (arXiv 1906.11172). Lengths there are pixels of COCO's images, whose longer
side is 640; here they are shares of the longer side, so that they mean the same at any size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from phidet.training.augmentation.mask_tensors import fit_boxes, tightened

MIN_VISIBLE = 0.2  # of a box's area; what is left of an object below that is indistinguishable from background
MIN_SIDE = 1.0  # pixels of the input
GREY = 128  # of pixels that nothing is known about
LARGEST_LEVEL = 10.0
_COCO_SIDE = 640
_TRANSLATE, _CUTOUT = 250 / _COCO_SIDE, 100 / _COCO_SIDE  # of the longer side, at the largest level
_TRANSLATE_IN_BOXES, _CUTOUT_IN_BOXES = 120 / _COCO_SIDE, 50 / _COCO_SIDE
_SHEAR, _ROTATE, _BOX_CUTOUT = 0.3, 30.0, 0.75  # the slope, degrees, of a box's sides

# Boxes are not clamped to the image on the way: how much of a box is left says whether it is kept. torchvision before
# 0.23 always clamps, so that with it every object stays of which a pixel is left.
_CAN_STAY_UNCLAMPED = "clamping_mode" in signature(tv_tensors.BoundingBoxes.__new__).parameters
_UNCLAMPED: dict[str, Any] = {"clamping_mode": None} if _CAN_STAY_UNCLAMPED else {}


class Sample(NamedTuple):
    """An image on its way through augmentation.

    Attributes:
        pixels: (3, H, W) uint8, not to be written to.
        boxes_xyxy: (N, 4) float32 in its pixels, inside it.
        class_ids: (N,) int64.
        masks: (N, H, W) uint8, see :mod:`phidet.training.augmentation.mask_tensors`; ``None`` where only boxes matter.
    """

    pixels: Tensor
    boxes_xyxy: Tensor
    class_ids: Tensor
    masks: Tensor | None = None

    @property
    def longer_side(self) -> int:
        """In pixels."""
        return max(self.pixels.shape[1:])


Operation = Callable[[Sample, float, np.random.Generator], Sample]
"""What happens to a sample at a level, by chance where there is a choice."""


def place(pixels: Tensor, moved_xyxy: Tensor, class_ids: Tensor, masks: Tensor | None = None) -> Sample:
    """A sample of (N, 4) boxes that may reach out of the image: cut at its border, left out where little remains."""
    limits = moved_xyxy.new_tensor([pixels.shape[2], pixels.shape[1]] * 2)
    # The share that is left is measured against the whole moved box, which is why it was not clamped before.
    inside = moved_xyxy.clamp(min=0).minimum(limits)
    sides, whole = inside[:, 2:] - inside[:, :2], moved_xyxy[:, 2:] - moved_xyxy[:, :2]
    kept = (sides.min(1).values >= MIN_SIDE) & (sides.prod(1) >= MIN_VISIBLE * whole.prod(1))
    return Sample(pixels, inside[kept], class_ids[kept], None if masks is None else masks[kept])


def move(sample: Sample, transform: Callable[[Any], Any]) -> Sample:
    """The sample after a geometric transform of torchvision, called with image, boxes and masks."""
    # Image and boxes go through the same torchvision call, so that their geometry cannot drift apart.
    pixels: Tensor = transform(sample.pixels)
    if not len(sample.boxes_xyxy):
        return sample._replace(
            pixels=pixels, masks=None if sample.masks is None else pixels.new_zeros(0, *pixels.shape[1:])
        )
    canvas = sample.pixels.shape[1], sample.pixels.shape[2]
    boxes = tv_tensors.BoundingBoxes(sample.boxes_xyxy, format="XYXY", canvas_size=canvas, **_UNCLAMPED)
    moved = transform(boxes).as_subclass(Tensor)
    if sample.masks is None:
        return place(pixels, moved, sample.class_ids)
    masks = transform(tv_tensors.Mask(sample.masks)).as_subclass(Tensor)
    placed = place(pixels, moved, torch.arange(len(moved)), masks)
    assert placed.masks is not None
    kept = placed.class_ids
    fitted = fit_boxes(sample.masks, sample.boxes_xyxy)[kept]
    boxes_xyxy = tightened(placed.boxes_xyxy, placed.masks, fitted)
    return placed._replace(boxes_xyxy=boxes_xyxy, class_ids=sample.class_ids[kept])


# ---- pixels alone


def _colours(change: Callable[[Tensor, float], Tensor]) -> Operation:
    return lambda sample, level, rng: sample._replace(pixels=change(sample.pixels, level))


def _factor(level: float) -> float:
    return level / LARGEST_LEVEL * 1.8 + 0.1


def _posterize(pixels: Tensor, level: float) -> Tensor:
    bits = max(1, int(level / LARGEST_LEVEL * 4))  # TensorFlow's shift by 8 bits leaves one as well
    poster: Tensor = F.posterize(pixels, bits)
    return poster


def _solarize(pixels: Tensor, level: float) -> Tensor:
    threshold = int(level / LARGEST_LEVEL * 256)
    inverted: Tensor = F.solarize(pixels, threshold) if threshold <= 255 else pixels
    return inverted


def _solarize_add(pixels: Tensor, level: float) -> Tensor:
    added = pixels.clamp(max=127) + int(level / LARGEST_LEVEL * 110)  # 127 + 110 stays below 256
    return torch.where(pixels < 128, added, pixels)


def _erase(pixels: Tensor, centre_xy: tuple[float, float], half_wh: tuple[float, float]) -> Tensor:
    """``pixels`` with a grey rectangle, as much of it as is inside."""
    height, width = pixels.shape[1:]
    x1, x2 = (min(max(int(centre_xy[0] + s * half_wh[0]), 0), width) for s in (-1, 1))
    y1, y2 = (min(max(int(centre_xy[1] + s * half_wh[1]), 0), height) for s in (-1, 1))
    erased: Tensor = F.erase(pixels, y1, x1, y2 - y1, x2 - x1, torch.tensor(GREY, dtype=torch.uint8))
    return erased


def _erase_square(pixels: Tensor, half: float, rng: np.random.Generator) -> Tensor:
    """A grey square at a random place (arXiv 1708.04552)."""
    height, width = pixels.shape[1:]
    return _erase(pixels, (rng.uniform(0, width), rng.uniform(0, height)), (half, half))


def _cutout(sample: Sample, level: float, rng: np.random.Generator) -> Sample:
    half = level / LARGEST_LEVEL * _CUTOUT * sample.longer_side
    return sample._replace(pixels=_erase_square(sample.pixels, half, rng))


def _box_cutout(sample: Sample, level: float, rng: np.random.Generator) -> Sample:
    """A grey rectangle about a point in one of the boxes, in proportion to that box."""
    if not len(sample.boxes_xyxy):
        return sample
    x1, y1, x2, y2 = sample.boxes_xyxy[int(rng.integers(len(sample.boxes_xyxy)))].tolist()
    share = level / LARGEST_LEVEL * _BOX_CUTOUT / 2
    half = share * (x2 - x1), share * (y2 - y1)
    return sample._replace(pixels=_erase(sample.pixels, (rng.uniform(x1, x2), rng.uniform(y1, y2)), half))


# ---- geometry


def _affine(moved: Any, angle: float, shear: list[float], center: list[float] | None = None) -> Any:
    # Where nothing was, the image is grey and no object is.
    fill: Any = 0 if isinstance(moved, tv_tensors.Mask) else [float(GREY)] * 3
    return F.affine(moved, angle, [0, 0], 1.0, shear, fill=fill, center=center)


def translate(sample: Sample, x: int, y: int) -> Sample:
    """Translates everything by whole pixels to the right and down."""
    return move(sample, partial(_shift, x=x, y=y))


def _shift(moved: Any, x: int, y: int) -> Any:
    height, width = F.get_size(moved)
    # Pad one side and crop the other: a translation without interpolation.
    fill = 0 if isinstance(moved, tv_tensors.Mask) else GREY
    padded = F.pad(moved, [max(x, 0), max(y, 0), max(-x, 0), max(-y, 0)], fill=fill)
    return F.crop(padded, max(-y, 0), max(-x, 0), height, width)


def shear(sample: Sample, slope_x: float, slope_y: float) -> Sample:
    """Moves rows to the right by ``-slope_x`` times their y, or columns down by ``-slope_y`` times their x."""
    # torchvision shears by angles and about the centre; the official code by slopes and about the corner.
    degrees = [math.degrees(math.atan(slope)) for slope in (slope_x, slope_y)]
    return move(sample, partial(_affine, angle=0.0, shear=degrees, center=[0.0, 0.0]))


def rotate(sample: Sample, degrees: float) -> Sample:
    """Rotates everything clockwise about the centre; boxes become those around their rotated corners."""
    return move(sample, partial(_affine, angle=degrees, shear=[0.0, 0.0]))


def _either(level: float, largest: float, rng: np.random.Generator) -> float:
    """The argument that belongs to a level, in either direction."""
    value = level / LARGEST_LEVEL * largest
    return value if rng.random() < 0.5 else -value


WHOLE: dict[str, Operation] = {
    "autocontrast": _colours(lambda pixels, level: F.autocontrast(pixels)),
    "equalize": _colours(lambda pixels, level: F.equalize(pixels)),
    "posterize": _colours(_posterize),
    "solarize": _colours(_solarize),
    "solarize-add": _colours(_solarize_add),
    "color": _colours(lambda pixels, level: F.adjust_saturation(pixels, _factor(level))),
    "contrast": _colours(lambda pixels, level: F.adjust_contrast(pixels, _factor(level))),
    "brightness": _colours(lambda pixels, level: F.adjust_brightness(pixels, _factor(level))),
    "sharpness": _colours(lambda pixels, level: F.adjust_sharpness(pixels, _factor(level))),
    "cutout": _cutout,
    "box-cutout": _box_cutout,
    "translate-x": lambda s, level, rng: translate(s, int(_either(level, _TRANSLATE * s.longer_side, rng)), 0),
    "translate-y": lambda s, level, rng: translate(s, 0, int(_either(level, _TRANSLATE * s.longer_side, rng))),
    "shear-x": lambda s, level, rng: shear(s, _either(level, _SHEAR, rng), 0.0),
    "shear-y": lambda s, level, rng: shear(s, 0.0, _either(level, _SHEAR, rng)),
    "rotate": lambda s, level, rng: rotate(s, _either(level, _ROTATE, rng)),
}
"""Operations on the whole image."""


# ---- inside boxes: what is in a box changes, the box and what is around it do not

InBox = Callable[[Tensor, float, int, np.random.Generator], Tensor]
"""What happens to the (3, h, w) pixels of a box at a level, in an image of some longer side."""


def change_in_boxes(
    sample: Sample, change: InBox, level: float, probability: float, rng: np.random.Generator
) -> Sample:
    """Each box by itself with a third of the probability, in any order, so that not too many that touch change."""
    # Samples are never written to: the caller may still hold these pixels.
    pixels = sample.pixels.clone()
    masks = None if sample.masks is None else sample.masks.clone()
    for i in rng.permutation(len(sample.boxes_xyxy)):
        if rng.random() >= probability / 3:
            continue
        x1, y1, x2, y2 = (int(side) for side in sample.boxes_xyxy[int(i)])
        if x2 > x1 and y2 > y1:
            chance = rng.bit_generator.state
            pixels[:, y1:y2, x1:x2] = change(pixels[:, y1:y2, x1:x2], level, sample.longer_side, rng)
            if masks is not None and change in _MOVES_INSIDE:
                # The same chance again, for the masks of everything that is seen in the box.
                rng.bit_generator.state = chance
                inside = tv_tensors.Mask(masks[:, y1:y2, x1:x2])
                masks[:, y1:y2, x1:x2] = change(inside, level, sample.longer_side, rng)
    return sample._replace(pixels=pixels, masks=masks)


def _as_whole(name: str) -> InBox:
    """An operation of :data:`WHOLE` on what is in a box, as if that were an image without objects."""

    def change(pixels: Tensor, level: float, longer_side: int, rng: np.random.Generator) -> Tensor:
        alone = Sample(pixels, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
        return WHOLE[name](alone, level, rng).pixels

    return change


def _limited(level: float, share: float, longer_side: int, side: int) -> int:
    """A length in the image, but at most half the box's side: the official one may leave nothing of a small object."""
    return int(min(level / LARGEST_LEVEL * share * longer_side, side / 2))


def _translate_inside(dimension: int) -> InBox:
    def change(pixels: Tensor, level: float, longer_side: int, rng: np.random.Generator) -> Tensor:
        length = _limited(level, _TRANSLATE_IN_BOXES, longer_side, pixels.shape[dimension])
        offset = [0, 0]
        offset[2 - dimension] = length if rng.random() < 0.5 else -length
        shifted: Tensor = _shift(pixels, *offset)
        return shifted

    return change


def _cutout_inside(pixels: Tensor, level: float, longer_side: int, rng: np.random.Generator) -> Tensor:
    return _erase_square(pixels, _limited(level, 2 * _CUTOUT_IN_BOXES, longer_side, min(pixels.shape[1:])) / 2, rng)


INSIDE: dict[str, InBox] = {
    "translate-x-in-boxes": _translate_inside(2),
    "translate-y-in-boxes": _translate_inside(1),
    "flip-in-boxes": lambda pixels, level, longer_side, rng: F.horizontal_flip(pixels),
    "cutout-in-boxes": _cutout_inside,
    **{f"{name}-in-boxes": _as_whole(name) for name in ("shear-x", "shear-y", "rotate", "equalize", "solarize")},
}
"""Operations on what is in the boxes."""
_MOVES_INSIDE = frozenset(
    INSIDE[f"{name}-in-boxes"] for name in ("translate-x", "translate-y", "flip", "shear-x", "shear-y", "rotate")
)
"""Those that move pixels, and with them masks."""
