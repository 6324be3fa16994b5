"""Non-maximum suppression in NumPy: of boxes on one object, keep the best (hard), or believe the others less (soft).

Soft-NMS is arXiv 1704.04503: Gaussian, eq. "s · exp(−iou² / σ)", and linear, s · (1 − iou) above a threshold.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from phidet.detections.settings import PostprocessSettings

SOFT_FLOOR = 0.001
"""Soft-NMS lets no score die out by itself; the official code drops what falls below this."""


BLOCK = 64
"""At most so many boxes are compared with each other at once: what lies between stays in the processor's cache."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def suppress(boxes_xyxy: Floats, scores: Floats, class_ids: Ints, settings: PostprocessSettings) -> tuple[Ints, Floats]:
    """Which boxes stay, best first, and their scores, which only soft-NMS changes.

    Of equal scores the earlier box goes first. Work and memory grow with the number of boxes times the number that
    stay, not with its square.

    Args:
        boxes_xyxy: (N, 4).
        scores: (N,).
        class_ids: (N,).
        settings: ``nms``, ``iou``, ``sigma``, ``per_class``, ``score`` (for what soft-NMS lowers), ``max_detections``.

    Returns:
        (M,) indices and (M,) scores, M ≤ ``max_detections``.
    """
    order = np.argsort(-scores, kind="stable")
    if settings.nms == "none":
        kept = order[: settings.max_detections]
        return kept, scores[kept]
    sides = np.ascontiguousarray(boxes_xyxy[order].T, np.float32)  # (4, N)
    groups = class_ids[order] if settings.per_class else None
    if settings.nms == "hard":
        kept = order[_hard(sides, groups, settings)]
        return kept, scores[kept]
    chosen, lowered = _soft(sides, scores[order].astype(np.float32), groups, settings)
    return order[chosen], lowered


def _hard(sides: Floats, groups: Ints | None, settings: PostprocessSettings) -> Ints:
    """Positions that stay, of boxes (4, N) in falling order of score.

    Block by block: what the boxes kept so far suppress is thrown out of a block at once, and once enough are kept the
    blocks that follow are not looked at. Where little is left of a block, the next one is larger.
    """
    areas = _areas(sides)
    kept = np.zeros(0, np.int64)
    start, step, count = 0, BLOCK, sides.shape[1]
    while start < count and len(kept) < settings.max_detections:
        left = np.arange(start, min(start + step, count))
        start += step
        if len(kept):
            left = left[~_suppressed(sides, areas, groups, kept, left, settings.iou).any(0)]
        if len(left) > BLOCK:  # the others are for the next round
            left, start, step = left[:BLOCK], int(left[BLOCK]), BLOCK
        elif len(left) < BLOCK // 2:
            step *= 2
        pairs = np.triu(_suppressed(sides, areas, groups, left, left, settings.iou), 1)  # (better, worse)
        stays = np.ones(len(left), np.bool_)
        for better in np.flatnonzero(pairs.any(1)):  # the others suppress nothing
            if stays[better]:
                stays[pairs[better]] = False
        kept = np.concatenate([kept, left[stays]])
    return kept[: settings.max_detections]


def _suppressed(
    sides: Floats, areas: Floats, groups: Ints | None, better: Ints, worse: Ints, iou: float
) -> npt.NDArray[np.bool_]:
    """(N, M) whether box i of ``better`` takes box j of ``worse`` with it, for positions in ``sides``."""
    a, b = sides[:, better, None], sides[:, None, worse]  # (4, N, 1), (4, 1, M)
    shared = np.minimum(a[2:], b[2:])
    shared -= np.maximum(a[:2], b[:2])
    np.maximum(shared, 0, out=shared)
    intersection = np.multiply(shared[0], shared[1], out=shared[0])
    union = areas[better, None] + areas[worse]
    union -= intersection
    np.maximum(union, np.float32(1e-12), out=union)
    suppressed: npt.NDArray[np.bool_] = np.divide(intersection, union, out=intersection) > iou
    if groups is not None:
        suppressed &= groups[better, None] == groups[worse]
    return suppressed


def _soft(sides: Floats, scores: Floats, groups: Ints | None, settings: PostprocessSettings) -> tuple[Ints, Floats]:
    """Positions and lowered scores of what stays, of boxes (4, N) in falling order of score."""
    least = max(settings.score, SOFT_FLOOR)
    areas = _areas(sides)
    left = np.arange(sides.shape[1])
    kept: list[int] = []
    lowered: list[float] = []
    while len(left) and len(kept) < settings.max_detections:
        best = int(scores.argmax())  # the first of equals
        if scores[best] < least:
            break
        kept.append(int(left[best]))
        lowered.append(float(scores[best]))
        overlaps = _overlaps(sides, areas, best)
        if settings.nms == "gaussian":
            factors = np.exp(-(overlaps**2) / np.float32(settings.sigma))
        else:
            factors = np.where(overlaps > settings.iou, 1 - overlaps, np.float32(1))
        if groups is not None:
            factors[groups != groups[best]] = 1
        scores = scores * factors
        stays = scores >= least
        stays[best] = False
        sides, areas, left, scores = sides[:, stays], areas[stays], left[stays], scores[stays]
        groups = None if groups is None else groups[stays]
    return np.array(kept, np.int64), np.array(lowered, np.float32)


def _areas(sides: Floats) -> Floats:
    areas: Floats = np.maximum(sides[2] - sides[0], 0) * np.maximum(sides[3] - sides[1], 0)
    return areas


def _overlaps(sides: Floats, areas: Floats, best: int) -> Floats:
    """(N,) intersection over union with one of the boxes; 0 where neither has an area."""
    box = sides[:, best, None]
    shared = np.minimum(sides[2:], box[2:]) - np.maximum(sides[:2], box[:2])  # (2, N)
    np.maximum(shared, 0, out=shared)
    intersection = shared[0] * shared[1]
    union = areas + areas[best] - intersection
    overlaps: Floats = intersection / np.maximum(union, np.float32(1e-12))
    return overlaps
