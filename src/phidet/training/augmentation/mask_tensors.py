"""Masks on their way through augmentation: a value for each pixel of the image and each object."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from phidet.data.dataset import Annotations
from phidet.data.mask_labels import MaskLabels
from phidet.detections.masks import FIELD, Masks
from phidet.detections.rle import Ints

UNKNOWN = 255
"""At every pixel of an object that has a box only; 1 is the object, 0 is not."""
FITS = 1.5  # pixels by which a box differs at most from that of its mask, if it is meant to be that


def with_masks(annotations: Annotations, size_hw: tuple[int, int]) -> Annotations:
    """``annotations`` with the pixels of their masks instead of labels, so that a damaged label is found here.

    Raises:
        InputError: a label image cannot be read.
    """
    labels = annotations.mask_labels or MaskLabels.none(len(annotations.class_ids))
    return annotations._replace(fields={FIELD: labels.masks(size_hw), "known": labels.known})


def sampled_masks(annotations: Annotations, rows: Ints, columns: Ints) -> Tensor | None:
    """(N, len(rows), len(columns)) uint8, the pixels at these rows and columns; ``None`` without masks.

    ``annotations`` are those of :func:`with_masks`.
    """
    masks = annotations.fields.get(FIELD)
    if not isinstance(masks, Masks):
        return None
    values = masks.sampled(rows, columns).view(np.uint8)
    values[~np.asarray(annotations.fields["known"], np.bool_)] = UNKNOWN
    return torch.from_numpy(values)


def fit_boxes(masks: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """(N,) bool, whether each box is the one around its mask, and not, say, around hidden parts as well."""
    tight, seen = tight_boxes(masks)
    return seen & ((tight - boxes_xyxy).abs().amax(1) <= FITS)


def tightened(boxes_xyxy: Tensor, masks: Tensor, fitted: Tensor) -> Tensor:
    """Boxes drawn in to their masks where they were fitted to them before they were turned or cut.

    A turned box is the one around its corners, a cut one may hold nothing but the object's surroundings. Sides that
    are right to a pixel stay, as the mask's are whole pixels.
    """
    tight, seen = tight_boxes(masks)
    moved = (fitted & seen)[:, None] & ((tight - boxes_xyxy).abs() > 1)
    return torch.where(moved, tight, boxes_xyxy)


def tight_boxes(masks: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 4) float32 boxes around (N, H, W) masks, and (N,) bool, whether they have a pixel and are known."""
    count, height, width = masks.shape
    inside = masks == 1
    columns, rows = inside.any(1), inside.any(2)
    if not (height and width):
        return torch.zeros(count, 4), torch.zeros(count, dtype=torch.bool)
    # argmax finds the first pixel, from either side.
    sides = (
        columns.byte().argmax(1),
        rows.byte().argmax(1),
        width - columns.flip(1).byte().argmax(1),
        height - rows.flip(1).byte().argmax(1),
    )
    return torch.stack(sides, 1).float(), columns.any(1)


def with_unknown(masks: Tensor | None, count: int) -> Tensor | None:
    """The masks and those of ``count`` more objects, of which only boxes are known."""
    if masks is None:
        return None
    return torch.cat([masks, masks.new_full((count, *masks.shape[1:]), UNKNOWN)])


def shrunk(masks: Tensor, stride: int) -> Tensor:
    """(N, H, W) masks at a fraction of the size: the object where it has at least half of the pixels of a cell."""
    if stride == 1:
        return masks
    # The side is a multiple of the stride: inputs of networks are.
    count, height, width = masks.shape
    cells = masks.reshape(count, height // stride, stride, width // stride, stride)
    object_pixels = (cells == 1).sum((2, 4))
    values = (object_pixels * 2 >= stride * stride).to(torch.uint8)
    values[masks[:, 0, 0] == UNKNOWN] = UNKNOWN
    return values
