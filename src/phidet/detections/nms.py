"""Non-maximum suppression in NumPy: of overlapping boxes, keep the best (hard) or lower the others' scores (soft).

Soft-NMS is arXiv 1704.04503: Gaussian, eq. "s · exp(−iou² / σ)", and linear, s · (1 − iou) above a threshold.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from phidet.detections.settings import PostprocessSettings

SOFT_FLOOR = 0.001
"""Soft-NMS never lowers a score to 0 by itself; like the official code, boxes below this are dropped."""


BLOCK = 64
"""Number of boxes compared with each other at once, such that intermediate results fit the processor's cache."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def suppress(boxes_xyxy: Floats, scores: Floats, class_ids: Ints, settings: PostprocessSettings) -> tuple[Ints, Floats]:
    """Indices of the boxes that are kept, best first, and their scores, which only soft-NMS changes.

    Of equal scores the earlier box comes first. Work and memory grow with the number of boxes times the number that
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
    """Positions that are kept, of boxes (4, N) in descending order of score.

    Block by block: boxes that those kept so far suppress are removed from a block in one step, and once enough are kept
    the remaining blocks are skipped. If little is left of a block, the next one is larger.
    """
    areas = _areas(sides)
    kept = np.zeros(0, np.int64)
    start, step, count = 0, BLOCK, sides.shape[1]
    while start < count and len(kept) < settings.max_detections:
        left = np.arange(start, min(start + step, count))
        start += step
        if len(kept):
            left = left[~_suppressed(sides, areas, groups, kept, left, settings.iou).any(0)]
        if len(left) > BLOCK:  # the rest goes into the next round
            left, start, step = left[:BLOCK], int(left[BLOCK]), BLOCK
        elif len(left) < BLOCK // 2:
            step *= 2
        pairs = np.triu(_suppressed(sides, areas, groups, left, left, settings.iou), 1)  # (better, worse)
        stays = np.ones(len(left), np.bool_)
        # Inside a block the order matters: a box that is suppressed itself suppresses nothing.
        for better in np.flatnonzero(pairs.any(1)):  # only boxes that suppress any
            if stays[better]:
                stays[pairs[better]] = False
        kept = np.concatenate([kept, left[stays]])
    return kept[: settings.max_detections]


def _suppressed(
    sides: Floats, areas: Floats, groups: Ints | None, better: Ints, worse: Ints, iou: float
) -> npt.NDArray[np.bool_]:
    """(N, M) whether box i of ``better`` suppresses box j of ``worse``, both given as positions in ``sides``."""
    a, b = sides[:, better, None], sides[:, None, worse]  # (4, N, 1), (4, 1, M)
    # In-place operations throughout: allocating (N, M) temporaries would take most of the time.
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
    """Positions and lowered scores of the kept boxes, of boxes (4, N) in descending order of score."""
    least = max(settings.least_score, SOFT_FLOOR)
    areas = _areas(sides)
    left = np.arange(sides.shape[1])
    kept: list[int] = []
    lowered: list[float] = []
    while len(left) and len(kept) < settings.max_detections:
        # Searched anew each time, since every round changes the order of the scores.
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
