"""Which detection is which part: the assignment of least cost, by place and class together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from phidet.detections.alignment.pose import Floats
from phidet.detections.alignment.search import Ints

Bools: TypeAlias = npt.NDArray[np.bool_]
# Costs are of the kind −2 log likelihood: the square of a distance in standard deviations for a part in its place. A
# part beyond it was moved, a detection of another class in place is another part or a mistake: both are rare, and
# rarer still is a missing part beside an additional one.
_MOVED = 14.0
_MOVED_FAR = 20.0
_OTHER_CLASS = 18.0
_UNPAIRED = 24.0


@dataclass(frozen=True)
class Radii:
    """Distances in pixels.

    Attributes:
        sigma: standard deviation of a coordinate.
        near: up to which a detection is in its part's place.
        other: up to which a detection of another class stands in the part's place.
        reach: up to which a detection of the same class can be the part.
    """

    sigma: float
    near: float
    other: float
    reach: float


def assign(
    expected: Floats, classes: Ints, found: Floats, found_classes: Ints, radii: Radii, weak: Bools | None = None
) -> tuple[Ints, Ints]:
    """Pairs of parts and detections.

    Args:
        expected: (N, 2) pixels where the parts should be.
        classes: (N,) of the parts.
        found: (M, 2) pixels of the detections.
        found_classes: (M,).
        radii: how far a part's detection may be.
        weak: (M,) detections that can only be a part of their own class in its place; none unless given.

    Returns:
        Numbers of parts, rising, and of their detections; each comes at most once.
    """
    if not len(expected) or not len(found):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    reach = max(radii.near, radii.other, radii.reach)
    near = cKDTree(expected).sparse_distance_matrix(cKDTree(found), reach, output_type="coo_matrix")
    ours, theirs = near.row.astype(np.int64), near.col.astype(np.int64)
    distances = np.linalg.norm(expected[ours] - found[theirs], axis=1)  # a sparse matrix drops distances of zero
    same = classes[ours] == found_classes[theirs]
    gains = _UNPAIRED - _costs(distances, same, radii)
    kept = gains > 0
    if weak is not None:
        kept &= ~weak[theirs] | (same & (distances <= radii.near))
    return _best_pairs(ours[kept], theirs[kept], gains[kept], len(expected), len(found))


def _costs(distances: Floats, same: Bools, radii: Radii) -> Floats:
    in_place = distances <= radii.near
    inside = np.minimum((distances / radii.sigma) ** 2, _MOVED)
    moved = np.where(distances <= radii.reach, _MOVED + (_MOVED_FAR - _MOVED) * (distances / radii.reach) ** 2, np.inf)
    other = np.where(distances <= radii.other, _OTHER_CLASS + (distances / radii.other) ** 2, np.inf)
    return np.where(same, np.where(in_place, inside, moved), other)


def _best_pairs(ours: Ints, theirs: Ints, gains: Floats, parts: int, detections: int) -> tuple[Ints, Ints]:
    """The pairs with the greatest sum of gains, each number at most once."""
    # Parts that share no detection do not influence each other: many small problems instead of one large one.
    graph = coo_matrix((np.ones(len(ours)), (ours, theirs + parts)), shape=(parts + detections,) * 2)
    _, component = connected_components(graph, directed=False)
    order = np.argsort(component[ours], kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(component[ours][order])) + 1) if len(order) else []
    pairs: list[tuple[int, int]] = []
    for group in groups:
        if len(group) == 1:
            pairs.append((int(ours[group[0]]), int(theirs[group[0]])))
            continue
        rows, row = np.unique(ours[group], return_inverse=True)
        columns, column = np.unique(theirs[group], return_inverse=True)
        table = np.zeros((len(rows), len(columns)))
        table[row, column] = gains[group]
        for i, j in zip(*linear_sum_assignment(table, maximize=True), strict=True):
            if table[i, j] > 0:
                pairs.append((int(rows[i]), int(columns[j])))
    pairs.sort()
    chosen = np.array(pairs, np.int64).reshape(-1, 2)
    return chosen[:, 0], chosen[:, 1]
