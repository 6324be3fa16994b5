"""Which detections of an image are joined by an edge: by distance, overlap or triangulation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from phidet.core.errors import MissingExtraError
from phidet.core.structs import require, require_one_of
from phidet.detections.boxes import pairwise_iou, xyxy_to_cxcywh

EdgeKind = Literal["nearest", "overlap", "distance", "delaunay", "all"]
Edges = npt.NDArray[np.int64]
"""(2, E): source and target of each edge, sorted; both directions of every pair, no node with itself."""
_BLOCK = 1 << 22  # pairs that are looked at together, so that memory stays flat for thousands of boxes


class EdgeRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which pairs are joined.

    Attributes:
        kind: "nearest" joins each box to the ``neighbours`` others whose centres are nearest, and these to it;
            "overlap" boxes whose IoU is above ``iou``; "distance" boxes whose centres are at most ``distance`` pixels
            apart; "delaunay" the neighbours of the Delaunay triangulation of the centres; "all" every pair.
        neighbours, iou, distance: of these kinds.
    """

    kind: EdgeKind = "nearest"
    neighbours: int = 8
    iou: float = 0.0
    distance: float = 100.0

    def __post_init__(self) -> None:
        require_one_of("kind of edges", self.kind, EdgeKind)
        require(self.neighbours >= 1, f"neighbours must be a whole number ≥ 1, got {self.neighbours}")
        require(0 <= self.iou < 1, f"iou must be in 0…1, below 1, got {self.iou:g}")
        require(0 < self.distance < float("inf"), f"distance must be a number of pixels > 0, got {self.distance:g}")


def edges_between(boxes_xyxy: npt.NDArray[Any], rule: EdgeRule) -> Edges:
    """The edges of boxes (N, 4) in pixels, as ``rule`` says.

    Raises:
        MissingExtraError: a triangulation without SciPy.
    """
    boxes = np.asarray(boxes_xyxy, np.float64)
    count = len(boxes)
    if count < 2:
        return np.zeros((2, 0), np.int64)
    # Ties of equal distance are broken by position, so the order of nodes matters only for them.
    if rule.kind == "delaunay":
        pairs = [_delaunay(xyxy_to_cxcywh(boxes)[:, :2])]
    elif rule.kind == "all":
        pairs = [np.stack(np.nonzero(~np.eye(count, dtype=np.bool_)))]
    else:
        pairs = [_of_rows(boxes, rows, rule) for rows in _blocks(count)]
    return symmetric(np.concatenate(pairs, axis=1), count)


def symmetric(pairs: npt.NDArray[np.int64], count: int) -> Edges:
    """Pairs (2, P) of ``count`` nodes as edges: in both directions, each once, sorted, without loops."""
    source, target = pairs[:, pairs[0] != pairs[1]]
    codes = np.unique(np.concatenate((source * count + target, target * count + source)))
    return np.stack((codes // count, codes % count)).astype(np.int64)


def _blocks(count: int) -> Iterator[slice]:
    rows = max(1, _BLOCK // count)
    return (slice(start, start + rows) for start in range(0, count, rows))


def _of_rows(boxes: npt.NDArray[np.float64], rows: slice, rule: EdgeRule) -> npt.NDArray[np.int64]:
    """Pairs (2, P) of some of the boxes with any other."""
    numbers = np.arange(len(boxes))[rows]
    if rule.kind == "overlap":
        joined = pairwise_iou(boxes[rows], boxes) > rule.iou
    else:
        centres = xyxy_to_cxcywh(boxes)[:, :2]
        squares = ((centres[rows, None] - centres) ** 2).sum(axis=2)
        # No node is a neighbour of its own.
        squares[np.arange(len(numbers)), numbers] = np.inf
        if rule.kind == "nearest":
            near = min(rule.neighbours, len(boxes) - 1)
            targets = np.argpartition(squares, near - 1, axis=1)[:, :near]
            return np.stack((np.repeat(numbers, near), targets.ravel()))
        joined = squares <= rule.distance**2
    sources, targets = np.nonzero(joined)
    return np.stack((numbers[sources], targets))


def _delaunay(centres: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Pairs (2, P) of the triangulation; along their line for points that lie on one."""
    try:
        from scipy.spatial import Delaunay, QhullError  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise MissingExtraError("edges of a Delaunay triangulation", "relations") from error
    # Points of one line have no triangles: their triangulation joins each to the next one.
    along = np.lexsort((centres[:, 1], centres[:, 0]))
    line = np.stack((along[:-1], along[1:]))
    if len(centres) < 3:
        return line
    try:
        triangles = Delaunay(centres)
    except QhullError:
        return line
    corners = triangles.simplices
    sides = np.concatenate([corners[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))])
    # Of points at one place only one is a corner; the others are joined to it.
    return np.concatenate((sides, triangles.coplanar[:, [0, 2]])).T.astype(np.int64)
