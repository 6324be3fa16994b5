"""Anchors: the boxes that the network's outputs are relative to (arXiv 1911.09070 section 4; RetinaNet, 1708.02002).

Every cell of every level's feature map carries the same ``config.per_cell`` boxes around its centre. All of them in one
array stand in the order of the network's outputs: level (finest first), row, column, octave, aspect.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt

from phidet.architectures.efficientdet.config import AnchorConfig
from phidet.core.errors import InputError


def level_sizes(size_hw: tuple[int, int], levels: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """(height, width) in cells of each level's feature map: the image halved ``level`` times, rounded up each time.

    Args:
        size_hw: height and width of the network's input in pixels.
        levels: pyramid levels, finest first; level l has stride 2^l, or a little less where the size does not divide.

    Raises:
        InputError: a side is smaller than the coarsest stride.
    """
    height, width = size_hw
    coarsest = 2 ** max(levels)
    if min(height, width) < coarsest:
        raise InputError(
            f"an image of {height}×{width} pixels is smaller than the coarsest stride, {coarsest} "
            f"(level {max(levels)}): use at least {coarsest}×{coarsest}"
        )
    return tuple((-(-height // 2**level), -(-width // 2**level)) for level in levels)


def level_slices(size_hw: tuple[int, int], levels: Sequence[int], config: AnchorConfig) -> tuple[slice, ...]:
    """Slice of each level's anchors in the array of all anchors; the last ``stop`` is the number of anchors.

    Raises:
        InputError: a side is smaller than the coarsest stride.
    """
    counts = (rows * columns * config.per_cell for rows, columns in level_sizes(size_hw, levels))
    return tuple(slice(start, stop) for start, stop in pairwise(accumulate(counts, initial=0)))


def generate_anchors(size_hw: tuple[int, int], levels: Sequence[int], config: AnchorConfig) -> npt.NDArray[np.float32]:
    """All anchors of an image of ``size_hw`` pixels.

    The stride is image over feature map, per axis and as a fraction, so cells tile the image exactly whatever its
    size. A cell's anchors are centred in it, ``scale · stride · 2^(octave / octaves)`` times the aspect in size, and
    may reach beyond the image.

    Args:
        size_hw: height and width of the network's input in pixels.
        levels: pyramid levels, finest first.
        config: sizes and aspects.

    Returns:
        (A, 4) float32 xyxy in pixels. Equal calls may return the same array, so it is read-only; a writable tensor is
        ``torch.tensor(anchors)``.

    Raises:
        InputError: a side is smaller than the coarsest stride.
    """
    height, width = size_hw
    return _generate(int(height), int(width), tuple(levels), config)


@lru_cache(maxsize=16)
def _generate(height: int, width: int, levels: tuple[int, ...], config: AnchorConfig) -> npt.NDArray[np.float32]:
    octaves = 2.0 ** (np.arange(config.octaves) / config.octaves)
    shapes = config.scale * octaves[:, None, None] * np.asarray(config.aspects_wh, dtype=np.float64)
    shapes_w, shapes_h = shapes.reshape(-1, 2).T  # (octaves · aspects,), in strides
    boxes = []
    for rows, columns in level_sizes((height, width), levels):
        # Not 2^level: where the size does not divide, the map is rounded up and its true stride is a little smaller.
        stride_h, stride_w = height / rows, width / columns
        x = (np.arange(columns) + 0.5)[None, :, None] * stride_w  # (1, W, 1)
        y = (np.arange(rows) + 0.5)[:, None, None] * stride_h  # (H, 1, 1)
        half_w, half_h = shapes_w * stride_w / 2, shapes_h * stride_h / 2
        sides = np.broadcast_arrays(x - half_w, y - half_h, x + half_w, y + half_h)
        boxes.append(np.stack(sides, axis=-1).reshape(-1, 4))  # (H, W, per cell, 4) → (…, 4)
    anchors_xyxy = np.concatenate(boxes).astype(np.float32)
    anchors_xyxy.flags.writeable = False
    return anchors_xyxy
