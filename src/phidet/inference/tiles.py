"""Sliced inference: a large picture as overlapping tiles and as a whole, so that small objects are seen large.

Every box is known with the rectangle that its network saw. Two boxes are one object if they agree where both networks
looked: if their parts in the intersection of the two rectangles have at least the IoU of the suppression. So a person
cut by a tile's border is the one that the next tile, or the whole picture, shows whole, and two halves that no one saw
whole are joined; a child in front of an adult stays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from phidet.core.errors import ConfigError
from phidet.detections.boxes import area, elementwise_iou
from phidet.detections.detections import Detections
from phidet.detections.fields import join_fields, take_fields
from phidet.detections.protocol import SupportsDetect
from phidet.detections.settings import PostprocessSettings
from phidet.images.decode import Picture, as_pixels

OVERLAP = 0.25  # of a tile's side that its neighbour sees too, at least
SMALLEST = 64  # pixels
_NEAR_BORDER = 0.015  # of a tile's side: a box that ends so near to the border of a tile goes on behind it
_COVERED = 0.8  # of a part's area that lies in another box
_MOST_CELLS = 256  # of either direction of the grid that boxes are looked up in

Rect = tuple[int, int, int, int]  # x1, y1, x2, y2
Pixels = npt.NDArray[np.uint8]


class TileDetections(NamedTuple):
    """N boxes with what is known about them.

    Attributes:
        boxes_xyxy: (N, 4) float64 in pixels of the whole image.
        scores: (N,) float64.
        class_ids: (N,) int64.
        rects_xyxy: (N, 4) float64, the part of the image that the network saw.
        cut: (N,) bool, the box ends at a border of that part behind which the image goes on.
        rows: (N,) int64, which of all tiles' detections each is, in their order; its fields are those of that one.
    """

    boxes_xyxy: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    class_ids: npt.NDArray[np.int64]
    rects_xyxy: npt.NDArray[np.float64]
    cut: npt.NDArray[np.bool_]
    rows: npt.NDArray[np.int64]


def tile_rects(size_hw: tuple[int, int], tile: int, overlap: float = OVERLAP) -> list[Rect]:
    """Tiles of ``tile`` pixels a side (less where the image is smaller) that cover the image, evenly spread.

    Neighbours share at least ``overlap`` of a side.
    """
    rows, columns = (_starts(length, tile, overlap) for length in size_hw)
    height, width = size_hw
    return [(x, y, min(x + tile, width), min(y + tile, height)) for y in rows for x in columns]


def detect_tiled(
    detector: SupportsDetect, picture: Picture, tile: int, settings: PostprocessSettings | None = None, batch: int = 4
) -> Detections:
    """The objects in ``picture``, looked at as a whole and tile by tile; as a whole only where one tile holds it.

    Args:
        detector: a :class:`~phidet.inference.detector.Detector`.
        picture: a path, a PIL image, or (H, W, 3) uint8 RGB.
        tile: side of the tiles in pixels; with about the model's input size an object is as large for the model as
            in the image.
        settings: of each tile and of the whole; ``iou`` and ``per_class`` also say which boxes of different tiles are
            one object, ``max_detections`` how many come out.
        batch: how many tiles go through the network at once.

    Raises:
        ConfigError: tiles below 64 pixels, batches below 1, or no suppression: what two tiles saw has to become one.
        InputError: a picture that cannot be read, or an array of another kind.
    """
    settings = settings or PostprocessSettings()
    check_tile(tile, settings)
    if not (isinstance(batch, int | np.integer) and batch >= 1):
        raise ConfigError(f"expected a batch of at least 1 tile, got {batch!r}")
    image = as_pixels(picture)
    height, width = image.shape[:2]
    whole = detector.detect([image], settings)[0]
    if max(height, width) <= tile:
        return whole
    # So many tiles hold more objects than one picture may; the limit is for all of them together.
    each = msgspec.structs.replace(settings, max_detections=max(settings.max_detections, 100))
    rects = tile_rects((height, width), tile)
    found = [whole]
    seen = [_seen(whole, (0, 0, width, height), (height, width))]
    for start in range(0, len(rects), batch):
        group = rects[start : start + batch]
        parts = [np.ascontiguousarray(image[y1:y2, x1:x2]) for x1, y1, x2, y2 in group]
        tiles = detector.detect(parts, each)
        found += tiles
        seen += [_seen(f, rect, (height, width)) for f, rect in zip(tiles, group, strict=True)]
    merged = merge(_concatenate(seen), settings.iou, settings.per_class)
    fields = take_fields(join_fields([(one.fields, len(one)) for one in found]), merged.rows)
    boxes, scores = merged.boxes_xyxy.astype(np.float32), merged.scores.astype(np.float32)
    objects = Detections(boxes, scores, merged.class_ids, whole.names, (height, width), fields)
    return objects[: settings.max_detections]


def check_tile(tile: int, settings: PostprocessSettings) -> None:
    """Raises ConfigError unless tiles may have that side, and suppression can merge what they show."""
    if settings.nms == "none":
        raise ConfigError("tiles overlap, so what they see is merged: use hard or soft suppression, or no tiles")
    if not (isinstance(tile, int | np.integer) and tile >= SMALLEST):
        raise ConfigError(f"expected tiles of at least {SMALLEST} pixels, got {tile!r}")


def merge(seen: TileDetections, iou: float, per_class: bool = True) -> TileDetections:
    """Each object once: boxes seen whole stand before those that were cut, then the better scored; parts are joined.

    A part that lies in a box of its class is that object too: what is small enough to be seen whole by another tile
    is not lost with it.
    """
    while True:
        kept = _merged_once(seen, iou, per_class)
        if len(kept.scores) == len(seen.scores):
            return kept
        seen = kept  # a joined box may agree with one that neither part did


def _merged_once(seen: TileDetections, iou: float, per_class: bool) -> TileDetections:
    seen = _rows(seen, np.lexsort((-seen.scores, seen.cut)))
    places = _Places(seen)
    count = 0  # the first rows are kept, the others are still to be looked at
    for i in range(len(seen.scores)):
        one = _rows(seen, slice(i, i + 1))
        near = places.near(one)
        kept = _rows(seen, near)
        same = _same_object(one, kept, iou)
        if per_class:
            same &= kept.class_ids == one.class_ids
        if same.any():
            at = int(near[same.argmax()])
            _join(seen, at, one)
            places.put(at, seen.boxes_xyxy[at])
        else:
            for column in seen:
                column[count] = column[i]
            places.put(count, seen.boxes_xyxy[count])
            count += 1
    return _rows(seen, slice(0, count))


class _Places:
    """Where the kept boxes are: so that each box is compared with those near to it, and not with all."""

    def __init__(self, seen: TileDetections) -> None:
        sides = (seen.boxes_xyxy[:, 2:] - seen.boxes_xyxy[:, :2]).max(axis=1, initial=1.0)
        extent = float(seen.boxes_xyxy.max(initial=1.0))
        self._side = max(2 * float(np.median(sides)) if len(sides) else 1.0, extent / _MOST_CELLS)
        self._cells: dict[tuple[int, int], list[int]] = defaultdict(list)

    def put(self, row: int, box_xyxy: npt.NDArray[np.float64]) -> None:
        """Notes that the box of that row is there; it may have been smaller before."""
        for cell in self._of(box_xyxy):
            if row not in self._cells[cell][-1:]:
                self._cells[cell].append(row)

    def near(self, one: TileDetections) -> npt.NDArray[np.int64]:
        """Rows of boxes that may meet the one, also where either is larger by the slack, in rising order."""
        slack = _slack(one)[0]
        grown = one.boxes_xyxy[0] + np.concatenate([-slack, slack])
        rows = {row for cell in self._of(grown) for row in self._cells.get(cell, ())}
        return np.array(sorted(rows), np.int64)

    def _of(self, box_xyxy: npt.NDArray[np.float64]) -> Iterator[tuple[int, int]]:
        x1, y1, x2, y2 = (int(value // self._side) for value in box_xyxy)
        return product(range(x1, x2 + 1), range(y1, y2 + 1))


def _slack(one: TileDetections) -> npt.NDArray[np.float64]:
    """(1, 2) pixels by which boxes are inexact: a sliver is as thin."""
    return _NEAR_BORDER * (one.rects_xyxy[:, 2:] - one.rects_xyxy[:, :2])


def _rows(seen: TileDetections, rows: slice | npt.NDArray[np.int64]) -> TileDetections:
    columns: tuple[npt.NDArray[Any], ...] = seen
    return TileDetections(*(column[rows] for column in columns))


def _same_object(one: TileDetections, others: TileDetections, iou: float) -> npt.NDArray[np.bool_]:
    """(N,) whether the one box is the same object as each of N others."""
    both = _intersection(others.rects_xyxy, one.rects_xyxy)
    ious = elementwise_iou(_intersection(others.boxes_xyxy, both), _intersection(both, one.boxes_xyxy), "iou")
    slack = _slack(one)  # the other box counts as that much larger
    grown = others.boxes_xyxy + np.concatenate([-slack, slack], axis=1)
    inside = area(_intersection(grown, one.boxes_xyxy)) > _COVERED * area(one.boxes_xyxy)
    same: npt.NDArray[np.bool_] = (ious > iou) | (one.cut & inside)
    return same


def _join(kept: TileDetections, at: int, other: TileDetections) -> None:
    """What was seen whole stays as it is; two parts become the box about both. The better score counts."""
    if other.scores[0] > kept.scores[at]:
        kept.scores[at], kept.rows[at] = other.scores[0], other.rows[0]
    if kept.cut[at]:
        for ours, theirs in ((kept.boxes_xyxy, other.boxes_xyxy), (kept.rects_xyxy, other.rects_xyxy)):
            ours[at] = np.concatenate(
                [np.minimum(ours[at, :2], theirs[0, :2]), np.maximum(ours[at, 2:], theirs[0, 2:])]
            )


def _starts(length: int, tile: int, overlap: float) -> list[int]:
    if length <= tile:
        return [0]
    count = int(np.ceil((length - tile) / (tile * (1 - overlap)))) + 1
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def _seen(found: Detections, rect: Rect, size_hw: tuple[int, int]) -> TileDetections:
    """What was found in one tile, in pixels of the whole image."""
    x1, y1, x2, y2 = rect
    boxes = found.boxes_xyxy.astype(np.float64) + np.array([x1, y1, x1, y1])
    near_x, near_y = _NEAR_BORDER * (x2 - x1), _NEAR_BORDER * (y2 - y1)
    at_borders = [
        (x1 > 0) & (boxes[:, 0] < x1 + near_x),
        (y1 > 0) & (boxes[:, 1] < y1 + near_y),
        (x2 < size_hw[1]) & (boxes[:, 2] > x2 - near_x),
        (y2 < size_hw[0]) & (boxes[:, 3] > y2 - near_y),
    ]
    rects = np.tile(np.array(rect, np.float64), (len(found), 1))
    cut, rows = np.logical_or.reduce(at_borders), np.arange(len(found))
    return TileDetections(boxes, found.scores.astype(np.float64), found.class_ids, rects, cut, rows)


def _concatenate(parts: Sequence[TileDetections]) -> TileDetections:
    """All tiles' detections, numbered through."""
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return TileDetections(*columns)._replace(rows=np.arange(len(columns[0])))


def _intersection(a_xyxy: npt.NDArray[np.float64], b_xyxy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Intersections of rectangles; of those that do not meet, one without area."""
    corners = np.maximum(a_xyxy[..., :2], b_xyxy[..., :2])
    return np.concatenate([corners, np.maximum(corners, np.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:]))], axis=-1)
