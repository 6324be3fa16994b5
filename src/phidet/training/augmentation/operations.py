"""Operations of augmentation policies: on an image and its boxes, at a level from 0 to 10.

Arguments as in the official EfficientDet (arXiv 1906.11172). Lengths there are pixels of COCO's images, whose longer
side is 640; here they are shares of the longer side, so that they mean the same at any size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

MIN_VISIBLE = 0.2  # of a box's area; what is left of an object below that cannot be told from background
MIN_SIDE = 1.0  # pixels of the input
GREY = 128  # of pixels that nothing is known about
LARGEST_LEVEL = 10.0
_COCO_SIDE = 640
_TRANSLATE, _CUTOUT = 250 / _COCO_SIDE, 100 / _COCO_SIDE  # of the longer side, at the largest level
_TRANSLATE_IN_BOXES, _CUTOUT_IN_BOXES = 120 / _COCO_SIDE, 50 / _COCO_SIDE
_SHEAR, _ROTATE, _BOX_CUTOUT = 0.3, 30.0, 0.75  # the slope, degrees, of a box's sides


class Sample(NamedTuple):
    """An image on its way through augmentation.

    Attributes:
        pixels: (3, H, W) uint8, not to be written to.
        boxes_xyxy: (N, 4) float32 in its pixels, inside it.
        class_ids: (N,) int64.
    """

    pixels: Tensor
    boxes_xyxy: Tensor
    class_ids: Tensor

    @property
    def longer_side(self) -> int:
        """In pixels."""
        return max(self.pixels.shape[1:])


Operation = Callable[[Sample, float, np.random.Generator], Sample]
"""What happens to a sample at a level, by chance where there is a choice."""


def place(pixels: Tensor, moved_xyxy: Tensor, class_ids: Tensor) -> Sample:
    """A sample of (N, 4) boxes that may reach out of the image: cut at its border, left out where little remains."""
    limits = moved_xyxy.new_tensor([pixels.shape[2], pixels.shape[1]] * 2)
    inside = moved_xyxy.clamp(min=0).minimum(limits)
    sides, whole = inside[:, 2:] - inside[:, :2], moved_xyxy[:, 2:] - moved_xyxy[:, :2]
    kept = (sides.min(1).values >= MIN_SIDE) & (sides.prod(1) >= MIN_VISIBLE * whole.prod(1))
    return Sample(pixels, inside[kept], class_ids[kept])


def flip_boxes(boxes_xyxy: Tensor, width: int) -> Tensor:
    """(N, 4) boxes of an image whose left becomes its right."""
    x1, y1, x2, y2 = boxes_xyxy.unbind(1)
    return torch.stack((width - x2, y1, width - x1, y2), 1)


# ---- colours


def _factor(level: float) -> float:
    return level / LARGEST_LEVEL * 1.8 + 0.1


def _colours(change: Callable[[Tensor, float], Tensor]) -> Operation:
    """An operation that looks at pixels alone."""

    def operation(sample: Sample, level: float, rng: np.random.Generator) -> Sample:
        return sample._replace(pixels=change(sample.pixels, level))

    return operation


def _sharpness(pixels: Tensor, level: float) -> Tensor:
    sharp: Tensor = F.adjust_sharpness(pixels, _factor(level))
    return sharp


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


# ---- cutting out


def _erase(pixels: Tensor, centre_xy: tuple[float, float], half_wh: tuple[float, float]) -> Tensor:
    """``pixels`` with a grey rectangle, as much of it as is inside."""
    height, width = pixels.shape[1:]
    x1, x2 = (min(max(int(centre_xy[0] + s * half_wh[0]), 0), width) for s in (-1, 1))
    y1, y2 = (min(max(int(centre_xy[1] + s * half_wh[1]), 0), height) for s in (-1, 1))
    erased = pixels.clone()
    erased[:, y1:y2, x1:x2] = GREY
    return erased


def _cutout(sample: Sample, level: float, rng: np.random.Generator) -> Sample:
    """A grey square anywhere (arXiv 1708.04552)."""
    height, width = sample.pixels.shape[1:]
    half = level / LARGEST_LEVEL * _CUTOUT * sample.longer_side
    return sample._replace(pixels=_erase(sample.pixels, (rng.uniform(0, width), rng.uniform(0, height)), (half, half)))


def _box_cutout(sample: Sample, level: float, rng: np.random.Generator) -> Sample:
    """A grey rectangle about a point in one of the boxes, in proportion to that box."""
    if not len(sample.boxes_xyxy):
        return sample
    x1, y1, x2, y2 = sample.boxes_xyxy[int(rng.integers(len(sample.boxes_xyxy)))].tolist()
    share = level / LARGEST_LEVEL * _BOX_CUTOUT / 2
    half = share * (x2 - x1), share * (y2 - y1)
    return sample._replace(pixels=_erase(sample.pixels, (rng.uniform(x1, x2), rng.uniform(y1, y2)), half))


# ---- geometry


def _either(value: float, rng: np.random.Generator) -> float:
    return value if rng.random() < 0.5 else -value


def translate(sample: Sample, x: int, y: int) -> Sample:
    """Moves everything by whole pixels to the right and down."""
    moved = sample.boxes_xyxy + sample.boxes_xyxy.new_tensor([x, y, x, y])
    return place(_shift(sample.pixels, x, y), moved, sample.class_ids)


def _shift(pixels: Tensor, x: int, y: int) -> Tensor:
    height, width = pixels.shape[1:]
    moved = torch.full_like(pixels, GREY)
    if abs(x) < width and abs(y) < height:
        rows, columns = slice(max(-y, 0), height - max(y, 0)), slice(max(-x, 0), width - max(x, 0))
        moved[:, max(y, 0) : height + min(y, 0), max(x, 0) : width + min(x, 0)] = pixels[:, rows, columns]
    return moved


def shear(sample: Sample, slope_x: float, slope_y: float) -> Sample:
    """Moves rows to the right by ``-slope_x`` times their y, or columns down by ``-slope_y`` times their x."""
    degrees = [math.degrees(math.atan(slope)) for slope in (slope_x, slope_y)]
    pixels = _affine(sample.pixels, 0.0, degrees, [0.0, 0.0])
    matrix = sample.boxes_xyxy.new_tensor([[1.0, -slope_x], [-slope_y, 1.0]])
    return place(pixels, _hull(sample.boxes_xyxy, matrix, (0.0, 0.0)), sample.class_ids)


def rotate(sample: Sample, degrees: float) -> Sample:
    """Turns everything clockwise about the middle; boxes become those around their turned corners."""
    height, width = sample.pixels.shape[1:]
    pixels = _affine(sample.pixels, degrees, [0.0, 0.0], None)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = sample.boxes_xyxy.new_tensor([[cos, -sin], [sin, cos]])
    return place(pixels, _hull(sample.boxes_xyxy, matrix, (width / 2, height / 2)), sample.class_ids)


def _affine(pixels: Tensor, angle: float, shear_degrees: list[float], centre: list[float] | None) -> Tensor:
    moved: Tensor = F.affine(pixels, angle, [0, 0], 1.0, shear_degrees, fill=[float(GREY)] * 3, center=centre)
    return moved


def _hull(boxes_xyxy: Tensor, matrix: Tensor, centre_xy: tuple[float, float]) -> Tensor:
    """(N, 4) boxes around the boxes' corners, moved by a (2, 2) matrix about a centre.

    torchvision's own boxes would be cut at the border, so that nothing says how much of an object is left.
    """
    corners = boxes_xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].view(-1, 4, 2) - boxes_xyxy.new_tensor(centre_xy)
    moved = corners @ matrix.T + boxes_xyxy.new_tensor(centre_xy)
    return torch.cat((moved.amin(1), moved.amax(1)), 1)


def _translate_x(sample: Sample, level: float, rng: np.random.Generator) -> Sample:
    return translate(sample, int(_either(level / LARGEST_LEVEL * _TRANSLATE * sample.longer_side, rng)), 0)


def _translate_y(sample: Sample, level: float, rng: np.random.Generator) -> Sample:
    return translate(sample, 0, int(_either(level / LARGEST_LEVEL * _TRANSLATE * sample.longer_side, rng)))


def _shear_x(sample: Sample, level: float, rng: np.random.Generator) -> Sample:
    return shear(sample, _either(level / LARGEST_LEVEL * _SHEAR, rng), 0.0)


def _shear_y(sample: Sample, level: float, rng: np.random.Generator) -> Sample:
    return shear(sample, 0.0, _either(level / LARGEST_LEVEL * _SHEAR, rng))


def _rotate(sample: Sample, level: float, rng: np.random.Generator) -> Sample:
    return rotate(sample, _either(level / LARGEST_LEVEL * _ROTATE, rng))


# ---- inside boxes: what is in a box changes, the box and what is around it do not

InBox = Callable[[Tensor, float, int, np.random.Generator], Tensor]
"""What happens to the (3, h, w) pixels of a box at a level, in an image of some longer side."""


def change_in_boxes(
    sample: Sample, change: InBox, level: float, probability: float, rng: np.random.Generator
) -> Sample:
    """Each box by itself with a third of the probability, in any order, so that not too many that touch change."""
    pixels = sample.pixels.clone()
    for i in rng.permutation(len(sample.boxes_xyxy)):
        if rng.random() >= probability / 3:
            continue
        x1, y1, x2, y2 = (int(side) for side in sample.boxes_xyxy[int(i)])
        if x2 > x1 and y2 > y1:
            pixels[:, y1:y2, x1:x2] = change(pixels[:, y1:y2, x1:x2], level, sample.longer_side, rng)
    return sample._replace(pixels=pixels)


def _most(share: float, level: float, longer_side: int, side: int) -> int:
    """A length in the image, but at most half the box's side: the official one may leave nothing of a small object."""
    return int(min(level / LARGEST_LEVEL * share * longer_side, side / 2))


def _translate_x_inside(pixels: Tensor, level: float, longer_side: int, rng: np.random.Generator) -> Tensor:
    return _shift(pixels, int(_either(_most(_TRANSLATE_IN_BOXES, level, longer_side, pixels.shape[2]), rng)), 0)


def _translate_y_inside(pixels: Tensor, level: float, longer_side: int, rng: np.random.Generator) -> Tensor:
    return _shift(pixels, 0, int(_either(_most(_TRANSLATE_IN_BOXES, level, longer_side, pixels.shape[1]), rng)))


def _shear_x_inside(pixels: Tensor, level: float, longer_side: int, rng: np.random.Generator) -> Tensor:
    degrees = math.degrees(math.atan(_either(level / LARGEST_LEVEL * _SHEAR, rng)))
    return _affine(pixels, 0.0, [degrees, 0.0], [0.0, 0.0])


def _shear_y_inside(pixels: Tensor, level: float, longer_side: int, rng: np.random.Generator) -> Tensor:
    degrees = math.degrees(math.atan(_either(level / LARGEST_LEVEL * _SHEAR, rng)))
    return _affine(pixels, 0.0, [0.0, degrees], [0.0, 0.0])


def _rotate_inside(pixels: Tensor, level: float, longer_side: int, rng: np.random.Generator) -> Tensor:
    return _affine(pixels, _either(level / LARGEST_LEVEL * _ROTATE, rng), [0.0, 0.0], None)


def _flip_inside(pixels: Tensor, level: float, longer_side: int, rng: np.random.Generator) -> Tensor:
    return pixels.flip(2)


def _equalize_inside(pixels: Tensor, level: float, longer_side: int, rng: np.random.Generator) -> Tensor:
    equal: Tensor = F.equalize(pixels)
    return equal


def _solarize_inside(pixels: Tensor, level: float, longer_side: int, rng: np.random.Generator) -> Tensor:
    return _solarize(pixels, level)


def _cutout_inside(pixels: Tensor, level: float, longer_side: int, rng: np.random.Generator) -> Tensor:
    height, width = pixels.shape[1:]
    half = _most(2 * _CUTOUT_IN_BOXES, level, longer_side, min(height, width)) / 2
    return _erase(pixels, (rng.uniform(0, width), rng.uniform(0, height)), (half, half))


WHOLE: dict[str, Operation] = {
    "autocontrast": _colours(lambda pixels, level: F.autocontrast(pixels)),
    "equalize": _colours(lambda pixels, level: F.equalize(pixels)),
    "posterize": _colours(_posterize),
    "solarize": _colours(_solarize),
    "solarize-add": _colours(_solarize_add),
    "color": _colours(lambda pixels, level: F.adjust_saturation(pixels, _factor(level))),
    "contrast": _colours(lambda pixels, level: F.adjust_contrast(pixels, _factor(level))),
    "brightness": _colours(lambda pixels, level: F.adjust_brightness(pixels, _factor(level))),
    "sharpness": _colours(_sharpness),
    "cutout": _cutout,
    "box-cutout": _box_cutout,
    "translate-x": _translate_x,
    "translate-y": _translate_y,
    "shear-x": _shear_x,
    "shear-y": _shear_y,
    "rotate": _rotate,
}
"""Operations on the whole image."""

INSIDE: dict[str, InBox] = {
    "translate-x-in-boxes": _translate_x_inside,
    "translate-y-in-boxes": _translate_y_inside,
    "shear-x-in-boxes": _shear_x_inside,
    "shear-y-in-boxes": _shear_y_inside,
    "rotate-in-boxes": _rotate_inside,
    "flip-in-boxes": _flip_inside,
    "equalize-in-boxes": _equalize_inside,
    "solarize-in-boxes": _solarize_inside,
    "cutout-in-boxes": _cutout_inside,
}
"""Operations on what is in the boxes."""
