"""From prototypes and coefficients to masks, for the objects that are kept only; without PyTorch."""

from __future__ import annotations

import math

import numpy as np

from phidet.architectures.efficientdet.mask_config import STRIDE
from phidet.detections.boxes import FloatArray
from phidet.detections.masks import Masks


def decode_masks(
    prototypes: FloatArray,
    coefficients: FloatArray,
    boxes_xyxy: FloatArray,
    scale: float,
    image_hw: tuple[int, int],
) -> Masks:
    """The masks of N objects, each cut to its box.

    Args:
        prototypes: (K, h, w) of one image.
        coefficients: (N, K) of the anchors that gave the boxes.
        boxes_xyxy: (N, 4) in pixels of the original image, inside it.
        scale: pixels of the input per pixel of the image.
        image_hw: of the original image.
    """
    height, width = prototypes.shape[1:]
    corners, crops = [], []
    for weights, box in zip(coefficients, boxes_xyxy.tolist(), strict=True):
        x1, y1, x2, y2 = math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3])
        # Places of the pixels' middles among the prototypes' middles; sums are made only where these lie.
        columns = places(x1, min(x2, image_hw[1]), scale, width)
        rows = places(y1, min(y2, image_hw[0]), scale, height)
        corners.append((x1, y1))
        if not (len(rows) and len(columns)):
            crops.append(np.zeros((len(rows), len(columns)), np.bool_))
            continue
        top, left = int(rows[0]), int(columns[0])
        # One row and column more, as the last pixels lie between two prototypes' cells.
        part = prototypes[:, top : int(rows[-1]) + 2, left : int(columns[-1]) + 2]
        logits = np.tensordot(weights, part, 1)
        crops.append(_bilinear(logits, rows - top, columns - left) > 0)
    return Masks.from_crops(corners, crops, image_hw)


def places(start: int, end: int, scale: float, side: int) -> FloatArray:
    """Where the middles of pixels ``start`` to ``end`` of the image lie, in cells of the prototypes."""
    middles = (np.arange(start, end) + 0.5) * (scale / STRIDE) - 0.5
    places: FloatArray = np.clip(middles, 0, side - 1).astype(np.float32)
    return places


def _bilinear(values: FloatArray, rows: FloatArray, columns: FloatArray) -> FloatArray:
    """``values`` at all pairs of ``rows`` and ``columns``, interpolated first along the one, then along the other."""
    for _ in range(2):
        low = np.minimum(rows.astype(np.int64), len(values) - 1)
        high = np.minimum(low + 1, len(values) - 1)
        share = (rows - low)[:, None]
        values = values[low] * (1 - share) + values[high] * share
        values, rows, columns = values.T, columns, rows
    return values
