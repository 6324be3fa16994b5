"""From mask logits to masks of objects, and to one segment for every pixel (arXiv 2005.12872, section 4.4).

Without PyTorch, and equal to the official post-processing, step by step.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from phidet.detections.boxes import FloatArray

Bools = npt.NDArray[np.bool_]
THRESHOLD = 0.85
"""Least score of a query for a panoptic segment."""
_LARGEST_SPECK = 4  # pixels: segments up to that are dropped


class Segment(NamedTuple):
    """One segment; ``segment_id`` is its value in the image of ids."""

    segment_id: int
    is_thing: bool
    class_id: int
    area: int


class Panoptic(NamedTuple):
    """A segment for every pixel.

    Attributes:
        ids: (H, W) int32; 0 throughout where nothing was found.
        segments: by id, from 0.
        scores: (N,), of the queries that the segments are of.
    """

    ids: npt.NDArray[np.int32]
    segments: list[Segment]
    scores: FloatArray


def instance_mask(
    mask_logits: FloatArray, padded_hw: tuple[int, int], valid_hw: tuple[int, int], image_hw: tuple[int, int]
) -> Bools:
    """The pixels of an object.

    Args:
        mask_logits: (h, w), of the padded input.
        padded_hw, valid_hw: of the input in pixels, with and without padding.
        image_hw: of the original image.

    Returns:
        (H, W) of the original image.
    """
    # First interpolated to the padded input, then read at the nearest pixels: the order of the official code, without
    # which borders differ.
    rows, columns = (nearest(valid, size) for valid, size in zip(valid_hw, image_hw, strict=True))
    inside = resize_bilinear(mask_logits, padded_hw) > 0  # as a sigmoid above one half
    mask: Bools = inside[rows][:, columns]
    return mask


def panoptic(
    class_logits: FloatArray,
    mask_logits: FloatArray,
    input_sizes_hw: tuple[tuple[int, int], tuple[int, int]],
    image_hw: tuple[int, int],
    is_thing: Bools,
    threshold: float = THRESHOLD,
) -> Panoptic:
    """One segment for every pixel: that of the kept query whose mask is largest there.

    Args:
        class_logits: (Q, C + 1).
        mask_logits: (Q, h, w), of the padded input.
        input_sizes_hw: of the input in pixels, with and without padding.
        image_hw: of the result.
        is_thing: (C,), whether a class is counted; all of a class that is not is one segment.
        threshold: least score.
    """
    weights = np.exp(class_logits - class_logits.max(-1, keepdims=True))
    probabilities = weights / weights.sum(-1, keepdims=True)
    class_ids, scores = probabilities.argmax(-1), probabilities.max(-1)
    kept = np.flatnonzero((class_ids != class_logits.shape[-1] - 1) & (scores > threshold))
    classes, scores = class_ids[kept], scores[kept]
    nothing = Panoptic(np.zeros(image_hw, np.int32), [], scores[:0])
    if not len(kept):
        return nothing
    padded_hw, (height, width) = input_sizes_hw
    masks = np.stack([resize_bilinear(mask_logits[i], padded_hw)[:height, :width] for i in kept])
    # At first all stuff of a class goes to the first of its queries, …
    leader = np.arange(len(kept))
    for class_id in np.unique(classes[~is_thing[classes]]):
        leader[classes == class_id] = np.flatnonzero(classes == class_id)[0]
    ids = _resized(leader[masks.argmax(0)], image_hw)
    areas = np.bincount(ids.ravel(), minlength=len(classes))
    # … then specks are dropped until none is left, which also drops the other queries of a class of stuff: their
    # pixels go to whichever remaining mask is largest there, without merging.
    while len(classes) and (areas <= _LARGEST_SPECK).any():
        large = areas > _LARGEST_SPECK
        classes, masks, scores = classes[large], masks[large], scores[large]
        if not len(classes):
            return nothing
        ids = _resized(masks.argmax(0), image_hw)
        areas = np.bincount(ids.ravel(), minlength=len(classes))
    segments = [
        Segment(i, bool(is_thing[class_id]), int(class_id), int(area))
        for i, (class_id, area) in enumerate(zip(classes, areas, strict=True))
    ]
    return Panoptic(ids, segments, scores)


def resize_bilinear(plane: npt.NDArray[Any], size_hw: tuple[int, int]) -> FloatArray:
    """(h, w) → (H, W), pixel centres at ½, without antialiasing."""
    (top, bottom, y), (left, right, x) = (_beside(old, new) for old, new in zip(plane.shape, size_hw, strict=True))
    rows = plane[top] + (plane[bottom] - plane[top]) * y[:, None]
    resized: FloatArray = rows[:, left] + (rows[:, right] - rows[:, left]) * x
    return resized


def nearest(side: int, wanted: int) -> npt.NDArray[np.int64]:
    """For each pixel of the new side the old one, as PyTorch's nearest neighbour, whose scale is in float32."""
    scale = np.float32(side) / np.float32(wanted)
    indices: npt.NDArray[np.int64] = np.floor(np.arange(wanted, dtype=np.float32) * scale).astype(np.int64)
    return np.minimum(indices, side - 1)


def _beside(side: int, wanted: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], FloatArray]:
    """For each pixel of the new side the two old ones beside its centre, and the weight of the second."""
    centres = np.maximum((np.arange(wanted, dtype=np.float32) + 0.5) * np.float32(side / wanted) - 0.5, 0)
    first = np.minimum(centres.astype(np.int64), side - 1)
    return first, np.minimum(first + 1, side - 1), (centres - first).astype(np.float32)


def _resized(ids: npt.NDArray[np.int64], size_hw: tuple[int, int]) -> npt.NDArray[np.int32]:
    """Ids resized by Pillow's nearest neighbour."""
    height, width = size_hw
    image = Image.fromarray(ids.astype(np.int32)).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(image, np.int32)
