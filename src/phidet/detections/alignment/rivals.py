"""Other poses that a found one suggests: the same, shifted, turned by quarters, or mirrored.

Boards repeat themselves: rows of equal modules, halves that are alike. A search ends when it has found a pose; whether
another one explains the image as well, or better, must not depend on luck. So for every turn, the shifts that bring
parts to detections of their class are counted, and the most frequent ones are poses to be compared.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from phidet.detections.alignment.pose import Floats, Pose
from phidet.detections.alignment.search import Points

_BIN = 0.35  # of the median distance of neighbours: shifts that differ by less are the same
_FAR = 1 << 24  # cells in a row, more than shifts reach
_PEAKS = 3  # shifts tried for each turn
_LEAST_VOTES = 0.25  # of the parts that the pose explains
_MOST_PAIRS = 30_000  # counted for each turn


def rivals(nominal: Points, found: Points, pose: Pose, explained: int, mirrored: bool) -> Iterator[Pose]:
    """Poses near which another solution may lie.

    Args:
        nominal: places, y down.
        found: pixels.
        pose: that was found.
        explained: number of parts that it brings to a detection of their class.
        mirrored: whether mirrored ones are possible too.
    """
    size = _BIN * found.spacing
    for turn in _turns(mirrored):
        matrix = pose.matrix @ turn
        turned = Pose(pose.kind, matrix / matrix[2, 2], pose.k1, pose.frame, pose.fitted_k1)
        shifts, share = _shifts(nominal, found, turned)
        if not len(shifts):
            continue
        cells = np.floor(shifts / size).astype(np.int64)
        cells = cells[:, 0] * _FAR + cells[:, 1]
        unique, votes = np.unique(cells, return_counts=True)
        taken: list[Floats] = []
        for cell in unique[np.argsort(-votes, kind="stable")[: 4 * _PEAKS]].tolist():
            # A peak on the border of cells is shared between them, so its neighbours count too.
            shift = np.median(shifts[cells == cell], axis=0)
            near = shifts[np.abs(shifts - shift).max(1) <= size]
            if len(near) < _LEAST_VOTES * share * explained or any(
                np.hypot(*(shift - one)) < 2 * size for one in taken
            ):
                continue
            taken.append(shift)
            # The pose itself, neither turned nor shifted, is no rival.
            if np.hypot(*shift) > size or not np.array_equal(turn, np.eye(3)):
                yield _shifted(turned, np.median(near, axis=0))
            if len(taken) == _PEAKS:
                break


def _turns(mirrored: bool) -> list[Floats]:
    """Turns by quarters about the middle of the parts, in normalised places; mirrored ones too."""
    quarters = [np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    return quarters + [quarter @ np.diag([-1.0, 1.0, 1.0]) for quarter in quarters] if mirrored else quarters


def _shifts(nominal: Points, found: Points, pose: Pose) -> tuple[Floats, float]:
    """(K, 2) from each part's pixels to each detection of its class, and the share of pairs that were looked at."""
    ours = pose.project(nominal.places)
    counts = np.bincount(nominal.classes, minlength=1)
    others = np.bincount(found.classes, minlength=len(counts))[: len(counts)]
    stride = max(1, int(np.ceil((counts[: len(others)] * others).sum() / _MOST_PAIRS)))
    parts = [
        (found.places[found.classes == one][None] - ours[nominal.classes == one][::stride, None]).reshape(-1, 2)
        for one in np.unique(nominal.classes).tolist()
    ]
    shifts = np.concatenate(parts)
    return shifts[np.isfinite(shifts).all(1) & (np.abs(shifts) < 1e6).all(1)], 1 / stride


def _shifted(pose: Pose, shift: Floats) -> Pose:
    """The pose with all pixels moved, before distortion."""
    move = np.eye(3)
    move[:2, 2] = shift / pose.frame.half
    matrix = move @ pose.matrix
    return Pose(pose.kind, matrix / matrix[2, 2], pose.k1, pose.frame, pose.fitted_k1)
