"""From the logits of classes to segments: one of each class, or with masks of things one for every pixel; no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from phidet.architectures.efficientdet.mask_decode import places
from phidet.detections.boxes import FloatArray
from phidet.detections.detections import Detections
from phidet.detections.segments import make_segments

SEGMENT_SCORE = 0.4
"""Least score of an object that becomes a segment, unless another is asked for."""
_LEFT = 0.5  # share of an object's mask that better ones must leave of it, or it is dropped (arXiv 1801.00868, 6)
_LEAST_STUFF = 0.002  # share of the image: smaller segments of stuff are dropped
_ROWS = 256  # rows of an image at a time, so that memory does not grow with it
Ids = npt.NDArray[np.int32]


def class_map(logits: FloatArray, scale: float, image_hw: tuple[int, int]) -> Ids:
    """(H, W) int32, the class of largest logit at each pixel, of logits interpolated between four cells.

    Args:
        logits: (K, h, w) of one image.
        scale: pixels of the input per pixel of the image.
        image_hw: of the original image.
    """
    height, width = logits.shape[1:]
    rows, columns = (places(0, side, scale, cells) for side, cells in zip(image_hw, (height, width), strict=True))
    best = logits.argmax(0).astype(np.int32)
    classes = np.empty(image_hw, np.int32)
    left, right = _beside(columns, width)
    for start in range(0, image_hw[0], _ROWS):
        part = slice(start, start + _ROWS)
        top, bottom = _beside(rows[part], height)
        corners = [best[y[:, None], x] for y in (top, bottom) for x in (left, right)]
        # What is largest at all four corners is so between them: only elsewhere are logits looked at.
        found = corners[0].copy()
        i, j = np.nonzero((corners[0] != corners[1]) | (corners[0] != corners[2]) | (corners[0] != corners[3]))
        down, across = (rows[part][i] - top[i])[None], (columns[j] - left[j])[None]
        upper = logits[:, top[i], left[j]] * (1 - across) + logits[:, top[i], right[j]] * across
        lower = logits[:, bottom[i], left[j]] * (1 - across) + logits[:, bottom[i], right[j]] * across
        found[i, j] = (upper * (1 - down) + lower * down).argmax(0)
        classes[part] = found
    return classes


def class_segments(logits: FloatArray, classes: Ids, names: tuple[str, ...]) -> Detections:
    """A segment for each class that has a pixel; the last channel of the logits is background, which has none.

    The score is the mean probability of the class in the cells where it is the most probable one.
    """
    count = len(names)
    return make_segments(classes, np.arange(count), _confidence(logits)[:count], np.zeros(count, np.bool_), names)


def panoptic_segments(things: Detections, logits: FloatArray, classes: Ids, stuff: Sequence[int]) -> Detections:
    """A segment for each pixel: of the best thing there, or of stuff, in the way of arXiv 1801.00868, section 6.

    Args:
        things: with masks, those that score enough, best first.
        logits: (C + 1, h, w).
        classes: (H, W), of :func:`class_map`.
        stuff: ids of the classes that are not counted.
    """
    # The best things first: each takes the pixels that are still free.
    ids = np.full(classes.shape, -1, np.int32)
    kept: list[int] = []
    assert things.masks is not None
    for i, ((x1, y1, x2, y2), mask) in enumerate(things.masks.crops()):
        window = ids[y1:y2, x1:x2]
        free = mask & (window < 0)
        if free.sum() > _LEFT * mask.sum():
            window[free] = len(kept)
            kept.append(i)
    # Of stuff a class has one segment, behind all things.
    numbers = np.full(len(logits), -1, np.int32)
    numbers[list(stuff)] = len(kept) + np.arange(len(stuff))
    behind = np.where(ids < 0, numbers[classes], ids)
    areas = np.bincount(behind[behind >= 0], minlength=len(kept) + len(stuff))
    small = np.flatnonzero(areas < _LEAST_STUFF * classes.size)
    behind[np.isin(behind, small[small >= len(kept)])] = -1
    class_ids = np.concatenate([things.class_ids[kept], np.asarray(stuff, np.int64)])
    scores = np.concatenate([things.scores[kept], _confidence(logits)[list(stuff)]])
    is_thing = np.arange(len(class_ids)) < len(kept)
    return make_segments(behind, class_ids, scores, is_thing, things.names)


def _beside(at: FloatArray, cells: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The cells on both sides of each place."""
    low = np.minimum(at.astype(np.int64), cells - 1)
    return low, np.minimum(low + 1, cells - 1)


def _confidence(logits: FloatArray) -> FloatArray:
    """(K,), the mean probability of each class where it is the most probable; 0 where it is nowhere."""
    weights = np.exp(logits - logits.max(0))
    probability, best = (weights.max(0) / weights.sum(0)).ravel(), logits.argmax(0).ravel()
    count = np.bincount(best, minlength=len(logits))
    summed = np.bincount(best, probability, minlength=len(logits))
    mean: FloatArray = np.minimum(summed / np.maximum(count, 1), 1).astype(np.float32)
    return mean
